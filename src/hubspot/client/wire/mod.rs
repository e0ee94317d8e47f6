//! HubSpot's JSON in successful replies, and how it becomes an [`Answer`].
//!
//! Strict on what an answer stands on (ids, `results`, `completedAt`), lenient on all else: unknown fields are
//! skipped, optional ones may be absent or `null`, and ids and values may be strings or numbers.
//! Reasons of failure never quote the reply.

mod associations;
mod conversations;
mod definitions;
mod files;
mod owners;
mod records;
mod schemas;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::Value;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::errors;
use crate::event::Millis;
use crate::hubspot::call::{Answer, Call, CallError};

pub(super) use conversations::thread;
pub(super) use records::record;

/// Reads the body of a 2xx reply to `call`. `date` is the reply's `Date` header.
///
/// # Errors
/// [`CallError::Unreadable`], or what the entries of a batch's `errors` amount to.
pub(super) fn answer(
    call: &Call,
    status: u16,
    body: &[u8],
    date: Option<Millis>,
) -> Result<Answer, CallError> {
    if !matches!(status, 200 | 207) {
        return Err(unreadable(format!("status {status} has no answer")));
    }
    match call {
        Call::ReadRecords { .. } => records::batch(status, body),
        Call::ReadRecord { .. } => records::record(Some(body), date),
        Call::ReadAssociations { .. } => associations::batch(status, body),
        Call::ListOwners { .. } => owners::page(body),
        Call::ReadOwner { .. } => owners::owner(body),
        Call::ListProperties { sensitivity, .. } => definitions::properties(body, *sensitivity),
        Call::ListPipelines { .. } => definitions::pipelines(body),
        Call::ListSchemas => schemas::list(body),
        Call::ReadFile { .. } => files::file(body),
        Call::SignFile { .. } => files::signed_url(body),
        Call::ReadThread { .. } => conversations::thread(Some(body), date),
        Call::ReadMessage { .. } => conversations::message(body),
        Call::ReadActors { .. } => conversations::actors(status, body),
        Call::ListAssociationLabels { .. } => associations::labels(body),
    }
}

/// A 2xx that brought no answer.
pub(super) fn unreadable(reason: impl Into<String>) -> CallError {
    CallError::Unreadable {
        reason: reason.into(),
    }
}

/// A reply with a list and nothing else of interest.
#[derive(Deserialize)]
struct Results<T> {
    results: Vec<T>,
}

/// A reply to a batch.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "T: Deserialize<'de>"))]
struct BatchReply<T> {
    status: Option<Value>,
    results: Vec<T>,
    completed_at: Option<Value>,
    errors: Option<Vec<Value>>,
}

impl<T> BatchReply<T> {
    /// Refuses a batch that is not done, and one with errors that are more than "not found".
    fn check(&mut self, status: u16) -> Result<(), CallError> {
        if let Some(state) = self.status.as_ref()
            && state.as_str().is_some_and(|state| state != "COMPLETE")
        {
            return Err(unreadable("the batch's status is not COMPLETE"));
        }
        let errors = self.errors.take().unwrap_or_default();
        errors::of_batch(status, errors).map_or(Ok(()), Err)
    }
}

#[derive(Deserialize)]
struct Paging<'a> {
    #[serde(borrow)]
    next: Option<Next<'a>>,
}

#[derive(Deserialize)]
struct Next<'a> {
    #[serde(borrow)]
    after: Option<&'a RawValue>,
}

/// The next page. HubSpot's `link` beside it is not used: it may be of another family of paths.
fn after(paging: Option<Paging<'_>>) -> Option<String> {
    text(paging?.next?.after)
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, CallError> {
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            Category::Data => "it is not of the shape HubSpot specifies",
            Category::Eof => "its JSON ends too early",
            Category::Syntax | Category::Io => "it is not JSON",
        };
        let (line, column) = (error.line(), error.column());
        unreadable(format!("{what}, at line {line} column {column}"))
    })
}

