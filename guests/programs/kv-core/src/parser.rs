//! Requests: RESP arrays of bulk strings, and inline commands. The rules, limits and error texts are those of Redis'
//! `networking.c`; the size limits are our own.

use alloc::vec::Vec;
use core::ops::Range;

use crate::number;

/// Longest bulk string: 1 MiB.
pub const MAX_BULK: usize = 1 << 20;
/// Most that the bulk strings of one command may hold together.
const MAX_COMMAND: usize = MAX_BULK + (64 << 10);
/// Most arguments of one command.
const MAX_ARGUMENTS: i64 = 64 << 10;
/// Longest line.
const MAX_LINE: usize = 64 << 10;

/// Why a client that sent this cannot be served further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// An argument count that is no number or too large.
    MultibulkLength,
    /// A bulk length that is no number, negative or too large.
    BulkLength,
    /// Another byte where `$` has to stand.
    ExpectedDollar(u8),
    /// A line of an argument count without an end.
    MultibulkTooBig,
    /// A line of a bulk length without an end.
    BulkTooBig,
    /// An inline command without an end.
    InlineTooBig,
    /// An inline command with an open quote.
    Quotes,
}

/// What [`Parser::next`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A whole command: [`Parser::argument`] tells it.
    Command,
    /// The input ends before the command does.
    Incomplete,
}

/// Reads commands from a buffer that grows at its end, and remembers how far it got in an incomplete one.
#[derive(Debug, Default)]
pub struct Parser {
    /// Everything before has been read.
    position: usize,
    /// Arguments that are still to come; 0 between commands.
    remaining: usize,
    /// The length of the bulk string that comes next.
    bulk: Option<usize>,
    /// Bytes of the arguments so far.
    total: usize,
    /// Where the arguments stand: in the buffer, or in `inline`.
    arguments: Vec<Range<usize>>,
    is_inline: bool,
    /// The arguments of an inline command, unquoted.
    inline: Vec<u8>,
}

impl Parser {
    /// Reads on in `buffer` up to the end of a command or of the buffer.
    pub fn next(&mut self, buffer: &[u8]) -> Result<Step, ProtocolError> {
        loop {
            if self.remaining == 0 {
                match buffer.get(self.position) {
                    None => return Ok(Step::Incomplete),
                    Some(b'*') => match self.header(buffer, ProtocolError::MultibulkTooBig)? {
                        None => return Ok(Step::Incomplete),
                        Some(count) => {
                            let count = count.filter(|&count| count <= MAX_ARGUMENTS);
                            let count = count.ok_or(ProtocolError::MultibulkLength)?;
                            // An empty command is no command.
                            self.remaining = usize::try_from(count).unwrap_or(0);
                            self.total = 0;
                            self.arguments.clear();
                            self.is_inline = false;
                            continue;
                        }
                    },
                    Some(_) => {
                        let Some(step) = self.inline(buffer)? else { continue };
                        return Ok(step);
                    }
                }
            }
            let length = match self.bulk {
                Some(length) => length,
                None => {
                    match buffer.get(self.position) {
                        None => return Ok(Step::Incomplete),
                        Some(b'$') => {}
                        Some(&other) => {
                            // Redis first waits for the line's end.
                            return match line_end(&buffer[self.position..]) {
                                Some(_) => Err(ProtocolError::ExpectedDollar(other)),
                                None if buffer.len() - self.position > MAX_LINE => {
                                    Err(ProtocolError::BulkTooBig)
                                }
                                None => Ok(Step::Incomplete),
                            };
                        }
                    }
                    let Some(length) = self.header(buffer, ProtocolError::BulkTooBig)? else {
                        return Ok(Step::Incomplete);
                    };
                    let length = length.and_then(|length| usize::try_from(length).ok());
                    let length =
                        length.filter(|&length| length <= MAX_BULK && self.total + length <= MAX_COMMAND);
                    let length = length.ok_or(ProtocolError::BulkLength)?;
                    self.bulk = Some(length);
                    length
                }
            };
            if buffer.len() < self.position + length + 2 {
                return Ok(Step::Incomplete);
            }
            self.arguments.push(self.position..self.position + length);
            self.position += length + 2;
            self.total += length;
            self.bulk = None;
            self.remaining -= 1;
            if self.remaining == 0 {
                return Ok(Step::Command);
            }
        }
    }

