//! Takes what is spooled to the broker, oldest first, as soon as it is there.
//!
//! One file after the other: read, published, confirmed, removed. What is not confirmed is published again, so
//! after a crash some of a file may arrive twice, under the same ids.
//!
//! **The hand-over.** While anything waits, requests go behind it. If they came on at any pace, the last of it would
//! never be reached: there is always one more. So when little is left, new requests are held for the moment that
//! takes, and then go straight to the broker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::log::Oldest;
use super::writer::{Command, View};
use crate::bus::{Bus, Outgoing, RECONNECT_DELAY_MAX, RECONNECT_DELAY_MIN};
use crate::event::Millis;
use crate::jitter::jittered;
use crate::metrics::Metrics;

/// The most messages published at once.
const CHUNK_MESSAGES_MAX: usize = 256;
/// The most bytes of bodies published at once, beyond the first message.
const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// New requests are held when no more messages than these are left.
const HAND_OVER_MESSAGES: u64 = 256;

/// How often ages are told and a failing disk is tried.
const TICK: Duration = Duration::from_secs(1);

/// The task.
pub(super) struct Drain {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) view: watch::Receiver<View>,
    /// Whether new requests are held.
    pub(super) holding: watch::Sender<bool>,
    pub(super) metrics: Arc<Metrics>,
}

/// The writer is gone.
struct Gone;

impl Drain {
    /// Drains whenever there is something to drain and somebody to take it, until the writer is gone.
    pub(super) async fn run(mut self) {
        while self.something_waits().await.is_ok() {
            let begun = Instant::now();
            let waiting = self.view.borrow().waiting;
            tracing::warn!(
                messages = waiting.messages,
                "requests are answered from the spool until it is drained"
            );
            let drained = self.empty().await;
            self.holding.send_replace(false);
            match drained {
                Ok(messages) => {
                    let duration_ms = u64::try_from(begun.elapsed().as_millis());
                    let duration_ms = duration_ms.unwrap_or(u64::MAX);
                    tracing::info!(messages, duration_ms, "the spool is drained");
                }
                Err(Gone) => return,
            }
        }
    }

    async fn something_waits(&mut self) -> Result<(), Gone> {
        let waits = self.view.wait_for(|view| view.waiting.oldest.is_some());
        waits.await.map(drop).map_err(|_| Gone)
    }

    /// Drains until nothing waits; how many messages that were.
    async fn empty(&mut self) -> Result<u64, Gone> {
        let mut messages = 0;
        while self.view.borrow().waiting.oldest.is_some() {
            self.broker().await?;
            let left = self.view.borrow().waiting.messages;
            self.holding.send_replace(left <= HAND_OVER_MESSAGES);
            let Some(oldest) = self.oldest().await? else {
                // It cannot be read; the writer has said so.
                self.holding.send_replace(false);
                tokio::time::sleep(RECONNECT_DELAY_MAX).await;
                continue;
            };
            self.report(&oldest);
            messages += oldest.messages.len() as u64;
            self.deliver(&oldest.messages).await?;
            self.remove(&oldest).await?;
        }
        Ok(messages)
    }

    async fn oldest(&self) -> Result<Option<Oldest>, Gone> {
        let (done, oldest) = oneshot::channel();
        self.command(Command::Oldest { done }).await?;
        oldest.await.map_err(|_| Gone)
    }

    async fn remove(&self, oldest: &Oldest) -> Result<(), Gone> {
        let (done, removed) = oneshot::channel();
        let command = Command::Remove {
            number: oldest.number,
            damaged: oldest.damaged > 0,
            done,
        };
        self.command(command).await?;
        removed.await.map_err(|_| Gone)
    }

    async fn command(&self, command: Command) -> Result<(), Gone> {
        self.commands.send(command).await.map_err(|_| Gone)
    }

    /// Waits until there is a broker. Nobody is held meanwhile.
    async fn broker(&self) -> Result<(), Gone> {
        let mut connected = self.bus.connected();
        if !*connected.borrow_and_update() {
            self.holding.send_replace(false);
        }
        let there = connected.wait_for(|connected| *connected);
        there.await.map(drop).map_err(|_| Gone)
    }

    fn report(&self, oldest: &Oldest) {
        let count = |what, number| {
            let metric = &self.metrics.spool_damaged_total;
            metric.with_label_values(&[what]).inc_by(number);
        };
        if oldest.damaged > 0 {
            count("message", oldest.damaged);
            tracing::error!(
                messages = oldest.damaged,
                file = oldest.number,
                "messages in the spool are damaged and lost; their file is kept as .damaged, what is intact in it goes on"
            );
        }
        if oldest.cut_off_bytes > 0 {
            count("end", 1);
            tracing::warn!(
                bytes = oldest.cut_off_bytes,
                file = oldest.number,
                "the end of a file in the spool cannot be read; after a crash that is a write for which nobody was answered"
            );
        }
    }

    /// Publishes `messages` in order until every one is confirmed.
    async fn deliver(&self, messages: &[Outgoing]) -> Result<(), Gone> {
        let mut rest = messages;
        let mut delay = RECONNECT_DELAY_MIN;
        while !rest.is_empty() {
            self.broker().await?;
            let chunk = chunk(rest);
            let verdicts = self.bus.publish(chunk.to_vec()).await;
            // What comes behind the first that failed goes again with it, so that it stays behind.
            let confirmed = verdicts
                .iter()
                .take_while(|verdict| verdict.is_ok())
                .count();
            self.metrics.spool_drained_total.inc_by(confirmed as u64);
            rest = &rest[confirmed..];
            match verdicts.get(confirmed) {
                None if confirmed > 0 => delay = RECONNECT_DELAY_MIN,
                failed => {
                    let reason = failed.and_then(|failed| failed.err());
                    let reason = reason.map_or("no_verdict", |error| error.as_str());
                    tracing::debug!(reason, "the broker did not confirm what was spooled");
                    self.holding.send_replace(false);
                    tokio::time::sleep(jittered(delay)).await;
                    delay = (delay * 2).min(RECONNECT_DELAY_MAX);
                }
            }
        }
        Ok(())
    }
}

/// The first of `messages`, as many as are published at once.
fn chunk(messages: &[Outgoing]) -> &[Outgoing] {
    let mut bytes = 0;
    let fits = messages.iter().take(CHUNK_MESSAGES_MAX).take_while(|one| {
        let first = bytes == 0;
        bytes += one.message.body.len();
        first || bytes <= CHUNK_BYTES_MAX
    });
    let count = fits.count();
    &messages[..count]
}

/// Tells how old the oldest message is, and has a disk that fails tried again.
pub(super) async fn tick(
    view: watch::Receiver<View>,
    commands: mpsc::Sender<Command>,
    metrics: Arc<Metrics>,
) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let View {
            waiting, failing, ..
        } = *view.borrow();
        let age = waiting.oldest.map(|oldest| Millis::now().since(oldest));
        metrics
            .spool_oldest_seconds
            .set(age.unwrap_or_default().as_secs_f64());
        if failing && commands.send(Command::Probe).await.is_err() {
            return;
        }
    }
}
