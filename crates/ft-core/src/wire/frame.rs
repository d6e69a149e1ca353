//! The kinds of frame.

use ft_policies::{Key, RegisterState, ReplicaId, Who};

use super::bytes::{Reader, Writer};
use super::{HEADER, MAX_PAYLOAD, TAG, VERSION, WireError, records};
use crate::mutation::{Mutation, mutated};
use crate::record::LogRecord;
use crate::{Lsn, Nanos};

const MAGIC: [u8; 4] = *b"FTvm";
const HELLO: u8 = 1;
const LOG: u8 = 2;
const ACK: u8 = 3;
const HEARTBEAT: u8 = 4;
const REFUSAL: u8 = 5;
const COPY: u8 = 6;

/// In byte 7 of a header: a tag follows the payload.
const TAGGED: u8 = 1;
/// What is signed begins with what it is, so that it is never taken for something else that a key signs.
const SIGNED: &[u8] = b"ft-vm replicas 1\0";

/// Longest text of a refusal, in bytes.
const MAX_TEXT: usize = 512;

/// Who sends, and for what: a receiver drops what does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The pair.
    pub pair: u128,
    /// The generation in which the sender sends this.
    pub generation: u64,
    /// The session: one log connection in one generation. 0 where there is none yet.
    pub session: u64,
    /// Random number of the sender's process.
    pub incarnation: u64,
}

/// What a replica is, as it tells its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// It has no guest state: it may start the guest or become a backup.
    Waiting,
    /// It is live, and the guest has not run an instruction yet.
    Fresh,
    /// It is live, and its guest is running.
    Live,
    /// It follows, or is about to take over.
    Backup,
    /// It ends, and its disks are closed: nothing of it can reach a shared disk any more.
    Gone,
}

/// What a replica's own copies of separate disks are worth (for a pair that has such disks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copies {
    /// The generation in which any of them was last the live replica's; 0 is never. Stamps are made one after the other, each
    /// only when all may be.
    pub live: u64,
    /// The highest generation that any of them knows of.
    pub highest: u64,
    /// Every one of them was the live replica's in that generation.
    pub whole: bool,
    /// False if a copying into one of them was begun and not ended.
    pub usable: bool,
    /// Which of them this pair has ever used: where one is missing, another was put in its place.
    pub used: Used,
}

/// How many of a replica's copies its pair has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Used {
    /// None.
    #[default]
    None,
    /// Some, and not all.
    Some,
    /// All.
    All,
}

impl Copies {
    /// [`Copies::live`] of copies that nobody ever writes: any generation will do.
    pub const ANY: u64 = u64::MAX;
}

/// First frame of a connection, and again when what it says has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Sender. A `session` other than 0 offers it: the receiver becomes the backup of the sender.
    pub stamp: Stamp,
    /// Which replica the sender is.
    pub replica: ReplicaId,
    /// What it is now.
    pub role: PeerRole,
    /// Digest of everything in the config that both must share.
    pub config: u128,
    /// Digest of the guest's image.
    pub image: u128,
    /// What CPUID tells the guest, where that depends on the host.
    pub cpu: Vec<CpuLeaf>,
    /// LSN of the first record of the session offered.
    pub next: Lsn,
    /// Its copies of separate disks.
    pub copies: Copies,
    /// Its own generation register, where each side has one (the tie-breaker is a person) and it has been read.
    pub register: Option<RegisterState>,
    /// Of a sender with a key: by this it is known that it was not said on another connection.
    pub nonces: Option<Nonces>,
}

/// One leaf of what CPUID tells the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuLeaf {
    /// EAX before.
    pub leaf: u32,
    /// ECX before.
    pub subleaf: u32,
    /// EAX, EBX, ECX, EDX after.
    pub values: [u32; 4],
}

/// Most leaves that a hello has.
const MAX_CPU_LEAVES: usize = 64;

/// Numbers that are never met again, each one side's for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonces {
    /// The sender's.
    pub mine: u64,
    /// The receiver's, as the sender has heard it; 0 if it has not yet.
    pub yours: u64,
}

/// Records of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFrame {
    /// Sender.
    pub stamp: Stamp,
    /// All outputs whose markers are at or below this have been released.
    pub released: Lsn,
    /// The primary's clock when it sent this.
    pub sent: Nanos,
    /// Consecutive records; may be empty.
    pub records: Vec<LogRecord>,
}

