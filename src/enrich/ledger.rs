//! The ledger: how events ended, for every destination.
//!
//! Every event has two *halves*: destinations take it enriched, or as it is. A half ends once, and then for every destination
//! of its kind in one way. What ended between two notes is added up by portal and written with the note, so that the
//! figures are as durable as the fact that the event ended, and move with the partition.
//!
//! An event that has not ended when it is a moment old is noted as having arrived. So whoever reads the notes
//! ([`crate::audit`]) knows what is still open, and can ask where it is.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::config::DestinationContent;
use crate::event::{EventId, IdentityHasher, Millis, PortalId};

use super::changelog::NOTE_DELAY;
use super::protocol::{Copied, Ending, Published};

/// An [`EventId::digest`].
pub type EventDigest = [u8; 16];

/// What stands for the plain half of an event among those that ended.
#[must_use]
pub fn plain_half(event: EventDigest) -> EventDigest {
    let mut hasher = IdentityHasher::new("plain");
    hasher.field(&hex::encode(event));
    hasher.digest()
}

/// A half of an event: what destinations take of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// With its record.
    Enriched,
    /// As it is.
    Plain,
}

/// How an event, or a part of it, ended for every destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Destinations with a copy of their own, by their places.
    copies: BTreeMap<usize, Ending>,
    /// All others.
    others: Ending,
}

/// What ended, and what arrived, of one portal's events in one note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Whose events these are.
    pub portal_id: PortalId,
    /// Events that were still open when the note was written, each told once.
    pub arrived: Vec<EventDigest>,
    /// Events that ended.
    pub ended: Vec<EventDigest>,
    /// Hashes of plain halves that ended before the rest of their events.
    pub ended_plain: Vec<EventDigest>,
    /// Plain halves that ended, those of `ended` and of `ended_plain` together.
    pub plain_halves: u32,
    /// Copies of events that had ended, or were under way.
    pub duplicates: u32,
    /// How many halves ended how for whom, where that is not none.
    pub counts: Vec<Count>,
}

/// So many events ended so for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Its place among the note's destinations.
    pub destination: u16,
    /// How.
    pub ending: Ending,
    /// How many.
    pub events: u32,
}

/// A destination that a note counts for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Its name in the configuration.
    pub name: String,
    /// Whether it takes events as they are.
    pub plain: bool,
}

/// What is to be noted by the next note, by portal.
#[derive(Debug)]
pub struct Ledger {
    destinations: Vec<Counted>,
    tallies: Tallies,
    /// Events that came a moment ago, oldest first. Some have ended; the oldest has not.
    young: VecDeque<(Millis, EventDigest)>,
    /// Those of them that have not.
    open: HashMap<EventDigest, PortalId>,
}

/// Tallies by portal.
pub type Tallies = BTreeMap<PortalId, Tally>;

impl Fate {
    /// The same for all.
    pub fn of_all(ending: Ending) -> Self {
        Self {
            copies: BTreeMap::new(),
            others: ending,
        }
    }

    /// What became of the event `id` by what was published.
    pub fn of(id: &EventId, published: &Published) -> Self {
        match published {
            Published::Copies(copies) => {
                let ending = |copy: &Copied| Some((copy.destination, copy.ending_of(id)?));
                Self {
                    copies: copies.iter().filter_map(ending).collect(),
                    others: Ending::Unwanted,
                }
            }
            Published::Buried => Self::of_all(Ending::Dead),
            Published::Searched => Self::of_all(Ending::Unwanted),
        }
    }

    /// For the destination at a place.
    pub fn ending_for(&self, destination: usize) -> Ending {
        self.copies
            .get(&destination)
            .copied()
            .unwrap_or(self.others)
    }

    /// Of the event as a whole: delivered when anybody has a copy.
    pub fn whole(&self) -> Ending {
        let has_copy = |ending: &Ending| matches!(ending, Ending::Delivered | Ending::Merged);
        let of_copies = match self.copies.values().any(has_copy) {
            true => Some(Ending::Delivered),
            false => self.copies.values().copied().max(),
        };
        of_copies.map_or(self.others, |ending| ending.max(self.others))
    }

    /// Together with another part of the same event: for each destination what is worse.
    pub fn and(self, other: &Self) -> Self {
        let places = self.copies.keys().chain(other.copies.keys());
        let worse = |place: &usize| {
            let ending = self.ending_for(*place).max(other.ending_for(*place));
            (*place, ending)
        };
        Self {
            copies: places.map(worse).collect(),
            others: self.others.max(other.others),
        }
    }
}

impl Tally {
    /// Nothing of a portal.
    pub fn new(portal_id: PortalId) -> Self {
        Self {
            portal_id,
            arrived: Vec::new(),
            ended: Vec::new(),
            ended_plain: Vec::new(),
            plain_halves: 0,
            duplicates: 0,
            counts: Vec::new(),
        }
    }

