//! A JSON Schema from a Rust type.
//!
//! Draft 7, which AsyncAPI and the generators of most languages read. It describes what is **sent**: what is always
//! sent is required, and what may be left out is never `null`. It forbids nothing beyond, since fields are added.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform as _};
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::variants;

/// The schema of `T`, which holds events, titled `title`.
pub(super) fn of<T: JsonSchema>(title: &str) -> Value {
    let generator = SchemaSettings::draft07().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    RecursiveTransform(absent_is_not_null).transform(&mut schema);
    RecursiveTransform(open).transform(&mut schema);
    RecursiveTransform(words_as_enum).transform(&mut schema);
    RecursiveTransform(without_rust).transform(&mut schema);
    let mut schema = schema.into();
    variants::name(&mut schema);
    schema
}

/// What is left out when there is none of it has no `null` among its types.
fn absent_is_not_null(schema: &mut Schema) {
    let required = schema.get("required").cloned().unwrap_or_default();
    let is_required = |name: &str| {
        let mut names = required.as_array().into_iter().flatten();
        names.any(|required| required == name)
    };
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    let properties = properties.into_iter().flatten();
    properties
        .filter(|(name, _)| !is_required(name))
        .for_each(|(_, property)| without_null(property));
}

fn without_null(property: &mut Value) {
    let Some(fields) = property.as_object_mut() else {
        return;
    };
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            fields.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(mut any)) = fields.remove("anyOf") {
        any.retain(|of| of["type"] != "null");
        let combined = if any.len() == 1 { "allOf" } else { "anyOf" };
        fields.insert(combined.to_owned(), any.into());
    }
}

/// A choice of words, each with its meaning, as `enum`: generators make one type of it.
fn words_as_enum(schema: &mut Schema) {
    let Some(choices) = schema.get("oneOf").and_then(Value::as_array) else {
        return;
    };
    let words: Option<Vec<&str>> = choices
        .iter()
        .map(|choice| choice["const"].as_str())
        .collect();
    let Some(words) = words else { return };
    let meanings = choices.iter().zip(&words).map(|(choice, word)| {
        format!(
            "- `{word}`: {}",
            choice["description"].as_str().unwrap_or_default()
        )
    });
    let meanings = meanings.collect::<Vec<_>>().join("\n");
    let about = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let description = format!("{about}\n\n{meanings}");
    let words = json!(words);
    schema.remove("oneOf");
    schema.insert("type".to_owned(), "string".into());
    schema.insert("enum".to_owned(), words);
    schema.insert("description".to_owned(), description.into());
}

/// Even where serde would refuse a field that it does not know, a consumer should not.
fn open(schema: &mut Schema) {
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        schema.remove("additionalProperties");
    }
}

/// No links of rustdoc's, no line breaks within a paragraph, no names of Rust's number types.
fn without_rust(schema: &mut Schema) {
    if schema
        .get("format")
        .is_some_and(|format| format != "date-time")
    {
        schema.remove("format");
    }
    schema.remove("default");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        // Where we have it from is for maintainers.
        text.truncate(text.find("\n\n# ").unwrap_or(text.len()));
        let lines = text
            .replace("\n\n", "\0")
            .replace("\n- ", "\u{1}")
            .replace('\n', " ");
        *text = lines.replace('\0', "\n\n").replace('\u{1}', "\n- ");
        *text = text.replace("[`", "`").replace("`]", "`");
    }
}
