//! The worker: consume → enrich → fan out. The shell around the engine, one for each partition.
//!
//! A shell owns its partition's consumer and engine. It hands the engine what happens, and does what the
//! engine says: calls to HubSpot and deliveries run as futures beside the loop. What it delivers is
//! retried until it is confirmed; a delivery of the bus is acknowledged only when the engine says that
//! all it led to is.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, Consumed, Consumer, Delivery, Outgoing, Queue, Unsettled};
use crate::config::Config;
use crate::enrich::{
    CallId, DeliveryId, Ending, Engine, EngineStats, Input, Output, Plans, PublishId,
};
use crate::event::{Batch, DeadLetter, DeadLetterReason, EnrichedEvent, Millis, PortalId, Stage};
use crate::fan_out::{FanOut, FanOutError, FanOutOutcome};
use crate::hubspot::call::{Answered, Call};
use crate::hubspot::client::{
    ApiVersionError, HubSpot, HubSpotOptions, HubSpotSetupError, TokenError, Tokens,
};
use crate::metrics::Metrics;

/// The longest a shell sleeps when its engine has no reason to wake.
const TICK_MAX: Duration = Duration::from_secs(1);
/// How often the gauges are brought up to date. The loop wakes at least that often while anything happens.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// Wait before a delivery that failed is tried again; doubled up to [`DELIVERY_RETRY_MAX`].
const DELIVERY_RETRY_MIN: Duration = Duration::from_millis(200);
/// See [`DELIVERY_RETRY_MIN`].
const DELIVERY_RETRY_MAX: Duration = Duration::from_secs(5);
/// Messages handed to the destinations in one go.
const DELIVERY_BATCH_MAX: usize = 256;

