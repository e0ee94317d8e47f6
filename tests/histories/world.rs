//! One history: the engine, and around it HubSpot, the bus and time, all simulated.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use crm_relay::config::EnrichConfig;
use crm_relay::enrich::budget::Share;
use crm_relay::enrich::*;
use crm_relay::event::*;
use crm_relay::hubspot::call::{Answered, Call};

use crate::checks::Checks;
use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::hubspot::{Arriving, HubSpot, Portal};
use crate::life::Life;
use crate::trace;
use crate::weather::Weather;

const START_MS: i64 = 1_763_892_000_000;
/// After the last fault everything must have ended by then: the token probe, backoff and rotation are minutes.
const QUIET_WITHIN: Duration = Duration::from_secs(2 * 3_600);
/// When all is well, whatever was taken up ends by then.
const STUCK_AFTER: Duration = Duration::from_secs(50);
const STEPS_MAX: u64 = 100_000;
/// An acknowledgement younger than this may not have reached the broker when the session breaks.
const ACK_TRAVELS: Duration = Duration::from_millis(20);

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
    Notice {
        life: u64,
    },
}

#[derive(Clone)]
enum Publishing {
    Message(Box<EnrichedEvent>),
    Letter(Box<DeadLetter>),
}

/// A batch as the bus holds it.
#[derive(Clone)]
struct Message {
    events: Vec<Event>,
}

struct Taken {
    from: Source,
    since: Millis,
    message: Message,
}

