//! What an engine knows of the past: events that ended, versions sent, merges, erased records.
//!
//! All of it is bounded in time and size, and all of it goes into the partition's changelog, from which the next
//! engine of the partition knows the same. Records are remembered by a hash, so that what is kept of an
//! erased one is no personal data.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::event::{EventId, Millis, ObjectId, PortalId, RecordDigest, Version};

use super::job::Key;
use super::ledger::{EventDigest, Tally, plain_half};
use super::window::{RECORDS_CAPACITY, Recent, SEEN_CAPACITY, SEEN_KEEP, Window};

/// Merges of merges are followed this far.
const MERGE_CHAIN_MAX: usize = 16;
/// The most records that are remembered to lead to one: HubSpot lets a record take part in 250 merges.
const MERGED_INTO_MAX: usize = 256;

/// The most suspects whose tries are remembered; the oldest go first.
const TRIED_CAPACITY: usize = 10_000;

/// What the next engine of the partition must know, beside which events came and ended ([`Tally`]). Hashes are 16 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A message about a record went out and is confirmed.
    Sent {
        /// The hash of portal, type and id.
        record: RecordDigest,
        /// What was sent.
        sent: Sent,
    },
    /// An id leads to another record of the same type now.
    Merged {
        /// The hash of portal, type and id.
        record: RecordDigest,
        /// The record that it leads to.
        survivor: ObjectId,
        /// The hash of that.
        into: RecordDigest,
    },
    /// A record was deleted for privacy.
    Erased {
        /// The hash of portal, type and id.
        record: RecordDigest,
    },
    /// An event that may have killed its worker is about to be tried, with nothing else under way.
    Tried {
        /// Its [`EventId::digest`].
        event: EventDigest,
        /// How often, with this time; 0 when the worker lived, though the event has not ended.
        times: u8,
    },
    /// For an audit that asked: which events a worker had in its hands. Engines learn nothing from it.
    InHand {
        /// What the audit called its question.
        call: u64,
        /// Their [`EventId::digest`]s.
        events: Vec<EventDigest>,
    },
    /// A worker stops and gives these messages back: by their ids, with how often each had come before.
    GivenBack(Vec<(String, u32)>),
}

/// The last message that went out about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredSent", into = "StoredSent")]
pub struct Sent {
    /// The first half of its version.
    pub state: Millis,
    /// The second half: when it was read, or `None` for a tombstone.
    pub read: Option<Millis>,
    /// When the newest state that went out began: its `updatedAt`, or when it was deleted.
    pub newest: Option<Millis>,
}

/// [`Sent`] in milliseconds, which take a third of the text.
#[derive(Serialize, Deserialize)]
struct StoredSent(i64, Option<i64>, Option<i64>);

impl From<Sent> for StoredSent {
    fn from(sent: Sent) -> Self {
        let ms = |at: Option<Millis>| at.map(Millis::as_i64);
        Self(sent.state.as_i64(), ms(sent.read), ms(sent.newest))
    }
}

impl TryFrom<StoredSent> for Sent {
    type Error = &'static str;

    fn try_from(StoredSent(state, read, newest): StoredSent) -> Result<Self, Self::Error> {
        let at = |ms: i64| Millis::new(ms).ok_or("a time out of range");
        Ok(Self {
            state: at(state)?,
            read: read.map(at).transpose()?,
            newest: newest.map(at).transpose()?,
        })
    }
}

impl Sent {
    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        match self.read {
            Some(read) => Version::of_read(self.state, read),
            None => Version::of_tombstone(self.state),
        }
    }
}

/// What an engine remembers, of all portals of its partition.
#[derive(Debug)]
pub struct Memory {
    seen: Recent<EventDigest>,
    /// Events that have not ended, and of which a note tells that they arrived.
    arrived: Recent<EventDigest>,
    sent: Window<RecordDigest, Sent>,
    merged: Window<RecordDigest, ObjectId>,
    /// What leads to a record, the other way round.
    merged_into: Window<RecordDigest, Vec<RecordDigest>>,
    erased: Window<RecordDigest, ()>,
    /// How often events were tried that may have killed their worker.
    tried: Window<EventDigest, u8>,
    /// What is not in the changelog yet.
    entries: Vec<Entry>,
}

