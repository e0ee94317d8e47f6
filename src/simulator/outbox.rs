//! Notifications that wait to be sent, those on their way, and what became of them. Pure: time comes in.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::options::Dials;
use super::random::Random;

/// Acknowledged notifications that can be read back, the newest; all are counted.
pub const ACKNOWLEDGED_MAX: usize = 200_000;

/// A notification, without its `attemptNumber`.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// Counts the portal's notifications from 0; copies of one share it.
    pub(crate) serial: u64,
    pub(crate) body: Map<String, Value>,
}

/// What goes into one request.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) attempt: u32,
    pub(crate) notifications: Vec<Made>,
}

/// A notification that the target answered with 2xx.
#[derive(Clone, Debug, Serialize)]
pub struct Acknowledged {
    /// Counts the portal's notifications from 0; a duplicate has its original's.
    pub serial: u64,
    /// The attempt that was acknowledged, 0 for the first.
    pub attempt: u32,
    /// As it was sent.
    pub notification: Value,
}

/// How many notifications met which fate. Each duplicate is counted on its own, except in `made`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotificationCounts {
    /// Made, each once however often it is sent.
    pub made: u64,
    /// Copies made by the duplicates dial.
    pub duplicates: u64,
    /// Sent, every attempt counted.
    pub sent: u64,
    /// Answered with 2xx.
    pub acknowledged: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Given up after the last retry.
    pub dropped: u64,
}

/// One portal's notifications.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    fresh: BTreeMap<(Duration, u64), Made>,
    retries: BTreeMap<(Duration, u64), Parcel>,
    sequence: u64,
    pub(crate) in_flight: usize,
    pub(crate) counts: NotificationCounts,
    pub(crate) acknowledged: VecDeque<Acknowledged>,
    /// Serial and failed attempts of those that were given up.
    pub(crate) dropped: VecDeque<u64>,
}

impl Outbox {
    /// Adds a notification, as the dials have it.
    pub(crate) fn add(
        &mut self,
        body: Map<String, Value>,
        now: Duration,
        dials: &Dials,
        random: &mut Random,
    ) {
        let made = Made {
            serial: self.counts.made,
            body,
        };
        self.counts.made += 1;
        let spread = Duration::ZERO..=dials.late_by;
        if random.chance(dials.duplicates) {
            self.counts.duplicates += 1;
            let due = now + random.duration(&spread);
            self.queue(due, made.clone());
        }
        let mut due = now;
        if random.chance(dials.late) {
            due += dials.late_by;
        } else if random.chance(dials.reordering) {
            due += random.duration(&spread);
        }
        self.queue(due, made);
    }

    /// What is due, up to `batch_max` notifications; a retry keeps its batch.
    pub(crate) fn take(&mut self, now: Duration, batch_max: usize) -> Option<Parcel> {
        let parcel = self
            .take_retry(now)
            .or_else(|| self.take_fresh(now, batch_max))?;
        self.in_flight += 1;
        self.counts.sent += len(&parcel);
        Some(parcel)
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let fresh = self.fresh.keys().next().map(|(due, _)| *due);
        let retry = self.retries.keys().next().map(|(due, _)| *due);
        fresh.into_iter().chain(retry).min()
    }

    /// The target took it.
    pub(crate) fn succeed(&mut self, parcel: Parcel) {
        self.in_flight -= 1;
        self.counts.acknowledged += len(&parcel);
        let attempt = parcel.attempt;
        for made in parcel.notifications {
            let notification = with_attempt(made.body, attempt);
            self.acknowledged.push_back(Acknowledged {
                serial: made.serial,
                attempt,
                notification,
            });
        }
        let surplus = self.acknowledged.len().saturating_sub(ACKNOWLEDGED_MAX);
        self.acknowledged.drain(..surplus);
    }

