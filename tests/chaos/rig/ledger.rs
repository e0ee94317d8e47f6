//! What HubSpot was answered, and what became of it: twelve bytes a notification, so that millions fit.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Who gets what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Enriched events of all portals.
    All,
    /// Enriched events of one portal, on a queue that is soon full.
    Narrow,
    /// Plain events of one portal.
    Plain,
}

impl Destination {
    pub const EACH: [Self; 3] = [Self::All, Self::Narrow, Self::Plain];

    /// As in the configuration.
    pub fn name(self) -> &'static str {
        ["all", "narrow", "plain"][self as usize]
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::EACH.into_iter().find(|one| one.name() == name)
    }

    /// Whether it gets the events of this portal.
    pub fn wants(self, portal: u8) -> bool {
        match self {
            Self::All => true,
            Self::Narrow => portal == NARROW_PORTAL,
            Self::Plain => portal == PLAIN_PORTAL,
        }
    }

    fn seen(self) -> u16 {
        0b010 << (2 * self as u16)
    }

    fn dead(self) -> u16 {
        0b100 << (2 * self as u16)
    }
}

/// Portals are named by their place.
pub const NARROW_PORTAL: u8 = 1;
pub const PLAIN_PORTAL: u8 = 0;

const ANSWERED: u16 = 1;
/// Its record was erased, so it may end without coming out.
const ERASED: u16 = 1 << 7;

/// A portal's id, a contact and a company.
type Pair = (u64, u64, u64);

/// A notification: its number is its `eventId`, and the value that it says a property has now.
#[derive(Clone, Copy)]
struct Entry {
    /// Milliseconds after the beginning.
    made: u32,
    answered: u32,
    fate: u16,
    portal: u8,
    kind: u8,
}

/// Every notification that was made, by number, from 1 on.
pub struct Ledger {
    begun: Instant,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    all: Vec<Entry>,
    /// Those before it have ended everywhere.
    settled: usize,
    /// The newest that each portal's events brought to [`Destination::All`].
    newest: Vec<Option<u64>>,
    latest: Latest,
    /// Contacts that were merged away, by the ids of portal and contact, and [`Destination::All`] was not told of it;
    /// with the number of the merge.
    merged_away: HashMap<(u64, u64), u64>,
    /// The last change of an association: its number, and whether it is there since.
    associations: HashMap<(u64, u64), HashMap<u64, (u64, bool)>>,
}

/// A notification that was answered 2xx and has not come to a destination.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    pub number: u64,
    pub portal: u8,
    pub kind: u8,
    pub destination: Destination,
}

/// Of what came to [`Destination::All`], what took longest.
#[derive(Clone, Copy, Default)]
pub struct Latest {
    pub number: u64,
    pub portal: u8,
    pub kind: u8,
    /// From the change to the 2xx.
    pub answered_after: Duration,
    /// From the change to the destination.
    pub came_after: Duration,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            entries: Mutex::default(),
        }
    }
}

impl Ledger {
    /// A new notification of a portal, of one of [`super::people::KINDS`]: its number.
    pub fn make(&self, portal: u8, kind: u8) -> u64 {
        let made = self.now();
        let mut entries = self.entries.lock().unwrap();
        entries.all.push(Entry {
            made,
            answered: made,
            fate: 0,
            portal,
            kind,
        });
        entries.all.len() as u64
    }

    /// It was answered 2xx.
    pub fn answered(&self, number: u64) {
        let now = self.now();
        let mut entries = self.entries.lock().unwrap();
        let entry = &mut entries.all[number as usize - 1];
        if entry.fate & ANSWERED == 0 {
            entry.answered = now;
        }
        entry.fate |= ANSWERED;
    }

