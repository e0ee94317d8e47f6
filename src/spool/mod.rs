//! What the receiver does while the broker is away: it goes on answering, from a bounded queue on a local disk, and
//! takes that to the broker when it is back.
//!
//! ```text
//! receiver ─▶ Spool::publish ─┬─ nothing waits, broker there ──▶ Bus::publish
//!                             └─ else ─▶ writer: one sync ─▶ files ─▶ drain ──▶ Bus::publish
//! ```
//!
//! - **durable**: a message counts as taken once the file it is in, and the file's name, are synced;
//! - **in order**: what was taken earlier is published earlier, so while anything waits all goes behind it;
//! - **bounded**: beyond `spool.bytes_max` nothing is taken;
//! - **damage is contained** (`segment`): it costs the messages it touches, which are counted, and no other.
//!
//! Delivery is at least once: a message whose confirm did not come is spooled though it may have arrived, and what a
//! crash catches halfway is published again, under the same ids.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::bus::{Bus, MESSAGE_BYTES_MAX, Outgoing, PublishError};
use crate::folder::{Folder, FolderError};
use crate::metrics::Metrics;

mod disk;
mod drain;
#[cfg(fuzzing)]
mod fuzzing;
mod log;
mod segment;
mod writer;

use drain::Drain;
#[cfg(fuzzing)]
pub use fuzzing::{record, recover};
use log::Log;
use writer::{COMMANDS_MAX, Command, View, Writer};

/// How long a request is held while the last of the spool goes to the broker. Then it goes behind it.
const HOLD_MAX: Duration = Duration::from_millis(500);
/// When a request has its answer, broker and disk together: HubSpot gives it up after 5 s.
const ANSWER_MAX: Duration = Duration::from_millis(4_500);
/// What the disk is given at least, whatever the broker has taken of that.
const STORE_MIN: Duration = Duration::from_millis(250);
/// How long the writer may take to let go of the folder, where no grace is left.
const CLOSE_MAX: Duration = Duration::from_millis(300);
/// The setting that errors name.
const KEY: &str = "spool.folder";

/// Why the spool did not open.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder cannot be had.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What is in the folder cannot be read.
    #[error(
        "spool.folder {folder:?} cannot be read: {source}; mend that, or move the folder away to begin with an empty one (HubSpot was answered 204 for what is in it, and will not send it again)"
    )]
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start the writer thread of the spool: {0}")]
    Thread(std::io::Error),
}

/// A bus with a spool before it. Dropped without [`Spool::stop`] it loses nothing.
pub struct Spool {
    bus: Arc<dyn Bus>,
    connected: watch::Receiver<bool>,
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    takes: watch::Receiver<bool>,
    holding: watch::Receiver<bool>,
    /// Requests on their way into the log.
    entering: AtomicUsize,
    tasks: Mutex<JoinSet<()>>,
}

