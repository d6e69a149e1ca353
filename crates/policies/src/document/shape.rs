//! The walk of a tree along the JSON schema: every unknown key, missing key, wrong type and wrong form, not only the first.
//!
//! What is wrong is reported and taken out of the tree, so that the rest can be given its types and checked further.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;
use serde_spanned::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::{Node, mistake};
use crate::diagnostics::Diagnostic;
use crate::schema::values::{FORMS, Form};

/// What the walk found.
#[derive(Default)]
pub(crate) struct Shape {
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Keys that must be there and are not: apart, because after a mistake of TOML itself they may well be there.
    pub(crate) missing: Vec<Diagnostic>,
    /// The place of every key, by its path.
    pub(crate) keys: BTreeMap<String, Range<usize>>,
    /// The paths of what was taken out.
    pub(crate) dropped: Vec<String>,
}

/// The node that a reference, or an `allOf` around one, leads to.
pub(crate) fn follow<'s>(schema: &'s Value, mut node: &'s Value) -> &'s Value {
    loop {
        let reference = node.get("$ref").or_else(|| node.get("allOf")?.get(0)?.get("$ref"));
        let Some(name) =
            reference.and_then(Value::as_str).and_then(|path| path.strip_prefix("#/definitions/"))
        else {
            return node;
        };
        match schema.get("definitions").and_then(|definitions| definitions.get(name)) {
            Some(target) => node = target,
            None => return node,
        }
    }
}

/// The form that a node's text must have, if it is one of [`FORMS`].
fn form(node: &Value) -> Option<&'static Form> {
    let reference = node.get("$ref").or_else(|| node.get("allOf")?.get(0)?.get("$ref"))?;
    let name = reference.as_str()?.strip_prefix("#/definitions/")?;
    FORMS.iter().find(|form| form.name == name)
}

/// The schema of one key; `null` for an unknown one.
pub(crate) fn property<'s>(node: &'s Value, key: &str) -> &'s Value {
    static NONE: Value = Value::Null;
    let own = node.get("properties").and_then(|properties| properties.get(key));
    own.or_else(|| branches(node).find_map(|branch| branch.get("properties")?.get(key))).unwrap_or(&NONE)
}

fn branches(node: &Value) -> impl Iterator<Item = &Value> {
    node.get("oneOf").and_then(Value::as_array).into_iter().flatten()
}

/// The keys of which there is exactly one: the kinds of a policy.
fn choices(node: &Value) -> Vec<String> {
    branches(node).filter_map(|branch| branch.get("required")?.get(0)?.as_str()).map(str::to_owned).collect()
}

/// The keys that may not stand beside `key`.
pub(crate) fn rivals(node: &Value, key: &str) -> Vec<String> {
    let mut choices = choices(node);
    if choices.iter().any(|choice| choice == key) {
        choices.retain(|choice| choice != key);
        choices
    } else {
        Vec::new()
    }
}

pub(crate) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Walks the whole tree.
pub(crate) fn walk(root: &mut Node<'_>, schema: &Value) -> Shape {
    let mut walk = Walk { schema, shape: Shape::default() };
    let end = root.span().end;
    walk.value(root, schema, "", end..end);
    walk.shape
}

struct Walk<'s> {
    schema: &'s Value,
    shape: Shape,
}