    /// Reads a line of one byte and a number. `None`: the line is incomplete; `Some(None)`: it is no number.
    fn header(
        &mut self,
        buffer: &[u8],
        too_big: ProtocolError,
    ) -> Result<Option<Option<i64>>, ProtocolError> {
        let line = &buffer[self.position..];
        let Some(end) = line_end(line) else {
            return if line.len() > MAX_LINE { Err(too_big) } else { Ok(None) };
        };
        self.position += end + 2;
        Ok(Some(number::parse(&line[1..end])))
    }

    /// Reads an inline command. `None`: an empty line.
    fn inline(&mut self, buffer: &[u8]) -> Result<Option<Step>, ProtocolError> {
        let line = &buffer[self.position..];
        let Some(end) = line.iter().position(|&byte| byte == b'\n') else {
            return if line.len() > MAX_LINE {
                Err(ProtocolError::InlineTooBig)
            } else {
                Ok(Some(Step::Incomplete))
            };
        };
        self.position += end + 1;
        let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
        self.arguments.clear();
        self.inline.clear();
        self.is_inline = true;
        unquote(line, &mut self.inline, &mut self.arguments).ok_or(ProtocolError::Quotes)?;
        Ok((!self.arguments.is_empty()).then_some(Step::Command))
    }

    /// Arguments of the command just read, the command's name among them.
    pub fn argument_count(&self) -> usize {
        self.arguments.len()
    }

    /// An argument of the command just read; `buffer` is the one it was read from.
    pub fn argument<'a>(&'a self, buffer: &'a [u8], index: usize) -> &'a [u8] {
        let source = if self.is_inline { &self.inline } else { buffer };
        &source[self.arguments[index].clone()]
    }

    /// Says that everything read so far is about to be removed from the front of the buffer, and how much that is.
    /// The arguments of an incomplete command stay.
    pub fn consume(&mut self) -> usize {
        let keep_from = match self.arguments.first() {
            Some(first) if self.remaining > 0 => first.start,
            _ => self.position,
        };
        self.position -= keep_from;
        if self.remaining > 0 {
            for argument in &mut self.arguments {
                *argument = argument.start - keep_from..argument.end - keep_from;
            }
        }
        keep_from
    }
}

/// Where the `\r\n` of the first line begins, if both bytes are there.
fn line_end(line: &[u8]) -> Option<usize> {
    let end = line.iter().position(|&byte| byte == b'\r')?;
    (end + 1 < line.len()).then_some(end)
}

/// Splits an inline command at spaces, with `"..."` and its escapes, and `'...'` (Redis' `sdssplitargs`). `None`
/// where a quote stays open or is followed by something else than a space.
fn unquote(line: &[u8], text: &mut Vec<u8>, arguments: &mut Vec<Range<usize>>) -> Option<()> {
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        if at == line.len() {
            return Some(());
        }
        let start = text.len();
        let mut quote = None;
        loop {
            let byte = line.get(at).copied();
            match (quote, byte) {
                (None, None) => break,
                (Some(_), None) => return None,
                (None, Some(space)) if space.is_ascii_whitespace() => break,
                (None, Some(open @ (b'"' | b'\''))) => quote = Some(open),
                (Some(open), Some(byte)) if byte == open => {
                    if line.get(at + 1).is_some_and(|next| !next.is_ascii_whitespace()) {
                        return None;
                    }
                    quote = None;
                }
                (Some(b'\''), Some(b'\\')) if line.get(at + 1) == Some(&b'\'') => {
                    text.push(b'\'');
                    at += 1;
                }
                (Some(b'"'), Some(b'\\')) if at + 1 < line.len() => {
                    at += 1;
                    let hex = |offset: usize| {
                        let digit = char::from(*line.get(at + offset)?).to_digit(16)?;
                        u8::try_from(digit).ok()
                    };
                    match (line[at], hex(1), hex(2)) {
                        (b'x', Some(high), Some(low)) => {
                            text.push(high << 4 | low);
                            at += 2;
                        }
                        (b'n', ..) => text.push(b'\n'),
                        (b'r', ..) => text.push(b'\r'),
                        (b't', ..) => text.push(b'\t'),
                        (b'b', ..) => text.push(8),
                        (b'a', ..) => text.push(7),
                        (other, ..) => text.push(other),
                    }
                }
                (_, Some(byte)) => text.push(byte),
            }
            at += 1;
        }
        arguments.push(start..text.len());
    }
}
