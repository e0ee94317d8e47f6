//! Takes what is about erased records out of the dead letters.
//!
//! Engines ask for it over the queue `crm.erasures`, which one worker at a time consumes. A *pass* takes every dead letter
//! once, and puts it back at the end of the queue, as it was or without what is about an erased record. It is
//! put back and confirmed before it is taken away, so a crash makes a double at worst, under the same id. What was asked
//! for is acknowledged after the pass; whoever takes over after a crash is asked again.
//!
//! Engines ask when all that they published about the record in its lane is confirmed, and again when what else was on its
//! way is, so a pass that begins later sees it. A pass has the claim to the dead letters, so that no operator's walk holds
//! letters that it would miss ([`crate::dead`]).

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::bus::{
    BusUnavailable, Consumed, Consumer, Delivery, Message, Outgoing, PublishError, Queue, Target,
    Unsettled,
};
use crate::dead::{Content, Kept, claimed};
use crate::event::{Batch, DeadLetter, Erased, Erasure, Searched};

use super::parts::Parts;

/// The most erasures that share a pass.
const ERASURES_MAX: u16 = 1_000;
/// Wait for more erasures before a pass, at least. Meanwhile what a worker that died had in hand is back in its queue.
const GATHER_MIN: Duration = Duration::from_secs(2);
/// See [`GATHER_MIN`]. In between it waits for as long as the last pass took, so that it works half of the time at most.
const GATHER_MAX: Duration = Duration::from_secs(300);
/// The most dead letters in hand; each has at most 8 MiB.
const LETTERS_MAX: u16 = 32;
/// How long a pass waits for an operator who goes through the letters.
const CLAIM_PATIENCE: Duration = Duration::from_secs(30);
/// When no letter comes for so long, others took them, or the bus is in trouble.
const QUIET: Duration = Duration::from_secs(5);

/// The one task of a worker that purges.
pub(super) struct Purge {
    parts: Arc<Parts>,
    erasures: Consumer,
    /// What was asked for and is not done, in the order it came.
    asked: Vec<Asked>,
    /// How long the last pass took.
    last_pass: Duration,
    stopping: CancellationToken,
}

/// An erasure that was asked for.
struct Asked {
    erasure: Erasure,
    unsettled: Unsettled,
    since: Instant,
}

/// What a pass did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    letters: usize,
    gone: usize,
    cut: usize,
    events: usize,
}

/// What becomes of a dead letter.
#[derive(Debug, PartialEq)]
enum Fate {
    /// It goes back as it was.
    Stays,
    /// It goes back with so many events less.
    Cut(Message, usize),
    /// It goes.
    Goes,
}

impl Purge {
    pub(super) fn new(parts: Arc<Parts>, stopping: CancellationToken) -> Self {
        Self {
            erasures: parts.bus.consume(Queue::Erasures, ERASURES_MAX),
            parts,
            asked: Vec::new(),
            last_pass: Duration::ZERO,
            stopping,
        }
    }

    /// Purges whenever it is asked to, until it is stopped or the bus is closed.
    pub(super) async fn run(mut self) {
        let stopping = self.stopping.clone();
        while let Some(true) = stopping.run_until_cancelled(self.gather()).await {
            self.purge().await;
        }
    }

    /// Waits until it is asked, and for more. `false` when the bus is closed.
    async fn gather(&mut self) -> bool {
        while self.asked.is_empty() {
            let Some(consumed) = self.erasures.next().await else {
                return false;
            };
            self.take(consumed);
        }
        let until = Instant::now() + self.last_pass.clamp(GATHER_MIN, GATHER_MAX);
        while let Ok(consumed) = timeout_at(until, self.erasures.next()).await {
            let Some(consumed) = consumed else {
                return false;
            };
            self.take(consumed);
        }
        true
    }

    fn take(&mut self, consumed: Consumed) {
        match consumed {
            Consumed::Delivery(Delivery {
                message, unsettled, ..
            }) => match serde_json::from_slice(&message.body) {
                Ok(erasure) => self.asked.push(Asked {
                    erasure,
                    unsettled,
                    since: Instant::now(),
                }),
                Err(_) => {
                    tracing::error!("a message of crm.erasures is no erasure; it is dropped");
                    unsettled.ack();
                }
            },
            Consumed::Lost => self.abandon(),
        }
    }

