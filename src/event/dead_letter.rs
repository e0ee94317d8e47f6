//! What could not go on, with the reason, kept until someone replays or discards it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::{EnrichedEvent, Event, EventId, IdentityHasher, Millis, PortalId};

/// The content type of an encoded [`DeadLetter`].
pub const DEAD_LETTER_CONTENT_TYPE: &str = "application/json";
/// AMQP's `type` of a dead letter.
pub const DEAD_LETTER_KIND: &str = "crm.dead_letter.v1";

/// Something that could not go on.
///
/// Exactly one of `raw`, `events` and `enriched_event` holds the whole of it, so that nothing is lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The destination that did not take the copy, for [`Stage::FanOut`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// What came from HubSpot and could not be read: text, or base64 where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawContent>,
    /// The events that could not be enriched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// The enriched event that could not be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enriched_event: Option<Box<EnrichedEvent>>,
}

/// Bytes as they came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawContent {
    /// UTF-8.
    Text(String),
    /// Anything else, in base64.
    Base64(String),
}

/// Where something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterReason {
    /// A signed body that is no JSON array: a workflow action aimed at this URL, say.
    NotAnArray,
    /// An element, or a message of ours, that cannot be read.
    Unreadable,
    /// HubSpot refuses to read this very record.
    RefusedByHubspot,
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
    /// The word in JSON, metrics and routing keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAnArray => "not_an_array",
            Self::Unreadable => "unreadable",
            Self::RefusedByHubspot => "refused_by_hubspot",
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