    /// The target did not take it: again at `retry_at`, or never.
    pub(crate) fn fail(&mut self, parcel: Parcel, retry_at: Duration, retries_max: u32) {
        self.in_flight -= 1;
        self.counts.failed += len(&parcel);
        if parcel.attempt >= retries_max {
            self.counts.dropped += len(&parcel);
            self.dropped
                .extend(parcel.notifications.iter().map(|made| made.serial));
            let surplus = self.dropped.len().saturating_sub(ACKNOWLEDGED_MAX);
            self.dropped.drain(..surplus);
            return;
        }
        self.sequence += 1;
        self.retries.insert(
            (retry_at, self.sequence),
            Parcel {
                attempt: parcel.attempt + 1,
                ..parcel
            },
        );
    }

    /// Nothing waits and nothing is on its way.
    pub(crate) fn is_settled(&self) -> bool {
        self.fresh.is_empty() && self.retries.is_empty() && self.in_flight == 0
    }

    fn queue(&mut self, due: Duration, made: Made) {
        self.sequence += 1;
        self.fresh.insert((due, self.sequence), made);
    }

    fn take_retry(&mut self, now: Duration) -> Option<Parcel> {
        let first = self.retries.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn take_fresh(&mut self, now: Duration, batch_max: usize) -> Option<Parcel> {
        let mut notifications = Vec::new();
        while notifications.len() < batch_max.max(1)
            && let Some(first) = self.fresh.first_entry()
            && first.key().0 <= now
        {
            notifications.push(first.remove());
        }
        (!notifications.is_empty()).then_some(Parcel {
            attempt: 0,
            notifications,
        })
    }
}

/// The notification as it goes on the wire.
pub(crate) fn with_attempt(mut body: Map<String, Value>, attempt: u32) -> Value {
    body.insert("attemptNumber".to_owned(), Value::from(attempt));
    Value::Object(body)
}

fn len(parcel: &Parcel) -> u64 {
    u64::try_from(parcel.notifications.len()).expect("a batch is small")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn outbox(count: usize, dials: &Dials) -> Outbox {
        let (mut outbox, mut random) = (Outbox::default(), Random::new(1, 1));
        (0..count).for_each(|_| outbox.add(Map::new(), NOW, dials, &mut random));
        outbox
    }

    #[test]
    fn a_batch_holds_no_more_than_it_may() {
        let mut outbox = outbox(250, &Dials::default());
        let sizes: Vec<usize> = std::iter::from_fn(|| outbox.take(NOW, 100))
            .map(|parcel| parcel.notifications.len())
            .collect();
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[test]
    fn a_failed_batch_comes_again_with_a_higher_attempt_until_it_is_given_up() {
        let mut outbox = outbox(2, &Dials::default());
        for attempt in 0..=3 {
            let parcel = outbox.take(NOW, 100).unwrap();
            assert_eq!(parcel.attempt, attempt);
            assert!(!outbox.is_settled());
            outbox.fail(parcel, NOW, 3);
        }
        assert!(outbox.is_settled());
        assert_eq!(
            (
                outbox.counts.sent,
                outbox.counts.failed,
                outbox.counts.dropped
            ),
            (8, 8, 2)
        );
    }

    #[test]
    fn duplicates_share_their_serial() {
        let mut outbox = outbox(
            1,
            &Dials {
                duplicates: 1.0,
                ..Dials::default()
            },
        );
        let parcel = outbox.take(NOW, 100).unwrap();
        assert_eq!(
            parcel
                .notifications
                .iter()
                .map(|made| made.serial)
                .collect::<Vec<_>>(),
            [0, 0]
        );
    }

    #[test]
    fn a_late_one_waits_its_time() {
        let late_by = Duration::from_secs(9);
        let mut outbox = outbox(
            1,
            &Dials {
                late: 1.0,
                late_by,
                ..Dials::default()
            },
        );
        assert!(outbox.take(NOW, 100).is_none());
        assert_eq!(outbox.next_due(), Some(NOW + late_by));
        assert!(outbox.take(NOW + late_by, 100).is_some());
    }
}
