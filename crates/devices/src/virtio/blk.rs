//! virtio-blk (virtio 1.2, section 5.2). A request is parsed at the notification, with its write data copied out, becomes an
//! output, and completes when the machine is told so. Requests that cannot be carried out fail at once.

use std::collections::VecDeque;

use ft_core::input::{DiskDone, DiskStatus};
use ft_core::output::{DiskOp, DiskRequest, MAX_DISK_DATA, OutputBody};
use ft_vcpu::GuestRam;
use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_blk::*;

use super::chain::{Buffer, Chain};
use super::{Broken, Context, Device};

const QUEUE: usize = 0;
const QUEUE_SIZES: &[u16] = &[256];
const SECTOR: u64 = 512;
const HEADER: u64 = 16;
/// Data segments of a request, and bytes of one. Their product is all that keeps a driver from longer requests than
/// [`MAX_DISK_DATA`], and with header and status they fit into a chain as long as the queue.
const SEG_MAX: u32 = 128;
const SIZE_MAX: u32 = 8192;
const _: () =
    assert!((SEG_MAX * SIZE_MAX) as usize == MAX_DISK_DATA && SEG_MAX as u16 + 2 <= QUEUE_SIZES[QUEUE]);
/// Bytes of the one segment of a discard or write-zeroes request.
const RANGE: u64 = 16;
/// Sectors of one such request. They count as data in flight, so more would let fewer run beside each other.
const MAX_RANGE_SECTORS: u32 = 16_384;
const _: () = assert!(MAX_RANGE_SECTORS as u64 * SECTOR <= MAX_BYTES / 4);

/// Requests in flight; more stay in the guest's ring until one is done.
pub const MAX_REQUESTS: usize = 256;
/// Bytes of the disk that requests in flight touch, beyond which no further one is taken from the ring. Discards count as much
/// as writes of the same sectors: what may have to be done again, or kept apart, when a replica dies is bounded by it.
pub const MAX_BYTES: u64 = 32 << 20;

/// A request in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Number of the request on this disk.
    pub request: u64,
    /// What was asked.
    pub op: DiskOp,
    /// Where the answer goes; `None` if the guest reset the device meanwhile. The request itself was made all the same.
    pub reply: Option<Reply>,
}

/// The device-writable part of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    head: u16,
    /// Data, then the status byte.
    writable: Buffer,
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blk {
    disk: u16,
    sectors: u64,
    read_only: bool,
    next_request: u64,
    pending: VecDeque<Pending>,
}

/// A completion that fits no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// No such request is in flight.
    #[error("no such request is in flight")]
    Unknown,
    /// The data are not what the request asked for.
    #[error("{got} bytes of data, {wanted} wanted")]
    Length {
        /// Bytes in the completion.
        got: usize,
        /// Bytes that the request asks for.
        wanted: usize,
    },
}

impl Blk {
    /// Disk `disk` of the config, `sectors` of 512 bytes long.
    pub fn new(disk: u16, sectors: u64, read_only: bool) -> Self {
        Self { disk, sectors, read_only, next_request: 0, pending: VecDeque::new() }
    }

