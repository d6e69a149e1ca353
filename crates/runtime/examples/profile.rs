//! Runs the machine of a config alone, on the virtual clock and as fast as it goes, and says what it did and where it spent
//! its instructions.
//!
//!     cargo run --release -p ft-runtime --example profile -- CONFIG [--until INSTRUCTIONS] [--type TEXT] [--symbols FILE]
//!         [--every INSTRUCTIONS]
//!
//! The guest's console goes to standard output; `--type` is what is typed when the guest first waits for long. At the end, on
//! standard error: instructions, host seconds, and the functions that were met most, by one sample every so many
//! instructions. FILE is the guest's own `/proc/kallsyms`; without it addresses are counted. Disks are empty memory of the
//! configured file's content, and writes are forgotten at the end.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use ft_core::input::{Anchor, DiskDone, DiskStatus, Input};
use ft_core::output::{DiskOp, DiskRequest, OutputBody};
use ft_policies::Config;
use ft_runtime::machine::Machine;
use ft_vcpu::{Kick, Stop};

/// A halt that is longer than this, in guest nanoseconds, is a guest that waits for somebody.
const LONG: u64 = 500_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name, default| option(name).map_or(default, |text| text.parse().expect("a number"));
    let path = arguments.first().expect("the config's path");
    let config = Config::load(Path::new(path), &[]).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let mut disks: Vec<Vec<u8>> =
        config.disks.iter().map(|disk| std::fs::read(&disk.path).expect("the disk's file")).collect();
    let sectors: Vec<u64> = disks.iter().map(|disk| disk.len() as u64 / 512).collect();
    let start = Instant::now();
    let mut machine = Machine::build(&config, &sectors).unwrap_or_else(|error| panic!("{error}"));
    eprintln!("built in {:.2} s", start.elapsed().as_secs_f64());

    let (until, every) = (number("--until", u64::MAX), number("--every", 100_003));
    let mut typed = option("--type").map(|text| text.replace("\\n", "\n"));
    let mut samples: BTreeMap<u64, u64> = BTreeMap::new();
    let kick = Kick::new();
    let start = Instant::now();
    let mut next = every;
    let mut ended = None;
    while ended.is_none() && machine.position() < until {
        let stop = machine.run(next.min(until), &kick);
        if machine.position() >= next {
            *samples.entry(machine.instruction_pointer()).or_default() += 1;
            next += every;
        }
        for output in machine.take_outputs() {
            match output.body {
                OutputBody::Console { bytes, .. } => {
                    std::io::stdout().write_all(&bytes).expect("standard output");
                }
                OutputBody::Disk(request) => {
                    let done = serve(&mut disks[usize::from(request.disk)], &request);
                    machine.apply(&Input::DiskDone(done)).expect("it was asked for");
                }
                OutputBody::Entropy { request, len } => {
                    let bytes = vec![0x5a; len as usize];
                    machine.apply(&Input::Entropy { request, bytes }).expect("it was asked for");
                }
                OutputBody::NetTx { .. } => {}
                other => ended = Some(format!("{other:?}")),
            }
        }
        for line in machine.take_unimplemented() {
            eprintln!("unimplemented: {line}");
        }
        if stop == Stop::Halted {
            let now = machine.now_ns();
            let deadline = machine.next_deadline_ns().unwrap_or(u64::MAX);
            if deadline - now.min(deadline) > LONG
                && let Some(text) = typed.take()
            {
                machine.apply(&Input::Console(text.into_bytes())).expect("a console");
                continue;
            }
            if deadline == u64::MAX {
                ended = Some("it waits for ever".into());
                continue;
            }
            let anchor = Anchor { time: deadline.max(now), rate: 1 << 32 };
            machine.apply(&Input::Anchor(anchor)).expect("anchors always fit");
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let position = machine.position();
    eprintln!("\n{} at {position}", ended.as_deref().unwrap_or("stopped"));
    eprintln!("{seconds:.2} s, {:.1} million instructions per second", position as f64 / seconds / 1e6);
    report(&samples, option("--symbols").as_deref());
}

fn serve(disk: &mut [u8], request: &DiskRequest) -> DiskDone {
    let range = |sector: u64, bytes: usize| sector as usize * 512..sector as usize * 512 + bytes;
    let data = match &request.op {
        DiskOp::Read { sector, len } => disk[range(*sector, *len as usize)].to_vec(),
        DiskOp::Write { sector, data } => {
            disk[range(*sector, data.len())].copy_from_slice(data);
            Vec::new()
        }
        _ => Vec::new(),
    };
    DiskDone { disk: request.disk, request: request.request, status: DiskStatus::Ok, data }
}

fn report(samples: &BTreeMap<u64, u64>, symbols: Option<&str>) {
    let mut table = BTreeMap::new();
    if let Some(file) = symbols {
        let text = std::fs::read_to_string(file).expect("the symbols");
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next())
                && "tTwW".contains(kind)
                && let Ok(address) = u64::from_str_radix(address, 16)
            {
                table.insert(address, name.to_owned());
            }
        }
    }
    let mut functions: BTreeMap<String, u64> = BTreeMap::new();
    for (rip, count) in samples {
        let name = table.range(..=*rip).next_back().map(|(_, name)| name.clone());
        let name = match name {
            _ if *rip < 1 << 47 => "(user)".to_owned(),
            Some(name) => name,
            None => format!("{rip:#x}"),
        };
        *functions.entry(name).or_default() += count;
    }
    let total: u64 = samples.values().sum();
    let mut sorted: Vec<_> = functions.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (name, count) in sorted.iter().take(50) {
        eprintln!("{:5.1} %  {name}", *count as f64 * 100.0 / total.max(1) as f64);
    }
}
