//! Which destinations want an event; deliver it to each; record the outcome.
//!
//! For every destination that wants it, an event ends as a confirmed copy or as a confirmed dead letter. Until all
//! of them have, the answer is [`FanOutFailure::Retry`] and nothing may be acknowledged. A copy that was confirmed
//! meanwhile is remembered and not sent again, so that one destination's trouble does not repeat itself at another.
//!
//! Copies on the topic exchanges are best effort: they are sent with the rest, and whatever becomes of them delays
//! nothing.
//!
//! - `destination`: what each asks for ([`crate::demand`] says what that makes of an event), and its file;
//! - `item`: one event on its way; `share`, `message`: what a destination gets of it, and how that is written;
//! - `ndjson`: files of lines; `dead`: dead letters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::join_all;

use crate::bus::{Bus, Outgoing, PublishError, Target, Topic};
use crate::config::Config;
use crate::demand::Wish;
use crate::event::{EventId, Millis};
use crate::metrics::{Metrics, seconds};

mod dead;
mod destination;
mod item;
mod message;
mod ndjson;
mod share;

#[cfg(test)]
mod tests;

use destination::{Destination, Kind};
pub use item::Outbound;
use item::{Ending, Item, reason};
use ndjson::Ndjson;

/// Events whose confirmed copies are remembered between two tries. At the bound all are forgotten (some may belong to
/// events that went to another worker), and repeats are sent again, under the same ids.
const RETRIED_MAX: usize = 10_000;

/// The destinations, and what delivers to them.
#[derive(Debug)]
pub struct FanOut {
    destinations: Vec<Destination>,
    topics: Vec<(Topic, Wish)>,
    bus: SharedBus,
    metrics: Arc<Metrics>,
    /// Places in `destinations` that are done with, by an event that is to come again.
    retried: Mutex<HashMap<EventId, BTreeMap<usize, Ending>>>,
}

/// A copy that ended: its destination has it, or a dead letter holds it. One confirmed by an earlier try counts too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyEnded {
    /// The destination's place among all.
    pub destination: usize,
    /// The events that it lists.
    pub listed: Vec<EventId>,
    /// Whether a dead letter holds it.
    pub is_dead: bool,
}

/// Why an event has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FanOutFailure {
    /// A copy or its dead letter was not confirmed. Acknowledge nothing, and deliver the same event again.
    #[error("a copy was not confirmed; deliver the event again")]
    Retry,
}

