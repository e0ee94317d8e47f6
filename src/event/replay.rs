//! That an event is replayed: it is taken up although it was seen before, and goes to those whom its dead letter is about.
//!
//! The mark travels with the event, from the bus through the engine to the destinations, so that no way through it can lose
//! the mark. It is in no message that a consumer gets.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Event, EventId, IdentityHasher, Millis};

/// Why an event comes once more, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// What is replayed: [`DeadLetter::failure_id`](super::DeadLetter::failure_id). Whoever replays it twice is recognised by it.
    pub of: EventId,
    /// Since when, by this relay's clock.
    pub at: Millis,
    /// Who gets it.
    pub audience: Audience,
}

/// Who gets a replayed event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Whoever wants it.
    Everybody,
    /// Whoever wants it enriched. As it is, it went out before.
    Enriched,
    /// This destination alone.
    Destination(String),
}

impl Event {
    /// What the duplicate check knows it by: its id, or one of this replay alone.
    #[must_use]
    pub fn known_as(&self) -> Cow<'_, EventId> {
        let Some(replay) = &self.replay else {
            return Cow::Borrowed(&self.id);
        };
        let mut hasher = IdentityHasher::new("replay");
        hasher.field(replay.of.as_str());
        hasher.field(self.id.as_str());
        Cow::Owned(hasher.finish())
    }

    /// The only destination that gets it, where it is not for all.
    #[must_use]
    pub fn only(&self) -> Option<&str> {
        match self.replay.as_deref() {
            Some(Replay {
                audience: Audience::Destination(name),
                ..
            }) => Some(name),
            _ => None,
        }
    }

    /// Whether a destination of this name gets it, or without a name a topic exchange, which nobody is on for sure.
    #[must_use]
    pub fn is_for(&self, destination: Option<&str>) -> bool {
        self.only().is_none_or(|only| destination == Some(only))
    }

    /// Whether it may go out as it is, and not only in a message about its record.
    #[must_use]
    pub fn may_go_plain(&self) -> bool {
        let replay = self.replay.as_deref();
        replay.is_none_or(|replay| replay.audience != Audience::Enriched)
    }

    /// Since when it has waited, by this relay's clock.
    #[must_use]
    pub fn waits_since(&self) -> Millis {
        let replay = self.replay.as_deref();
        replay.map_or(self.received_at, |replay| replay.at)
    }
}
