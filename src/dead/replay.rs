//! Replays: each letter leaves the queue when all that its replay publishes is confirmed.
//!
//! It is taken away at the end of the walk. After a crash in between it lies there still; replayed again, it is recognised by
//! the engine, since the mark of a replay is made of the letter.

use std::collections::BTreeSet;

use crate::bus::{MESSAGE_BYTES_MAX, Outgoing};
use crate::event::Millis;

use super::kept::{Filter, Kept};
use super::plan::{Pieces, Plan, Stays, Terms, plan};
use super::walk::{Walk, WalkError};
use super::{DeadLetters, Fate, Outcome, PATIENCE, Report};

/// The most letters that one call replays.
pub const REPLAYED_MAX: usize = 1_000;
/// Messages published in one go.
const GROUP_MAX: usize = 64;
/// The bytes of these, give or take the last letter.
const GROUP_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// One call, under way.
struct Run<'d> {
    dead: &'d DeadLetters,
    terms: Terms,
    report: Report,
    /// The place of each letter of the report.
    places: Vec<usize>,
    pieces: Pieces,
    /// What is ready to be published.
    group: Vec<Ready>,
    /// Letters to take away.
    gone: BTreeSet<usize>,
}

/// What is published for letters at these places.
struct Ready {
    places: Vec<usize>,
    reason: &'static str,
    plan: Plan,
}

impl DeadLetters {
    /// Replays the letters that `filter` matches, at most `limit` of them, or only tells what would be done, where it is a
    /// `dry_run`.
    ///
    /// # Errors
    /// Every variant of [`WalkError`]; some may have been replayed, and lie there still. To replay them again is harmless.
    pub async fn replay(
        &self,
        filter: &Filter,
        limit: usize,
        dry_run: bool,
    ) -> Result<Report, WalkError> {
        let mut walk = Walk::begin(&*self.bus, PATIENCE).await?;
        let mut run = Run::new(self, dry_run);
        while run.places.len() < limit.min(REPLAYED_MAX)
            && let Some((place, message)) = walk.next().await?
        {
            let kept = Kept::read(&message);
            if filter.matches(&kept) {
                run.take(place, &kept);
            }
            if run.is_due() {
                run.publish().await;
            }
        }
        run.publish().await;
        for (place, stays) in std::mem::take(&mut run.pieces).rest() {
            run.end(place, Err(stays));
        }
        let mut report = run.report;
        report.extent.matched = report.letters.len();
        report.extent.of(&walk);
        walk.end(&run.gone).await;
        if !dry_run && report.done > 0 {
            let filter = serde_json::to_string(filter).unwrap_or_default();
            let (letters, stay) = (report.done, report.letters.len() - report.done);
            tracing::info!(letters, stay, filter, "dead letters were replayed");
        }
        Ok(report)
    }
}

impl<'d> Run<'d> {
    fn new(dead: &'d DeadLetters, dry_run: bool) -> Self {
        Self {
            dead,
            terms: Terms {
                now: Millis::now(),
                partitions: dead.bus.partitions(),
                destinations: dead.destinations.clone(),
            },
            report: Report {
                dry_run,
                ..Report::default()
            },
            places: Vec::new(),
            pieces: Pieces::default(),
            group: Vec::new(),
            gone: BTreeSet::new(),
        }
    }

    fn take(&mut self, place: usize, kept: &Kept) {
        self.places.push(place);
        self.report.letters.push(Outcome {
            letter: kept.summary(),
            outcome: Fate::Stays,
            what: String::new(),
        });
        let letter = kept.letter();
        let Some(letter) = letter.filter(|letter| letter.part.is_some()) else {
            self.make_ready(vec![place], kept);
            return;
        };
        match self.pieces.take(place, letter) {
            Ok(None) => {}
            Ok(Some((places, whole))) => self.make_ready(places, &whole),
            Err(stays) => self.end(place, Err(stays)),
        }
    }

    fn make_ready(&mut self, places: Vec<usize>, kept: &Kept) {
        match plan(kept, &self.terms) {
            Ok(plan) => self.group.push(Ready {
                places,
                reason: kept.reason(),
                plan,
            }),
            Err(stays) => places
                .into_iter()
                .for_each(|place| self.end(place, Err(stays.clone()))),
        }
    }

    fn is_due(&self) -> bool {
        let all = || self.group.iter().flat_map(|ready| &ready.plan.outgoing);
        let bytes: usize = all().map(|one| one.message.body.len()).sum();
        all().count() >= GROUP_MAX || bytes >= GROUP_BYTES_MAX
    }

    /// Publishes what is ready.
    async fn publish(&mut self) {
        let group = std::mem::take(&mut self.group);
        let outgoing: Vec<Outgoing> = group
            .iter()
            .flat_map(|ready| ready.plan.outgoing.iter().cloned())
            .collect();
        let mut verdicts = match self.report.dry_run {
            true => vec![Ok(()); outgoing.len()],
            false if outgoing.is_empty() => Vec::new(),
            false => self.dead.bus.publish(outgoing).await,
        }
        .into_iter();
        for Ready {
            places,
            reason,
            plan,
        } in group
        {
            let of_letter = verdicts.by_ref().take(plan.outgoing.len());
            let failed = of_letter.filter_map(Result::err).last();
            if failed.is_none() && !self.report.dry_run {
                let replayed = &self.dead.metrics.dead_letters_replayed_total;
                let letters = u64::try_from(places.len()).unwrap_or(u64::MAX);
                replayed.with_label_values(&[reason]).inc_by(letters);
                self.gone.extend(&places);
            }
            for place in places {
                let ended = match failed {
                    None => Ok(plan.what.clone()),
                    Some(error) => Err(Stays(format!("{error}; replay it again"))),
                };
                self.end(place, ended);
            }
        }
    }

    /// What became of the letter at `place`.
    fn end(&mut self, place: usize, ended: Result<String, Stays>) {
        let index = self.places.binary_search(&place);
        let outcome = index
            .ok()
            .and_then(|index| self.report.letters.get_mut(index));
        let Some(outcome) = outcome else {
            return;
        };
        match ended {
            Ok(what) => {
                self.report.done += 1;
                outcome.outcome = Fate::Replayed;
                outcome.what = what;
            }
            Err(Stays(why)) => outcome.what = why,
        }
    }
}
