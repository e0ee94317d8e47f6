//! One history: the engine, and around it HubSpot, the bus and time, all simulated.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crm_relay::config::{
    DestinationConfig, DestinationContent, DestinationKind, EnrichConfig, SensitivityLevel,
};
use crm_relay::demand::Demand;
use crm_relay::enrich::budget::Share;
use crm_relay::enrich::*;
use crm_relay::event::*;
use crm_relay::hubspot::call::{Answered, Call};

use crate::checks::Checks;
use crate::contract;
use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::hubspot::{Arriving, HubSpot, Portal};
use crate::ledger::{self, ALL, CHANGES, PLAIN, SOME, is_change, place_of};
use crate::life::Life;
use crate::trace;
use crate::weather::Weather;

use bus::{Bus, Message};

mod bus;
mod people;
mod publishing;
mod suspects;

const START_MS: i64 = 1_763_892_000_000;
/// After the last fault everything must have ended by then: the token probe, backoff and rotation are minutes.
const QUIET_WITHIN: Duration = Duration::from_secs(2 * 3_600);
/// When all is well, whatever was taken up ends by then.
const STUCK_AFTER: Duration = Duration::from_secs(50);
const STEPS_MAX: u64 = 100_000;
/// No history has more engines: each has a seed of its own.
const LIVES_MAX: u64 = 100_000;
/// One message of so many is held against its schema: all of them would take longer than all else.
const MESSAGES_PER_SCHEMA_CHECK: u64 = 100;

/// What is to come. `life` is that of the engine it belongs to.
enum Happening {
    Act,
    Flush,
    Arrive {
        life: u64,
        call_id: CallId,
        portal_id: PortalId,
        call: Call,
        answer_after: Duration,
    },
    Answer {
        life: u64,
        call_id: CallId,
        answered: Answered,
    },
    Refreshed {
        life: u64,
        portal_id: PortalId,
    },
    Try {
        life: u64,
        publish: PublishId,
        what: Publishing,
        tries: u32,
    },
    Confirm {
        life: u64,
        publish: PublishId,
        what: Publishing,
    },
    Aside {
        life: u64,
        tag: u64,
        message: Message,
    },
    AsideDone {
        life: u64,
        tag: u64,
        purged: Vec<Event>,
    },
    Noting {
        life: u64,
        id: NoteId,
        note: Vec<u8>,
        tries: u32,
    },
    Noted {
        life: u64,
        id: NoteId,
    },
    Connect {
        life: u64,
    },
    /// Somebody replays the dead letter of this failure.
    Replay(EventId),
    Notice {
        life: u64,
    },
}

#[derive(Clone)]
enum Publishing {
    Message(Box<EnrichedEvent>),
    Plain(Box<Event>),
    Letter(Box<DeadLetter>),
    /// That the dead letters are to be searched for an erased record.
    Search(Erasure),
}

pub struct World {
    now: Millis,
    heap: BTreeMap<(Millis, u64), Happening>,
    scheduled: u64,
    dice: Dice,
    weather: Weather,
    hubspot: HubSpot,
    people: Life,
    actions_left: u64,
    /// Events on their way to the receiver.
    notified: BTreeMap<(Millis, u64), Event>,
    bus: Bus,
    suspects: Suspects<u64>,
    /// The event that kills the process when it is about to go out with its record.
    deadly: Option<EventId>,
    /// The changelog.
    notes: Vec<Vec<u8>>,
    /// How many of them the process has read.
    notes_read: usize,
    plans: Plans,
    share: Share,
    engine: Engine,
    seed: u64,
    life: u64,
    checks: Checks,
    pub coverage: Coverage,
    /// What happened, for a reader; empty unless wanted.
    pub trace: Option<Vec<String>>,
}

/// What the destinations ask for: one for every record, one for changes of properties alone, and perhaps one for events as
/// they are.
fn demand(plain: bool) -> Demand {
    let all = DestinationConfig::new(DestinationKind::Queue);
    let changes = DestinationConfig {
        patterns: vec![CHANGES.parse().expect("a pattern")],
        ..all.clone()
    };
    let as_they_are = DestinationConfig {
        content: DestinationContent::Event,
        ..all.clone()
    };
    let named = [(ALL, all), (SOME, changes), (PLAIN, as_they_are)];
    let named = named
        .into_iter()
        .filter(|(name, _)| plain || *name != PLAIN);
    let named = named.map(|(name, config)| (name.to_owned(), config));
    Demand::new(&named.collect(), [])
}