    /// One more half ended so.
    fn count(&mut self, destination: usize, ending: Ending, events: u32) {
        let destination = u16::try_from(destination).unwrap_or(u16::MAX);
        let same = |one: &&mut Count| one.destination == destination && one.ending == ending;
        match self.counts.iter_mut().find(same) {
            Some(count) => count.events += events,
            None => self.counts.push(Count {
                destination,
                ending,
                events,
            }),
        }
    }

    /// Takes in what came later.
    pub fn add(&mut self, later: Self) {
        self.arrived.extend(later.arrived);
        self.ended.extend(later.ended);
        self.ended_plain.extend(later.ended_plain);
        self.plain_halves += later.plain_halves;
        self.duplicates += later.duplicates;
        for count in later.counts {
            self.count(usize::from(count.destination), count.ending, count.events);
        }
    }

    /// How many events it names.
    pub fn events(&self) -> usize {
        self.arrived.len() + self.ended.len() + self.ended_plain.len()
    }

    /// Whether for each of `destinations` the endings add up to the halves that ended.
    #[must_use]
    pub fn adds_up(&self, destinations: &[Counted]) -> bool {
        let is_known = |count: &Count| usize::from(count.destination) < destinations.len();
        self.counts.iter().all(is_known)
            && destinations.iter().enumerate().all(|(place, counted)| {
                let halves = match counted.plain {
                    true => u64::from(self.plain_halves),
                    false => self.ended.len() as u64,
                };
                let of_it = |count: &&Count| usize::from(count.destination) == place;
                let counts = self.counts.iter().filter(of_it);
                counts.map(|count| u64::from(count.events)).sum::<u64>() == halves
            })
    }
}

impl Ledger {
    /// For these destinations, in the order in which copies name them.
    pub fn new<'d>(destinations: impl Iterator<Item = (&'d str, DestinationContent)>) -> Self {
        let counted = |(name, content): (&str, DestinationContent)| Counted {
            name: name.to_owned(),
            plain: content == DestinationContent::Event,
        };
        Self {
            destinations: destinations.map(counted).collect(),
            tallies: Tallies::new(),
            young: VecDeque::new(),
            open: HashMap::new(),
        }
    }

    /// Whom it counts for.
    pub fn destinations(&self) -> &[Counted] {
        &self.destinations
    }

    /// An event came that has not ended, and of which no note tells.
    pub fn arrived(&mut self, portal_id: &PortalId, event: EventDigest, now: Millis) {
        if self.open.insert(event, portal_id.clone()).is_none() {
            self.young.push_back((now, event));
        }
    }

    /// An event ended. `plain` is `None` when its plain half had ended before.
    pub fn ended(
        &mut self,
        portal_id: &PortalId,
        event: EventDigest,
        enriched: &Fate,
        plain: Option<&Fate>,
    ) {
        self.open.remove(&event);
        self.skip_ended();
        self.count(portal_id, Half::Enriched, enriched);
        if let Some(plain) = plain {
            self.count(portal_id, Half::Plain, plain);
        }
        tally_of(&mut self.tallies, portal_id).ended.push(event);
    }

    /// The plain half of an event ended before the rest. `half` is the hash of it.
    pub fn plain_ended(&mut self, portal_id: &PortalId, half: EventDigest, fate: &Fate) {
        self.count(portal_id, Half::Plain, fate);
        tally_of(&mut self.tallies, portal_id)
            .ended_plain
            .push(half);
    }

    /// One more copy of an event came, which had ended or was under way.
    pub fn duplicate(&mut self, portal_id: &PortalId) {
        tally_of(&mut self.tallies, portal_id).duplicates += 1;
    }

    fn count(&mut self, portal_id: &PortalId, half: Half, fate: &Fate) {
        let is_plain = half == Half::Plain;
        let Self {
            destinations,
            tallies,
            ..
        } = self;
        let tally = tally_of(tallies, portal_id);
        tally.plain_halves += u32::from(is_plain);
        let places = destinations.iter().enumerate();
        for (place, _) in places.filter(|(_, counted)| counted.plain == is_plain) {
            tally.count(place, fate.ending_for(place), 1);
        }
    }

    /// When the oldest of the young events becomes old enough to be noted as having arrived.
    pub fn due(&self) -> Option<Millis> {
        let oldest = self.young.front();
        oldest.map(|(since, _)| since.after(NOTE_DELAY))
    }

    fn skip_ended(&mut self) {
        while let Some((_, event)) = self.young.front()
            && !self.open.contains_key(event)
        {
            self.young.pop_front();
        }
    }

    /// What there is to note since this was asked last: what ended, and what came a moment ago and is still open. Returns
    /// the events of the latter as well.
    pub fn take(&mut self, now: Millis) -> (Tallies, Vec<EventDigest>) {
        let mut old = Vec::new();
        while let Some((since, event)) = self.young.front().copied()
            && since.after(NOTE_DELAY) <= now
        {
            self.young.pop_front();
            if let Some(portal_id) = self.open.remove(&event) {
                tally_of(&mut self.tallies, &portal_id).arrived.push(event);
                old.push(event);
            }
        }
        self.skip_ended();
        (std::mem::take(&mut self.tallies), old)
    }
}

