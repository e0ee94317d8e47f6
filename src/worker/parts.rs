//! What the shells share: how things are delivered, buried and counted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::bus::{Bus, Message, Outgoing, PublishError, Target};
use crate::enrich::{BudgetLeft, Copied, EngineStats, Input, NoteId, PublishId, Published};
use crate::event::{DeadLetter, ERASURE_CONTENT_TYPE, ERASURE_KIND, Erasure, Millis};
use crate::fan_out::{CopyEnded, FanOut, Outbound};
use crate::hubspot::client::HubSpot;
use crate::jitter::jittered;
use crate::metrics::{Metrics, seconds};

/// Wait before a delivery that failed is tried again, at most; half of it at least. Doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(200);
/// See [`RETRY_MIN`].
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The `type` of a note in a changelog.
const NOTE_KIND: &str = "crm.changelog_note.v1";

/// What the shells share.
pub(super) struct Parts {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) hubspot: HubSpot,
    pub(super) metrics: Arc<Metrics>,
    /// Whoever has its permit tries suspects: one lot in the whole process, so that the right one is blamed.
    pub(super) trial: Arc<Semaphore>,
    fan_out: FanOut,
    /// The last figures of each partition.
    reported: Mutex<Vec<EngineStats>>,
}

/// Messages that are tried together.
pub(super) struct Round {
    ids: Vec<PublishId>,
    events: Vec<Outbound>,
    /// Wait before they are tried; none the first time.
    delay: Duration,
}

/// What came of a round.
#[derive(Default)]
pub(super) struct Delivered {
    /// What the engine is told.
    pub(super) inputs: Vec<Input>,
    /// What was not confirmed.
    pub(super) again: Option<Round>,
}

impl Round {
    /// The first try.
    pub(super) fn first(messages: impl Iterator<Item = (PublishId, Outbound)>) -> Self {
        let (ids, events) = messages.unzip();
        Self {
            ids,
            events,
            delay: Duration::ZERO,
        }
    }
}

impl Parts {
    pub(super) fn new(
        bus: Arc<dyn Bus>,
        hubspot: HubSpot,
        fan_out: FanOut,
        metrics: Arc<Metrics>,
    ) -> Self {
        let partitions = usize::from(bus.partitions());
        Self {
            bus,
            hubspot,
            metrics,
            trial: Arc::new(Semaphore::new(1)),
            fan_out,
            reported: Mutex::new(vec![EngineStats::default(); partitions]),
        }
    }

    /// Delivers every message once: what was confirmed, and what has to be tried again. A destination in
    /// trouble so holds back the messages it wants, and no others.
    pub(super) async fn deliver(&self, round: Round) -> Delivered {
        tokio::time::sleep(jittered(round.delay)).await;
        if round.delay.is_zero() {
            round.events.iter().for_each(|event| self.count(event));
        }
        let outcomes = self.fan_out.deliver(round.events.clone()).await;
        let mut delivered = Delivered::default();
        let mut failed = (Vec::new(), Vec::new());
        for ((publish, event), outcome) in round.ids.into_iter().zip(round.events).zip(outcomes) {
            if let Ok(copies) = outcome {
                let outcome = Published::Copies(copies.into_iter().map(copied).collect());
                delivered.inputs.push(Input::Published { publish, outcome });
            } else {
                failed.0.push(publish);
                failed.1.push(event);
            }
        }
        if !failed.0.is_empty() {
            delivered.again = Some(Round {
                ids: failed.0,
                events: failed.1,
                delay: (round.delay * 2).clamp(RETRY_MIN, RETRY_MAX),
            });
        }
        delivered
    }

    /// Publishes a delivery's message to the backlog of its partition, after `delay`.
    ///
    /// # Errors
    /// When it did not arrive for sure: how long to wait before trying again.
    pub(super) async fn set_aside(
        &self,
        partition: u16,
        message: Message,
        delay: Duration,
    ) -> Result<(), Duration> {
        tokio::time::sleep(jittered(delay)).await;
        let target = Target::Backlog(partition);
        let verdicts = self.bus.publish(vec![Outgoing { target, message }]).await;
        if verdicts.iter().all(Result::is_ok) {
            return Ok(());
        }
        Err((delay * 2).clamp(RETRY_MIN, RETRY_MAX))
    }