impl Spool {
    /// Takes up what is in `folder`, makes it where it is missing, and begins to drain.
    ///
    /// # Errors
    /// Every variant of [`SpoolError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(
        folder: &std::path::Path,
        bytes_max: u64,
        bus: Arc<dyn Bus>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SpoolError> {
        let log = Log::open(Folder::open(folder, KEY)?, bytes_max);
        let log = log.map_err(|source| SpoolError::Unreadable {
            folder: folder.to_owned(),
            source,
        })?;
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let (show, view) = watch::channel(View::default());
        let (tell, takes) = watch::channel(false);
        metrics
            .spool_bytes_max
            .set(i64::try_from(bytes_max).unwrap_or(i64::MAX));
        let writer = Writer {
            log,
            commands: received,
            view: show,
            takes: tell,
            metrics: Arc::clone(&metrics),
        };
        writer.show();
        std::thread::Builder::new()
            .name("spool-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(SpoolError::Thread)?;
        let (hold, holding) = watch::channel(false);
        let drain = Drain {
            bus: Arc::clone(&bus),
            commands: commands.clone(),
            view: view.clone(),
            holding: hold,
            metrics: Arc::clone(&metrics),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(drain.run());
        tasks.spawn(drain::tick(view.clone(), commands.clone(), metrics));
        Ok(Self {
            connected: bus.connected(),
            bus,
            commands,
            view,
            takes,
            holding,
            entering: AtomicUsize::new(0),
            tasks: Mutex::new(tasks),
        })
    }

    /// Whether requests can be taken while the broker is away: there is room, and the disk takes writes.
    #[must_use]
    pub fn takes(&self) -> watch::Receiver<bool> {
        self.takes.clone()
    }

    /// Publishes the messages of a request, or spools them; the verdicts are as [`Bus::publish`] gives them, and `Ok`
    /// means durable here as there.
    pub async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), PublishError>> {
        let deadline = Instant::now() + ANSWER_MAX;
        self.held().await;
        if !self.is_straight() {
            let count = messages.len();
            return vec![self.store(messages, deadline).await; count];
        }
        let mut verdicts = self.bus.publish(messages.clone()).await;
        if verdicts.len() != messages.len() || !verdicts.iter().all(may_be_spooled) {
            return verdicts;
        }
        let failed = messages.into_iter().zip(&verdicts);
        let failed = failed.filter(|(_, verdict)| verdict.is_err());
        let failed: Vec<_> = failed.map(|(message, _)| message).collect();
        if failed.is_empty() {
            return verdicts;
        }
        let stored = self.store(failed, deadline).await;
        let of_failed = verdicts.iter_mut().filter(|verdict| verdict.is_err());
        of_failed.for_each(|verdict| *verdict = stored);
        verdicts
    }

    /// Ends with an empty spool if the broker takes all of it within `grace`; what is left stays on the disk.
    pub async fn stop(&self, grace: Duration) {
        let end = Instant::now() + grace;
        // A deadline that passes is told below, by what is left.
        let _ = timeout_at(end, self.drained()).await;
        let mut tasks = std::mem::take(&mut *self.lock_tasks());
        tasks.shutdown().await;
        let left = self.view.borrow().waiting.messages;
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close { done }).await.is_ok() {
            let _ = timeout_at(end.max(Instant::now() + CLOSE_MAX), closed).await;
        }
        if left == 0 {
            tracing::info!("the spool is empty");
        } else {
            tracing::warn!(
                messages = left,
                "messages stay in the spool; they are sent after the next start on the same folder"
            );
        }
    }

    /// Resolves when nothing waits, or when there is no broker to take it.
    async fn drained(&self) {
        let (mut view, mut connected) = (self.view.clone(), self.connected.clone());
        tokio::select! {
            _ = view.wait_for(|view| view.waiting.oldest.is_none()) => {}
            _ = connected.wait_for(|connected| !connected) => {}
        }
    }

    /// Waits while the last of the spool goes to the broker, not for long.
    async fn held(&self) {
        if *self.holding.borrow() {
            let mut holding = self.holding.clone();
            let _ = timeout(HOLD_MAX, holding.wait_for(|holding| !holding)).await;
        }
    }

    /// Whether nothing is in the spool or on its way there, and there is a broker.
    ///
    /// The order of the two looks matters: whoever has entered is seen in the log, since the log is told of before
    /// anybody is answered.
    fn is_straight(&self) -> bool {
        self.entering.load(Ordering::SeqCst) == 0
            && self.view.borrow().waiting.oldest.is_none()
            && *self.connected.borrow()
    }

    async fn store(&self, messages: Vec<Outgoing>, deadline: Instant) -> Result<(), PublishError> {
        let fits = |one: &Outgoing| one.message.body.len() <= MESSAGE_BYTES_MAX;
        if !messages.iter().all(fits) {
            return Err(PublishError::TooLarge);
        }
        if !messages.iter().all(|one| segment::takes(&one.target)) {
            return Err(PublishError::Unroutable);
        }
        let _entering = Entering::new(&self.entering);
        let (done, stored) = oneshot::channel();
        let stored = async {
            let command = Command::Append { messages, done };
            self.commands.send(command).await.ok()?;
            stored.await.ok()
        };
        let deadline = deadline.max(Instant::now() + STORE_MIN);
        match timeout_at(deadline, stored).await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "the spool did not take a request");
                Err(PublishError::Unavailable)
            }
            Ok(None) => Err(PublishError::Unavailable),
            Err(_elapsed) => Err(PublishError::Unknown),
        }
    }

    fn lock_tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}

/// Whether a verdict says no more than that the broker is away. A queue that refuses is an answer.
fn may_be_spooled(verdict: &Result<(), PublishError>) -> bool {
    matches!(
        verdict,
        Ok(()) | Err(PublishError::Unavailable | PublishError::Unknown)
    )
}

/// Counts a request until it is dropped.
struct Entering<'a>(&'a AtomicUsize);

impl<'a> Entering<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
