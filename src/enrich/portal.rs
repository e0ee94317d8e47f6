//! One portal: its waiting events, its reads under way, its budget, and what it shares.
//!
//! The portal is the unit of order, of budget and of batching. Each record has a lane with at most one job
//! under way; new events join the job that waits. Reads of one kind that wait together travel together:
//! while a call that is not full is under way, its kind waits, so that a backlog fills the batches by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::event::{
    AssociationLabel, DeadLetter, DeadLetterReason, EnrichedEvent, EnrichmentPart,
    EnrichmentProblem, Event, EventBody, EventId, Millis, ObjectChange, ObjectEvent, ObjectId,
    ObjectTypeId, OwnerId, PortalId, ProblemReason, Stage, Tombstone, TombstoneReason, Version,
};
use crate::hubspot::call::{
    Answer, Answered, AssociationInput, AssociationPage, CallError, LimitClass,
    READ_ASSOCIATIONS_MAX, READ_RECORDS_MAX, RecordRead,
};

use super::assemble;
use super::budget::Budget;
use super::cache::{
    Cached, DEFINITIONS_AGE_MIN, DEFINITIONS_TTL, OWNER_PAGES_MAX, OWNERS_TTL, OwnerLookup,
    Problem, Shared,
};
use super::engine::{Effects, Ending, SEEN_CAPACITY, SEEN_KEEP};
use super::fresh;
use super::health::{Health, UNAUTHORIZED_PROBE};
use super::job::{
    AssociationsRead, Job, JobId, Key, Lane, PagesState, Reading, RecordOutcome, Work, needs_read,
};
use super::plan::Plans;
use super::request::{Group, Request};
use super::typed::Definitions;
use super::window::Window;

/// The most calls of one portal under way at once.
pub const CALLS_IN_FLIGHT_MAX: usize = 8;
/// The most pages of associations read of one record to one type; beyond, the message says `truncated`.
pub const ASSOCIATION_PAGES_MAX: u32 = 20;
/// The least wait after 423, "locked".
const LOCKED_DELAY_MIN: Duration = Duration::from_secs(2);
/// The wait after 477 ("being migrated") that does not say how long.
const MIGRATION_DELAY: Duration = Duration::from_secs(60);
/// Merges of merges are followed this far.
const MERGE_CHAIN_MAX: usize = 16;

/// The last version sent of a record.
#[derive(Debug)]
struct Sent {
    state: Millis,
    version: Version,
}

/// One portal.
#[derive(Debug)]
pub struct Portal {
    id: PortalId,
    pub health: Health,
    pub budget: Budget,
    shared: Shared,
    lanes: HashMap<Key, Lane>,
    /// Records whose job waits to be read, by type.
    to_read: BTreeMap<ObjectTypeId, VecDeque<ObjectId>>,
    /// Pages of associations that wait to be read.
    to_associate: BTreeMap<(ObjectTypeId, ObjectTypeId), VecDeque<(AssociationInput, JobId)>>,
    /// Requests ready to be sent as they are.
    ready: VecDeque<Request>,
    /// Groups with something waiting, in the order of their turn.
    turns: VecDeque<Group>,
    /// Calls under way by group.
    groups_in_flight: HashMap<Group, usize>,
    in_flight: usize,
    /// Jobs whose own reads are done and that wait for something shared.
    assembling: BTreeSet<Key>,
    /// Records to be read again, by when.
    rereads: BTreeMap<Millis, Vec<(Key, JobId)>>,
    sent: Window<Key, Sent>,
    merged: Window<Key, ObjectId>,
    erased: Window<Key, ()>,
}

/// What a portal's methods need besides their own state.
pub struct Context<'a> {
    pub now: Millis,
    pub plans: &'a Plans,
    pub effects: &'a mut Effects,
}

impl Portal {
    pub fn new(id: PortalId) -> Self {
        Self {
            id,
            health: Health::default(),
            budget: Budget::default(),
            shared: Shared::default(),
            lanes: HashMap::new(),
            to_read: BTreeMap::new(),
            to_associate: BTreeMap::new(),
            ready: VecDeque::new(),
            turns: VecDeque::new(),
            groups_in_flight: HashMap::new(),
            in_flight: 0,
            assembling: BTreeSet::new(),
            rereads: BTreeMap::new(),
            sent: Window::new(SEEN_KEEP, SEEN_CAPACITY),
            merged: Window::new(SEEN_KEEP, SEEN_CAPACITY),
            erased: Window::new(SEEN_KEEP, SEEN_CAPACITY),
        }
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty() && self.in_flight == 0
    }

    /// Whether events wait.
    pub fn has_work(&self) -> bool {
        !self.lanes.is_empty()
    }

    /// When time alone may let something happen.
    pub fn next_wake(&mut self, now: Millis) -> Option<Millis> {
        let reread = self.rereads.keys().next().copied();
        let waits = !self.ready.is_empty() || !self.turns.is_empty();
        let budget = [LimitClass::Burst, LimitClass::Associations]
            .into_iter()
            .filter(|_| waits)
            .filter_map(|class| self.budget.next_at(class, now))
            .min();
        let may_send = match self.health.until().filter(|until| *until > now && waits) {
            Some(until) => Some(until),
            None => budget,
        };
        reread.into_iter().chain(may_send).min()
    }

    // ---- events come -----------------------------------------------------------------------------

