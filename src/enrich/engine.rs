//! The engine of one partition: deliveries in, calls and messages out, settlements when all is done.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::event::{DeadLetter, EnrichedEvent, Event, EventId, Millis, PortalId};
use crate::hubspot::call::{Answered, Call, LimitClass};

use super::health::Health;
use super::job::{JobId, Key};
use super::plan::Plans;
use super::portal::{Context, Portal};
use super::request::Request;
use super::window::Window;

/// How long an event that ended is recognised: HubSpot repeats for 24 hours, and a margin.
pub const SEEN_KEEP: Duration = Duration::from_secs(72 * 3_600);
/// The most events, versions, merges or erased records that are remembered, each; the oldest go first.
pub const SEEN_CAPACITY: usize = 100_000;

/// A delivery of the bus, as the shell numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub u64);

/// A call under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// A message under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublishId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A batch was delivered.
    Batch {
        /// The delivery, to be settled when all its events have ended.
        delivery: DeliveryId,
        /// Its events, of one portal.
        events: Vec<Event>,
    },
    /// A call was answered, or failed.
    Answered {
        /// Which call.
        call: CallId,
        /// What came.
        answered: Answered,
    },
    /// The token of a portal was read again.
    TokenRefreshed {
        /// Which portal.
        portal_id: PortalId,
        /// Whether it is another one now.
        changed: bool,
    },
    /// A message, or a dead letter, is where it should be: every copy confirmed.
    Published {
        /// Which one.
        publish: PublishId,
        /// How its events ended by that.
        ending: Ending,
    },
    /// The bus lost its session: all deliveries are void and come again.
    Lost,
    /// Time passed; see [`Engine::next_wake`].
    Tick,
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Call HubSpot; answer with [`Input::Answered`].
    Call {
        /// Which call.
        call_id: CallId,
        /// For whom.
        portal_id: PortalId,
        /// What.
        call: Call,
    },
    /// Read the portal's token again; answer with [`Input::TokenRefreshed`].
    RefreshToken(PortalId),
    /// Publish to all destinations that want it; answer with [`Input::Published`].
    Publish {
        /// Which message.
        publish: PublishId,
        /// The message.
        event: Box<EnrichedEvent>,
    },
    /// Publish a dead letter; answer with [`Input::Published`].
    Bury {
        /// Which one.
        publish: PublishId,
        /// The dead letter.
        letter: Box<DeadLetter>,
    },
    /// Acknowledge a delivery: all its events have ended.
    Ack(DeliveryId),
    /// An event ended; for the metrics.
    Ended(Ending),
}

/// How an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ending {
    /// No destination wanted it.
    Unwanted,
    /// It went out, in a message of its own or with others of its record.
    Delivered,
    /// It was seen before.
    Duplicate,
    /// Its record was erased for privacy.
    Purged,
    /// It is a dead letter.
    Dead,
}

impl Ending {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unwanted => "unwanted",
            Self::Delivered => "delivered",
            Self::Duplicate => "duplicate",
            Self::Purged => "purged",
            Self::Dead => "dead",
        }
    }
}

/// Figures for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Events that have not ended.
    pub waiting_events: usize,
    /// Portals with waiting events that may be asked.
    pub portals_ready: usize,
    /// Portals with waiting events whose budget is used up.
    pub portals_waiting: usize,
    /// Portals with waiting events that failed.
    pub portals_backing_off: usize,
    /// Portals with waiting events whose token is refused.
    pub portals_paused: usize,
    /// The smallest number of calls left in any portal's ten-second window.
    pub burst_remaining: Option<u32>,
    /// The smallest number of calls left in any portal's association window.
    pub associations_remaining: Option<u32>,
    /// The smallest number of calls left today in any portal.
    pub daily_remaining: Option<u32>,
}

/// The engine of one partition. See the [module](super).
#[derive(Debug)]
pub struct Engine {
    plans: Plans,
    portals: HashMap<PortalId, Portal>,
    /// Events of each delivery that have not ended.
    deliveries: HashMap<DeliveryId, usize>,
    live: HashMap<EventId, Live>,
    seen: Window<EventId, ()>,
    calls: HashMap<CallId, CallUnderWay>,
    publishes: HashMap<PublishId, (PortalId, Key)>,
    effects: Effects,
}

/// An event that has not ended.
#[derive(Debug)]
struct Live {
    /// The deliveries that brought it: the first, and those of repeats that came meanwhile.
    deliveries: Vec<DeliveryId>,
    /// The jobs it is part of and that have not ended.
    parts: usize,
    /// The worst ending of a part so far.
    ending: Ending,
}

#[derive(Debug)]
struct CallUnderWay {
    portal_id: PortalId,
    request: Request,
    sent_at: Millis,
}

