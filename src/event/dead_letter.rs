//! What could not go on, with the reason, kept until someone replays or discards it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EnrichedEvent, Event, EventId, IdentityHasher, Millis, PortalId};

/// The content type of an encoded [`DeadLetter`].
pub const DEAD_LETTER_CONTENT_TYPE: &str = "application/json";
/// AMQP's `type` of a dead letter.
pub const DEAD_LETTER_KIND: &str = "crm.dead_letter.v1";

/// Something that could not go on.
///
/// Exactly one of `raw`, `events` and `enriched_event` holds the whole of it, so that nothing is lost; what
/// outgrows a message becomes several letters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// Where it ended.
    pub stage: Stage,
    /// Why, in one word of a closed list.
    pub reason: DeadLetterReason,
    /// Why, for a person. Without property values, bodies or secrets.
    pub detail: String,
    /// When, by this relay's clock.
    pub failed_at: Millis,
    /// The account, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal_id: Option<PortalId>,
    /// The destination that did not take the copy, where the stage is `fan_out`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Set on a piece of something that outgrows a message: which piece, of how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// What came from HubSpot and could not be read: text, or base64 where it is not UTF-8. Of a part: base64
    /// of a piece of it, or of a piece of the JSON array of events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawContent>,
    /// The events that could not be enriched, or the plain event that could not be delivered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// The enriched event that could not be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enriched_event: Option<Box<EnrichedEvent>>,
}

/// One piece of several: their `raw` bytes, joined in order, are the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// Which piece, from 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
    /// The same in all pieces of one whole. Absent in letters of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<EventId>,
}

/// Bytes as they came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawContent {
    /// UTF-8.
    Text(String),
    /// Anything else, in base64.
    Base64(String),
}

/// Where something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The receiver, before it knew what it had.
    Ingress,
    /// The receiver, making an event of a notification.
    Normalize,
    /// The worker, reading a batch from the bus.
    Consume,
    /// The worker, asking HubSpot for the record.
    Enrich,
    /// The worker, giving a copy to a destination.
    FanOut,
}

/// Why something ended. The list is closed; `crm.dead` routes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterReason {
    /// A signed body that is no JSON array: a workflow action aimed at this URL, say.
    NotAnArray,
    /// An element, or a message of ours, that cannot be read.
    Unreadable,
    /// HubSpot refuses to read this very record.
    RefusedByHubspot,
    /// The worker died again and again while it worked on this event and on nothing else.
    KilledWorker,
    /// The portal has no access token in the configuration.
    UnknownPortal,
    /// The destination's queue is at its limit.
    DestinationFull,
    /// The destination's queue is gone, or refuses the message for another reason.
    DestinationUnavailable,
    /// Larger than the bus takes.
    TooLarge,
}

impl Stage {
    /// The word in JSON, metrics and routing keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Normalize => "normalize",
            Self::Consume => "consume",
            Self::Enrich => "enrich",
            Self::FanOut => "fan_out",
        }
    }
}

impl DeadLetterReason {
    /// Every reason there is.
    pub const ALL: [Self; 8] = [
        Self::NotAnArray,
        Self::Unreadable,
        Self::RefusedByHubspot,
        Self::KilledWorker,
        Self::UnknownPortal,
        Self::DestinationFull,
        Self::DestinationUnavailable,
        Self::TooLarge,
    ];

    /// The word in JSON, metrics and routing keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAnArray => "not_an_array",
            Self::Unreadable => "unreadable",
            Self::RefusedByHubspot => "refused_by_hubspot",
            Self::KilledWorker => "killed_worker",
            Self::UnknownPortal => "unknown_portal",
            Self::DestinationFull => "destination_full",
            Self::DestinationUnavailable => "destination_unavailable",
            Self::TooLarge => "too_large",
        }
    }
}

impl DeadLetter {
    /// A dead letter that holds nothing yet; set what it is about with the `with_` methods.
    #[must_use]
    pub fn new(stage: Stage, reason: DeadLetterReason, detail: String, failed_at: Millis) -> Self {
        Self {
            stage,
            reason,
            detail,
            failed_at,
            portal_id: None,
            destination: None,
            part: None,
            raw: None,
            events: Vec::new(),
            enriched_event: None,
        }
    }