    /// Takes an event in. Returns how many jobs it is part of: that many times it must end.
    pub fn arrive(&mut self, event: Event, ctx: &mut Context<'_>) -> usize {
        let subject = event.subject();
        let key = self.survivor((subject.object_type_id, subject.object_id));
        if let EventBody::Object(ObjectEvent { change, .. }) = &event.body {
            match change.clone() {
                ObjectChange::PrivacyDeleted => return self.erase(key, event, ctx),
                ObjectChange::Deleted if !self.is_erased(&key) => {
                    return self.delete(key, event, ctx);
                }
                ObjectChange::Merged {
                    merged_object_ids, ..
                } => {
                    return self.merge(key, &merged_object_ids, event, ctx);
                }
                _ => {}
            }
        }
        if self.is_erased(&key) {
            ctx.effects.end(&event.id, Ending::Purged);
        } else {
            self.note_unknown_property(&key.0, &event, ctx.now);
            let work = if needs_read(&event) {
                Work::Read(Reading::default())
            } else {
                Work::Plain
            };
            self.append(key, event, work, ctx);
        }
        1
    }

    /// Follows merges to the record that an id leads to now.
    fn survivor(&self, mut key: Key) -> Key {
        for _ in 0..MERGE_CHAIN_MAX {
            match self.merged.get(&key) {
                Some(survivor) => key.1 = survivor.clone(),
                None => break,
            }
        }
        key
    }

    fn is_erased(&self, key: &Key) -> bool {
        self.erased.get(key).is_some()
    }

    /// A property we have no definition of: read the definitions again before the record.
    fn note_unknown_property(&mut self, object_type_id: &ObjectTypeId, event: &Event, now: Millis) {
        let EventBody::Object(ObjectEvent {
            change: ObjectChange::PropertyChanged { property_name, .. },
            ..
        }) = &event.body
        else {
            return;
        };
        let known = self.shared.definitions_of(object_type_id);
        if known.is_some_and(|definitions| definitions.get(property_name).is_none())
            && let Some(cached) = self.shared.definitions.get_mut(object_type_id)
        {
            cached.outdate_older_than(DEFINITIONS_AGE_MIN, now);
        }
    }

    /// A deletion fetches nothing. What waited for a read and happened no later joins the tombstone.
    fn delete(&mut self, key: Key, event: Event, ctx: &mut Context<'_>) -> usize {
        let tombstone = Work::Tombstone(Tombstone {
            reason: TombstoneReason::Deleted,
            merged_into: None,
        });
        let lane = self.lanes.entry(key.clone()).or_default();
        match lane.waiting.back_mut() {
            Some(last) if last.may_join_tombstone(event.occurred_at) => {
                last.work = tombstone;
                last.events.push(event);
                self.wake_lane(&key, ctx);
            }
            _ => self.append(key, event, tombstone, ctx),
        }
        1
    }

    /// A privacy deletion cancels all work for the record, and keeps late events from bringing it back.
    fn erase(&mut self, key: Key, event: Event, ctx: &mut Context<'_>) -> usize {
        self.erased.insert(key.clone(), (), ctx.now);
        if let Some(lane) = self.lanes.get_mut(&key) {
            let mut cancelled: Vec<Job> = lane.waiting.drain(..).collect();
            if lane
                .active
                .as_mut()
                .is_some_and(|job| job.reading().is_some())
            {
                cancelled.extend(lane.active.take());
            }
            for event in cancelled.iter().flat_map(|job| &job.events) {
                ctx.effects.end(&event.id, Ending::Purged);
            }
        }
        self.assembling.remove(&key);
        let tombstone = Work::Tombstone(Tombstone {
            reason: TombstoneReason::PrivacyDeleted,
            merged_into: None,
        });
        self.append(key, event, tombstone, ctx);
        1
    }

    /// A merge reads the survivor, and sends a tombstone for each id that now leads to it. What waited
    /// for these goes to the survivor.
    fn merge(
        &mut self,
        survivor: Key,
        merged: &[ObjectId],
        event: Event,
        ctx: &mut Context<'_>,
    ) -> usize {
        let merged: Vec<Key> = merged
            .iter()
            .filter(|id| **id != survivor.1)
            .map(|id| (survivor.0.clone(), id.clone()))
            .collect();
        for old in &merged {
            self.redirect(old, &survivor, ctx);
            let tombstone = Work::Tombstone(Tombstone {
                reason: TombstoneReason::Merged,
                merged_into: Some(survivor.1.clone()),
            });
            self.append(old.clone(), event.clone(), tombstone, ctx);
        }
        self.append(survivor, event, Work::Read(Reading::default()), ctx);
        merged.len() + 1
    }

    /// Sends what waits for `old`, and what comes later, to `survivor`.
    fn redirect(&mut self, old: &Key, survivor: &Key, ctx: &mut Context<'_>) {
        if old == survivor || self.survivor(survivor.clone()) == *old {
            return;
        }
        self.merged.insert(old.clone(), survivor.1.clone(), ctx.now);
        let Some(lane) = self.lanes.get_mut(old) else {
            return;
        };
        let (reads, rest): (VecDeque<Job>, _) = lane
            .waiting
            .drain(..)
            .partition(|job| matches!(job.work, Work::Read(_)));
        lane.waiting = rest;
        self.drop_if_empty(old);
        for event in reads.into_iter().flat_map(|job| job.events) {
            self.append(survivor.clone(), event, Work::Read(Reading::default()), ctx);
        }
    }

    /// Puts an event at the end of its record's lane, in the job that waits there if that takes it. An
    /// erased record is not read, whichever way an event leads to it.
    fn append(&mut self, key: Key, event: Event, work: Work, ctx: &mut Context<'_>) {
        if matches!(work, Work::Read(_)) && self.is_erased(&key) {
            ctx.effects.end(&event.id, Ending::Purged);
            return;
        }
        let lane = self.lanes.entry(key.clone()).or_default();
        match lane.waiting.back_mut() {
            Some(last) if matches!(work, Work::Read(_)) && last.takes(&event) => {
                last.events.push(event);
            }
            _ => lane.waiting.push_back(Job {
                id: ctx.effects.next_job(),
                events: vec![event],
                work,
            }),
        }
        self.wake_lane(&key, ctx);
    }