impl Walk<'_> {
    fn report(&mut self, span: Range<usize>, title: String, label: impl Into<String>, help: Option<String>) {
        self.shape.diagnostics.push(mistake(span, title, label, help));
    }

    /// Whether the value may stay. `place` is where its key is, or what else stands for a table as a whole.
    fn value(&mut self, value: &mut Node<'_>, node: &Value, path: &str, place: Range<usize>) -> bool {
        let target = follow(self.schema, node);
        let span = value.span();
        let keeps = if !choices(target).is_empty() && target.get("properties").is_none() {
            match value.get_mut() {
                DeValue::Table(table) => return self.choice(table, target, path, place),
                _ => false,
            }
        } else if target.get("properties").is_some() || target.get("type") == Some(&"object".into()) {
            match value.get_mut() {
                DeValue::Table(table) => return self.table(table, target, path, place),
                _ => false,
            }
        } else if let Some(items) = target.get("items") {
            match value.get_mut() {
                DeValue::Array(array) => {
                    self.array(array, items, path);
                    return true;
                }
                _ => false,
            }
        } else if branches(target).next().is_some() {
            match value.get_ref() {
                DeValue::String(text) => return self.word(text, target, path, span),
                _ => false,
            }
        } else {
            match (target.get("type").and_then(Value::as_str), value.get_ref()) {
                (Some("string"), DeValue::String(text)) => return self.text(text, node, path, span),
                (Some("boolean"), DeValue::Boolean(_)) => true,
                (Some("integer"), DeValue::Integer(number)) => {
                    return self.integer(&number.to_string(), target, path, span);
                }
                (Some("number"), DeValue::Integer(number)) => {
                    return self.number(&number.to_string(), target, path, span);
                }
                (Some("number"), DeValue::Float(number)) => {
                    return self.number(&number.to_string(), target, path, span);
                }
                _ => false,
            }
        };
        if !keeps {
            let found = format!("this is {}", type_name(value.get_ref()));
            self.report(span, format!("`{path}` has the wrong type"), found, Some(self.wanted(node, path)));
        }
        keeps
    }

    /// What a value must be, in words.
    fn wanted(&self, node: &Value, path: &str) -> String {
        let target = follow(self.schema, node);
        let name = path.rsplit('.').next().unwrap_or(path);
        if let Some(form) = form(node) {
            return format!("a string: {}", form.form);
        }
        let choices = choices(target);
        if target.get("properties").is_none() && !choices.is_empty() {
            return format!(
                "a table named for its kind: {}",
                listed(choices.iter().map(|kind| format!("[{path}.{kind}]")))
            );
        }
        if target.get("properties").is_some() {
            return format!("a table: [{path}]");
        }
        if let Some(items) = target.get("items") {
            return if follow(self.schema, items).get("properties").is_some() {
                format!("an array of tables: each begins with [[{name}]]")
            } else {
                format!("an array of strings, each {}", form(items).map_or("a text", |form| form.form))
            };
        }
        if branches(target).next().is_some() {
            return format!("one of {}", listed(words(target).iter().map(|word| format!("\"{word}\""))));
        }
        match target.get("type").and_then(Value::as_str) {
            Some("boolean") => "true or false".into(),
            Some("integer") => "a whole number".into(),
            Some("number") => numbers(target),
            _ => "a string".into(),
        }
    }

    fn text(&mut self, text: &str, node: &Value, path: &str, span: Range<usize>) -> bool {
        let Some(form) = form(node) else { return true };
        match (form.check)(text) {
            Ok(()) => true,
            Err(reason) => {
                self.report(
                    span,
                    format!("`{path}` is not {}", form.what),
                    reason,
                    Some(format!("expected {}", form.form)),
                );
                false
            }
        }
    }

    fn word(&mut self, text: &str, target: &Value, path: &str, span: Range<usize>) -> bool {
        let words = words(target);
        if words.iter().any(|word| word == text) {
            return true;
        }
        let label =
            similar(text, &words).map_or_else(String::new, |word| format!("did you mean \"{word}\"?"));
        let help = format!("one of {}", listed(words.iter().map(|word| format!("\"{word}\""))));
        self.report(span, format!("`{path}` cannot be \"{}\"", text.escape_debug()), label, Some(help));
        false
    }

    fn integer(&mut self, text: &str, target: &Value, path: &str, span: Range<usize>) -> bool {
        let (least, most) = (bound(target, "minimum", 0), bound(target, "maximum", i64::MAX));
        if text.parse::<i64>().is_ok_and(|number| (least..=most).contains(&number)) {
            return true;
        }
        let help = format!("a whole number from {least} to {most}, in decimal");
        self.report(span, format!("`{path}` is out of range"), "", Some(help));
        false
    }

    fn number(&mut self, text: &str, target: &Value, path: &str, span: Range<usize>) -> bool {
        let (least, most) =
            (bound(target, "minimum", i64::MIN) as f64, bound(target, "maximum", i64::MAX) as f64);
        // `nan` parses, and lies in no range.
        if text.parse::<f64>().is_ok_and(|number| (least..=most).contains(&number)) {
            return true;
        }
        self.report(span, format!("`{path}` is out of range"), "", Some(numbers(target)));
        false
    }

    fn array(&mut self, array: &mut DeArray<'_>, items: &Value, path: &str) {
        let kept = std::mem::replace(array, DeArray::new()).into_iter();
        // An element that is missing something stands for itself: it has no key of its own.
        *array = kept
            .filter_map(|mut item| {
                let place = item.span();
                let right = self.value(&mut item, items, path, place);
                if !right {
                    self.shape.dropped.push(path.to_owned());
                }
                right.then_some(item)
            })
            .collect();
    }

    /// An externally tagged enum: a table with exactly one key, the kind.
    fn choice(&mut self, table: &mut DeTable<'_>, target: &Value, path: &str, place: Range<usize>) -> bool {
        let choices = choices(target);
        let headers = || listed(choices.iter().map(|kind| format!("[{path}.{kind}]")));
        let mut known: Vec<Range<usize>> = Vec::new();
        let mut strangers = false;
        for key in table.keys() {
            if choices.iter().any(|choice| *choice == **key.get_ref()) {
                known.push(key.span());
            } else {
                strangers = true;
                let label = similar(key.get_ref(), &choices)
                    .map_or_else(String::new, |kind| format!("did you mean `{kind}`?"));
                let title = format!("`{}` is not a kind of `{path}`", key.get_ref().escape_debug());
                let help = Some(format!("one of {}", headers()));
                self.shape.diagnostics.push(mistake(key.span(), title, label, help));
            }
        }
        known.sort_by_key(|span| span.start);
        if let [first, .., last] = known.as_slice() {
            let mut one = mistake(
                last.clone(),
                format!("`{path}` is chosen twice"),
                "second choice",
                Some(format!("exactly one of {}", headers())),
            );
            one.context = Some((first.clone(), "first choice".into()));
            self.shape.diagnostics.push(one);
        } else if known.is_empty() && !strangers {
            self.report(place, format!("`{path}` says no kind"), "", Some(format!("one of {}", headers())));
        }
        let keep = known.len() == 1 && !strangers;
        // Also what cannot stay is walked, for the mistakes inside it.
        for (key, value) in table.iter_mut() {
            let name = key.get_ref().as_ref();
            let inner = property(target, name);
            if !inner.is_null() {
                let path = format!("{path}.{name}");
                self.shape.keys.insert(path.clone(), key.span());
                if !self.value(value, inner, &path, key.span()) {
                    self.shape.dropped.push(path);
                    return false;
                }
            }
        }
        keep
    }

    /// A table with known keys. It always stays: what is wrong in it is taken out.
    fn table(&mut self, table: &mut DeTable<'_>, target: &Value, path: &str, place: Range<usize>) -> bool {
        let known: Vec<String> = match target.get("properties").and_then(Value::as_object) {
            Some(properties) => properties.keys().cloned().collect(),
            None => Vec::new(),
        };
        let full = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let (mut remove, mut guessed) = (Vec::new(), Vec::new());
        for (key, value) in table.iter_mut() {
            let name = key.get_ref().as_ref();
            let inner = property(target, name);
            if inner.is_null() {
                let guess = similar(name, &known);
                let label = guess.map_or_else(String::new, |guess| format!("did you mean `{guess}`?"));
                guessed.extend(guess.cloned());
                let here = if path.is_empty() { "a config file".into() } else { format!("`{path}`") };
                let help = match known.as_slice() {
                    [] => format!("{here} has no keys"),
                    known => format!(
                        "the keys of {here} are {}",
                        listed(known.iter().map(|key| format!("`{key}`")))
                    ),
                };
                let title = format!("unknown key `{}`", full(name).escape_debug());
                self.report(key.span(), title, label, Some(help));
                remove.push(name.to_owned());
                continue;
            }
            let inner_path = full(name);
            self.shape.keys.insert(inner_path.clone(), key.span());
            if !self.value(value, inner, &inner_path, key.span()) {
                self.shape.dropped.push(inner_path);
                remove.push(name.to_owned());
            }
        }
        self.missing(table, target, path, &place, &guessed);
        self.exclusive(table, target, path, &place);
        for name in remove {
            table.remove(name.as_str());
        }
        true
    }

    fn missing(
        &mut self,
        table: &DeTable<'_>,
        target: &Value,
        path: &str,
        place: &Range<usize>,
        guessed: &[String],
    ) {
        let required =
            target.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for name in required {
            if table.contains_key(name) || guessed.iter().any(|guess| guess == name) {
                continue;
            }
            let node = property(target, name);
            let (title, help) = if path.is_empty() {
                (format!("`{name}` is missing"), self.wanted(node, name))
            } else {
                let example = node.get("examples").and_then(|examples| examples.get(0));
                let example = example
                    .map(|value| format!("{name} = {value}"))
                    .unwrap_or_else(|| self.wanted(node, name));
                (format!("`{path}.{name}` is missing"), format!("for example: {example}"))
            };
            self.shape.missing.push(mistake(place.clone(), title, "", Some(help)));
        }
    }

    /// Keys of which exactly one must be there, beside others.
    fn exclusive(&mut self, table: &DeTable<'_>, target: &Value, path: &str, place: &Range<usize>) {
        let choices = choices(target);
        if choices.is_empty() {
            return;
        }
        let headers = listed(choices.iter().map(|choice| format!("[{path}.{choice}]")));
        let mut present: Vec<_> = table
            .keys()
            .filter(|key| choices.iter().any(|choice| *choice == **key.get_ref()))
            .map(Spanned::span)
            .collect();
        present.sort_by_key(|span| span.start);
        match present.as_slice() {
            [] => {
                let title = format!("`{path}` is connected to nothing");
                self.shape.missing.push(mistake(
                    place.clone(),
                    title,
                    "",
                    Some(format!("exactly one of {headers}")),
                ));
            }
            [_] => {}
            [first, .., last] => {
                let mut one = mistake(
                    last.clone(),
                    format!("`{path}` is connected twice"),
                    "second choice",
                    Some(format!("exactly one of {headers}")),
                );
                one.context = Some((first.clone(), "first choice".into()));
                self.shape.diagnostics.push(one);
            }
        }
    }
}

fn words(target: &Value) -> Vec<String> {
    branches(target).filter_map(|branch| branch.get("const")?.as_str()).map(str::to_owned).collect()
}

fn bound(target: &Value, name: &str, otherwise: i64) -> i64 {
    target.get(name).and_then(Value::as_i64).unwrap_or(otherwise)
}

/// The numbers that a node allows, in words.
fn numbers(target: &Value) -> String {
    format!("a number from {} to {}", bound(target, "minimum", i64::MIN), bound(target, "maximum", i64::MAX))
}

fn listed(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// The known name that was probably meant, if one is near: two edits at most, and fewer than the name is long.
fn similar<'n>(name: &str, known: &'n [String]) -> Option<&'n String> {
    // No key is that long, and the comparison is quadratic.
    if name.len() > 40 {
        return None;
    }
    let near = known.iter().map(|other| (edits(name, other), other)).min_by_key(|(edits, _)| *edits)?;
    (near.0 <= 2 && near.0 * 2 <= near.1.len()).then_some(near.1)
}

/// The number of insertions, removals and replacements that make one of the other (Levenshtein).
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, c) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, d) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}
