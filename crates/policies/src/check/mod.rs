//! From a text to a [`Config`]: parse, walk the shape, give types, check what the values mean, fill in the defaults.
//!
//! Every step collects its mistakes and goes on with what is left, so that one look at the messages is enough. What this
//! version does not implement is refused by name: nothing is accepted and then ignored.

mod faults;
mod meaning;
mod network;
mod paths;
mod storage;
mod vm;

pub(crate) use network::NO_ADDRESS;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_spanned::Spanned;
use toml::de::{DeValue, Deserializer};

use crate::config::Config;
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::document::{Document, MAX_SETS, MAX_TEXT, Texts, mistake, shape};
use crate::schema::{self, At, tables::Root};

pub(crate) fn load(path: &Path, sets: &[String]) -> Result<Config, Diagnostics> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => parse(path, &bytes, sets),
        Err(error) => {
            let title = format!("cannot read the configuration {}: {error}", path.display());
            Err(Diagnostics::whole(path.display().to_string(), title, None))
        }
    }
}

pub(crate) fn parse(path: &Path, bytes: &[u8], sets: &[String]) -> Result<Config, Diagnostics> {
    let name = path.display().to_string();
    if bytes.len() > MAX_TEXT {
        let title = format!("{name} is no configuration: it has more than {MAX_TEXT} bytes");
        return Err(Diagnostics::whole(name, title, None));
    }
    if sets.iter().map(|set| set.len() + 1).sum::<usize>() > MAX_SETS || sets.len() > 256 {
        let title = format!("the --set arguments have more than {MAX_SETS} bytes, or are more than 256");
        return Err(Diagnostics::whole(name, title, None));
    }
    let absolute = match std::path::absolute(path) {
        Ok(absolute) => absolute,
        Err(error) => {
            let title = format!("cannot tell where {name} is: {error}");
            return Err(Diagnostics::whole(name, title, None));
        }
    };
    let text = String::from_utf8_lossy(bytes).into_owned();
    let bad_utf8 = std::str::from_utf8(bytes).err().map(|error| error.valid_up_to());
    let texts = Texts::new(name, text, sets);
    match checked(&texts, &absolute, bad_utf8) {
        Ok(config) => Ok(config),
        Err(list) => Err(Diagnostics::new(texts.sources(), list)),
    }
}

fn checked(texts: &Texts, path: &Path, bad_utf8: Option<usize>) -> Result<Config, Vec<Diagnostic>> {
    if let Some(at) = bad_utf8 {
        let help = Some("a configuration is UTF-8 text".into());
        return Err(vec![mistake(at..at + 1, "this is not TOML", "not UTF-8", help)]);
    }
    let schema = schema::json();
    let Document { mut root, mut diagnostics } = Document::parse(texts, &schema);
    let broken = !diagnostics.is_empty();
    let shape = shape::walk(&mut root, &schema);
    if broken {
        // What the parser skipped is not missing, and what it guessed on a broken line is nobody's mistake.
        let lines: Vec<_> = diagnostics.iter().filter_map(|one| line(texts, one)).collect();
        diagnostics.extend(
            shape
                .diagnostics
                .into_iter()
                .filter(|one| line(texts, one).is_none_or(|at| !lines.contains(&at))),
        );
        return Err(diagnostics);
    }
    diagnostics.extend(shape.diagnostics);
    diagnostics.extend(shape.missing);

    let span = root.span();
    let DeValue::Table(table) = root.into_inner() else {
        return Err(vec![mistake(0..0, "this is not a table", "", None)]);
    };
    let root = match Root::deserialize(Deserializer::from(Spanned::new(span.clone(), table))) {
        Ok(root) => root,
        Err(error) => {
            // The walk has found whatever the types refuse; should it ever miss something, this is where it is said.
            diagnostics.push(mistake(
                error.span().unwrap_or(span),
                "this does not fit",
                error.message(),
                None,
            ));
            return Err(diagnostics);
        }
    };
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let mut check = Check { folder, keys: shape.keys, dropped: shape.dropped, diagnostics };
    let config = meaning::resolve(root, path, &mut check);
    if check.diagnostics.is_empty() { Ok(config) } else { Err(check.diagnostics) }
}

/// Which line a mistake is in, counted through all the sources.
fn line(texts: &Texts, one: &Diagnostic) -> Option<(usize, usize)> {
    let start = one.span.as_ref()?.start;
    let sources = texts.sources();
    let source = sources.iter().rev().find(|source| source.base <= start)?;
    let at = source.text.floor_char_boundary((start - source.base).min(source.text.len()));
    Some((source.base, source.text[..at].matches('\n').count()))
}

/// What the checks of meaning share.
pub(crate) struct Check {
    /// The folder of the config file: relative paths begin here.
    folder: PathBuf,
    keys: BTreeMap<String, Range<usize>>,
    dropped: Vec<String>,
    diagnostics: Vec<Diagnostic>,
}

impl Check {
    pub(crate) fn error(
        &mut self,
        span: Range<usize>,
        title: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics.push(mistake(span, title, label, Some(help.into())));
    }

    /// As [`Check::error`], with a second place.
    pub(crate) fn error_with(
        &mut self,
        span: Range<usize>,
        title: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
        context: (Range<usize>, String),
    ) {
        let mut one = mistake(span, title, label, Some(help.into()));
        one.context = Some(context);
        self.diagnostics.push(one);
    }

    /// Refuses something that the schema knows and this version does not do. `what` is how it is written.
    pub(crate) fn unavailable_at(&mut self, span: Range<usize>, what: &str, help: &str) {
        self.error(span, format!("{what} is not available in this version"), "", help);
    }

    /// Whether something of this table was wrong and is already reported: then its other values are not compared with a
    /// default that nobody chose.
    pub(crate) fn dropped(&self, path: &str) -> bool {
        self.dropped.iter().any(|dropped| dropped.starts_with(path))
    }

    /// The value, or the default that the schema shows.
    pub(crate) fn or_default<T: Copy>(
        &self,
        value: Option<&At<T>>,
        default: &str,
        parse: fn(&str) -> Result<T, String>,
    ) -> T {
        match value {
            Some(at) => **at,
            None => parse(default).expect("the defaults of the schema have the right form (tested)"),
        }
    }

    /// Whether a value, if there is one, lies within bounds.
    pub(crate) fn range<T: PartialOrd + Display>(
        &mut self,
        value: Option<&At<T>>,
        what: &str,
        least: T,
        most: T,
    ) -> bool {
        let Some(at) = value else { return true };
        let value: &T = at;
        let label = if *value < least {
            "too small"
        } else if *value > most {
            "too large"
        } else {
            return true;
        };
        let help = format!("from \"{least}\" to \"{most}\"");
        self.error(at.span(), format!("{what} is out of range"), label, help);
        false
    }
}
