//! `cargo xtask bench detectors`: how soon each failure detector speaks when its peer falls silent, and how often it speaks
//! without reason while every core is busy. The defaults of each table are what is measured.
//!
//! Every round is printed when it is over, and the table so far now and then: a run that is ended early has shown what it had.

mod busy;
mod deaths;

use std::time::Duration;

use ft_e2e::{Bed, Guest, Settings};

use super::table::shown;

/// What a run may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A table of the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fixed,
    PhiAccrual,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::PhiAccrual => "phi-accrual",
        }
    }

    fn settings() -> Settings {
        Settings::new(Guest::Kv)
    }

    /// Puts this table, and nothing in it, in place of the one that tests use.
    fn choose(self, bed: &Bed) {
        let timeout = Self::settings().timeout.as_millis();
        bed.edit(
            &format!("[detector.fixed]\nheartbeat = \"20 ms\"\ntimeout = \"{timeout} ms\"\n"),
            &format!("[detector.{}]\n", self.name()),
        );
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    kinds: Vec<Kind>,
    /// Silent deaths of each.
    deaths: u32,
    /// How long the pairs are watched on a busy host.
    busy: Duration,
}

impl Plan {
    /// From the words after `bench detectors`; `None` if they are none of it.
    pub(crate) fn parse(mut words: &[&str]) -> Option<Self> {
        let mut plan = Self { kinds: vec![Kind::Fixed, Kind::PhiAccrual], deaths: 0, busy: Duration::ZERO };
        if words.is_empty() {
            (plan.deaths, plan.busy) = (50, Duration::from_secs(5 * 60));
        }
        while let [key, value, rest @ ..] = words {
            match *key {
                "--deaths" => plan.deaths = value.parse().ok()?,
                "--busy" => plan.busy = Duration::from_secs(value.parse::<u32>().ok().map(u64::from)? * 60),
                "--detector" => {
                    plan.kinds = match *value {
                        "fixed" => vec![Kind::Fixed],
                        "phi-accrual" => vec![Kind::PhiAccrual],
                        "both" => vec![Kind::Fixed, Kind::PhiAccrual],
                        _ => return None,
                    }
                }
                _ => return None,
            }
            words = rest;
        }
        words.is_empty().then_some(plan)
    }
}

/// What is known of a detector so far.
struct Seen {
    kind: Kind,
    /// From the moment of SIGSTOP to the launcher's line, in milliseconds.
    detected: Vec<f64>,
    watched: Duration,
    /// Suspicions of a peer that was there.
    wrong: u32,
    /// The longest silence that ended, in milliseconds.
    silence: f64,
}

impl Seen {
    fn new(kind: Kind) -> Self {
        Self { kind, detected: Vec::new(), watched: Duration::ZERO, wrong: 0, silence: f64::NAN }
    }

    /// The detected time that this share of the deaths did not exceed.
    fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.detected.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    fn cells(&self) -> [String; 9] {
        let ms = |value: f64| if value.is_nan() { "-".to_owned() } else { format!("{} ms", shown(value)) };
        [
            self.kind.name().to_owned(),
            self.detected.len().to_string(),
            ms(self.percentile(0.5)),
            ms(self.percentile(0.9)),
            ms(self.percentile(0.99)),
            ms(self.percentile(1.0)),
            format!("{:.0}", self.watched.as_secs_f64() / 60.0),
            self.wrong.to_string(),
            ms(self.silence),
        ]
    }
}

fn text(all: &[Seen]) -> String {
    let heading = [
        "detector",
        "deaths",
        "detected p50",
        "p90",
        "p99",
        "max",
        "busy minutes",
        "false suspicions",
        "longest silence",
    ];
    let rows: Vec<[String; 9]> =
        std::iter::once(heading.map(str::to_owned)).chain(all.iter().map(Seen::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |text, row| {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| match column {
                0 => format!("{cell:<0$}", width(column)),
                _ => format!("{cell:>0$}", width(column)),
            })
            .collect();
        text + &cells.join("  ") + "\n"
    })
}

/// Measures and prints.
pub(crate) fn run(plan: &Plan) -> Result<(), String> {
    super::build()?;
    let mut all: Vec<Seen> = plan.kinds.iter().copied().map(Seen::new).collect();
    busy::measure(plan.busy, &mut all);
    deaths::measure(plan.deaths, &mut all);
    print!("{}", text(&all));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_asked_for() {
        let plan = |text: &str| Plan::parse(&text.split_whitespace().collect::<Vec<_>>());
        let both = plan("--deaths 7").expect("it is one");
        assert_eq!((both.kinds.len(), both.deaths, both.busy), (2, 7, Duration::ZERO));
        let one = plan("--busy 2 --detector phi-accrual").expect("it is one");
        assert_eq!((one.kinds, one.deaths, one.busy.as_secs()), (vec![Kind::PhiAccrual], 0, 120));
        assert!(plan("").is_some_and(|plan| plan.deaths > 0 && !plan.busy.is_zero()));
        for wrong in ["--deaths", "--deaths x", "--detector none", "--busy -1", "deaths 3"] {
            assert_eq!(plan(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let mut seen = Seen::new(Kind::Fixed);
        assert!(seen.percentile(0.5).is_nan());
        seen.detected = (1..=100).rev().map(f64::from).collect();
        let found = [0.5, 0.9, 0.99, 1.0].map(|share| seen.percentile(share));
        assert_eq!(found, [50.0, 90.0, 99.0, 100.0]);
    }
}
