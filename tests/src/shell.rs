//! A shell on the console of a Linux guest: commands are typed in, and what they print is told from their echo.

use std::cell::Cell;
use std::time::Duration;

use crate::{Launcher, Line};

/// What the guest's start says last, before the shell (`xtask/src/assets/guest/rc`).
const READY: &str = "rc: ready";
/// An arithmetic expression, and its value: a typed line holds the one, and what the shell prints of it the other.
const ASKED: &str = "$((6*7))";
const SAID: &str = "42";

/// A command that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its exit code.
    pub code: i32,
    /// The lines that it printed.
    pub lines: Vec<String>,
}

impl Done {
    /// All that it printed.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// A command that was typed in and may still run.
#[must_use = "a command that nobody waits for may never have run"]
#[derive(Clone, Copy, Debug)]
pub struct Typed {
    number: u32,
    /// From which line of the console on it can have printed something.
    from: usize,
}

/// The shell. It outlives a replica that dies: the console is the launcher's.
pub struct Shell {
    /// The pair.
    pub pair: Launcher,
    typed: u32,
}

impl Shell {
    /// Waits until the guest has started its shell.
    pub fn wait(pair: Launcher, limit: Duration) -> Self {
        let ready = pair.stdout.wait_for(0, limit, |line| line.trim_end() == READY);
        assert!(ready.is_some(), "the guest has no shell within {limit:?}:\n{}", pair.said());
        Self { pair, typed: 0 }
    }

    /// Types a command, of one line.
    pub fn start(&mut self, command: &str) -> Typed {
        assert!(!command.contains('\n'), "one line: {command:?}");
        self.typed += 1;
        let number = self.typed;
        let from = self.pair.stdout.count();
        // The end of the line that is being printed is not known: both marks stand on lines of their own.
        self.pair.type_in(&format!(
            "echo; echo \"<{ASKED}-{number}>\"; {command}; echo \"[{ASKED}-{number}:$?]\"\n"
        ));
        Typed { number, from }
    }

    /// Waits for a line of a command, complete and as wanted.
    pub fn wait_line(&self, typed: Typed, limit: Duration, wanted: impl Fn(&str) -> bool) -> Line {
        let begin = begin(typed.number);
        let begun = Cell::new(false);
        let line = self.pair.stdout.wait_for(typed.from, limit, |line| {
            let line = line.trim_end();
            begun.replace(begun.get() || line == begin) && wanted(line)
        });
        line.unwrap_or_else(|| panic!("the guest does not say what is waited for:\n{}", self.pair.said()))
    }

    /// Waits for the end of a command.
    pub fn wait_end(&self, typed: Typed, limit: Duration) -> Done {
        let end = |line: &str| end_of(line, typed.number).is_some();
        let found = self.pair.stdout.wait_for(typed.from, limit, end);
        assert!(found.is_some(), "a command did not end within {limit:?}:\n{}", self.pair.said());
        let lines: Vec<String> = self.pair.stdout.lines()[typed.from..]
            .iter()
            .map(|line| line.text.trim_end().to_owned())
            .collect();
        done(&lines, typed.number)
            .unwrap_or_else(|| panic!("the console is not whole:\n{}", self.pair.said()))
    }

    /// Types a command and waits for its end.
    pub fn run(&mut self, command: &str, limit: Duration) -> Done {
        let typed = self.start(command);
        self.wait_end(typed, limit)
    }

    /// The same for a command that must succeed; what it printed.
    pub fn must(&mut self, command: &str, limit: Duration) -> String {
        let done = self.run(command, limit);
        assert_eq!(done.code, 0, "{command}: {}\n{}", done.text(), self.pair.said());
        done.text()
    }

    /// Has the guest power off, and returns the launcher's exit code.
    pub fn power_off(&mut self, limit: Duration) -> i32 {
        self.pair.type_in("poweroff\n");
        self.pair.exit_code(limit)
    }
}

fn begin(number: u32) -> String {
    format!("<{SAID}-{number}>")
}

/// What a line of the console is in front of a command's end, and the command's exit code.
fn end_of(line: &str, number: u32) -> Option<(&str, i32)> {
    // What a command prints last may lack its line's end.
    let (said, code) = line.trim_end().strip_suffix(']')?.rsplit_once(&format!("[{SAID}-{number}:"))?;
    Some((said, code.parse().ok()?))
}

/// Finds a command's lines.
fn done(lines: &[String], number: u32) -> Option<Done> {
    let begin = begin(number);
    let mut said = Vec::new();
    for line in lines.iter().skip_while(|line| **line != begin).skip(1) {
        let Some((last, code)) = end_of(line, number) else {
            said.push(line.clone());
            continue;
        };
        if !last.is_empty() {
            said.push(last.to_owned());
        }
        return Some(Done { code, lines: said });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_between_its_echo_and_the_prompt() {
        let console = "ft-guest# \u{1b}[6necho; echo \"<$((6*7))-3>\"; ls; echo \"[$((6*7))-3:$?]\"\n\n<42-3>\na\nb\n[42-3:0]";
        let lines: Vec<String> = console.lines().map(str::to_owned).collect();
        assert_eq!(done(&lines, 3), Some(Done { code: 0, lines: vec!["a".into(), "b".into()] }));
        assert_eq!(done(&lines, 4), None);
        let cut: Vec<String> = ["<42-3>", "no end[42-3:1]"].map(str::to_owned).to_vec();
        assert_eq!(done(&cut, 3), Some(Done { code: 1, lines: vec!["no end".into()] }));
    }
}
