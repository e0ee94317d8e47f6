//! What a shell does with deliveries that may have killed a worker: lots of their events are tried, with nothing else under way.

use std::time::Duration;

use crm_relay::enrich::{DeliveryId, Entry, HELD_MAX, Input, Note, Source, Step};
use crm_relay::event::Event;

use super::bus::Taken;
use super::{STUCK_AFTER, World};

/// When all is well, nothing is held back for suspects for longer: what was under way ends, neighbours have waited
/// for long, and the lot ends that is being tried.
const HELD_BACK_MAX: Duration = HELD_MAX.saturating_add(STUCK_AFTER.saturating_mul(2));

impl World {
    pub(super) fn is_suspect(&self, tag: u64) -> bool {
        let Some(Taken { message, .. }) = self.bus.unsettled.get(&tag) else {
            return false;
        };
        let id = message.id.to_string();
        let mut events = message.events.iter();
        self.suspects.came_too_often(&id, message.count)
            || events.any(|event| self.engine.tries(event) > 0)
    }

    /// The process lives, though what is in its hands is void.
    pub(super) fn survive(&mut self) {
        let taken = self.bus.unsettled.values();
        let ids: Vec<_> = taken.map(|taken| taken.message.id.to_string()).collect();
        self.suspects.survived(ids);
    }

    pub(super) fn note_what_is_given_back(&mut self) {
        let taken = self.bus.unsettled.values();
        let whole = taken.filter(|taken| taken.stands_for.is_none());
        let messages = whole.map(|taken| (taken.message.id.to_string(), taken.message.count));
        let note = Note::of_shell(Entry::GivenBack(messages.collect()));
        self.notes.push(note.encode());
    }

    /// Goes on with suspects, and with what was held back for them. Whether there was something to do.
    pub(super) fn try_suspects(&mut self) -> Result<bool, String> {
        let mut did_something = false;
        while let Some(step) = self.suspects.next(self.now, self.is_free()) {
            match step {
                Step::Ask => self.try_lot()?,
                Step::Settle(tag) => self.settle_suspect(tag)?,
                Step::Take(tag, _) => self.take_held(tag)?,
            }
            did_something = true;
        }
        Ok(did_something)
    }

    fn is_free(&self) -> bool {
        self.bus.unsettled.len() == self.suspects.deliveries(None).count() && self.engine.is_idle()
    }

    fn try_lot(&mut self) -> Result<(), String> {
        let is_free = self.is_free();
        let (bus, engine, now) = (&mut self.bus, &self.engine, self.now);
        let tries = |event: &Event| engine.tries(event);
        let stand_in = |suspect: &u64, from: Source, events: &[Event]| {
            let message = bus.message(events.to_vec());
            bus.last_tag += 1;
            let taken = Taken {
                from,
                since: now,
                message,
                stands_for: Some(*suspect),
            };
            bus.unsettled.insert(bus.last_tag, taken);
            DeliveryId(bus.last_tag)
        };
        let lot = self.suspects.begin(is_free, tries, stand_in);
        let size: usize = lot.iter().map(|(_, events)| events.len()).sum();
        self.coverage.note_if(size == 1, "suspect alone");
        self.coverage.note_if(size > 1, "suspects together");
        self.tell(Input::Suspects(lot))
    }

    fn take_held(&mut self, tag: u64) -> Result<(), String> {
        let waited = self.bus.unsettled.get(&tag);
        let waited = waited.map(|taken| self.now.since(taken.since));
        if self.weather.fair && waited.is_some_and(|waited| waited > HELD_BACK_MAX) {
            return Err(format!(
                "delivery {tag} waited for suspects for {waited:?}, though all was well"
            ));
        }
        self.coverage.note("held back");
        self.hand_over(tag)
    }

    /// All events of a suspect have ended, but for those that were set aside.
    fn settle_suspect(&mut self, tag: u64) -> Result<(), String> {
        let aside = self.bus.aside.remove(&tag).unwrap_or_default();
        let Some(taken) = self.bus.unsettled.remove(&tag) else {
            return Ok(());
        };
        let mut ended = taken.message.events.clone();
        ended.retain(|event| !aside.contains(&*event.known_as()));
        self.checks.acknowledged(&ended, &self.hubspot)?;
        self.bus.acked.push((self.now, taken));
        Ok(())
    }
}
