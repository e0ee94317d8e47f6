//! What a request leads to: the messages made of its notifications. Pure; time comes in as an argument.
//!
//! Every notification ends in exactly one message (or, where it outgrows every message, in several that
//! together hold the whole of it):
//!
//! - events, in one batch per portal, in the order HubSpot listed them; a batch that outgrows a message is
//!   split, in order;
//! - what cannot be read, in a dead letter with its raw text;
//! - an event too large for any batch, in a dead letter of its own. Where even that outgrows a message, the
//!   content is cut into parts, one dead letter each, since an error would make HubSpot send it all day
//!   and drop it then.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::bus::{MESSAGE_BYTES_MAX, Outgoing};
use crate::event::{Batch, DeadLetter, DeadLetterReason, Event, Millis, PortalId, Stage};
use crate::ingress::NotAnArray;
use crate::normalize::normalize;

/// The messages of one request, with what the metrics want to know of them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// What to publish, in order.
    pub(super) outgoing: Vec<Outgoing>,
    /// The kind of every event made.
    pub(super) kinds: Vec<&'static str>,
    /// How many notifications could not be read.
    pub(super) unreadable: usize,
    /// Stage and reason of every dead letter, parts counted once.
    pub(super) dead: Vec<(Stage, DeadLetterReason)>,
    /// How many portals the events belong to.
    pub(super) portals: usize,
}

/// What does not depend on the notification.
#[derive(Clone, Copy)]
struct Limits {
    partitions: u16,
    message_bytes_max: usize,
}

impl Outbox {
    /// The messages of `elements`, received at `now`, for a bus of `partitions`.
    pub(super) fn of_notifications(elements: &[&RawValue], now: Millis, partitions: u16) -> Self {
        let limits = Limits {
            partitions,
            message_bytes_max: MESSAGE_BYTES_MAX,
        };
        Self::within(limits, elements, now)
    }

    /// The dead letter of a signed `body` that is no array of notifications.
    pub(super) fn of_other_body(body: &[u8], why: NotAnArray, now: Millis) -> Self {
        let reason = match why {
            NotAnArray::OtherJson => DeadLetterReason::NotAnArray,
            NotAnArray::TooMany => DeadLetterReason::Unreadable,
        };
        let mut outbox = Self::default();
        let letter = DeadLetter::new(Stage::Ingress, reason, why.to_string(), now);
        outbox.bury(letter.with_raw(body), MESSAGE_BYTES_MAX);
        outbox
    }

    fn within(limits: Limits, elements: &[&RawValue], now: Millis) -> Self {
        let mut outbox = Self::default();
        let mut portals = ByPortal::default();
        for element in elements {
            match normalize(element.get(), now) {
                Ok(event) => {
                    outbox.kinds.push(event.kind());
                    portals.push(event);
                }
                Err(error) => {
                    outbox.unreadable += 1;
                    let reason = DeadLetterReason::Unreadable;
                    let letter = DeadLetter::new(Stage::Normalize, reason, error.to_string(), now);
                    let letter = letter.with_raw(element.get().as_bytes());
                    outbox.bury(letter, limits.message_bytes_max);
                }
            }
        }
        outbox.portals = portals.events.len();
        for events in portals.events {
            outbox.send(limits, events, now);
        }
        outbox
    }

    /// Adds the batch of `events`, all of one portal; halves it until each half fits a message.
    ///
    /// Recursion is as deep as the logarithm of the number of events.
    fn send(&mut self, limits: Limits, mut events: Vec<Event>, now: Millis) {
        let alone = events.len() == 1;
        let half = events.len() / 2;
        let batch = Batch::new(events).expect("the events are of one portal, and not none");
        let body = batch.encode();
        if body.len() <= limits.message_bytes_max {
            let outgoing = Outgoing::batch(&batch, body, limits.partitions);
            self.outgoing.push(outgoing);
            return;
        }
        events = batch.into_events();
        if alone {
            self.bury_event(limits, events, now);
            return;
        }
        let rest = events.split_off(half);
        self.send(limits, events, now);
        self.send(limits, rest, now);
    }

    /// Adds the dead letter of a single event that no batch can hold.
    fn bury_event(&mut self, limits: Limits, event: Vec<Event>, now: Millis) {
        let detail = format!(
            "the event is larger than the {} bytes a message may have",
            limits.message_bytes_max
        );
        let letter = DeadLetter::new(Stage::Normalize, DeadLetterReason::TooLarge, detail, now);
        self.bury(letter.with_events(event), limits.message_bytes_max);
    }

    fn bury(&mut self, letter: DeadLetter, bytes_max: usize) {
        self.dead.push((letter.stage, letter.reason));
        let letters = letter.fitting(bytes_max);
        self.outgoing
            .extend(letters.iter().map(Outgoing::dead_letter));
    }
}

/// Events by portal: portals in the order they first come, events in the order they come.
#[derive(Default)]
struct ByPortal {
    places: HashMap<PortalId, usize>,
    events: Vec<Vec<Event>>,
}

impl ByPortal {
    fn push(&mut self, event: Event) {
        let next = self.events.len();
        let place = *self.places.entry(event.portal_id.clone()).or_insert(next);
        if place == next {
            self.events.push(Vec::new());
        }
        self.events[place].push(event);
    }
}

#[cfg(test)]
mod tests;
