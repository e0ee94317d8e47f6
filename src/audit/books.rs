//! What the notes of a partition add up to. Pure: it reads notes, oldest first, and knows nothing of engines.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::enrich::{
    Ending, Entry, EventDigest, Note, Recent, SEEN_CAPACITY, SEEN_KEEP, Tally, plain_half,
};
use crate::event::{Millis, PortalId};

/// The most findings that are told one by one.
const FINDINGS_MAX: usize = 100;

/// The books of one partition.
#[derive(Debug)]
pub struct Books {
    since: Millis,
    /// The last note of each engine: one that comes again was appended twice.
    engines: HashMap<u64, u64>,
    open: HashMap<EventDigest, Open>,
    ended: Recent<EventDigest>,
    /// Plain halves that ended, where a destination takes events as they are.
    ended_plain: Recent<EventDigest>,
    accounts: BTreeMap<PortalId, Account>,
    findings: Vec<String>,
    roll_call: Option<(u64, HashSet<EventDigest>)>,
}

/// An event that arrived and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Whose it is.
    pub portal_id: PortalId,
    /// When it was noted that it came.
    pub at: Millis,
}

/// How the events of a portal ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Events that ended.
    pub ended: u64,
    /// Those of them that had ended before: two workers had the partition at once.
    pub ended_again: u64,
    /// Plain halves that had ended before, counted once more for destinations that take events as they are.
    #[serde(default)]
    pub plain_ended_again: u64,
    /// Copies of events that had ended or were under way: HubSpot's repeats, and the bus's.
    pub duplicates: u64,
    /// How they ended, by destination.
    pub destinations: BTreeMap<String, Endings>,
    /// Events that arrived and have not ended.
    #[serde(default)]
    pub open: u64,
    /// Events in batches that the bus itself gave up on: dead letters, of which no note tells.
    #[serde(default)]
    pub given_up_by_bus: u64,
}

/// How many events ended how, for one destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endings {
    /// It has them, each the first of a message.
    pub delivered: u64,
    /// It has them, in messages that another event comes first in.
    pub merged: u64,
    /// It did not want them.
    pub unwanted: u64,
    /// Dead letters hold them.
    pub dead: u64,
    /// Their records were erased.
    pub purged: u64,
}

impl Endings {
    fn add(&mut self, ending: Ending, events: u64) {
        *match ending {
            Ending::Delivered => &mut self.delivered,
            Ending::Merged => &mut self.merged,
            Ending::Unwanted | Ending::Duplicate => &mut self.unwanted,
            Ending::Dead => &mut self.dead,
            Ending::Purged => &mut self.purged,
        } += events;
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            delivered: self.delivered + other.delivered,
            merged: self.merged + other.merged,
            unwanted: self.unwanted + other.unwanted,
            dead: self.dead + other.dead,
            purged: self.purged + other.purged,
        }
    }

    /// How many ended.
    #[must_use]
    pub fn sum(self) -> u64 {
        self.delivered + self.merged + self.unwanted + self.dead + self.purged
    }
}

impl Books {
    /// Books that count what was noted `since`.
    #[must_use]
    pub fn new(since: Millis) -> Self {
        Self {
            since,
            engines: HashMap::new(),
            open: HashMap::new(),
            ended: Recent::new(SEEN_KEEP, SEEN_CAPACITY),
            ended_plain: Recent::new(SEEN_KEEP, SEEN_CAPACITY),
            accounts: BTreeMap::new(),
            findings: Vec::new(),
            roll_call: None,
        }
    }

    /// Takes in the next note.
    pub fn read(&mut self, note: Note) {
        let counts = note.number > 0;
        if counts {
            let last = self.engines.entry(note.engine).or_default();
            if note.number <= *last {
                return;
            }
            *last = note.number;
        }
        for entry in note.entries {
            if let Entry::InHand { call, events } = entry {
                self.roll_call = Some((call, events.into_iter().collect()));
            }
        }
        for tally in note.tallies {
            let (portal_id, at) = (tally.portal_id.clone(), note.at);
            if counts && !tally.adds_up(&note.destinations) {
                self.find(format!(
                    "portal {portal_id}: the note of {at} counts other endings than events"
                ));
            }
            let plain_again = match note.destinations.iter().any(|counted| counted.plain) {
                true => self.end_plain_halves(&tally, at),
                false => 0,
            };
            for event in tally.arrived {
                if !self.ended.contains(&event) {
                    let portal_id = portal_id.clone();
                    self.open.entry(event).or_insert(Open { portal_id, at });
                }
            }
            let mut again = 0;
            for event in &tally.ended {
                self.open.remove(event);
                again += u64::from(self.ended.contains(event));
                self.ended.insert(*event, at);
            }
            if !counts || at < self.since {
                continue;
            }
            let account = self.accounts.entry(portal_id).or_default();
            account.ended += tally.ended.len() as u64;
            account.ended_again += again;
            account.plain_ended_again += plain_again;
            account.duplicates += u64::from(tally.duplicates);
            for count in tally.counts {
                if let Some(counted) = note.destinations.get(usize::from(count.destination)) {
                    let of = account.destinations.entry(counted.name.clone());
                    of.or_default().add(count.ending, count.events.into());
                }
            }
        }
    }

