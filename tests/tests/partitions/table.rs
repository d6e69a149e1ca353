//! What the matrix prints.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use ft_e2e::TieBreaker;

/// What came of one scenario, once.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Its name.
    pub(crate) name: &'static str,
    /// Who runs the guest in the end: `a`, `b`, or `a with b`.
    pub(crate) live: String,
    /// What became of the other one.
    pub(crate) other: &'static str,
    /// Who spoke for the guest on its LAN, one after the other.
    pub(crate) spoke: String,
    /// The longest that a client waited for a reply.
    pub(crate) silence: Duration,
    /// Replies that clients checked.
    pub(crate) replies: u64,
}

/// Rows by scenario, in the order in which they first came.
#[derive(Default)]
pub(crate) struct Table {
    names: Vec<&'static str>,
    rows: BTreeMap<&'static str, Vec<Row>>,
}

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        if !self.names.contains(&row.name) {
            self.names.push(row.name);
        }
        self.rows.entry(row.name).or_default().push(row);
    }

    pub(crate) fn print(&self, kind: TieBreaker) -> String {
        let mut lines = vec![
            [
                "what happens",
                "runs",
                "who lives",
                "the other",
                "spoke for it",
                "clients waited ms",
                "checked replies",
            ]
            .map(str::to_owned),
        ];
        for name in &self.names {
            let rows = &self.rows[name];
            let each = |field: &dyn Fn(&Row) -> String| {
                let mut counts = BTreeMap::<String, usize>::new();
                rows.iter().for_each(|row| *counts.entry(field(row)).or_default() += 1);
                let one = counts.len() == 1;
                let texts = counts
                    .into_iter()
                    .map(|(text, count)| if one { text } else { format!("{text} ({count})") });
                texts.collect::<Vec<_>>().join(", ")
            };
            let (least, most) =
                (rows.iter().map(|row| row.silence).min(), rows.iter().map(|row| row.silence).max());
            let (least, most) = (least.unwrap_or_default().as_millis(), most.unwrap_or_default().as_millis());
            lines.push([
                (*name).to_owned(),
                rows.len().to_string(),
                each(&|row| row.live.clone()),
                each(&|row| row.other.to_owned()),
                each(&|row| row.spoke.clone()),
                if least == most { most.to_string() } else { format!("{least}-{most}") },
                rows.iter().map(|row| row.replies).sum::<u64>().to_string(),
            ]);
        }
        let mut text = format!("\npartitions, tie-breaker {}\n", name_of(kind));
        for line in &lines {
            for (at, cell) in line.iter().enumerate() {
                let width = lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
                let _ = write!(text, "{cell:<width$}  ");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }
}

pub(crate) fn name_of(kind: TieBreaker) -> &'static str {
    match kind {
        TieBreaker::SharedDisk => "shared-disk",
        TieBreaker::Witness => "witness",
        TieBreaker::Etcd { .. } => "etcd",
        TieBreaker::Manual => "manual",
    }
}
