//! The shape of a config file: the tables as they are written, with the place of every value, and the same as a JSON
//! schema (draft-07) for editors.
//!
//! The Rust types here (and the `Table` of each policy) are the only description of the shape. The JSON schema is derived
//! from them, and the walk that collects *all* mistakes of shape (`document::shape`) follows that JSON schema, so the three
//! cannot disagree. Every field is an `Option`: a broken value is reported, dropped, and the rest is still checked.
//! Externally tagged enums only: the other kinds buffer their content and lose its place.

mod reference;
pub(crate) mod tables;
pub(crate) mod values;

use std::borrow::Cow;
use std::ops::{Deref, Range};

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::Value;
use serde_spanned::Spanned;

pub use reference::reference;

/// A value and its place in the text.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct At<T>(Spanned<T>);

impl<T> At<T> {
    pub(crate) fn span(&self) -> Range<usize> {
        self.0.span()
    }
    pub(crate) fn value(&self) -> &T {
        self.0.get_ref()
    }
    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T> Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.get_ref()
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Takes out what only Rust means. In particular TOML has no null: an optional key is absent.
#[derive(Clone, Debug)]
struct Plain;

impl Transform for Plain {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".into(), only);
            }
        }
        if let Some(Value::Array(any)) = object.get("anyOf") {
            let rest: Vec<_> =
                any.iter().filter(|option| option.get("type") != Some(&"null".into())).cloned().collect();
            if let [only] = rest.as_slice() {
                object.remove("anyOf");
                // Draft-07 ignores what stands beside `$ref`: the reference goes into an `allOf`.
                if only.get("$ref").is_some() && !object.is_empty() {
                    object.insert("allOf".into(), Value::Array(rest));
                } else if let Value::Object(only) = only {
                    for (key, value) in only {
                        object.entry(key.clone()).or_insert_with(|| value.clone());
                    }
                }
            }
        }
        // The width of a Rust integer is nothing to an editor.
        object.remove("format");
        // Where a comment was wrapped says nothing either.
        if let Some(Value::String(text)) = object.get_mut("description") {
            *text = text.replace('\n', " ");
        }
    }
}

/// The schema as a JSON value.
pub fn json() -> Value {
    let settings = SchemaSettings::draft07().with_transform(Plain);
    let mut schema = settings.into_generator().into_root_schema_for::<tables::Root>();
    let object = schema.ensure_object();
    object.insert("$id".into(), "https://ft-vm.github.io/ft-vm.schema.json".into());
    object.insert("x-tombi-toml-version".into(), "v1.0.0".into());
    schema.to_value()
}

/// The schema as `ft-vm schema` prints it, the text of `config/ft-vm.schema.json`; ends with a newline.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&json()).expect("a JSON value can always be written");
    text.push('\n');
    text
}