    /// Takes in which plain halves ended, and returns how many of them had ended before.
    fn end_plain_halves(&mut self, tally: &Tally, at: Millis) -> u64 {
        let mut again = 0;
        for half in &tally.ended_plain {
            again += u64::from(self.ended_plain.contains(half));
            self.ended_plain.insert(*half, at);
        }
        // Those that ended with their events are not named. Where one had ended before and the engine knew, it did not count it.
        let mut counted =
            u64::from(tally.plain_halves).saturating_sub(tally.ended_plain.len() as u64);
        for event in &tally.ended {
            let half = plain_half(*event);
            counted = counted.saturating_sub(u64::from(!self.ended_plain.contains(&half)));
            self.ended_plain.insert(half, at);
        }
        again + counted
    }

    /// Something is amiss.
    pub fn find(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// Events that arrived and have not ended.
    #[must_use]
    pub fn open(&self) -> &HashMap<EventDigest, Open> {
        &self.open
    }

    /// What a worker had in its hands when it answered this roll call, if it has.
    #[must_use]
    pub fn in_hand(&self, call: u64) -> Option<&HashSet<EventDigest>> {
        let answer = self.roll_call.as_ref();
        answer
            .filter(|answer| answer.0 == call)
            .map(|answer| &answer.1)
    }

    /// What the books say: accounts by portal, with what is open, and what is amiss.
    #[must_use]
    pub fn close(mut self) -> (BTreeMap<PortalId, Account>, Vec<String>) {
        for open in self.open.into_values() {
            self.accounts.entry(open.portal_id).or_default().open += 1;
        }
        (self.accounts, self.findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::{Count, Counted, Tally};

    fn at(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    fn note(number: u64, ms: i64, arrived: &[u8], ended: &[u8]) -> Note {
        let digests = |events: &[u8]| events.iter().map(|event| [*event; 16]).collect();
        let counts = vec![Count {
            destination: 0,
            ending: Ending::Delivered,
            events: u32::try_from(ended.len()).unwrap(),
        }];
        Note {
            engine: 9,
            number,
            at: at(ms),
            entries: Vec::new(),
            destinations: vec![Counted {
                name: "out".to_owned(),
                plain: false,
            }],
            tallies: vec![Tally {
                arrived: digests(arrived),
                ended: digests(ended),
                counts,
                ..Tally::new("8241".into())
            }],
        }
    }

    fn closed(books: Books) -> Account {
        let (mut accounts, findings) = books.close();
        assert!(findings.is_empty(), "{findings:?}");
        accounts.remove(&"8241".into()).unwrap()
    }

    #[test]
    fn what_arrived_and_did_not_end_is_open() {
        let mut books = Books::new(at(0));
        books.read(note(1, 0, &[1, 2], &[3]));
        books.read(note(2, 1, &[], &[1]));
        assert_eq!(books.open().len(), 1);
        let account = closed(books);
        assert_eq!((account.ended, account.open), (2, 1));
        assert_eq!(account.destinations["out"].delivered, 2);
    }

    #[test]
    fn a_note_that_was_appended_twice_counts_once() {
        let mut books = Books::new(at(0));
        for number in [1, 1, 2, 1, 2, 3] {
            let event = u8::try_from(number).unwrap();
            books.read(note(number, 0, &[], &[event]));
        }
        let account = closed(books);
        assert_eq!((account.ended, account.ended_again), (3, 0));
    }

    #[test]
    fn what_two_workers_ended_is_told() {
        let mut books = Books::new(at(0));
        books.read(note(1, 0, &[], &[1]));
        let mut other = note(1, 1, &[1], &[1]);
        other.engine = 10;
        books.read(other);
        let account = closed(books);
        assert_eq!(
            (account.ended, account.ended_again, account.open),
            (2, 1, 0)
        );
    }

    #[test]
    fn plain_halves_that_two_workers_ended_are_told_however_they_ended() {
        let plain = |engine, ended_plain: &[u8], ended: &[u8], halves| {
            let mut note = note(1, 0, &[], ended);
            note.engine = engine;
            note.destinations[0].plain = true;
            let tally = &mut note.tallies[0];
            let half = |event: &u8| plain_half([*event; 16]);
            tally.ended_plain = ended_plain.iter().map(half).collect();
            tally.plain_halves = halves;
            tally.counts[0].events = halves;
            note
        };
        let again = |notes: &[Note]| {
            let mut books = Books::new(at(0));
            notes.iter().cloned().for_each(|note| books.read(note));
            closed(books).plain_ended_again
        };
        let first = plain(1, &[1], &[2], 2);
        assert_eq!(again(&[first.clone(), plain(2, &[1, 3], &[], 2)]), 1);
        assert_eq!(again(&[first.clone(), plain(2, &[2], &[1], 2)]), 2);
        assert_eq!(again(&[first.clone(), plain(2, &[], &[1, 2, 3], 3)]), 2);
        let knows = plain(2, &[4], &[1, 4, 3], 2);
        assert_eq!(again(&[first, knows]), 0, "it counted 4 and 3 alone");
    }

    #[test]
    fn before_the_time_asked_for_nothing_is_counted_but_what_is_open_is_known() {
        let mut books = Books::new(at(10));
        books.read(note(1, 0, &[1, 2], &[3]));
        books.read(note(2, 10, &[], &[1]));
        let account = closed(books);
        assert_eq!((account.ended, account.open), (1, 1));
    }

    #[test]
    fn a_note_whose_counts_do_not_add_up_is_found() {
        let mut books = Books::new(at(0));
        let mut wrong = note(1, 0, &[], &[1, 2]);
        wrong.tallies[0].counts[0].events = 1;
        books.read(wrong);
        let (_, findings) = books.close();
        assert_eq!(findings.len(), 1);
    }
}
