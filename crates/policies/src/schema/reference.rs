//! The reference page `docs/config.md`, written from the JSON schema.

use std::fmt::Write as _;

use serde_json::Value;

/// The text of `docs/config.md`.
pub fn reference() -> String {
    let schema = super::json();
    let mut page = String::from(
        "# Configuration reference\n\n\
         This page is written from the schema (`ft-vm schema`) by a test of `crates/policies`; change the types there, not this \
         page.\n\n",
    );
    let _ = writeln!(page, "{}\n", description(&schema));
    for (key, node) in properties(&schema) {
        section(&mut page, &schema, &key, &node, 2);
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn section(page: &mut String, root: &Value, path: &str, node: &Value, depth: usize) {
    let target = follow(root, node);
    let array = target.get("items");
    let table = array.map_or(&target, |items| items);
    let table = follow(root, table);
    let hashes = "#".repeat(depth);
    let variants = tagged(&table);
    if !variants.is_empty() {
        let _ = writeln!(page, "{hashes} {path}\n\n{}\n", description(node));
        for (name, variant, text) in variants {
            let _ = writeln!(page, "{hashes}# `[{path}.{name}]`\n\n{text}\n");
            keys(page, root, &format!("{path}.{name}"), &follow(root, &variant), depth + 1);
        }
        return;
    }
    let header = if array.is_some() { format!("[[{path}]]") } else { format!("[{path}]") };
    let _ = writeln!(page, "{hashes} `{header}`\n\n{}\n", description(node));
    keys(page, root, path, &table, depth);
}

/// The keys of one table as a Markdown table, then its own tables.
fn keys(page: &mut String, root: &Value, path: &str, table: &Value, depth: usize) {
    let required: Vec<&str> = table
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let (mut rows, mut inner) = (String::new(), Vec::new());
    for (key, node) in properties(table) {
        let target = follow(root, &node);
        if target.get("properties").is_some() {
            inner.push((key, node));
            continue;
        }
        let default = match node.get("default") {
            Some(value) => format!("`{value}`"),
            None if required.contains(&key.as_str()) => "required".into(),
            None => "none".into(),
        };
        let mut text = description(&node).to_owned();
        for choice in target.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
            let _ =
                write!(text, " `{}`: {}", choice.get("const").unwrap_or(&Value::Null), description(choice));
        }
        let _ = writeln!(rows, "| `{key}` | {default} | {} |", text.replace('\n', " ").replace('|', "\\|"));
    }
    if rows.is_empty() && inner.is_empty() {
        let _ = writeln!(page, "It has no keys.\n");
    }
    if !rows.is_empty() {
        let _ = writeln!(page, "| key | default | meaning |\n|---|---|---|\n{rows}");
    }
    for (key, node) in inner {
        section(page, root, &format!("{path}.{key}"), &node, depth + 1);
    }
}

fn description(node: &Value) -> &str {
    node.get("description").and_then(Value::as_str).unwrap_or_default()
}

fn properties(node: &Value) -> Vec<(String, Value)> {
    let properties = node.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The node that a reference, or an `allOf` around one, leads to.
fn follow(root: &Value, node: &Value) -> Value {
    crate::document::shape::follow(root, node).clone()
}

/// The variants of an externally tagged enum: name, its table, description.
fn tagged(node: &Value) -> Vec<(String, Value, String)> {
    let branches = node.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    branches
        .filter_map(|branch| {
            let (name, table) = branch.get("properties")?.as_object()?.iter().next()?;
            Some((name.clone(), table.clone(), description(branch).to_owned()))
        })
        .collect()
}
