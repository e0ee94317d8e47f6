//! What a replay makes of a dead letter. Pure.
//!
//! Events go back to their portal's partition as a batch, marked as replayed, so that the engine takes them up although it has
//! seen them, reads their records afresh and ends them anew. What a destination did not take goes to that destination alone.
//! What could not be read is read again by the version that runs now, and then is a batch like any other: nobody has seen its
//! events, or the duplicate check knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::bus::{MESSAGE_BYTES_MAX, Outgoing};
use crate::event::{Audience, Batch, DeadLetter, Event, EventId, Millis, PortalId, Replay, Stage};
use crate::normalize::normalize;

use super::kept::{Content, Kept};

/// The most bytes of pieces that are held to be joined.
const JOINED_BYTES_MAX: usize = 64 << 20;
/// What is done with events that could not be read before.
const READ_ANEW: &str = "to all that want them, now that they can be read";

/// What a plan depends on besides the letter.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The time of the replay.
    pub now: Millis,
    /// How many partitions the bus has.
    pub partitions: u16,
    /// The names of the destinations that there are.
    pub destinations: BTreeSet<String>,
}

/// What a replay makes of a letter.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is published.
    pub outgoing: Vec<Outgoing>,
    /// What that is, for a person.
    pub what: String,
}

/// Why a letter stays, for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Stays(pub String);

impl From<&str> for Stays {
    fn from(why: &str) -> Self {
        Self(why.to_owned())
    }
}

/// What becomes of a letter that is whole.
///
/// # Errors
/// Why it stays.
pub fn plan(kept: &Kept, terms: &Terms) -> Result<Plan, Stays> {
    match &kept.content {
        Content::Letter(letter) => of_letter(letter, terms),
        Content::Batch(batch) => batches(batch.events().to_vec(), "once more", terms),
        Content::Foreign => Err("it is no letter of ours".into()),
    }
}

fn of_letter(letter: &DeadLetter, terms: &Terms) -> Result<Plan, Stays> {
    if let Some(name) = &letter.destination
        && !terms.destinations.contains(name)
    {
        return Err(Stays(format!("there is no destination {name}")));
    }
    if letter.raw.is_some() {
        return of_raw(letter, terms);
    }
    let events = match &letter.enriched_event {
        Some(enriched) => &enriched.data.events,
        None => &letter.events,
    };
    let audience = match (&letter.destination, letter.stage) {
        (Some(name), _) => Audience::Destination(name.clone()),
        (None, Stage::Enrich) => Audience::Enriched,
        (None, _) => Audience::Everybody,
    };
    let whereto = match &audience {
        Audience::Everybody => "to all that want them".to_owned(),
        Audience::Enriched => "to all that want them enriched".to_owned(),
        Audience::Destination(name) => format!("to {name} alone"),
    };
    let replay = Arc::new(Replay {
        of: letter.failure_id(),
        at: terms.now,
        audience,
    });
    let marked = events.iter().map(|event| Event {
        // Typed by definitions that may be others now.
        value: None,
        replay: Some(Arc::clone(&replay)),
        ..event.clone()
    });
    batches(marked.collect(), &whereto, terms)
}

/// Reads again what could not be read.
fn of_raw(letter: &DeadLetter, terms: &Terms) -> Result<Plan, Stays> {
    let raw = letter.raw_bytes().ok_or("its content is damaged")?;
    match letter.stage {
        Stage::Normalize => {
            let text = std::str::from_utf8(&raw).map_err(|_| "it is still no text")?;
            let event = normalize(text, letter.failed_at).map_err(still_unreadable)?;
            batches(vec![event], READ_ANEW, terms)
        }
        Stage::Ingress => {
            let elements: Vec<&RawValue> =
                serde_json::from_slice(&raw).map_err(|_| "it is still no JSON array")?;
            let events = elements
                .into_iter()
                .map(|element| normalize(element.get(), letter.failed_at));
            let events = events.collect::<Result<_, _>>();
            batches(events.map_err(still_unreadable)?, READ_ANEW, terms)
        }
        Stage::Consume => {
            let batch = Batch::decode(&raw).map_err(still_unreadable)?;
            batches(batch.into_events(), READ_ANEW, terms)
        }
        Stage::Enrich | Stage::FanOut => Err("it holds no events".into()),
    }
}

fn still_unreadable(error: impl std::error::Error) -> Stays {
    Stays(format!("it still cannot be read: {error}"))
}

