//! Mistakes, and how they are shown: file:line:column, the line, what is wrong, what would be right.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where, in the sources laid end to end; `None` for the file as a whole.
    pub(crate) span: Option<Range<usize>>,
    pub(crate) title: String,
    /// What is wrong at that place.
    pub(crate) label: String,
    /// What would be right.
    pub(crate) help: Option<String>,
    /// Another place that has to do with it, and how.
    pub(crate) context: Option<(Range<usize>, String)>,
}

impl Diagnostic {
    /// What is wrong, in one line.
    pub fn title(&self) -> &str {
        &self.title
    }
}

/// A text that mistakes point into: the file, or the argument of a `--set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) name: String,
    /// Where it begins in the sources laid end to end.
    pub(crate) base: usize,
    pub(crate) text: String,
}

/// All the mistakes of a configuration; displaying it shows every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    /// In order of their base; never empty.
    sources: Vec<Source>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub(crate) fn new(sources: Vec<Source>, mut list: Vec<Diagnostic>) -> Self {
        list.sort_by_key(|one| one.span.as_ref().map_or((0, 0), |span| (span.start, span.end)));
        list.dedup();
        Self { sources, list }
    }

    /// A mistake about the file as a whole.
    pub(crate) fn whole(name: String, title: String, help: Option<String>) -> Self {
        let one = Diagnostic { span: None, title, label: String::new(), help, context: None };
        Self { sources: vec![Source { name, base: 0, text: String::new() }], list: vec![one] }
    }

    /// The mistakes, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// Where a mistake is: the name of the file (or `--set`), line and column, both from 1, the column in characters.
    pub fn place(&self, one: &Diagnostic) -> Option<(&str, usize, usize)> {
        let (source, span) = self.locate(one.span.as_ref()?)?;
        let before = &source.text[..span.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Some((&source.name, before.matches('\n').count() + 1, before[line_start..].chars().count() + 1))
    }

    /// The source that a span is in, and the span within it, on character boundaries and inside the text.
    fn locate(&self, span: &Range<usize>) -> Option<(&Source, Range<usize>)> {
        let source = self.sources.iter().rev().find(|source| source.base <= span.start)?;
        let floor = |at: usize| {
            source.text.floor_char_boundary(at.saturating_sub(source.base).min(source.text.len()))
        };
        let (start, end) = (floor(span.start), floor(span.end));
        Some((source, start..end.max(start)))
    }

    fn render(&self, one: &Diagnostic) -> String {
        let nothing: [Snippet<'_, Annotation<'_>>; 0] = [];
        let mut group: Group<'_> = Level::ERROR.primary_title(one.title.as_str()).elements(nothing);
        if let Some((source, span)) = one.span.as_ref().and_then(|span| self.locate(span)) {
            let mut snippet = Snippet::source(source.text.as_str())
                .path(source.name.as_str())
                .annotation(AnnotationKind::Primary.span(span).label(one.label.as_str()));
            let mut elsewhere = None;
            if let Some((span, label)) = &one.context
                && let Some((other, span)) = self.locate(span)
            {
                let annotation = AnnotationKind::Context.span(span).label(label.as_str());
                if other.base == source.base {
                    snippet = snippet.annotation(annotation);
                } else {
                    elsewhere = Some(
                        Snippet::source(other.text.as_str()).path(other.name.as_str()).annotation(annotation),
                    );
                }
            }
            group = group.element(snippet);
            if let Some(elsewhere) = elsewhere {
                group = group.element(elsewhere);
            }
        }
        if let Some(help) = &one.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        Renderer::plain().render(&[group])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.list {
            writeln!(f, "{}\n", self.render(one))?;
        }
        let count = self.list.len();
        write!(f, "{}: {count} mistake{}", self.sources[0].name, if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Diagnostics {}
