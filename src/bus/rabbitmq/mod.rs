//! The bus on RabbitMQ 3.10 to 4.x, without plugins. The only module that knows lapin.
//!
//! [`RabbitMq`] holds a session loop (`session`) that connects, declares (`topology`) and serves until
//! something breaks, and then starts over; publishing (`publisher`) and consuming (`consumer`) take the
//! session that there is. Every wait on the broker has a deadline.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use lapin::types::ShortString;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::consumer::Feed;
use self::error::SessionError;
use self::membership::Membership;
use self::publisher::Verdict;
use self::session::{Keeper, Session};
use self::topology::Topology;
use super::{
    Bus, BusUnavailable, Claim, Consumer, Message, Outgoing, PublishError, Queue, StoredNote,
    Target,
};
use crate::config::ClientTlsConfig;
use crate::event::{IdentityHasher, Millis};
use crate::metrics::{Metrics, seconds};

mod changelog;
mod claim;
mod consumer;
mod error;
mod membership;
mod publisher;
mod session;
mod topology;

pub use error::RabbitMqError;

/// What a [`RabbitMq`] needs to know.
#[derive(Clone, Debug)]
pub struct RabbitMqOptions {
    /// `amqp://` or `amqps://` with user, password, host, port and vhost.
    pub url: SecretString,
    /// Whom an `amqps://` broker's certificate must be from, and what we show it.
    pub tls: ClientTlsConfig,
    /// Begins the names of exchanges and queues.
    pub prefix: String,
    /// How many partitions the intake has: at least 1, and the same as the broker's once it has them.
    pub partitions: u16,
    /// How long a publish may take, and how long [`Bus::depth`] waits.
    pub publish_timeout: Duration,
    /// The destinations' queues, to be declared.
    pub destinations: Vec<DestinationQueue>,
    /// How the connections are called in the broker's listings; ` publish` and ` consume` are added.
    pub connection_name: String,
}

/// A destination's queue, `crm.destination.<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationQueue {
    /// The destination's name.
    pub name: String,
    /// The most bytes of bodies it holds. Beyond, publishes are [`PublishError::Rejected`].
    pub max_length_bytes: u64,
}

/// The bus on RabbitMQ. Close it with [`Bus::close`] before the runtime ends: lapin's threads use it.
pub struct RabbitMq {
    topology: Arc<Topology>,
    publish_timeout: Duration,
    metrics: Arc<Metrics>,
    session: watch::Receiver<Option<Arc<Session>>>,
    connected: watch::Receiver<bool>,
    closing: CancellationToken,
    /// Our worker stops, or the bus closes.
    leaving: CancellationToken,
    feeds: TaskTracker,
    keeper: Mutex<Option<JoinHandle<()>>>,
    /// Whose turn it is in this process to take dead letters.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl RabbitMq {
    /// Connects, declares and begins to keep a session.
    ///
    /// A broker that is merely away is no error: this returns, and the session comes when the broker does
    /// ([`Bus::connected`]). What an operator must fix is an error now; should it come up only later, it is
    /// logged, and tried again.
    ///
    /// Needs a rustls provider to be installed for `amqps://`, and a tokio runtime.
    ///
    /// # Errors
    /// Every variant of [`RabbitMqError`].
    pub async fn start(
        options: RabbitMqOptions,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RabbitMqError> {
        let topology = Arc::new(Topology::new(&options)?);
        let (session_sender, session) = watch::channel(None);
        let (connected_sender, connected) = watch::channel(false);
        let (closing, feeds) = (CancellationToken::new(), TaskTracker::new());
        let keeper = Keeper {
            uri: session::parse_url(options.url.expose_secret())?,
            tls: options.tls,
            connection_name: options.connection_name,
            topology: topology.clone(),
            metrics: metrics.clone(),
            session: session_sender,
            connected: connected_sender,
            closing: closing.clone(),
            feeds: feeds.clone(),
            publish_timeout: options.publish_timeout,
        };
        let keeper = keep(keeper).await?;
        Ok(Self {
            topology,
            publish_timeout: options.publish_timeout,
            metrics,
            session,
            connected,
            leaving: closing.child_token(),
            closing,
            feeds,
            keeper: Mutex::new(Some(keeper)),
            turn: Arc::default(),
        })
    }

    fn present_session(&self) -> Option<Arc<Session>> {
        self.session.borrow().clone()
    }

    async fn publish_counted(&self, messages: Vec<Outgoing>) -> Vec<Verdict> {
        let began = Instant::now();
        let targets: Vec<_> = messages.iter().map(|m| label(&m.target)).collect();
        let verdicts = publisher::publish(
            self.present_session(),
            &self.topology,
            messages,
            began + self.publish_timeout,
        )
        .await;
        for (target, verdict) in targets.into_iter().zip(&verdicts) {
            let verdict = verdict.map_or_else(PublishError::as_str, |()| "confirmed");
            let counter = &self.metrics.bus_publish_messages_total;
            counter.with_label_values(&[target, verdict]).inc();
        }
        let duration = &self.metrics.bus_publish_duration_seconds;
        duration.observe(seconds(began.elapsed()));
        verdicts
    }

    async fn inspect(&self, queue: Queue) -> Result<u64, BusUnavailable> {
        let session = self.present_session().ok_or(BusUnavailable)?;
        let name = self.topology.queue(&queue);
        let connection = session.consume_connection();
        let inspected = topology::inspect(connection, &name, self.publish_timeout);
        match tokio::time::timeout(self.publish_timeout, inspected).await {
            Ok(Ok(depth)) => Ok(depth),
            _ => Err(BusUnavailable),
        }
    }

    async fn read_stream(
        &self,
        partition: u16,
        after: Option<u64>,
        notes: mpsc::Sender<StoredNote>,
    ) -> Result<(), BusUnavailable> {
        let session = self.present_session().ok_or(BusUnavailable)?;
        let end = self.mark_end(partition).await?;
        let name = self.topology.changelog(partition);
        let read = changelog::read(&session, &name, after, &end, &notes);
        tokio::select! {
            () = session.ended() => Err(BusUnavailable),
            () = self.closing.cancelled() => Err(BusUnavailable),
            read = read => read.map_err(|error| {
                tracing::warn!(queue = name, %error, "the changelog cannot be read");
                BusUnavailable
            }),
        }
    }

    /// Publishes an end mark that no other reader has. Returns its message id.
    async fn mark_end(&self, partition: u16) -> Result<String, BusUnavailable> {
        let id = unique_id();
        let mark = Outgoing {
            target: Target::Changelog(partition),
            message: Message {
                id: id.clone(),
                content_type: "application/octet-stream".to_owned(),
                kind: changelog::END_KIND.to_owned(),
                headers: Vec::new(),
                body: bytes::Bytes::new(),
            },
        };
        match self.publish_counted(vec![mark]).await[..] {
            [Ok(())] => Ok(id),
            _ => Err(BusUnavailable),
        }
    }

    async fn claim(&self) -> Result<Option<Claim>, BusUnavailable> {
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
            return Ok(None);
        };
        let session = self.present_session().ok_or(BusUnavailable)?;
        let queue = ShortString::try_new(self.topology.dead_claim()).map_err(|_| BusUnavailable)?;
        claim::claim(session, queue, turn).await.map_err(|error| {
            tracing::warn!(%error, "the dead letters cannot be claimed");
            BusUnavailable
        })
    }

