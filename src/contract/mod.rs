//! What consumers may hold us to, in forms that their tools read.
//!
//! A JSON Schema for each message, and an AsyncAPI document for where the messages are. Both are made from the types
//! that are sent, and checked in under `schemas/`.

use serde_json::Value;

use crate::event::{DeadLetter, EnrichedEvent, Event, PlainEvent};

mod asyncapi;
mod schema;
mod variants;

/// One file of the contract.
#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// What `crm-relay schema` calls it.
    pub name: &'static str,
    /// Where it is under `schemas/`.
    pub path: &'static str,
    /// What it describes.
    pub about: &'static str,
    content: fn() -> Value,
}

/// Every file of the contract.
pub const DOCUMENTS: [Document; 5] = [
    Document {
        name: "enriched-event",
        path: "v1/enriched-event.json",
        about: "what destinations receive",
        content: || schema::of::<EnrichedEvent>("EnrichedEvent"),
    },
    Document {
        name: "plain-event",
        path: "v1/plain-event.json",
        about: "what destinations with `content = \"event\"` receive",
        content: || schema::of::<PlainEvent>("PlainEvent"),
    },
    Document {
        name: "event",
        path: "v1/event.json",
        about: "one change, as it stands in `data.events`",
        content: || schema::of::<Event>("Event"),
    },
    Document {
        name: "dead-letter",
        path: "v1/dead-letter.json",
        about: "what could not go on",
        content: || schema::of::<DeadLetter>("DeadLetter"),
    },
    Document {
        name: "asyncapi",
        path: "asyncapi.json",
        about: "queues, exchanges and keys, as AsyncAPI 3.0",
        content: asyncapi::document,
    },
];

impl Document {
    /// The document of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        DOCUMENTS.iter().find(|document| document.name == name)
    }

    /// Its JSON.
    #[must_use]
    pub fn content(&self) -> Value {
        (self.content)()
    }

    /// Its JSON as it is checked in.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{:#}\n", self.content())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every description in `schema`.
    fn descriptions(schema: &Value) -> Vec<&str> {
        match schema {
            Value::Object(fields) => {
                let own = fields.get("description").and_then(Value::as_str);
                own.into_iter()
                    .chain(fields.values().flat_map(descriptions))
                    .collect()
            }
            Value::Array(items) => items.iter().flat_map(descriptions).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn descriptions_speak_to_consumers_and_not_of_rust() {
        for document in &DOCUMENTS {
            let content = document.content();
            let descriptions = descriptions(&content);
            assert!(descriptions.len() > 10);
            for text in descriptions {
                let rust = ["::", "[`", "`None`", "`Some`", "Self"];
                let found = rust.iter().find(|word| text.contains(**word));
                assert_eq!(found, None, "{}: {text}", document.name);
            }
        }
    }

    #[test]
    fn no_document_forbids_fields_that_are_added_later() {
        for document in &DOCUMENTS {
            assert!(!document.text().contains("\"additionalProperties\": false"));
        }
    }
}