    /// Gauges over all partitions: the oldest event that waits, and the least budget left (-1: none was learnt).
    pub(super) fn report(&self, partition: u16, stats: EngineStats, now: Millis) {
        let mut reported = self
            .reported
            .lock()
            .expect("nothing panics while it holds the lock");
        reported[usize::from(partition)] = stats;
        let oldest = reported.iter().filter_map(|stats| stats.oldest_received_at);
        let waiting = oldest.min().map_or(Duration::ZERO, |at| now.since(at));
        self.metrics
            .enrich_oldest_waiting_seconds
            .set(seconds(waiting));
        let least = |of: fn(&EngineStats) -> Option<BudgetLeft>| {
            BudgetLeft::least_of(reported.iter().filter_map(of))
        };
        self.report_budget("burst", least(|stats| stats.burst));
        self.report_budget("associations", least(|stats| stats.associations));
        self.report_budget("daily", least(|stats| stats.daily));
        let lasts = reported.iter().filter_map(|stats| stats.daily_lasts).min();
        self.metrics
            .enrich_daily_budget_lasts_seconds
            .set(lasts.map_or(f64::INFINITY, seconds));
    }

    fn report_budget(&self, limit: &str, left: Option<BudgetLeft>) {
        let calls = left.map_or(-1, |left| i64::from(left.calls));
        let ratio = left.map_or(-1.0, |left| f64::from(left.permille) / 1_000.0);
        let metrics = &self.metrics;
        metrics
            .enrich_budget_remaining
            .with_label_values(&[limit])
            .set(calls);
        metrics
            .enrich_budget_remaining_ratio
            .with_label_values(&[limit])
            .set(ratio);
    }

    fn count(&self, event: &Outbound) {
        let Outbound::Enriched(event) = event else {
            return;
        };
        self.metrics
            .enrich_messages_total
            .with_label_values(&[event.data.enrichment.status.as_str()])
            .inc();
        let events = event.data.events.len();
        self.metrics
            .enrich_events_per_message
            .observe(events as f64);
    }

    /// Appends a note to the changelog of its partition, again and again until it is confirmed: twice does no harm.
    pub(super) async fn note(&self, partition: u16, id: NoteId, body: Vec<u8>) {
        let target = Target::Changelog(partition);
        let message = Message {
            id: format!("note-{partition}-{}", id.0),
            content_type: "application/octet-stream".to_owned(),
            kind: NOTE_KIND.to_owned(),
            headers: Vec::new(),
            body: body.into(),
        };
        self.publish_surely(vec![Outgoing { target, message }])
            .await;
    }

    /// Has the dead letters searched for an erased record: tells whichever worker does that, again and again until that is
    /// confirmed.
    pub(super) async fn search(&self, erasure: Erasure) {
        let message = Message {
            id: erasure.id().to_string(),
            content_type: ERASURE_CONTENT_TYPE.to_owned(),
            kind: ERASURE_KIND.to_owned(),
            headers: Vec::new(),
            body: erasure.encode().into(),
        };
        let target = Target::Erasures;
        self.publish_surely(vec![Outgoing { target, message }])
            .await;
    }

    /// Publishes a dead letter, again and again until it is confirmed.
    pub(super) async fn bury(&self, letter: DeadLetter) {
        tracing::warn!(
            portal.id = letter.portal_id.as_ref().map(tracing::field::display),
            stage = letter.stage.as_str(),
            reason = letter.reason.as_str(),
            events = letter.events.len(),
            "a dead letter: {}",
            letter.detail
        );
        let labels = [letter.stage.as_str(), letter.reason.as_str()];
        self.publish_surely(Outgoing::dead_letters(letter)).await;
        self.metrics
            .dead_letters_total
            .with_label_values(&labels)
            .inc();
    }

    /// Publishes what is `left`, again and again until all of it is confirmed.
    async fn publish_surely(&self, mut left: Vec<Outgoing>) {
        let mut delay = RETRY_MIN;
        loop {
            let verdicts = self.bus.publish(left.clone()).await;
            if delay == RETRY_MIN && verdicts.contains(&Err(PublishError::Unroutable)) {
                tracing::error!(
                    to = ?left[0].target,
                    "no queue takes what must not be lost; it is sent again until one is there (RUNBOOK.md, CrmRelayUnroutable)"
                );
            }
            let mut refused = verdicts.iter().map(Result::is_err);
            left.retain(|_| refused.next().unwrap_or(true));
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(jittered(delay)).await;
            delay = (delay * 2).min(RETRY_MAX);
        }
    }
}

/// A copy that ended, as the engine is told.
fn copied(copy: CopyEnded) -> Copied {
    Copied {
        destination: copy.destination,
        listed: copy.listed,
        is_dead: copy.is_dead,
    }
}