    /// Holds bytes as they came.
    #[must_use]
    pub fn with_raw(mut self, raw: &[u8]) -> Self {
        self.raw = Some(std::str::from_utf8(raw).map_or_else(
            |_| RawContent::Base64(BASE64.encode(raw)),
            |text| RawContent::Text(text.to_owned()),
        ));
        self
    }

    /// Holds events of one portal.
    #[must_use]
    pub fn with_events(mut self, events: Vec<Event>) -> Self {
        self.portal_id = events.first().map(|event| event.portal_id.clone());
        self.events = events;
        self
    }

    /// Holds the copy that `destination` did not take.
    #[must_use]
    pub fn with_enriched_event(mut self, destination: &str, event: EnrichedEvent) -> Self {
        self.portal_id = Some(event.data.portal_id.clone());
        self.destination = Some(destination.to_owned());
        self.enriched_event = Some(Box::new(event));
        self
    }

    /// Holds the plain event that `destination` did not take.
    #[must_use]
    pub fn with_plain_event(self, destination: &str, event: Event) -> Self {
        Self {
            destination: Some(destination.to_owned()),
            ..self.with_events(vec![event])
        }
    }

    /// This letter in as many letters as it takes for each to be at most `bytes_max` when encoded. Nothing
    /// is left out but the state of an enriched event, which a replay reads afresh.
    ///
    /// An enriched event that is too large gives way to its events; several events are halved; a single
    /// event, or raw content, is cut into parts.
    #[must_use]
    pub fn fitting(mut self, bytes_max: usize) -> Vec<Self> {
        if self.encode().len() <= bytes_max {
            return vec![self];
        }
        if let Some(enriched) = self.enriched_event.take() {
            self.detail
                .push_str("; it holds the events alone, since the whole outgrows a message");
            self.events = enriched.data.events;
            return self.fitting(bytes_max);
        }
        if self.events.len() > 1 {
            let mut rest = self.clone();
            rest.events = self.events.split_off(self.events.len() / 2);
            return [self.fitting(bytes_max), rest.fitting(bytes_max)].concat();
        }
        self.parts(bytes_max)
    }

    /// Half of a message is two thirds in base64, and leaves room for the other fields.
    fn parts(mut self, bytes_max: usize) -> Vec<Self> {
        let events = || serde_json::to_vec(&self.events).expect("events have string keys");
        let content = self.raw_bytes().unwrap_or_else(events);
        self.raw = None;
        self.events.clear();
        let whole = self.whole_id(&content);
        let pieces = content.chunks((bytes_max / 2).max(1));
        let of = pieces.len();
        pieces
            .enumerate()
            .map(|(index, piece)| Self {
                part: Some(Part {
                    number: index + 1,
                    of,
                    whole: Some(whole.clone()),
                }),
                raw: Some(RawContent::Base64(BASE64.encode(piece))),
                ..self.clone()
            })
            .collect()
    }

    /// A hash of `content` and of what became of it, for the pieces that it is cut into.
    fn whole_id(&self, content: &[u8]) -> EventId {
        let mut hasher = IdentityHasher::new("whole dead letter");
        hasher.field(self.stage.as_str());
        hasher.field(self.reason.as_str());
        hasher.field(&self.failed_at.to_string());
        hasher.optional(self.destination.as_deref());
        hasher.field(&BASE64.encode(content));
        hasher.finish()
    }

    /// The bytes of its raw content, if that is what it holds.
    #[must_use]
    pub fn raw_bytes(&self) -> Option<Vec<u8>> {
        match self.raw.as_ref()? {
            RawContent::Text(text) => Some(text.clone().into_bytes()),
            RawContent::Base64(text) => BASE64.decode(text).ok(),
        }
    }

    /// A hash of what failed and when: the same for every copy of this letter, another when the same fails again.
    #[must_use]
    pub fn failure_id(&self) -> EventId {
        let mut hasher = IdentityHasher::new("failure");
        hasher.field(self.id().as_str());
        hasher.field(&self.failed_at.to_string());
        hasher.finish()
    }

    /// The routing key on `crm.dead`: `<stage>.<reason>`.
    #[must_use]
    pub fn routing_key(&self) -> String {
        format!("{}.{}", self.stage.as_str(), self.reason.as_str())
    }

