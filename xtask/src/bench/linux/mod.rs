//! `cargo xtask bench linux`: Debian's kernel boots, computes and powers off, as solo, as a pair, and in QEMU: plain, recorded, and
//! replayed. All five in turn, as often as is asked, with the same kernel, initramfs and work.

mod qemu;
mod work;

use std::path::Path;
use std::time::{Duration, Instant};

use ft_e2e::{Bed, Guest, Settings};

use super::grid::{Column, Figure, Grid};
use super::table::Table;
use super::{against, lost_one, medians};
use crate::steps::processor_time_of_ended;
use crate::{assets, tools};
use qemu::Mode;
use work::{LIMIT, PARTS, Times, follow};

const TITLE: &str = "Linux: boot, work and power-off, as solo, as a pair, and in QEMU (microvm, TCG): plain, and recorded \
                     with `-icount shift=0` and replayed";
/// A disk like the reference machine's, which the initramfs looks at and leaves alone.
const DISK: &str = "\n[[disk]]\npath = \"blank\"\nsize = \"1 MiB\"\n";
/// No replica is to be lost because others use the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What runs the guest, in the order of the columns.
#[derive(Clone, Copy)]
enum Machine {
    Solo,
    Pair,
    Qemu(Mode),
}

const MACHINES: [(Machine, Column); 5] = [
    (Machine::Solo, Column { key: "solo", name: "solo" }),
    (Machine::Pair, Column { key: "pair", name: "pair" }),
    (Machine::Qemu(Mode::Plain), Column { key: "qemu", name: "QEMU" }),
    (Machine::Qemu(Mode::Record), Column { key: "record", name: "QEMU record" }),
    (Machine::Qemu(Mode::Replay), Column { key: "replay", name: "QEMU replay" }),
];
/// Columns that others are compared with.
const SOLO: usize = 0;
const RECORD: usize = 3;

/// One run. What a machine does not have or say is not a number.
struct Sample {
    times: Times,
    /// Processor time of the whole, of all its processes: on a machine that others use too it says more than the wall time.
    processor_s: f64,
    md5: String,
    /// Up to the word to power off.
    instructions: f64,
    log_bytes: f64,
    lag_p50: f64,
    lag_p99: f64,
    stalls: f64,
}

/// Measures and prints.
pub(crate) fn run(json: bool, quick: bool) -> Result<(), String> {
    tools::need("qemu-system-x86")?;
    assets::run(&assets::Wanted::default())?;
    super::build()?;
    let mut table = Table::new();
    let mut samples = MACHINES.each_ref().map(|_| Vec::new());
    for _ in 0..if quick { 1 } else { 3 } {
        let folder = tempfile::tempdir().map_err(|error| format!("a folder for recordings: {error}"))?;
        let initramfs = folder.path().join("initramfs.cpio");
        work::initramfs(&initramfs)?;
        for ((machine, column), samples) in MACHINES.iter().zip(&mut samples) {
            let before = processor_time_of_ended();
            let mut sample = match machine {
                Machine::Solo => ours(&initramfs, &["--solo"])?,
                Machine::Pair => ours(&initramfs, &[])?,
                Machine::Qemu(mode) => reference(*mode, &initramfs, folder.path())?,
            };
            sample.processor_s = (processor_time_of_ended() - before).as_secs_f64();
            eprintln!("{}: {:.1} s", column.name, sample.times.whole);
            samples.push(sample);
        }
    }
    let mut sums = samples.iter().flatten().map(|sample: &Sample| &sample.md5);
    let first = sums.next();
    if let Some(other) = sums.find(|sum| Some(*sum) != first) {
        return Err(format!("the machines' md5sums of the same file differ: {other}, and {first:?}"));
    }
    table.add_grid(report(&samples));
    table.print(json);
    Ok(())
}

