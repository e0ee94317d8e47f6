//! Events that may have killed their worker.
//!
//! The shell knows which deliveries came too often without anybody living to tell, and hands their events in one by one,
//! with nothing else under way. That an event is tried is noted before; so if the worker dies by it, whoever
//! comes next knows. An event that was tried too often without an end becomes a dead letter.

use crate::enrich::effects::Publishing;
use crate::enrich::ledger::Fate;
use crate::enrich::protocol::{DeliveryId, Ending, Output, PublishId, Source};
use crate::event::{DeadLetter, DeadLetterReason, Event, EventId, Millis, Stage};

use super::{Engine, Live};

/// An event that is tried alone.
#[derive(Debug)]
pub(super) struct Trial {
    /// Stands for the event.
    delivery: DeliveryId,
    id: EventId,
    begun: Millis,
    /// The event itself, until it is noted that it is tried.
    to_come: Option<Event>,
}

/// How often an event is tried alone. A worker that dies meanwhile by something else is no fault of the event; but that may
/// be another event, which does so twice before it is a suspect itself, and not more.
pub const TRIES_MAX: u8 = 3;

impl Engine {
    /// Whether an event was tried as a suspect and has not ended, so that it is one wherever it comes from.
    #[must_use]
    pub fn is_suspect(&self, event: &Event) -> bool {
        self.memory.tries(&event.known_as()) > 0 && !self.memory.has_seen(&event.known_as())
    }

    /// Notes that an event is tried, and tries it then; or buries it when it was tried too often.
    pub(super) fn suspect(&mut self, now: Millis, delivery: DeliveryId, event: Event) {
        if self.memory.has_seen(&event.known_as()) || self.may_be_dropped(&event) {
            self.batch(now, delivery, vec![event], Source::Intake);
            return;
        }
        self.enter_in_ledger(now, std::slice::from_ref(&event));
        if self.memory.tries(&event.known_as()) >= TRIES_MAX {
            self.bury_suspect(now, delivery, event);
            return;
        }
        let tries = self.memory.tries(&event.known_as()) + 1;
        self.memory.note_tries(&event.known_as(), tries, now);
        self.trial = Some(Trial {
            delivery,
            id: event.known_as().into_owned(),
            begun: now,
            to_come: Some(event),
        });
        self.changelog.settle(delivery);
        self.changelog.hurry();
    }

    /// The event that `delivery` stands for, if it waited for the note of its trial.
    pub(super) fn take_noted_suspect(&mut self, delivery: DeliveryId) -> Option<Event> {
        let trial = self.trial.as_mut();
        trial
            .filter(|trial| trial.delivery == delivery)?
            .to_come
            .take()
    }

    /// Whether `delivery` stands for the event that is being tried.
    pub(super) fn is_tried(&self, delivery: DeliveryId) -> bool {
        let trial = self.trial.as_ref();
        trial.is_some_and(|trial| trial.delivery == delivery)
    }

    /// The event that was tried has not ended, but the worker lives: it is not to blame.
    pub(super) fn survive_trial(&mut self) {
        if let Some(trial) = self.trial.take() {
            self.memory.note_tries(&trial.id, 0, trial.begun);
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
        let detail = format!("the worker died {TRIES_MAX} times while it did nothing but this");
        let reason = DeadLetterReason::KilledWorker;
        let letter = DeadLetter::new(Stage::Enrich, reason, detail, now).with_events(vec![event]);
        self.effects.outputs.push_back(Output::Bury {
            publish,
            letter: Box::new(letter),
        });
    }
}
