//! What source and target say to each other. Any bytes decode to a message or to an error, within bounds.

use super::super::stamp::CopyState;
use super::BLOCK;

/// Most bytes of an encoded message.
pub const MAX_MESSAGE: usize = (1 << 20) + (64 << 10);
/// Most digests in one message.
pub const MAX_DIGESTS: usize = 512;
/// Most blocks in one message, and most of those with data.
pub const MAX_BLOCKS: usize = 512;
pub(super) const MAX_FULL_BLOCKS: usize = 16;
/// Most bytes of a reason; a longer one is cut.
const MAX_REASON: usize = 4000;
// A block takes its number and length, and 64 bytes are more than all that is before the blocks.
const _: () = assert!(64 + MAX_BLOCKS * 12 + MAX_FULL_BLOCKS * BLOCK as usize <= MAX_MESSAGE);

/// Where the content of a copy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Its file was created just now.
    New,
    /// It was there, without a stamp of this pair.
    Existing,
    /// It has a stamp of this pair.
    Stamped {
        /// What the copy is good for.
        state: CopyState,
        /// The generation of the stamp.
        generation: u64,
        /// Generation and position of the stop in order after which nobody has changed it.
        clean: Option<(u64, u64)>,
    },
}

/// A block of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Which, counted in blocks of [`BLOCK`] bytes.
    pub index: u64,
    /// What it holds; empty if that is zeroes.
    pub data: Vec<u8>,
}

/// A message of the target (`Offer`, `Digests`, `Done`) or of the source (all others, and `Done`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyMessage {
    /// What the target has.
    Offer {
        /// Index of the disk in the config.
        disk: u16,
        /// Its bytes.
        len: u64,
        /// Where they come from.
        origin: Origin,
    },
    /// The offered copy will do.
    Accepted {
        /// Index of the disk.
        disk: u16,
        /// The target is to send digests; otherwise the copy is known to be the same.
        compare: bool,
    },
    /// The target cannot be made a backup, and why, in words for the operator.
    Refused {
        /// The reason.
        reason: String,
    },
    /// What the target's blocks hold.
    Digests {
        /// Index of the disk.
        disk: u16,
        /// The first of the blocks.
        first: u64,
        /// A digest for each.
        digests: Vec<u128>,
    },
    /// Blocks that the target is to write: with them, all before `end` are the same.
    Blocks {
        /// Index of the disk.
        disk: u16,
        /// How far the two have been compared.
        end: u64,
        /// The blocks that differ, in order.
        blocks: Vec<Block>,
    },
    /// From the source: all disks are the same. From the target: and durable.
    Done,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Bytes are missing.
    #[error("a message about disks is cut off")]
    Short,
    /// There are more bytes than the message has, or may have.
    #[error("a message about disks is too long")]
    Long,
    /// A field has a value that it must not have.
    #[error("a message about disks has a bad {0}")]
    Field(&'static str),
}

