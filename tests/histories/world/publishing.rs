//! Messages and notes, until the engine knows that they are where they should be.

use std::sync::Arc;
use std::time::Duration;

use crm_relay::enrich::{NoteId, PublishId};
use crm_relay::event::{Audience, DeadLetter, DeadLetterReason, Event, EventId, Replay, Stage};

use super::{Happening, Publishing, World};
use crate::ledger::ALL;

impl World {
    /// The broker takes a message and confirms it; or takes it and the confirm is lost; or refuses it.
    pub(super) fn try_publish(
        &mut self,
        publish: PublishId,
        what: Publishing,
        tries: u32,
    ) -> Result<(), String> {
        let life = self.life;
        let what = self.refuse_copy(what);
        let refused = self.dice.chance(self.weather.refused_publish);
        if !refused {
            match &what {
                Publishing::Message(message) => self.checks.landed(message, &self.hubspot)?,
                Publishing::Letter(letter) => {
                    self.checks.buried(letter);
                    self.bury(letter);
                }
                Publishing::Search(erasure) => self.bus.search(erasure),
                Publishing::Plain(_) => {}
            }
        }
        let unheard = self.dice.chance(self.weather.lost_confirm);
        self.coverage.note_if(refused, "publish refused");
        self.coverage.note_if(unheard && !refused, "confirm lost");
        if refused || unheard {
            let delay = Duration::from_millis(200 << tries.min(5));
            self.schedule(
                delay,
                Happening::Try {
                    life,
                    publish,
                    what,
                    tries: tries + 1,
                },
            );
        } else {
            let slow = self.dice.chance(self.weather.slow_confirm);
            self.coverage.note_if(slow, "confirm late");
            let delay = if slow {
                self.dice.millis(100, 20_000)
            } else {
                self.dice.millis(0, 30)
            };
            self.schedule(
                delay,
                Happening::Confirm {
                    life,
                    publish,
                    what,
                },
            );
        }
        Ok(())
    }

    /// The destination is full, and its copy becomes a dead letter; or it is not.
    fn refuse_copy(&mut self, what: Publishing) -> Publishing {
        match what {
            Publishing::Message(message) if self.dice.chance(self.weather.full) => {
                self.coverage.note("copy refused");
                self.checks.refused(&message);
                let reason = DeadLetterReason::DestinationFull;
                let letter = DeadLetter::new(Stage::FanOut, reason, "full".to_owned(), self.now);
                Publishing::Letter(Box::new(letter.with_enriched_event(ALL, *message)))
            }
            other => other,
        }
    }

    /// A dead letter arrives. What the destination did not take is replayed some time later.
    fn bury(&mut self, letter: &DeadLetter) {
        self.bus.letters.push(letter.clone());
        if letter.reason == DeadLetterReason::DestinationFull {
            let delay = self.dice.millis(1_000, 120_000);
            self.schedule(delay, Happening::Replay(letter.failure_id()));
        }
    }

    /// The events of a dead letter go back to the intake, for its destination alone.
    pub(super) fn replay(&mut self, failure: &EventId) {
        let letters = &mut self.bus.letters;
        let is_it = |letter: &DeadLetter| letter.failure_id() == *failure;
        // It may have been taken away since its record is erased.
        let Some(place) = letters.iter().position(is_it) else {
            return;
        };
        let letter = letters.remove(place);
        self.coverage.note("replay");
        let replay = Arc::new(Replay {
            of: letter.failure_id(),
            at: self.now,
            audience: Audience::Destination(ALL.to_owned()),
        });
        let copy = letter.enriched_event.map(|copy| copy.data.events);
        let events = copy.unwrap_or(letter.events).into_iter();
        let events: Vec<Event> = events
            .map(|event| Event {
                replay: Some(replay.clone()),
                value: None,
                ..event
            })
            .collect();
        events.iter().for_each(|event| self.checks.accept(event));
        let message = self.bus.message(events);
        self.bus.intake.push_back(message);
    }

    /// The changelog takes a note, and says so; or takes it and is not heard; or does not take it.
    pub(super) fn write_note(&mut self, id: NoteId, note: Vec<u8>, tries: u32) {
        let life = self.life;
        let refused = self.dice.chance(self.weather.refused_publish);
        if !refused {
            self.notes.push(note.clone());
        }
        if refused || self.dice.chance(self.weather.lost_confirm) {
            let delay = Duration::from_millis(200 << tries.min(5));
            self.schedule(
                delay,
                Happening::Noting {
                    life,
                    id,
                    note,
                    tries: tries + 1,
                },
            );
        } else {
            let delay = self.dice.millis(0, 30);
            self.schedule(delay, Happening::Noted { life, id });
        }
    }

    pub(super) fn publish(&mut self, publish: PublishId, what: Publishing) {
        let (life, delay) = (self.life, self.dice.millis(0, 10));
        self.schedule(
            delay,
            Happening::Try {
                life,
                publish,
                what,
                tries: 0,
            },
        );
    }
}
