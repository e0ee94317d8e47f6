//! One event on its way: what goes out of it, what is still to do, and what came of the rest.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::bus::{Message, PublishError};
use crate::config::DestinationFormat;
use crate::demand::Wish;
use crate::event::{
    DeadLetterReason, EnrichedEvent, Event, EventId, IdentityHasher, Millis, RoutingKey,
};

use super::CopyEnded;
use super::share::{Encoder, Share};

/// What goes out.
#[derive(Clone, Debug, PartialEq)]
pub enum Outbound {
    /// The state of a record with the events that led to it.
    Enriched(Box<EnrichedEvent>),
    /// An event as it is.
    Plain(Box<Event>),
}

impl Outbound {
    /// What a repeat of it is recognised by.
    pub(super) fn known_as(&self) -> Cow<'_, EventId> {
        let id = match self {
            Self::Enriched(event) => &event.id,
            Self::Plain(event) => &event.id,
        };
        let mut events = self.events().iter();
        if events.all(|event| event.replay.is_none()) {
            return Cow::Borrowed(id);
        }
        let mut hasher = IdentityHasher::new("replayed message");
        // A merge is in several messages.
        hasher.field(id.as_str());
        let events = self.events().iter();
        events.for_each(|event| hasher.field(event.known_as().as_str()));
        Cow::Owned(hasher.finish())
    }

    /// The events in it; never none.
    fn events(&self) -> &[Event] {
        match self {
            Self::Enriched(event) => &event.data.events,
            Self::Plain(event) => std::slice::from_ref(event),
        }
    }

    /// Whether a destination of this name gets it, or without a name a topic exchange.
    pub(super) fn is_for(&self, destination: Option<&str>) -> bool {
        self.events().iter().all(|event| event.is_for(destination))
    }

    /// Whether all of it is replayed.
    pub(super) fn is_replayed(&self) -> bool {
        self.events().iter().all(|event| event.replay.is_some())
    }

    /// When the newest of its changes happened.
    pub(super) fn time(&self) -> Millis {
        match self {
            Self::Enriched(event) => event.time,
            Self::Plain(event) => event.occurred_at,
        }
    }

    /// What its events at these places are known as.
    fn ids_at(&self, places: &[usize]) -> Vec<EventId> {
        match self {
            Self::Enriched(event) => {
                let events = places.iter().map(|place| &event.data.events[*place]);
                events.map(|event| event.known_as().into_owned()).collect()
            }
            Self::Plain(event) => vec![event.known_as().into_owned()],
        }
    }

    /// The routing keys of each of its events.
    pub(super) fn keys(&self) -> Vec<Vec<RoutingKey>> {
        match self {
            Self::Enriched(event) => event.routing_keys(),
            Self::Plain(event) => vec![vec![event.routing_key()]],
        }
    }
}

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
    pub(super) outbound: Outbound,
    /// What destinations that are not done with get.
    pub(super) pending: BTreeMap<usize, Message>,
    /// What topic exchanges get, by their place, and under which keys.
    pub(super) topics: Vec<(usize, Vec<RoutingKey>, Message)>,
    /// The events that each destination's copy lists.
    pub(super) listed: BTreeMap<usize, Vec<EventId>>,
    /// Destinations whose copy has become a dead letter, once that is confirmed.
    pub(super) refused: Vec<(usize, PublishError)>,
    /// Destinations that are done with, by an earlier try or this one.
    pub(super) done: BTreeMap<usize, Ending>,
    pub(super) retry: bool,
}

impl Item {
    /// What `wishes` (of destinations, each with its name and format) and `topics` get of an event of which an earlier try has
    /// `done` with some. Those who get the same share one encoding.
    pub(super) fn new<'w>(
        outbound: Outbound,
        wishes: impl Iterator<Item = (&'w str, &'w Wish, DestinationFormat)>,
        topics: impl Iterator<Item = &'w Wish>,
        done: BTreeMap<usize, Ending>,
    ) -> Self {
        let keys = outbound.keys();
        let mut encoder = Encoder::default();
        let mut listed = BTreeMap::new();
        let mut pending = BTreeMap::new();
        for (place, (name, wish, format)) in wishes.enumerate() {
            if !outbound.is_for(Some(name)) {
                continue;
            }
            let Some(share) = Share::of(wish, &outbound, &keys) else {
                continue;
            };
            listed.insert(place, outbound.ids_at(share.listed()));
            if !done.contains_key(&place) {
                pending.insert(place, encoder.message(&share, format));
            }
        }
        let mut of_topics = Vec::new();
        // A repeat whose other copies went out has had its topic copies sent with them.
        let goes_to_topics = done.is_empty() && outbound.is_for(None);
        for (place, wish) in topics.enumerate().filter(|_| goes_to_topics) {
            if let Some(share) = Share::of(wish, &outbound, &keys) {
                let keys = distinct(share.listed().iter().flat_map(|place| &keys[*place]));
                let message = encoder.message(&share, DestinationFormat::Structured);
                of_topics.push((place, keys, message));
            }
        }
        Self {
            pending,
            topics: of_topics,
            listed,
            outbound,
            refused: Vec::new(),
            done,
            retry: false,
        }
    }

    /// The copy that `wish` asks for, for a dead letter.
    pub(super) fn copy_for(&self, wish: &Wish) -> Outbound {
        match &self.outbound {
            Outbound::Plain(_) => self.outbound.clone(),
            Outbound::Enriched(event) => {
                let selection = wish.select(&event.data, &self.outbound.keys());
                let copy = selection.map(|selection| selection.copy_of(event).into_owned());
                Outbound::Enriched(copy.map_or_else(|| event.clone(), Box::new))
            }
        }
    }

    /// What each destination that wants something of it got, earlier tries included.
    pub(super) fn copies(mut self) -> Vec<CopyEnded> {
        let done = self.done.iter();
        let copy = |(place, ending): (&usize, &Ending)| CopyEnded {
            destination: *place,
            listed: self.listed.remove(place).unwrap_or_default(),
            is_dead: *ending == Ending::Dead,
        };
        done.map(copy).collect()
    }

    /// How many ended so in this try.
    pub(super) fn count_new(&self, ending: Ending) -> usize {
        let new = self.pending.keys().filter_map(|place| self.done.get(place));
        new.filter(|one| **one == ending).count()
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

/// Each key once, in order.
fn distinct<'k>(keys: impl Iterator<Item = &'k RoutingKey>) -> Vec<RoutingKey> {
    let mut once: Vec<RoutingKey> = Vec::new();
    for key in keys {
        if !once.contains(key) {
            once.push(key.clone());
        }
    }
    once
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