    /// A pass for all that was asked. If it does not get to its end, that is asked for still.
    async fn purge(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let mut erased = Erased::default();
        let asked = self.asked.iter().map(|one| one.erasure.clone());
        asked.for_each(|erasure| erased.add(erasure));
        self.show_wait();
        let begun = Instant::now();
        let passed = self.pass(&erased).await;
        self.last_pass = begun.elapsed();
        let duration_ms = u64::try_from(self.last_pass.as_millis()).unwrap_or(u64::MAX);
        match passed {
            Ok(Tally {
                letters,
                gone,
                cut,
                events,
            }) => {
                let erasures = self.asked.len();
                tracing::info!(
                    erasures,
                    letters,
                    gone,
                    cut,
                    events,
                    duration_ms,
                    "the dead letters were purged"
                );
                self.asked.drain(..).for_each(|one| one.unsettled.ack());
            }
            Err(BusUnavailable) => {
                tracing::warn!(
                    duration_ms,
                    "the dead letters are not purged yet; trying again"
                );
            }
        }
        self.show_wait();
    }

    fn show_wait(&self) {
        let oldest = self.asked.first().map(|one| one.since.elapsed());
        let seconds = oldest.unwrap_or_default().as_secs_f64();
        self.parts.metrics.erasures_oldest_seconds.set(seconds);
    }

    /// Takes as many letters as there are at the start.
    async fn pass(&self, erased: &Erased) -> Result<Tally, BusUnavailable> {
        let bus = &self.parts.bus;
        let claim = claimed(&**bus, CLAIM_PATIENCE);
        let claim = self.stopping.run_until_cancelled(claim).await;
        let claim = claim.ok_or(BusUnavailable)??.ok_or(BusUnavailable)?;
        let depth = bus.depth(Queue::DeadLetters).await?;
        let mut tally = Tally::default();
        if depth == 0 {
            return Ok(tally);
        }
        let mut letters = bus.consume(Queue::DeadLetters, LETTERS_MAX);
        let mut stuck = Vec::new();
        let left = usize::try_from(depth).unwrap_or(usize::MAX);
        let moved = self.move_letters(left, &mut letters, erased, &mut tally, &mut stuck);
        let moved = moved.await;
        stuck.into_iter().for_each(Unsettled::abandon);
        letters.close().await;
        if claim.is_lost() {
            return Err(BusUnavailable);
        }
        moved.map(|()| tally)
    }

    async fn move_letters(
        &self,
        mut left: usize,
        letters: &mut Consumer,
        erased: &Erased,
        tally: &mut Tally,
        stuck: &mut Vec<Unsettled>,
    ) -> Result<(), BusUnavailable> {
        while left > 0 {
            let taken = next_letters(letters, left.min(usize::from(LETTERS_MAX)));
            let taken = self.stopping.run_until_cancelled(taken).await;
            let taken = taken.ok_or(BusUnavailable)??;
            if taken.is_empty() {
                // What somebody else took is theirs.
                return match self.parts.bus.depth(Queue::DeadLetters).await? {
                    0 => Ok(()),
                    _ => Err(BusUnavailable),
                };
            }
            left -= taken.len();
            self.put_back(taken, erased, tally, stuck).await?;
        }
        Ok(())
    }

    /// Puts letters back, or what is left of them, and takes them away when that is confirmed.
    async fn put_back(
        &self,
        taken: Vec<Delivery>,
        erased: &Erased,
        tally: &mut Tally,
        stuck: &mut Vec<Unsettled>,
    ) -> Result<(), BusUnavailable> {
        let (mut kept, mut batch) = (Vec::new(), Vec::new());
        for delivery in taken {
            tally.letters += 1;
            let message = match fate(&delivery.message, erased) {
                Fate::Stays => delivery.message,
                Fate::Cut(message, events) => {
                    self.count(tally, "cut", events);
                    message
                }
                Fate::Goes => {
                    self.count(tally, "gone", 0);
                    delivery.unsettled.ack();
                    continue;
                }
            };
            let target = Target::KeptDeadLetters(delivery.routing_key);
            kept.push(delivery.unsettled);
            batch.push(Outgoing { target, message });
        }
        if batch.is_empty() {
            return Ok(());
        }
        let verdicts = self.parts.bus.publish(batch).await;
        let mut ended = Ok(());
        for (unsettled, verdict) in kept.into_iter().zip(verdicts) {
            match verdict {
                Ok(()) => unsettled.ack(),
                // Somebody else put it there. It stays where it is; in hand until the end, or it would come again at once.
                Err(PublishError::TooLarge) => stuck.push(unsettled),
                Err(_) => {
                    unsettled.hand_back();
                    ended = Err(BusUnavailable);
                }
            }
        }
        ended
    }

