//! What travels from receiver to worker: the events of one portal from one request, as one message.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Event, EventId, IdentityHasher, PlainEvent, PortalId, Replay};

/// The content type of an encoded [`Batch`], CloudEvents' JSON batch format.
pub const BATCH_CONTENT_TYPE: &str = "application/cloudevents-batch+json";
/// AMQP's `type` of a batch.
pub const BATCH_KIND: &str = "crm.batch.v1";
/// The content type of an encoded [`Batch`] that is replayed.
pub const REPLAY_CONTENT_TYPE: &str = "application/json";
/// AMQP's `type` of a batch that is replayed.
pub const REPLAY_KIND: &str = "crm.replay.v1";

/// The events of one portal from one request, in the order HubSpot listed them, each as a [`PlainEvent`]; or those of one
/// dead letter that is replayed, in an envelope that says so. Never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    portal_id: PortalId,
    events: Vec<Event>,
}

/// Why bytes are no batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Not a CloudEvents batch of our events. The cause is kept without its text, which may quote values.
    #[error("not a CloudEvents batch of events: {category} error at line {line}, column {column}")]
    Unreadable {
        /// `syntax`, `data` or `eof`.
        category: &'static str,
        /// 1-based.
        line: usize,
        /// 1-based.
        column: usize,
    },
    /// A batch without events has no portal.
    #[error("the batch is empty")]
    Empty,
    /// Events of several portals in one batch.
    #[error("the batch holds events of several portals")]
    MixedPortals,
    /// Events of several replays in one batch, or of one and of none.
    #[error("the batch holds events of several replays")]
    MixedReplays,
}

/// A batch that is replayed, as it travels.
#[derive(Serialize, Deserialize)]
struct Replayed<R, E> {
    replay: R,
    events: Vec<PlainEvent<E>>,
}

impl Batch {
    /// A batch of `events`.
    ///
    /// # Errors
    /// All but [`BatchError::Unreadable`].
    pub fn new(events: Vec<Event>) -> Result<Self, BatchError> {
        let first = events.first().ok_or(BatchError::Empty)?;
        let portal_id = first.portal_id.clone();
        if events.iter().any(|event| event.portal_id != portal_id) {
            return Err(BatchError::MixedPortals);
        }
        if events.iter().any(|event| event.replay != first.replay) {
            return Err(BatchError::MixedReplays);
        }
        Ok(Self { portal_id, events })
    }

    /// The replay that its events are part of.
    #[must_use]
    pub fn replay(&self) -> Option<&Replay> {
        self.events.first()?.replay.as_deref()
    }

    /// The portal all events belong to.
    #[must_use]
    pub fn portal_id(&self) -> &PortalId {
        &self.portal_id
    }

    /// The events, in the order HubSpot listed them.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Gives up the events.
    #[must_use]
    pub fn into_events(self) -> Vec<Event> {
        self.events
    }

    /// A hash of the ids it carries: the message id.
    #[must_use]
    pub fn id(&self) -> EventId {
        let mut hasher = IdentityHasher::new("batch");
        self.events
            .iter()
            .for_each(|event| hasher.field(event.known_as().as_str()));
        hasher.finish()
    }

