//! The bus, and what goes wrong on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crm_relay::enrich::{DeliveryId, Engine, Input, Note, Source, Suspects};
use crm_relay::event::{DeadLetter, Erased, Erasure, Event, EventId, Millis, Searched};

use super::{Happening, LIVES_MAX, World};

/// An acknowledgement younger than this may not have reached the broker when the session breaks.
const ACK_TRAVELS: Duration = Duration::from_millis(20);

/// A batch as the bus holds it.
#[derive(Clone)]
pub(super) struct Message {
    /// Tells it from others.
    pub(super) id: u64,
    pub(super) events: Vec<Event>,
    /// How often it was delivered before.
    pub(super) count: u32,
}

pub(super) struct Taken {
    pub(super) from: Source,
    pub(super) since: Millis,
    pub(super) message: Message,
    /// The suspect whose events it stands for.
    pub(super) stands_for: Option<u64>,
}

#[derive(Default)]
pub(super) struct Bus {
    pub(super) intake: VecDeque<Message>,
    pub(super) backlog: VecDeque<Message>,
    /// The dead letters.
    pub(super) letters: Vec<DeadLetter>,
    pub(super) unsettled: BTreeMap<u64, Taken>,
    /// Events of suspects that were set aside.
    pub(super) aside: BTreeMap<u64, BTreeSet<EventId>>,
    /// Acknowledged just now.
    pub(super) acked: Vec<(Millis, Taken)>,
    pub(super) last_tag: u64,
    pub(super) last_message: u64,
    pub(super) connected: bool,
    pub(super) backlog_open: bool,
}

impl Bus {
    /// A message that was never delivered.
    pub(super) fn message(&mut self, events: Vec<Event>) -> Message {
        self.last_message += 1;
        Message {
            id: self.last_message,
            events,
            count: 0,
        }
    }

    /// A pass over the dead letters, as a worker makes it.
    pub(super) fn search(&mut self, erasure: &Erasure) {
        let mut erased = Erased::default();
        erased.add(erasure.clone());
        let letters = std::mem::take(&mut self.letters).into_iter();
        let left = letters.filter_map(|letter| match erased.search(&letter) {
            Searched::Untouched => Some(letter),
            Searched::Cut(rest, _) => Some(rest),
            Searched::Gone => None,
        });
        self.letters = left.collect();
    }
}

impl World {
    /// What goes wrong between relay and broker.
    pub(super) fn strike(&mut self) -> Result<(), String> {
        if self.dice.chance(self.weather.crash) {
            self.coverage.note("crash");
            self.crash();
        } else if self.dice.chance(self.weather.stop) {
            self.coverage.note("stopped");
            self.note_what_is_given_back();
            self.crash();
        } else if self.bus.connected && self.dice.chance(self.weather.lost_session) {
            self.coverage.note("session lost");
            self.lose_session();
            self.tell(Input::Lost)?;
        } else if self.bus.backlog_open && self.dice.chance(self.weather.lost_backlog) {
            self.coverage.note("backlog's session lost");
            self.survive();
            self.give_back(Some(Source::Backlog));
            self.checks.disturbed = true;
        } else if self.weather.revoked > 0 && self.dice.chance(self.weather.revoked) {
            self.coverage.note("portal changed");
            let portals: Vec<_> = self.hubspot.portals.keys().cloned().collect();
            if let Some(portal_id) = self.dice.pick(&portals).cloned() {
                self.tell(Input::PortalChanged(portal_id))?;
            }
        }
        Ok(())
    }

    /// The process is gone, and another one starts.
    pub(super) fn crash(&mut self) {
        self.trace(|| "crash".to_owned());
        self.life += 1;
        self.lose_session();
        self.suspects = Suspects::default();
        self.engine = Engine::new(self.plans.clone(), self.seed * LIVES_MAX + self.life)
            .with_budget_share(self.share)
            .with_window(self.weather.window);
        self.notes_read = 0;
        self.restore();
        self.checks.new_life();
    }

