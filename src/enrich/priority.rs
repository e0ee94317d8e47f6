//! Who goes first when calls are short: what people do before what machines do in bulk.

use std::collections::BTreeMap;

use crate::event::Event;

/// Of this many records in a full batch, and of this many calls, one is left to bulk work that waits, so
/// that a steady stream of live changes does not starve it.
pub const BULK_FLOOR: usize = 10;

/// Values of `changeSource` that come by the thousand. HubSpot documents no complete list.
const BULK_SOURCES: [&str; 3] = ["IMPORT", "CRM_UI_BULK_ACTION", "DATA_ENRICHMENT"];

/// How urgent the read of a record is. The smaller is the more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody, or something, changed a record.
    Live,
    /// An import or a bulk edit did.
    Bulk,
}

impl Priority {
    /// The priority of an event, by its `changeSource`. What is replayed has waited, and may be much.
    pub fn of(event: &Event) -> Self {
        match &event.change_source {
            _ if event.replay.is_some() => Self::Bulk,
            Some(source) if BULK_SOURCES.contains(&source.as_str()) => Self::Bulk,
            _ => Self::Live,
        }
    }

    /// The priority of events that are read together: that of the most urgent.
    pub fn of_all<'a>(mut events: impl Iterator<Item = &'a Event>) -> Self {
        if events.any(|event| Self::of(event) == Self::Live) {
            Self::Live
        } else {
            Self::Bulk
        }
    }
}

/// A place in a [`ReadQueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub priority: Priority,
    number: u64,
}

/// What waits to be read, the most urgent first, and first come first served among equals.
#[derive(Debug)]
pub struct ReadQueue<T> {
    waiting: BTreeMap<Place, T>,
    live: usize,
    pushes: u64,
}

impl<T> Default for ReadQueue<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            live: 0,
            pushes: 0,
        }
    }
}

impl<T> ReadQueue<T> {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether something of `priority` waits.
    pub fn has(&self, priority: Priority) -> bool {
        match priority {
            Priority::Live => self.live > 0,
            Priority::Bulk => self.len() > self.live,
        }
    }

    /// Puts `item` behind the others of its priority.
    pub fn push(&mut self, priority: Priority, item: T) -> Place {
        self.pushes += 1;
        let place = Place {
            priority,
            number: self.pushes,
        };
        self.live += usize::from(priority == Priority::Live);
        self.waiting.insert(place, item);
        place
    }

    pub fn remove(&mut self, place: Place) -> Option<T> {
        let item = self.waiting.remove(&place)?;
        self.live -= usize::from(place.priority == Priority::Live);
        Some(item)
    }

    /// Takes at most `count`, live before bulk; one in [`BULK_FLOOR`] is bulk, if so much of it waits.
    pub fn take(&mut self, count: usize) -> Vec<T> {
        let bulk_waiting = self.len() - self.live;
        let live = self.live.min(count - bulk_waiting.min(count / BULK_FLOOR));
        let bulk = bulk_waiting.min(count - live);
        let mut taken = self.take_of(Priority::Live, live);
        taken.extend(self.take_of(Priority::Bulk, bulk));
        taken
    }

    fn take_of(&mut self, priority: Priority, count: usize) -> Vec<T> {
        let first = Place {
            priority,
            number: 0,
        };
        let places = self.waiting.range(first..).map(|(place, _)| *place);
        let places: Vec<_> = places.take(count).collect();
        places
            .into_iter()
            .filter_map(|place| self.remove(place))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(live: usize, bulk: usize) -> ReadQueue<(Priority, usize)> {
        let mut queue = ReadQueue::default();
        for n in 0..bulk {
            queue.push(Priority::Bulk, (Priority::Bulk, n));
        }
        for n in 0..live {
            queue.push(Priority::Live, (Priority::Live, n));
        }
        queue
    }

    #[test]
    fn live_goes_before_bulk_and_each_in_its_order() {
        let mut queue = queue(2, 3);
        let taken = queue.take(4);
        let expected = [
            (Priority::Live, 0),
            (Priority::Live, 1),
            (Priority::Bulk, 0),
            (Priority::Bulk, 1),
        ];
        assert_eq!(taken, expected);
        assert!(!queue.has(Priority::Live) && queue.has(Priority::Bulk));
        assert_eq!(queue.take(4), [(Priority::Bulk, 2)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_tenth_of_a_full_batch_is_left_to_bulk() {
        let taken = queue(500, 500).take(100);
        let bulk = taken.iter().filter(|(of, _)| *of == Priority::Bulk).count();
        assert_eq!((taken.len(), bulk), (100, 10));
        let taken = queue(500, 3).take(100);
        let bulk = taken.iter().filter(|(of, _)| *of == Priority::Bulk).count();
        assert_eq!((taken.len(), bulk), (100, 3));
    }

    #[test]
    fn what_is_removed_is_not_taken() {
        let mut queue = ReadQueue::default();
        let place = queue.push(Priority::Bulk, "a");
        queue.push(Priority::Live, "b");
        assert_eq!(queue.remove(place), Some("a"));
        assert_eq!(queue.remove(place), None);
        assert!(!queue.has(Priority::Bulk));
        assert_eq!(queue.take(10), ["b"]);
    }
}