    /// Milliseconds after the beginning.
    fn now(&self) -> u32 {
        u32::try_from(self.begun.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    /// The record that these are of is erased for privacy.
    pub fn erased(&self, numbers: &[u64]) {
        let mut entries = self.entries.lock().unwrap();
        for number in numbers {
            entries.all[*number as usize - 1].fate |= ERASED;
        }
    }

    /// How many of erased records did not come out.
    pub fn silenced(&self) -> u64 {
        let entries = self.entries.lock().unwrap();
        let bits = ERASED | Destination::All.seen();
        let silenced = entries.all.iter().filter(|one| one.fate & bits == ERASED);
        silenced.count() as u64
    }

    /// A contact became another, by the merge of this number.
    pub fn merged_away(&self, portal_id: u64, contact: u64, number: u64) {
        let mut entries = self.entries.lock().unwrap();
        entries.merged_away.insert((portal_id, contact), number);
    }

    /// A destination was told that a contact became another.
    pub fn told_merged_away(&self, portal_id: u64, contact: u64, destination: Destination) {
        if destination == Destination::All {
            let mut entries = self.entries.lock().unwrap();
            entries.merged_away.remove(&(portal_id, contact));
        }
    }

    /// An association was made or taken away.
    pub fn associated(&self, pair: Pair, number: u64, there: bool) {
        let mut entries = self.entries.lock().unwrap();
        let contact = entries.associations.entry((pair.0, pair.1)).or_default();
        contact.insert(pair.2, (number, there));
    }

    /// What becomes of a contact's associations is not followed any more.
    pub fn end_associations(&self, portal_id: u64, contact: u64) {
        let mut entries = self.entries.lock().unwrap();
        entries.associations.remove(&(portal_id, contact));
    }

    /// The number of the last change of an association, and whether it is there since.
    pub fn last_change(&self, pair: Pair) -> Option<(u64, bool)> {
        let entries = self.entries.lock().unwrap();
        let contact = entries.associations.get(&(pair.0, pair.1))?;
        contact.get(&pair.2).copied()
    }

    /// It came to a destination; whether it had come there before. `None`: there is no such notification.
    pub fn came(&self, number: u64, destination: Destination) -> Option<bool> {
        let mut entries = self.entries.lock().unwrap();
        let place = usize::try_from(number).ok()?.checked_sub(1)?;
        let entry = entries.all.get_mut(place)?;
        let again = entry.fate & destination.seen() != 0;
        entry.fate |= destination.seen();
        let entry = *entry;
        let portal = entry.portal;
        if destination == Destination::All && !again {
            let places = entries.newest.len().max(usize::from(portal) + 1);
            entries.newest.resize(places, None);
            let newest = &mut entries.newest[usize::from(portal)];
            *newest = (*newest).max(Some(number));
            let after_made = |at: u32| Duration::from_millis(u64::from(at - entry.made));
            let came_after = after_made(self.now());
            if came_after > entries.latest.came_after {
                entries.latest = Latest {
                    number,
                    portal,
                    kind: entry.kind,
                    answered_after: after_made(entry.answered),
                    came_after,
                };
            }
        }
        Some(again)
    }

    /// It became a dead letter, of one destination or before any.
    pub fn died(&self, number: u64, destination: Option<Destination>) {
        let mut entries = self.entries.lock().unwrap();
        let place = (number as usize).wrapping_sub(1);
        let Some(entry) = entries.all.get_mut(place) else {
            return;
        };
        for one in Destination::EACH {
            if destination.is_none_or(|only| only == one) {
                entry.fate |= one.dead();
            }
        }
    }

    /// How many of a portal came to a destination, are dead letters of it, or are of erased records.
    pub fn ended(&self, portal: u8, destination: Destination) -> u64 {
        let entries = self.entries.lock().unwrap();
        let bits = destination.seen() | destination.dead() | ERASED;
        let ended = entries
            .all
            .iter()
            .filter(|one| one.portal == portal && one.fate & bits != 0);
        ended.count() as u64
    }

    /// How many were made.
    pub fn made(&self) -> u64 {
        self.entries.lock().unwrap().all.len() as u64
    }

    /// How many were answered 2xx.
    pub fn answers(&self) -> u64 {
        let entries = self.entries.lock().unwrap();
        let answered = entries.all.iter().filter(|one| one.fate & ANSWERED != 0);
        answered.count() as u64
    }

    /// Whether every portal has brought something that was made from `number` on.
    pub fn flows_since(&self, number: u64, portals: u8) -> bool {
        let entries = self.entries.lock().unwrap();
        let newest = entries.newest.iter().filter(|one| **one >= Some(number));
        newest.count() == usize::from(portals)
    }

    /// What took longest from its making to [`Destination::All`] since this was asked last.
    pub fn take_latest(&self) -> Latest {
        std::mem::take(&mut self.entries.lock().unwrap().latest)
    }

    /// What was answered 2xx and has not come. A merge has come when each record was told of.
    pub fn missing(&self) -> Vec<Missing> {
        let mut entries = self.entries.lock().unwrap();
        let ended = |entry: &Entry| entry.fate & ANSWERED != 0 && lacks(entry).next().is_none();
        while entries.all.get(entries.settled).is_some_and(ended) {
            entries.settled += 1;
        }
        let settled = entries.settled;
        let open = entries.all.iter().enumerate().skip(settled);
        let answered = open.filter(|(_, entry)| entry.fate & ANSWERED != 0);
        let missing = answered.flat_map(|(number, entry)| {
            lacks(entry).map(move |destination| Missing {
                number: number as u64 + 1,
                portal: entry.portal,
                kind: entry.kind,
                destination,
            })
        });
        let mut missing: Vec<Missing> = missing.collect();
        let destination = Destination::All;
        missing.extend(entries.merged_away.values().filter_map(|number| {
            let entry = entries.all[*number as usize - 1];
            let is_open = entry.fate & (ANSWERED | destination.dead()) == ANSWERED;
            is_open.then_some(Missing {
                number: *number,
                portal: entry.portal,
                kind: entry.kind,
                destination,
            })
        }));
        missing
    }
}

fn lacks(entry: &Entry) -> impl Iterator<Item = Destination> {
    let wants = move |one: &Destination| one.wants(entry.portal);
    let lacks = move |one: &Destination| entry.fate & (one.seen() | one.dead() | ERASED) == 0;
    Destination::EACH.into_iter().filter(wants).filter(lacks)
}

#[cfg(test)]
#[allow(
    dead_code,
    reason = "run as a part of tests/it; the campaign itself has no harness"
)]
mod tests {
    use super::*;

