//! Faults injected on purpose: they show what a divergence report looks like.

use std::str::FromStr;

use crate::machine::Machine;

/// `flip-bit:POSITION:rN` or `flip-bit:POSITION:mADDRESS`: the lowest bit of general register N (0-15, the encoding's
/// order), or of the byte at a guest-physical address, is flipped on the backup when it stands at the position.
/// Without a target it is register 3 (RBX).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub position: u64,
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Register(usize),
    Memory(u64),
}

/// A fault that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no fault: write flip-bit:POSITION:rN (N from 0 to 15) or flip-bit:POSITION:mADDRESS")]
pub struct BadFault(String);

impl FromStr for Fault {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        let parse = || {
            let mut parts = text.split(':');
            if parts.next()? != "flip-bit" {
                return None;
            }
            let position = parts.next()?.parse().ok()?;
            let target = match parts.next() {
                None => Target::Register(3),
                Some(target) => match target.split_at_checked(1)? {
                    ("r", number) => Target::Register(number.parse().ok().filter(|number| *number < 16)?),
                    ("m", address) => Target::Memory(match address.strip_prefix("0x") {
                        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
                        None => address.parse().ok()?,
                    }),
                    _ => return None,
                },
            };
            parts.next().is_none().then_some(Self { position, target })
        };
        parse().ok_or_else(|| BadFault(text.to_owned()))
    }
}

impl Fault {
    /// The same one position later.
    pub(super) fn at_next_position(self) -> Self {
        Self { position: self.position + 1, ..self }
    }

    /// Damages the machine. False if the address is outside its memory.
    pub(super) fn inject(self, machine: &mut Machine) -> bool {
        match self.target {
            Target::Register(number) => {
                machine.flip_register_bit(number);
                true
            }
            Target::Memory(address) => machine.flip_memory_bit(address).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_parsed_strictly() {
        let at = |position, target| Ok(Fault { position, target });
        assert_eq!("flip-bit:7:r15".parse(), at(7, Target::Register(15)));
        assert_eq!("flip-bit:7:m0x3000000".parse(), at(7, Target::Memory(0x0300_0000)));
        assert_eq!("flip-bit:7:m12".parse(), at(7, Target::Memory(12)));
        assert_eq!("flip-bit:7".parse(), at(7, Target::Register(3)));
        for bad in
            ["flip-bit", "flip-bit:x:r1", "flip-bit:1:r99", "flip-bit:1:q1", "other:1:r1", "flip-bit:1:m", ""]
        {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
        assert!("flip-bit:1:r1:x".parse::<Fault>().is_err());
    }
}