/// What a backup has received and executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Sender.
    pub stamp: Stamp,
    /// Highest record received.
    pub received: Lsn,
    /// Highest record executed.
    pub executed: Lsn,
    /// Position of that record.
    pub position: u64,
    /// `sent` of the last frame that was wholly executed, and how long ago that was: the primary's own clock, for the lag.
    pub echo: Nanos,
    /// `sent` of the last frame that was received.
    pub heard: Nanos,
    /// The highest watermark heard: what the backup knows to be released.
    pub released: Lsn,
    /// Reads of shared disks that the backup runs itself, in the order in which the machine made them: this many, from the
    /// first of its life on, have their data.
    pub reads: u64,
    /// The operator asked the backup to stop the pair.
    pub stop: bool,
}

/// A sign of life, in a datagram of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Sender.
    pub stamp: Stamp,
    /// Which replica the sender is.
    pub replica: ReplicaId,
    /// What it is.
    pub role: PeerRole,
    /// Highest record executed (of the primary: appended).
    pub executed: Lsn,
    /// Position executed.
    pub position: u64,
}

/// A connection turned away, with the reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Sender.
    pub stamp: Stamp,
    /// True if the two can never be a pair (config, guest, version); false if they just cannot now.
    pub mismatch: bool,
    /// Why.
    pub reason: String,
}

/// A message of the exchange that makes the backup's copies of separate disks the same as the primary's, before the guest
/// runs. Opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Sender.
    pub stamp: Stamp,
    /// The message.
    pub message: Vec<u8>,
}

/// Any frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`LogFrame`].
    Log(LogFrame),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`Refusal`].
    Refusal(Refusal),
    /// See [`struct@Copy`].
    Copy(Copy),
}

