//! The engine of one partition: deliveries in, calls and messages out, settlements when all is done.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::event::{Event, EventId, Millis, PortalId};
use crate::hubspot::call::{Answered, LimitClass};

use super::admission::{Admission, STUCK_AFTER, UNSETTLED_MAX, WINDOW_DEFAULT};
use super::budget::{self, Share};
use super::changelog::{Changelog, Note};
use super::effects::{CallUnderWay, Effects, Publishing};
use super::health::{Health, Standing};
use super::ledger::{Fate, Half, Ledger};
use super::memory::Memory;
use super::plan::Plans;
use super::pool::DefinitionPool;
use super::portal::{Context, Portal};
use super::portals::Portals;
use super::priority::Priority;
use super::protocol::{
    BudgetLeft, CallId, DeliveryId, Ending, EngineStats, Input, Output, PublishId, Source,
};

/// How often portals that get nowhere, or have nothing to do, are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

mod endings;
mod suspects;

use suspects::Trial;

/// The engine of one partition. See the [module](super).
#[derive(Debug)]
pub struct Engine {
    plans: Plans,
    pub(super) portals: Portals,
    /// Whether the last deliveries that came are ours: not before the first, and not after a loss.
    active: bool,
    /// When the last note of earlier engines was written.
    noted_at: Millis,
    admission: Admission,
    /// When portals that get nowhere, or have nothing to do, are looked for next.
    next_sweep: Millis,
    set_aside: u64,
    live: HashMap<EventId, Live>,
    memory: Memory,
    ledger: Ledger,
    pool: DefinitionPool,
    changelog: Changelog,
    /// Tells its notes from those of other engines.
    instance: u64,
    notes: u64,
    /// What is tried with nothing else under way, since it may have killed its worker.
    trials: BTreeMap<DeliveryId, Trial>,
    /// Whether a delivery was settled or a portal changed, so that there may be room for another.
    has_room: bool,
    calls: HashMap<CallId, CallUnderWay>,
    publishes: HashMap<PublishId, (PortalId, Publishing)>,
    effects: Effects,
}

/// An event that has not ended.
#[derive(Debug)]
struct Live {
    portal_id: PortalId,
    /// The deliveries that brought it: the first, and those of repeats that came meanwhile.
    deliveries: Vec<DeliveryId>,
    /// When the receiver had it, or when it was replayed.
    waits_since: Millis,
    /// The jobs it is part of and that have not ended.
    parts: usize,
    /// The worst ending of a part so far.
    ending: Ending,
    /// How its halves ended so far; `None` for a plain one that nobody asked for, or that ended before.
    enriched: Fate,
    plain: Option<Fate>,
}

impl Engine {
    /// An engine that reads what `plans` says. `seed` feeds the jitter of delays, and tells its notes from those of others:
    /// no two engines of a partition may have the same.
    #[must_use]
    pub fn new(plans: Plans, seed: u64) -> Self {
        let ledger = Ledger::new(plans.destinations());
        Self {
            plans,
            portals: Portals::new(Share::WHOLE),
            active: false,
            noted_at: Millis::default(),
            admission: Admission::new(WINDOW_DEFAULT),
            next_sweep: Millis::default(),
            set_aside: 0,
            live: HashMap::new(),
            memory: Memory::new(),
            ledger,
            pool: DefinitionPool::default(),
            changelog: Changelog::new(WINDOW_DEFAULT),
            instance: seed,
            notes: 0,
            trials: BTreeMap::new(),
            has_room: false,
            calls: HashMap::new(),
            publishes: HashMap::new(),
            effects: Effects::new(seed),
        }
    }

    /// The same, keeping to `share` of HubSpot's limits.
    #[must_use]
    pub fn with_budget_share(self, share: Share) -> Self {
        Self {
            portals: Portals::new(share),
            ..self
        }
    }