#[derive(Default)]
struct Bus {
    intake: VecDeque<Message>,
    backlog: VecDeque<Message>,
    unsettled: BTreeMap<u64, Taken>,
    /// Acknowledged just now.
    acked: Vec<(Millis, Taken)>,
    last_tag: u64,
    connected: bool,
    backlog_open: bool,
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
    /// The changelog.
    notes: Vec<Vec<u8>>,
    plans: Plans,
    share: Share,
    engine: Engine,
    life: u64,
    checks: Checks,
    pub coverage: Coverage,
    /// What happened, for a reader; empty unless wanted.
    pub trace: Option<Vec<String>>,
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
            associations,
        };
        let plans = Plans::new(&BTreeMap::from([("contact".to_owned(), config)]));
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
            engine: Engine::new(plans.clone(), seed)
                .with_budget_share(share)
                .with_window(weather.window),
            notes: Vec::new(),
            plans,
            share,
            life: 0,
            checks: Checks::default(),
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
        self.checks.finish(&self.hubspot)
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
                let ending = match &what {
                    Publishing::Message(message) => {
                        self.checks.confirmed(message);
                        Ending::Delivered
                    }
                    Publishing::Letter(letter) => {
                        self.checks.buried(letter);
                        Ending::Dead
                    }
                };
                self.tell(Input::Published { publish, ending })?;
            }
            Happening::Aside { life, tag, message } if life == self.life => {
                self.bus.backlog.push_back(message);
                let done = self.dice.millis(0, 10);
                self.schedule(done, Happening::AsideDone { life, tag });
            }
            Happening::AsideDone { life, tag } if life == self.life => {
                self.bus.unsettled.remove(&tag);
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
                self.schedule(Duration::from_secs(60), Happening::Notice { life });
            }
            Happening::Notice { life } if life == self.life => {
                self.bus.backlog_open |= self.bus.connected
            }
            // Of an engine that is gone.
            _ => {}
        }
        Ok(())
    }

    /// The most calls of ours that a window of HubSpot's may hold.
    fn ours_max(&self, portal_id: &PortalId) -> u32 {
        let max = self
            .hubspot
            .portals
            .get(portal_id)
            .map_or(0, |portal| portal.max);
        if self.share == Share::WHOLE {
            max
        } else {
            (max / 2).max(1)
        }
    }

    fn act(&mut self) {
        let ids: Vec<_> = self.hubspot.portals.keys().cloned().collect();
        let ahead = Duration::from_millis(self.weather.clock_ahead_ms);
        if let Some(id) = self.dice.pick(&ids)
            && let Some(portal) = self.hubspot.portals.get_mut(id)
        {
            let at = self.now.after(ahead);
            let events = self
                .people
                .act(id, portal, at, &mut self.dice, &mut self.coverage);
            for event in events {
                self.trace(|| format!("HubSpot {}: {}", event.portal_id, trace::event(&event)));
                self.notify(event);
            }
        }
        self.actions_left -= 1;
        if self.actions_left > 0 {
            let pause = self.dice.millis(1, self.weather.pace_ms);
            self.schedule(pause, Happening::Act);
        }
    }

    /// HubSpot tells of an event: some time later, perhaps much later, perhaps again.
    fn notify(&mut self, event: Event) {
        let late = self.dice.chance(self.weather.late);
        self.coverage.note_if(late, "late notification");
        let delay = if late {
            self.dice.millis(1_000, 120_000)
        } else {
            self.dice.millis(10, 400)
        };
        if self.dice.chance(self.weather.repeated) {
            self.coverage.note("repeated notification");
            let again = delay + self.dice.millis(0, 60_000);
            self.notify_after(
                again,
                Event {
                    attempt_number: 1,
                    ..event.clone()
                },
            );
        }
        self.notify_after(delay, event);
    }

    fn notify_after(&mut self, delay: Duration, event: Event) {
        self.scheduled += 1;
        self.notified
            .insert((self.now.after(delay), self.scheduled), event);
        self.schedule(delay, Happening::Flush);
    }

    /// The receiver takes what is due: a batch for each portal, now and then in another order.
    fn flush(&mut self) {
        let later = self.notified.split_off(&(self.now, u64::MAX));
        let due: Vec<Event> = std::mem::replace(&mut self.notified, later)
            .into_values()
            .collect();
        let mut batches: BTreeMap<PortalId, Vec<Event>> = BTreeMap::new();
        for event in due {
            let event = Event {
                received_at: self.now,
                ..event
            };
            self.checks.accept(&event);
            self.coverage.events += 1;
            let batch = batches.entry(event.portal_id.clone()).or_default();
            let at = if self.dice.chance(self.weather.shuffled) {
                self.dice.below(batch.len() as u64 + 1)
            } else {
                batch.len() as u64
            };
            batch.insert(usize::try_from(at).unwrap_or(0), event);
        }
        for events in batches.into_values() {
            for chunk in events.chunks(100) {
                self.bus.intake.push_back(Message {
                    events: chunk.to_vec(),
                });
            }
        }
    }

    fn refreshed(&mut self, portal_id: PortalId) -> Result<(), String> {
        let portal = self
            .hubspot
            .portals
            .get_mut(&portal_id)
            .ok_or("a refresh for an unknown portal")?;
        let changed = portal.revoked_until.is_none_or(|until| until <= self.now);
        if changed {
            if portal.revoked_until.take().is_some() {
                portal.token += 1;
            }
            portal.token_of_relay = portal.token;
        }
        self.tell(Input::TokenRefreshed { portal_id, changed })
    }

    /// The broker takes a message and confirms it; or takes it and the confirm is lost; or refuses it.
    fn try_publish(
        &mut self,
        publish: PublishId,
        what: Publishing,
        tries: u32,
    ) -> Result<(), String> {
        let life = self.life;
        let refused = self.dice.chance(self.weather.refused_publish);
        if !refused && let Publishing::Message(message) = &what {
            self.checks.landed(message, &self.hubspot)?;
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
    fn write_note(&mut self, id: NoteId, note: Vec<u8>, tries: u32) {
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

    /// What goes wrong between relay and broker.
    fn strike(&mut self) -> Result<(), String> {
        if self.dice.chance(self.weather.crash) {
            self.coverage.note("crash");
            self.crash();
        } else if self.bus.connected && self.dice.chance(self.weather.lost_session) {
            self.coverage.note("session lost");
            self.lose_session();
            self.tell(Input::Lost)?;
        } else if self.bus.backlog_open && self.dice.chance(self.weather.lost_backlog) {
            self.coverage.note("backlog's session lost");
            self.give_back(Some(Source::Backlog));
            self.checks.disturbed = true;
        }
        Ok(())
    }

    /// The process is gone, and another one starts.
    fn crash(&mut self) {
        self.trace(|| "crash".to_owned());
        self.life += 1;
        self.lose_session();
        self.engine = Engine::new(self.plans.clone(), self.life)
            .with_budget_share(self.share)
            .with_window(self.weather.window);
        self.restore();
        self.checks.new_life();
    }

    /// The engine learns what the one before it noted.
    fn restore(&mut self) {
        for note in &self.notes {
            match Note::decode(note) {
                Ok(note) => self.engine.restore(note),
                Err(error) => panic!("a note cannot be read: {error}"),
            }
        }
    }

    fn lose_session(&mut self) {
        self.trace(|| "session lost".to_owned());
        self.checks.disturbed = true;
        self.bus.connected = false;
        self.bus.backlog_open = false;
        self.give_back(None);
        let delay = self.dice.millis(100, 5_000);
        let life = self.life;
        self.schedule(delay, Happening::Connect { life });
    }

    /// The broker takes back what is not settled, and what it has no acknowledgement of.
    fn give_back(&mut self, only: Option<Source>) {
        let bus = &mut self.bus;
        let is_meant = |taken: &Taken| only.is_none_or(|only| only == taken.from);
        let acked = std::mem::take(&mut bus.acked).into_iter();
        let young =
            acked.filter(|(at, taken)| self.now.since(*at) < ACK_TRAVELS && is_meant(taken));
        let unsettled: Vec<_> = bus
            .unsettled
            .extract_if(.., |_, taken| is_meant(taken))
            .map(|(_, taken)| taken)
            .collect();
        for taken in young
            .map(|(_, taken)| taken)
            .chain(unsettled)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            match taken.from {
                Source::Intake => bus.intake.push_front(taken.message),
                Source::Backlog => bus.backlog.push_front(taken.message),
            }
        }
    }

    /// The broker delivers what the window has room for.
    fn supply(&mut self) -> Result<(), String> {
        while self.bus.connected {
            let bus = &mut self.bus;
            let out = |from| {
                bus.unsettled
                    .values()
                    .filter(|taken| taken.from == from)
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
            let events = message.events.clone();
            let since = self.now;
            bus.unsettled.insert(
                tag,
                Taken {
                    from,
                    since,
                    message,
                },
            );
            self.tell(Input::Batch {
                delivery: DeliveryId(tag),
                events,
                from,
            })?;
        }
        Ok(())
    }

    /// Tells the engine what happened, and does what it says.
    fn tell(&mut self, input: Input) -> Result<(), String> {
        self.trace(|| format!("▶ {}", trace::input(&input)));
        for output in self.engine.handle(self.now, input) {
            self.trace(|| format!("   ◀ {}", trace::output(&output)));
            self.carry_out(output)?;
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
            Output::Publish { publish, event } => {
                self.checks.published(&event)?;
                self.publish(publish, Publishing::Message(event));
            }
            Output::Bury { publish, letter } => self.publish(publish, Publishing::Letter(letter)),
            Output::Ack(delivery) => {
                if let Some(taken) = self.bus.unsettled.remove(&delivery.0) {
                    self.checks
                        .acknowledged(&taken.message.events, &self.hubspot)?;
                    self.bus.acked.push((self.now, taken));
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

    fn publish(&mut self, publish: PublishId, what: Publishing) {
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
