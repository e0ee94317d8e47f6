//! Where events are stored and routed between receiver, worker and destinations.
//!
//! [`Bus`] is the one trait; [`rabbitmq`] and [`embedded`] implement it and pass the same contract
//! test-suite (`tests/it/bus_contract.rs`):
//!
//! - **a confirm means durable and routed**: [`Bus::publish`] answers `Ok` only for a message that a queue
//!   of ours holds and that outlives a crash;
//! - **order**: a partition is consumed in the order its messages were confirmed in;
//! - **one active consumer** per partition, whoever else waits for it;
//! - **settled once**: a [`Delivery`] ends by moving its [`Unsettled`]; what was not settled comes again;
//! - **changelog**: each partition has a log beside it that is only appended to, and read from any place;
//! - **claim**: dead letters are taken by one at a time, over all processes: see [`Claim`];
//! - **recovery**: a [`Consumer`] outlives connections. After a loss it says [`Consumed::Lost`], and every
//!   delivery it had given out before is void and comes again.

use std::any::Any;
use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::event::{
    BATCH_CONTENT_TYPE, BATCH_KIND, Batch, DEAD_LETTER_CONTENT_TYPE, DEAD_LETTER_KIND, DeadLetter,
    PortalId, REPLAY_CONTENT_TYPE, REPLAY_KIND, RoutingKey,
};

pub mod embedded;
mod members;
pub mod rabbitmq;

/// The largest message a bus takes, in bytes: RabbitMQ 4 refuses more than 16 MiB, and half of that leaves
/// room for whoever copies it on.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a changelog keeps what was appended, at least. HubSpot repeats for 24 hours.
pub const CHANGELOG_KEEP: Duration = Duration::from_secs(72 * 3_600);

/// Somewhere to publish to and consume from.
pub trait Bus: Send + Sync + 'static {
    /// How many partitions `crm.intake` has. Fixed for the life of the data.
    fn partitions(&self) -> u16;

    /// Publishes `messages` as one batch; resolves when every one of them has its verdict, in the order
    /// given. Ends within the publish deadline of the implementation's options, broker or no broker.
    ///
    /// [`PublishError::Unknown`] may still arrive: publish again under the same id.
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<(), PublishError>>>;

    /// Joins the workers of this bus: the partitions that this process should consume, now and whenever workers come or
    /// go. They are shared out evenly; empty until that is known.
    ///
    /// Whatever it says, a partition has one active consumer.
    fn join(&self) -> watch::Receiver<BTreeSet<u16>>;

    /// Leaves the workers of this bus: the others take up each partition as soon as this process lets go of it. What
    /// [`Self::join`] gave tells of no change any more.
    fn leave(&self);

    /// Begins to consume `queue`, with at most `prefetch` deliveries unsettled.
    ///
    /// Resolves at once; deliveries begin when the bus is connected and no other consumer is active.
    fn consume(&self, queue: Queue, prefetch: u16) -> Consumer;

    /// Sends to `notes` every message of the partition's changelog ([`Target::Changelog`]) after the place `after`,
    /// or every one, oldest first; resolves when all that was confirmed before the call is sent. Messages are kept
    /// for [`CHANGELOG_KEEP`]. Ends early when nobody receives any more.
    ///
    /// # Errors
    /// [`BusUnavailable`] when the bus fails meanwhile; some may have been sent.
    fn read_changelog(
        &self,
        partition: u16,
        after: Option<u64>,
        notes: mpsc::Sender<StoredNote>,
    ) -> BoxFuture<'_, Result<(), BusUnavailable>>;

    /// How many messages `queue` holds, unsettled ones not counted on RabbitMQ (which counts only the
    /// ready ones in `queue.declare-ok`).
    ///
    /// # Errors
    /// [`BusUnavailable`] when the bus cannot be asked within the publish deadline.
    fn depth(&self, queue: Queue) -> BoxFuture<'_, Result<u64, BusUnavailable>>;

    /// The right to take dead letters, of which there is one among all processes on the bus; `None` while somebody else has
    /// it. What one has in hand, another would miss.
    ///
    /// # Errors
    /// [`BusUnavailable`] when the bus cannot be asked.
    fn claim_dead_letters(&self) -> BoxFuture<'_, Result<Option<Claim>, BusUnavailable>>;

    /// Whether the bus can take messages right now. `true` after the first successful connect and
    /// declare, `false` from the moment a loss is noticed.
    fn connected(&self) -> watch::Receiver<bool>;

    /// Flushes what is settled and closes. Publishing and consuming end.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// The right to take dead letters, until it is dropped.
