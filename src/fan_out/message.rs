//! How an event is written: the content modes of CloudEvents, structured and binary.
//!
//! In binary mode the body is the event's `data`, `content-type` is its `datacontenttype`, and each of its other attributes
//! is a header `ce-<name>` of text.
//!
//! # Source
//! CloudEvents, "JSON Event Format", for structured mode; Knative, "RabbitMQ Protocol Binding for CloudEvents", for binary
//! mode, as CloudEvents' Python SDK reads it too.

use bytes::Bytes;
use serde::Serialize;

use crate::bus::Message;
use crate::config::DestinationFormat;
use crate::event::{ENRICHED_CONTENT_TYPE, EnrichedEvent, Event, EventId, Millis, PlainEvent};

/// A CloudEvent's attributes, and what it is about.
struct CloudEvent<'e, D> {
    specversion: &'e str,
    id: &'e EventId,
    source: &'e str,
    subject: &'e str,
    kind: &'e str,
    time: Millis,
    datacontenttype: &'e str,
    data: D,
}

/// An enriched event as a message.
pub(super) fn of_enriched(event: &EnrichedEvent, format: DestinationFormat) -> Message {
    let cloud_event = CloudEvent {
        specversion: &event.specversion,
        id: &event.id,
        source: &event.source,
        subject: &event.subject,
        kind: &event.r#type,
        time: event.time,
        datacontenttype: &event.datacontenttype,
        data: &event.data,
    };
    cloud_event.message(event, format)
}

/// An event as it is, as a message.
pub(super) fn of_plain(event: &Event, format: DestinationFormat) -> Message {
    let event = PlainEvent::new(event);
    let cloud_event = CloudEvent {
        specversion: &event.specversion,
        id: &event.id,
        source: &event.source,
        subject: &event.subject,
        kind: &event.r#type,
        time: event.time,
        datacontenttype: &event.datacontenttype,
        data: event.data,
    };
    cloud_event.message(&event, format)
}

impl<D: Serialize> CloudEvent<'_, D> {
    /// `whole` is the event with its attributes.
    fn message(&self, whole: &impl Serialize, format: DestinationFormat) -> Message {
        let (content_type, headers, body) = match format {
            DestinationFormat::Structured => (ENRICHED_CONTENT_TYPE, Vec::new(), json(whole)),
            DestinationFormat::Binary => (self.datacontenttype, self.headers(), json(&self.data)),
        };
        Message {
            id: self.id.to_string(),
            content_type: content_type.to_owned(),
            kind: self.kind.to_owned(),
            headers,
            body,
        }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ce-specversion", self.specversion.to_owned()),
            ("ce-id", self.id.to_string()),
            ("ce-source", self.source.to_owned()),
            ("ce-subject", self.subject.to_owned()),
            ("ce-type", self.kind.to_owned()),
            ("ce-time", self.time.to_string()),
        ]
    }
}

fn json(value: &impl Serialize) -> Bytes {
    let json = serde_json::to_vec(value);
    json.expect("events have string keys and valid numbers")
        .into()
}