    /// Begins the next job of a lane that has none under way.
    fn wake_lane(&mut self, key: &Key, ctx: &mut Context<'_>) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if lane.active.is_some() {
            return;
        }
        match lane.waiting.front().map(|job| &job.work) {
            None => self.drop_if_empty(key),
            Some(Work::Read(_)) => self.queue_read(key),
            Some(_) => {
                let job = lane.waiting.pop_front().expect("there is a front");
                self.send_unread(key, job, ctx);
            }
        }
    }

    fn drop_if_empty(&mut self, key: &Key) {
        let is_empty = |lane: &Lane| lane.active.is_none() && lane.waiting.is_empty();
        if self.lanes.get(key).is_some_and(is_empty) {
            self.lanes.remove(key);
        }
    }

    fn queue_read(&mut self, key: &Key) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut lane.queued, true) {
            self.to_read
                .entry(key.0.clone())
                .or_default()
                .push_back(key.1.clone());
            self.take_turn(Group::Records(key.0.clone()));
        }
    }

    fn take_turn(&mut self, group: Group) {
        if !self.turns.contains(&group) {
            self.turns.push_back(group);
        }
    }

    // ---- calls go out ----------------------------------------------------------------------------

    /// Sends every call that may be sent now.
    pub fn dispatch(&mut self, ctx: &mut Context<'_>) {
        self.requeue_due_rereads(ctx.now);
        while self.in_flight < CALLS_IN_FLIGHT_MAX && self.health.allows(self.in_flight, ctx.now) {
            let Some(request) = self.next_request(ctx) else {
                break;
            };
            self.send(request, ctx);
        }
    }

    fn requeue_due_rereads(&mut self, now: Millis) {
        while let Some(entry) = self.rereads.first_entry()
            && *entry.key() <= now
        {
            for (key, job) in entry.remove() {
                if self.reading(&key, job).is_some() {
                    self.queue_read(&key);
                }
            }
        }
    }

    fn send(&mut self, request: Request, ctx: &mut Context<'_>) {
        self.in_flight += 1;
        self.budget.sent(request.limit_class());
        if let Some(group) = request.group() {
            *self.groups_in_flight.entry(group).or_default() += 1;
        }
        ctx.effects.call(&self.id, request, ctx.now);
    }

    fn next_request(&mut self, ctx: &mut Context<'_>) -> Option<Request> {
        if let Some(request) = self.next_ready(ctx.now) {
            return Some(request);
        }
        for _ in 0..self.turns.len() {
            let group = self.turns.pop_front()?;
            let request = self.take_from(&group, ctx);
            if self.is_waiting(&group) {
                self.turns.push_back(group);
            }
            if request.is_some() {
                return request;
            }
        }
        None
    }

    fn next_ready(&mut self, now: Millis) -> Option<Request> {
        let mut at = 0;
        while let Some(request) = self.ready.get(at) {
            if !self.budget.allows(request.limit_class(), now) {
                at += 1;
            } else if let Some(request) = self.ready.remove(at)
                && let Some(request) = self.still_wanted(request)
            {
                return Some(request);
            }
        }
        None
    }

    /// The request without the jobs that ended meanwhile; `None` when nobody waits for it any more.
    fn still_wanted(&mut self, mut request: Request) -> Option<Request> {
        let wanted = match &mut request {
            Request::Records {
                object_type_id,
                ids,
                ..
            } => {
                ids.retain(|(id, job)| {
                    self.reading(&(object_type_id.clone(), id.clone()), *job)
                        .is_some()
                });
                !ids.is_empty()
            }
            Request::Associations { from, inputs, .. } => {
                inputs.retain(|(input, job)| {
                    self.reading(&(from.clone(), input.id.clone()), *job)
                        .is_some()
                });
                !inputs.is_empty()
            }
            Request::Single {
                object_type_id,
                id,
                job,
            } => self
                .reading(&(object_type_id.clone(), id.clone()), *job)
                .is_some(),
            _ => true,
        };
        wanted.then_some(request)
    }

    fn is_waiting(&self, group: &Group) -> bool {
        match group {
            Group::Records(of) => self.to_read.get(of).is_some_and(|queue| !queue.is_empty()),
            Group::Associations(from, to) => {
                let pair = (from.clone(), to.clone());
                self.to_associate
                    .get(&pair)
                    .is_some_and(|queue| !queue.is_empty())
            }
        }
    }

    fn take_from(&mut self, group: &Group, ctx: &mut Context<'_>) -> Option<Request> {
        match group {
            Group::Records(of) => self.take_records(of, ctx),
            Group::Associations(from, to) => self.take_associations(from, to, ctx.now),
        }
    }

    /// Whether a batch of `waiting` may go: it is full, or none of its kind is under way.
    fn may_go(&self, group: &Group, waiting: usize, full: usize) -> bool {
        waiting >= full || !self.groups_in_flight.contains_key(group)
    }

    fn take_records(&mut self, of: &ObjectTypeId, ctx: &mut Context<'_>) -> Option<Request> {
        if !self.budget.allows(LimitClass::Burst, ctx.now) {
            return None;
        }
        let definitions = self.shared.definitions.entry(of.clone()).or_default();
        let due = definitions.is_due(DEFINITIONS_TTL, ctx.now);
        let known = definitions.is_usable();
        if due {
            definitions.loading = true;
            return Some(Request::Definitions(of.clone()));
        }
        let waiting = self.to_read.get(of).map_or(0, VecDeque::len);
        if !known || !self.may_go(&Group::Records(of.clone()), waiting, READ_RECORDS_MAX) {
            return None;
        }
        self.begin_reads(of, ctx)
    }

    /// Takes up to a batch of records whose reads begin now: from here on their jobs take no more events.
    fn begin_reads(&mut self, of: &ObjectTypeId, ctx: &mut Context<'_>) -> Option<Request> {
        let mut ids = Vec::new();
        let mut changed: BTreeSet<String> = BTreeSet::new();
        while ids.len() < READ_RECORDS_MAX
            && let Some(id) = self.to_read.get_mut(of).and_then(VecDeque::pop_front)
        {
            if let Some(job) = self.begin_read(&(of.clone(), id.clone()), ctx.plans) {
                changed.extend(job.changed_properties().map(str::to_owned));
                ids.push((id, job.id));
            }
        }
        let properties = ctx.plans.of(of).property_names(
            of,
            self.shared.definitions_of(of),
            changed.iter().map(String::as_str),
        );
        (!ids.is_empty()).then(|| Request::Records {
            object_type_id: of.clone(),
            ids,
            properties,
        })
    }

    /// Begins the read of a record's next job, or repeats that of the one under way.
    fn begin_read(&mut self, key: &Key, plans: &Plans) -> Option<&Job> {
        let lane = self.lanes.get_mut(key)?;
        lane.queued = false;
        let begins = match &mut lane.active {
            Some(active) => {
                if !std::mem::take(&mut active.reading()?.awaits_reread) {
                    return None;
                }
                false
            }
            None => {
                lane.waiting.front_mut()?.reading()?;
                lane.active = lane.waiting.pop_front();
                true
            }
        };
        if begins {
            self.queue_associations(key, plans);
        }
        self.lanes.get(key)?.active.as_ref()
    }

    /// The associations are read from the moment on that the record is.
    fn queue_associations(&mut self, key: &Key, plans: &Plans) {
        let Some(job) = self
            .lanes
            .get_mut(key)
            .and_then(|lane| lane.active.as_mut())
        else {
            return;
        };
        let job_id = job.id;
        for to in &plans.of(&key.0).associations {
            if let Some(reading) = job.reading() {
                reading
                    .associations
                    .insert(to.clone(), AssociationsRead::default());
            }
            let page = AssociationInput {
                id: key.1.clone(),
                after: None,
            };
            let pair = (key.0.clone(), to.clone());
            self.to_associate
                .entry(pair)
                .or_default()
                .push_back((page, job_id));
        }
        for to in &plans.of(&key.0).associations {
            self.take_turn(Group::Associations(key.0.clone(), to.clone()));
        }
    }

    fn take_associations(
        &mut self,
        from: &ObjectTypeId,
        to: &ObjectTypeId,
        now: Millis,
    ) -> Option<Request> {
        let group = Group::Associations(from.clone(), to.clone());
        let pair = (from.clone(), to.clone());
        let waiting = self.to_associate.get(&pair).map_or(0, VecDeque::len);
        if !self.budget.allows(LimitClass::Associations, now)
            || !self.may_go(&group, waiting, READ_ASSOCIATIONS_MAX)
        {
            return None;
        }
        let queue = self.to_associate.get_mut(&pair)?;
        let inputs: Vec<_> = queue.drain(..waiting.min(READ_ASSOCIATIONS_MAX)).collect();
        self.still_wanted(Request::Associations {
            from: from.clone(),
            to: to.clone(),
            inputs,
        })
    }

    // ---- answers come ----------------------------------------------------------------------------

    /// Takes an answer in.
    pub fn answered(
        &mut self,
        request: Request,
        sent_at: Millis,
        answered: Answered,
        ctx: &mut Context<'_>,
    ) {
        self.in_flight -= 1;
        if let Some(group) = request.group()
            && let Some(count) = self.groups_in_flight.get_mut(&group)
        {
            *count -= 1;
            if *count == 0 {
                self.groups_in_flight.remove(&group);
            }
        }
        let class = request.limit_class();
        self.budget
            .answered(class, sent_at, ctx.now, &answered.limits);
        match answered.result {
            Ok(answer) => {
                self.health = Health::Ready;
                self.apply(request, answer, ctx);
            }
            Err(error) => self.failed(request, error, ctx),
        }
    }

    /// Every row of the table of what HubSpot answers when it does not answer.
    fn failed(&mut self, request: Request, error: CallError, ctx: &mut Context<'_>) {
        match error {
            CallError::RateLimited {
                policy,
                retry_after,
            } => {
                self.budget.refused(policy, retry_after, ctx.now);
                self.ready.push_front(request);
            }
            CallError::Locked {
                status,
                retry_after,
            } => {
                let delay = match status {
                    423 => retry_after.unwrap_or_default().max(LOCKED_DELAY_MIN),
                    _ => retry_after.unwrap_or(MIGRATION_DELAY),
                };
                self.budget.pause(ctx.now.after(delay));
                self.ready.push_front(request);
            }
            CallError::Unavailable { .. }
            | CallError::TimedOut
            | CallError::Disconnected
            | CallError::Unreadable { .. } => {
                self.health = self.health.failed(ctx.now, ctx.effects.jitter());
                self.ready.push_front(request);
            }
            CallError::Unauthorized => {
                if self.health != Health::Refreshing {
                    self.health = Health::Refreshing;
                    ctx.effects.refresh_token(&self.id);
                }
                self.ready.push_front(request);
            }
            CallError::NoToken => {
                self.refuse(request, DeadLetterReason::UnknownPortal, &error, ctx)
            }
            CallError::Forbidden { missing_scopes } => {
                let problem = Problem {
                    reason: ProblemReason::Forbidden,
                    missing_scopes,
                };
                self.forbid(request, &problem, ctx);
            }
            CallError::Refused { .. } => match request.split() {
                Some((first, second)) => {
                    self.ready.push_front(second);
                    self.ready.push_front(first);
                }
                None => self.refuse(request, DeadLetterReason::RefusedByHubspot, &error, ctx),
            },
        }
    }

    /// The token was read again. If it is the same, the portal waits for someone to mend it.
    pub fn token_refreshed(&mut self, changed: bool, now: Millis) {
        if self.health == Health::Refreshing {
            self.health = if changed {
                Health::Ready
            } else {
                Health::Paused {
                    until: now.after(UNAUTHORIZED_PROBE),
                }
            };
        }
    }

    /// A request that HubSpot refuses for good: its jobs become dead letters; a part goes missing.
    fn refuse(
        &mut self,
        request: Request,
        reason: DeadLetterReason,
        error: &CallError,
        ctx: &mut Context<'_>,
    ) {
        let refused = Problem {
            reason: ProblemReason::Refused,
            missing_scopes: Vec::new(),
        };
        match request {
            Request::Records {
                object_type_id,
                ids,
                ..
            } => {
                for (id, job) in ids {
                    self.bury(&(object_type_id.clone(), id), job, reason, error, ctx);
                }
            }
            Request::Single {
                object_type_id,
                id,
                job,
            } => {
                self.bury(&(object_type_id, id), job, reason, error, ctx);
            }
            other => self.forbid(other, &refused, ctx),
        }
    }

    /// The job's events become a dead letter.
    fn bury(
        &mut self,
        key: &Key,
        job: JobId,
        reason: DeadLetterReason,
        error: &CallError,
        ctx: &mut Context<'_>,
    ) {
        if self.reading(key, job).is_none() {
            return;
        }
        let Some(job) = self.lanes.get_mut(key).and_then(|lane| lane.active.take()) else {
            return;
        };
        let ids = job.events.iter().map(|event| event.id.clone()).collect();
        let letter = DeadLetter::new(Stage::Enrich, reason, error.to_string(), ctx.now)
            .with_events(job.events);
        ctx.effects.bury(&self.id, key, letter);
        self.assembling.remove(key);
        self.lanes.entry(key.clone()).or_default().active = Some(Job {
            id: job.id,
            events: Vec::new(),
            work: Work::Publishing(ids),
        });
    }

    /// A part that may not be read.
    fn forbid(&mut self, request: Request, problem: &Problem, ctx: &mut Context<'_>) {
        match request {
            Request::Records {
                object_type_id,
                ids,
                ..
            } => {
                for (id, job) in ids {
                    let scopes = problem.missing_scopes.clone();
                    let key = (object_type_id.clone(), id);
                    self.conclude_record(&key, job, RecordOutcome::Forbidden(scopes), ctx);
                }
            }
            Request::Single {
                object_type_id,
                id,
                job,
            } => {
                let scopes = problem.missing_scopes.clone();
                let key = (object_type_id, id);
                self.conclude_record(&key, job, RecordOutcome::Forbidden(scopes), ctx);
            }
            Request::Associations { from, to, inputs } => {
                for (input, job) in inputs {
                    self.fail_associations(&(from.clone(), input.id), job, &to, problem, ctx);
                }
            }
            Request::Definitions(of) => {
                self.shared
                    .definitions
                    .entry(of)
                    .or_default()
                    .set(Err(problem.clone()), ctx.now);
            }
            Request::Pipelines(of) => {
                self.shared
                    .pipelines
                    .entry(of)
                    .or_default()
                    .set(Err(problem.clone()), ctx.now);
                self.advance_assembling(ctx);
            }
            Request::OwnerPage { .. } => {
                self.shared.owners.listed(Err(problem.clone()), ctx.now);
                self.advance_assembling(ctx);
            }
            Request::Owner { id, .. } => self.owner_answered(id, true, None, ctx),
        }
    }

    /// Takes what was read in.
    fn apply(&mut self, request: Request, answer: Answer, ctx: &mut Context<'_>) {
        match (request, answer) {
            (
                Request::Records {
                    object_type_id,
                    ids,
                    ..
                },
                Answer::Records {
                    records,
                    completed_at,
                },
            ) => self.apply_records(&object_type_id, ids, records, completed_at, ctx),
            (
                Request::Single {
                    object_type_id,
                    id,
                    job,
                },
                Answer::Record {
                    record,
                    completed_at,
                },
            ) => self.apply_single(&(object_type_id, id), job, record, completed_at, ctx),
            (Request::Associations { from, to, inputs }, Answer::Associations(pages)) => {
                self.apply_associations(&from, &to, inputs, pages, ctx);
            }
            (Request::Definitions(of), Answer::Properties(definitions)) => {
                let definitions: Definitions = definitions.into_iter().collect();
                self.shared
                    .definitions
                    .entry(of)
                    .or_default()
                    .set(Ok(definitions), ctx.now);
            }
            (Request::Pipelines(of), Answer::Pipelines(pipelines)) => {
                self.shared
                    .pipelines
                    .entry(of)
                    .or_default()
                    .set(Ok(pipelines), ctx.now);
                self.advance_assembling(ctx);
            }
            (Request::OwnerPage { archived, .. }, Answer::Owners { owners, after }) => {
                owners
                    .into_iter()
                    .for_each(|owner| self.shared.owners.insert(owner));
                self.continue_owner_list(archived, after, ctx);
            }
            (Request::Owner { id, archived }, Answer::Owner(owner)) => {
                self.owner_answered(id, archived, owner, ctx);
            }
            (request, _) => {
                debug_assert!(false, "an answer of another kind to {request:?}");
                self.ready.push_front(request);
            }
        }
    }

    fn apply_records(
        &mut self,
        of: &ObjectTypeId,
        ids: Vec<(ObjectId, JobId)>,
        records: Vec<RecordRead>,
        completed_at: Millis,
        ctx: &mut Context<'_>,
    ) {
        let mut found: HashMap<ObjectId, RecordRead> = records
            .into_iter()
            .map(|record| (record.id.clone(), record))
            .collect();
        for (id, job) in ids {
            let record = found.remove(&id);
            let key = (of.clone(), id);
            let Some(reading) = self.reading(&key, job) else {
                continue;
            };
            reading.completed_at = Some(completed_at);
            match record {
                Some(record) => self.found(&key, job, record, ctx),
                None => self.not_found(&key, job, completed_at, ctx),
            }
        }
    }

    /// A record was read: it is good unless it is older than the events that led to the read.
    fn found(&mut self, key: &Key, job: JobId, record: RecordRead, ctx: &mut Context<'_>) {
        let definitions = self.shared.definitions_of(&key.0);
        let events = self.lanes[key]
            .active
            .as_ref()
            .map_or(&[][..], |job| &job.events);
        let stale = fresh::is_stale(&record, events, definitions);
        if stale && self.reread(key, job, ctx) {
            return;
        }
        if let Some(reading) = self.reading(key, job) {
            reading.stale = stale;
        }
        self.conclude_record(key, job, RecordOutcome::Found(record), ctx);
    }

    /// A record was not there: it may still appear, or have been merged away.
    fn not_found(&mut self, key: &Key, job: JobId, completed_at: Millis, ctx: &mut Context<'_>) {
        let events = self.lanes[key]
            .active
            .as_ref()
            .map_or(&[][..], |job| &job.events);
        if fresh::may_still_appear(events, completed_at) && self.reread(key, job, ctx) {
            return;
        }
        let Some(reading) = self.reading(key, job) else {
            return;
        };
        if std::mem::replace(&mut reading.asked_singly, true) {
            self.conclude_record(key, job, RecordOutcome::Missing, ctx);
        } else {
            self.ready.push_back(Request::Single {
                object_type_id: key.0.clone(),
                id: key.1.clone(),
                job,
            });
        }
    }

    /// Reads a record again in a while; `false` when that was done often enough.
    fn reread(&mut self, key: &Key, job: JobId, ctx: &mut Context<'_>) -> bool {
        let Some(reading) = self.reading(key, job) else {
            return false;
        };
        if reading.rereads >= fresh::REREADS_MAX {
            return false;
        }
        let at = ctx.now.after(fresh::reread_delay(reading.rereads));
        reading.rereads += 1;
        reading.awaits_reread = true;
        self.rereads.entry(at).or_default().push((key.clone(), job));
        true
    }

    fn apply_single(
        &mut self,
        key: &Key,
        job: JobId,
        record: Option<RecordRead>,
        completed_at: Millis,
        ctx: &mut Context<'_>,
    ) {
        let Some(reading) = self.reading(key, job) else {
            return;
        };
        reading.completed_at = Some(completed_at);
        match record {
            Some(record) if record.id != key.1 => {
                let survivor = (key.0.clone(), record.id);
                if self.survivor(survivor.clone()) == *key {
                    // The merges we were told of lead back here: following them would never end.
                    self.conclude_record(key, job, RecordOutcome::Missing, ctx);
                } else {
                    self.follow(key, &survivor, ctx);
                }
            }
            // It is there after all: read it as the others are read.
            Some(_) if self.reread(key, job, ctx) => {}
            _ => self.conclude_record(key, job, RecordOutcome::Missing, ctx),
        }
    }

    /// The record was merged into another without our being told: its events go there.
    fn follow(&mut self, old: &Key, survivor: &Key, ctx: &mut Context<'_>) {
        let Some(job) = self.lanes.get_mut(old).and_then(|lane| lane.active.take()) else {
            return;
        };
        self.redirect(old, survivor, ctx);
        let survivor = self.survivor(survivor.clone());
        for event in job.events {
            self.append(survivor.clone(), event, Work::Read(Reading::default()), ctx);
        }
        self.wake_lane(old, ctx);
    }

    fn apply_associations(
        &mut self,
        from: &ObjectTypeId,
        to: &ObjectTypeId,
        inputs: Vec<(AssociationInput, JobId)>,
        pages: Vec<AssociationPage>,
        ctx: &mut Context<'_>,
    ) {
        let mut by_id: HashMap<ObjectId, AssociationPage> = pages
            .into_iter()
            .map(|page| (page.from.clone(), page))
            .collect();
        for (input, job) in inputs {
            let key = (from.clone(), input.id);
            let page = by_id.remove(&key.1);
            let (edges, after) = page.map_or((Vec::new(), None), |page| (page.to, page.after));
            self.take_page(&key, job, to, edges, after, ctx);
        }
    }

    fn take_page(
        &mut self,
        key: &Key,
        job: JobId,
        to: &ObjectTypeId,
        edges: Vec<(ObjectId, Vec<AssociationLabel>)>,
        after: Option<String>,
        ctx: &mut Context<'_>,
    ) {
        let Some(reading) = self.reading(key, job) else {
            return;
        };
        let Some(read) = reading.associations.get_mut(to) else {
            return;
        };
        read.to.extend(edges);
        read.pages += 1;
        let truncated = after.is_some() && read.pages >= ASSOCIATION_PAGES_MAX;
        match after {
            Some(after) if !truncated => {
                let page = AssociationInput {
                    id: key.1.clone(),
                    after: Some(after),
                };
                let pair = (key.0.clone(), to.clone());
                self.to_associate
                    .entry(pair)
                    .or_default()
                    .push_back((page, job));
                self.take_turn(Group::Associations(key.0.clone(), to.clone()));
            }
            _ => {
                read.state = PagesState::Done;
                if truncated {
                    reading
                        .problems
                        .push(association_problem(to, ProblemReason::Truncated, &[]));
                }
                self.advance(key, ctx);
            }
        }
    }

    fn fail_associations(
        &mut self,
        key: &Key,
        job: JobId,
        to: &ObjectTypeId,
        problem: &Problem,
        ctx: &mut Context<'_>,
    ) {
        let Some(reading) = self.reading(key, job) else {
            return;
        };
        if let Some(read) = reading.associations.get_mut(to) {
            read.state = PagesState::Failed;
            let problem = association_problem(to, problem.reason, &problem.missing_scopes);
            reading.problems.push(problem);
        }
        self.advance(key, ctx);
    }

    /// The list goes on: active owners page by page, then archived ones.
    fn continue_owner_list(
        &mut self,
        archived: bool,
        after: Option<String>,
        ctx: &mut Context<'_>,
    ) {
        self.shared.owners.pages += 1;
        let more = self.shared.owners.pages < OWNER_PAGES_MAX;
        match (after, archived) {
            (Some(after), _) if more => self.ready.push_back(Request::OwnerPage {
                archived,
                after: Some(after),
            }),
            (_, false) => self.ready.push_back(Request::OwnerPage {
                archived: true,
                after: None,
            }),
            (_, true) => {
                self.shared.owners.listed(Ok(()), ctx.now);
                self.advance_assembling(ctx);
            }
        }
    }

    /// An owner was asked for singly: first among the active ones, then among the archived.
    fn owner_answered(
        &mut self,
        id: OwnerId,
        archived: bool,
        owner: Option<crate::event::Owner>,
        ctx: &mut Context<'_>,
    ) {
        match owner {
            None if !archived => {
                self.ready.push_back(Request::Owner { id, archived: true });
                return;
            }
            None => self.shared.owners.insert_absent(id.clone()),
            Some(owner) => self.shared.owners.insert(owner),
        }
        self.shared.owners.asked.retain(|asked| *asked != id);
        self.advance_assembling(ctx);
    }

    // ---- messages go out -------------------------------------------------------------------------

    fn conclude_record(
        &mut self,
        key: &Key,
        job: JobId,
        outcome: RecordOutcome,
        ctx: &mut Context<'_>,
    ) {
        if let Some(reading) = self.reading(key, job) {
            reading.record = Some(outcome);
            self.advance(key, ctx);
        }
    }

    fn advance_assembling(&mut self, ctx: &mut Context<'_>) {
        for key in std::mem::take(&mut self.assembling) {
            self.advance(&key, ctx);
        }
    }

    /// Sends the message of a job that has all it needs.
    fn advance(&mut self, key: &Key, ctx: &mut Context<'_>) {
        let Some(Work::Read(reading)) = self
            .lanes
            .get(key)
            .and_then(|lane| lane.active.as_ref())
            .map(|job| &job.work)
        else {
            return;
        };
        let is_reading = |state: PagesState| state == PagesState::Reading;
        match &reading.record {
            None => return,
            Some(RecordOutcome::Found(record)) => {
                if reading
                    .associations
                    .values()
                    .any(|read| is_reading(read.state))
                {
                    return;
                }
                let record = record.clone();
                if self.lacks_shared(key, &record, ctx.now) {
                    self.assembling.insert(key.clone());
                    return;
                }
            }
            Some(RecordOutcome::Missing | RecordOutcome::Forbidden(_)) => {}
        }
        let job = self.lanes.get_mut(key).and_then(|lane| lane.active.take());
        let mut job = job.expect("the lane has an active job");
        let Work::Read(reading) = std::mem::replace(&mut job.work, Work::Plain) else {
            unreachable!("the job is being read");
        };
        let message = self.message(
            key,
            job.newest(),
            std::mem::take(&mut job.events),
            reading,
            ctx.now,
        );
        self.publish(key, job.id, message, ctx);
    }

    /// Asks for what the record shares with others and is not known yet. `false` when all is known.
    fn lacks_shared(&mut self, key: &Key, record: &RecordRead, now: Millis) -> bool {
        let mut lacks = false;
        if assemble::stands_in_pipeline(record, &key.0) {
            let cached = self.shared.pipelines.entry(key.0.clone()).or_default();
            if let Some(request) = ask(
                cached,
                DEFINITIONS_TTL,
                now,
                Request::Pipelines(key.0.clone()),
            ) {
                self.ready.push_back(request);
            }
            lacks |= self.shared.pipelines[&key.0].get().is_none();
        }
        let owner_ids = assemble::owner_ids(record, &key.0, &self.shared);
        if !owner_ids.is_empty() {
            let first_page = Request::OwnerPage {
                archived: false,
                after: None,
            };
            if let Some(request) = ask(&mut self.shared.owners.list, OWNERS_TTL, now, first_page) {
                self.ready.push_back(request);
            }
            lacks |= self.lacks_owners(owner_ids.into_iter().map(|(_, id)| id));
        }
        lacks
    }

    fn lacks_owners(&mut self, ids: impl Iterator<Item = OwnerId>) -> bool {
        match self.shared.owners.list.get() {
            None => true,
            Some(Err(_)) => false,
            Some(Ok(())) => {
                let unknown: Vec<_> = ids
                    .filter(|id| matches!(self.shared.owners.find(id), OwnerLookup::Unknown))
                    .collect();
                for id in &unknown {
                    if !self.shared.owners.asked.contains(id) {
                        self.shared.owners.asked.push(id.clone());
                        self.ready.push_back(Request::Owner {
                            id: id.clone(),
                            archived: false,
                        });
                    }
                }
                !unknown.is_empty()
            }
        }
    }

    fn message(
        &mut self,
        key: &Key,
        newest: Millis,
        events: Vec<Event>,
        reading: Reading,
        now: Millis,
    ) -> EnrichedEvent {
        let updated_at = match &reading.record {
            Some(RecordOutcome::Found(record)) => record.updated_at,
            _ => None,
        };
        let state = updated_at.map_or(newest, |updated_at| updated_at.max(newest));
        let completed_at = reading.completed_at.unwrap_or_default();
        let version = self.next_version(key, state, now, |state| {
            Version::of_read(state, completed_at)
        });
        assemble::read(&self.id, key, version, events, reading, &self.shared)
    }

    /// The version of a message about `state`, later than every one sent of this record: a read that
    /// comes later knows at least as much, so its state may be taken to be a later one.
    fn next_version(
        &mut self,
        key: &Key,
        mut state: Millis,
        now: Millis,
        version_of: impl Fn(Millis) -> Version,
    ) -> Version {
        let mut version = version_of(state);
        if let Some(last) = self.sent.get(key)
            && version <= last.version
        {
            state = last.state;
            version = version_of(state);
            if version <= last.version {
                state = state.after(Duration::from_millis(1));
                version = version_of(state);
            }
        }
        let sent = Sent {
            state,
            version: version.clone(),
        };
        self.sent.insert(key.clone(), sent, now);
        version
    }

    /// Sends a job that needs no read. A deletion that is older than what was sent is no news: the record
    /// may have been restored since, so it is read instead.
    fn send_unread(&mut self, key: &Key, mut job: Job, ctx: &mut Context<'_>) {
        let newest = job.newest();
        let tombstone = match std::mem::replace(&mut job.work, Work::Plain) {
            Work::Tombstone(tombstone) => Some(tombstone),
            _ => None,
        };
        let is_deletion = tombstone
            .as_ref()
            .is_some_and(|t| t.reason == TombstoneReason::Deleted);
        let sent = self.sent.get(key).map(|last| &last.version);
        if is_deletion && sent.is_some_and(|last| Version::of_tombstone(newest) <= *last) {
            job.work = Work::Read(Reading::default());
            self.lanes
                .entry(key.clone())
                .or_default()
                .waiting
                .push_front(job);
            self.queue_read(key);
            return;
        }
        let version = self.next_version(key, newest, ctx.now, |state| match &tombstone {
            Some(_) => Version::of_tombstone(state),
            None => Version::of_read(state, Millis::default()),
        });
        let events = std::mem::take(&mut job.events);
        let message = assemble::unread(&self.id, key, version, events, tombstone);
        self.publish(key, job.id, message, ctx);
    }

    fn publish(&mut self, key: &Key, job: JobId, message: EnrichedEvent, ctx: &mut Context<'_>) {
        let ids = message
            .data
            .events
            .iter()
            .map(|event| event.id.clone())
            .collect();
        self.lanes.entry(key.clone()).or_default().active = Some(Job {
            id: job,
            events: Vec::new(),
            work: Work::Publishing(ids),
        });
        ctx.effects.publish(&self.id, key, message);
    }

    /// The message of a record's lane is confirmed: its events end, and the next job begins.
    pub fn published(&mut self, key: &Key, ending: Ending, ctx: &mut Context<'_>) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if let Some(Job {
            work: Work::Publishing(ids),
            ..
        }) = &lane.active
        {
            ids.iter().for_each(|id| ctx.effects.end(id, ending));
            lane.active = None;
        }
        self.wake_lane(key, ctx);
    }

    /// Drops all work that has not reached the publisher: its events come again. Returns the ids of the
    /// events whose messages are on their way.
    pub fn lost(&mut self) -> Vec<EventId> {
        self.to_read.clear();
        self.to_associate.clear();
        self.turns.clear();
        self.rereads.clear();
        self.assembling.clear();
        self.ready.retain(Request::is_shared);
        let mut on_their_way = Vec::new();
        self.lanes.retain(|_, lane| {
            lane.waiting.clear();
            lane.queued = false;
            match lane.active.as_ref().map(|job| &job.work) {
                Some(Work::Publishing(ids)) => {
                    on_their_way.extend(ids.iter().cloned());
                    true
                }
                _ => false,
            }
        });
        on_their_way
    }

    /// Lets the messages on their way end the events that `keep` knows, and no others.
    pub fn keep_on_their_way(&mut self, keep: impl Fn(&EventId) -> bool) {
        for lane in self.lanes.values_mut() {
            if let Some(Job {
                work: Work::Publishing(ids),
                ..
            }) = &mut lane.active
            {
                ids.retain(&keep);
            }
        }
    }

    /// The reads of the job under way at `key`, if it is still that job.
    fn reading(&mut self, key: &Key, job: JobId) -> Option<&mut Reading> {
        let active = self.lanes.get_mut(key)?.active.as_mut()?;
        if active.id == job {
            active.reading()
        } else {
            None
        }
    }
}

/// The request that reads a shared value, if it is due; marks it as being read.
fn ask<T>(cached: &mut Cached<T>, ttl: Duration, now: Millis, request: Request) -> Option<Request> {
    let due = cached.is_due(ttl, now);
    cached.loading |= due;
    due.then_some(request)
}

fn association_problem(
    to: &ObjectTypeId,
    reason: ProblemReason,
    missing_scopes: &[String],
) -> EnrichmentProblem {
    EnrichmentProblem {
        part: EnrichmentPart::Associations,
        reason,
        object_type: Some(to.name().to_owned()),
        missing_scopes: missing_scopes.to_vec(),
    }
}