pub struct Claim {
    window: u16,
    lost: CancellationToken,
    _held: Box<dyn Any + Send + Sync>,
}

impl Claim {
    /// For implementations: what is `held` is let go of with the claim; without that it ends when `lost` is cancelled.
    pub fn new(window: u16, lost: CancellationToken, held: impl Any + Send + Sync) -> Self {
        Self {
            window,
            lost,
            _held: Box::new(held),
        }
    }

    /// How many letters one consumer may have in hand. Who wants more at once takes more consumers, one after the other.
    #[must_use]
    pub fn window(&self) -> u16 {
        self.window
    }

    /// Whether somebody else may have it by now.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}

/// A queue of ours that can be consumed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// `crm.intake.<n>`, `n` below [`Bus::partitions`].
    Partition(u16),
    /// `crm.backlog.<n>`: what the worker of the partition set aside, so that it holds up nobody.
    Backlog(u16),
    /// `crm.dead.letters`.
    DeadLetters,
    /// `crm.erasures`: records that the dead letters are to be searched for. One active consumer among all workers.
    Erasures,
    /// `crm.destination.<name>`. Only RabbitMQ has these.
    Destination(String),
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The partition's queue, `crm.intake.<n>`.
    Partition(u16),
    /// The partition's backlog, `crm.backlog.<n>`.
    Backlog(u16),
    /// The partition's changelog, `crm.changelog.<n>`: appended to, and read by [`Bus::read_changelog`].
    Changelog(u16),
    /// The destination's own queue, `crm.destination.<name>`. The embedded bus has none: unroutable.
    Destination(String),
    /// `crm.dead`, by a key of the form `<stage>.<reason>`.
    DeadLetters(String),
    /// Back to `crm.dead.letters` by the key it had, past everybody else who listens to `crm.dead`.
    KeptDeadLetters(String),
    /// `crm.erasures`.
    Erasures,
    /// A topic exchange, by all these keys (the first as routing key, the rest by `CC`). For queues that
    /// others bind: not mandatory, so it is confirmed when nobody listens, and always on the embedded bus.
    Topic(Topic, Vec<RoutingKey>),
}

/// A topic exchange for queues that others bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// `crm.enriched`: enriched events.
    Enriched,
    /// `crm.events`: plain events.
    Events,
}

/// A message on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub target: Target,
    /// What.
    pub message: Message,
}

impl Outgoing {
    /// A dead letter on its way, in as many messages as it takes.
    #[must_use]
    pub fn dead_letters(letter: DeadLetter) -> Vec<Self> {
        let letters = letter.fitting(MESSAGE_BYTES_MAX);
        letters.iter().map(Self::dead_letter).collect()
    }

    /// A batch of its portal, encoded as `body`, for a bus of so many `partitions`.
    #[must_use]
    pub fn batch(batch: &Batch, body: Vec<u8>, partitions: u16) -> Self {
        let (content_type, kind) = match batch.replay() {
            None => (BATCH_CONTENT_TYPE, BATCH_KIND),
            Some(_) => (REPLAY_CONTENT_TYPE, REPLAY_KIND),
        };
        Self {
            target: Target::Partition(partition_of(batch.portal_id(), partitions)),
            message: Message {
                id: batch.id().to_string(),
                content_type: content_type.to_owned(),
                kind: kind.to_owned(),
                headers: Vec::new(),
                body: body.into(),
            },
        }
    }

    /// A dead letter that fits a message.
    #[must_use]
    pub fn dead_letter(letter: &DeadLetter) -> Self {
        Self {
            target: Target::DeadLetters(letter.routing_key()),
            message: Message {
                id: letter.id().to_string(),
                content_type: DEAD_LETTER_CONTENT_TYPE.to_owned(),
                kind: DEAD_LETTER_KIND.to_owned(),
                headers: Vec::new(),
                body: letter.encode().into(),
            },
        }
    }
}

