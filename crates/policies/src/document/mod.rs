//! A config file as a tree with places, before it has types.
//!
//! The file and each `--set` argument are laid end to end in one range of places, so that a place says by itself which of
//! them it is in. (An argument is parsed behind as many spaces as there is text before it.)

pub(crate) mod set;
pub(crate) mod shape;

use std::ops::Range;

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue, Error};

use crate::diagnostics::{Diagnostic, Source};

/// More text than any configuration: a wrong file is refused before it is parsed.
pub(crate) const MAX_TEXT: usize = 1 << 20;
/// The same for all the `--set` arguments together.
pub(crate) const MAX_SETS: usize = 1 << 16;

/// A value of the tree.
pub(crate) type Node<'t> = Spanned<DeValue<'t>>;

/// The texts of a document, which outlive the tree that borrows from them.
pub(crate) struct Texts {
    sources: Vec<Source>,
    /// The argument of each `--set`, behind its padding.
    padded: Vec<String>,
}

impl Texts {
    pub(crate) fn new(name: String, text: String, sets: &[String]) -> Self {
        let mut texts = Self { sources: vec![Source { name, base: 0, text }], padded: Vec::new() };
        for set in sets {
            // One past the end, so that "the end of the file" is a place of the file.
            let base = texts.sources.last().map_or(0, |last| last.base + last.text.len() + 1);
            texts.padded.push(format!("{:base$}{set}", ""));
            texts.sources.push(Source { name: "--set".into(), base, text: set.clone() });
        }
        texts
    }

    pub(crate) fn sources(&self) -> Vec<Source> {
        self.sources.clone()
    }
}

/// The tree of a file with its overrides.
pub(crate) struct Document<'t> {
    pub(crate) root: Node<'t>,
    /// Mistakes of TOML itself, and of the form of `--set`.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl<'t> Document<'t> {
    /// Parses everything as far as it goes: mistakes are collected, and what is around them is kept.
    pub(crate) fn parse(texts: &'t Texts, schema: &serde_json::Value) -> Self {
        let text = &texts.sources[0].text;
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut diagnostics: Vec<_> = errors.iter().map(|error| syntax(error, text.len(), None)).collect();
        let mut root = Spanned::new(0..text.len(), DeValue::Table(table.into_inner()));
        for (padded, source) in texts.padded.iter().zip(&texts.sources[1..]) {
            if let Err(mistakes) = set::apply(&mut root, schema, padded, source) {
                diagnostics.extend(mistakes);
            }
        }
        Self { root, diagnostics }
    }
}

/// A mistake of TOML itself.
fn syntax(error: &Error, end: usize, help: Option<&str>) -> Diagnostic {
    let label = error.message().lines().collect::<Vec<_>>().join(", ");
    let span = error.span().unwrap_or(end..end);
    mistake(span, "this is not TOML", label, help.map(str::to_owned))
}

pub(crate) fn mistake(
    span: Range<usize>,
    title: impl Into<String>,
    label: impl Into<String>,
    help: Option<String>,
) -> Diagnostic {
    Diagnostic { span: Some(span), title: title.into(), label: label.into(), help, context: None }
}
