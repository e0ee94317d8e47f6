//! Messages and notes, until the engine knows that they are where they should be.

use std::time::Duration;

use crm_relay::enrich::{NoteId, PublishId};

use super::{Happening, Publishing, World};

impl World {
    /// The broker takes a message and confirms it; or takes it and the confirm is lost; or refuses it.
    pub(super) fn try_publish(
        &mut self,
        publish: PublishId,
        what: Publishing,
        tries: u32,
    ) -> Result<(), String> {
        let life = self.life;
        let refused = self.dice.chance(self.weather.refused_publish);
        if !refused {
            match &what {
                Publishing::Message(message) => self.checks.landed(message, &self.hubspot)?,
                Publishing::Letter(letter) => {
                    self.checks.buried(letter);
                    self.bus.letters.push((**letter).clone());
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