impl Memory {
    pub fn new() -> Self {
        Self {
            seen: Recent::new(SEEN_KEEP, SEEN_CAPACITY),
            arrived: Recent::new(SEEN_KEEP, SEEN_CAPACITY),
            sent: Window::new(SEEN_KEEP, RECORDS_CAPACITY),
            merged: Window::new(SEEN_KEEP, RECORDS_CAPACITY),
            merged_into: Window::new(SEEN_KEEP, RECORDS_CAPACITY),
            erased: Window::new(SEEN_KEEP, RECORDS_CAPACITY),
            tried: Window::new(SEEN_KEEP, TRIED_CAPACITY),
            entries: Vec::new(),
        }
    }

    /// How much is remembered: of events, and of records.
    pub fn sizes(&self) -> (usize, usize) {
        let events = self.seen.len() + self.arrived.len() + self.tried.len();
        let merges = self.merged.len() + self.merged_into.len();
        (events, self.sent.len() + merges + self.erased.len())
    }

    /// Whether an event ended before.
    pub fn has_seen(&self, id: &EventId) -> bool {
        self.seen.contains(&id.digest())
    }

    /// An event ended.
    pub fn see(&mut self, id: &EventId, now: Millis) {
        self.seen.insert(id.digest(), now);
        self.arrived.remove(&id.digest());
    }

    /// Whether an event went out as it is, whatever became of the rest of it.
    pub fn has_seen_plain(&self, id: &EventId) -> bool {
        self.seen.contains(&plain_half(id.digest()))
    }

    /// An event went out as it is, and has not ended by that. Returns what stands for that half.
    pub fn see_plain(&mut self, id: &EventId, now: Millis) -> EventDigest {
        let half = plain_half(id.digest());
        self.seen.insert(half, now);
        half
    }

    /// Whether a note tells that an event arrived.
    pub fn has_arrived(&self, event: &EventDigest) -> bool {
        self.arrived.contains(event)
    }

    /// A note tells, or will tell, that an event arrived.
    pub fn arrive(&mut self, event: EventDigest, now: Millis) {
        self.arrived.insert(event, now);
    }

    /// How often an event was tried as a suspect.
    pub fn tries(&self, id: &EventId) -> u8 {
        self.tried.get(&id.digest()).copied().unwrap_or(0)
    }

    /// A suspect is about to be tried, for so many times with this one; 0 when a try did no harm.
    pub fn note_tries(&mut self, id: &EventId, times: u8, now: Millis) {
        let event = id.digest();
        self.tried.insert(event, times, now);
        self.entries.push(Entry::Tried { event, times });
    }

    /// The record that an id leads to now.
    pub fn survivor(&self, portal_id: &PortalId, mut key: Key) -> Key {
        for _ in 0..MERGE_CHAIN_MAX {
            match self.merged.get(&hash(portal_id, &key)) {
                Some(survivor) => key.1 = survivor.clone(),
                None => break,
            }
        }
        key
    }

    /// From now on `old` leads to `survivor`.
    pub fn merge(&mut self, portal_id: &PortalId, old: &Key, survivor: &Key, now: Millis) {
        let (record, into) = (hash(portal_id, old), hash(portal_id, survivor));
        let survivor = survivor.1.clone();
        self.note_merge(record, survivor.clone(), into, now);
        self.entries.push(Entry::Merged {
            record,
            survivor,
            into,
        });
    }

    fn note_merge(
        &mut self,
        record: RecordDigest,
        survivor: ObjectId,
        into: RecordDigest,
        now: Millis,
    ) {
        self.merged.insert(record, survivor, now);
        let mut all = self.merged_into.get(&into).cloned().unwrap_or_default();
        if !all.contains(&record) && all.len() < MERGED_INTO_MAX {
            all.push(record);
        }
        self.merged_into.insert(into, all, now);
    }

