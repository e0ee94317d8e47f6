//! The files under `schemas/` are what the program says, and what it says is what it sends.
//!
//! `make contract` writes them anew. Every message that other tests read is held against the schemas by
//! `helpers::contract`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crm_relay::contract::DOCUMENTS;
use crm_relay::event::EnrichedEvent;
use serde_json::Value;

use crate::helpers::contract::{assert_dead_letter, assert_enriched_event, strict};

mod examples;
mod table;

/// Set to write what is out of date instead of failing.
const UPDATE: &str = "UPDATE_CONTRACT";
/// The one example that is no enriched event.
const DEAD_LETTER: &str = "dead-letter";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn checked_in(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_default()
}

/// Fails, or with [`UPDATE`] writes, when the file is not as the program has it.
fn assert_current(name: &str, text: &str) {
    if checked_in(name) == text {
        return;
    }
    assert!(
        std::env::var_os(UPDATE).is_some(),
        "{name} is out of date: run `make contract`, and look at what consumers will see of the difference. Now it is:\n{text}"
    );
    fs::write(path(name), text).unwrap();
}

/// The enriched events under `schemas/examples`, by the names of their files.
fn enriched_examples() -> Vec<(String, String)> {
    let files = fs::read_dir(path("schemas/examples")).unwrap();
    let names = files.map(|file| {
        file.unwrap()
            .path()
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    });
    let mut names: Vec<String> = names.filter(|name| name != DEAD_LETTER).collect();
    names.sort();
    let read = |name: String| {
        let text = checked_in(&format!("schemas/examples/{name}.json"));
        (name, text)
    };
    names.into_iter().map(read).collect()
}

#[test]
fn the_schemas_are_checked_in_as_the_types_have_them() {
    for document in &DOCUMENTS {
        assert_current(&format!("schemas/{}", document.path), &document.text());
    }
}

#[test]
fn each_example_is_valid_and_reads_back_as_it_was() {
    assert_dead_letter(checked_in("schemas/examples/dead-letter.json").as_bytes());
    let examples = enriched_examples();
    assert!(examples.len() > 10, "{}", examples.len());
    for (name, text) in examples {
        assert_enriched_event(text.as_bytes());
        let event: EnrichedEvent = serde_json::from_str(&text).unwrap();
        let again = serde_json::to_string_pretty(&event).unwrap();
        assert!(text == format!("{again}\n"), "{name}: {again}");
    }
}

#[test]
fn a_field_that_is_not_described_is_noticed_wherever_it_is() {
    let schema = strict("v1/enriched-event.json");
    let golden: Value = serde_json::from_str(&checked_in("schemas/examples/contact.json")).unwrap();
    assert!(schema.is_valid(&golden));
    let places = [
        "",
        "/data",
        "/data/events/0",
        "/data/record",
        "/data/owners/hubspot_owner_id",
        "/data/enrichment",
    ];
    for place in places {
        let mut message = golden.clone();
        message.pointer_mut(place).unwrap()["surprise"] = 1.into();
        assert!(!schema.is_valid(&message), "at {place}");
    }
}

#[test]
fn consumers_who_validate_take_fields_that_are_added_later() {
    let schema: Value =
        serde_json::from_str(&checked_in("schemas/v1/enriched-event.json")).unwrap();
    let published = jsonschema::validator_for(&schema).unwrap();
    let mut message: Value =
        serde_json::from_str(&checked_in("schemas/examples/contact.json")).unwrap();
    message["data"]["record"]["surprise"] = 1.into();
    message["data"]["events"][0]["surprise"] = 1.into();
    assert!(published.is_valid(&message));
    message["data"]["version"] = "1".into();
    assert!(!published.is_valid(&message));
}

#[test]
fn the_program_prints_and_writes_what_is_checked_in() {
    let run = |args: &[&str]| {
        let program = env!("CARGO_BIN_EXE_crm-relay");
        let output = Command::new(program)
            .arg("schema")
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    run(&["--out", folder.path().to_str().unwrap()]);
    let list = run(&[]);
    for document in &DOCUMENTS {
        let text = checked_in(&format!("schemas/{}", document.path));
        assert_eq!(run(&[document.name]), text);
        assert_eq!(
            fs::read_to_string(folder.path().join(document.path)).unwrap(),
            text
        );
        assert!(list.contains(document.name));
    }
}