/// The copies of a message that destinations get.
fn copies(message: &EnrichedEvent) -> Published {
    let copy = |name: &str, wants: fn(&Event) -> bool| {
        let events = message.data.events.iter();
        let events = events.filter(|event| event.is_for(Some(name)) && wants(event));
        let listed: Vec<_> = events.map(|event| event.known_as().into_owned()).collect();
        (!listed.is_empty()).then(|| Copied {
            destination: place_of(name),
            listed,
            is_dead: false,
        })
    };
    let copies = [copy(ALL, |_| true), copy(SOME, is_change)];
    Published::Copies(copies.into_iter().flatten().collect())
}

fn copy_of(event: &Event) -> Published {
    Published::Copies(vec![Copied {
        destination: place_of(PLAIN),
        listed: vec![event.known_as().into_owned()],
        is_dead: false,
    }])
}

impl World {
    pub fn new(seed: u64, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let weather = Weather::new(&mut dice);
        let mut portals = BTreeMap::new();
        for n in 0..weather.portals {
            let max = u32::try_from(*dice.pick(&[5, 20, 100, 190]).unwrap_or(&100)).unwrap_or(100);
            let mut portal = Portal::default();
            portal.max = max;
            portal.others = if weather.others { max / 2 } else { 0 };
            let poison = dice.between(1_001, 1_020).to_string();
            portal.poison = weather.poison.then(|| poison.into());
            portals.insert(PortalId::from((100 + n).to_string()), portal);
        }
        let associations = if weather.associations {
            vec!["company".to_owned()]
        } else {
            Vec::new()
        };
        let config = EnrichConfig {
            properties: Some(vec!["*".to_owned()]),
            previous_values: associations.is_empty(),
            sensitivity: if weather.associations {
                vec![SensitivityLevel::Sensitive]
            } else {
                Vec::new()
            },
            associations: Some(associations),
            ..EnrichConfig::default()
        };
        let plans = Plans::new(&BTreeMap::from([("contact".to_owned(), config)]));
        let plans = plans.with_demand(demand(weather.plain));
        let share = Share::new(if weather.half_budget { 0.5 } else { 1.0 }).unwrap_or(Share::WHOLE);
        let mut world = Self {
            now: Millis::new(START_MS).unwrap_or_default(),
            heap: BTreeMap::new(),
            scheduled: 0,
            actions_left: weather.actions,
            hubspot: HubSpot { portals },
            people: Life::default(),
            notified: BTreeMap::new(),
            bus: Bus {
                connected: true,
                ..Bus::default()
            },
            engine: Engine::new(plans.clone(), seed * LIVES_MAX)
                .with_budget_share(share)
                .with_window(weather.window),
            suspects: Suspects::default(),
            deadly: None,
            notes: Vec::new(),
            notes_read: 0,
            plans,
            share,
            seed,
            life: 0,
            checks: Checks::new(weather.plain),
            coverage: Coverage::default(),
            trace: traced.then(Vec::new),
            dice,
            weather,
        };
        world.schedule(Duration::ZERO, Happening::Act);
        world
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The guarantee that was broken.
    pub fn run(&mut self) -> Result<(), String> {
        while self.actions_left > 0 || !self.notified.is_empty() {
            self.step()?;
        }
        self.weather.clear();
        for portal in self.hubspot.portals.values_mut() {
            portal.revoked_until = portal.revoked_until.map(|_| self.now);
            portal.others = 0;
        }
        let end = self.now.after(QUIET_WITHIN);
        while !self.is_quiet() {
            if self.now > end {
                return Err(format!(
                    "not everything ended: {:?}",
                    self.engine.stats(self.now)
                ));
            }
            self.step()?;
        }
        self.checks.finish(&self.hubspot)?;
        ledger::check(&self.notes, &self.checks, &self.hubspot)?;
        self.checks
            .nothing_erased_is_dead(&self.bus.letters, &self.hubspot)
    }

    fn is_quiet(&self) -> bool {
        let bus = &self.bus;
        bus.connected
            && self.engine.is_idle()
            && bus.intake.is_empty()
            && bus.backlog.is_empty()
            && bus.unsettled.is_empty()
            && self.heap.is_empty()
    }

    /// The next thing happens.
    fn step(&mut self) -> Result<(), String> {
        self.coverage.steps += 1;
        if self.coverage.steps > STEPS_MAX {
            return Err("the engine spins".to_owned());
        }
        let next = self.heap.first_key_value().map(|((at, _), _)| *at);
        let wake = self.engine.next_wake(self.now);
        let Some(at) = next.into_iter().chain(wake).min() else {
            return Err(format!(
                "nothing more happens: {:?}",
                self.engine.stats(self.now)
            ));
        };
        self.now = self.now.max(at);
        match self
            .heap
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            Some(entry) => {
                let happening = entry.remove();
                self.happen(happening)?;
            }
            None => self.tell(Input::Tick)?,
        }
        self.strike()?;
        self.supply()
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Act => self.act(),
            Happening::Flush => self.flush(),
            Happening::Arrive {
                life,
                call_id,
                portal_id,
                call,
                answer_after,
            } => {
                let ours_max = self.ours_max(&portal_id);
                let arriving = Arriving {
                    portal_id: &portal_id,
                    call: &call,
                    life,
                    ours_max,
                };
                let (weather, dice, coverage) = (&self.weather, &mut self.dice, &mut self.coverage);
                let answered = self
                    .hubspot
                    .answer(&arriving, self.now, weather, dice, coverage)?;
                self.schedule(
                    answer_after,
                    Happening::Answer {
                        life,
                        call_id,
                        answered,
                    },
                );
            }
            Happening::Answer {
                life,
                call_id,
                answered,
            } if life == self.life => {
                self.tell(Input::Answered {
                    call: call_id,
                    answered,
                })?;
            }
            Happening::Refreshed { life, portal_id } if life == self.life => {
                self.refreshed(portal_id)?
            }
            Happening::Try {
                life,
                publish,
                what,
                tries,
            } if life == self.life => {
                self.try_publish(publish, what, tries)?;
            }
            Happening::Confirm {
                life,
                publish,
                what,
            } if life == self.life => {
                let outcome = match &what {
                    Publishing::Message(message) => {
                        if publish.0.is_multiple_of(MESSAGES_PER_SCHEMA_CHECK) {
                            contract::assert_enriched_event(&message.encode());
                        }
                        self.checks.confirmed(message);
                        copies(message)
                    }
                    Publishing::Plain(event) => {
                        self.checks.plain_confirmed(event);
                        copy_of(event)
                    }
                    Publishing::Letter(letter) => {
                        contract::assert_dead_letter(&letter.encode());
                        self.checks.buried(letter);
                        Published::Buried
                    }
                    Publishing::Search(_) => Published::Searched,
                };
                self.tell(Input::Published { publish, outcome })?;
            }
            Happening::Aside { life, tag, message } if life == self.life => {
                let events = message.events.into_iter();
                let (purged, events): (Vec<_>, Vec<_>) =
                    events.partition(|event| self.engine.may_be_dropped(event));
                if !events.is_empty() {
                    let taken = self.bus.unsettled.get(&tag);
                    if let Some(suspect) = taken.and_then(|taken| taken.stands_for) {
                        let ids = events.iter().map(|event| event.known_as().into_owned());
                        self.bus.aside.entry(suspect).or_default().extend(ids);
                    }
                    let message = self.bus.message(events);
                    self.bus.backlog.push_back(message);
                }
                let done = self.dice.millis(0, 10);
                self.schedule(done, Happening::AsideDone { life, tag, purged });
            }
            Happening::AsideDone { life, tag, purged } if life == self.life => {
                self.coverage.note_if(!purged.is_empty(), "purged aside");
                if purged.is_empty() {
                    self.bus.unsettled.remove(&tag);
                    self.suspects.settled(DeliveryId(tag));
                } else if let Some(taken) = self.bus.unsettled.get_mut(&tag) {
                    // The others are in the backlog.
                    taken.message.events = purged.clone();
                    let delivery = DeliveryId(tag);
                    self.tell(Input::PutAside { delivery, purged })?;
                }
            }
            Happening::Noting {
                life,
                id,
                note,
                tries,
            } if life == self.life => self.write_note(id, note, tries),
            Happening::Noted { life, id } if life == self.life => self.tell(Input::Noted(id))?,
            Happening::Connect { life } if life == self.life => {
                self.bus.connected = true;
                self.restore();
                self.schedule(Duration::from_secs(60), Happening::Notice { life });
            }
            Happening::Replay(failure) => self.replay(&failure),
            Happening::Notice { life } if life == self.life => {
                self.bus.backlog_open |= self.bus.connected
            }
            // Of an engine that is gone.
            _ => {}
        }
        Ok(())
    }

    /// Tells the engine what happened, and does what it says.
    fn tell(&mut self, input: Input) -> Result<(), String> {
        self.trace(|| format!("▶ {}", trace::input(&input)));
        match &input {
            Input::Batch { events, .. } => self.checks.arrived(events),
            Input::Suspects(lot) => {
                let events = lot.iter().map(|(_, events)| events);
                events.for_each(|events| self.checks.arrived(events));
            }
            _ => {}
        }
        let life = self.life;
        for output in self.engine.handle(self.now, input) {
            self.trace(|| format!("   ◀ {}", trace::output(&output)));
            self.carry_out(output)?;
            if self.life != life {
                break;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, output: Output) -> Result<(), String> {
        let life = self.life;
        match output {
            Output::Call {
                call_id,
                portal_id,
                call,
            } => {
                let slow = self.dice.chance(self.weather.slow);
                let latency = if slow {
                    self.dice.between(500, 12_000)
                } else {
                    self.dice.between(10, 200)
                };
                let travels = self.dice.below(latency);
                let answer_after = Duration::from_millis(latency - travels);
                let arrive = Happening::Arrive {
                    life,
                    call_id,
                    portal_id,
                    call,
                    answer_after,
                };
                self.schedule(Duration::from_millis(travels), arrive);
            }
            Output::RefreshToken(portal_id) => {
                let delay = self.dice.millis(0, 50);
                self.schedule(delay, Happening::Refreshed { life, portal_id });
            }
            Output::Publish { event, .. } if self.kills(&event) => {
                self.coverage.note("killed by an event");
                self.crash();
            }
            Output::Publish { publish, event } => {
                self.checks.published(&event)?;
                self.publish(publish, Publishing::Message(event));
            }
            Output::PublishPlain { publish, event } => {
                self.coverage.note("plain event");
                self.checks.plain_published(&event)?;
                self.publish(publish, Publishing::Plain(event));
            }
            Output::Bury { publish, letter } => self.publish(publish, Publishing::Letter(letter)),
            Output::Search { publish, erasure } => {
                self.publish(publish, Publishing::Search(erasure));
            }
            Output::Ack(delivery) => {
                self.suspects.settled(delivery);
                if let Some(taken) = self.bus.unsettled.remove(&delivery.0) {
                    self.checks
                        .acknowledged(&taken.message.events, &self.hubspot)?;
                    if taken.stands_for.is_none() {
                        self.bus.acked.push((self.now, taken));
                    }
                } else if !self.checks.disturbed {
                    return Err(format!("delivery {} was settled twice", delivery.0));
                }
            }
            Output::SetAside(delivery) => {
                self.coverage.note("set aside");
                self.checks.set_aside = true;
                if let Some(taken) = self.bus.unsettled.get(&delivery.0) {
                    if self.weather.fair && self.now.since(taken.since) > STUCK_AFTER {
                        return Err(format!(
                            "delivery {} was stuck, though all was well",
                            delivery.0
                        ));
                    }
                    let message = taken.message.clone();
                    let delay = self.dice.millis(1, 50);
                    self.schedule(
                        delay,
                        Happening::Aside {
                            life,
                            tag: delivery.0,
                            message,
                        },
                    );
                }
            }
            Output::Note { id, note } => {
                let delay = self.dice.millis(0, 10);
                let note = note.encode();
                self.schedule(
                    delay,
                    Happening::Noting {
                        life,
                        id,
                        note,
                        tries: 0,
                    },
                );
            }
            Output::Ended(ending) => self.checks.ended(ending),
        }
        Ok(())
    }

    fn kills(&self, message: &EnrichedEvent) -> bool {
        let mut events = message.data.events.iter();
        events.any(|event| Some(&event.id) == self.deadly.as_ref())
    }

    fn schedule(&mut self, delay: Duration, happening: Happening) {
        self.scheduled += 1;
        self.heap
            .insert((self.now.after(delay), self.scheduled), happening);
    }

    fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let ms = self.now.as_i64() - START_MS;
            let mut text = String::new();
            let _ = write!(text, "{ms:>8} ms  {}", line());
            trace.push(text);
        }
    }
}
