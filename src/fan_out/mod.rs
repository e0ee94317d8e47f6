//! Which destinations want an event; deliver it to each; record the outcome.
//!
//! For every destination that wants it, an event ends as a confirmed copy or as a confirmed dead letter. Until all
//! of them have, the answer is [`FanOutFailure::Retry`] and nothing may be acknowledged. A copy that was confirmed
//! meanwhile is remembered and not sent again, so that one destination's trouble does not repeat itself at another.
//!
//! The copy on `crm.enriched` is best effort: it is sent with the rest, and whatever becomes of it delays nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::join_all;

use crate::bus::{Bus, Outgoing, PublishError, Target};
use crate::config::{DestinationConfig, DestinationKind};
use crate::event::{EnrichedEvent, EventId, KeyPattern, Millis, RoutingKey};
use crate::metrics::{Metrics, seconds};

mod dead;
mod item;
mod ndjson;

#[cfg(test)]
mod tests;

use item::{Ending, Item, reason};
use ndjson::Ndjson;

/// Events whose confirmed copies are remembered between two tries. At the bound all are forgotten (some may belong to
/// events that went to another worker), and repeats are sent again, under the same ids.
const RETRIED_MAX: usize = 10_000;

/// The destinations, and what delivers to them.
#[derive(Debug)]
pub struct FanOut {
    destinations: Vec<Destination>,
    bus: SharedBus,
    metrics: Arc<Metrics>,
    /// Places in `destinations` that are done with, by an event that is to come again.
    retried: Mutex<HashMap<EventId, BTreeMap<usize, Ending>>>,
}

/// How an event ended, for all destinations together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanOutOutcome {
    /// Every destination that wants it has its copy, or a dead letter holds that copy. Copies confirmed by an earlier
    /// try count too.
    Delivered {
        /// Confirmed copies.
        copies: usize,
        /// Copies that became dead letters.
        dead: usize,
    },
    /// No destination's patterns match.
    Unwanted,
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

#[derive(Debug)]
struct Destination {
    name: String,
    patterns: Vec<KeyPattern>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Queue,
    Ndjson(Ndjson),
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
        destinations: &BTreeMap<String, DestinationConfig>,
        bus: Arc<dyn Bus>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, FanOutError> {
        let destinations = destinations.iter().map(Destination::open);
        Ok(Self {
            destinations: destinations.collect::<Result<_, _>>()?,
            bus: SharedBus(bus),
            metrics,
            retried: Mutex::default(),
        })
    }

    /// Delivers every event to every destination that wants it, and to `crm.enriched`. One result per event, in the
    /// order given; within a destination the copies go out in that order too.
    ///
    /// Resolves when each copy is confirmed, has become a confirmed dead letter, or has failed to. Dropping the
    /// future leaves open what was delivered: deliver again.
    pub async fn deliver(
        &self,
        events: Vec<EnrichedEvent>,
    ) -> Vec<Result<FanOutOutcome, FanOutFailure>> {
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

    fn item(&self, event: EnrichedEvent) -> Item {
        let keys = event.routing_keys();
        let earlier = self.lock_retried().get(&event.id).cloned();
        let earlier = earlier.unwrap_or_default();
        let (mut done, mut pending) = (BTreeMap::new(), Vec::new());
        let wanted = self.destinations.iter().enumerate();
        for (place, _) in wanted.filter(|(_, destination)| destination.wants(&keys)) {
            match earlier.get(&place) {
                Some(ending) => {
                    done.insert(place, *ending);
                }
                None => pending.push(place),
            }
        }
        Item::new(event, keys, done, pending)
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
            for &destination in &item.pending {
                if let Kind::Queue = self.destinations[destination].kind {
                    let name = self.destinations[destination].name.clone();
                    let slot = Slot::Copy {
                        item: place,
                        destination,
                    };
                    batch.push((slot, item.outgoing(Target::Destination(name))));
                }
            }
            // A repeat whose other copies went out has had its topic copy sent with them.
            if item.done.is_empty() {
                batch.push((Slot::Topic, item.outgoing(Target::Topic(item.keys.clone()))));
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
        let wanted = items.iter().enumerate();
        let wanted = wanted.filter(|(_, item)| item.pending.contains(&destination));
        let (places, bodies): (Vec<usize>, Vec<Bytes>) = wanted
            .map(|(place, item)| (place, item.body.clone()))
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
                let name = &self.destinations[destination].name;
                let letters = dead::letters(&item.event, name, reason(error), now);
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
    fn end(&self, item: Item, now: Millis) -> Result<FanOutOutcome, FanOutFailure> {
        self.count_copies(&item);
        let mut retried = self.lock_retried();
        if item.retry {
            if retried.len() >= RETRIED_MAX {
                retried.clear();
            }
            retried.insert(item.event.id, item.done);
            return Err(FanOutFailure::Retry);
        }
        retried.remove(&item.event.id);
        if item.done.is_empty() {
            return Ok(FanOutOutcome::Unwanted);
        }
        let copies = item.count(Ending::Delivered);
        if copies > 0 {
            let lateness = seconds(now.since(item.event.time));
            self.metrics.fan_out_lateness_seconds.observe(lateness);
        }
        Ok(FanOutOutcome::Delivered {
            copies,
            dead: item.count(Ending::Dead),
        })
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

impl Destination {
    fn open((name, config): (&String, &DestinationConfig)) -> Result<Self, FanOutError> {
        let kind = match config.kind {
            DestinationKind::Queue => Kind::Queue,
            DestinationKind::Ndjson => {
                let name = name.clone();
                let Some(path) = config.path.clone() else {
                    return Err(FanOutError::NoPath { name });
                };
                let opened = Ndjson::open(&path);
                Kind::Ndjson(opened.map_err(|source| FanOutError::File { name, path, source })?)
            }
        };
        Ok(Self {
            name: name.clone(),
            patterns: config.patterns.clone(),
            kind,
        })
    }

    fn wants(&self, keys: &[RoutingKey]) -> bool {
        let wants = |key| self.patterns.iter().any(|pattern| pattern.matches(key));
        keys.iter().any(wants)
    }
}

impl std::fmt::Debug for SharedBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bus")
    }
}