    /// The JSON of the batch: of type [`BATCH_CONTENT_TYPE`], or [`REPLAY_CONTENT_TYPE`] when it is replayed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let events: Vec<_> = self.events.iter().map(PlainEvent::new).collect();
        let encoded = match self.replay() {
            None => serde_json::to_vec(&events),
            Some(replay) => serde_json::to_vec(&Replayed { replay, events }),
        };
        encoded.expect("events have string keys and no fallible fields")
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Every variant of [`BatchError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let is_array = bytes.trim_ascii_start().first() != Some(&b'{');
        let read = if is_array {
            serde_json::from_slice(bytes).map(|events| (events, None))
        } else {
            serde_json::from_slice(bytes)
                .map(|Replayed { replay, events }| (events, Some(Arc::new(replay))))
        };
        let (elements, replay): (Vec<PlainEvent>, Option<Arc<Replay>>) =
            read.map_err(|error| BatchError::Unreadable {
                category: match error.classify() {
                    serde_json::error::Category::Syntax => "syntax",
                    serde_json::error::Category::Eof => "eof",
                    serde_json::error::Category::Data | serde_json::error::Category::Io => "data",
                },
                line: error.line(),
                column: error.column(),
            })?;
        let events = elements.into_iter().map(|element| Event {
            replay: replay.clone(),
            ..element.data
        });
        Self::new(events.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{
        AssociationChange, AssociationEvent, Audience, ConversationChange, ConversationEvent,
        EventBody, Millis, ObjectChange, ObjectEvent, ObjectTypeId, UnknownEvent,
    };

    fn event(portal: &str, body: EventBody) -> Event {
        Event {
            id: IdentityHasher::new("test").finish(),
            portal_id: portal.into(),
            app_id: Some("7".into()),
            subscription_id: None,
            subscription_type: "object.propertyChange".into(),
            hubspot_event_id: Some("100".into()),
            occurred_at: Millis::new(1_763_892_000_123).unwrap(),
            received_at: Millis::new(1_763_892_000_456).unwrap(),
            attempt_number: 3,
            change_source: Some("CRM_UI".into()),
            source_id: None,
            value: None,
            replay: None,
            body,
        }
    }

    fn one_of_each() -> Vec<Event> {
        let object = |change| {
            EventBody::Object(ObjectEvent {
                object_type_id: ObjectTypeId::from_name("contact"),
                object_id: "512".into(),
                change,
            })
        };
        let bodies = [
            object(ObjectChange::Created),
            object(ObjectChange::PropertyChanged {
                property_name: "email".into(),
                property_value: None,
                is_sensitive: true,
            }),
            object(ObjectChange::Merged {
                merged_object_ids: vec!["1".into(), "2".into()],
                primary_object_id: Some("1".into()),
                new_object_id: None,
                number_of_properties_moved: Some(3),
            }),
            object(ObjectChange::Unknown {
                raw: serde_json::json!({"a": [1, null]}),
            }),
            EventBody::Association(AssociationEvent {
                edge_id: None,
                label: None,
                from_object_type_id: ObjectTypeId::from_name("contact"),
                from_object_id: "5".into(),
                to_object_type_id: ObjectTypeId::from_name("company"),
                to_object_id: "6".into(),
                association_type: Some("CONTACT_TO_COMPANY".into()),
                association_category: None,
                association_type_id: Some(279),
                is_primary: true,
                change: AssociationChange::Removed,
            }),
            EventBody::Conversation(ConversationEvent {
                thread_id: "9".into(),
                change: ConversationChange::NewMessage {
                    message_id: Some("m".into()),
                    message_type: None,
                },
            }),
            EventBody::Unknown(UnknownEvent {
                object_id: None,
                raw: serde_json::json!({"subscriptionType": "event.completed"}),
            }),
        ];
        bodies.into_iter().map(|body| event("8241", body)).collect()
    }

    #[test]
    fn decode_undoes_encode_for_every_kind_of_event() {
        let batch = Batch::new(one_of_each()).unwrap();
        assert_eq!(Batch::decode(&batch.encode()).unwrap(), batch);
    }

    #[test]
    fn a_replay_is_told_in_the_envelope_and_reaches_every_event() {
        let replay = Arc::new(Replay {
            of: IdentityHasher::new("letter").finish(),
            at: Millis::new(1_763_892_000_789).unwrap(),
            audience: Audience::Destination("billing".into()),
        });
        let plain = Batch::new(one_of_each()).unwrap();
        let replayed = one_of_each().into_iter().map(|event| Event {
            replay: Some(replay.clone()),
            ..event
        });
        let mut replayed: Vec<_> = replayed.collect();
        let batch = Batch::new(replayed.clone()).unwrap();
        assert_ne!(batch.id(), plain.id());
        let encoded = batch.encode();
        assert_eq!(Batch::decode(&encoded).unwrap(), batch);
        let json: serde_json::Value = serde_json::from_slice(&encoded).unwrap();
        let bare: serde_json::Value = serde_json::from_slice(&plain.encode()).unwrap();
        assert_eq!(json["events"], bare, "no event tells of it");
        assert_eq!(json["replay"]["audience"]["destination"], "billing");
        replayed[1].replay = None;
        let mixed = Batch::new(replayed);
        assert!(matches!(mixed, Err(BatchError::MixedReplays)));
    }

    #[test]
    fn an_element_is_a_flat_cloudevent() {
        let batch = Batch::new(one_of_each()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&batch.encode()).unwrap();
        assert_eq!(json[1]["type"], "crm.contact.event.property_changed.v1");
        assert_eq!(json[1]["subject"], "contact/512");
        assert_eq!(json[1]["data"]["kind"], "property_changed");
        assert_eq!(json[1]["data"]["property_value"], serde_json::Value::Null);
        assert_eq!(json[4]["data"]["kind"], "association_removed");
        assert_eq!(json[6]["data"]["kind"], "unknown");
        assert_eq!(
            json[6]["subject"],
            format!("unknown/{}", batch.events()[6].id)
        );
    }

    #[test]
    fn a_batch_has_exactly_one_portal() {
        assert!(matches!(Batch::new(vec![]), Err(BatchError::Empty)));
        let mut events = one_of_each();
        events[3].portal_id = "1".into();
        assert!(matches!(Batch::new(events), Err(BatchError::MixedPortals)));
    }

    #[test]
    fn an_unreadable_batch_is_refused_without_quoting_it() {
        let error = Batch::decode(br#"[{"specversion":"secret@example.com"}]"#).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
