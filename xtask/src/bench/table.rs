//! The table of figures: what was measured, what was aimed for, and whom it is compared with.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::grid::Grid;

struct Row {
    key: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    aim: &'static str,
    anchor: &'static str,
}

/// Rows, in the order in which they were measured, and then what has columns of its own.
pub(crate) struct Table {
    rows: Vec<Row>,
    grids: Vec<Grid>,
    /// Share of the processors that others used before anything was measured.
    busy: f64,
}

/// A share from which on the figures say more about the other things that run than about this program.
const BUSY: f64 = 0.1;

impl Table {
    pub(crate) fn new() -> Self {
        let (before, idle_before) = processor_time();
        std::thread::sleep(Duration::from_secs(2));
        let (after, idle_after) = processor_time();
        Self {
            rows: Vec::new(),
            grids: Vec::new(),
            busy: 1.0 - (idle_after - idle_before) / (after - before),
        }
    }

    /// Adds a figure. `aim` and `anchor` may be empty.
    pub(crate) fn add(
        &mut self,
        key: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        aim: &'static str,
        anchor: &'static str,
    ) {
        let what = what.into();
        eprintln!("{what}: {} {unit}", shown(value));
        self.rows.push(Row { key, what, value, unit, aim, anchor });
    }

    /// Adds figures that have columns of their own.
    pub(crate) fn add_grid(&mut self, grid: Grid) {
        self.grids.push(grid);
    }

    /// Prints it, for other programs or for a person.
    pub(crate) fn print(&self, json: bool) {
        if json {
            println!("{:#}", self.json());
        } else {
            print!("{}", self.text());
        }
    }

    /// Under a heading with the machine.
    fn text(&self) -> String {
        let mut text = format!("{}\n", machine());
        if self.busy >= BUSY {
            let _ = writeln!(
                text,
                "Other things used {:.0} % of the processors just before: the figures are worse than they could be.",
                self.busy * 100.0
            );
        }
        if !self.rows.is_empty() {
            let _ = write!(text, "\n{}", self.rows_text());
        }
        for grid in &self.grids {
            let _ = write!(text, "\n{}", grid.text());
        }
        let _ = writeln!(
            text,
            "\n[FT 2010] Scales, Nelson, Venkitachalam, Design of a Practical System for Fault-Tolerant VMs, tables 1 and 2\n\
             [Remus] Cully et al., NSDI 2008   [KRR] whole-VM record/replay on KVM, OSDI 2025"
        );
        text
    }

    fn rows_text(&self) -> String {
        let width =
            |of: fn(&Row) -> usize, least: usize| self.rows.iter().map(of).max().unwrap_or(0).max(least);
        let what = width(|row| row.what.chars().count(), 6);
        let value = width(|row| shown(row.value).len() + 1 + row.unit.chars().count(), 8);
        let aim = width(|row| row.aim.chars().count(), 3);
        let mut text =
            format!("{:what$}  {:>value$}  {:aim$}  for comparison\n", "figure", "measured", "aim");
        for row in &self.rows {
            let measured = format!("{} {}", shown(row.value), row.unit);
            let line = format!("{:what$}  {measured:>value$}  {:aim$}  {}", row.what, row.aim, row.anchor);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    /// For other programs.
    fn json(&self) -> Value {
        let mut figures: serde_json::Map<String, Value> = self
            .rows
            .iter()
            .map(|row| {
                (row.key.to_owned(), json!({ "value": row.value, "unit": row.unit, "what": row.what }))
            })
            .collect();
        self.grids.iter().for_each(|grid| grid.json(&mut figures));
        json!({ "machine": machine(), "busy_before": self.busy, "figures": figures })
    }
}

/// Three digits that mean something.
pub(crate) fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        0.0 => "0".into(),
        size if size < 0.01 => format!("{value:.5}"),
        _ => format!("{value:.3}"),
    }
}

/// Time of all processors, and the part of it in which they had nothing to do.
fn processor_time() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0.0)).collect();
    // user, nice, system, idle, iowait, ...
    (ticks.iter().sum(), ticks.iter().skip(3).take(2).sum())
}

/// Processor, cores and kernel.
fn machine() -> String {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = file("/proc/cpuinfo");
    let model =
        processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = file("/proc/sys/kernel/osrelease");
    format!("{}, {cores} cores, Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}
