//! Records on the wire: LSNs are implied, positions and clock anchors are differences to the record before.

use super::WireError;
use super::bytes::{Reader, Writer};
use crate::input::{Anchor, DiskDone, DiskStatus, Input, NetRx};
use crate::record::{Body, LogRecord, OutputClass};

const PROGRESS: u8 = 0;
const ANCHOR: u8 = 1;
const DISK_DONE: u8 = 2;
const NET_RX: u8 = 3;
const CONSOLE: u8 = 4;
const ENTROPY: u8 = 5;
const POWER_BUTTON: u8 = 6;
const OUTPUT: u8 = 7;
const DIGEST: u8 = 8;
const ARMED: u8 = 9;
const STOP: u8 = 10;
const OWN_READ: u8 = 11;
const DATE: u8 = 12;

/// Appends first LSN, first position, number and records. They must be consecutive.
pub(super) fn encode(out: &mut Writer, records: &[LogRecord]) {
    out.var(records.len() as u64);
    let Some(first) = records.first() else { return };
    out.var(first.lsn);
    out.var(first.position);
    let mut position = first.position;
    let mut anchor = Anchor { time: 0, rate: 0 };
    for (index, record) in records.iter().enumerate() {
        debug_assert_eq!(record.lsn, first.lsn + index as u64);
        encode_one(out, record, position, &mut anchor);
        position = record.position;
    }
}

fn encode_one(out: &mut Writer, record: &LogRecord, before: u64, last: &mut Anchor) {
    let head = |out: &mut Writer, tag| {
        out.byte(tag);
        out.var(record.position - before);
    };
    match &record.body {
        Body::Progress => head(out, PROGRESS),
        Body::Armed => head(out, ARMED),
        Body::Stop => head(out, STOP),
        Body::Output { class, digest } => {
            head(out, OUTPUT);
            out.byte(*class as u8);
            out.fixed64(*digest);
        }
        Body::Digest(bytes) => {
            head(out, DIGEST);
            out.string(bytes);
        }
        Body::OwnRead { disk, request, digest } => {
            head(out, OWN_READ);
            out.var(u64::from(*disk));
            out.var(*request);
            out.var(u64::from(*digest));
        }
        Body::Input(Input::Anchor(anchor)) => {
            head(out, ANCHOR);
            out.difference(last.time, anchor.time);
            out.difference(last.rate, anchor.rate);
            *last = *anchor;
        }
        Body::Input(Input::DiskDone(done)) => {
            head(out, DISK_DONE);
            out.var(u64::from(done.disk));
            out.var(done.request);
            out.byte(match done.status {
                DiskStatus::Ok => 0,
                DiskStatus::IoError => 1,
                DiskStatus::Unsupported => 2,
            });
            out.string(&done.data);
        }
        Body::Input(Input::NetRx(batch)) => {
            head(out, NET_RX);
            out.var(u64::from(batch.nic));
            out.var(batch.switch_seq);
            out.var(batch.frames.len() as u64);
            for frame in &batch.frames {
                out.string(frame);
            }
        }
        Body::Input(Input::Console(bytes)) => {
            head(out, CONSOLE);
            out.string(bytes);
        }
        Body::Input(Input::Entropy { request, bytes }) => {
            head(out, ENTROPY);
            out.var(*request);
            out.string(bytes);
        }
        Body::Input(Input::PowerButton) => head(out, POWER_BUTTON),
        Body::Input(Input::Date(seconds)) => {
            head(out, DATE);
            out.var(*seconds);
        }
    }
}

/// Takes what [`encode`] wrote.
pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Vec<LogRecord>, WireError> {
    // A record takes two bytes at least. A count is only a claim: room for more is made as records are found.
    let count = reader.length()?;
    let mut records = Vec::with_capacity(count.min(reader.0.len() / 2).min(1024));
    if count == 0 {
        return Ok(records);
    }
    let mut lsn = reader.var()?;
    let mut position = reader.var()?;
    let mut anchor = Anchor { time: 0, rate: 0 };
    for index in 0..count {
        if index > 0 {
            lsn = lsn.checked_add(1).ok_or(WireError::Malformed("lsn"))?;
        }
        let tag = reader.byte()?;
        position = position.checked_add(reader.var()?).ok_or(WireError::Malformed("position"))?;
        records.push(LogRecord { lsn, position, body: decode_body(reader, tag, &mut anchor)? });
    }
    Ok(records)
}

fn decode_body(reader: &mut Reader<'_>, tag: u8, last: &mut Anchor) -> Result<Body, WireError> {
    Ok(match tag {
        PROGRESS => Body::Progress,
        ARMED => Body::Armed,
        STOP => Body::Stop,
        OUTPUT => {
            let class = OutputClass::from_wire(reader.byte()?).ok_or(WireError::Malformed("output class"))?;
            Body::Output { class, digest: reader.fixed64()? }
        }
        OWN_READ => Body::OwnRead {
            disk: small(reader)?,
            request: reader.var()?,
            digest: u32::try_from(reader.var()?).map_err(|_| WireError::Malformed("digest of a read"))?,
        },
        DIGEST => Body::Digest(reader.string()?.to_vec()),
        ANCHOR => {
            let (time, rate) = (reader.difference(last.time)?, reader.difference(last.rate)?);
            *last = Anchor { time, rate };
            Body::Input(Input::Anchor(*last))
        }
        DISK_DONE => Body::Input(Input::DiskDone(DiskDone {
            disk: small(reader)?,
            request: reader.var()?,
            status: match reader.byte()? {
                0 => DiskStatus::Ok,
                1 => DiskStatus::IoError,
                2 => DiskStatus::Unsupported,
                _ => return Err(WireError::Malformed("disk status")),
            },
            data: reader.string()?.to_vec(),
        })),
        NET_RX => {
            let (nic, switch_seq) = (small(reader)?, reader.var()?);
            let count = reader.length()?;
            let mut frames = Vec::new();
            for _ in 0..count {
                frames.push(reader.string()?.to_vec());
            }
            Body::Input(Input::NetRx(NetRx { nic, switch_seq, frames }))
        }
        CONSOLE => Body::Input(Input::Console(reader.string()?.to_vec())),
        ENTROPY => Body::Input(Input::Entropy { request: reader.var()?, bytes: reader.string()?.to_vec() }),
        POWER_BUTTON => Body::Input(Input::PowerButton),
        DATE => Body::Input(Input::Date(reader.var()?)),
        _ => return Err(WireError::Malformed("record kind")),
    })
}

fn small(reader: &mut Reader<'_>) -> Result<u16, WireError> {
    u16::try_from(reader.var()?).map_err(|_| WireError::Malformed("device number"))
}
