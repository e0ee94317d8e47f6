//! The changelog of a partition: what its engine must not forget, written down before anything is acknowledged.
//!
//! Without it, whoever takes the partition over (or the same process after a restart) would send again what HubSpot
//! repeats for a day, number versions anew, and let a late notification bring an erased record back.
//!
//! What came to be known is gathered for a moment and written as one *note*. A delivery is acknowledged when
//! the note that tells of its events is confirmed: so what is not noted comes again. Messages do not wait.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::Millis;

use super::ledger::{Counted, Tallies, Tally};
use super::memory::Entry;
use super::protocol::{DeliveryId, NoteId};

/// How long what came to be known waits for more, so that a slow trickle of events does not make a note each.
pub const NOTE_DELAY: Duration = Duration::from_secs(1);
/// The most entries of a note, events among them, give or take what one input led to: some 3 MB.
pub const NOTE_ENTRIES_MAX: usize = 50_000;
/// A note is written at once when one in so many deliveries of the window waits for it.
const HURRY_SHARE: usize = 8;
/// The first byte of an encoded note: which encoding follows.
const ENCODING: u8 = 3;

/// What an engine came to know in a moment.
///
/// It may stand in a changelog twice, when the confirm was lost and it was appended again. So who counts what it tells
/// counts a `number` of one engine once; those of one engine rise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which engine wrote it.
    pub engine: u64,
    /// Which of its notes this is, from 1; 0 for one that counts nothing.
    pub number: u64,
    /// When, by our clock.
    pub at: Millis,
    /// What, in order.
    pub entries: Vec<Entry>,
    /// Whom `tallies` count for.
    pub destinations: Vec<Counted>,
    /// How events ended, by portal.
    pub tallies: Vec<Tally>,
}

/// Why bytes are no note.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// Another version of the program wrote it.
    #[error("the note has encoding {0}, which this version does not know")]
    Encoding(u8),
    /// It is damaged.
    #[error("the note cannot be read: {0}")]
    Unreadable(#[from] postcard::Error),
}

impl Note {
    /// Tells something that no engine learns from: what answers an audit's roll call, or what a worker gives back.
    #[must_use]
    pub fn of_shell(entry: Entry) -> Self {
        Self {
            engine: 0,
            number: 0,
            at: Millis::default(),
            entries: vec![entry],
            destinations: Vec::new(),
            tallies: Vec::new(),
        }
    }