fn tally_of<'t>(tallies: &'t mut Tallies, portal_id: &PortalId) -> &'t mut Tally {
    let new = || Tally::new(portal_id.clone());
    tallies.entry(portal_id.clone()).or_insert_with(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::IdentityHasher;

    fn id(text: &str) -> EventId {
        IdentityHasher::new(text).finish()
    }

    fn at(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    fn ledger() -> Ledger {
        let destinations = [
            ("first", DestinationContent::Enriched),
            ("plain", DestinationContent::Event),
            ("second", DestinationContent::Enriched),
        ];
        Ledger::new(destinations.into_iter())
    }

    fn copy(destination: usize, listed: &[&EventId], is_dead: bool) -> Copied {
        Copied {
            destination,
            listed: listed.iter().copied().cloned().collect(),
            is_dead,
        }
    }

    #[test]
    fn the_first_of_a_copy_is_delivered_and_the_others_are_merged() {
        let (a, b, c) = (id("a"), id("b"), id("c"));
        let copies = vec![copy(0, &[&a, &b], false), copy(2, &[&b], true)];
        let published = Published::Copies(copies);
        let of = |id| {
            let fate = Fate::of(id, &published);
            (fate.ending_for(0), fate.ending_for(2), fate.whole())
        };
        use Ending::{Dead, Delivered, Merged, Unwanted};
        assert_eq!(of(&a), (Delivered, Unwanted, Delivered));
        assert_eq!(of(&b), (Merged, Dead, Delivered));
        assert_eq!(of(&c), (Unwanted, Unwanted, Unwanted));
    }

    #[test]
    fn of_two_parts_the_worse_counts_for_each_destination() {
        let a = id("a");
        let delivered = Fate::of(&a, &Published::Copies(vec![copy(0, &[&a], false)]));
        let both = delivered.clone().and(&Fate::of(&a, &Published::Searched));
        assert_eq!(both, delivered.clone().and(&delivered));
        let dead = delivered.and(&Fate::of(&a, &Published::Buried));
        assert_eq!(
            (dead.ending_for(0), dead.ending_for(2)),
            (Ending::Dead, Ending::Dead)
        );
        assert_eq!(dead.whole(), Ending::Dead);
    }

    #[test]
    fn each_half_is_counted_once_for_each_destination_of_its_kind() {
        let mut ledger = ledger();
        let portal = PortalId::from("8241");
        let unwanted = Fate::of_all(Ending::Unwanted);
        ledger.ended(&portal, [1; 16], &unwanted, Some(&unwanted));
        ledger.plain_ended(&portal, [9; 16], &Fate::of_all(Ending::Delivered));
        ledger.ended(&portal, [2; 16], &Fate::of_all(Ending::Purged), None);
        let (tallies, _) = ledger.take(at(0));
        let tally = &tallies[&portal];
        assert!(tally.adds_up(ledger.destinations()));
        assert_eq!((tally.ended.len(), tally.plain_halves), (2, 2));
        let mut short = tally.clone();
        short.counts.pop();
        assert!(!short.adds_up(ledger.destinations()));
        assert!(
            !tally.adds_up(&ledger.destinations()[..2]),
            "a count for nobody"
        );
    }

    #[test]
    fn an_event_is_told_of_when_it_is_open_for_a_moment_and_once() {
        let mut ledger = ledger();
        let portal = PortalId::from("8241");
        let unwanted = Fate::of_all(Ending::Unwanted);
        ledger.arrived(&portal, [1; 16], at(0));
        ledger.arrived(&portal, [2; 16], at(10));
        ledger.arrived(&portal, [2; 16], at(20));
        ledger.ended(&portal, [1; 16], &unwanted, Some(&unwanted));
        assert_eq!(ledger.due(), Some(at(1_010)));
        let (tallies, old) = ledger.take(at(1_009));
        assert!(old.is_empty() && tallies[&portal].arrived.is_empty());
        let (tallies, old) = ledger.take(at(1_010));
        assert_eq!(
            (old, &tallies[&portal].arrived),
            (vec![[2; 16]], &vec![[2; 16]])
        );
        assert_eq!(ledger.due(), None);
    }
}
