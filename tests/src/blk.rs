//! What `guests/blk` says on its console, and what its disks must hold: see `guests/programs/blk`.

use std::fs;
use std::path::Path;

use ft_guests::blk;

use crate::{BLK_SECTORS, Line};

/// What the guest has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkRun {
    /// All operations below this one have completed.
    pub done: u64,
    /// All operations below this one are submitted.
    pub submitted: u64,
    /// Every change below this operation is durable.
    pub durable: u64,
    /// The flushes that have completed, in the order in which that was said.
    pub flushes: Vec<u64>,
    /// Lines about failed requests.
    pub errors: usize,
    /// The hash of the whole image, at the end.
    pub image: Option<String>,
}

impl BlkRun {
    /// Reads the console of a guest with one disk, or the lines of one disk of several (`disk 1: `).
    pub fn of(lines: &[Line], prefix: &str) -> Self {
        let mut run = Self::default();
        for line in lines.iter().filter_map(|line| line.text.strip_prefix(prefix)) {
            let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
            let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
            match (words.first().copied(), words.get(2).copied(), number(1), number(3)) {
                (Some("done"), Some("submitted"), Some(done), Some(submitted)) => {
                    run.done = run.done.max(done);
                    run.submitted = run.submitted.max(submitted);
                }
                (Some("flush"), Some("covers"), Some(flush), Some(covers)) => {
                    run.flushes.push(flush);
                    run.submitted = run.submitted.max(flush + 1);
                    run.durable = run.durable.max(covers);
                }
                (Some("error"), ..) => run.errors += 1,
                (Some("blk:"), ..) if words.len() > 2 && words[words.len() - 2] == "image" => {
                    run.image = words.last().map(|word| (*word).to_owned());
                }
                _ => {}
            }
        }
        run
    }

    /// The operation that a line names after its first word: 81 for `done` in `done 81 submitted 115`.
    pub fn operation(line: &str, word: &str) -> Option<u64> {
        line.strip_prefix(word)?.strip_prefix(' ')?.split(' ').next()?.parse().ok()
    }

    /// Checks the console of a run of `ops` operations that went to its end: every line once, whatever happened in between,
    /// and the hash that the host computes.
    pub fn check_complete(&self, seed: u64, ops: u64) -> Result<(), String> {
        let expected = blk::ops(seed, ops, BLK_SECTORS).filter(|op| op.kind == blk::Kind::Flush);
        let expected: Vec<u64> = expected.map(|op| op.index).collect();
        let mut found = self.flushes.clone();
        found.sort_unstable();
        if found != expected {
            return Err(format!("the flushes {found:?} are said to have completed, not {expected:?}"));
        }
        let hash = format!("{:016x}", blk::image_hash(&blk::expected_image(seed, ops, BLK_SECTORS)));
        if self.image.as_ref() != Some(&hash) || self.errors > 0 {
            return Err(format!("the image {:?}, not {hash}, and {} errors", self.image, self.errors));
        }
        Ok(())
    }
}

/// What the guest says of a mode that measures. Times are the guest's, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkBench {
    /// Bytes of each request.
    pub size: u64,
    /// Requests.
    pub requests: u64,
    /// From the first request to the end of the last.
    pub took: u64,
    /// Half of the requests took so long, or less.
    pub p50: u64,
    /// 99 of 100 did.
    pub p99: u64,
    /// The flush after the last write.
    pub flush: u64,
}

impl BlkBench {
    /// Reads `bench seqread size 65536 depth 8: 100 requests in 900 us, p50 80 us, p99 95 us, max 99 us, flush 0 us`.
    pub fn parse(line: &str) -> Option<Self> {
        let (what, result) = line.strip_prefix("bench ")?.split_once(": ")?;
        let after = |text: &str, name: &str| {
            let mut words = text.split([' ', ',']).skip_while(|word| *word != name);
            words.nth(1)?.parse::<u64>().ok()
        };
        Some(Self {
            size: after(what, "size")?,
            requests: result.split(' ').next()?.parse().ok()?,
            took: after(result, "in")?,
            p50: after(result, "p50")?,
            p99: after(result, "p99")?,
            flush: after(result, "flush")?,
        })
    }

    /// All bytes of its requests.
    pub fn bytes(&self) -> u64 {
        self.size * self.requests
    }
}

/// Compares an image with what a blank disk holds after the first `ops` operations of `seed`.
pub fn check_image(image: &Path, seed: u64, ops: u64) -> Result<(), String> {
    let bytes = read(image)?;
    blk::check_image(seed, ops, &bytes).map_err(|wrong| format!("{}: {wrong}", image.display()))
}

/// Checks an image after a crash: nothing in it is older than the first `durable` operations of `seed`, nothing is newer than
/// the first `submitted`.
pub fn check_crashed_image(image: &Path, seed: u64, durable: u64, submitted: u64) -> Result<(), String> {
    let bytes = read(image)?;
    blk::check_crashed(seed, &bytes, durable, submitted)
        .map_err(|wrong| format!("{}, durable up to op {durable}: {wrong}", image.display()))
}

fn read(image: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::read(image).map_err(|error| format!("{}: {error}", image.display()))?;
    if bytes.len() as u64 != BLK_SECTORS * blk::SECTOR as u64 {
        return Err(format!("{}: {} bytes, not {BLK_SECTORS} sectors", image.display(), bytes.len()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_lines_of_a_run() {
        let text = "done 81 submitted 115\nflush 83 covers 57\nerror op 9 kind 1 status 1\nblk: 300 ops, 123 reads, 174 writes, \
                    3 flushes, 0 errors, image 4b1254d4754ac689";
        let line = |text: &str| Line { at: Instant::now(), text: text.to_owned() };
        let run = BlkRun {
            done: 81,
            submitted: 115,
            durable: 57,
            flushes: vec![83],
            errors: 1,
            image: Some("4b1254d4754ac689".into()),
        };
        assert_eq!(BlkRun::of(&text.lines().map(line).collect::<Vec<_>>(), ""), run);
        let named: Vec<Line> = text.lines().map(|text| line(&format!("disk 1: {text}"))).collect();
        assert_eq!(BlkRun::of(&named, "disk 1: "), run);
        assert_eq!(BlkRun::of(&named, "disk 0: "), BlkRun::default());
    }

    #[test]
    fn the_line_of_a_measurement() {
        let line = "bench seqwrite size 65536 depth 8: 100 requests in 900 us, p50 80 us, p99 95 us, max 99 us, flush 7 us";
        let expected = BlkBench { size: 65536, requests: 100, took: 900, p50: 80, p99: 95, flush: 7 };
        assert_eq!(BlkBench::parse(line), Some(expected));
        for other in ["bench seqwrite size 65536 depth 8", "blk: 300 ops, 123 reads", ""] {
            assert_eq!(BlkBench::parse(other), None);
        }
    }
}