    /// The same, for a partition that gives out at most `window` deliveries at once.
    #[must_use]
    pub fn with_window(self, window: usize) -> Self {
        Self {
            admission: Admission::new(window),
            changelog: Changelog::new(window),
            ..self
        }
    }

    /// Takes in what an earlier engine of the partition noted, in the order it was noted. Before the first delivery;
    /// again after a loss, what was noted since: what this engine noted itself it knows better.
    pub fn restore(&mut self, note: Note) {
        self.noted_at = self.noted_at.max(note.at);
        if note.engine == self.instance {
            return;
        }
        for tally in note.tallies {
            self.memory.restore_events(note.at, tally);
        }
        for entry in note.entries {
            self.memory.restore(note.at, entry);
        }
    }

    /// Takes in what happened at `now`, and returns what is to be done, in order. `now` never goes back.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Output> {
        match input {
            Input::Batch {
                delivery,
                events,
                from,
            } => self.batch(now, delivery, events, from),
            Input::Answered { call, answered } => self.answered(now, call, answered),
            Input::TokenRefreshed { portal_id, changed } => {
                self.with_portal(now, &portal_id, |portal, ctx| {
                    portal.token_refreshed(changed, ctx.now)
                });
            }
            Input::PortalChanged(portal_id) => {
                self.with_portal(now, &portal_id, |portal, _| portal.changed());
                self.has_room = true;
            }
            Input::Suspects(lot) => self.suspects(now, lot),
            Input::PutAside { delivery, purged } => self.purge_aside(now, delivery, &purged),
            Input::Published { publish, outcome } => {
                if let Some((portal_id, publishing)) = self.publishes.remove(&publish) {
                    if let Publishing::Suspect(id) = &publishing {
                        self.effects.end(id, Fate::of(id, &outcome));
                    }
                    self.with_portal(now, &portal_id, |portal, ctx| match &publishing {
                        Publishing::Record(key) => portal.published(key, &outcome, ctx),
                        Publishing::Plain(id) => portal.plain_published(id, &outcome, ctx),
                        Publishing::Suspect(_) => {}
                    });
                }
            }
            Input::Noted(id) => {
                let settled = self.changelog.noted(id);
                self.acknowledge(now, settled);
            }
            Input::Lost => self.lost(),
            Input::Tick => {
                for portal_id in self.portals.busy() {
                    self.with_portal(now, &portal_id, |_, _| {});
                }
            }
        }
        if self.next_sweep <= now {
            self.sweep(now);
        }
        self.gather(now);
        if std::mem::take(&mut self.has_room) && self.admission.holds() {
            self.admit_held(now);
            self.gather(now);
        }
        self.note(now);
        std::mem::take(&mut self.effects.outputs).into()
    }

    /// Whether nothing is lost with an event that is to be set aside: its record is erased, it tells nobody more than that, and
    /// nothing of it is on its way.
    #[must_use]
    pub fn may_be_dropped(&self, event: &Event) -> bool {
        let subject = event.subject();
        let key = (subject.object_type_id, subject.object_id);
        let portal = self.portals.get(&event.portal_id);
        let has_tombstones = ["privacy_deleted", "merged"].contains(&event.kind());
        self.memory.leads_to_erased(&event.portal_id, &key)
            && !self.live.contains_key(&*event.known_as())
            && !portal.is_some_and(|portal| portal.has_plain(&event.known_as()))
            && (!has_tombstones || self.memory.has_seen(&event.known_as()))
    }

    /// When to send [`Input::Tick`], if nothing happens before.
    pub fn next_wake(&mut self, now: Millis) -> Option<Millis> {
        let sweeps = !self.admission.is_empty() || self.admission.holds();
        let portals = self.active.then(|| self.portals.next_wake(now));
        let portals = portals.flatten();
        let others = sweeps.then_some(self.next_sweep).into_iter();
        let others = others.chain(self.changelog.due()).chain(self.ledger.due());
        portals.into_iter().chain(others).min()
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.admission.is_empty()
            && self.publishes.is_empty()
            && self.changelog.is_empty()
            && self.trials.is_empty()
            && self.portals.is_idle()
    }

    /// Figures for the metrics.
    pub fn stats(&mut self, now: Millis) -> EngineStats {
        let (remembered_events, remembered_records) = self.memory.sizes();
        let mut stats = EngineStats {
            remembered_events,
            remembered_records,
            waiting_events: self.live.len() + self.admission.held_events().count(),
            set_aside: std::mem::take(&mut self.set_aside),
            oldest_received_at: self.oldest_received_at(now),
            ..EngineStats::default()
        };
        let waiting = self.admission.waiting();
        for portal in self.portals.values_mut() {
            let least =
                |known: Option<BudgetLeft>, new| BudgetLeft::least_of(known.into_iter().chain(new));
            let budget = &mut portal.budget;
            stats.burst = least(stats.burst, budget.left(LimitClass::Burst, now));
            stats.associations = least(
                stats.associations,
                budget.left(LimitClass::Associations, now),
            );
            stats.daily = least(stats.daily, budget.daily_left());
            stats.daily_lasts = shorter(stats.daily_lasts, budget.daily_lasts(now));
            let is_paused = matches!(portal.health, Health::Paused { .. });
            if !portal.has_work() && !is_paused && !waiting.contains(portal.id()) {
                continue;
            }
            match portal.health {
                Health::BackingOff { .. } => stats.portals_backing_off += 1,
                Health::Refreshing | Health::Paused { .. } => stats.portals_paused += 1,
                Health::Ready if portal.budget.allows(LimitClass::Burst, Priority::Live, now) => {
                    stats.portals_ready += 1
                }
                Health::Ready => stats.portals_waiting += 1,
            }
        }
        stats
    }

    fn become_active(&mut self, now: Millis, waits_since: Millis) {
        if !std::mem::replace(&mut self.active, true) {
            self.take_over(now, waits_since);
        }
    }

    /// The first delivery came, with an event that has waited since then. Whoever was at the partition a moment ago may have
    /// used its portals' limits up: it has noted what it did, or else left us what it did not get to.
    fn take_over(&mut self, now: Millis, waits_since: Millis) {
        let is_inherited = self.noted_at.after(budget::INTERVAL_DEFAULT) > now
            || waits_since.after(budget::TAKE_OVER_DELAY) <= now;
        let delay = if is_inherited {
            budget::TAKE_OVER_DELAY
        } else {
            Duration::ZERO
        };
        self.portals.take_over(now, now.after(delay));
    }

    /// What passes by from the backlog of a portal that cannot be asked is not ours to get on with.
    fn oldest_received_at(&self, now: Millis) -> Option<Millis> {
        let live = self.live.values().map(|live| live.waits_since);
        let held = self.admission.held_events();
        let held = held
            .filter(|event| standing(&self.portals, &event.portal_id, now) != Standing::Barred)
            .map(Event::waits_since);
        live.chain(held).min()
    }

    fn batch(&mut self, now: Millis, delivery: DeliveryId, events: Vec<Event>, from: Source) {
        let Some(first) = events.first() else {
            self.effects.outputs.push_back(Output::Ack(delivery));
            return;
        };
        let waits_since = first.waits_since();
        self.become_active(now, waits_since);
        self.enter_in_ledger(now, &events);
        let priority = Priority::of_all(events.iter());
        let standing = standing(&self.portals, &first.portal_id, now);
        // A privacy deletion asks HubSpot nothing, and waits for nobody.
        let is_urgent =
            |event: &Event| event.is_privacy_deletion() && !self.memory.has_seen(&event.known_as());
        let portal = self.portals.get(&first.portal_id);
        let is_left_behind = portal.is_some_and(Portal::is_left_behind);
        if events.iter().any(is_urgent)
            || (!is_left_behind && !self.asks_hubspot(&events))
            || self
                .admission
                .has_room(&first.portal_id, priority, standing)
        {
            self.admit(now, delivery, events);
            return;
        }
        self.send_plain(now, &events);
        if from == Source::Backlog {
            self.admission.hold(delivery, events, now);
        } else {
            self.put_aside(delivery);
        }
    }

    /// Whether HubSpot may be asked something because of `events`. What needs no answer of its never waits for room.
    fn asks_hubspot(&self, events: &[Event]) -> bool {
        let mut events = events.iter();
        events.any(|event| {
            !self.memory.has_seen(&event.known_as()) && self.plans.wants(event).parts.is_some()
        })
    }

    /// Sends plain events of a delivery that is not taken up now, as far as there is room. It keeps them until the rest of it
    /// is done, and they are recognised when it comes again.
    fn send_plain(&mut self, now: Millis, events: &[Event]) {
        for event in events {
            if self.memory.has_seen(&event.known_as()) || !self.plans.wants(event).plain {
                continue;
            }
            if self.portals.enter(&event.portal_id, now).has_plain_enough() {
                return;
            }
            self.with_portal(now, &event.portal_id, |portal, ctx| {
                portal.send_plain(event, ctx);
            });
        }
    }

    fn admit(&mut self, now: Millis, delivery: DeliveryId, events: Vec<Event>) {
        let portal_id = events[0].portal_id.clone();
        self.admission.admit(delivery, &events, now);
        for event in events {
            self.arrive(now, delivery, event);
        }
        self.with_portal(now, &portal_id, |_, _| {});
    }

    /// Takes up what came from the backlog and has room now.
    fn admit_held(&mut self, now: Millis) {
        while let Some(held) = self
            .admission
            .next_with_room(|portal_id| standing(&self.portals, portal_id, now))
        {
            self.admit(now, held.delivery, held.events);
        }
    }

    fn put_aside(&mut self, delivery: DeliveryId) {
        self.survive_trial(delivery);
        self.set_aside += 1;
        self.effects.outputs.push_back(Output::SetAside(delivery));
    }

    /// Drops portals that are idle. Sets aside what holds up others: the deliveries of portals that get nowhere, and those from the backlog
    /// that wait for such.
    fn sweep(&mut self, now: Millis) {
        self.next_sweep = now.after(SWEEP_INTERVAL);
        self.portals.drop_idle(now);
        self.pool.forget_unused(now);
        for (portal_id, since) in self.admission.portals() {
            let Some(portal) = self.portals.get(&portal_id) else {
                continue;
            };
            let got_on_at = portal.progressed_at.max(since);
            if portal.health.standing(now) == Standing::Barred
                || now.since(got_on_at) >= STUCK_AFTER
                || now.since(since) >= UNSETTLED_MAX
            {
                self.evict(&portal_id);
            }
        }
        self.admit_held(now);
        let overdue = self
            .admission
            .overdue(now, |portal_id| standing(&self.portals, portal_id, now));
        for delivery in overdue {
            self.put_aside(delivery);
        }
    }

    /// Sets all deliveries of a portal aside, and drops its work as if they had not come; see [`Self::lost`].
    fn evict(&mut self, portal_id: &PortalId) {
        let deliveries = self.admission.release_all(portal_id);
        let Some(portal) = self.portals.get_mut(portal_id) else {
            return;
        };
        let on_their_way = counted(portal.lost());
        self.live.retain(|id, live| {
            if !live.deliveries.iter().any(|one| deliveries.contains(one)) {
                return true;
            }
            live.deliveries.clear();
            on_their_way.get(id) == Some(&live.parts)
        });
        portal.keep_on_their_way(|id| self.live.contains_key(id));
        for delivery in deliveries {
            self.put_aside(delivery);
        }
    }

    /// A repeat of an event that ended ends at once; one of an event under way ends with it.
    fn arrive(&mut self, now: Millis, delivery: DeliveryId, event: Event) {
        if self.memory.has_seen(&event.known_as()) {
            self.duplicate(&event.portal_id);
            self.event_ended(delivery);
        } else if let Some(live) = self.live.get_mut(&*event.known_as()) {
            live.deliveries.push(delivery);
        } else {
            let (id, portal_id) = (event.known_as().into_owned(), event.portal_id.clone());
            let live = Live {
                portal_id: portal_id.clone(),
                deliveries: vec![delivery],
                waits_since: event.waits_since(),
                parts: usize::MAX,
                ending: Ending::Unwanted,
                enriched: Fate::of_all(Ending::Unwanted),
                plain: None,
            };
            self.live.insert(id.clone(), live);
            let portal = self.portals.enter(&portal_id, now);
            let mut ctx = Context {
                now,
                may_call: self.active,
                plans: &self.plans,
                memory: &mut self.memory,
                pool: &mut self.pool,
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
                may_call: self.active,
                plans: &self.plans,
                memory: &mut self.memory,
                pool: &mut self.pool,
                effects: &mut self.effects,
            };
            act(portal, &mut ctx);
            portal.dispatch(&mut ctx);
            self.portals.told(portal_id);
        }
    }

    /// Everything that is not on its way to the destinations is dropped: it comes again. What is on its way
    /// stays known, so that its repeat is recognised; unless only a part of it is, since the repeat must
    /// then make up for the rest, and the confirm of the part that is must not count for the repeat.
    fn lost(&mut self) {
        self.active = false;
        self.admission.clear();
        self.changelog.lost();
        self.survive_trials();
        // One that is also wanted enriched may have gone out so, and that half must not go out again.
        let has_two_halves = |event: &Event| self.plans.wants(event).parts.is_some();
        for portal in self.portals.values_mut() {
            portal.keep_waiting(has_two_halves);
        }
        let on_their_way = counted(self.portals.values_mut().flat_map(Portal::lost));
        self.live.retain(|id, live| {
            live.deliveries.clear();
            on_their_way.get(id) == Some(&live.parts)
        });
        for portal in self.portals.values_mut() {
            portal.keep_on_their_way(|id| self.live.contains_key(id));
            portal.keep_waiting(|event| self.live.contains_key(&*event.known_as()));
        }
    }

    /// Moves what the portals want done into outputs.
    fn gather(&mut self, now: Millis) {
        for call in std::mem::take(&mut self.effects.calls) {
            let call_id = CallId(self.effects.next_id());
            self.effects.outputs.push_back(Output::Call {
                call_id,
                portal_id: call.portal_id.clone(),
                call: call.request.to_call(),
            });
            self.calls.insert(call_id, call);
        }
        for (publish, portal_id, publishing) in std::mem::take(&mut self.effects.publishes) {
            self.publishes.insert(publish, (portal_id, publishing));
        }
        for id in std::mem::take(&mut self.effects.plain_purged) {
            if let Some(live) = self.live.get_mut(&id) {
                live.plain = Some(Fate::of_all(Ending::Purged));
                live.ending = live.ending.max(Ending::Purged);
            }
        }
        for (portal_id, id, fate) in std::mem::take(&mut self.effects.plain_ended) {
            self.plain_ended(now, &portal_id, &id, fate);
        }
        for (id, fate) in std::mem::take(&mut self.effects.ended) {
            self.part_ended(now, &id, Half::Enriched, fate);
        }
    }
}

/// The shorter of two times, of which none is the longest.
fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// How work for a portal is taken up, as far as is known.
fn standing(portals: &Portals, portal_id: &PortalId, now: Millis) -> Standing {
    let portal = portals.get(portal_id);
    portal.map_or(Standing::Good, |portal| portal.standing(now))
}

/// How often each id occurs.
fn counted(ids: impl IntoIterator<Item = EventId>) -> HashMap<EventId, usize> {
    let mut counts = HashMap::new();
    for id in ids {
        *counts.entry(id).or_default() += 1;
    }
    counts
}