    /// The engine and its shell read the notes that they have not read, their own among them.
    pub(super) fn restore(&mut self) {
        let unread = self.notes_read..;
        self.notes_read = self.notes.len();
        for note in &self.notes[unread] {
            match Note::decode(note) {
                Ok(note) => {
                    self.suspects.read(&note);
                    self.engine.restore(note);
                }
                Err(error) => panic!("a note cannot be read: {error}"),
            }
        }
    }

    pub(super) fn lose_session(&mut self) {
        self.trace(|| "session lost".to_owned());
        self.checks.disturbed = true;
        self.bus.connected = false;
        self.bus.backlog_open = false;
        self.survive();
        self.give_back(None);
        let delay = self.dice.millis(100, 5_000);
        let life = self.life;
        self.schedule(delay, Happening::Connect { life });
    }

    /// The broker takes back what is not settled, and what it has no acknowledgement of.
    pub(super) fn give_back(&mut self, only: Option<Source>) {
        let bus = &mut self.bus;
        let is_meant = |taken: &Taken| only.is_none_or(|only| only == taken.from);
        let acked = std::mem::take(&mut bus.acked).into_iter();
        let young =
            acked.filter(|(at, taken)| self.now.since(*at) < ACK_TRAVELS && is_meant(taken));
        let unsettled: Vec<_> = bus
            .unsettled
            .extract_if(.., |_, taken| is_meant(taken))
            .collect();
        for (tag, _) in &unsettled {
            self.suspects.settled(DeliveryId(*tag));
        }
        let _ = self.suspects.abandon(only);
        let unsettled = unsettled.into_iter().map(|(_, taken)| taken);
        let unsettled = unsettled.filter(|taken| taken.stands_for.is_none());
        let all = young.map(|(_, taken)| taken).chain(unsettled);
        for mut taken in all.collect::<Vec<_>>().into_iter().rev() {
            taken.message.count += 1;
            match taken.from {
                Source::Intake => bus.intake.push_front(taken.message),
                Source::Backlog => bus.backlog.push_front(taken.message),
            }
        }
    }

    /// The broker delivers what the window has room for.
    pub(super) fn supply(&mut self) -> Result<(), String> {
        self.deliver()?;
        while self.try_suspects()? {
            self.deliver()?;
        }
        Ok(())
    }

    fn deliver(&mut self) -> Result<(), String> {
        while self.bus.connected {
            let bus = &mut self.bus;
            let out = |from| {
                bus.unsettled
                    .values()
                    .filter(|taken| taken.from == from && taken.stands_for.is_none())
                    .count()
            };
            let (intake, backlog) = (out(Source::Intake), out(Source::Backlog));
            let (from, message) = if intake < self.weather.window && !bus.intake.is_empty() {
                bus.backlog_open = true;
                (Source::Intake, bus.intake.pop_front())
            } else if bus.backlog_open && backlog < self.weather.window {
                (Source::Backlog, bus.backlog.pop_front())
            } else {
                (Source::Intake, None)
            };
            let Some(message) = message else { break };
            bus.last_tag += 1;
            let tag = bus.last_tag;
            let since = self.now;
            bus.unsettled.insert(
                tag,
                Taken {
                    from,
                    since,
                    message,
                    stands_for: None,
                },
            );
            if self.is_suspect(tag) {
                let message = self.bus.unsettled.get(&tag).map(|taken| &taken.message);
                let events = message.map_or_else(Vec::new, |message| message.events.clone());
                self.suspects.add(tag, from, events);
            } else if self.suspects.are_there() {
                self.suspects.hold(self.now, tag, from);
            } else {
                self.hand_over(tag)?;
            }
        }
        Ok(())
    }

    /// The engine gets a delivery.
    pub(super) fn hand_over(&mut self, tag: u64) -> Result<(), String> {
        let Some(taken) = self.bus.unsettled.get_mut(&tag) else {
            return Ok(());
        };
        // From here on it is the engine that must not keep it too long. What waited for suspects until now waited for them.
        taken.since = self.now;
        let (events, from) = (taken.message.events.clone(), taken.from);
        self.tell(Input::Batch {
            delivery: DeliveryId(tag),
            events,
            from,
        })
    }
}