/// A run of ft-vm.
fn ours(initramfs: &Path, more: &[&str]) -> Result<Sample, String> {
    let settings =
        Settings { timeout: PATIENCE, extra: DISK.to_owned(), ..Settings::new(Guest::Linux { image: None }) };
    let bed = Bed::new(&settings);
    let initrd = format!("vm.initrd=\"{}\"", initramfs.display());
    let mut pair = bed.start_for(&[&["--set", initrd.as_str()], more].concat(), LIMIT);
    let console = pair.stdout.clone();
    let mut status = None;
    let course = follow(&console, &mut || status = Some(bed.status()))
        .map_err(|error| format!("{error}\n{}", pair.said()))?;
    let status = status.ok_or("nobody asked for the status")?;
    let code = pair.exit_code(LIMIT);
    let times = course.times(pair.started, Instant::now());
    if code != 0 {
        return Err(format!("ft-vm ended with {code}:\n{}", pair.said()));
    }
    if more.is_empty() && lost_one(&pair) {
        return Err(format!("the pair did not stay one:\n{}", pair.said()));
    }
    let primary = status.primary();
    let of_pair = |path: &str| if more.is_empty() { primary.number(path) } else { f64::NAN };
    Ok(Sample {
        times,
        processor_s: f64::NAN,
        md5: course.md5().to_owned(),
        instructions: primary.position as f64,
        log_bytes: of_pair("log_bytes"),
        lag_p50: of_pair("lag/p50"),
        lag_p99: of_pair("lag/p99"),
        stalls: of_pair("stalls"),
    })
}

/// A run of QEMU.
fn reference(mode: Mode, initramfs: &Path, folder: &Path) -> Result<Sample, String> {
    let run = qemu::run(mode, initramfs, folder)?;
    let [instructions, lag_p50, lag_p99, stalls] = [f64::NAN; 4];
    let log_bytes = run.log.map_or(f64::NAN, |bytes| bytes as f64);
    let processor_s = f64::NAN;
    Ok(Sample {
        times: run.times,
        processor_s,
        md5: run.md5,
        instructions,
        log_bytes,
        lag_p50,
        lag_p99,
        stalls,
    })
}

/// The rows: medians.
fn report(samples: &[Vec<Sample>; MACHINES.len()]) -> Grid {
    let mut grid = Grid::new(TITLE, MACHINES.map(|(_, column)| column).into());
    let medians = |of: &dyn Fn(&Sample) -> f64| medians(samples, of);
    let against = |base: usize, of: &dyn Fn(&Sample) -> f64| {
        against(samples, &|machine| (machine != base).then_some(base), of)
    };
    grid.group("linux", "wall time");
    let mut row = |key, what: &str, unit, aim, values| {
        grid.add(&Figure { key, what, unit, aim, anchor: "" }, values);
    };
    for (part, (key, what)) in PARTS.into_iter().enumerate() {
        row(key, what, "s", "", medians(&|sample| sample.times.parts[part]));
    }
    row("whole_s", "the whole", "s", "", medians(&|sample| sample.times.whole));
    let whole = |sample: &Sample| sample.times.whole;
    row("over_record", "the whole / QEMU's recording", "", "solo <= 1", against(RECORD, &whole));
    row("over_solo", "the whole / solo", "", "pair <= 1.1", against(SOLO, &whole));
    grid.group("linux", "processor time of all processes (a pair: both replicas)");
    let mut row = |key, what: &str, unit, aim, values| {
        grid.add(&Figure { key, what, unit, aim, anchor: "" }, values);
    };
    let processor = |sample: &Sample| sample.processor_s;
    row("processor_s", "the whole", "s", "", medians(&processor));
    row("processor_over_record", "the whole / QEMU's recording", "", "", against(RECORD, &processor));
    grid.group("linux", "what it took, up to the power-off");
    let mut row = |key, what: &str, unit, aim, values| {
        grid.add(&Figure { key, what, unit, aim, anchor: "" }, values);
    };
    row("instructions_m", "instructions", "millions", "", medians(&|sample| sample.instructions / 1e6));
    row("log_mb", "log", "MB", "pair < 2", medians(&|sample| sample.log_bytes / 1e6));
    row("lag_p50_ms", "execution lag, median", "ms", "", medians(&|sample| sample.lag_p50));
    row("lag_p99_ms", "execution lag, p99", "ms", "", medians(&|sample| sample.lag_p99));
    row("stalls", "times the guest stalled on the log", "", "0", medians(&|sample| sample.stalls));
    grid
}
