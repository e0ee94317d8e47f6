//! Takes dead letters in their order, without settling any, and hands them back to where they were.
//!
//! A broker shows a message only to who takes it, and takes back what a channel that closes had in hand, in order and in
//! front of all others. So a walk holds what it has seen until its end. What the broker pushes at once stays small by taking
//! many consumers, each for a few letters; none has room for one more, or it would be given what another hands back.
//!
//! What one holds nobody else sees: only who has the [`Claim`] takes letters, and keeps it until all are back.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::bus::{Bus, BusUnavailable, Claim, Consumed, Consumer, Message, Queue, Unsettled};

/// The most letters that are held at once. Those behind are not seen.
pub const HELD_MAX: usize = 50_000;
/// When no letter comes for so long, others took them, or the bus is in trouble.
const QUIET: Duration = Duration::from_secs(5);
/// How often a claim that somebody else has is asked for again.
const CLAIM_INTERVAL: Duration = Duration::from_millis(200);
/// How long to wait until the bus has taken back what was held.
const BACK_MAX: Duration = Duration::from_secs(5);
/// How often that is looked at.
const BACK_INTERVAL: Duration = Duration::from_millis(20);

/// Why the dead letters cannot be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// The bus is away.
    #[error("the bus is not available; try again, since nothing was taken away")]
    Unavailable,
    /// Another walk, or the search for an erased record, is at it.
    #[error("somebody else is going through the dead letters; try again in a moment")]
    Busy,
}

impl From<BusUnavailable> for WalkError {
    fn from(_: BusUnavailable) -> Self {
        Self::Unavailable
    }
}

/// The claim to the dead letters; `None` when somebody else has it for as long as `patience`.
///
/// # Errors
/// [`BusUnavailable`] when the bus cannot be asked.
pub async fn claimed(bus: &dyn Bus, patience: Duration) -> Result<Option<Claim>, BusUnavailable> {
    let until = Instant::now() + patience;
    loop {
        let claim = bus.claim_dead_letters().await?;
        if claim.is_some() || Instant::now() >= until {
            return Ok(claim);
        }
        sleep(CLAIM_INTERVAL).await;
    }
}

/// One way through the dead letters.
pub(crate) struct Walk<'b> {
    bus: &'b dyn Bus,
    claim: Claim,
    /// Each with how many letters it brought.
    consumers: Vec<(Consumer, usize)>,
    /// How many the last of them is still to bring.
    coming: usize,
    /// What was taken, by its place.
    held: Vec<Unsettled>,
    /// How many are still to be taken.
    left: usize,
    depth: u64,
}

impl<'b> Walk<'b> {
    /// Begins at the front. `patience` is for somebody else who is at it.
    pub(crate) async fn begin(bus: &'b dyn Bus, patience: Duration) -> Result<Self, WalkError> {
        let claim = claimed(bus, patience).await?.ok_or(WalkError::Busy)?;
        let depth = bus.depth(Queue::DeadLetters).await?;
        Ok(Self {
            bus,
            claim,
            consumers: Vec::new(),
            coming: 0,
            held: Vec::new(),
            left: usize::try_from(depth).unwrap_or(usize::MAX).min(HELD_MAX),
            depth,
        })
    }

    /// How many letters there were at the beginning.
    pub(crate) fn depth(&self) -> usize {
        usize::try_from(self.depth).unwrap_or(usize::MAX)
    }

    /// How many were taken so far.
    pub(crate) fn taken(&self) -> usize {
        self.held.len()
    }

    /// The next letter, with its place; `None` when there are no more.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, Message)>, WalkError> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.coming == 0 {
            self.coming = self.left.min(usize::from(self.claim.window()));
            let prefetch = u16::try_from(self.coming).unwrap_or(u16::MAX);
            let consumer = self.bus.consume(Queue::DeadLetters, prefetch);
            self.consumers.push((consumer, 0));
        }
        let Some((consumer, taken)) = self.consumers.last_mut() else {
            return Ok(None);
        };
        match timeout(QUIET, consumer.next()).await {
            Ok(Some(Consumed::Delivery(delivery))) => {
                *taken += 1;
                self.coming -= 1;
                self.left -= 1;
                self.held.push(delivery.unsettled);
                Ok(Some((self.held.len() - 1, delivery.message)))
            }
            Ok(Some(Consumed::Lost) | None) => Err(WalkError::Unavailable),
            Err(_) => {
                self.left = 0;
                Ok(None)
            }
        }
    }

    /// Takes the letters at the places `gone` away for good, and hands back the others. They keep their order if none goes; else a
    /// consumer that has lost one is given what another hands back, and some come to stand behind others.
    pub(crate) async fn end(mut self, gone: &BTreeSet<usize>) {
        let left = Vec::from_iter((0..self.held.len()).filter(|place| !gone.contains(place)));
        for (place, unsettled) in self.held.drain(..).enumerate() {
            if gone.contains(&place) {
                unsettled.ack();
            } else {
                unsettled.abandon();
            }
        }
        let mut back = self.depth.saturating_sub(u64_of(left.len() + gone.len()));
        let (mut first, mut waits) = (0, true);
        for (consumer, taken) in std::mem::take(&mut self.consumers) {
            let of_it = first..first + taken;
            first = of_it.end;
            consumer.close().await;
            back += u64_of(left.iter().filter(|place| of_it.contains(*place)).count());
            // Where others take letters too, they are not all to be seen again.
            waits = waits && self.is_back(back).await;
        }
    }

    /// Whether there are so many letters again, or soon. The bus takes back what a consumer held a moment after it was closed: who
    /// counts before would miss it, and what the next consumer held might be back sooner.
    async fn is_back(&self, depth: u64) -> bool {
        let until = Instant::now() + BACK_MAX;
        while Instant::now() < until {
            match self.bus.depth(Queue::DeadLetters).await {
                Ok(found) if found < depth => sleep(BACK_INTERVAL).await,
                found => return found.is_ok(),
            }
        }
        false
    }
}

fn u64_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl Drop for Walk<'_> {
    /// What is held comes again.
    fn drop(&mut self) {
        self.held.drain(..).for_each(Unsettled::abandon);
    }
}