impl Frame {
    /// The frame's bytes, header and all, in a pair without a key.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_with(None)
    }

    /// The frame's bytes, header and tag and all, in a pair with this key, if it has one.
    pub fn encode_with(&self, key: Option<&Key>) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(128));
        out.0.resize(HEADER, 0);
        let kind = self.encode_payload(&mut out);
        let mut bytes = out.0;
        let length = bytes.len() - HEADER;
        assert!(length <= MAX_PAYLOAD, "records are bounded so that a frame is");
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6] = kind;
        bytes[7] = if key.is_some() { TAGGED } else { 0 };
        bytes[8..12].copy_from_slice(&(length as u32).to_le_bytes());
        let content = checksum(&bytes[HEADER..]);
        bytes[16..HEADER].copy_from_slice(&content);
        let head = checksum(&bytes[..12]);
        bytes[12..16].copy_from_slice(&head);
        if let Some(key) = key {
            let tag = key.sign_short(&[SIGNED, &bytes]);
            bytes.extend_from_slice(&tag);
        }
        bytes
    }

    fn encode_payload(&self, out: &mut Writer) -> u8 {
        match self {
            Self::Hello(hello) => {
                put_stamp(out, &hello.stamp);
                out.byte(hello.replica as u8);
                out.byte(role_to_wire(hello.role));
                out.fixed128(hello.config);
                out.fixed128(hello.image);
                put_cpu(out, &hello.cpu);
                out.var(hello.next);
                let Copies { live, highest, whole, usable, used } = hello.copies;
                out.var(live);
                out.var(highest);
                out.byte(u8::from(whole) | u8::from(usable) << 1 | (used as u8) << 2);
                put_register(out, hello.register);
                if let Some(Nonces { mine, yours }) = hello.nonces {
                    out.fixed64(mine);
                    out.fixed64(yours);
                }
                HELLO
            }
            Self::Log(log) => {
                put_stamp(out, &log.stamp);
                out.var(log.released);
                out.var(log.sent);
                records::encode(out, &log.records);
                LOG
            }
            Self::Ack(ack) => {
                put_stamp(out, &ack.stamp);
                let Ack { received, executed, position, echo, heard, released, reads, .. } = *ack;
                for value in [received, executed, position, echo, heard, released, reads] {
                    out.var(value);
                }
                out.byte(u8::from(ack.stop));
                ACK
            }
            Self::Heartbeat(beat) => {
                put_stamp(out, &beat.stamp);
                out.byte(beat.replica as u8);
                out.byte(role_to_wire(beat.role));
                out.var(beat.executed);
                out.var(beat.position);
                HEARTBEAT
            }
            Self::Refusal(refusal) => {
                put_stamp(out, &refusal.stamp);
                out.byte(u8::from(refusal.mismatch));
                let mut end = refusal.reason.len().min(MAX_TEXT);
                while !refusal.reason.is_char_boundary(end) {
                    end -= 1;
                }
                out.string(&refusal.reason.as_bytes()[..end]);
                REFUSAL
            }
            Self::Copy(copy) => {
                put_stamp(out, &copy.stamp);
                out.string(&copy.message);
                COPY
            }
        }
    }

    /// The frame in a datagram, in a pair without a key.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Self::decode_with(bytes, None)
    }

    /// The frame in a datagram, in a pair with this key, if it has one.
    pub fn decode_with(bytes: &[u8], key: Option<&Key>) -> Result<Self, WireError> {
        match Self::split(bytes, key)? {
            Some((frame, used)) if used == bytes.len() => Ok(frame),
            Some(_) => Err(WireError::Malformed("bytes left over")),
            None => Err(WireError::Malformed("too short")),
        }
    }

    /// The first frame of `bytes` and its length, or `None` if it is not complete yet.
    pub(super) fn split(bytes: &[u8], key: Option<&Key>) -> Result<Option<(Self, usize)>, WireError> {
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            let known = bytes.len().min(4);
            return if bytes[..known] == MAGIC[..known] { Ok(None) } else { Err(WireError::Magic) };
        };
        if header[..4] != MAGIC {
            return Err(WireError::Magic);
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let ignored = mutated(Mutation::ChecksumIgnored);
        if header[12..16] != checksum(&header[..12]) && !ignored {
            return Err(WireError::Checksum);
        }
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if length as usize > MAX_PAYLOAD {
            return Err(WireError::TooLong(length));
        }
        // As early as can be: a stranger's payload is not waited for.
        match (key, header[7] & TAGGED) {
            (Some(_), 0) => return Err(WireError::Untagged),
            (None, TAGGED) => return Err(WireError::Tagged),
            _ => {}
        }
        let end = HEADER + length as usize;
        let used = end + if key.is_some() { TAG } else { 0 };
        let Some(all) = bytes.get(..used) else { return Ok(None) };
        let (whole, tag) = all.split_at(end);
        if header[16..] != checksum(&whole[HEADER..]) && !ignored {
            return Err(WireError::Checksum);
        }
        if header[7] & !TAGGED != 0 {
            return Err(WireError::Malformed("reserved byte"));
        }
        if let Some(key) = key
            && !tag.first_chunk().is_some_and(|tag| key.verify_short(&[SIGNED, whole], tag))
        {
            return Err(WireError::OtherKey);
        }
        Ok(Some((Self::decode_payload(header[6], &whole[HEADER..])?, used)))
    }

    fn decode_payload(kind: u8, payload: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader(payload);
        let stamp = get_stamp(&mut reader)?;
        let frame = match kind {
            HELLO => Self::Hello(Hello {
                stamp,
                replica: get_replica(&mut reader)?,
                role: get_role(&mut reader)?,
                config: reader.fixed128()?,
                image: reader.fixed128()?,
                cpu: get_cpu(&mut reader)?,
                next: reader.var()?,
                copies: get_copies(&mut reader)?,
                register: get_register(&mut reader)?,
                nonces: get_nonces(&mut reader)?,
            }),
            LOG => Self::Log(LogFrame {
                stamp,
                released: reader.var()?,
                sent: reader.var()?,
                records: records::decode(&mut reader)?,
            }),
            ACK => Self::Ack(Ack {
                stamp,
                received: reader.var()?,
                executed: reader.var()?,
                position: reader.var()?,
                echo: reader.var()?,
                heard: reader.var()?,
                released: reader.var()?,
                reads: reader.var()?,
                stop: reader.flag()?,
            }),
            HEARTBEAT => Self::Heartbeat(Heartbeat {
                stamp,
                replica: get_replica(&mut reader)?,
                role: get_role(&mut reader)?,
                executed: reader.var()?,
                position: reader.var()?,
            }),
            REFUSAL => {
                let mismatch = reader.flag()?;
                let text = reader.string()?;
                if text.len() > MAX_TEXT {
                    return Err(WireError::Malformed("text too long"));
                }
                let reason = std::str::from_utf8(text).map_err(|_| WireError::Malformed("text"))?.to_owned();
                Self::Refusal(Refusal { stamp, mismatch, reason })
            }
            COPY => Self::Copy(Copy { stamp, message: reader.string()?.to_vec() }),
            _ => return Err(WireError::Malformed("frame kind")),
        };
        reader.end()?;
        Ok(frame)
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}