impl CopyMessage {
    /// As bytes, at most [`MAX_MESSAGE`] for a message with no more digests and blocks than the bounds say.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Offer { disk, len, origin } => {
                bytes.push(0);
                bytes.extend(disk.to_le_bytes());
                bytes.extend(len.to_le_bytes());
                origin.encode(&mut bytes);
            }
            Self::Accepted { disk, compare } => {
                bytes.push(1);
                bytes.extend(disk.to_le_bytes());
                bytes.push(u8::from(*compare));
            }
            Self::Refused { reason } => {
                bytes.push(2);
                bytes.extend(&reason.as_bytes()[..reason.floor_char_boundary(MAX_REASON)]);
            }
            Self::Digests { disk, first, digests } => {
                bytes.push(3);
                bytes.extend(disk.to_le_bytes());
                bytes.extend(first.to_le_bytes());
                bytes.extend(digests.iter().flat_map(|digest| digest.to_le_bytes()));
            }
            Self::Blocks { disk, end, blocks } => {
                bytes.push(4);
                bytes.extend(disk.to_le_bytes());
                bytes.extend(end.to_le_bytes());
                for block in blocks {
                    bytes.extend(block.index.to_le_bytes());
                    bytes.extend((block.data.len() as u32).to_le_bytes());
                    bytes.extend(&block.data);
                }
            }
            Self::Done => bytes.push(5),
        }
        bytes
    }

    /// The message that `bytes` are.
    ///
    /// # Errors
    /// They are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadMessage> {
        if bytes.len() > MAX_MESSAGE {
            return Err(BadMessage::Long);
        }
        let mut reader = Reader(bytes);
        let message = match reader.byte()? {
            0 => Self::Offer {
                disk: reader.half()?,
                len: reader.double()?,
                origin: Origin::decode(&mut reader)?,
            },
            1 => Self::Accepted { disk: reader.half()?, compare: reader.flag("answer")? },
            2 => {
                let reason = reader.take(reader.0.len())?;
                if reason.len() > MAX_REASON {
                    return Err(BadMessage::Long);
                }
                let reason = std::str::from_utf8(reason).map_err(|_| BadMessage::Field("reason"))?;
                Self::Refused { reason: reason.to_owned() }
            }
            3 => {
                let (disk, first) = (reader.half()?, reader.double()?);
                let (digests, rest) = reader.0.as_chunks();
                if digests.is_empty() || digests.len() > MAX_DIGESTS || !rest.is_empty() {
                    return Err(BadMessage::Field("number of digests"));
                }
                reader.0 = rest;
                Self::Digests {
                    disk,
                    first,
                    digests: digests.iter().copied().map(u128::from_le_bytes).collect(),
                }
            }
            4 => {
                let (disk, end) = (reader.half()?, reader.double()?);
                let mut blocks = Vec::new();
                while !reader.0.is_empty() {
                    if blocks.len() == MAX_BLOCKS {
                        return Err(BadMessage::Field("number of blocks"));
                    }
                    let (index, len) = (reader.double()?, reader.word()?);
                    if u64::from(len) > BLOCK {
                        return Err(BadMessage::Field("length of a block"));
                    }
                    blocks.push(Block { index, data: reader.take(len as usize)?.to_vec() });
                }
                Self::Blocks { disk, end, blocks }
            }
            5 => Self::Done,
            _ => return Err(BadMessage::Field("kind")),
        };
        if reader.0.is_empty() { Ok(message) } else { Err(BadMessage::Long) }
    }
}