impl Engine {
    /// An engine that reads what `plans` says. `seed` feeds the jitter of delays and nothing else.
    #[must_use]
    pub fn new(plans: Plans, seed: u64) -> Self {
        Self {
            plans,
            portals: HashMap::new(),
            deliveries: HashMap::new(),
            live: HashMap::new(),
            seen: Window::new(SEEN_KEEP, SEEN_CAPACITY),
            calls: HashMap::new(),
            publishes: HashMap::new(),
            effects: Effects::new(seed),
        }
    }

    /// Takes in what happened at `now`, and returns what is to be done, in order. `now` never goes back.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Output> {
        match input {
            Input::Batch { delivery, events } => self.batch(now, delivery, events),
            Input::Answered { call, answered } => self.answered(now, call, answered),
            Input::TokenRefreshed { portal_id, changed } => {
                self.with_portal(now, &portal_id, |portal, ctx| {
                    portal.token_refreshed(changed, ctx.now)
                });
            }
            Input::Published { publish, ending } => {
                if let Some((portal_id, key)) = self.publishes.remove(&publish) {
                    self.with_portal(now, &portal_id, |portal, ctx| {
                        portal.published(&key, ending, ctx)
                    });
                }
            }
            Input::Lost => self.lost(),
            Input::Tick => {
                let portals: Vec<_> = self.portals.keys().cloned().collect();
                for portal_id in portals {
                    self.with_portal(now, &portal_id, |_, _| {});
                }
            }
        }
        self.outputs(now)
    }

    /// When to send [`Input::Tick`], if nothing happens before.
    pub fn next_wake(&mut self, now: Millis) -> Option<Millis> {
        self.portals
            .values_mut()
            .filter_map(|portal| portal.next_wake(now))
            .min()
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.deliveries.is_empty()
            && self.publishes.is_empty()
            && self.portals.values().all(Portal::is_idle)
    }

    /// Figures for the metrics.
    pub fn stats(&mut self, now: Millis) -> EngineStats {
        let mut stats = EngineStats {
            waiting_events: self.live.len(),
            ..EngineStats::default()
        };
        for portal in self.portals.values_mut() {
            let least = |known: Option<u32>, new: Option<u32>| known.into_iter().chain(new).min();
            stats.burst_remaining = least(
                stats.burst_remaining,
                portal.budget.remaining(LimitClass::Burst),
            );
            stats.associations_remaining = least(
                stats.associations_remaining,
                portal.budget.remaining(LimitClass::Associations),
            );
            stats.daily_remaining = least(stats.daily_remaining, portal.budget.daily_remaining());
            if !portal.has_work() {
                continue;
            }
            match portal.health {
                Health::BackingOff { .. } => stats.portals_backing_off += 1,
                Health::Refreshing | Health::Paused { .. } => stats.portals_paused += 1,
                Health::Ready if portal.budget.allows(LimitClass::Burst, now) => {
                    stats.portals_ready += 1
                }
                Health::Ready => stats.portals_waiting += 1,
            }
        }
        stats
    }

    fn batch(&mut self, now: Millis, delivery: DeliveryId, events: Vec<Event>) {
        if events.is_empty() {
            self.effects.outputs.push_back(Output::Ack(delivery));
            return;
        }
        self.deliveries.insert(delivery, events.len());
        let portals: BTreeSet<PortalId> =
            events.iter().map(|event| event.portal_id.clone()).collect();
        for event in events {
            self.arrive(now, delivery, event);
        }
        for portal_id in portals {
            self.with_portal(now, &portal_id, |_, _| {});
        }
    }

    /// A repeat of an event that ended ends at once; one of an event under way ends with it.
    fn arrive(&mut self, now: Millis, delivery: DeliveryId, event: Event) {
        if self.seen.get(&event.id).is_some() {
            self.effects
                .outputs
                .push_back(Output::Ended(Ending::Duplicate));
            self.event_ended(delivery);
        } else if let Some(live) = self.live.get_mut(&event.id) {
            live.deliveries.push(delivery);
        } else {
            let (id, portal_id) = (event.id.clone(), event.portal_id.clone());
            let live = Live {
                deliveries: vec![delivery],
                parts: usize::MAX,
                ending: Ending::Unwanted,
            };
            self.live.insert(id.clone(), live);
            let portal = self
                .portals
                .entry(portal_id.clone())
                .or_insert_with(|| Portal::new(portal_id));
            let mut ctx = Context {
                now,
                plans: &self.plans,
                effects: &mut self.effects,
            };
            let parts = portal.arrive(event, &mut ctx);
            if let Some(live) = self.live.get_mut(&id) {
                live.parts = parts;
            }
        }
    }

    fn answered(&mut self, now: Millis, call: CallId, answered: Answered) {
        let Some(CallUnderWay {
            portal_id,
            request,
            sent_at,
        }) = self.calls.remove(&call)
        else {
            debug_assert!(false, "an answer to a call that was not made");
            return;
        };
        self.with_portal(now, &portal_id, |portal, ctx| {
            portal.answered(request, sent_at, answered, ctx);
        });
    }

    fn with_portal(
        &mut self,
        now: Millis,
        portal_id: &PortalId,
        act: impl FnOnce(&mut Portal, &mut Context<'_>),
    ) {
        if let Some(portal) = self.portals.get_mut(portal_id) {
            let mut ctx = Context {
                now,
                plans: &self.plans,
                effects: &mut self.effects,
            };
            act(portal, &mut ctx);
            portal.dispatch(&mut ctx);
        }
    }

    /// Everything that is not on its way to the destinations is dropped: it comes again. What is on its way
    /// stays known, so that its repeat is recognised; unless only a part of it is, since the repeat must
    /// then make up for the rest, and the confirm of the part that is must not count for the repeat.
    fn lost(&mut self) {
        self.deliveries.clear();
        let mut on_their_way: HashMap<EventId, usize> = HashMap::new();
        for id in self.portals.values_mut().flat_map(Portal::lost) {
            *on_their_way.entry(id).or_default() += 1;
        }
        self.live.retain(|id, live| {
            live.deliveries.clear();
            on_their_way.get(id) == Some(&live.parts)
        });
        for portal in self.portals.values_mut() {
            portal.keep_on_their_way(|id| self.live.contains_key(id));
        }
    }

    /// Moves what the portals want done into outputs.
    fn outputs(&mut self, now: Millis) -> Vec<Output> {
        for call in std::mem::take(&mut self.effects.calls) {
            let call_id = CallId(self.effects.next_id());
            self.effects.outputs.push_back(Output::Call {
                call_id,
                portal_id: call.portal_id.clone(),
                call: call.request.to_call(),
            });
            self.calls.insert(call_id, call);
        }
        for (publish, portal_id, key) in std::mem::take(&mut self.effects.publishes) {
            self.publishes.insert(publish, (portal_id, key));
        }
        for (id, ending) in std::mem::take(&mut self.effects.ended) {
            self.part_ended(now, &id, ending);
        }
        std::mem::take(&mut self.effects.outputs).into()
    }

    fn part_ended(&mut self, now: Millis, id: &EventId, ending: Ending) {
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        live.parts -= 1;
        live.ending = live.ending.max(ending);
        if live.parts > 0 {
            return;
        }
        let Some(live) = self.live.remove(id) else {
            return;
        };
        self.seen.insert(id.clone(), (), now);
        self.effects.outputs.push_back(Output::Ended(live.ending));
        for (repeat, delivery) in live.deliveries.into_iter().enumerate() {
            if repeat > 0 {
                self.effects
                    .outputs
                    .push_back(Output::Ended(Ending::Duplicate));
            }
            self.event_ended(delivery);
        }
    }

    fn event_ended(&mut self, delivery: DeliveryId) {
        if let Some(left) = self.deliveries.get_mut(&delivery) {
            *left -= 1;
            if *left == 0 {
                self.deliveries.remove(&delivery);
                self.effects.outputs.push_back(Output::Ack(delivery));
            }
        }
    }
}

