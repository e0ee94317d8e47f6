//! A record that was deleted for privacy, and what of a dead letter is about it.
//!
//! Of a dead letter goes what is about an erased record; the rest stays as it is. The privacy deletion itself
//! stays too: it holds no value, and who replays it makes the erasure known.
//!
//! What cannot be read says little: raw content goes as a whole when it names the record. Content that is no JSON, and a
//! piece of something that outgrew a message ([`DeadLetter::part`]), cannot be read, and stays.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Batch, DeadLetter, EnrichedEvent, Event, EventBody, EventId, IdentityHasher, ObjectId,
    ObjectTypeId, PortalId, RawContent, RecordDigest, TombstoneReason,
};

/// The content type of an encoded [`Erasure`].
pub const ERASURE_CONTENT_TYPE: &str = "application/json";
/// AMQP's `type` of an erasure.
pub const ERASURE_KIND: &str = "crm.erasure.v1";

/// That the dead letters are to be searched for a record that was deleted for privacy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// The account.
    pub portal_id: PortalId,
    /// The record's type.
    pub object_type_id: ObjectTypeId,
    /// The record.
    pub object_id: ObjectId,
    /// The records that were merged into it, as far as they are remembered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<RecordDigest>,
}

impl Erasure {
    /// The JSON body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an erasure has string keys and no fallible fields")
    }

    /// A hash of the record: the message id.
    #[must_use]
    pub fn id(&self) -> EventId {
        let mut hasher = IdentityHasher::new("erasure");
        hasher.field(self.portal_id.as_str());
        hasher.field(self.object_type_id.as_str());
        hasher.field(self.object_id.as_str());
        hasher.finish()
    }

    /// The same, named for another of its records.
    #[must_use]
    pub fn named_for(&self, (object_type_id, object_id): &(ObjectTypeId, ObjectId)) -> Self {
        Self {
            object_type_id: object_type_id.clone(),
            object_id: object_id.clone(),
            ..self.clone()
        }
    }

    /// The hash of the record.
    #[must_use]
    pub fn digest(&self) -> RecordDigest {
        RecordDigest::of(&self.portal_id, &self.object_type_id, &self.object_id)
    }
}

/// What is left of something that was searched.
#[derive(Clone, Debug, PartialEq)]
pub enum Searched<T> {
    /// It is not about an erased record.
    Untouched,
    /// What is left, with so many events less.
    Cut(T, usize),
    /// All of it was about erased records.
    Gone,
}

/// The records to search for.
#[derive(Debug, Default)]
pub struct Erased {
    digests: HashSet<RecordDigest>,
    /// By id, since raw content need not say whose it is.
    by_id: HashMap<ObjectId, Vec<(PortalId, ObjectTypeId)>>,
}

impl Erased {
    /// Searches for this one too.
    pub fn add(&mut self, erasure: Erasure) {
        self.digests.insert(erasure.digest());
        self.digests.extend(erasure.merged);
        let record = (erasure.portal_id, erasure.object_type_id);
        self.by_id
            .entry(erasure.object_id)
            .or_default()
            .push(record);
    }

    /// What is left of a dead letter.
    #[must_use]
    pub fn search(&self, letter: &DeadLetter) -> Searched<DeadLetter> {
        if letter.part.is_some() {
            return Searched::Untouched;
        }
        if let Some(message) = &letter.enriched_event {
            return gone_if(self.is_told_by(message));
        }
        match &letter.raw {
            Some(RawContent::Text(text)) => self.search_raw(text.as_bytes()),
            Some(RawContent::Base64(text)) => {
                self.search_raw(&BASE64.decode(text).unwrap_or_default())
            }
            None => self.search_events(&letter.events, |events| DeadLetter {
                events,
                ..letter.clone()
            }),
        }
    }

    /// What is left of a batch.
    #[must_use]
    pub fn search_batch(&self, batch: &Batch) -> Searched<Batch> {
        self.search_events(batch.events(), |events| {
            Batch::new(events).expect("the events are of one portal, and not none")
        })
    }

    /// Whether bytes that cannot be read name an erased record: JSON with its id, which names neither another
    /// portal nor another type.
    #[must_use]
    pub fn search_raw<T>(&self, raw: &[u8]) -> Searched<T> {
        let json: Option<Value> = serde_json::from_slice(raw).ok();
        gone_if(json.is_some_and(|json| self.is_named(&json, &Named::default())))
    }

