//! An event as it is, without its record: a CloudEvent around an [`Event`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Event, EventId, Millis};

/// A CloudEvent of specification version 1.0 around one change. `E` is an [`Event`] or a reference to one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlainEvent<E = Event> {
    /// `1.0`.
    pub specversion: String,
    /// The event's own id: the same for a repeat.
    pub id: EventId,
    /// `hubspot/<portal_id>`.
    pub source: String,
    /// `<object_type>/<object_id>`: what the event is about.
    pub subject: String,
    /// `crm.<object_type>.event.<kind>.v1`.
    pub r#type: String,
    /// The event's `occurred_at`.
    pub time: Millis,
    /// `application/json`.
    pub datacontenttype: String,
    /// The event.
    pub data: E,
}

impl<'e> PlainEvent<&'e Event> {
    /// Wraps `event` in its envelope.
    #[must_use]
    pub fn new(event: &'e Event) -> Self {
        let subject = event.subject();
        let type_name = subject.object_type_id.name();
        Self {
            specversion: "1.0".to_owned(),
            id: event.id.clone(),
            source: format!("hubspot/{}", event.portal_id),
            subject: format!("{type_name}/{}", subject.object_id),
            r#type: format!("crm.{type_name}.event.{}.v1", event.kind()),
            time: event.occurred_at,
            datacontenttype: "application/json".to_owned(),
            data: event,
        }
    }
}