/// Why the destinations could not be opened. Each names the key to look at.
#[derive(Debug, thiserror::Error)]
pub enum FanOutError {
    /// An NDJSON destination without a file.
    #[error("destination.{name}.path is missing; give a file, or `-` for stdout")]
    NoPath {
        /// The destination.
        name: String,
    },
    /// The file cannot be opened.
    #[error("destination.{name}.path: cannot append to {path:?}: {source}")]
    File {
        /// The destination.
        name: String,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// A bus, which has no `Debug` of its own.
struct SharedBus(Arc<dyn Bus>);

/// What stands at one place of a published batch.
#[derive(Clone, Copy)]
enum Slot {
    Copy { item: usize, destination: usize },
    Topic,
}

impl FanOut {
    /// Opens the destinations: NDJSON files are made where missing, and a last line that a crash cut off is ended.
    ///
    /// # Errors
    /// Every variant of [`FanOutError`].
    pub fn new(
        config: &Config,
        bus: Arc<dyn Bus>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, FanOutError> {
        let destinations = config.destination.iter().map(Destination::open);
        let topics = [
            (Topic::Enriched, Wish::of_enriched_topic(&config.bus)),
            (Topic::Events, Wish::of_events_topic(&config.bus)),
        ];
        let topics = topics.into_iter();
        Ok(Self {
            destinations: destinations.collect::<Result<_, _>>()?,
            topics: topics
                .filter_map(|(topic, wish)| Some((topic, wish?)))
                .collect(),
            bus: SharedBus(bus),
            metrics,
            retried: Mutex::default(),
        })
    }

    /// Delivers every event to every destination that wants it, and to the topic exchanges. One result per event, in the
    /// order given: the copies of it, none when nobody wants any of it; within a destination the copies go out in that order too.
    ///
    /// Resolves when each copy is confirmed, has become a confirmed dead letter, or has failed to. Dropping the
    /// future leaves open what was delivered: deliver again.
    pub async fn deliver(
        &self,
        events: Vec<Outbound>,
    ) -> Vec<Result<Vec<CopyEnded>, FanOutFailure>> {
        let mut items: Vec<Item> = events.into_iter().map(|event| self.item(event)).collect();
        let (published, written) =
            tokio::join!(self.publish_copies(&items), self.write_lines(&items));
        for (item, destination, verdict) in published.into_iter().chain(written) {
            items[item].note(destination, verdict);
        }
        self.bury(&mut items).await;
        let now = Millis::now();
        items.into_iter().map(|item| self.end(item, now)).collect()
    }

    fn item(&self, event: Outbound) -> Item {
        let done = self.lock_retried().get(&*event.known_as()).cloned();
        let destinations = self.destinations.iter();
        Item::new(
            event,
            destinations.map(|one| (one.name.as_str(), &one.wish, one.format)),
            self.topics.iter().map(|(_, wish)| wish),
            done.unwrap_or_default(),
        )
    }

    /// All copies that go over the bus, as one batch.
    async fn publish_copies(
        &self,
        items: &[Item],
    ) -> Vec<(usize, usize, Result<(), PublishError>)> {
        let (slots, batch) = self.batch(items);
        if batch.is_empty() {
            return Vec::new();
        }
        let verdicts = self.bus.0.publish(batch).await;
        slots
            .into_iter()
            .zip(verdicts)
            .filter_map(|(slot, verdict)| match slot {
                Slot::Copy { item, destination } => Some((item, destination, verdict)),
                Slot::Topic => None,
            })
            .collect()
    }

    fn batch(&self, items: &[Item]) -> (Vec<Slot>, Vec<Outgoing>) {
        let mut batch = Vec::new();
        for (place, item) in items.iter().enumerate() {
            for (&destination, message) in &item.pending {
                if let Kind::Queue = self.destinations[destination].kind {
                    let target = Target::Destination(self.destinations[destination].name.clone());
                    let message = message.clone();
                    let slot = Slot::Copy {
                        item: place,
                        destination,
                    };
                    batch.push((slot, Outgoing { target, message }));
                }
            }
            for (topic, keys, message) in &item.topics {
                let target = Target::Topic(self.topics[*topic].0, keys.clone());
                let message = message.clone();
                batch.push((Slot::Topic, Outgoing { target, message }));
            }
        }
        batch.into_iter().unzip()
    }

    /// The lines of every NDJSON destination, all destinations at once.
    async fn write_lines(&self, items: &[Item]) -> Vec<(usize, usize, Result<(), PublishError>)> {
        let writes = self
            .destinations
            .iter()
            .enumerate()
            .filter_map(|(place, destination)| match &destination.kind {
                Kind::Ndjson(ndjson) => Some((place, ndjson)),
                Kind::Queue => None,
            })
            .map(|(place, ndjson)| self.write(place, ndjson, items));
        join_all(writes).await.concat()
    }

    async fn write(
        &self,
        destination: usize,
        ndjson: &Ndjson,
        items: &[Item],
    ) -> Vec<(usize, usize, Result<(), PublishError>)> {
        let (places, bodies): (Vec<usize>, Vec<Bytes>) = items
            .iter()
            .enumerate()
            .filter_map(|(place, item)| Some((place, item.pending.get(&destination)?.body.clone())))
            .unzip();
        if places.is_empty() {
            return Vec::new();
        }
        let verdict = ndjson.write(bodies).await.map_err(|error| {
            let name = &self.destinations[destination].name;
            tracing::warn!(destination = %name, %error, "lines could not be written; they are written again");
            PublishError::Unknown
        });
        places
            .into_iter()
            .map(|place| (place, destination, verdict))
            .collect()
    }

    /// Turns refused copies into dead letters. An event that is to come again anyway keeps its refused copies pending:
    /// their destination may take them then.
    async fn bury(&self, items: &mut [Item]) {
        let mut slots = Vec::new();
        let mut batch = Vec::new();
        let now = Millis::now();
        for (place, item) in items.iter().enumerate().filter(|(_, item)| !item.retry) {
            for &(destination, error) in &item.refused {
                let Destination { name, wish, .. } = &self.destinations[destination];
                let letters = dead::letters(item.copy_for(wish), name, reason(error), now);
                slots.extend(letters.iter().map(|_| (place, destination, error)));
                batch.extend(letters);
            }
        }
        if batch.is_empty() {
            return;
        }
        let mut open: Vec<_> = slots.clone();
        open.dedup_by_key(|slot| (slot.0, slot.1));
        let verdicts = self.bus.0.publish(batch).await;
        let failed: BTreeSet<(usize, usize)> = slots
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| verdict.is_err())
            .map(|(slot, _)| (slot.0, slot.1))
            .collect();
        self.count_letters(&slots, &verdicts);
        let (_, destination, error) = open[0];
        tracing::warn!(
            copies = open.len(),
            destination = %self.destinations[destination].name,
            "copies become dead letters, the first because {error}"
        );
        for (place, destination, _) in open {
            items[place].note_dead(destination, !failed.contains(&(place, destination)));
        }
    }

    fn count_letters(
        &self,
        slots: &[(usize, usize, PublishError)],
        verdicts: &[Result<(), PublishError>],
    ) {
        for (slot, _) in slots
            .iter()
            .zip(verdicts)
            .filter(|(_, verdict)| verdict.is_ok())
        {
            self.metrics
                .dead_letters_total
                .with_label_values(&["fan_out", reason(slot.2).as_str()])
                .inc();
        }
    }

    /// Records how an event ended, or what of it need not be repeated.
    fn end(&self, item: Item, now: Millis) -> Result<Vec<CopyEnded>, FanOutFailure> {
        self.count_copies(&item);
        let mut retried = self.lock_retried();
        if item.retry {
            if retried.len() >= RETRIED_MAX {
                retried.clear();
            }
            retried.insert(item.outbound.known_as().into_owned(), item.done);
            return Err(FanOutFailure::Retry);
        }
        retried.remove(&*item.outbound.known_as());
        let lateness = seconds(now.since(item.outbound.time()));
        // What is replayed is late because of what happened to it, and not because of how it goes.
        let is_replayed = item.outbound.is_replayed();
        let copies = item.copies();
        if copies.iter().any(|copy| !copy.is_dead) && !is_replayed {
            self.metrics.fan_out_lateness_seconds.observe(lateness);
        }
        Ok(copies)
    }

    fn count_copies(&self, item: &Item) {
        for (outcome, ending) in [("delivered", Ending::Delivered), ("dead", Ending::Dead)] {
            self.metrics
                .fan_out_copies_total
                .with_label_values(&[outcome])
                .inc_by(item.count_new(ending) as u64);
        }
    }

    fn lock_retried(&self) -> std::sync::MutexGuard<'_, HashMap<EventId, BTreeMap<usize, Ending>>> {
        // Whole insertions and removals only: a panic elsewhere leaves it sound.
        self.retried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for SharedBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bus")
    }
}