/// An id, whether written as a string or as a whole number.
fn id(raw: &RawValue, what: &str) -> Result<String, CallError> {
    let is_id = |text: &String| match raw.get().as_bytes().first() {
        Some(b'"') => !text.is_empty(),
        _ => text.bytes().all(|byte| byte.is_ascii_digit()),
    };
    text(Some(raw))
        .filter(is_id)
        .ok_or_else(|| unreadable(format!("{what} is neither a text nor a whole number")))
}

/// A value as text, in HubSpot's own digits where it is a number. Empty, `null` and absent are `None`.
fn text(raw: Option<&RawValue>) -> Option<String> {
    let json = raw?.get();
    let text = match json.as_bytes().first()? {
        b'"' => serde_json::from_str::<LossyText>(json).ok()?.0,
        b'n' => return None,
        _ => json.to_owned(),
    };
    (!text.is_empty()).then_some(text)
}

fn time(raw: Option<&RawValue>) -> Option<Millis> {
    Millis::parse(&text(raw)?)
}

/// A JSON string. Half an emoji (a lone surrogate, from text that was cut off) becomes U+FFFD, once for each
/// of its bytes, rather than making a hundred records unreadable.
struct LossyText(String);

impl<'de> Deserialize<'de> for LossyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = LossyText;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<LossyText, E> {
                Ok(LossyText(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ObjectTypeId, OwnerId};
    use crate::hubspot::call::Sensitivity;
    use proptest::prelude::*;

    fn every_call() -> Vec<Call> {
        let object_type_id = ObjectTypeId::from_name("deal");
        vec![
            Call::ReadRecords {
                object_type_id: object_type_id.clone(),
                ids: vec![],
                properties: vec![],
                properties_with_history: vec![],
            },
            Call::ReadRecord {
                object_type_id: object_type_id.clone(),
                id: "1".into(),
                properties: vec![],
            },
            Call::ReadAssociations {
                from: object_type_id.clone(),
                to: object_type_id.clone(),
                inputs: vec![],
            },
            Call::ListOwners {
                archived: false,
                after: None,
            },
            Call::ReadOwner {
                id: OwnerId::from("1"),
                archived: false,
            },
            Call::ListProperties {
                object_type_id: object_type_id.clone(),
                sensitivity: Sensitivity::NonSensitive,
            },
            Call::ListAssociationLabels {
                from: object_type_id.clone(),
                to: object_type_id.clone(),
            },
            Call::ListPipelines { object_type_id },
            Call::ListSchemas,
            Call::ReadFile { id: "1".into() },
            Call::SignFile { id: "1".into() },
            Call::ReadThread { id: "1".into() },
            Call::ReadMessage {
                thread_id: "1".into(),
                id: "2".into(),
            },
            Call::ReadActors { ids: vec![] },
        ]
    }

    /// JSON out of the words that replies are made of, in every arrangement.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}|2026-01-02T03:04:07Z|COMPLETE|OBJECT_NOT_FOUND".prop_map(Value::from),
        ];
        let key = prop::sample::select(vec![
            "results",
            "id",
            "properties",
            "propertiesWithHistory",
            "value",
            "timestamp",
            "displayOrder",
            "completedAt",
            "errors",
            "category",
            "context",
            "from",
            "to",
            "toObjectId",
            "associationTypes",
            "typeId",
            "paging",
            "next",
            "after",
            "name",
            "options",
            "stages",
            "metadata",
            "isClosed",
            "teams",
            "objectTypeId",
            "labels",
            "url",
            "senders",
            "deliveryIdentifier",
            "requiredGranularScopes",
        ]);
        leaf.prop_recursive(5, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| pairs
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_body_makes_any_answer_panic(bytes: Vec<u8>, json in json()) {
            for body in [bytes, json.to_string().into_bytes()] {
                for call in every_call() {
                    let _ = answer(&call, 207, &body, Millis::new(0));
                }
                let error = errors::ErrorBody::parse(&body);
                let _ = error.is_not_found();
                for status in [400, 403, 429] {
                    let _ = errors::of_status(status, &error, None);
                }
            }
        }
    }
}