    /// The records that lead to this one, over any number of merges.
    fn leading_to(&self, record: RecordDigest) -> Vec<RecordDigest> {
        let mut all = vec![record];
        let mut next = 0;
        while let Some(one) = all.get(next).filter(|_| all.len() < MERGED_INTO_MAX) {
            let more = self.merged_into.get(one).into_iter().flatten();
            let more: Vec<_> = more.filter(|one| !all.contains(one)).copied().collect();
            all.extend(more);
            next += 1;
        }
        all.split_off(1)
    }

    /// Whether a record was deleted for privacy.
    pub fn is_erased(&self, portal_id: &PortalId, key: &Key) -> bool {
        self.erased.get(&hash(portal_id, key)).is_some()
    }

    /// Whether the record that an id leads to now was deleted for privacy.
    pub fn leads_to_erased(&self, portal_id: &PortalId, key: &Key) -> bool {
        self.is_erased(portal_id, &self.survivor(portal_id, key.clone()))
    }

    /// The hashes of what was merged into a record.
    pub fn merged_into(&self, portal_id: &PortalId, key: &Key) -> Vec<RecordDigest> {
        self.leading_to(hash(portal_id, key))
    }

    /// A record is deleted for privacy, and with it what was merged into it. Returns the hashes of those.
    pub fn erase(&mut self, portal_id: &PortalId, key: &Key, now: Millis) -> Vec<RecordDigest> {
        let record = hash(portal_id, key);
        let merged = self.leading_to(record);
        for record in merged.iter().copied().chain([record]) {
            self.erased.insert(record, (), now);
            self.entries.push(Entry::Erased { record });
        }
        merged
    }

    /// The last message about a record.
    pub fn sent(&self, portal_id: &PortalId, key: &Key) -> Option<&Sent> {
        self.sent.get(&hash(portal_id, key))
    }

    /// The version of a message about `state`, later than every one sent of this record: a read that
    /// comes later knows at least as much, so its state may be taken to be a later one. What the message says is
    /// true since `since`, and was `read` then; `None` for a tombstone.
    pub fn next_version(
        &mut self,
        (portal_id, key): (&PortalId, &Key),
        state: Millis,
        read: Option<Millis>,
        since: Option<Millis>,
        now: Millis,
    ) -> Version {
        let record = hash(portal_id, key);
        let last = self.sent.get(&record);
        let newest = last.and_then(|last| last.newest).max(since);
        let mut next = Sent {
            state,
            read,
            newest,
        };
        if let Some(last) = last
            && next.version() <= last.version()
        {
            next.state = last.state;
            if next.version() <= last.version() {
                next.state = next.state.after(Duration::from_millis(1));
            }
        }
        self.sent.insert(record, next, now);
        next.version()
    }

    /// The last message about a record is confirmed.
    pub fn confirmed(&mut self, portal_id: &PortalId, key: &Key) {
        let record = hash(portal_id, key);
        if let Some(sent) = self.sent.get(&record).copied() {
            self.entries.push(Entry::Sent { record, sent });
        }
    }

    /// What came to be known since this was asked last.
    pub fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// Takes in which events an earlier engine saw come and end `at` a time.
    pub fn restore_events(&mut self, at: Millis, tally: Tally) {
        for event in tally.arrived {
            if !self.seen.contains(&event) {
                self.arrived.insert(event, at);
            }
        }
        for event in tally.ended.into_iter().chain(tally.ended_plain) {
            self.arrived.remove(&event);
            self.seen.insert(event, at);
        }
    }

    /// Takes in what an earlier engine knew `at` a time.
    pub fn restore(&mut self, at: Millis, entry: Entry) {
        match entry {
            Entry::Sent { record, sent } => {
                let known = self.sent.get(&record).map(Sent::version);
                if known.is_none_or(|known| known < sent.version()) {
                    self.sent.insert(record, sent, at);
                }
            }
            Entry::Merged {
                record,
                survivor,
                into,
            } => self.note_merge(record, survivor, into, at),
            Entry::Erased { record } => self.erased.insert(record, (), at),
            Entry::Tried { event, times } => self.tried.insert(event, times, at),
            Entry::InHand { .. } | Entry::GivenBack(_) => {}
        }
    }
}

fn hash(portal_id: &PortalId, (object_type_id, object_id): &Key) -> RecordDigest {
    RecordDigest::of(portal_id, object_type_id, object_id)
}