/// What the portals want done, gathered until the engine hands it out.
#[derive(Debug)]
pub struct Effects {
    outputs: VecDeque<Output>,
    calls: Vec<CallUnderWay>,
    publishes: Vec<(PublishId, PortalId, Key)>,
    ended: Vec<(EventId, Ending)>,
    last_id: u64,
    random: ChaCha8Rng,
}

impl Effects {
    fn new(seed: u64) -> Self {
        Self {
            outputs: VecDeque::new(),
            calls: Vec::new(),
            publishes: Vec::new(),
            ended: Vec::new(),
            last_id: 0,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub fn next_job(&mut self) -> JobId {
        JobId(self.next_id())
    }

    /// Between 0 and 1.
    pub fn jitter(&mut self) -> f64 {
        f64::from(self.random.next_u32()) / f64::from(u32::MAX)
    }

    pub fn call(&mut self, portal_id: &PortalId, request: Request, sent_at: Millis) {
        self.calls.push(CallUnderWay {
            portal_id: portal_id.clone(),
            request,
            sent_at,
        });
    }

    pub fn refresh_token(&mut self, portal_id: &PortalId) {
        self.outputs
            .push_back(Output::RefreshToken(portal_id.clone()));
    }

    pub fn publish(&mut self, portal_id: &PortalId, key: &Key, event: EnrichedEvent) {
        let publish = PublishId(self.next_id());
        self.publishes
            .push((publish, portal_id.clone(), key.clone()));
        self.outputs.push_back(Output::Publish {
            publish,
            event: Box::new(event),
        });
    }

    pub fn bury(&mut self, portal_id: &PortalId, key: &Key, letter: DeadLetter) {
        let publish = PublishId(self.next_id());
        self.publishes
            .push((publish, portal_id.clone(), key.clone()));
        self.outputs.push_back(Output::Bury {
            publish,
            letter: Box::new(letter),
        });
    }

    /// A part of an event ended.
    pub fn end(&mut self, id: &EventId, ending: Ending) {
        self.ended.push((id.clone(), ending));
    }
}
