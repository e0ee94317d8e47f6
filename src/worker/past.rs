//! What the engine of a partition must know before its first delivery: the notes of whoever had the partition
//! before, read back from the changelog. Deliveries wait meanwhile.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bus::{Bus, Delivery, StoredNote};
use crate::enrich::{Note, NoteError};
use crate::jitter::jittered;

/// Notes read ahead of the engine.
const NOTES_AHEAD_MAX: usize = 64;
/// Wait before the changelog is read again after that failed, at most; half of it at least.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// The past of a partition, as far as its engine knows it.
#[derive(Debug)]
pub(super) struct Past {
    partition: u16,
    /// The last note that the engine has.
    position: Option<u64>,
    state: State,
    waiting: Vec<Delivery>,
}

#[derive(Debug)]
enum State {
    Unknown,
    Reading(Reading),
    Known,
}

#[derive(Debug)]
struct Reading {
    notes: mpsc::Receiver<StoredNote>,
    count: usize,
    begun: Instant,
    task: JoinHandle<()>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What comes of reading.
pub(super) enum Recalled {
    /// A note, for the engine.
    Note(Note),
    /// Bytes that are no note of ours.
    Unreadable(NoteError),
    /// That was all: the deliveries that waited.
    All(Vec<Delivery>),
}

impl Past {
    pub(super) fn new(partition: u16) -> Self {
        Self {
            partition,
            position: None,
            state: State::Unknown,
            waiting: Vec::new(),
        }
    }

    pub(super) fn is_known(&self) -> bool {
        matches!(self.state, State::Known)
    }

    /// Keeps a delivery until the past is known, and begins to read it. At most a prefetch of them waits.
    pub(super) fn hold(&mut self, delivery: Delivery, bus: &Arc<dyn Bus>) {
        self.waiting.push(delivery);
        if matches!(self.state, State::Unknown) {
            self.state = State::Reading(read(bus.clone(), self.partition, self.position));
        }
    }

    /// What waits.
    pub(super) fn deliveries(&self) -> impl Iterator<Item = &Delivery> {
        self.waiting.iter()
    }

    /// Another worker may have the partition now: what it notes is to be read before the next delivery.
    pub(super) fn lost(&mut self) {
        self.state = State::Unknown;
        for delivery in self.waiting.drain(..) {
            delivery.unsettled.abandon();
        }
    }

    /// What is read next; pending while nothing is being read.
    pub(super) async fn next(&mut self) -> Recalled {
        let State::Reading(reading) = &mut self.state else {
            return pending().await;
        };
        let Some(stored) = reading.notes.recv().await else {
            if (&mut reading.task).await.is_err() {
                tracing::error!(
                    "reading the changelog panicked (this is a bug); repeats may go out again"
                );
            }
            let duration_ms =
                u64::try_from(reading.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (partition, notes) = (self.partition, reading.count);
            tracing::info!(partition, notes, duration_ms, "the changelog was read");
            self.state = State::Known;
            return Recalled::All(std::mem::take(&mut self.waiting));
        };
        reading.count += 1;
        self.position = Some(stored.position);
        match Note::decode(&stored.note) {
            Ok(note) => Recalled::Note(note),
            Err(error) => Recalled::Unreadable(error),
        }
    }
}

/// Reads until all is read, again from the same place when the bus fails: a note taken in twice does no harm.
fn read(bus: Arc<dyn Bus>, partition: u16, after: Option<u64>) -> Reading {
    let (sender, notes) = mpsc::channel(NOTES_AHEAD_MAX);
    let task = tokio::spawn(async move {
        while bus
            .read_changelog(partition, after, sender.clone())
            .await
            .is_err()
        {
            tracing::warn!(partition, "the changelog cannot be read; trying again");
            tokio::time::sleep(jittered(RETRY_DELAY)).await;
        }
    });
    Reading {
        notes,
        count: 0,
        begun: Instant::now(),
        task,
    }
}
