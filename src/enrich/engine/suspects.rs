//! Events that may have killed their worker.
//!
//! The shell knows which deliveries came too often without anybody living to tell, and hands their events in by lots,
//! with nothing else under way. That an event is tried is noted before; so if the worker dies by it, whoever
//! comes next knows. An event that was tried too often without an end becomes a dead letter.

use crate::enrich::effects::Publishing;
use crate::enrich::ledger::Fate;
use crate::enrich::protocol::{DeliveryId, Ending, Output, PublishId, Source};
use crate::enrich::suspects::TRIES_MAX;
use crate::event::{DeadLetter, DeadLetterReason, Event, EventId, Millis, Stage};

use super::{Engine, Live};

/// Events of one delivery that are tried.
#[derive(Debug)]
pub(super) struct Trial {
    ids: Vec<EventId>,
    begun: Millis,
    /// The events themselves, until it is noted that they are tried.
    to_come: Option<Vec<Event>>,
}

impl Engine {
    /// How often an event was tried as a suspect; 0 once it has ended. If it was, it is one wherever it comes from.
    #[must_use]
    pub fn tries(&self, event: &Event) -> u8 {
        let known_as = event.known_as();
        // First what is hardly ever so: every event that comes is asked for this.
        match self.memory.tries(&known_as) {
            tries if tries > 0 && !self.memory.has_seen(&known_as) => tries,
            _ => 0,
        }
    }

    /// Notes that the events of a lot are tried, and tries them then; or buries what was tried too often.
    pub(super) fn suspects(&mut self, now: Millis, lot: Vec<(DeliveryId, Vec<Event>)>) {
        for (delivery, events) in lot {
            self.enter_in_ledger(now, &events);
            match <[Event; 1]>::try_from(events) {
                Ok([event]) if self.tries(&event) >= TRIES_MAX && !self.may_be_dropped(&event) => {
                    self.bury_suspect(now, delivery, event);
                }
                Ok([event]) => self.note_trial(now, delivery, vec![event]),
                Err(events) => self.note_trial(now, delivery, events),
            }
        }
    }

    fn note_trial(&mut self, now: Millis, delivery: DeliveryId, events: Vec<Event>) {
        let is_tried = |event: &&Event| {
            !self.memory.has_seen(&event.known_as()) && !self.may_be_dropped(event)
        };
        let tried = events.iter().filter(is_tried);
        let ids: Vec<_> = tried.map(|event| event.known_as().into_owned()).collect();
        if ids.is_empty() {
            self.batch(now, delivery, events, Source::Intake);
            return;
        }
        for id in &ids {
            let tries = self.memory.tries(id).saturating_add(1);
            self.memory.note_tries(id, tries, now);
        }
        let trial = Trial {
            ids,
            begun: now,
            to_come: Some(events),
        };
        self.trials.insert(delivery, trial);
        self.changelog.settle(delivery);
        self.changelog.hurry();
    }

    /// Takes up what is noted to be tried. There is room, since nothing else is under way.
    pub(super) fn take_up(&mut self, now: Millis, delivery: DeliveryId, events: Vec<Event>) {
        if let Some(first) = events.first() {
            self.become_active(now, first.waits_since());
            self.admit(now, delivery, events);
        }
    }

    /// The events that `delivery` stands for, if they waited for the note of their trial.
    pub(super) fn take_noted_suspects(&mut self, delivery: DeliveryId) -> Option<Vec<Event>> {
        self.trials.get_mut(&delivery)?.to_come.take()
    }

    /// All that `delivery` stands for has ended.
    pub(super) fn end_trial(&mut self, delivery: DeliveryId) {
        if self.trials.remove(&delivery).is_some() && self.trials.is_empty() {
            self.changelog.hurry();
        }
    }

    /// What is tried as `delivery` has not ended, but the worker lives: it is not to blame.
    pub(super) fn survive_trial(&mut self, delivery: DeliveryId) {
        if let Some(trial) = self.trials.remove(&delivery) {
            for id in trial.ids {
                self.memory.note_tries(&id, 0, trial.begun);
            }
        }
    }

    /// The same for all that is tried.
    pub(super) fn survive_trials(&mut self) {
        let deliveries: Vec<_> = self.trials.keys().copied().collect();
        for delivery in deliveries {
            self.survive_trial(delivery);
        }
    }

    fn bury_suspect(&mut self, now: Millis, delivery: DeliveryId, event: Event) {
        self.admission
            .admit(delivery, std::slice::from_ref(&event), now);
        let live = Live {
            portal_id: event.portal_id.clone(),
            deliveries: vec![delivery],
            waits_since: event.waits_since(),
            parts: 1,
            ending: Ending::Unwanted,
            enriched: Fate::of_all(Ending::Unwanted),
            plain: Some(Fate::of_all(Ending::Dead)),
        };
        self.live.insert(event.known_as().into_owned(), live);
        let publish = PublishId(self.effects.next_id());
        let publishing = Publishing::Suspect(event.known_as().into_owned());
        self.publishes
            .insert(publish, (event.portal_id.clone(), publishing));
        let detail = format!(
            "the worker died {TRIES_MAX} times while it did nothing but this and what came with it"
        );
        let reason = DeadLetterReason::KilledWorker;
        let letter = DeadLetter::new(Stage::Enrich, reason, detail, now).with_events(vec![event]);
        self.effects.outputs.push_back(Output::Bury {
            publish,
            letter: Box::new(letter),
        });
    }
}
