//! What the writer tells everybody else: whether the store takes messages, and which queue has new ones.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify, watch};

use super::store::QueueId;
use crate::metrics::Metrics;

/// Shared by the writer, the bus and the consumers.
#[derive(Debug)]
pub(super) struct Signals {
    connected: watch::Receiver<bool>,
    lanes: Vec<Lane>,
    metrics: Arc<Metrics>,
}

/// Says whether the store takes messages: no more once it is dropped, which receivers see.
#[derive(Debug)]
pub(super) struct Connected {
    sender: watch::Sender<bool>,
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
    pub(super) fn new(partitions: u16, metrics: Arc<Metrics>) -> (Self, Connected) {
        let (sender, connected) = watch::channel(false);
        let says = Connected {
            sender,
            metrics: Arc::clone(&metrics),
        };
        let signals = Self {
            connected,
            // Each partition with its backlog; the erasures and the dead letters.
            lanes: (0..2 * u32::from(partitions) + 2)
                .map(|_| Lane::default())
                .collect(),
            metrics,
        };
        (signals, says)
    }

    /// A queue's lane.
    pub(super) fn lane(&self, queue: QueueId) -> &Lane {
        &self.lanes[queue.index()]
    }

    /// Follows whether the store takes messages.
    pub(super) fn connected(&self) -> watch::Receiver<bool> {
        let mut connected = self.connected.clone();
        connected.mark_unchanged();
        connected
    }

    /// Whether the store takes messages right now.
    pub(super) fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Where to count.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Connected {
    /// Every receiver sees a loss, even one that is over when it looks.
    pub(super) fn set(&self, connected: bool) {
        self.metrics.bus_connected.set(i64::from(connected));
        self.sender.send_replace(connected);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.set(false);
    }
}
