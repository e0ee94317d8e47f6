//! HubSpot's JSON in successful replies, and how it becomes an [`Answer`].
//!
//! Strict on what an answer stands on (ids, `results`, `completedAt`), lenient on all else: unknown fields are
//! skipped, optional ones may be absent or `null`, and ids and values may be strings or numbers.
//! Reasons of failure never quote the reply.

mod associations;
mod definitions;
mod owners;
mod records;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::Value;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::errors;
use crate::event::Millis;
use crate::hubspot::call::{Answer, Call, CallError};

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
        Call::ListProperties { .. } => definitions::properties(body),
        Call::ListPipelines { .. } => definitions::pipelines(body),
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