    /// The JSON body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("dead letters have string keys and no fallible fields")
    }

    /// A hash of what it holds: the message id, the same for a repeat of the same failure.
    #[must_use]
    pub fn id(&self) -> EventId {
        let mut hasher = IdentityHasher::new("dead letter");
        hasher.field(self.stage.as_str());
        hasher.field(self.reason.as_str());
        hasher.optional(self.destination.as_deref());
        let number = self.part.as_ref().map(|part| part.number.to_string());
        hasher.optional(number.as_deref());
        match &self.raw {
            Some(RawContent::Text(text) | RawContent::Base64(text)) => hasher.field(text),
            None => hasher.optional(None),
        }
        self.events
            .iter()
            .for_each(|event| hasher.field(event.id.as_str()));
        hasher.optional(self.enriched_event.as_ref().map(|event| event.id.as_str()));
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventBody, ObjectId, UnknownEvent};

    const BYTES_MAX: usize = 2_000;

    fn letter() -> DeadLetter {
        let now = Millis::new(1_763_892_000_000).unwrap();
        DeadLetter::new(
            Stage::Enrich,
            DeadLetterReason::RefusedByHubspot,
            "why".into(),
            now,
        )
    }

    fn event(number: usize, raw: &str) -> Event {
        let mut hasher = IdentityHasher::new("test");
        hasher.field(&number.to_string());
        Event {
            id: hasher.finish(),
            portal_id: "8241".into(),
            app_id: None,
            subscription_id: None,
            subscription_type: "event.completed".into(),
            hubspot_event_id: None,
            occurred_at: Millis::default(),
            received_at: Millis::default(),
            attempt_number: 0,
            change_source: None,
            source_id: None,
            value: None,
            replay: None,
            body: EventBody::Unknown(UnknownEvent {
                object_id: Some(ObjectId::from("1")),
                raw: raw.into(),
            }),
        }
    }

    fn joined(letters: &[DeadLetter]) -> Vec<u8> {
        let of = letters.len();
        let pieces = letters.iter().enumerate().map(|(index, letter)| {
            assert!(letter.encode().len() <= BYTES_MAX);
            let whole = letters[0].part.as_ref().unwrap().whole.clone();
            assert!(whole.is_some());
            assert_eq!(
                letter.part,
                Some(Part {
                    number: index + 1,
                    of,
                    whole,
                })
            );
            letter.raw_bytes().unwrap()
        });
        pieces.flatten().collect()
    }

    #[test]
    fn all_reasons_are_those_of_the_schema() {
        let schema = schemars::schema_for!(DeadLetterReason);
        let schema = serde_json::to_value(schema).unwrap();
        let variants = schema["oneOf"].as_array().unwrap().iter();
        let words: Vec<_> = variants.map(|variant| variant["const"].as_str()).collect();
        assert_eq!(
            words,
            DeadLetterReason::ALL.map(|reason| Some(reason.as_str()))
        );
    }

    #[test]
    fn a_letter_that_fits_stays_as_it_is() {
        let whole = letter().with_raw(b"short");
        assert_eq!(whole.clone().fitting(BYTES_MAX), [whole]);
    }

    #[test]
    fn many_events_are_shared_out_among_letters_that_fit() {
        let events: Vec<_> = (0..20).map(|number| event(number, "x")).collect();
        let letters = letter().with_events(events.clone()).fitting(BYTES_MAX);
        let held: Vec<_> = letters
            .iter()
            .flat_map(|letter| letter.events.clone())
            .collect();
        assert_eq!(held, events);
        assert!(
            letters
                .iter()
                .all(|letter| letter.encode().len() <= BYTES_MAX)
        );
        assert!(letters.iter().all(|letter| letter.portal_id.is_some()));
    }

    #[test]
    fn raw_content_and_a_single_event_are_cut_into_parts_that_make_the_whole() {
        let raw = vec![0xff; 10 * BYTES_MAX];
        assert_eq!(joined(&letter().with_raw(&raw).fitting(BYTES_MAX)), raw);
        let events = vec![event(1, &"\u{1}".repeat(BYTES_MAX))];
        let parts = letter().with_events(events.clone()).fitting(BYTES_MAX);
        let back: Vec<Event> = serde_json::from_slice(&joined(&parts)).unwrap();
        assert_eq!(back, events);
        let ids: std::collections::BTreeSet<_> = parts.iter().map(DeadLetter::id).collect();
        assert_eq!(ids.len(), parts.len());
    }
}