fn put_stamp(out: &mut Writer, stamp: &Stamp) {
    out.fixed128(stamp.pair);
    out.var(stamp.generation);
    out.fixed64(stamp.session);
    out.fixed64(stamp.incarnation);
}

fn get_stamp(reader: &mut Reader<'_>) -> Result<Stamp, WireError> {
    Ok(Stamp {
        pair: reader.fixed128()?,
        generation: reader.var()?,
        session: reader.fixed64()?,
        incarnation: reader.fixed64()?,
    })
}

fn get_replica(reader: &mut Reader<'_>) -> Result<ReplicaId, WireError> {
    [ReplicaId::A, ReplicaId::B]
        .get(usize::from(reader.byte()?))
        .copied()
        .ok_or(WireError::Malformed("replica"))
}

fn get_copies(reader: &mut Reader<'_>) -> Result<Copies, WireError> {
    let (live, highest, flags) = (reader.var()?, reader.var()?, reader.byte()?);
    let used = [Used::None, Used::Some, Used::All].get(usize::from(flags >> 2)).copied();
    let used = used.ok_or(WireError::Malformed("copies"))?;
    Ok(Copies { live, highest, whole: flags & 1 != 0, usable: flags & 2 != 0, used })
}

fn put_cpu(out: &mut Writer, cpu: &[CpuLeaf]) {
    out.var(cpu.len() as u64);
    for CpuLeaf { leaf, subleaf, values } in cpu {
        for word in [leaf, subleaf].into_iter().chain(values) {
            out.var(u64::from(*word));
        }
    }
}

fn get_cpu(reader: &mut Reader<'_>) -> Result<Vec<CpuLeaf>, WireError> {
    let count = reader.length()?;
    if count > MAX_CPU_LEAVES {
        return Err(WireError::Malformed("too many leaves of CPUID"));
    }
    let mut word = || u32::try_from(reader.var()?).map_err(|_| WireError::Malformed("leaf of CPUID"));
    let mut leaf =
        || Ok(CpuLeaf { leaf: word()?, subleaf: word()?, values: [word()?, word()?, word()?, word()?] });
    (0..count).map(|_| leaf()).collect()
}

/// 0 is unknown, 1 a register that nobody has won, 2 one that somebody has.
fn put_register(out: &mut Writer, register: Option<RegisterState>) {
    match register {
        None => out.byte(0),
        Some(RegisterState { generation, holder: Some(who) }) => {
            out.byte(2);
            out.var(generation);
            out.byte(who.replica as u8);
            out.fixed64(who.incarnation);
            out.fixed128(who.config);
        }
        Some(RegisterState { holder: None, .. }) => out.byte(1),
    }
}

fn get_register(reader: &mut Reader<'_>) -> Result<Option<RegisterState>, WireError> {
    Ok(match reader.byte()? {
        0 => None,
        1 => Some(RegisterState { generation: 0, holder: None }),
        2 => {
            let generation = reader.var()?;
            if generation == 0 {
                return Err(WireError::Malformed("register"));
            }
            let replica = get_replica(reader)?;
            let (incarnation, config) = (reader.fixed64()?, reader.fixed128()?);
            Some(RegisterState { generation, holder: Some(Who { replica, incarnation, config }) })
        }
        _ => return Err(WireError::Malformed("register")),
    })
}

/// There are none in a pair without a key: a hello ends before them.
fn get_nonces(reader: &mut Reader<'_>) -> Result<Option<Nonces>, WireError> {
    if reader.0.is_empty() {
        return Ok(None);
    }
    Ok(Some(Nonces { mine: reader.fixed64()?, yours: reader.fixed64()? }))
}

fn role_to_wire(role: PeerRole) -> u8 {
    match role {
        PeerRole::Waiting => 0,
        PeerRole::Fresh => 1,
        PeerRole::Live => 2,
        PeerRole::Backup => 3,
        PeerRole::Gone => 4,
    }
}

fn get_role(reader: &mut Reader<'_>) -> Result<PeerRole, WireError> {
    [PeerRole::Waiting, PeerRole::Fresh, PeerRole::Live, PeerRole::Backup, PeerRole::Gone]
        .get(usize::from(reader.byte()?))
        .copied()
        .ok_or(WireError::Malformed("role"))
}
