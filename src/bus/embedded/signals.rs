//! What the writer tells everybody else: whether the store takes messages, and which queue has new ones.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify, watch};

use super::store::QueueId;
use crate::metrics::Metrics;

/// Shared by the writer, the bus and the consumers.
#[derive(Debug)]
pub(super) struct Signals {
    connected: watch::Sender<bool>,
    lanes: Vec<Lane>,
    metrics: Arc<Metrics>,
}

/// One queue as its consumers see it.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Held by the active consumer. Fair: who waits longest is next.
    pub(super) active: Mutex<()>,
    /// Messages were appended. Remembered until the active consumer looks.
    pub(super) appended: Notify,
}

impl Signals {
    /// For a store with so many partitions, not yet connected.
    pub(super) fn new(partitions: u16, metrics: Arc<Metrics>) -> Self {
        Self {
            connected: watch::Sender::new(false),
            // Each partition with its backlog; the erasures and the dead letters.
            lanes: (0..2 * u32::from(partitions) + 2)
                .map(|_| Lane::default())
                .collect(),
            metrics,
        }
    }

    /// A queue's lane.
    pub(super) fn lane(&self, queue: QueueId) -> &Lane {
        &self.lanes[queue.index()]
    }

    /// Follows whether the store takes messages.
    pub(super) fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Whether the store takes messages right now.
    pub(super) fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Says whether the store takes messages. Every receiver sees a loss, even one that is over when it looks.
    pub(super) fn set_connected(&self, connected: bool) {
        self.metrics.bus_connected.set(i64::from(connected));
        self.connected.send_replace(connected);
    }

    /// Where to count.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
