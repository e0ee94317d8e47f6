//! The README's table of what consumers can expect of each object type: kinds from the normaliser, parts from the examples.

use crm_relay::event::{EnrichedEvent, Millis, ObjectTypeId};
use crm_relay::normalize::normalize;
use serde_json::{Value, json};

use super::{assert_current, checked_in, enriched_examples};

const BEGIN: &str = "<!-- made by `make contract` -->\n";
const END: &str = "<!-- end -->\n";
/// What HubSpot appends to a family to name a subscription type.
const CHANGES: [&str; 8] = [
    "creation",
    "propertyChange",
    "associationChange",
    "merge",
    "restore",
    "deletion",
    "privacyDeletion",
    "newMessage",
];

/// A row: types with equal cells share it.
struct Row {
    types: Vec<String>,
    kinds: Vec<String>,
    parts: Vec<&'static str>,
}

#[test]
fn the_readmes_table_of_object_types_is_current() {
    let readme = checked_in("README.md");
    let (before, rest) = readme
        .split_once(BEGIN)
        .expect("the README has a place for the table");
    let (_, after) = rest.split_once(END).expect("the table ends");
    assert_current(
        "README.md",
        &format!("{before}{BEGIN}{}{END}{after}", table()),
    );
}

fn table() -> String {
    let mut rows: Vec<Row> = Vec::new();
    for (name, text) in enriched_examples() {
        let event: EnrichedEvent = serde_json::from_str(&text).unwrap();
        // Others of a type (`contact-deleted`) show how it ends.
        if event.data.object_type != name {
            continue;
        }
        let (kinds, parts) = (kinds(&name), parts(&event));
        let link = format!("[`{name}`](schemas/examples/{name}.json)");
        match rows
            .iter_mut()
            .find(|row| row.kinds == kinds && row.parts == parts)
        {
            Some(row) => row.types.push(link),
            None => rows.push(Row {
                types: vec![link],
                kinds,
                parts,
            }),
        }
    }
    let lines = rows.iter().map(|row| {
        let parts = if row.parts.is_empty() {
            "nothing to read".to_owned()
        } else {
            row.parts.join(", ")
        };
        format!(
            "| {} | {} | {parts} |\n",
            row.types.join(", "),
            row.kinds.join(", ")
        )
    });
    let head =
        "| object types, each with an example | event kinds | enriched with |\n|---|---|---|\n";
    head.to_owned() + &lines.collect::<String>()
}

/// The kinds of events that notifications about the type become, but for `unknown`, which any may.
fn kinds(object_type: &str) -> Vec<String> {
    let family = if object_type == "conversation" {
        object_type
    } else {
        "object"
    };
    let mut kinds = Vec::new();
    for change in CHANGES {
        for removed in [false, true] {
            let notification = notification(family, object_type, change, removed);
            let event = normalize(&notification.to_string(), Millis::default()).unwrap();
            let kind = format!("`{}`", event.kind());
            let is_its_own = event.subject().object_type_id.name() == object_type;
            if is_its_own && event.kind() != "unknown" && !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    if kinds.is_empty() {
        kinds.push("`unknown`".to_owned());
    }
    kinds
}

fn notification(family: &str, object_type: &str, change: &str, removed: bool) -> Value {
    let mut body = json!({
        "portalId": 1, "occurredAt": 1, "eventId": 1, "subscriptionType": format!("{family}.{change}"), "objectId": 1,
        "propertyName": "x", "propertyValue": "y", "mergedObjectIds": [2], "associationRemoved": removed,
        "fromObjectId": 1, "toObjectId": 2, "toObjectTypeId": "0-1",
    });
    if object_type != "conversation" && object_type != "unknown" {
        let id = ObjectTypeId::from_name(object_type);
        body["objectTypeId"] = id.as_str().into();
        body["fromObjectTypeId"] = id.as_str().into();
    } else if object_type == "unknown" {
        body["subscriptionType"] = "event.completed".into();
    }
    body
}

/// What the example has.
fn parts(event: &EnrichedEvent) -> Vec<&'static str> {
    let data = &event.data;
    let labels = data
        .record
        .as_ref()
        .is_some_and(|record| !record.labels.is_empty());
    let parts = [
        ("record", data.record.is_some()),
        ("labels", labels),
        ("owners", !data.owners.is_empty()),
        ("associations", !data.associations.is_empty()),
        ("pipeline and stage", data.pipeline.is_some()),
    ];
    parts
        .into_iter()
        .filter(|(_, has)| *has)
        .map(|(part, _)| part)
        .collect()
}
