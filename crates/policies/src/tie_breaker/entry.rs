//! One generation entry: a small text file, so that a person can read who won.
//!
//! It is read strictly: an entry is what [`Entry::render`] would have written, byte for byte, or it is damaged.

use std::path::Path;

use super::durable::{self, Content};
use super::{Pair, Unavailable, Who};

/// More than an entry can have.
const MAX_LEN: usize = 512;
const FORMAT: &str = "ft-vm generation 2";

/// Who won one generation of one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pair: Pair,
    pub(crate) generation: u64,
    pub(crate) who: Who,
}

impl Entry {
    /// The entry of `pair` in a file, where there is one. `follow`: a symbolic link may lead to it.
    pub(super) fn read(path: &Path, pair: &Pair, follow: bool) -> Result<Option<Self>, Unavailable> {
        let entry = match durable::read(path, MAX_LEN as u64, follow)? {
            Content::Missing => return Ok(None),
            Content::NoFile(reason) => Err(reason.to_owned()),
            Content::Bytes(bytes) => Self::parse(&bytes),
        };
        let entry = entry.map_err(|reason| Unavailable::Corrupt { path: path.to_owned(), reason })?;
        if entry.pair.id != pair.id {
            let (theirs, ours) = (entry.pair.name, pair.name.clone());
            return Err(Unavailable::ForeignPair { path: path.to_owned(), theirs, ours });
        }
        Ok(Some(entry))
    }

    pub(crate) fn render(&self) -> String {
        let body = format!(
            "{FORMAT}\npair = {:032x}\nname = {}\ngeneration = {}\nreplica = {}\nincarnation = {:016x}\nconfig = {:032x}\n",
            self.pair.id,
            self.pair.name,
            self.generation,
            self.who.replica,
            self.who.incarnation,
            self.who.config
        );
        let crc = crc32fast::hash(body.as_bytes());
        format!("{body}crc = {crc:08x}\n")
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("it is empty".into());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
        let mut lines = text.lines();
        match lines.next() {
            Some(FORMAT) => {}
            Some(other) if other.starts_with("ft-vm generation ") => {
                return Err("another version of ft-vm wrote it".into());
            }
            _ => return Err("it does not begin as one".into()),
        }
        let mut field = |name: &str| {
            let value = lines
                .next()
                .and_then(|line| line.strip_prefix(name))
                .and_then(|rest| rest.strip_prefix(" = "));
            value.ok_or_else(|| format!("`{name}` is missing"))
        };
        let unreadable = |name: &str| format!("`{name}` is unreadable");
        let entry = Self {
            pair: Pair {
                id: u128::from_str_radix(field("pair")?, 16).map_err(|_| unreadable("pair"))?,
                name: field("name")?.to_owned(),
            },
            generation: field("generation")?.parse().map_err(|_| unreadable("generation"))?,
            who: Who {
                replica: field("replica")?.parse().map_err(|_| unreadable("replica"))?,
                incarnation: u64::from_str_radix(field("incarnation")?, 16)
                    .map_err(|_| unreadable("incarnation"))?,
                config: u128::from_str_radix(field("config")?, 16).map_err(|_| unreadable("config"))?,
            },
        };
        if entry.render().as_bytes() == bytes { Ok(entry) } else { Err("its checksum is wrong".into()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::ReplicaId;

    fn example() -> Entry {
        let who = Who { replica: ReplicaId::B, incarnation: 9, config: 5 };
        Entry { pair: Pair { id: 7, name: "kv".to_owned() }, generation: 3, who }
    }

    proptest! {
        #[test]
        fn any_entry_comes_back(
            id: u128, name in "[a-z0-9-]{1,63}", generation: u64, incarnation: u64, config: u128, a: bool
        ) {
            let who = Who { replica: if a { ReplicaId::A } else { ReplicaId::B }, incarnation, config };
            let entry = Entry { pair: Pair { id, name }, generation, who };
            let text = entry.render();
            prop_assert!(text.len() <= MAX_LEN);
            prop_assert_eq!(Entry::parse(text.as_bytes()), Ok(entry));
        }

        #[test]
        fn any_change_of_a_byte_is_found(at in 0usize..300, to: u8) {
            let mut bytes = example().render().into_bytes();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            prop_assert!(Entry::parse(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Entry::parse(&bytes).is_err());
        }
    }

    #[test]
    fn any_cut_is_found() {
        let text = example().render();
        for length in 0..text.len() {
            assert!(Entry::parse(&text.as_bytes()[..length]).is_err(), "{length}");
        }
        assert!(Entry::parse(format!("{text}\n").as_bytes()).is_err());
    }
}
