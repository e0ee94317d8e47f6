//! What a shell does with deliveries that may have killed a worker: they are tried event by event, with nothing else under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crm_relay::enrich::{DeliveryId, Input, Source};
use crm_relay::event::{Event, EventId};

use super::World;
use super::bus::{Bus, Taken};

/// From so many deliveries before on, one is a suspect.
const SUSPECT_FROM: u32 = 2;
/// From so many on, it is tried event by event.
const SINGLY_FROM: u32 = 4;
/// The most that are tried together.
const GROUP_MAX: usize = 16;

#[derive(Default)]
pub(super) struct Suspects {
    /// Messages that were in hand when a session broke and the process lived.
    survived: BTreeSet<u64>,
    /// Suspects, and other deliveries that wait meanwhile, by tag.
    pub(super) waiting: VecDeque<u64>,
    pub(super) held: VecDeque<u64>,
    /// Suspects that are tried together.
    group: BTreeSet<u64>,
    trial: Option<Trial>,
}

/// A delivery that is being tried event by event.
struct Trial {
    tag: u64,
    left: VecDeque<Event>,
    /// What stands for the event under way, and its message.
    event: Option<(u64, u64)>,
    /// Events that were set aside.
    aside: BTreeSet<EventId>,
}

impl Suspects {
    pub(super) fn are_there(&self) -> bool {
        self.trial.is_some() || !self.group.is_empty() || !self.waiting.is_empty()
    }

    pub(super) fn survive(&mut self, bus: &Bus) {
        let taken = bus.unsettled.values();
        self.survived.extend(taken.map(|taken| taken.message.id));
    }

    /// Deliveries are void, all but these. Returns the message that only stood for an event of such a one.
    pub(super) fn forget(&mut self, left: &BTreeMap<u64, Taken>) -> Option<u64> {
        let trial = self.trial.take_if(|trial| !left.contains_key(&trial.tag));
        let (_, message) = trial?.event?;
        Some(message)
    }
}

impl World {
    pub(super) fn is_suspect(&self, tag: u64) -> bool {
        let Some(Taken { message, .. }) = self.bus.unsettled.get(&tag) else {
            return false;
        };
        let too_often =
            message.count >= SUSPECT_FROM && !self.suspects.survived.contains(&message.id);
        too_often || message.events.iter().any(|one| self.engine.is_suspect(one))
    }

    /// Goes on with suspects, and with what waits for them.
    pub(super) fn try_suspects(&mut self) -> Result<(), String> {
        loop {
            let known = &self.bus.unsettled;
            self.suspects.waiting.retain(|tag| known.contains_key(tag));
            self.suspects.held.retain(|tag| known.contains_key(tag));
            self.suspects.group.retain(|tag| known.contains_key(tag));
            let Some(trial) = &mut self.suspects.trial else {
                if !self.suspects.group.is_empty() {
                    return Ok(());
                }
                if let Some(tag) = self.next_suspect() {
                    if !self.begin_group()? {
                        self.begin(tag);
                    }
                    continue;
                }
                let next = match self.suspects.waiting.is_empty() {
                    true => self.suspects.held.pop_front(),
                    false => None,
                };
                let Some(tag) = next else { return Ok(()) };
                self.hand_over(tag)?;
                continue;
            };
            if trial.event.is_some() {
                return Ok(());
            }
            let tag = trial.tag;
            match trial.left.pop_front() {
                Some(event) => self.try_event(tag, event)?,
                None => self.end_trial()?,
            }
        }
    }

    /// The next suspect, when nothing else is under way.
    fn next_suspect(&self) -> Option<u64> {
        let waiting = self.suspects.waiting.len() + self.suspects.held.len();
        let is_free = self.bus.unsettled.len() == waiting && self.engine.is_idle();
        self.suspects.waiting.front().copied().filter(|_| is_free)
    }

    /// Tries those together that came only a few times. Whether there are any.
    fn begin_group(&mut self) -> Result<bool, String> {
        let is_whole = |tag: &u64| {
            let message = &self.bus.unsettled[tag].message;
            let tried = message.events.iter().any(|one| self.engine.is_suspect(one));
            message.count < SINGLY_FROM && !tried
        };
        let waiting = self.suspects.waiting.iter().copied();
        let group: BTreeSet<u64> = waiting.filter(is_whole).take(GROUP_MAX).collect();
        self.suspects.waiting.retain(|tag| !group.contains(tag));
        self.suspects.group.clone_from(&group);
        for tag in &group {
            self.coverage.note("suspects together");
            self.hand_over(*tag)?;
        }
        Ok(!group.is_empty())
    }

    fn begin(&mut self, tag: u64) {
        self.suspects.waiting.pop_front();
        let left = self.bus.unsettled.get(&tag);
        let left = left.map(|taken| taken.message.events.clone());
        self.coverage.note("suspect");
        self.suspects.trial = Some(Trial {
            tag,
            left: left.unwrap_or_default().into(),
            event: None,
            aside: BTreeSet::new(),
        });
    }

    fn try_event(&mut self, tag: u64, event: Event) -> Result<(), String> {
        let from = self.bus.unsettled.get(&tag).map(|taken| taken.from);
        let message = self.bus.message(vec![event.clone()]);
        self.bus.last_tag += 1;
        let stands_for = self.bus.last_tag;
        if let Some(trial) = &mut self.suspects.trial {
            trial.event = Some((stands_for, message.id));
        }
        let taken = Taken {
            from: from.unwrap_or(Source::Intake),
            since: self.now,
            message,
        };
        self.bus.unsettled.insert(stands_for, taken);
        let event = Box::new(event);
        let delivery = DeliveryId(stands_for);
        self.tell(Input::Suspect { delivery, event })
    }

    /// Whether a tag stands for the event that is being tried; if so it is done with.
    pub(super) fn is_tried(&mut self, tag: u64, aside: Option<&EventId>) -> bool {
        let Some(trial) = &mut self.suspects.trial else {
            return false;
        };
        let is_it = trial.event.take_if(|(event, _)| *event == tag).is_some();
        if is_it {
            trial.aside.extend(aside.cloned());
        }
        is_it
    }

    fn end_trial(&mut self) -> Result<(), String> {
        let Some(trial) = self.suspects.trial.take() else {
            return Ok(());
        };
        let Some(taken) = self.bus.unsettled.remove(&trial.tag) else {
            return Ok(());
        };
        let mut ended = taken.message.events.clone();
        ended.retain(|event| !trial.aside.contains(&*event.known_as()));
        self.checks.acknowledged(&ended, &self.hubspot)?;
        self.bus.acked.push((self.now, taken));
        Ok(())
    }
}
