//! virtio-net (virtio 1.2, section 5.1): one pair of queues, no offloads, no merged buffers.

use std::collections::VecDeque;

use ft_core::output::OutputBody;
use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_net::VIRTIO_NET_F_MAC;

use super::{Broken, Context, Device};

const RX: usize = 0;
const TX: usize = 1;
const QUEUE_SIZES: &[u16] = &[256, 256];
/// virtio_net_hdr as of VERSION_1, with `num_buffers`.
const HEADER: usize = 12;
/// Ethernet header.
const MIN_FRAME: usize = 14;
/// Longest frame, either way: a jumbo frame with a VLAN tag. Longer ones are dropped.
pub const MAX_FRAME: usize = 9018;
/// Received frames that wait for a buffer; more are dropped.
pub const MAX_BACKLOG: usize = 512;

/// A network device. The whole of it is state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    nic: u16,
    mac: [u8; 6],
    backlog: VecDeque<Vec<u8>>,
    rx_dropped: u64,
    tx_dropped: u64,
}

impl Net {
    /// Device `nic` of the config.
    pub fn new(nic: u16, mac: [u8; 6]) -> Self {
        Self { nic, mac, backlog: VecDeque::new(), rx_dropped: 0, tx_dropped: 0 }
    }

    /// True if `other` is a state of the same device.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.nic, self.mac) == (other.nic, other.mac)
            && other.backlog.len() <= MAX_BACKLOG
            && other.backlog.iter().all(|frame| frame.len() <= MAX_FRAME)
    }

    /// Frames came in. Those for which there is neither a buffer nor room to wait are dropped, as are all while the driver is
    /// not up.
    ///
    /// # Errors
    /// The ring makes no sense.
    pub fn receive(&mut self, frames: &[Vec<u8>], context: &mut Context<'_>) -> Result<(), Broken> {
        for frame in frames {
            if frame.len() < MIN_FRAME || frame.len() > MAX_FRAME {
                self.rx_dropped += 1;
                continue;
            }
            if self.backlog.len() >= MAX_BACKLOG {
                self.fill(context)?;
            }
            if self.backlog.len() >= MAX_BACKLOG {
                self.rx_dropped += 1;
                continue;
            }
            self.backlog.push_back(frame.clone());
        }
        self.fill(context)
    }

    /// Counts frames that came while nobody could take them.
    pub fn drop_received(&mut self, frames: usize) {
        self.rx_dropped += frames as u64;
    }

    fn fill(&mut self, context: &mut Context<'_>) -> Result<(), Broken> {
        while let Some(frame) = self.backlog.front() {
            let Some(chain) = context.pop(RX)? else { return Ok(()) };
            if chain.writable.len() < (HEADER + frame.len()) as u64 {
                // Without merged buffers the driver has to offer room for any frame; this one it cannot have.
                context.rings[RX].undo_pop();
                self.backlog.pop_front();
                self.rx_dropped += 1;
                continue;
            }
            // The header is zero but for num_buffers = 1 (section 5.1.6.4).
            let mut bytes = vec![0; HEADER];
            bytes[10] = 1;
            bytes.extend(frame);
            chain.writable.write(context.ram, 0, &bytes)?;
            context.add_used(RX, chain.head, bytes.len() as u32)?;
            self.backlog.pop_front();
        }
        Ok(())
    }

    fn transmit(&mut self, context: &mut Context<'_>) -> Result<(), Broken> {
        let mut frames = Vec::new();
        let result = self.collect(&mut frames, context);
        // Frames before the one that broke the ring were sent.
        if !frames.is_empty() {
            context.outputs.push(OutputBody::NetTx { nic: self.nic, frames });
        }
        result
    }

    fn collect(&mut self, frames: &mut Vec<Vec<u8>>, context: &mut Context<'_>) -> Result<(), Broken> {
        for _ in 0..QUEUE_SIZES[TX] {
            let Some(chain) = context.pop(TX)? else { return Ok(()) };
            let len = chain.readable.len();
            if (HEADER + MIN_FRAME) as u64 <= len && len <= (HEADER + MAX_FRAME) as u64 {
                frames.push(chain.readable.read(context.ram, HEADER as u64, len)?);
            } else {
                self.tx_dropped += 1;
            }
            context.add_used(TX, chain.head, 0)?;
        }
        Ok(())
    }
}

impl Device for Net {
    fn id(&self) -> u32 {
        super::DEVICE_NET
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        self.mac.to_vec()
    }

    fn process(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Broken> {
        if queue == TX { self.transmit(context) } else { self.fill(context) }
    }

    fn reset(&mut self) {
        self.rx_dropped += self.backlog.len() as u64;
        self.backlog.clear();
    }
}
