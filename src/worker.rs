//! The worker: consume → enrich → fan out.
//!
//! One shell (`shell.rs`) around one engine for each partition that is ours, and beside them one task that searches the dead
//! letters for erased records (`purge.rs`), and one that gives back what full destinations refused ([`crate::dead`]).
//!
//! A shell that panics is started again: the bus delivers anew what it had not settled.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::config::Config;
use crate::dead::GiveBack;
use crate::demand::Demand;
use crate::enrich::budget::Share;
use crate::enrich::{Engine, Plans};
use crate::fan_out::{FanOut, FanOutError};
use crate::hubspot::client::{ApiVersionError, HubSpot, HubSpotOptions, HubSpotSetupError, Tokens};
use crate::jitter;
use crate::metrics::Metrics;

mod backlog;
mod parts;
mod past;
mod purge;
mod shell;

use parts::Parts;
use purge::Purge;
use shell::Shell;

/// Wait before a shell that panicked is started again.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// How long a partition that goes to another worker may take to finish what is under way.
const HAND_OVER_MAX: Duration = Duration::from_secs(10);

/// Why the worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// `hubspot.api_version`.
    #[error("hubspot.api_version: {0}")]
    ApiVersion(#[from] ApiVersionError),
    /// The HubSpot client.
    #[error(transparent)]
    HubSpot(#[from] HubSpotSetupError),
    /// A destination.
    #[error(transparent)]
    FanOut(#[from] FanOutError),
}

/// The running worker.
pub struct Worker {
    parts: Arc<Parts>,
    stopping: CancellationToken,
    shells: JoinSet<()>,
}

impl Worker {
    /// Joins the workers of `bus`, and starts a shell for each partition that is ours, as long as it is. They begin to work
    /// when the bus gives them deliveries. Which portals there are, `tokens` knows. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the configuration of HubSpot's API or of a destination.
    pub fn start(
        config: &Config,
        bus: Arc<dyn Bus>,
        tokens: Arc<Tokens>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, WorkerError> {
        let hubspot = HubSpot::new(
            &HubSpotOptions::of(&config.hubspot)?,
            tokens,
            metrics.clone(),
        )?;
        let fan_out = FanOut::new(config, bus.clone(), metrics.clone())?;
        let parts = Arc::new(Parts::new(bus, hubspot, fan_out, metrics));
        let stopping = CancellationToken::new();
        let plans = Plans::new(&config.enrich)
            .with_portals(&config.portal)
            .with_demand(Demand::of(config));
        let share = Share::new(config.hubspot.budget_share).unwrap_or(Share::WHOLE);
        let shared_out = parts.bus.join();
        let mut shells = JoinSet::new();
        for partition in 0..parts.bus.partitions() {
            let (plans, parts, stopping) = (plans.clone(), parts.clone(), stopping.clone());
            let prefetch = config.worker.prefetch;
            let partitions = parts.metrics.worker_partitions.clone();
            let ours = Ours {
                partition,
                shared_out: shared_out.clone(),
                partitions,
            };
            shells.spawn(ours.keep(stopping.clone(), move |stopping| {
                let engine = Engine::new(plans.clone(), jitter::number())
                    .with_budget_share(share)
                    .with_window(usize::from(prefetch));
                let shell = Shell::new(partition, prefetch, engine, parts.clone());
                shell.run(stopping)
            }));
        }
        let giving_back = GiveBack::new(config, parts.bus.clone(), parts.metrics.clone());
        if let Some(giving_back) = giving_back {
            let is_ours = shared_out.clone();
            shells.spawn(giving_back.run(is_ours, stopping.clone()));
        }
        let (purging, for_purge) = (stopping.clone(), parts.clone());
        shells.spawn(keep_running(stopping.clone(), move || {
            Purge::new(for_purge.clone(), purging.clone()).run()
        }));
        Ok(Self {
            parts,
            stopping,
            shells,
        })
    }

    /// Takes no more deliveries, finishes what was taken, and returns; after `grace` with what is left
    /// unsettled, so that it comes again. Other workers get each partition as it is finished.
    pub async fn stop(mut self, grace: Duration) {
        self.stopping.cancel();
        self.parts.bus.leave();
        let all = async { while self.shells.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!(
                "not all events ended within the grace time; the rest is handed back to the bus"
            );
            self.shells.shutdown().await;
        }
    }
}

/// A partition, while it is ours.
struct Ours {
    partition: u16,
    shared_out: watch::Receiver<BTreeSet<u16>>,
    /// How many are.
    partitions: prometheus::IntGauge,
}

impl Ours {
    /// Runs a shell whenever the partition is ours, until `stopping`.
    async fn keep<F: Future<Output = ()>>(
        mut self,
        stopping: CancellationToken,
        start: impl Fn(CancellationToken) -> F,
    ) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.becomes(true) => {}
            }
            let released = stopping.child_token();
            self.partitions.inc();
            let run = keep_running(released.clone(), || start(released.clone()));
            tokio::pin!(run);
            tokio::select! {
                () = &mut run => {}
                () = self.becomes(false) => {
                    released.cancel();
                    // Past that it is dropped, and what it had not settled is handed back.
                    let _ = tokio::time::timeout(HAND_OVER_MAX, &mut run).await;
                }
            }
            self.partitions.dec();
        }
    }

    /// Resolves when the partition is ours, or is not.
    async fn becomes(&mut self, ours: bool) {
        let partition = self.partition;
        let wait = self
            .shared_out
            .wait_for(|all| all.contains(&partition) == ours);
        if wait.await.is_err() {
            // The bus is closed: nothing changes any more.
            std::future::pending().await
        }
    }
}

/// Runs what `start` starts until it ends by itself; starts it again when it panics.
async fn keep_running<F: Future<Output = ()>>(stopping: CancellationToken, start: impl Fn() -> F) {
    while AssertUnwindSafe(start()).catch_unwind().await.is_err() {
        tracing::error!("a task of the worker panicked (this is a bug); it is started again");
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(RESTART_DELAY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_shell_that_panics_is_started_again() {
        let starts = AtomicUsize::new(0);
        let run = || async {
            let before = starts.fetch_add(1, Ordering::Relaxed);
            assert!(before >= 2, "a planted panic");
        };
        keep_running(CancellationToken::new(), run).await;
        assert_eq!(starts.load(Ordering::Relaxed), 3);
    }
}
