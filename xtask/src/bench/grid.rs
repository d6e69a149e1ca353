//! Figures of the same things side by side: a row for each figure, a column for each kind of machine.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::table::shown;

/// A column: the heading, and its part of the keys.
pub(crate) struct Column {
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
}

enum Line {
    Heading(String),
    Row(Row),
}

/// What a row is, without its numbers.
pub(crate) struct Figure<'a> {
    /// In JSON a number's name is `GROUP_COLUMN_KEY`: `seqread_separate_p50_us`.
    pub(crate) key: &'static str,
    pub(crate) what: &'a str,
    pub(crate) unit: &'static str,
    pub(crate) aim: &'static str,
    pub(crate) anchor: &'static str,
}

struct Row {
    key: String,
    what: String,
    heading: String,
    values: Vec<f64>,
    unit: &'static str,
    aim: &'static str,
    anchor: &'static str,
}

/// Groups of rows under columns.
pub(crate) struct Grid {
    title: &'static str,
    columns: Vec<Column>,
    group: (&'static str, String),
    lines: Vec<Line>,
}

impl Grid {
    pub(crate) fn new(title: &'static str, columns: Vec<Column>) -> Self {
        Self { title, columns, group: ("", String::new()), lines: Vec::new() }
    }

    /// Begins a group. `key` is its part of the keys.
    pub(crate) fn group(&mut self, key: &'static str, heading: impl Into<String>) {
        let heading = heading.into();
        eprintln!("{heading}:");
        self.group = (key, heading.clone());
        self.lines.push(Line::Heading(heading));
    }

    /// Adds a row. Its values are in the order of the columns; where there is none, it is not a number.
    pub(crate) fn add(&mut self, figure: &Figure<'_>, values: Vec<f64>) {
        let &Figure { key, what, unit, aim, anchor } = figure;
        let all = self.columns.iter().zip(&values).filter(|(_, value)| !value.is_nan());
        let all = all.map(|(column, value)| format!("{} {}", column.name, shown(*value)));
        eprintln!("  {what}: {} {unit}", all.collect::<Vec<_>>().join(", "));
        let (group, heading) = self.group.clone();
        self.lines.push(Line::Row(Row {
            key: format!("{group}_{{}}_{key}"),
            what: what.to_owned(),
            heading,
            values,
            unit,
            aim,
            anchor,
        }));
    }

    /// Under the title and the columns' headings.
    pub(crate) fn text(&self) -> String {
        let rows = || {
            self.lines.iter().filter_map(|line| match line {
                Line::Heading(_) => None,
                Line::Row(row) => Some(row),
            })
        };
        let what_width = rows().map(|row| row.label().chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let longest = rows().map(|row| cell(row.values[index]).len()).max().unwrap_or(0);
                longest.max(column.name.chars().count())
            })
            .collect();
        let aim_width = rows().map(|row| row.aim.chars().count()).max().unwrap_or(0).max(3);

        let mut text = format!("{}\n\n{:what_width$}", self.title, "figure");
        for (column, width) in self.columns.iter().zip(&widths) {
            let _ = write!(text, "  {:>width$}", column.name);
        }
        let _ = writeln!(text, "  {:aim_width$}  for comparison", "aim");
        for line in &self.lines {
            let row = match line {
                Line::Heading(heading) => {
                    let _ = writeln!(text, "{heading}");
                    continue;
                }
                Line::Row(row) => row,
            };
            let mut line = format!("{:what_width$}", row.label());
            for (value, width) in row.values.iter().zip(&widths) {
                let _ = write!(line, "  {:>width$}", cell(*value));
            }
            let _ = write!(line, "  {:aim_width$}  {}", row.aim, row.anchor);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    /// For other programs, into the figures of the table.
    pub(crate) fn json(&self, into: &mut Map<String, Value>) {
        for line in &self.lines {
            let Line::Row(row) = line else { continue };
            for (column, value) in self.columns.iter().zip(&row.values).filter(|(_, value)| !value.is_nan()) {
                let what = format!("{}, {}: {}", row.heading, column.name, row.what);
                let figure = json!({ "value": value, "unit": row.unit, "what": what });
                into.insert(row.key.replace("{}", column.key), figure);
            }
        }
    }
}

impl Row {
    fn label(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!(", {}", self.unit) };
        format!("  {}{unit}", self.what)
    }
}

fn cell(value: f64) -> String {
    if value.is_nan() { "-".into() } else { shown(value) }
}