impl Origin {
    fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::New => bytes.push(0),
            Self::Existing => bytes.push(1),
            Self::Stamped { state, generation, clean } => {
                bytes.push(2);
                bytes.push(match state {
                    CopyState::New => 0,
                    CopyState::Live => 1,
                    CopyState::Backup => 2,
                    CopyState::Incomplete => 3,
                });
                bytes.extend(generation.to_le_bytes());
                bytes.push(u8::from(clean.is_some()));
                if let Some((generation, position)) = clean {
                    bytes.extend(generation.to_le_bytes());
                    bytes.extend(position.to_le_bytes());
                }
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, BadMessage> {
        Ok(match reader.byte()? {
            0 => Self::New,
            1 => Self::Existing,
            2 => {
                let state = match reader.byte()? {
                    0 => CopyState::New,
                    1 => CopyState::Live,
                    2 => CopyState::Backup,
                    3 => CopyState::Incomplete,
                    _ => return Err(BadMessage::Field("state")),
                };
                let generation = reader.double()?;
                let clean =
                    if reader.flag("stop")? { Some((reader.double()?, reader.double()?)) } else { None };
                Self::Stamped { state, generation, clean }
            }
            _ => return Err(BadMessage::Field("origin")),
        })
    }
}

/// Takes fields off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadMessage> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(BadMessage::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(BadMessage::Short)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn byte(&mut self) -> Result<u8, BadMessage> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, BadMessage> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadMessage::Field(what)),
        }
    }

    fn half(&mut self) -> Result<u16, BadMessage> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn word(&mut self) -> Result<u32, BadMessage> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn double(&mut self) -> Result<u64, BadMessage> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origins() -> impl Strategy<Value = Origin> {
        let state = prop::sample::select(vec![
            CopyState::New,
            CopyState::Live,
            CopyState::Backup,
            CopyState::Incomplete,
        ]);
        prop_oneof![
            Just(Origin::New),
            Just(Origin::Existing),
            (state, any::<u64>(), any::<Option<(u64, u64)>>())
                .prop_map(|(state, generation, clean)| Origin::Stamped { state, generation, clean }),
        ]
    }

    fn messages() -> impl Strategy<Value = CopyMessage> {
        let block = (any::<u64>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(index, data)| Block { index, data });
        prop_oneof![
            (any::<u16>(), any::<u64>(), origins()).prop_map(|(disk, len, origin)| CopyMessage::Offer {
                disk,
                len,
                origin
            }),
            (any::<u16>(), any::<bool>()).prop_map(|(disk, compare)| CopyMessage::Accepted { disk, compare }),
            any::<String>().prop_map(|reason| CopyMessage::Refused { reason }),
            (any::<u16>(), any::<u64>(), prop::collection::vec(any::<u128>(), 1..20))
                .prop_map(|(disk, first, digests)| CopyMessage::Digests { disk, first, digests }),
            (any::<u16>(), any::<u64>(), prop::collection::vec(block, 0..5))
                .prop_map(|(disk, end, blocks)| CopyMessage::Blocks { disk, end, blocks }),
            Just(CopyMessage::Done),
        ]
    }

    proptest! {
        #[test]
        fn a_message_survives_and_a_part_of_one_is_another_or_none(message in messages(), cut: prop::sample::Index) {
            let bytes = message.encode();
            prop_assert_eq!(CopyMessage::decode(&bytes), Ok(message));
            let cut = &bytes[..cut.index(bytes.len())];
            if let Ok(other) = CopyMessage::decode(cut) {
                prop_assert_eq!(other.encode(), cut);
            }
        }

        #[test]
        fn any_bytes_are_judged(mut bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0..8_u8) {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Ok(message) = CopyMessage::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_largest_messages_fit_and_larger_ones_are_refused() {
        let block = |index, len| Block { index, data: vec![1; len] };
        let mut blocks: Vec<Block> = (0..16).map(|index| block(index, BLOCK as usize)).collect();
        blocks.extend((16..MAX_BLOCKS as u64).map(|index| block(index, 0)));
        let message = CopyMessage::Blocks { disk: 0, end: 999, blocks: blocks.clone() };
        assert!(message.encode().len() <= MAX_MESSAGE);
        assert_eq!(CopyMessage::decode(&message.encode()), Ok(message));
        blocks.push(block(999, 0));
        let message = CopyMessage::Blocks { disk: 0, end: 999, blocks };
        assert_eq!(CopyMessage::decode(&message.encode()), Err(BadMessage::Field("number of blocks")));
        let message = CopyMessage::Blocks { disk: 0, end: 1, blocks: vec![block(0, BLOCK as usize + 1)] };
        assert_eq!(CopyMessage::decode(&message.encode()), Err(BadMessage::Field("length of a block")));
        let message = CopyMessage::Digests { disk: 0, first: 0, digests: vec![0; MAX_DIGESTS + 1] };
        assert_eq!(CopyMessage::decode(&message.encode()), Err(BadMessage::Field("number of digests")));
        assert_eq!(CopyMessage::decode(&vec![5; MAX_MESSAGE + 1]), Err(BadMessage::Long));
        let message = CopyMessage::Refused { reason: "ä".repeat(4000) };
        let expected = CopyMessage::Refused { reason: "ä".repeat(2000) };
        assert_eq!(CopyMessage::decode(&message.encode()), Ok(expected));
    }
}