    /// True if `other` is a state of a disk of the same shape.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.disk, self.sectors, self.read_only) == (other.disk, other.sectors, other.read_only)
            && other.pending.len() <= MAX_REQUESTS
    }

    /// Requests in flight, in the order of submission.
    pub fn pending(&self) -> impl Iterator<Item = DiskRequest> + '_ {
        self.pending.iter().map(|pending| DiskRequest {
            disk: self.disk,
            request: pending.request,
            op: pending.op.clone(),
        })
    }

    /// Takes the request that `done` completes out of those in flight.
    ///
    /// # Errors
    /// There is none such, or the data do not fit it. Nothing has changed then.
    pub fn take(&mut self, done: &DiskDone) -> Result<Pending, Mismatch> {
        let index = self.pending.iter().position(|pending| pending.request == done.request);
        let index = index.ok_or(Mismatch::Unknown)?;
        let wanted = match (&self.pending[index].op, done.status) {
            (DiskOp::Read { len, .. }, DiskStatus::Ok) => *len as usize,
            _ => 0,
        };
        if done.data.len() != wanted {
            return Err(Mismatch::Length { got: done.data.len(), wanted });
        }
        self.pending.remove(index).ok_or(Mismatch::Unknown)
    }

    /// Gives the answer of a request to the guest, then takes up requests that were held back.
    ///
    /// # Errors
    /// The ring makes no sense.
    pub fn complete(
        &mut self,
        pending: Pending,
        done: &DiskDone,
        context: &mut Context<'_>,
    ) -> Result<(), Broken> {
        if let Some(reply) = pending.reply {
            reply.writable.write(context.ram, 0, &done.data)?;
            let status = match done.status {
                DiskStatus::Ok => VIRTIO_BLK_S_OK,
                DiskStatus::IoError => VIRTIO_BLK_S_IOERR,
                DiskStatus::Unsupported => VIRTIO_BLK_S_UNSUPP,
            };
            reply.finish(context, done.data.len() as u32, status)?;
        }
        self.process(QUEUE, context)
    }

    fn bytes_in_flight(&self) -> u64 {
        let sectors = self.pending.iter().map(|pending| pending.op.sectors());
        sectors
            .map(|sectors| (sectors.end - sectors.start).saturating_mul(SECTOR))
            .fold(0, u64::saturating_add)
    }

    fn request(&mut self, chain: Chain, context: &mut Context<'_>) -> Result<(), Broken> {
        // Without a place for the status nothing can be answered.
        if chain.readable.len() < HEADER || chain.writable.is_empty() {
            return Err(Broken::Chain);
        }
        let header = chain.readable.read(context.ram, 0, HEADER)?;
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let mut sector = [0; 8];
        sector.copy_from_slice(&header[8..]);
        let sector = u64::from_le_bytes(sector);
        let out_len = chain.readable.len() - HEADER;
        let in_len = chain.writable.len() - 1;
        let reply = Reply { head: chain.head, writable: chain.writable };
        let op = match kind {
            VIRTIO_BLK_T_IN if self.is_inside(sector, in_len) => DiskOp::Read { sector, len: in_len as u32 },
            VIRTIO_BLK_T_OUT if !self.read_only && self.is_inside(sector, out_len) => {
                DiskOp::Write { sector, data: chain.readable.read(context.ram, HEADER, out_len)? }
            }
            VIRTIO_BLK_T_FLUSH => DiskOp::Flush,
            VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT => return reply.finish(context, 0, VIRTIO_BLK_S_IOERR),
            VIRTIO_BLK_T_GET_ID => return self.get_id(reply, context),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if !self.read_only => {
                let segments = chain.readable.read(context.ram, HEADER, RANGE)?;
                match self.range_op(kind, &segments, out_len) {
                    Ok(op) => op,
                    Err(status) => return reply.finish(context, 0, status),
                }
            }
            _ => return reply.finish(context, 0, VIRTIO_BLK_S_UNSUPP),
        };
        let request = self.next_request;
        self.next_request += 1;
        context.outputs.push(OutputBody::Disk(DiskRequest { disk: self.disk, request, op: op.clone() }));
        self.pending.push_back(Pending { request, op, reply: Some(reply) });
        Ok(())
    }

    /// What a discard or write-zeroes request with `len` bytes of segments asks for, or the status that refuses it.
    fn range_op(&self, kind: u32, segments: &[u8], len: u64) -> Result<DiskOp, u32> {
        if len > RANGE && len.is_multiple_of(RANGE) {
            return Err(VIRTIO_BLK_S_UNSUPP);
        }
        let segment: &[u8; RANGE as usize] = segments.try_into().map_err(|_| VIRTIO_BLK_S_IOERR)?;
        let segment = u128::from_le_bytes(*segment);
        let (sector, count, flags) = (segment as u64, (segment >> 64) as u32, (segment >> 96) as u32);
        let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        let op = match kind {
            _ if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 => return Err(VIRTIO_BLK_S_UNSUPP),
            // The flag is for write-zeroes alone (section 5.2.6.2).
            VIRTIO_BLK_T_DISCARD if unmap => return Err(VIRTIO_BLK_S_UNSUPP),
            VIRTIO_BLK_T_DISCARD => DiskOp::Discard { sector, count },
            _ => DiskOp::WriteZeroes { sector, count, unmap },
        };
        let inside = sector.checked_add(u64::from(count)).is_some_and(|end| end <= self.sectors);
        if len == RANGE && (1..=MAX_RANGE_SECTORS).contains(&count) && inside {
            Ok(op)
        } else {
            Err(VIRTIO_BLK_S_IOERR)
        }
    }

    fn get_id(&self, reply: Reply, context: &mut Context<'_>) -> Result<(), Broken> {
        let mut id = format!("ft-vm-disk-{}", self.disk).into_bytes();
        id.resize(VIRTIO_BLK_ID_BYTES as usize, 0);
        id.truncate((reply.writable.len() - 1).min(u64::from(VIRTIO_BLK_ID_BYTES)) as usize);
        let written = reply.writable.write(context.ram, 0, &id)?;
        reply.finish(context, written, VIRTIO_BLK_S_OK)
    }

    fn is_inside(&self, sector: u64, len: u64) -> bool {
        len > 0
            && len <= MAX_DISK_DATA as u64
            && len.is_multiple_of(SECTOR)
            && sector.checked_add(len / SECTOR).is_some_and(|end| end <= self.sectors)
    }
}

