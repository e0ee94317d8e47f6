//! Dead letters, for whoever operates the relay: listed, shown, replayed, discarded.
//!
//! - `kept`: what lies there, and which of it is asked for; `plan`: what a replay makes of it. Both pure;
//! - `walk`: through the queue and back, without changing it;
//! - [`DeadLetters`]: the four acts, over any bus; `replay`: the longest of them;
//! - [`api`]: the same over HTTP, of which `crm-relay dead` is a client;
//! - `room`: what a full destination did not take goes back to it when it has room.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bus::Bus;
use crate::config::Config;
use crate::metrics::Metrics;

pub mod api;
mod kept;
mod plan;
mod replay;
mod room;
mod walk;

#[cfg(test)]
mod tests;

pub use kept::{Content, Filter, Kept, Summary, reasons};
pub use replay::REPLAYED_MAX;
pub(crate) use room::GiveBack;
pub(crate) use walk::Walk;
pub use walk::{HELD_MAX, WalkError, claimed};

/// The most letters that are listed one by one; more are counted.
pub const LISTED_MAX: usize = 1_000;
/// How long to wait for somebody else who goes through the letters.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The dead letters of a bus.
pub struct DeadLetters {
    bus: Arc<dyn Bus>,
    /// The names of the destinations that there are.
    destinations: BTreeSet<String>,
    metrics: Arc<Metrics>,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Letters in the queue.
    pub kept: usize,
    /// Letters that were looked at, from the front: fewer when there are more than [`HELD_MAX`], when others have some in
    /// hand, or when enough were found.
    pub looked_at: usize,
    /// Letters that the filter matched.
    pub matched: usize,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// How much was looked at.
    #[serde(flatten)]
    pub extent: Extent,
    /// The first of those that matched.
    pub letters: Vec<Summary>,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Letters that were replayed or discarded, or would be.
    pub done: usize,
    /// How much was looked at.
    #[serde(flatten)]
    pub extent: Extent,
    /// What became of each; of those that were discarded the first [`LISTED_MAX`].
    pub letters: Vec<Outcome>,
}

/// What became of a letter, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The letter.
    #[serde(flatten)]
    pub letter: Summary,
    /// Whether it leaves the dead letters.
    pub outcome: Fate,
    /// What is done with it, or why it stays.
    pub what: String,
}

/// Whether a letter leaves the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It was replayed, or would be.
    Replayed,
    /// It was discarded, or would be.
    Discarded,
    /// It stays where it is.
    Stays,
}

impl DeadLetters {
    /// The dead letters of `bus`; replays are counted in `metrics`.
    #[must_use]
    pub fn new(config: &Config, bus: Arc<dyn Bus>, metrics: Arc<Metrics>) -> Self {
        Self {
            bus,
            destinations: config.destination.keys().cloned().collect(),
            metrics,
        }
    }

    /// The letters that `filter` matches, in their order, at most `limit` one by one.
    ///
    /// # Errors
    /// Every variant of [`WalkError`]; the letters are where they were.
    pub async fn list(&self, filter: &Filter, limit: usize) -> Result<Listing, WalkError> {
        let mut walk = Walk::begin(&*self.bus, PATIENCE).await?;
        let mut listing = Listing::default();
        while let Some((_, message)) = walk.next().await? {
            let kept = Kept::read(&message);
            if filter.matches(&kept) {
                listing.extent.matched += 1;
                if listing.letters.len() < limit {
                    listing.letters.push(kept.summary());
                }
            }
        }
        listing.extent.of(&walk);
        walk.end(&BTreeSet::new()).await;
        Ok(listing)
    }

    /// The letters of this id, whole: more than one when the same failed several times. Values of properties included.
    ///
    /// # Errors
    /// Every variant of [`WalkError`]; the letters are where they were.
    pub async fn show(&self, id: &str) -> Result<Vec<Value>, WalkError> {
        let mut walk = Walk::begin(&*self.bus, PATIENCE).await?;
        let mut found = Vec::new();
        while let Some((_, message)) = walk.next().await? {
            if message.id == id && found.len() < LISTED_MAX {
                found.push(Kept::read(&message).whole(&message));
            }
        }
        walk.end(&BTreeSet::new()).await;
        Ok(found)
    }

    /// Takes the letters that `filter` matches away for good, counted and logged with `because`; or only tells which,
    /// where it is a `dry_run`.
    ///
    /// # Errors
    /// Every variant of [`WalkError`]; the letters are where they were.
    pub async fn discard(
        &self,
        filter: &Filter,
        because: &str,
        dry_run: bool,
    ) -> Result<Report, WalkError> {
        let mut walk = Walk::begin(&*self.bus, PATIENCE).await?;
        let mut report = Report {
            dry_run,
            ..Report::default()
        };
        let (mut gone, mut reasons) = (BTreeSet::new(), Vec::new());
        while let Some((place, message)) = walk.next().await? {
            let kept = Kept::read(&message);
            if !filter.matches(&kept) {
                continue;
            }
            gone.insert(place);
            reasons.push(kept.reason());
            if report.letters.len() < LISTED_MAX {
                report.letters.push(Outcome {
                    letter: kept.summary(),
                    outcome: Fate::Discarded,
                    what: "it is gone for good".to_owned(),
                });
            }
        }
        report.done = gone.len();
        report.extent.matched = gone.len();
        report.extent.of(&walk);
        if dry_run {
            gone.clear();
        }
        walk.end(&gone).await;
        if !dry_run {
            let discarded = &self.metrics.dead_letters_discarded_total;
            for of in reasons {
                discarded.with_label_values(&[of]).inc();
            }
            let filter = serde_json::to_string(filter).unwrap_or_default();
            let letters = report.done;
            tracing::warn!(letters, filter, because, "dead letters were discarded");
        }
        Ok(report)
    }
}

impl Extent {
    fn of(&mut self, walk: &Walk<'_>) {
        self.kept = walk.depth();
        self.looked_at = walk.taken();
    }
}
