//! What is seen outside is one history, whoever let it out: without gaps, and with one content. Frames may come twice; of console bytes
//! each offset is written once, so those that come again must be the same.

use std::collections::BTreeMap;

use super::{Property, Seen};
use crate::guest::data::Frame;
use crate::world::facts::Facts;

/// Frames.
#[derive(Debug, Default)]
pub struct Frames {
    lives: BTreeMap<u64, Vec<Frame>>,
}

impl Property for Frames {
    fn name(&self) -> &'static str {
        "one history of frames"
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Facts) -> Result<(), String> {
        let Seen::Frame { frame } = seen else { return Ok(()) };
        let known = self.lives.entry(frame.life).or_default();
        match known.get(frame.number as usize) {
            Some(before) if before != frame => {
                Err(format!("frame {} came with two contents: {before:?} and {frame:?}", frame.number))
            }
            Some(_) => Ok(()),
            None if known.len() as u64 == frame.number => {
                known.push(*frame);
                Ok(())
            }
            None => Err(format!("frame {} came, and {} never did", frame.number, known.len())),
        }
    }
}

/// Console bytes.
#[derive(Debug, Default)]
pub struct Console {
    lives: BTreeMap<u64, Vec<u8>>,
}

impl Property for Console {
    fn name(&self) -> &'static str {
        "console bytes exactly once"
    }

    fn see(&mut self, seen: &Seen<'_>, _: &Facts) -> Result<(), String> {
        let Seen::Console { life, offset, bytes } = seen else { return Ok(()) };
        let known = self.lives.entry(*life).or_default();
        let at = *offset as usize;
        if at > known.len() {
            return Err(format!("bytes at offset {at} came, and those from {} on never did", known.len()));
        }
        let again = (known.len() - at).min(bytes.len());
        if known[at..at + again] != bytes[..again] {
            return Err(format!("bytes at offset {at} came with two contents"));
        }
        known.extend_from_slice(&bytes[again..]);
        Ok(())
    }
}