    async fn stop(&self) {
        self.closing.cancel();
        let keeper = self
            .keeper
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(keeper) = keeper {
            // A keeper that panicked has dropped its connections, which closes them.
            let _ = keeper.await;
        }
    }
}

impl Bus for RabbitMq {
    fn partitions(&self) -> u16 {
        self.topology.partitions()
    }

    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Vec<Verdict>> {
        Box::pin(self.publish_counted(messages))
    }

    fn join(&self) -> watch::Receiver<BTreeSet<u16>> {
        let (share, shared) = watch::channel(BTreeSet::new());
        let membership = Membership {
            id: unique_id(),
            topology: self.topology.clone(),
            session: self.session.clone(),
            share,
            leaving: self.leaving.clone(),
        };
        self.feeds.spawn(membership.run());
        shared
    }

    fn leave(&self) {
        self.leaving.cancel();
    }

    fn consume(&self, queue: Queue, prefetch: u16) -> Consumer {
        let name = self.topology.queue(&queue);
        Consumer::spawn(prefetch, |feed| {
            let task = ShortString::try_new(name).map(|queue| Feed {
                queue,
                prefetch,
                session: self.session.clone(),
                closing: self.closing.clone(),
                metrics: self.metrics.clone(),
            });
            self.feeds.spawn(async move {
                match task {
                    Ok(task) => task.run(feed).await,
                    Err(error) => tracing::error!(%error, "no queue has such a name"),
                }
            })
        })
    }

    fn read_changelog(
        &self,
        partition: u16,
        after: Option<u64>,
        notes: mpsc::Sender<StoredNote>,
    ) -> BoxFuture<'_, Result<(), BusUnavailable>> {
        Box::pin(self.read_stream(partition, after, notes))
    }

    fn depth(&self, queue: Queue) -> BoxFuture<'_, Result<u64, BusUnavailable>> {
        Box::pin(self.inspect(queue))
    }

    fn claim_dead_letters(&self) -> BoxFuture<'_, Result<Option<Claim>, BusUnavailable>> {
        Box::pin(self.claim())
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.stop())
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// An id that nobody else has.
fn unique_id() -> String {
    let mut hasher = IdentityHasher::new("unique");
    hasher.field(&std::process::id().to_string());
    hasher.field(&Millis::now().to_string());
    hasher.field(&format!("{:?}", Instant::now()));
    hasher.field(&std::fs::read_to_string("/etc/hostname").unwrap_or_default());
    hasher.finish().to_string()
}

/// Makes the first attempt, then hands over to the loop.
async fn keep(keeper: Keeper) -> Result<JoinHandle<()>, RabbitMqError> {
    let first = match keeper.open().await {
        Ok(session) => {
            keeper.announce(Some(session.clone()));
            Some(session)
        }
        Err(SessionError::Fatal(error)) => return Err(error),
        Err(error) => {
            session::tell(&error);
            None
        }
    };
    Ok(tokio::spawn(keeper.run(first)))
}

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