    fn lacking(ledger: &Ledger) -> Vec<(u64, Destination)> {
        let missing = ledger.missing().into_iter();
        missing.map(|one| (one.number, one.destination)).collect()
    }

    #[test]
    fn what_was_answered_is_missed_at_every_destination_that_wants_it_until_it_comes_or_dies() {
        let ledger = Ledger::default();
        let [plain, narrow, other] =
            [PLAIN_PORTAL, NARROW_PORTAL, 2].map(|one| ledger.make(one, 0));
        assert_eq!(lacking(&ledger), [], "nobody was answered");
        (plain..=other).for_each(|number| ledger.answered(number));
        let all = Destination::All;
        let each = [
            (plain, all),
            (plain, Destination::Plain),
            (narrow, all),
            (narrow, Destination::Narrow),
            (other, all),
        ];
        assert_eq!(lacking(&ledger), each);
        assert_eq!(ledger.came(plain, all), Some(false));
        assert_eq!(ledger.came(plain, all), Some(true), "the same once more");
        ledger.died(narrow, Some(Destination::Narrow));
        assert_eq!(
            lacking(&ledger),
            [(plain, Destination::Plain), (narrow, all), (other, all)]
        );
        ledger.died(plain, None);
        ledger.came(narrow, all);
        ledger.came(other, all);
        assert_eq!(lacking(&ledger), []);
        assert_eq!(ledger.came(other + 1, all), None, "nobody sent that");
    }

    #[test]
    fn a_merge_is_missed_until_each_record_was_told_of_and_an_erased_record_is_not() {
        let (ledger, all) = (Ledger::default(), Destination::All);
        let [merge, change] = [2, 2].map(|portal| ledger.make(portal, 0));
        ledger.merged_away(7, 41, merge);
        assert_eq!(lacking(&ledger), [], "nobody was answered");
        ledger.answered(merge);
        ledger.answered(change);
        ledger.came(merge, all);
        assert_eq!(lacking(&ledger), [(change, all), (merge, all)]);
        ledger.told_merged_away(7, 41, Destination::Narrow);
        ledger.erased(&[change]);
        assert_eq!(lacking(&ledger), [(merge, all)]);
        ledger.told_merged_away(7, 41, all);
        assert_eq!(lacking(&ledger), []);
        assert_eq!(ledger.ended(2, all), 2, "what came, and what was erased");
        assert_eq!(ledger.silenced(), 1);
    }

    #[test]
    fn the_last_change_of_an_association_is_known_until_its_contact_goes() {
        let ledger = Ledger::default();
        let pair = (7, 41, 90);
        ledger.associated(pair, 1, true);
        ledger.associated(pair, 5, false);
        assert_eq!(ledger.last_change(pair), Some((5, false)));
        ledger.end_associations(7, 41);
        assert_eq!(ledger.last_change(pair), None);
    }
}
