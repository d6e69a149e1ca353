//! `--set KEY=TOML`: puts one key or table into the tree, over what the file says.
//!
//! A part of the key that is a number is a place in an array (`disk.0.reads`); the place after the last one adds an element.
//! Where a table stands for a choice (a policy), the new choice replaces the old one.

use std::ops::Range;

use serde_json::Value;
use serde_spanned::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::{Node, mistake, shape, syntax};
use crate::diagnostics::{Diagnostic, Source};

const FORM: &str = "--set takes KEY=TOML, such as --set vm.memory='\"1 GiB\"' or --set pacing='{none={}}'";

type Key<'t> = Spanned<std::borrow::Cow<'t, str>>;

/// `padded` is the text of `source` at its place.
pub(super) fn apply<'t>(
    root: &mut Node<'t>,
    schema: &Value,
    padded: &'t str,
    source: &Source,
) -> Result<(), Vec<Diagnostic>> {
    let whole = source.base..source.base + source.text.len();
    let Some(equals) = equals_sign(&source.text) else {
        return Err(vec![mistake(whole, "this sets nothing", "there is no `=`", Some(FORM.into()))]);
    };
    // How many parts the key has is not to be seen in the parsed whole, where `a.b=1` and `a={b=1}` are the same.
    let key_text = &source.text[..equals];
    let parts = match DeTable::parse(&format!("{key_text}=0")) {
        Ok(table) => depth(table.get_ref()),
        Err(error) => {
            let span =
                error.span().map_or(whole.clone(), |span| span.start + source.base..span.end + source.base);
            return Err(vec![mistake(
                span,
                "this is not a key",
                error.message().to_owned(),
                Some(FORM.into()),
            )]);
        }
    };
    let table = match DeTable::parse(padded) {
        Ok(table) => table.into_inner(),
        Err(error) => return Err(vec![syntax(&error, whole.end, Some(FORM))]),
    };
    let mut path = Vec::new();
    let mut value = Spanned::new(whole.clone(), DeValue::Table(table));
    for _ in 0..parts {
        let DeValue::Table(table) = value.into_inner() else { unreachable!("the key has that many parts") };
        let mut entries = table.into_iter();
        let (Some((key, inner)), None) = (entries.next(), entries.next()) else {
            let help = Some("repeat --set for each key".into());
            return Err(vec![mistake(whole, "this sets more than one key", "", help)]);
        };
        path.push(key);
        value = inner;
    }
    put(root, schema, schema, &path, value).map_err(|one| vec![*one])
}

/// Where the key ends: the first `=` outside quotes.
fn equals_sign(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (at, byte) in text.bytes().enumerate() {
        match quote {
            _ if escaped => escaped = false,
            Some(b'"') if byte == b'\\' => escaped = true,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if byte == b'"' || byte == b'\'' => quote = Some(byte),
            None if byte == b'=' => return Some(at),
            None => {}
        }
    }
    None
}

/// The number of parts of the key in a table that holds nothing but `KEY=0`.
fn depth(table: &DeTable<'_>) -> usize {
    match table.values().next().map(Spanned::get_ref) {
        Some(DeValue::Table(inner)) => 1 + depth(inner),
        Some(_) => 1,
        None => 0,
    }
}

fn put<'t>(
    target: &mut Node<'t>,
    schema: &Value,
    node: &Value,
    path: &[Key<'t>],
    value: Node<'t>,
) -> Result<(), Box<Diagnostic>> {
    let Some((key, rest)) = path.split_first() else {
        *target = value;
        return Ok(());
    };
    let node = shape::follow(schema, node);
    let name = key.get_ref().as_ref();
    match target.get_mut() {
        DeValue::Table(table) => {
            for rival in shape::rivals(node, name) {
                table.remove(rival.as_str());
            }
            let inner = shape::property(node, name);
            // The place of a key that is set is in the `--set`, also where the file has that key.
            let mut present = table.remove(name).filter(|_| !rest.is_empty());
            let fresh = || {
                let array =
                    rest.first().is_some_and(is_index) && shape::follow(schema, inner).get("items").is_some();
                let empty =
                    if array { DeValue::Array(DeArray::new()) } else { DeValue::Table(DeTable::new()) };
                Spanned::new(key.span(), empty)
            };
            let mut slot = present.take().unwrap_or_else(fresh);
            let result = put(&mut slot, schema, inner, rest, value);
            table.insert(key.clone(), slot);
            result
        }
        DeValue::Array(array) if is_index(key) => {
            let count = array.len();
            let inner = node.get("items").unwrap_or(&Value::Null);
            match name.parse::<usize>() {
                Ok(index) if index < count => put(&mut array.as_mut()[index], schema, inner, rest, value),
                Ok(index) if index == count => {
                    let mut slot = Spanned::new(key.span(), DeValue::Table(DeTable::new()));
                    put(&mut slot, schema, inner, rest, value)?;
                    array.push(slot);
                    Ok(())
                }
                _ => Err(boxed(
                    key.span(),
                    "there is no such element",
                    format!("there are {count}"),
                    Some(format!("elements are counted from 0; {count} adds one")),
                )),
            }
        }
        DeValue::Array(_) => Err(boxed(
            key.span(),
            "this is an array",
            "a number is needed here",
            Some("for the first element: 0".into()),
        )),
        other => Err(boxed(
            key.span(),
            "there is no table to set this in",
            format!("what stands before it is {}", shape::type_name(other)),
            None,
        )),
    }
}

fn boxed(span: Range<usize>, title: &str, label: impl Into<String>, help: Option<String>) -> Box<Diagnostic> {
    Box::new(mistake(span, title, label, help))
}

fn is_index(key: &Key<'_>) -> bool {
    let name = key.get_ref();
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}