/// A message, the same on either bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// AMQP's `message-id`: the same for a repeat.
    pub id: String,
    /// AMQP's `content-type`.
    pub content_type: String,
    /// AMQP's `type`: the CloudEvents type, or what the body is.
    pub kind: String,
    /// AMQP's headers, where they are more than RabbitMQ's own: a CloudEvent's attributes in binary mode. They travel to
    /// RabbitMQ only, and are not given back to who consumes.
    pub headers: Vec<(&'static str, String)>,
    /// At most [`MESSAGE_BYTES_MAX`].
    pub body: Bytes,
}

/// A message of a changelog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNote {
    /// Its place: later ones have larger numbers.
    pub position: u64,
    /// Its body.
    pub note: Bytes,
}

/// Why a message was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PublishError {
    /// No queue took it. It is nowhere.
    #[error("no queue took the message")]
    Unroutable,
    /// The queue refused it: it is at its limit. It is nowhere.
    #[error("the queue refused the message; it is at its limit")]
    Rejected,
    /// Larger than [`MESSAGE_BYTES_MAX`]. It was not sent.
    #[error("the message is larger than {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
    /// There is no connection, or the store takes no writes. It was not sent.
    #[error("the bus is not available")]
    Unavailable,
    /// Sent, but the answer did not come in time or the connection broke: it may be there or not.
    #[error("no confirm came in time")]
    Unknown,
}

impl PublishError {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unroutable => "unroutable",
            Self::Rejected => "rejected",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
        }
    }
}

/// The bus cannot be asked right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bus is not available")]
pub struct BusUnavailable;

/// What a consumer is told.
#[derive(Debug)]
pub enum Consumed {
    /// The next message of the queue.
    Delivery(Delivery),
    /// The session broke. Every delivery given out before is void: settling it does nothing, and its
    /// message comes again.
    Lost,
}

/// A queue being consumed. Dropping it ends the consumption without waiting; unsettled deliveries come
/// again. Prefer [`Consumer::close`], which flushes settlements first.
#[derive(Debug)]
pub struct Consumer {
    consumed: mpsc::Receiver<Consumed>,
    closed: CancellationToken,
    feed: Option<JoinHandle<()>>,
}

/// What an implementation holds of a [`Consumer`]: where to put deliveries, and when to stop.
#[derive(Debug)]
pub struct ConsumerFeed {
    consumed: mpsc::Sender<Consumed>,
    closed: CancellationToken,
}

impl Consumer {
    /// A consumer fed by the task that `feed` spawns.
    ///
    /// The task must, once [`ConsumerFeed::closed`] resolves, flush the settlements already made, release
    /// the queue and end.
    pub fn spawn(prefetch: u16, feed: impl FnOnce(ConsumerFeed) -> JoinHandle<()>) -> Self {
        let (sender, consumed) = mpsc::channel(usize::from(prefetch) + 1);
        let closed = CancellationToken::new();
        let feed = feed(ConsumerFeed {
            consumed: sender,
            closed: closed.clone(),
        });
        Self {
            consumed,
            closed,
            feed: Some(feed),
        }
    }

    /// The next delivery or loss; `None` once the bus was closed.
    pub async fn next(&mut self) -> Option<Consumed> {
        self.consumed.recv().await
    }

    /// What [`Self::next`] would give without waiting.
    pub fn unread(&mut self) -> impl Iterator<Item = Consumed> + '_ {
        std::iter::from_fn(|| self.consumed.try_recv().ok())
    }

    /// Flushes the settlements made so far, releases the queue to the next consumer, and returns when
    /// that is done. Deliveries not settled by now come again.
    pub async fn close(mut self) {
        self.stop();
        if let Some(feed) = self.feed.take() {
            // A feed that panicked has released the queue all the same, by dropping its channel.
            let _ = feed.await;
        }
    }

    fn stop(&mut self) {
        self.closed.cancel();
        self.consumed.close();
        while let Ok(consumed) = self.consumed.try_recv() {
            consumed.abandon();
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Consumed {
    fn abandon(self) {
        if let Self::Delivery(delivery) = self {
            delivery.unsettled.abandon();
        }
    }
}

impl ConsumerFeed {
    /// Hands `consumed` to the consumer, waiting while it has its prefetch. `false` when the consumer is gone;
    /// the delivery is then void.
    pub async fn send(&self, consumed: Consumed) -> bool {
        let sent = self.consumed.send(consumed).await;
        sent.map_err(|rest| rest.0.abandon()).is_ok()
    }

    /// Resolves when the consumer was closed or dropped.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

/// A message and the duty to settle it.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The key it was published by; of the embedded bus's queues the dead letters alone keep it.
    pub routing_key: String,
    /// How often it was delivered before: 0 the first time.
    pub delivery_count: u32,
    /// Ends the delivery.
    pub unsettled: Unsettled,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// Done: the message is gone from the queue.
    Ack,
    /// Handed back unharmed; it comes again and does not count as a failed attempt (before RabbitMQ 4.3
    /// it counts all the same).
    HandBack,
    /// Processing failed; it comes again and counts towards the delivery limit.
    Fail,
}

impl Settlement {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::HandBack => "hand_back",
            Self::Fail => "fail",
        }
    }
}

