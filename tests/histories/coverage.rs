//! What happened in how many histories: a fault that never struck was not tested.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What happened in one history.
#[derive(Default)]
pub struct Coverage {
    happened: BTreeSet<&'static str>,
    pub events: u64,
    pub steps: u64,
}

impl Coverage {
    pub fn note(&mut self, what: &'static str) {
        self.happened.insert(what);
    }

    pub fn note_if(&mut self, happened: bool, what: &'static str) {
        if happened {
            self.note(what);
        }
    }
}

/// What happened in many.
#[derive(Default)]
pub struct Total {
    pub histories: u64,
    pub events: u64,
    pub steps: u64,
    happened: BTreeMap<&'static str, u64>,
}

impl Total {
    pub fn add(&mut self, one: Coverage) {
        self.histories += 1;
        self.events += one.events;
        self.steps += one.steps;
        for what in one.happened {
            *self.happened.entry(what).or_default() += 1;
        }
    }

    pub fn join(&mut self, other: Self) {
        self.histories += other.histories;
        self.events += other.events;
        self.steps += other.steps;
        for (what, count) in other.happened {
            *self.happened.entry(what).or_default() += count;
        }
    }

    pub fn of(&self, what: &str) -> u64 {
        self.happened.get(what).copied().unwrap_or(0)
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            histories,
            events,
            steps,
            happened,
        } = self;
        writeln!(f, "{histories} histories, {events} events, {steps} steps")?;
        happened
            .iter()
            .try_for_each(|(what, count)| writeln!(f, "{count:>8}  {what}"))
    }
}
