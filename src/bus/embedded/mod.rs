//! The embedded bus: the same promises as a broker's, from a SQLite file on a local disk.
//!
//! ```text
//! publish ──▶ bounded channel ──▶ writer thread: one transaction, one fsync ──▶ answers, wake-ups
//! consumers ─ fetch, settle ──────▲                         └ bus.sqlite3 (WAL)
//! ```
//!
//! For one process: the folder is locked. Every message has one row; a queue is a number. What it does not
//! have is destinations' queues and listeners of `crm.enriched`: those need a broker.
//!
//! The file does not shrink: what is deleted is overwritten, and its room used again. Seconds later it is gone from
//! SQLite's log as well.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{
    Bus, BusUnavailable, Claim, Consumer, ConsumerFeed, MESSAGE_BYTES_MAX, Outgoing, PublishError,
    Queue, StoredNote, Target,
};
use crate::folder::Folder;
use crate::metrics::{Metrics, seconds};

mod error;
mod feed;
mod open;
mod room;
mod signals;
mod store;
mod writer;

#[cfg(test)]
mod tests;

pub use error::EmbeddedError;

use room::Room;
use signals::Signals;
use store::{Appended, QueueId};
use writer::{COMMANDS_MAX, Command, Writer};

/// The database in the folder. SQLite gives `-wal` and `-shm` beside it the same permissions.
const DATABASE_FILE: &str = "bus.sqlite3";

/// Deliveries that wait in memory for a consumer to take them; it may hold more of them unsettled.
const BUFFERED_MAX: u16 = 1_024;

/// How the embedded bus is opened.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// `bus.data_dir`: a folder on a local disk, made where it is missing.
    pub data_dir: PathBuf,
    /// `bus.partitions`: fixed for the life of the folder.
    pub partitions: u16,
    /// `bus.publish_timeout`: how long a publish waits for its verdict.
    pub publish_timeout: Duration,
}