/// A batch for each portal, and several where one outgrows a message.
fn batches(events: Vec<Event>, whereto: &str, terms: &Terms) -> Result<Plan, Stays> {
    let count = events.len();
    let mut portals: Vec<PortalId> = Vec::new();
    let mut by_portal: BTreeMap<PortalId, Vec<Event>> = BTreeMap::new();
    for event in events {
        if !by_portal.contains_key(&event.portal_id) {
            portals.push(event.portal_id.clone());
        }
        let of_portal = by_portal.entry(event.portal_id.clone()).or_default();
        of_portal.push(event);
    }
    let mut outgoing = Vec::new();
    for portal_id in portals {
        let events = by_portal.remove(&portal_id).unwrap_or_default();
        send(events, terms.partitions, &mut outgoing)?;
    }
    if outgoing.is_empty() {
        return Err("it holds no events".into());
    }
    Ok(Plan {
        outgoing,
        what: format!("{count} events {whereto}"),
    })
}

/// Recursion is as deep as the logarithm of the number of events.
fn send(
    mut events: Vec<Event>,
    partitions: u16,
    outgoing: &mut Vec<Outgoing>,
) -> Result<(), Stays> {
    let half = events.len() / 2;
    let batch = Batch::new(events).map_err(|error| Stays(error.to_string()))?;
    let body = batch.encode();
    if body.len() <= MESSAGE_BYTES_MAX {
        outgoing.push(Outgoing::batch(&batch, body, partitions));
        return Ok(());
    }
    if half == 0 {
        return Err("its event outgrows a message".into());
    }
    events = batch.into_events();
    let rest = events.split_off(half);
    send(events, partitions, outgoing)?;
    send(rest, partitions, outgoing)
}

/// A piece, and where it lies: more than once, after a crash.
type Piece = (Vec<usize>, DeadLetter);

/// Pieces of what outgrew a message, until all of them are there.
#[derive(Debug, Default)]
pub struct Pieces {
    wholes: BTreeMap<EventId, BTreeMap<usize, Piece>>,
    bytes: usize,
}

impl Pieces {
    /// Takes in a piece, which lies at `place`. When it is the last, all places and the whole letter.
    ///
    /// # Errors
    /// Why it stays.
    pub fn take(
        &mut self,
        place: usize,
        letter: &DeadLetter,
    ) -> Result<Option<(Vec<usize>, Kept)>, Stays> {
        let part = letter.part.as_ref().ok_or("it is no piece")?;
        let whole = part.whole.clone();
        let whole = whole.ok_or("it is a piece, and does not say of what")?;
        let bytes = letter.raw_bytes().ok_or("its content is damaged")?.len();
        if self.bytes + bytes > JOINED_BYTES_MAX {
            return Err(
                "it is a piece, and more than can be joined at once; replay it by id".into(),
            );
        }
        let pieces = self.wholes.entry(whole.clone()).or_default();
        let piece = pieces.entry(part.number).or_insert_with(|| {
            self.bytes += bytes;
            (Vec::new(), letter.clone())
        });
        piece.0.push(place);
        if pieces.len() < part.of {
            return Ok(None);
        }
        let pieces = self.wholes.remove(&whole).unwrap_or_default();
        let (places, pieces): (Vec<_>, Vec<DeadLetter>) = pieces.into_values().unzip();
        self.bytes -= pieces.iter().map(raw_len).sum::<usize>();
        Ok(Some((places.concat(), join(pieces))))
    }

    /// The pieces whose others did not come, with why they stay.
    pub fn rest(self) -> impl Iterator<Item = (usize, Stays)> {
        self.wholes.into_values().flat_map(|pieces| {
            let here = pieces.len();
            pieces.into_values().flat_map(move |(places, letter)| {
                let of = letter.part.map_or(0, |part| part.of);
                let stays = Stays(format!("{here} of {of} pieces are here"));
                places.into_iter().map(move |place| (place, stays.clone()))
            })
        })
    }
}

fn raw_len(letter: &DeadLetter) -> usize {
    letter.raw_bytes().map_or(0, |bytes| bytes.len())
}

/// What was cut: events, or what came from HubSpot.
fn join(pieces: Vec<DeadLetter>) -> Kept {
    let content: Vec<u8> = pieces
        .iter()
        .filter_map(DeadLetter::raw_bytes)
        .flatten()
        .collect();
    let first = pieces.into_iter().next();
    let letter = first.map(|first| {
        let bare = DeadLetter {
            part: None,
            raw: None,
            ..first
        };
        match serde_json::from_slice::<Vec<Event>>(&content) {
            Ok(events) => bare.with_events(events),
            Err(_) => bare.with_raw(&content),
        }
    });
    Kept {
        id: letter
            .as_ref()
            .map_or_else(String::new, |one| one.id().to_string()),
        bytes: content.len(),
        content: letter.map_or(Content::Foreign, |one| Content::Letter(Box::new(one))),
    }
}
