//! Deliveries that may have killed a worker, and what is held back while they are tried.
//!
//! A delivery that came twice before, and of which no process lived to tell, is a *suspect*. While a partition has some, it
//! takes up nothing else, and only one partition of a process does so at a time. When all that was under way has ended, a
//! *lot* of their events goes to the engine, which notes first that they are tried. A worker that dies then dies by
//! one of them; whoever comes next knows, and tries those in smaller lots, down to one. Lots are large at first, since most suspects
//! were only there when something else died.
//!
//! Neighbours are not held back for long: when they have been for [`HELD_MAX`] and a lot has ended, they are taken up
//! before the next one; and after two minutes in any case, where no lot can be tried.
//!
//! A session that breaks says nothing against what was in hand, if the process lives: that is remembered. Nor does a
//! worker that stops, or gives the partition up: it notes what it had in hand and how often that had come.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::event::{Event, Millis};

use super::changelog::Note;
use super::memory::Entry;
use super::protocol::{DeliveryId, Source};

/// From so many deliveries before on, one is a suspect.
const SUSPECT_FROM: u32 = 2;
/// The most events that are tried together, by how often the most tried of them was before. One is tried three times alone: a worker
/// that dies meanwhile by something else is no fault of it, but that may be another event, which does so twice before it is a
/// suspect itself, and not more.
const LOTS: [usize; 5] = [1_000, 32, 1, 1, 1];
/// An event that was tried so often without an end becomes a dead letter.
pub(super) const TRIES_MAX: u8 = 5;
const _: () = assert!(TRIES_MAX as usize == LOTS.len());
/// How long neighbours are held back, before the lot that is being tried is the last that they wait for.
pub const HELD_MAX: Duration = Duration::from_secs(30);
/// The same while no lot can be tried, since something does not end: a destination takes nothing, say.
const HELD_IN_VAIN_MAX: Duration = Duration::from_secs(120);
/// Messages that are remembered to have been in hand without harm. At the bound all are forgotten, and some may be tried without
/// need.
const HARMLESS_MAX: usize = 10_000;

/// What a shell knows of suspects. `D` is its handle of a delivery.
#[derive(Debug)]
pub struct Suspects<D> {
    /// By message id, how many of its deliveries killed nobody.
    harmless: HashMap<String, u32>,
    /// The oldest first, and so those of the lot.
    waiting: VecDeque<Suspect<D>>,
    /// What stands for the events of the lot.
    lot: HashSet<DeliveryId>,
    /// Whether a lot has ended since neighbours were taken up.
    lot_ended: bool,
    /// What else came meanwhile: at most what the two queues have of unsettled deliveries.
    held: VecDeque<(D, Source)>,
    held_since: Option<Millis>,
    /// So many of the held are taken up before the next lot.
    released: usize,
    /// Whether somebody asked to try a lot.
    asks: bool,
}

/// A delivery that is to be tried.
#[derive(Debug)]
struct Suspect<D> {
    delivery: D,
    from: Source,
    /// Its events that were not in a lot yet.
    left: VecDeque<Event>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<D> {
    /// Call [`Suspects::begin`] when no other partition of the process tries a lot.
    Ask,
    /// Settle this: all its events have ended.
    Settle(D),
    /// Hand this to the engine; it was held back.
    Take(D, Source),
}

impl<D> Default for Suspects<D> {
    fn default() -> Self {
        Self {
            harmless: HashMap::new(),
            waiting: VecDeque::new(),
            lot: HashSet::new(),
            lot_ended: false,
            held: VecDeque::new(),
            held_since: None,
            released: 0,
            asks: false,
        }
    }
}

impl<D> Suspects<D> {
    /// Whether what comes is to be held back.
    #[must_use]
    pub fn are_there(&self) -> bool {
        !self.lot.is_empty() || !self.waiting.is_empty()
    }

    /// Whether a lot is being tried.
    #[must_use]
    pub fn are_tried(&self) -> bool {
        !self.lot.is_empty()
    }

    /// Whether a message was delivered too often to be taken up with others.
    #[must_use]
    pub fn came_too_often(&self, message_id: &str, delivery_count: u32) -> bool {
        let harmless = self.harmless.get(message_id).copied().unwrap_or(0);
        delivery_count.saturating_sub(harmless) >= SUSPECT_FROM
    }