/// A bus in this process, durable in a folder of its own. Dropped without [`Bus::close`] it loses nothing that was
/// confirmed; what was settled and not yet committed comes again.
#[derive(Debug)]
pub struct Embedded {
    handle: Arc<Handle>,
    partitions: u16,
    share: watch::Sender<BTreeSet<u16>>,
    publish_timeout: Duration,
    /// Whose turn it is to take dead letters.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What the bus and its consumers hold of the writer.
#[derive(Debug)]
struct Handle {
    commands: mpsc::Sender<Command>,
    signals: Arc<Signals>,
    closing: CancellationToken,
    feeds: TaskTracker,
}

impl Embedded {
    /// Opens the store, making it where it is missing, and starts its writer thread.
    ///
    /// Blocks while the database is checked, which grows with its size up to the bound in `open`.
    ///
    /// # Errors
    /// Every variant of [`EmbeddedError`].
    pub fn open(options: EmbeddedOptions, metrics: Arc<Metrics>) -> Result<Self, EmbeddedError> {
        if options.partitions == 0 {
            return Err(EmbeddedError::NoPartitions);
        }
        let folder = Folder::open(&options.data_dir, "bus.data_dir")?;
        let database = folder.file(DATABASE_FILE)?;
        let store = open::open(&database, options.partitions)?;
        let (signals, connected) = Signals::new(options.partitions, metrics);
        let signals = Arc::new(signals);
        connected.set(true);
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let writer = Writer {
            store,
            folder,
            commands: received,
            signals: Arc::clone(&signals),
            connected,
            fold_at: None,
            room: Room::new(database),
        };
        std::thread::Builder::new()
            .name("bus-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(EmbeddedError::Thread)?;
        let handle = Handle {
            commands,
            signals,
            closing: CancellationToken::new(),
            feeds: TaskTracker::new(),
        };
        Ok(Self {
            handle: Arc::new(handle),
            partitions: options.partitions,
            share: watch::Sender::new((0..options.partitions).collect()),
            publish_timeout: options.publish_timeout,
            turn: Arc::default(),
        })
    }

    async fn publish_all(&self, messages: Vec<Outgoing>) -> Vec<Result<(), PublishError>> {
        let begun = Instant::now();
        let labels: Vec<&str> = messages.iter().map(|one| label(&one.target)).collect();
        let (mut verdicts, appended) = self.sort_out(messages);
        let stored = self.append(appended).await;
        // What has no verdict of its own shares the transaction's.
        let verdicts: Vec<_> = verdicts
            .iter_mut()
            .map(|verdict| verdict.take().unwrap_or(stored))
            .collect();
        self.count(&labels, &verdicts, begun.elapsed());
        verdicts
    }

    /// Verdicts that need no store, and the messages that do.
    fn sort_out(
        &self,
        messages: Vec<Outgoing>,
    ) -> (Vec<Option<Result<(), PublishError>>>, Vec<Appended>) {
        let mut appended = Vec::new();
        let verdicts = messages
            .into_iter()
            .map(|outgoing| {
                if outgoing.message.body.len() > MESSAGE_BYTES_MAX {
                    return Some(Err(PublishError::TooLarge));
                }
                let (queue, routing_key) = match outgoing.target {
                    Target::Topic(..) => return Some(Ok(())),
                    Target::DeadLetters(key) | Target::KeptDeadLetters(key) => {
                        (QueueId::DEAD_LETTERS, Some(key))
                    }
                    Target::Erasures => (QueueId::ERASURES, None),
                    Target::Partition(number) if number < self.partitions => {
                        (QueueId::partition(number), None)
                    }
                    Target::Backlog(number) if number < self.partitions => {
                        (QueueId::backlog(number), None)
                    }
                    Target::Changelog(number) if number < self.partitions => {
                        (QueueId::changelog(number), None)
                    }
                    Target::Partition(_)
                    | Target::Backlog(_)
                    | Target::Changelog(_)
                    | Target::Destination(_) => {
                        return Some(Err(PublishError::Unroutable));
                    }
                };
                appended.push(Appended {
                    queue,
                    routing_key,
                    message: outgoing.message,
                });
                None
            })
            .collect();
        (verdicts, appended)
    }

    async fn append(&self, messages: Vec<Appended>) -> Result<(), PublishError> {
        if messages.is_empty() {
            return Ok(());
        }
        if !self.handle.signals.is_connected() {
            return Err(PublishError::Unavailable);
        }
        let deadline = tokio::time::Instant::now() + self.publish_timeout;
        let (done, verdict) = oneshot::channel();
        let send = self
            .handle
            .commands
            .send(Command::Append { messages, done });
        match tokio::time::timeout_at(deadline, send).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(PublishError::Unavailable),
        }
        match tokio::time::timeout_at(deadline, verdict).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) | Err(_) => Err(PublishError::Unknown),
        }
    }

    fn count(&self, labels: &[&str], verdicts: &[Result<(), PublishError>], took: Duration) {
        let metrics = self.handle.signals.metrics();
        for (label, verdict) in labels.iter().zip(verdicts) {
            let verdict = verdict.map_or_else(PublishError::as_str, |()| "confirmed");
            metrics
                .bus_publish_messages_total
                .with_label_values(&[*label, verdict])
                .inc();
        }
        metrics.bus_publish_duration_seconds.observe(seconds(took));
    }

    async fn read_notes(
        &self,
        partition: u16,
        after: Option<u64>,
        notes: mpsc::Sender<StoredNote>,
    ) -> Result<(), BusUnavailable> {
        let mut after = i64::try_from(after.unwrap_or(0)).map_err(|_| BusUnavailable)?;
        let changelog = QueueId::changelog(partition);
        loop {
            let (done, found) = oneshot::channel();
            let command = Command::Notes {
                changelog,
                after,
                done,
            };
            let sent = self.handle.commands.send(command).await;
            sent.map_err(|_| BusUnavailable)?;
            let found = found.await.map_err(|_| BusUnavailable)?;
            let Some(last) = found.last() else {
                return Ok(());
            };
            after = i64::try_from(last.position).map_err(|_| BusUnavailable)?;
            for note in found {
                if notes.send(note).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    async fn count_queue(&self, queue: Queue) -> Result<u64, BusUnavailable> {
        let queue = self.queue_id(&queue).ok_or(BusUnavailable)?;
        let (done, depth) = oneshot::channel();
        let asked = async {
            let command = Command::Depth { queue, done };
            self.handle.commands.send(command).await.ok()?;
            depth.await.ok()
        };
        let answered = timeout(self.publish_timeout, asked).await;
        answered.ok().flatten().ok_or(BusUnavailable)
    }

    fn queue_id(&self, queue: &Queue) -> Option<QueueId> {
        match queue {
            Queue::Partition(number) => {
                (*number < self.partitions).then(|| QueueId::partition(*number))
            }
            Queue::Backlog(number) => {
                (*number < self.partitions).then(|| QueueId::backlog(*number))
            }
            Queue::DeadLetters => Some(QueueId::DEAD_LETTERS),
            Queue::Erasures => Some(QueueId::ERASURES),
            Queue::Destination(_) => None,
        }
    }

    async fn close_all(&self) {
        self.handle.closing.cancel();
        self.handle.feeds.close();
        // Bounded: a consumer that nobody reads from must not hold up the end.
        let _ = timeout(self.publish_timeout, self.handle.feeds.wait()).await;
        let (done, closed) = oneshot::channel();
        if self
            .handle
            .commands
            .send(Command::Close { done })
            .await
            .is_ok()
        {
            // Dropped when the store had failed before: there is nothing left to close.
            let _ = closed.await;
        }
    }
}

impl Bus for Embedded {
    fn partitions(&self) -> u16 {
        self.partitions
    }

    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<(), PublishError>>> {
        self.publish_all(messages).boxed()
    }

    /// All of them: nobody else has the folder.
    fn join(&self) -> watch::Receiver<BTreeSet<u16>> {
        self.share.subscribe()
    }

    /// There is nobody to leave.
    fn leave(&self) {}

    /// A prefetch of 0 counts as 1. A destination's queue, which this bus does not have, never delivers.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    fn consume(&self, queue: Queue, prefetch: u16) -> Consumer {
        let handle = Arc::clone(&self.handle);
        let prefetch = prefetch.max(1);
        let Some(id) = self.queue_id(&queue) else {
            tracing::error!(?queue, "the embedded bus has no such queue");
            return Consumer::spawn(prefetch, |feed| {
                self.handle.feeds.spawn(feed::idle(handle, feed))
            });
        };
        Consumer::spawn(prefetch.min(BUFFERED_MAX), |feed| {
            let fed = feed::run(handle, id, prefetch, feed);
            self.handle.feeds.spawn(fed)
        })
    }

    fn read_changelog(
        &self,
        partition: u16,
        after: Option<u64>,
        notes: mpsc::Sender<StoredNote>,
    ) -> BoxFuture<'_, Result<(), BusUnavailable>> {
        self.read_notes(partition, after, notes).boxed()
    }

    fn depth(&self, queue: Queue) -> BoxFuture<'_, Result<u64, BusUnavailable>> {
        self.count_queue(queue).boxed()
    }

    fn claim_dead_letters(&self) -> BoxFuture<'_, Result<Option<Claim>, BusUnavailable>> {
        let turn = Arc::clone(&self.turn).try_lock_owned().ok();
        let claim = turn.map(|turn| Claim::new(u16::MAX, CancellationToken::new(), turn));
        std::future::ready(Ok(claim)).boxed()
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.handle.signals.connected()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.close_all().boxed()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // The feeds hold the writer's channel open; without them it ends, and unlocks the folder.
        self.handle.closing.cancel();
    }
}

impl Handle {
    /// Resolves when the consumer or the bus is closed.
    async fn stopped(&self, feed: &ConsumerFeed) {
        tokio::select! {
            () = feed.closed() => {}
            () = self.closing.cancelled() => {}
        }
    }

    /// What `wait` resolves to; `None` when the consumer or the bus is closed before.
    async fn unless_stopped<T>(
        &self,
        feed: &ConsumerFeed,
        wait: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stopped(feed) => None,
            value = wait => Some(value),
        }
    }
}

/// The word in metrics.
fn label(target: &Target) -> &'static str {
    match target {
        Target::Partition(_) => "partition",
        Target::Backlog(_) => "backlog",
        Target::Changelog(_) => "changelog",
        Target::Destination(_) => "destination",
        Target::DeadLetters(_) | Target::KeptDeadLetters(_) => "dead_letters",
        Target::Erasures => "erasures",
        Target::Topic(..) => "topic",
    }
}