impl Reply {
    /// Writes the status, which is the last byte, and gives the chain back.
    fn finish(&self, context: &mut Context<'_>, data: u32, status: u32) -> Result<(), Broken> {
        self.writable.write(context.ram, self.writable.len() - 1, &[status as u8])?;
        context.add_used(QUEUE, self.head, data + 1)
    }
}

impl Device for Blk {
    fn id(&self) -> u32 {
        super::DEVICE_BLOCK
    }

    fn features(&self) -> u64 {
        let common = 1 << VIRTIO_BLK_F_SIZE_MAX | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_FLUSH;
        if self.read_only {
            common | 1 << VIRTIO_BLK_F_RO
        } else {
            common | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        let mut config = self.sectors.to_le_bytes().to_vec();
        config.extend(SIZE_MAX.to_le_bytes());
        config.extend(SEG_MAX.to_le_bytes());
        // Geometry, block size, topology, write-back, number of queues: features that are not offered.
        config.extend([0; 20]);
        if !self.read_only {
            // For each of the two: sectors and segments of a request; between them the alignment of a discard, at the end that
            // write-zeroes may give blocks back.
            for field in [MAX_RANGE_SECTORS, 1, 1, MAX_RANGE_SECTORS, 1, 1] {
                config.extend(field.to_le_bytes());
            }
        }
        config
    }

    fn process(&mut self, _queue: usize, context: &mut Context<'_>) -> Result<(), Broken> {
        // Requests that fail at once do not count as in flight, so the ring's size bounds the loop, not the bound on requests.
        let mut bytes = self.bytes_in_flight();
        for _ in 0..QUEUE_SIZES[QUEUE] {
            if self.pending.len() >= MAX_REQUESTS || bytes >= MAX_BYTES {
                return Ok(());
            }
            let Some(chain) = context.pop(QUEUE)? else { return Ok(()) };
            let before = self.pending.len();
            self.request(chain, context)?;
            if self.pending.len() > before {
                bytes = self.bytes_in_flight();
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.pending.iter_mut().for_each(|pending| pending.reply = None);
    }
}

/// True if every buffer of the requests in flight lies in RAM, for states that come from elsewhere.
pub(crate) fn is_in_ram(blk: &Blk, ram: &GuestRam) -> bool {
    blk.pending.iter().filter_map(|pending| pending.reply.as_ref()).all(|reply| {
        !reply.writable.is_empty()
            && reply
                .writable
                .0
                .iter()
                .all(|piece| super::chain::in_ram(ram, piece.address, u64::from(piece.len)))
    })
}
