//! The command line.

use core::str::FromStr;

use blk_core::{SECTOR, Stamp};
use rt::BootInfo;

/// Bytes that may be in flight, of each disk: guests are small.
pub(crate) const MAX_BYTES: usize = 8 << 20;
const MAX_DEPTH: usize = 128;
/// The most that the device takes.
const MAX_SIZE: usize = 1 << 20;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Random,
    Hold,
    Races,
    Bench(Bench),
}

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bench {
    pub(crate) name: &'static str,
    pub(crate) is_write: bool,
    pub(crate) is_random: bool,
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) ops: u64,
    pub(crate) seed: u64,
    pub(crate) depth: usize,
    /// Bytes of each request of a [`Bench`].
    pub(crate) size: usize,
    /// `None`: all of them.
    pub(crate) disk: Option<usize>,
    /// Completions from one line on progress to the next; 0: no such lines.
    pub(crate) report: u64,
    pub(crate) indirect: bool,
    /// Milliseconds between the end of a [`Bench`] and power-off.
    pub(crate) linger: u64,
}

fn number<T: FromStr>(
    boot: &BootInfo,
    name: &str,
    default: T,
    wrong: &'static str,
) -> Result<T, &'static str> {
    boot.option(name).map_or(Ok(default), |text| text.parse().map_err(|_| wrong))
}

impl Options {
    /// Reads the command line; the error says what is wrong with it.
    pub(crate) fn parse(boot: &BootInfo) -> Result<Self, &'static str> {
        let bench = |name, is_write, is_random| Mode::Bench(Bench { name, is_write, is_random });
        let mode = match boot.option("mode").unwrap_or("random") {
            "random" => Mode::Random,
            "hold" => Mode::Hold,
            "races" => Mode::Races,
            "seqread" => bench("seqread", false, false),
            "randread" => bench("randread", false, true),
            "seqwrite" => bench("seqwrite", true, false),
            "randwrite" => bench("randwrite", true, true),
            _ => return Err("mode is random, hold, races, seqread, randread, seqwrite or randwrite"),
        };
        let ops = match mode {
            Mode::Hold => Stamp::MAX_OPS,
            _ => number(boot, "ops", 2000, "ops=N is a number")?,
        };
        if ops > Stamp::MAX_OPS {
            return Err("ops=N is too many");
        }
        let depth = number(boot, "depth", 16, "depth=D is a number")?;
        if !(1..=MAX_DEPTH).contains(&depth) {
            return Err("depth=D is from 1 to 128");
        }
        let size = number(boot, "size", 4096, "size=BYTES is a number")?;
        let whole = size % SECTOR == 0;
        if !(SECTOR..=MAX_SIZE).contains(&size) || !whole || size * depth > 4 * MAX_BYTES {
            return Err("size=BYTES is whole sectors of 512, 1 MiB at most, 32 MiB at most in flight");
        }
        let disk = match boot.option("disks") {
            Some("all") => None,
            None => Some(number(boot, "disk", 0, "disk=K is a number")?),
            Some(_) => return Err("disks=all is all that disks can be"),
        };
        let report =
            number(boot, "report", if mode == Mode::Hold { 500 } else { 0 }, "report=N is a number")?;
        let indirect = match boot.option("indirect").unwrap_or("yes") {
            "yes" => true,
            "no" => false,
            _ => return Err("indirect is yes or no"),
        };
        let seed = number(boot, "seed", 1, "seed=S is a number")?;
        let linger: u32 = number(boot, "linger", 0, "linger=MS is a number of milliseconds")?;
        Ok(Self { mode, ops, seed, depth, size, disk, report, indirect, linger: linger.into() })
    }
}