    /// A suspect came.
    pub fn add(&mut self, delivery: D, from: Source, events: Vec<Event>) {
        let left = events.into();
        self.waiting.push_back(Suspect {
            delivery,
            from,
            left,
        });
    }

    /// Something else came.
    pub fn hold(&mut self, now: Millis, delivery: D, from: Source) {
        self.held_since.get_or_insert(now);
        self.held.push_back((delivery, from));
    }

    /// What can be done now; `None` when nothing. `is_free` tells that the engine has nothing under way.
    pub fn next(&mut self, now: Millis, is_free: bool) -> Option<Step<D>> {
        if self.are_tried() {
            return None;
        }
        let first = self.waiting.front();
        if first.is_some_and(|first| first.left.is_empty()) {
            let tried = self.waiting.pop_front()?;
            return Some(Step::Settle(tried.delivery));
        }
        if self.waiting.is_empty() || self.held_long_enough(now) {
            self.released = self.held.len();
            self.held_since = None;
            self.lot_ended = false;
        }
        if self.released > 0 {
            self.released -= 1;
            let (delivery, from) = self.held.pop_front()?;
            return Some(Step::Take(delivery, from));
        }
        let asks = is_free && !self.asks && !self.waiting.is_empty();
        self.asks |= asks;
        asks.then_some(Step::Ask)
    }

    fn held_long_enough(&self, now: Millis) -> bool {
        let most = if self.lot_ended {
            HELD_MAX
        } else {
            HELD_IN_VAIN_MAX
        };
        let is_long = |since| now.since(since) >= most;
        self.held_since.is_some_and(is_long)
    }

    /// The next lot may be tried. Returns what of which delivery, as `stand_in` names it; nothing when the engine is not free any
    /// more. `tries` tells how often an event was tried before.
    pub fn begin(
        &mut self,
        is_free: bool,
        tries: impl Fn(&Event) -> u8,
        mut stand_in: impl FnMut(&D, Source, &[Event]) -> DeliveryId,
    ) -> Vec<(DeliveryId, Vec<Event>)> {
        self.asks = false;
        let mut lot = Vec::new();
        let (mut size, mut most) = (0, 0);
        for suspect in self.waiting.iter_mut().filter(|_| is_free) {
            let fits = suspect.left.iter().take_while(|event| {
                most = most.max(tries(event));
                size += 1;
                size <= LOTS.get(usize::from(most)).copied().unwrap_or(1)
            });
            let count = fits.count();
            let events: Vec<_> = suspect.left.drain(..count).collect();
            if !events.is_empty() {
                let id = stand_in(&suspect.delivery, suspect.from, &events);
                self.lot.insert(id);
                lot.push((id, events));
            }
            if !suspect.left.is_empty() {
                break;
            }
        }
        lot
    }

    /// What stood for events of the lot is settled, or void.
    pub fn settled(&mut self, stand_in: DeliveryId) {
        if self.lot.remove(&stand_in) {
            self.lot_ended |= self.lot.is_empty();
        }
    }

    /// The process lives, though the sessions that made deliveries of these messages are gone: however often they come to it, it
    /// was not by them that it died.
    pub fn survived(&mut self, message_ids: impl IntoIterator<Item = String>) {
        let all = |id| (id, u32::MAX);
        self.add_harmless(message_ids.into_iter().map(all));
    }

    /// Learns what workers gave back when they stopped: each message had come so often before, and did no harm by coming once
    /// more.
    pub fn read(&mut self, note: &Note) {
        for entry in &note.entries {
            if let Entry::GivenBack(messages) = entry {
                let with_last =
                    |(id, before): &(String, u32)| (id.clone(), before.saturating_add(1));
                self.add_harmless(messages.iter().map(with_last));
            }
        }
    }

    fn add_harmless(&mut self, messages: impl Iterator<Item = (String, u32)>) {
        if self.harmless.len() >= HARMLESS_MAX {
            self.harmless.clear();
        }
        for (id, deliveries) in messages {
            let known = self.harmless.entry(id).or_default();
            *known = deliveries.max(*known);
        }
    }

