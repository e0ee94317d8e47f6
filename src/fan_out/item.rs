//! One event on its way: what is still to do for it, and what came of the rest.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::bus::{Message, Outgoing, PublishError, Target};
use crate::event::{DeadLetterReason, ENRICHED_CONTENT_TYPE, EnrichedEvent, RoutingKey};

/// How a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The destination has it.
    Delivered,
    /// A dead letter holds it.
    Dead,
}

/// One event on its way.
pub(super) struct Item {
    pub(super) event: EnrichedEvent,
    pub(super) keys: Vec<RoutingKey>,
    pub(super) body: Bytes,
    /// Destinations that want it and are not done with.
    pub(super) pending: Vec<usize>,
    /// Destinations whose copy has become a dead letter, once that is confirmed.
    pub(super) refused: Vec<(usize, PublishError)>,
    /// Destinations that are done with, by an earlier try or this one.
    pub(super) done: BTreeMap<usize, Ending>,
    pub(super) retry: bool,
}

impl Item {
    /// `event`, wanted by the destinations in `pending`, and by those in `done`.
    pub(super) fn new(
        event: EnrichedEvent,
        keys: Vec<RoutingKey>,
        done: BTreeMap<usize, Ending>,
        pending: Vec<usize>,
    ) -> Self {
        Self {
            body: event.encode().into(),
            keys,
            event,
            pending,
            refused: Vec::new(),
            done,
            retry: false,
        }
    }

    /// How many destinations ended so, earlier tries included.
    pub(super) fn count(&self, ending: Ending) -> usize {
        self.done.values().filter(|one| **one == ending).count()
    }

    /// How many ended so in this try.
    pub(super) fn count_new(&self, ending: Ending) -> usize {
        let new = self.pending.iter().filter_map(|place| self.done.get(place));
        new.filter(|one| **one == ending).count()
    }

    /// The message for `target`.
    pub(super) fn outgoing(&self, target: Target) -> Outgoing {
        let message = Message {
            id: self.event.id.to_string(),
            content_type: ENRICHED_CONTENT_TYPE.to_owned(),
            kind: self.event.r#type.clone(),
            body: self.body.clone(),
        };
        Outgoing { target, message }
    }

    /// Records what came of a copy.
    pub(super) fn note(&mut self, destination: usize, verdict: Result<(), PublishError>) {
        match verdict {
            Ok(()) => {
                self.done.insert(destination, Ending::Delivered);
            }
            Err(PublishError::Unavailable | PublishError::Unknown) => self.retry = true,
            Err(
                error
                @ (PublishError::Unroutable | PublishError::Rejected | PublishError::TooLarge),
            ) => self.refused.push((destination, error)),
        }
    }

    /// Records what came of the dead letters of a copy.
    pub(super) fn note_dead(&mut self, destination: usize, confirmed: bool) {
        if confirmed {
            self.done.insert(destination, Ending::Dead);
        } else {
            self.retry = true;
        }
    }
}

/// Why a copy is dead. Only the verdicts that [`Item::note`] takes for a refusal come here.
pub(super) fn reason(error: PublishError) -> DeadLetterReason {
    match error {
        PublishError::Rejected => DeadLetterReason::DestinationFull,
        PublishError::TooLarge => DeadLetterReason::TooLarge,
        PublishError::Unroutable | PublishError::Unavailable | PublishError::Unknown => {
            DeadLetterReason::DestinationUnavailable
        }
    }
}