    /// A byte for the encoding, and [postcard](https://postcard.jamesmunns.com/wire-format).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![ENCODING]).expect("a note has no fallible fields")
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Every variant of [`NoteError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, NoteError> {
        match bytes.split_first() {
            Some((&ENCODING, note)) => Ok(postcard::from_bytes(note)?),
            Some((&other, _)) => Err(NoteError::Encoding(other)),
            None => Err(postcard::Error::DeserializeUnexpectedEnd.into()),
        }
    }
}

/// What waits to be noted, and the deliveries that wait for it.
#[derive(Debug)]
pub struct Changelog {
    /// What the next notes will tell, a page each.
    pages: VecDeque<Page>,
    deliveries: Vec<DeliveryId>,
    /// Since when something waits.
    since: Option<Millis>,
    /// Whether somebody waits for the next note.
    is_urgent: bool,
    /// The note that is being written, and the deliveries that wait for it.
    under_way: Option<(NoteId, Vec<DeliveryId>)>,
    hurry_at: usize,
}

/// What a note will tell. What ended and how that is counted stand on one page.
#[derive(Debug, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    pub tallies: Tallies,
    /// Entries, and events in the tallies.
    size: usize,
}

impl Page {
    pub fn new(entries: Vec<Entry>, tallies: Tallies) -> Self {
        let events: usize = tallies.values().map(Tally::events).sum();
        Self {
            size: entries.len() + events,
            entries,
            tallies,
        }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.tallies.is_empty()
    }

    fn is_full(&self) -> bool {
        self.size >= NOTE_ENTRIES_MAX
    }

    fn add(&mut self, later: Self) {
        self.size += later.size;
        self.entries.extend(later.entries);
        for (portal_id, later) in later.tallies {
            match self.tallies.get_mut(&portal_id) {
                Some(tally) => tally.add(later),
                None => _ = self.tallies.insert(portal_id, later),
            }
        }
    }
}

impl Changelog {
    /// For a partition that gives out at most `window` deliveries at once.
    pub fn new(window: usize) -> Self {
        Self {
            pages: VecDeque::new(),
            deliveries: Vec::new(),
            since: None,
            is_urgent: false,
            under_way: None,
            hurry_at: (window / HURRY_SHARE).max(1),
        }
    }

    /// Whether nothing waits and nothing is being written.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.deliveries.is_empty() && self.under_way.is_none()
    }

    pub fn add(&mut self, more: Page, now: Millis) {
        if more.is_empty() {
            return;
        }
        self.since.get_or_insert(now);
        match self.pages.back_mut().filter(|page| !page.is_full()) {
            Some(page) => page.add(more),
            None => self.pages.push_back(more),
        }
    }

    /// All events of a delivery have ended.
    pub fn settle(&mut self, delivery: DeliveryId) {
        self.deliveries.push(delivery);
    }

    /// The next note is due at once.
    pub fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// When the next note is due, if time alone decides.
    pub fn due(&self) -> Option<Millis> {
        match self.under_way {
            None => self.since.map(|since| since.after(NOTE_DELAY)),
            Some(_) => None,
        }
    }

    /// Deliveries that wait for nothing any more.
    pub fn take_settled(&mut self) -> Vec<DeliveryId> {
        if self.pages.is_empty() && self.under_way.is_none() {
            std::mem::take(&mut self.deliveries)
        } else {
            Vec::new()
        }
    }

    /// What the next note tells, if it is due; it is being written from now on, as `id`.
    pub fn next(&mut self, now: Millis, id: NoteId) -> Option<Page> {
        let is_due = self.due().is_some_and(|due| due <= now)
            || self.is_urgent
            || self.deliveries.len() >= self.hurry_at
            || self.pages.front().is_some_and(Page::is_full);
        if !is_due || self.under_way.is_some() {
            return None;
        }
        let page = self.pages.pop_front()?;
        let deliveries = if self.pages.is_empty() {
            self.since = None;
            self.is_urgent = false;
            std::mem::take(&mut self.deliveries)
        } else {
            Vec::new()
        };
        self.under_way = Some((id, deliveries));
        Some(page)
    }

    /// A note is durable. Returns the deliveries that waited for it.
    pub fn noted(&mut self, id: NoteId) -> Vec<DeliveryId> {
        match self.under_way.take() {
            Some((under_way, deliveries)) if under_way == id => deliveries,
            other => {
                self.under_way = other;
                Vec::new()
            }
        }
    }

    /// All deliveries are void. What came to be known is written down all the same.
    pub fn lost(&mut self) {
        self.deliveries.clear();
        if let Some((_, deliveries)) = &mut self.under_way {
            deliveries.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::ledger::Count;
    use crate::enrich::protocol::Ending;
    use crate::event::{ObjectTypeId, RecordDigest};

    fn entry() -> Entry {
        let (portal_id, contact) = ("8241".into(), ObjectTypeId::from_name("contact"));
        Entry::Erased {
            record: RecordDigest::of(&portal_id, &contact, &"7".into()),
        }
    }

    fn page(count: usize) -> Page {
        Page::new(vec![entry(); count], Tallies::new())
    }

    fn ms(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    #[test]
    fn a_note_is_due_after_a_delay_or_when_many_deliveries_wait() {
        let mut changelog = Changelog::new(16);
        changelog.add(page(1), ms(0));
        changelog.settle(DeliveryId(1));
        assert!(changelog.next(ms(999), NoteId(1)).is_none());
        changelog.settle(DeliveryId(2));
        let note = changelog.next(ms(999), NoteId(1)).unwrap();
        assert_eq!(note.entries, [entry()]);
        assert!(changelog.take_settled().is_empty());
        assert_eq!(changelog.noted(NoteId(1)), [DeliveryId(1), DeliveryId(2)]);
        assert!(changelog.is_empty());
        changelog.add(page(1), ms(1_000));
        assert_eq!(changelog.due(), Some(ms(2_000)));
        assert!(changelog.next(ms(2_000), NoteId(2)).is_some());
    }

    #[test]
    fn one_note_is_written_at_a_time_and_what_comes_meanwhile_waits() {
        let mut changelog = Changelog::new(8);
        changelog.add(page(1), ms(0));
        changelog.settle(DeliveryId(1));
        assert!(changelog.next(ms(0), NoteId(1)).is_some());
        changelog.settle(DeliveryId(2));
        assert!(
            changelog.take_settled().is_empty(),
            "its event may be in the note"
        );
        changelog.lost();
        changelog.settle(DeliveryId(3));
        assert!(changelog.noted(NoteId(1)).is_empty());
        assert_eq!(changelog.take_settled(), [DeliveryId(3)]);
    }

    #[test]
    fn no_note_has_too_many_entries_and_deliveries_wait_for_the_last() {
        let mut changelog = Changelog::new(8);
        for _ in 0..=NOTE_ENTRIES_MAX {
            changelog.add(page(1), ms(0));
        }
        changelog.settle(DeliveryId(1));
        let first = changelog.next(ms(0), NoteId(1)).unwrap();
        assert_eq!(first.entries.len(), NOTE_ENTRIES_MAX);
        let note = Note {
            entries: first.entries,
            ..note()
        };
        assert!(note.encode().len() < crate::bus::MESSAGE_BYTES_MAX);
        assert!(changelog.noted(NoteId(1)).is_empty());
        assert_eq!(changelog.next(ms(0), NoteId(2)).unwrap().entries.len(), 1);
        assert_eq!(changelog.noted(NoteId(2)), [DeliveryId(1)]);
    }

    #[test]
    fn a_note_that_somebody_waits_for_is_due_at_once() {
        let mut changelog = Changelog::new(800);
        changelog.add(page(1), ms(0));
        assert!(changelog.next(ms(0), NoteId(1)).is_none());
        changelog.hurry();
        assert!(changelog.next(ms(0), NoteId(1)).is_some());
        changelog.noted(NoteId(1));
        changelog.add(page(1), ms(0));
        assert!(changelog.next(ms(0), NoteId(2)).is_none());
    }

    fn note() -> Note {
        let tally = Tally {
            portal_id: "8241".into(),
            arrived: vec![[1; 16]],
            ended: vec![[2; 16], [3; 16]],
            ended_plain: Vec::new(),
            plain_halves: 2,
            duplicates: 1,
            counts: vec![Count {
                destination: 0,
                ending: Ending::Delivered,
                events: 2,
            }],
        };
        let out = Counted {
            name: "out".to_owned(),
            plain: false,
        };
        Note {
            engine: u64::MAX,
            number: 7,
            at: ms(5),
            entries: vec![entry(), entry()],
            destinations: vec![out],
            tallies: vec![tally],
        }
    }

    #[test]
    fn decode_undoes_encode_and_refuses_the_rest() {
        let note = note();
        let bytes = note.encode();
        assert_eq!(Note::decode(&bytes).unwrap(), note);
        assert!(matches!(Note::decode(&[9]), Err(NoteError::Encoding(9))));
        for end in 0..bytes.len() {
            assert!(Note::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
