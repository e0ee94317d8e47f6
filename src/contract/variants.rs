//! Gives each kind of event a definition of its own.
//!
//! An [`Event`](crate::event::Event) is flattened from nested enums, which schemars describes as choices within choices
//! beside common fields. Validators understand that; generators make types of it that lack fields or have numbers for names.

use serde_json::{Map, Value, json};

const HEAD: &str = "EventHead";

/// Makes `Event`, a definition of `schema` or else its root, a choice of definitions, each with all of its fields.
pub(super) fn name(schema: &mut Value) {
    let mut definitions = take_object(schema, "definitions");
    let mut defined = definitions.remove("Event");
    let event = defined.as_mut().unwrap_or(schema);
    let head = json!({
        "description": "What every event has.",
        "type": "object",
        "properties": take_object(event, "properties"),
        "required": event["required"].take(),
    });
    let mut references = Vec::new();
    for entity in take_array(event, "oneOf") {
        let target = entity["allOf"][0]["$ref"].as_str().unwrap_or_default();
        let target = target.rsplit('/').next().unwrap_or_default();
        let mut common = definitions
            .remove(target)
            .expect("an entity refers to a definition");
        if target == "unknown" {
            // Schemars does not know that serde tags this struct.
            common["properties"]["kind"] = json!({"type": "string", "const": "unknown"});
            common["required"] = json!(["kind", "raw"]);
        }
        let mut changes = take_array(&mut common, "oneOf");
        if changes.is_empty() {
            changes.push(json!({}));
        }
        for change in changes {
            let variant = joined([&entity, &common, &change]);
            let name = variant_name(&variant["properties"]);
            references.push(json!({"$ref": format!("#/definitions/{name}")}));
            definitions.insert(name, variant);
        }
    }
    if let Some(fields) = event.as_object_mut() {
        fields.retain(|keyword, _| !matches!(keyword.as_str(), "properties" | "required" | "type"));
    }
    event["oneOf"] = references.into();
    definitions.insert(HEAD.to_owned(), head);
    definitions.extend(defined.map(|event| ("Event".to_owned(), event)));
    schema["definitions"] = definitions.into();
}

/// A head with the fields of all `parts`.
fn joined(parts: [&Value; 3]) -> Value {
    let [_, common, change] = parts;
    let said = [common, change]
        .into_iter()
        .filter_map(|part| part["description"].as_str());
    let properties = parts
        .iter()
        .filter_map(|part| part["properties"].as_object())
        .flatten();
    let required = parts
        .iter()
        .filter_map(|part| part["required"].as_array())
        .flatten();
    json!({
        "description": said.collect::<Vec<_>>().join(" "),
        "type": "object",
        "allOf": [{"$ref": format!("#/definitions/{HEAD}")}],
        "properties": properties.map(|(name, of)| (name.clone(), of.clone())).collect::<Map<_, _>>(),
        "required": required.collect::<Vec<_>>(),
    })
}

/// `ObjectPropertyChanged`; where one definition has several kinds, or is the unknown one, `AssociationEvent`.
fn variant_name(properties: &Value) -> String {
    let entity = properties["entity"]["const"].as_str().unwrap_or_default();
    let kind = properties["kind"]["const"]
        .as_str()
        .filter(|kind| *kind != entity);
    pascal(entity) + &pascal(kind.unwrap_or("event"))
}

fn pascal(word: &str) -> String {
    let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
    word.split('_').map(capital).collect()
}

fn take_object(schema: &mut Value, keyword: &str) -> Map<String, Value> {
    match schema[keyword].take() {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn take_array(schema: &mut Value, keyword: &str) -> Vec<Value> {
    match schema
        .as_object_mut()
        .and_then(|fields| fields.remove(keyword))
    {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}
