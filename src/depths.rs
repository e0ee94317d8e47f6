//! How much waits in our queues, for Prometheus: what no worker has taken shows nowhere else in our metrics.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::bus::{Bus, BusUnavailable, Queue};
use crate::metrics::Metrics;

/// How often the bus is asked.
const INTERVAL: Duration = Duration::from_secs(15);

/// Asks the bus for the depth of its queues, every 15 seconds, until it is dropped.
#[derive(Debug)]
pub struct Depths {
    task: JoinHandle<()>,
}

impl Depths {
    /// Begins at once. `destinations` are those with a queue of their own, by name.
    ///
    /// A queue that cannot be asked has no depth: its series goes, rather than to stay at what it was.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn watch(bus: Arc<dyn Bus>, destinations: Vec<String>, metrics: Arc<Metrics>) -> Self {
        let groups = groups(bus.partitions(), destinations);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                for (label, queues) in &groups {
                    show(&metrics, label, sum(bus.as_ref(), queues).await);
                }
            }
        });
        Self { task }
    }
}

impl Drop for Depths {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Our queues as metrics name them: the broker's names without the prefix, all partitions as one.
fn groups(partitions: u16, destinations: Vec<String>) -> Vec<(String, Vec<Queue>)> {
    let mut groups = vec![
        (
            "intake".to_owned(),
            (0..partitions).map(Queue::Partition).collect(),
        ),
        (
            "backlog".to_owned(),
            (0..partitions).map(Queue::Backlog).collect(),
        ),
        ("dead.letters".to_owned(), vec![Queue::DeadLetters]),
    ];
    groups.extend(destinations.into_iter().map(|name| {
        let label = format!("destination.{name}");
        (label, vec![Queue::Destination(name)])
    }));
    groups
}

async fn sum(bus: &dyn Bus, queues: &[Queue]) -> Result<u64, BusUnavailable> {
    let mut messages = 0;
    for queue in queues {
        messages += bus.depth(queue.clone()).await?;
    }
    Ok(messages)
}

fn show(metrics: &Metrics, label: &str, depth: Result<u64, BusUnavailable>) {
    let gauge = &metrics.bus_queue_messages;
    match depth {
        Ok(messages) => gauge
            .with_label_values(&[label])
            .set(i64::try_from(messages).unwrap_or(i64::MAX)),
        // It may never have been there.
        Err(BusUnavailable) => drop(gauge.remove_label_values(&[label])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_one_queue_and_destinations_one_each() {
        let groups = groups(2, vec!["billing".to_owned()]);
        assert_eq!(
            groups,
            [
                (
                    "intake".to_owned(),
                    vec![Queue::Partition(0), Queue::Partition(1)]
                ),
                (
                    "backlog".to_owned(),
                    vec![Queue::Backlog(0), Queue::Backlog(1)]
                ),
                ("dead.letters".to_owned(), vec![Queue::DeadLetters]),
                (
                    "destination.billing".to_owned(),
                    vec![Queue::Destination("billing".to_owned())]
                ),
            ]
        );
    }

    #[test]
    fn a_queue_that_cannot_be_asked_has_no_depth() {
        let metrics = Metrics::new();
        let series = "crm_relay_bus_queue_messages{queue=\"intake\"} 7";
        show(&metrics, "intake", Ok(7));
        assert!(metrics.encode().contains(series));
        show(&metrics, "intake", Err(BusUnavailable));
        assert!(!metrics.encode().contains("crm_relay_bus_queue_messages{"));
    }
}
