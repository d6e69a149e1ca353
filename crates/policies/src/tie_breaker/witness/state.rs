//! The text of the witness's state file: every pair's register, so that a person can read who won.
//!
//! It is read strictly: a state is what [`render`] would have written, byte for byte, or it is damaged.

use std::collections::BTreeMap;

use crate::tie_breaker::{RegisterState, Who};

/// How many pairs one witness serves.
pub(super) const MAX_PAIRS: usize = 100_000;
/// More than a state of that many pairs can have.
pub(super) const MAX_LEN: u64 = 256 + MAX_PAIRS as u64 * 192;

const FORMAT: &str = "ft-vm witness 2";
const NOTE: &str = "# Who won the last generation of each pair. Written by `ft-vm witness`: never edit it, nor bring an old copy back.";

/// The registers of all pairs; a pair that is not here is in generation 0.
pub(super) type Registers = BTreeMap<u128, (u64, Who)>;

/// What the register of `pair` holds.
pub(super) fn of(registers: &Registers, pair: u128) -> RegisterState {
    match registers.get(&pair) {
        Some((generation, who)) => RegisterState { generation: *generation, holder: Some(*who) },
        None => RegisterState { generation: 0, holder: None },
    }
}

pub(super) fn render(registers: &Registers) -> String {
    use std::fmt::Write as _;
    let mut text = format!("{FORMAT}\n{NOTE}\npairs = {}\n", registers.len());
    for (pair, (generation, who)) in registers {
        let _ = writeln!(
            text,
            "pair {pair:032x} generation {generation} replica {} incarnation {:016x} config {:032x}",
            who.replica, who.incarnation, who.config
        );
    }
    let crc = crc32fast::hash(text.as_bytes());
    let _ = writeln!(text, "crc = {crc:08x}");
    text
}

pub(super) fn parse(bytes: &[u8]) -> Result<Registers, String> {
    if bytes.is_empty() {
        return Err("it is empty".into());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let mut lines = text.lines();
    match lines.next() {
        Some(FORMAT) => {}
        Some(other) if other.starts_with("ft-vm witness ") => {
            return Err("another version of ft-vm wrote it".into());
        }
        _ => return Err("it does not begin as one".into()),
    }
    let mut registers = Registers::new();
    for (number, line) in lines.enumerate().filter(|(_, line)| line.starts_with("pair ")) {
        let (pair, register) =
            register(line).ok_or_else(|| format!("its line {} is unreadable", number + 2))?;
        registers.insert(pair, register);
    }
    // The rest, and whatever the lines above were read too kindly for, shows here.
    if render(&registers).as_bytes() == bytes { Ok(registers) } else { Err("its checksum is wrong".into()) }
}

fn register(line: &str) -> Option<(u128, (u64, Who))> {
    let words: Vec<&str> = line.split(' ').collect();
    let [
        "pair",
        pair,
        "generation",
        generation,
        "replica",
        replica,
        "incarnation",
        incarnation,
        "config",
        config,
    ] = words[..]
    else {
        return None;
    };
    let who = Who {
        replica: replica.parse().ok()?,
        incarnation: u64::from_str_radix(incarnation, 16).ok()?,
        config: u128::from_str_radix(config, 16).ok()?,
    };
    let generation = generation.parse().ok().filter(|generation| *generation > 0)?;
    Some((u128::from_str_radix(pair, 16).ok()?, (generation, who)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::ReplicaId;

    fn registers() -> impl Strategy<Value = Registers> {
        prop::collection::btree_map(
            any::<u128>(),
            (1u64.., any::<bool>(), any::<u64>(), any::<u128>()).prop_map(
                |(generation, a, incarnation, config)| {
                    (
                        generation,
                        Who { replica: if a { ReplicaId::A } else { ReplicaId::B }, incarnation, config },
                    )
                },
            ),
            0..20,
        )
    }

    proptest! {
        #[test]
        fn any_state_comes_back(registers in registers()) {
            prop_assert_eq!(parse(render(&registers).as_bytes()), Ok(registers));
        }

        #[test]
        fn any_change_of_a_byte_is_found(registers in registers(), at: prop::sample::Index, to: u8) {
            let mut bytes = render(&registers).into_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            prop_assert!(parse(&bytes).is_err());
        }
    }

    #[test]
    fn any_cut_and_any_line_that_goes_is_found() {
        let who = Who { replica: ReplicaId::B, incarnation: 9, config: 5 };
        let text = render(&Registers::from([(1, (2, who)), (3, (u64::MAX, who))]));
        for length in 0..text.len() {
            assert!(parse(&text.as_bytes()[..length]).is_err(), "{length}");
        }
        for gone in 0..text.lines().count() {
            let rest: String = text
                .lines()
                .enumerate()
                .filter(|(at, _)| *at != gone)
                .map(|(_, line)| format!("{line}\n"))
                .collect();
            assert!(parse(rest.as_bytes()).is_err(), "{rest}");
        }
        assert!(parse(format!("{text}\n").as_bytes()).is_err());
    }

    #[test]
    fn the_largest_state_fits() {
        let who = Who { replica: ReplicaId::B, incarnation: u64::MAX, config: u128::MAX };
        let line =
            render(&Registers::from([(u128::MAX, (u64::MAX, who))])).len() - render(&Registers::new()).len();
        assert!((render(&Registers::new()).len() + 5 + MAX_PAIRS * line) as u64 <= MAX_LEN);
    }
}