/// A delivery that has not ended. It ends exactly once, by being moved.
///
/// Settling never waits and never fails: the settlement is handed to the session that made the delivery.
/// When that session is gone it does nothing, since the message comes again anyway.
#[derive(Debug)]
#[must_use = "a delivery must be settled"]
pub struct Unsettled {
    tag: u64,
    settlements: mpsc::UnboundedSender<(u64, Settlement)>,
    settled: bool,
}

impl Unsettled {
    /// For implementations: the delivery `tag`, settled by a message on `settlements`.
    ///
    /// The channel is bounded by the prefetch, since every tag is sent once.
    pub fn new(tag: u64, settlements: mpsc::UnboundedSender<(u64, Settlement)>) -> Self {
        Self {
            tag,
            settlements,
            settled: false,
        }
    }

    /// Done: the message may go.
    pub fn ack(self) {
        self.settle(Settlement::Ack);
    }

    /// Hands the message back unharmed.
    pub fn hand_back(self) {
        self.settle(Settlement::HandBack);
    }

    /// Hands the message back as failed.
    pub fn fail(self) {
        self.settle(Settlement::Fail);
    }

    /// Lets go of a delivery that is void, after [`Consumed::Lost`] or on the way to closing the consumer.
    pub fn abandon(mut self) {
        self.settled = true;
    }

    fn settle(mut self, settlement: Settlement) {
        self.settled = true;
        // The receiver is gone when the session is: then the message comes again.
        let _ = self.settlements.send((self.tag, settlement));
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if !self.settled && !std::thread::panicking() {
            tracing::error!(
                delivery.tag = self.tag,
                "a delivery was dropped without being settled; it is handed back (this is a bug)"
            );
            let _ = self.settlements.send((self.tag, Settlement::HandBack));
        }
    }
}

/// The partition of a portal: the first 8 bytes of SHA-256(`portal_id`), big-endian, modulo `partitions`.
///
/// # Panics
/// When `partitions` is 0.
#[must_use]
pub fn partition_of(portal_id: &PortalId, partitions: u16) -> u16 {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(portal_id.as_str());
    let first = u64::from_be_bytes(digest[..8].try_into().expect("SHA-256 has 32 bytes"));
    u16::try_from(first % u64::from(partitions)).expect("a remainder of a u16 fits a u16")
}

/// How long to wait between two attempts to get a session, at least and at most.
pub const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(100);
/// See [`RECONNECT_DELAY_MIN`].
pub const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_always_maps_to_the_same_partition() {
        // Fixed for ever: another mapping would break the order of what is already queued.
        // `printf 8241 | sha256sum` begins 44fdb1ed087fba0e, and modulo 16 is the last of these digits.
        for (portal, partition) in [("8241", 14), ("62515", 2)] {
            assert_eq!(partition_of(&portal.into(), 16), partition);
        }
    }

    #[test]
    fn a_delivery_settles_once_and_a_dropped_one_is_handed_back() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        Unsettled::new(1, sender.clone()).ack();
        Unsettled::new(2, sender.clone()).abandon();
        drop(Unsettled::new(3, sender));
        assert_eq!(receiver.try_recv().unwrap(), (1, Settlement::Ack));
        assert_eq!(receiver.try_recv().unwrap(), (3, Settlement::HandBack));
        assert!(receiver.try_recv().is_err());
    }
}
