//! The toy guest: a small deterministic machine whose outputs depend on every input before them.

use std::collections::BTreeSet;

use ft_core::OutputClass;
use ft_core::input::Input;

use super::random::mix;

/// An output's content: its number in the guest's life and a value that depends on all inputs before it.
pub type Content = (u64, u64);

/// A deterministic guest: one number, stepped; some steps make an output; the last output is its end.
#[derive(Clone)]
pub struct Guest {
    pub position: u64,
    pub state: u64,
    outputs: u64,
    end_after: u64,
    pub over: bool,
    /// Numbers of the frames it has received.
    pub frames: BTreeSet<u64>,
}

impl Guest {
    pub fn new(end_after: u64) -> Self {
        Self { position: 0, state: 1, outputs: 0, end_after, over: false, frames: BTreeSet::new() }
    }

    pub fn run(&mut self, until: u64) -> Option<(u64, OutputClass, Content)> {
        while self.position < until && !self.over {
            self.position += 1;
            self.state = mix(self.state.wrapping_add(self.position));
            if self.state.is_multiple_of(50) {
                let number = self.outputs;
                self.outputs += 1;
                self.over = self.outputs == self.end_after;
                let class = match (self.over, self.state % 3) {
                    (true, _) => OutputClass::End,
                    (_, 0) => OutputClass::Net,
                    (_, 1) => OutputClass::Console,
                    _ => OutputClass::DiskWrite,
                };
                return Some((self.position, class, (number, self.state)));
            }
        }
        None
    }

    pub fn apply(&mut self, input: &Input) {
        if let Input::NetRx(batch) = input {
            self.frames.insert(batch.switch_seq);
            for byte in batch.frames.iter().flatten() {
                self.state = mix(self.state ^ u64::from(*byte));
            }
        }
    }
}