    fn search_events<T>(
        &self,
        events: &[Event],
        rest: impl FnOnce(Vec<Event>) -> T,
    ) -> Searched<T> {
        let left: Vec<Event> = events
            .iter()
            .filter(|event| !self.is_about(event))
            .cloned()
            .collect();
        match events.len() - left.len() {
            0 => Searched::Untouched,
            _ if left.is_empty() => Searched::Gone,
            gone => Searched::Cut(rest(left), gone),
        }
    }

    /// Whether an event is about an erased record, and is not its privacy deletion.
    fn is_about(&self, event: &Event) -> bool {
        if event.kind() == "privacy_deleted" {
            return false;
        }
        match &event.body {
            EventBody::Unknown(unknown) => {
                let named = Named {
                    portal_id: Some(event.portal_id.clone()),
                    object_type_id: None,
                };
                self.is_named(&unknown.raw, &named)
            }
            _ => self.digests.contains(&event.subject().digest()),
        }
    }

    /// Whether a message is about an erased record, and is not the tombstone that says so.
    fn is_told_by(&self, message: &EnrichedEvent) -> bool {
        let data = &message.data;
        let record = RecordDigest::of(&data.portal_id, &data.object_type_id, &data.object_id);
        let reason = data.tombstone.as_ref().map(|tombstone| tombstone.reason);
        self.digests.contains(&record) && reason != Some(TombstoneReason::PrivacyDeleted)
    }

    /// Whether JSON names an erased record. What an outer object says of portal and type holds for the inner ones.
    fn is_named(&self, json: &Value, outer: &Named) -> bool {
        match json {
            Value::Object(object) => {
                let mut named = outer.clone();
                named.read(object);
                let by_name = ID_NAMES.iter().filter_map(|name| object.get(*name));
                by_name
                    .filter_map(text)
                    .any(|id| self.is_erased(&id.as_str().into(), &named))
                    || object.values().any(|value| self.is_named(value, &named))
            }
            Value::Array(values) => values.iter().any(|value| self.is_named(value, outer)),
            _ => false,
        }
    }

    fn is_erased(&self, object_id: &ObjectId, named: &Named) -> bool {
        let fits = |(portal_id, object_type_id): &(PortalId, ObjectTypeId)| {
            named
                .portal_id
                .as_ref()
                .is_none_or(|named| named == portal_id)
                && named
                    .object_type_id
                    .as_ref()
                    .is_none_or(|named| named == object_type_id)
        };
        if self
            .by_id
            .get(object_id)
            .is_some_and(|all| all.iter().any(fits))
        {
            return true;
        }
        let (Some(portal_id), Some(object_type_id)) = (&named.portal_id, &named.object_type_id)
        else {
            return false;
        };
        let digest = RecordDigest::of(portal_id, object_type_id, object_id);
        self.digests.contains(&digest)
    }
}

fn gone_if<T>(gone: bool) -> Searched<T> {
    if gone {
        Searched::Gone
    } else {
        Searched::Untouched
    }
}

/// Where HubSpot puts the id of a record that a body is about.
///
/// # Source
/// HubSpot, "Webhooks API" (`objectId`, `fromObjectId`) and "Custom workflow actions" (`object.objectId`); records as the
/// CRM API gives them (`hs_object_id`).
const ID_NAMES: &[&str] = &["objectId", "fromObjectId", "hs_object_id"];

/// What raw JSON says of the record it names, besides the id.
#[derive(Clone, Debug, Default)]
struct Named {
    portal_id: Option<PortalId>,
    object_type_id: Option<ObjectTypeId>,
}

impl Named {
    fn read(&mut self, object: &Map<String, Value>) {
        // A workflow action's portal stands in `origin`, beside the object.
        let origin = object.get("origin").and_then(Value::as_object);
        let portal_id = [Some(object), origin].into_iter().flatten();
        let portal_id = portal_id.filter_map(|object| object.get("portalId")).next();
        if let Some(portal_id) = portal_id.and_then(text) {
            self.portal_id = Some(portal_id.as_str().into());
        }
        let family = object.get("subscriptionType").and_then(Value::as_str);
        let family = family.and_then(|name| Some(name.rsplit_once('.')?.0.to_owned()));
        let by_name = ["objectTypeId", "fromObjectTypeId", "objectType"];
        let by_name = by_name.iter().filter_map(|name| text(object.get(*name)?));
        let types = by_name
            .chain(family)
            .map(|name| ObjectTypeId::from_name(&name));
        let mut known = types.filter(|id| id.standard().is_some() || id.as_str().contains('-'));
        self.object_type_id = known.next().or(self.object_type_id.take());
    }
}

/// An id as text: HubSpot sends numbers and strings.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
