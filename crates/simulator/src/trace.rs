//! What happened, in words, for a person: one line for each event, replica a on the left, b on the right.

use std::collections::VecDeque;
use std::fmt::Write as _;

use ft_core::Nanos;

/// Lines kept: the last ones.
const KEPT: usize = 4000;

/// Whom a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A seat.
    Seat(usize),
    /// Everybody: faults, the register, the world outside.
    World,
}

/// See the module. Off in a campaign: then a line is not even made.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    lines: VecDeque<(Nanos, Of, String)>,
}

impl Trace {
    /// Keeps lines from now on, or does not.
    pub fn new(on: bool) -> Self {
        Self { on, lines: VecDeque::new() }
    }

    /// Adds a line.
    pub fn add(&mut self, now: Nanos, of: Of, line: impl FnOnce() -> String) {
        if self.on {
            if self.lines.len() == KEPT {
                self.lines.pop_front();
            }
            self.lines.push_back((now, of, line()));
        }
    }

    /// The last `count` lines.
    pub fn text(&self, count: usize) -> String {
        let mut text = String::new();
        for (now, of, line) in self.lines.iter().skip(self.lines.len().saturating_sub(count)) {
            let (indent, who) = match of {
                Of::Seat(0) => (0, "a"),
                Of::Seat(_) => (44, "b"),
                Of::World => (22, "*"),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:>13.6} {:indent$}{who} {line}", *now as f64 / 1e6, "");
        }
        text
    }
}