    /// What waits here or is being tried: what came `only` from there, or all.
    pub fn deliveries(&self, only: Option<Source>) -> impl Iterator<Item = &D> {
        let suspects = self.waiting.iter();
        let suspects = suspects.map(|suspect| (&suspect.delivery, suspect.from));
        let held = self.held.iter().map(|(delivery, from)| (delivery, *from));
        let all = suspects.chain(held);
        let meant = all.filter(move |(_, from)| only.is_none_or(|only| only == *from));
        meant.map(|(delivery, _)| delivery)
    }

    /// Lets go of what came `only` from there, or of all, and returns it: it comes again.
    #[must_use]
    pub fn abandon(&mut self, only: Option<Source>) -> Vec<D> {
        let is_meant = |from: Source| only.is_none_or(|only| only == from);
        let (mut gone, mut held) = (Vec::new(), VecDeque::new());
        for (delivery, from) in self.held.drain(..) {
            match is_meant(from) {
                true => gone.push(delivery),
                false => held.push_back((delivery, from)),
            }
        }
        let mut waiting = VecDeque::new();
        for suspect in self.waiting.drain(..) {
            match is_meant(suspect.from) {
                true => gone.push(suspect.delivery),
                false => waiting.push_back(suspect),
            }
        }
        (self.held, self.waiting) = (held, waiting);
        self.held_since = self.held_since.filter(|_| !self.held.is_empty());
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::tests::created;

    const TRIED_TWICE: &str = "7";

    fn ms(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    fn events(ids: impl IntoIterator<Item = usize>) -> Vec<Event> {
        let created = |id: usize| created(&id.to_string(), 0);
        ids.into_iter().map(created).collect()
    }

    /// Begins a lot; events of record 7 were tried twice. The sizes of its parts, and what stands for them.
    fn begin(suspects: &mut Suspects<&'static str>, last: &mut u64) -> Vec<(DeliveryId, usize)> {
        let tries = |event: &Event| match event.subject().object_id.as_str() == TRIED_TWICE {
            true => 2,
            false => 0,
        };
        let lot = suspects.begin(true, tries, |_, _, _| {
            *last += 1;
            DeliveryId(*last)
        });
        let sized = lot.into_iter().map(|(id, events)| (id, events.len()));
        sized.collect()
    }

    fn end(suspects: &mut Suspects<&'static str>, lot: Vec<(DeliveryId, usize)>) -> Vec<usize> {
        let each = lot.into_iter().map(|(id, size)| {
            assert!(suspects.next(ms(0), false).is_none(), "it is being tried");
            suspects.settled(id);
            size
        });
        each.collect()
    }

    #[test]
    fn deliveries_that_killed_nobody_do_not_count() {
        let mut suspects = Suspects::<()>::default();
        let given_back = Note::of_shell(Entry::GivenBack(vec![("a".to_owned(), 1)]));
        assert!(!suspects.came_too_often("a", 1));
        assert!(suspects.came_too_often("a", 2));
        suspects.read(&given_back);
        assert!(!suspects.came_too_often("a", 3), "one killed, perhaps");
        assert!(suspects.came_too_often("a", 4));
        suspects.survived(["a".to_owned()]);
        suspects.read(&given_back);
        assert!(!suspects.came_too_often("a", 100), "we live");
    }

    #[test]
    fn suspects_are_tried_in_lots_and_the_rest_waits() {
        let mut suspects = Suspects::default();
        suspects.add("a", Source::Intake, events(100..700));
        suspects.add("b", Source::Backlog, events(700..1_300));
        suspects.hold(ms(0), "c", Source::Intake);
        assert!(suspects.are_there());
        assert_eq!(suspects.next(ms(0), false), None, "something is under way");
        assert_eq!(suspects.next(ms(0), true), Some(Step::Ask));
        assert_eq!(suspects.next(ms(0), true), None, "it has asked");
        let mut last = 0;
        let lot = begin(&mut suspects, &mut last);
        assert_eq!(end(&mut suspects, lot), [600, 400]);
        assert_eq!(suspects.next(ms(0), true), Some(Step::Settle("a")));
        assert_eq!(suspects.next(ms(0), true), Some(Step::Ask));
        let lot = begin(&mut suspects, &mut last);
        assert_eq!(end(&mut suspects, lot), [200]);
        assert_eq!(suspects.next(ms(0), true), Some(Step::Settle("b")));
        let held = Some(Step::Take("c", Source::Intake));
        assert_eq!(suspects.next(ms(0), true), held);
        assert_eq!(suspects.next(ms(0), true), None);
        assert!(!suspects.are_there());
    }

    #[test]
    fn the_more_often_an_event_was_tried_the_fewer_are_tried_with_it() {
        let mut suspects = Suspects::default();
        suspects.add("a", Source::Intake, events([1, 2, 7, 3, 7, 7, 4]));
        let (mut last, mut sizes) = (0, Vec::new());
        while suspects.next(ms(0), true) == Some(Step::Ask) {
            let lot = begin(&mut suspects, &mut last);
            sizes.extend(end(&mut suspects, lot));
        }
        // Whatever comes after the most tried one of a lot waits for the next.
        assert_eq!(sizes, [2, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn neighbours_that_were_held_back_for_long_are_taken_up_before_the_next_lot() {
        let mut suspects = Suspects::default();
        suspects.add("a", Source::Intake, events([7, 7, 7]));
        suspects.hold(ms(0), "b", Source::Intake);
        suspects.hold(ms(1), "c", Source::Backlog);
        let long = ms(0).after(HELD_MAX);
        let mut last = 0;
        assert_eq!(suspects.next(long, true), Some(Step::Ask), "a lot first");
        let lot = begin(&mut suspects, &mut last);
        end(&mut suspects, lot);
        let early = ms(0).after(HELD_MAX / 2);
        assert_eq!(suspects.next(early, true), Some(Step::Ask));
        let lot = begin(&mut suspects, &mut last);
        end(&mut suspects, lot);
        let held = Some(Step::Take("b", Source::Intake));
        assert_eq!(suspects.next(long, true), held);
        let held = Some(Step::Take("c", Source::Backlog));
        assert_eq!(suspects.next(long, false), held);
        assert_eq!(suspects.next(long, false), None, "they are under way");
        suspects.hold(long, "d", Source::Intake);
        assert_eq!(suspects.next(long, true), Some(Step::Ask));
    }

    #[test]
    fn neighbours_are_taken_up_at_last_though_something_does_not_end() {
        let mut suspects = Suspects::default();
        suspects.add("a", Source::Intake, events([1]));
        suspects.hold(ms(0), "b", Source::Intake);
        let mut now = ms(0).after(HELD_MAX);
        assert_eq!(suspects.next(now, false), None);
        for next in ["c", "d"] {
            now = now.after(HELD_IN_VAIN_MAX);
            assert!(matches!(suspects.next(now, false), Some(Step::Take(..))));
            assert_eq!(suspects.next(now, false), None);
            suspects.hold(now, next, Source::Intake);
        }
        assert_eq!(suspects.next(now, true), Some(Step::Ask), "it has ended");
    }

    #[test]
    fn nothing_is_tried_that_has_become_void_or_beside_others() {
        let mut suspects = Suspects::default();
        suspects.add("a", Source::Backlog, events([1]));
        suspects.add("b", Source::Intake, events([2]));
        suspects.hold(ms(0), "c", Source::Backlog);
        assert_eq!(suspects.next(ms(0), true), Some(Step::Ask));
        let stand_in = |_: &&str, _, _: &[Event]| DeliveryId(1);
        assert!(suspects.begin(false, |_| 0, stand_in).is_empty());
        assert_eq!(suspects.next(ms(0), true), Some(Step::Ask), "again");
        assert_eq!(suspects.abandon(Some(Source::Backlog)), ["c", "a"]);
        let lot = suspects.begin(true, |_| 0, stand_in);
        assert_eq!(lot.len(), 1);
        assert_eq!(suspects.abandon(None), ["b"]);
        suspects.settled(DeliveryId(1));
        assert_eq!(suspects.next(ms(0), true), None);
        assert!(suspects.begin(true, |_| 0, stand_in).is_empty());
    }

    #[test]
    fn what_the_process_survived_is_no_suspect() {
        let mut suspects = Suspects::<()>::default();
        assert!(suspects.came_too_often("a", 2));
        suspects.survived(["a".to_owned()]);
        assert!(!suspects.came_too_often("a", 2));
        assert!(!suspects.came_too_often("b", 1));
    }
}
