//! Holds messages against the schemas under `schemas/`, as strictly as no consumer should.
//!
//! The published schemas allow fields that they do not know. Here each object may have only what is described, so that a
//! field cannot be sent and left out of the contract. Unit tests and histories include this file by its path.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static ENRICHED_EVENT: LazyLock<Validator> = LazyLock::new(|| strict("v1/enriched-event.json"));
static PLAIN_EVENT: LazyLock<Validator> = LazyLock::new(|| strict("v1/plain-event.json"));
static DEAD_LETTER: LazyLock<Validator> = LazyLock::new(|| strict("v1/dead-letter.json"));

/// Holds the JSON of an enriched event against its schema.
///
/// # Panics
/// When it differs.
#[track_caller]
pub fn assert_enriched_event(json: &[u8]) {
    assert_valid(&ENRICHED_EVENT, json);
}

/// Holds the JSON of a plain event against its schema.
///
/// # Panics
/// When it differs.
#[allow(
    dead_code,
    reason = "not everybody who includes this file has plain events"
)]
#[track_caller]
pub fn assert_plain_event(json: &[u8]) {
    assert_valid(&PLAIN_EVENT, json);
}

/// Holds the JSON of a dead letter against its schema.
///
/// # Panics
/// When it differs.
#[track_caller]
pub fn assert_dead_letter(json: &[u8]) {
    assert_valid(&DEAD_LETTER, json);
}

#[track_caller]
fn assert_valid(schema: &Validator, json: &[u8]) {
    let message: Value = serde_json::from_slice(json).expect("a message is JSON");
    if !schema.is_valid(&message) {
        let errors: Vec<String> = schema
            .iter_errors(&message)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        panic!("not as the schema says: {errors:#?}\n{message:#}");
    }
}

/// The checked-in schema at `path`, closed.
pub fn strict(path: &str) -> Validator {
    let path = format!("{}/schemas/{path}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("schemas are checked in");
    let mut schema: Value = serde_json::from_str(&text).expect("a schema is JSON");
    close(&mut schema, true);
    // `unevaluatedProperties` came after draft 7; all else that the schemas say means the same since.
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    let options = jsonschema::options().should_validate_formats(true);
    options
        .build(&schema)
        .expect("a schema that was checked in is valid")
}

/// Forbids what is not described, wherever a schema stands for a whole value and not for a part of one.
fn close(schema: &mut Value, whole: bool) {
    let Some(keywords) = schema.as_object_mut() else {
        return;
    };
    for (keyword, below) in keywords.iter_mut() {
        match (keyword.as_str(), below) {
            ("properties", Value::Object(named)) => {
                named.values_mut().for_each(|one| close(one, true))
            }
            ("definitions", Value::Object(named)) => {
                named.values_mut().for_each(|one| close(one, false))
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => {
                parts.iter_mut().for_each(|one| close(one, false))
            }
            ("items" | "additionalProperties", below) => close(below, true),
            _ => {}
        }
    }
    let describes = [
        "properties",
        "additionalProperties",
        "$ref",
        "allOf",
        "anyOf",
        "oneOf",
    ];
    if whole
        && describes
            .iter()
            .any(|keyword| keywords.contains_key(*keyword))
    {
        keywords.insert("unevaluatedProperties".to_owned(), false.into());
    }
}