    fn count(&self, tally: &mut Tally, outcome: &str, events: usize) {
        let purged = &self.parts.metrics.dead_letters_purged_total;
        purged.with_label_values(&[outcome]).inc();
        match events {
            0 => tally.gone += 1,
            _ => tally.cut += 1,
        }
        tally.events += events;
    }

    /// Lets go of what was asked for: it comes again.
    fn abandon(&mut self) {
        for one in self.asked.drain(..) {
            one.unsettled.abandon();
        }
        self.show_wait();
    }
}

impl Drop for Purge {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// At most `count` letters; none when none comes for [`QUIET`].
async fn next_letters(
    letters: &mut Consumer,
    count: usize,
) -> Result<Vec<Delivery>, BusUnavailable> {
    let mut taken = Vec::new();
    let mut next = timeout(QUIET, letters.next()).await.ok();
    while let Some(Some(Consumed::Delivery(delivery))) = next {
        taken.push(delivery);
        if taken.len() == count {
            return Ok(taken);
        }
        next = letters.next().now_or_never();
    }
    if next.is_none() {
        return Ok(taken);
    }
    // The session broke, or the bus is closed: all of them are void.
    let void = taken.into_iter();
    void.for_each(|delivery| delivery.unsettled.abandon());
    Err(BusUnavailable)
}

/// What becomes of a message among the dead letters.
fn fate(message: &Message, erased: &Erased) -> Fate {
    match Kept::read(message).content {
        Content::Letter(letter) => outcome(message, erased.search(&letter), DeadLetter::encode),
        Content::Batch(batch) => outcome(message, erased.search_batch(&batch), Batch::encode),
        Content::Foreign => outcome(message, erased.search_raw(&message.body), Vec::clone),
    }
}

fn outcome<T>(message: &Message, searched: Searched<T>, encode: impl Fn(&T) -> Vec<u8>) -> Fate {
    match searched {
        Searched::Untouched => Fate::Stays,
        Searched::Gone => Fate::Goes,
        Searched::Cut(rest, events) => {
            let body = encode(&rest).into();
            let message = message.clone();
            Fate::Cut(Message { body, ..message }, events)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DEAD_LETTER_KIND, DeadLetterReason, Millis, Stage};

    fn erased() -> Erased {
        let mut erased = Erased::default();
        erased.add(Erasure {
            portal_id: "8241".into(),
            object_type_id: crate::event::ObjectTypeId::from_name("contact"),
            object_id: "512".into(),
            merged: Vec::new(),
        });
        erased
    }

    fn message(kind: &str, body: &[u8]) -> Message {
        Message {
            id: "id".to_owned(),
            content_type: "application/json".to_owned(),
            kind: kind.to_owned(),
            headers: Vec::new(),
            body: body.to_vec().into(),
        }
    }

    #[test]
    fn a_letter_is_judged_by_what_it_holds_and_anything_else_as_raw_content() {
        let at = Millis::default();
        let reason = DeadLetterReason::Unreadable;
        let letter = DeadLetter::new(Stage::Normalize, reason, "why".into(), at);
        let raw = br#"{"objectId":512,"propertyValue":"x"}"#;
        let letter = letter.with_raw(raw).encode();
        assert_eq!(
            fate(&message(DEAD_LETTER_KIND, &letter), &erased()),
            Fate::Goes
        );
        assert_eq!(fate(&message("theirs", raw), &erased()), Fate::Goes);
        for other in [&b"{}"[..], b"", b"\xff"] {
            assert_eq!(fate(&message("theirs", other), &erased()), Fate::Stays);
        }
        // A letter of a later version, which this one cannot read.
        assert_eq!(fate(&message(DEAD_LETTER_KIND, raw), &erased()), Fate::Goes);
    }
}