/// Why the worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// `hubspot.api_version`.
    #[error("hubspot.api_version: {0}")]
    ApiVersion(#[from] ApiVersionError),
    /// A portal's access token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The HubSpot client.
    #[error(transparent)]
    HubSpot(#[from] HubSpotSetupError),
    /// A destination.
    #[error(transparent)]
    FanOut(#[from] FanOutError),
}

/// The running worker.
#[derive(Debug)]
pub struct Worker {
    stopping: CancellationToken,
    shells: JoinSet<()>,
}

/// What the shells share.
struct Parts {
    bus: Arc<dyn Bus>,
    hubspot: HubSpot,
    fan_out: FanOut,
    metrics: Arc<Metrics>,
    budgets: Mutex<Vec<EngineStats>>,
}

impl Worker {
    /// Starts a shell for each partition of `bus`. They begin to work when the bus gives them deliveries.
    ///
    /// # Errors
    /// What is wrong with the configuration of HubSpot's API or of a destination.
    pub fn start(
        config: &Config,
        bus: Arc<dyn Bus>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, WorkerError> {
        let parts = Arc::new(Parts {
            hubspot: hubspot(config, metrics.clone())?,
            fan_out: FanOut::new(&config.destination, bus.clone(), metrics.clone())?,
            budgets: Mutex::new(vec![EngineStats::default(); usize::from(bus.partitions())]),
            bus,
            metrics,
        });
        let stopping = CancellationToken::new();
        let plans = Plans::new(&config.enrich);
        let mut shells = JoinSet::new();
        for partition in 0..parts.bus.partitions() {
            let shell = Shell::new(partition, config.worker.prefetch, &plans, parts.clone());
            shells.spawn(shell.run(stopping.clone()));
        }
        Ok(Self { stopping, shells })
    }

    /// Takes no more deliveries, finishes what was taken, and returns; after `grace` with what is left
    /// unsettled, so that it comes again.
    pub async fn stop(mut self, grace: Duration) {
        self.stopping.cancel();
        let all = async { while self.shells.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!(
                "not all events ended within the grace time; the rest is handed back to the bus"
            );
            self.shells.shutdown().await;
        }
    }
}

fn hubspot(config: &Config, metrics: Arc<Metrics>) -> Result<HubSpot, WorkerError> {
    let options = HubSpotOptions {
        base_url: config.hubspot.base_url.clone(),
        api_version: config.hubspot.api_version.parse()?,
        timeout: config.hubspot.timeout,
    };
    Ok(HubSpot::new(
        options,
        Tokens::new(&config.portal)?,
        metrics,
    )?)
}

/// The loop of one partition.
struct Shell {
    partition: u16,
    parts: Arc<Parts>,
    engine: Engine,
    clock: Clock,
    consumer: Option<Consumer>,
    unsettled: HashMap<DeliveryId, Unsettled>,
    last_delivery: u64,
    /// Calls and deliveries under way; each resolves to what the engine is told.
    under_way: FuturesUnordered<BoxFuture<'static, Vec<Input>>>,
    /// Messages for the destinations, gathered while the engine's outputs are carried out.
    to_publish: Vec<(PublishId, EnrichedEvent)>,
    reported: EngineStats,
    reported_at: Instant,
}

/// A clock that never goes back: the system's at the start, and what has passed since.
struct Clock {
    started_at: Millis,
    started: Instant,
}

impl Clock {
    fn new() -> Self {
        Self {
            started_at: Millis::now(),
            started: Instant::now(),
        }
    }

    fn now(&self) -> Millis {
        self.started_at.after(self.started.elapsed())
    }

    fn until(&self, at: Millis) -> Duration {
        at.since(self.now())
    }
}

/// What wakes the loop.
enum Wake {
    Consumed(Option<Consumed>),
    Happened(Vec<Input>),
    Time,
    Stop,
}

impl Shell {
    fn new(partition: u16, prefetch: u16, plans: &Plans, parts: Arc<Parts>) -> Self {
        Self {
            partition,
            engine: Engine::new(plans.clone(), u64::from(partition)),
            clock: Clock::new(),
            consumer: Some(parts.bus.consume(Queue::Partition(partition), prefetch)),
            parts,
            unsettled: HashMap::new(),
            last_delivery: 0,
            under_way: FuturesUnordered::new(),
            to_publish: Vec::new(),
            reported: EngineStats::default(),
            reported_at: Instant::now(),
        }
    }

    async fn run(mut self, stopping: CancellationToken) {
        let mut draining = false;
        while !(draining && self.engine.is_idle() && self.under_way.is_empty()) {
            match self.wait(&stopping, draining).await {
                Wake::Consumed(Some(Consumed::Delivery(delivery))) => self.take(delivery),
                Wake::Consumed(Some(Consumed::Lost)) => self.lost(),
                Wake::Consumed(None) => self.consumer = None,
                Wake::Happened(inputs) => inputs.into_iter().for_each(|input| self.tell(input)),
                Wake::Time => self.tell(Input::Tick),
                Wake::Stop => draining = true,
            }
            self.publish_gathered();
            if self.reported_at.elapsed() >= REPORT_INTERVAL {
                self.report();
            }
        }
        self.report();
        self.close().await;
    }

    async fn wait(&mut self, stopping: &CancellationToken, draining: bool) -> Wake {
        let now = self.clock.now();
        let sleep = self
            .engine
            .next_wake(now)
            .map_or(TICK_MAX, |at| self.clock.until(at).min(TICK_MAX));
        let consumed = async {
            match &mut self.consumer {
                Some(consumer) if !draining => consumer.next().await,
                _ => pending().await,
            }
        };
        let happened = async {
            match self.under_way.next().await {
                Some(inputs) => inputs,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            inputs = happened => Wake::Happened(inputs),
            () = stopping.cancelled(), if !draining => Wake::Stop,
            consumed = consumed => Wake::Consumed(consumed),
            () = tokio::time::sleep(sleep) => Wake::Time,
        }
    }

    fn take(&mut self, delivery: Delivery) {
        self.last_delivery += 1;
        let id = DeliveryId(self.last_delivery);
        match Batch::decode(&delivery.message.body) {
            Ok(batch) => {
                tracing::debug!(
                    portal.id = %batch.portal_id(),
                    events = batch.events().len(),
                    delivery.count = delivery.delivery_count,
                    "took a batch"
                );
                self.unsettled.insert(id, delivery.unsettled);
                self.tell(Input::Batch {
                    delivery: id,
                    events: batch.into_events(),
                });
            }
            Err(error) => self.bury_unreadable(delivery, &error.to_string()),
        }
    }

    /// A message that is no batch of ours is kept whole as a dead letter, and then acknowledged.
    fn bury_unreadable(&mut self, delivery: Delivery, reason: &str) {
        let letter = DeadLetter::new(
            Stage::Consume,
            DeadLetterReason::Unreadable,
            reason.to_owned(),
            Millis::now(),
        )
        .with_raw(&delivery.message.body);
        let parts = self.parts.clone();
        self.under_way.push(Box::pin(async move {
            parts.bury(letter).await;
            delivery.unsettled.ack();
            Vec::new()
        }));
    }

    fn lost(&mut self) {
        for (_, unsettled) in self.unsettled.drain() {
            unsettled.abandon();
        }
        self.tell(Input::Lost);
    }

    /// Hands the engine what happened, and does what it says.
    fn tell(&mut self, input: Input) {
        for output in self.engine.handle(self.clock.now(), input) {
            match output {
                Output::Call {
                    call_id,
                    portal_id,
                    call,
                } => self.call(call_id, portal_id, call),
                Output::RefreshToken(portal_id) => self.refresh_token(portal_id),
                Output::Publish { publish, event } => self.to_publish.push((publish, *event)),
                Output::Bury { publish, letter } => self.bury(publish, *letter),
                Output::Ack(delivery) => {
                    if let Some(unsettled) = self.unsettled.remove(&delivery) {
                        unsettled.ack();
                    }
                }
                Output::Ended(ending) => {
                    let ended = &self.parts.metrics.enrich_events_total;
                    ended.with_label_values(&[ending.as_str()]).inc();
                }
            }
        }
    }

    fn call(&self, call: CallId, portal_id: PortalId, wire_call: Call) {
        let parts = self.parts.clone();
        self.under_way.push(Box::pin(async move {
            let answered = parts.hubspot.call(&portal_id, &wire_call).await;
            log_failure(&portal_id, &wire_call, &answered);
            vec![Input::Answered { call, answered }]
        }));
    }

    fn refresh_token(&self, portal_id: PortalId) {
        let changed = self.parts.hubspot.refresh_token(&portal_id);
        if !changed {
            tracing::error!(
                portal.id = %portal_id,
                "HubSpot refuses the portal's access token; its events are kept and it is tried again every 5 minutes: \
                 set portal.<id>.access_token to a valid token"
            );
        }
        self.under_way.push(Box::pin(async move {
            vec![Input::TokenRefreshed { portal_id, changed }]
        }));
    }

    fn bury(&self, publish: PublishId, letter: DeadLetter) {
        let parts = self.parts.clone();
        self.under_way.push(Box::pin(async move {
            parts.bury(letter).await;
            vec![Input::Published {
                publish,
                ending: Ending::Dead,
            }]
        }));
    }

    /// Messages that became ready together go to the destinations together.
    fn publish_gathered(&mut self) {
        while !self.to_publish.is_empty() {
            let rest = self.to_publish.len().min(DELIVERY_BATCH_MAX);
            let batch: Vec<_> = self.to_publish.drain(..rest).collect();
            let parts = self.parts.clone();
            self.under_way
                .push(Box::pin(async move { parts.deliver(batch).await }));
        }
    }

    /// Gauges are sums over partitions: each shell adds what changed since it last reported.
    fn report(&mut self) {
        let stats = self.engine.stats(self.clock.now());
        let metrics = &self.parts.metrics;
        let difference = |new: usize, old: usize| {
            i64::try_from(new).unwrap_or(i64::MAX) - i64::try_from(old).unwrap_or(i64::MAX)
        };
        metrics.enrich_waiting_events.add(difference(
            stats.waiting_events,
            self.reported.waiting_events,
        ));
        for (state, new, old) in [
            ("ready", stats.portals_ready, self.reported.portals_ready),
            (
                "waiting",
                stats.portals_waiting,
                self.reported.portals_waiting,
            ),
            (
                "backing_off",
                stats.portals_backing_off,
                self.reported.portals_backing_off,
            ),
            ("paused", stats.portals_paused, self.reported.portals_paused),
        ] {
            metrics
                .enrich_portals
                .with_label_values(&[state])
                .add(difference(new, old));
        }
        self.parts.report_budgets(self.partition, stats);
        self.reported = stats;
        self.reported_at = Instant::now();
    }

    async fn close(mut self) {
        for (_, unsettled) in self.unsettled.drain() {
            unsettled.abandon();
        }
        if let Some(consumer) = self.consumer.take() {
            consumer.close().await;
        }
        tracing::debug!(partition = self.partition, "the partition was released");
    }
}

impl Drop for Shell {
    /// A shell that is stopped in the middle lets go of what it did not settle: it comes again.
    fn drop(&mut self) {
        for (_, unsettled) in self.unsettled.drain() {
            unsettled.abandon();
        }
    }
}

impl Parts {
    /// Delivers every message, again and again until it is confirmed.
    async fn deliver(&self, batch: Vec<(PublishId, EnrichedEvent)>) -> Vec<Input> {
        let (ids, mut left): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        for event in &left {
            self.count(event);
        }
        let mut left_ids = ids;
        let mut inputs = Vec::with_capacity(left.len());
        let mut delay = DELIVERY_RETRY_MIN;
        loop {
            let outcomes = self.fan_out.deliver(left.clone()).await;
            let mut failed = (Vec::new(), Vec::new());
            for ((publish, event), outcome) in left_ids.into_iter().zip(left).zip(outcomes) {
                match outcome {
                    Ok(outcome) => inputs.push(Input::Published {
                        publish,
                        ending: ending_of(&outcome),
                    }),
                    Err(_) => {
                        failed.0.push(publish);
                        failed.1.push(event);
                    }
                }
            }
            (left_ids, left) = failed;
            if left.is_empty() {
                return inputs;
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(DELIVERY_RETRY_MAX);
        }
    }

    /// The smallest budget over all partitions; -1 where none was learnt.
    fn report_budgets(&self, partition: u16, stats: EngineStats) {
        let mut budgets = self
            .budgets
            .lock()
            .expect("nothing panics while it holds the lock");
        budgets[usize::from(partition)] = stats;
        let smallest = |of: fn(&EngineStats) -> Option<u32>| {
            budgets.iter().filter_map(of).min().map_or(-1, i64::from)
        };
        let gauge = &self.metrics.enrich_budget_remaining;
        for (limit, value) in [
            ("burst", smallest(|stats| stats.burst_remaining)),
            (
                "associations",
                smallest(|stats| stats.associations_remaining),
            ),
            ("daily", smallest(|stats| stats.daily_remaining)),
        ] {
            gauge.with_label_values(&[limit]).set(value);
        }
    }

    fn count(&self, event: &EnrichedEvent) {
        let status = serde_json::to_value(event.data.enrichment.status);
        let status = status
            .ok()
            .and_then(|word| word.as_str().map(str::to_owned));
        let status = status.unwrap_or_default();
        self.metrics
            .enrich_messages_total
            .with_label_values(&[&status])
            .inc();
        let events = event.data.events.len();
        self.metrics
            .enrich_events_per_message
            .observe(events as f64);
    }

    /// Publishes a dead letter, again and again until it is confirmed.
    async fn bury(&self, letter: DeadLetter) {
        tracing::warn!(
            portal.id = letter.portal_id.as_ref().map(tracing::field::display),
            stage = letter.stage.as_str(),
            reason = letter.reason.as_str(),
            events = letter.events.len(),
            "a dead letter: {}",
            letter.detail
        );
        let outgoing = Outgoing::dead_letter(&letter);
        let mut delay = DELIVERY_RETRY_MIN;
        while self
            .bus
            .publish(vec![outgoing.clone()])
            .await
            .iter()
            .any(Result::is_err)
        {
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(DELIVERY_RETRY_MAX);
        }
        self.metrics
            .dead_letters_total
            .with_label_values(&[letter.stage.as_str(), letter.reason.as_str()])
            .inc();
    }
}

fn ending_of(outcome: &FanOutOutcome) -> Ending {
    match outcome {
        FanOutOutcome::Unwanted => Ending::Unwanted,
        FanOutOutcome::Delivered { copies: 0, .. } => Ending::Dead,
        FanOutOutcome::Delivered { .. } => Ending::Delivered,
    }
}

/// Failures that the engine answers by waiting are worth a line each, at a level that fits.
fn log_failure(portal_id: &PortalId, call: &Call, answered: &Answered) {
    if let Err(error) = &answered.result {
        tracing::warn!(portal.id = %portal_id, endpoint = call.endpoint(), "a call to HubSpot failed: {error}");
    }
}
