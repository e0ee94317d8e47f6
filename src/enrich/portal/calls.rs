//! Calls go out: which request is next, and whether it may be sent.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::enrich::batch_max::BatchKind;
use crate::enrich::cache::DEFINITIONS_TTL;
use crate::enrich::conversations::is_conversation;
use crate::enrich::job::{AssociationsRead, Job, Key};
use crate::enrich::priority::{BULK_FLOOR, Priority, ReadQueue};
use crate::enrich::request::{Group, Request, thread_key};
use crate::event::{Millis, ObjectTypeId};
use crate::hubspot::call::{AssociationInput, LimitClass, Sensitivity};

use super::{Context, Gathering, Pair, Portal};

/// The longest that associations gather to fill a batch, while records of their type wait to be read.
const GATHER_MAX: Duration = Duration::from_secs(2);
/// The most calls of one portal under way at once: enough to use HubSpot's highest limit when it answers
/// after more than a second.
pub const CALLS_IN_FLIGHT_MAX: usize = 32;
/// Of these, bulk work leaves so many to live changes.
const LIVE_CALLS_RESERVED: usize = 8;

impl Portal {
    /// Sends every plain event and every call that may be sent now.
    pub(in crate::enrich) fn dispatch(&mut self, ctx: &mut Context<'_>) {
        self.dispatch_plain(ctx);
        self.requeue_due_rereads(ctx.now);
        while ctx.may_call
            && self.in_flight < CALLS_IN_FLIGHT_MAX
            && self.health.allows(self.in_flight, ctx.now)
        {
            let Some(request) = self.next_request(ctx) else {
                break;
            };
            self.send(request, ctx);
        }
    }

    pub(super) fn requeue_due_rereads(&mut self, now: Millis) {
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

    pub(super) fn send(&mut self, request: Request, ctx: &mut Context<'_>) {
        self.in_flight += 1;
        self.budget.sent(request.limit_class(), ctx.now);
        if let Some(group) = request.group() {
            *self.groups_in_flight.entry(group).or_default() += 1;
        }
        ctx.effects.call(&self.id, request, ctx.now);
    }

    pub(super) fn next_request(&mut self, ctx: &mut Context<'_>) -> Option<Request> {
        if let Some(request) = self.next_ready(ctx.now) {
            return Some(request);
        }
        if self.since_bulk >= BULK_FLOOR
            && let Some(request) = self.next_batch(Priority::Bulk, Priority::Live, ctx)
        {
            self.since_bulk = 0;
            return Some(request);
        }
        if let Some(request) = self.next_batch(Priority::Live, Priority::Live, ctx) {
            self.since_bulk += 1;
            return Some(request);
        }
        if self.in_flight + LIVE_CALLS_RESERVED >= CALLS_IN_FLIGHT_MAX {
            return None;
        }
        let request = self.next_batch(Priority::Bulk, Priority::Bulk, ctx)?;
        self.since_bulk = 0;
        Some(request)
    }

    /// The next batch of a group that has work of priority `of`, within the budget of priority `within`.
    pub(super) fn next_batch(
        &mut self,
        of: Priority,
        within: Priority,
        ctx: &mut Context<'_>,
    ) -> Option<Request> {
        for _ in 0..self.turns.len() {
            let group = self.turns.pop_front()?;
            let request = self
                .waits(&group, of)
                .then(|| self.take_from(&group, within, ctx))
                .flatten();
            if self.waits(&group, Priority::Live) || self.waits(&group, Priority::Bulk) {
                self.turns.push_back(group);
            }
            if request.is_some() {
                return request;
            }
        }
        None
    }

    pub(super) fn next_ready(&mut self, now: Millis) -> Option<Request> {
        let mut at = 0;
        while let Some(request) = self.ready.get(at) {
            if !self
                .budget
                .allows(request.limit_class(), Priority::Live, now)
            {
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
    pub(super) fn still_wanted(&mut self, mut request: Request) -> Option<Request> {
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
            Request::Thread { id, job } => self.reading(&thread_key(id), *job).is_some(),
            Request::Message { thread_id, job, .. } => {
                self.reading(&thread_key(thread_id), *job).is_some()
            }
            _ => true,
        };
        wanted.then_some(request)
    }

    /// Whether `group` has work of `priority`.
    pub(super) fn waits(&self, group: &Group, priority: Priority) -> bool {
        match group {
            Group::Records(of) => self
                .to_read
                .get(of)
                .is_some_and(|queue| queue.has(priority)),
            Group::Associations(from, to) => self
                .to_associate
                .get(&(from.clone(), to.clone()))
                .is_some_and(|gathering| gathering.queue.has(priority)),
        }
    }

    pub(super) fn take_from(
        &mut self,
        group: &Group,
        within: Priority,
        ctx: &mut Context<'_>,
    ) -> Option<Request> {
        match group {
            Group::Records(of) => self.take_records(of, within, ctx),
            Group::Associations(from, to) => self.take_associations(from, to, within, ctx.now),
        }
    }

    /// Whether a batch of `waiting` may go: it is full, or none of its kind is under way.
    pub(super) fn may_go(&self, group: &Group, waiting: usize, full: usize) -> bool {
        waiting >= full || !self.groups_in_flight.contains_key(group)
    }

    pub(super) fn take_records(
        &mut self,
        of: &ObjectTypeId,
        within: Priority,
        ctx: &mut Context<'_>,
    ) -> Option<Request> {
        if is_conversation(of) {
            return self.take_thread(of, within, ctx);
        }
        if !self.budget.allows(LimitClass::Burst, within, ctx.now) {
            return None;
        }
        let needs_schemas = self.needs_schemas(of, ctx.plans);
        if needs_schemas && self.shared.schemas.begin_reading(ctx.now) {
            return Some(Request::Schemas);
        }
        let definitions = self.shared.definitions.entry(of.clone()).or_default();
        let due = definitions.is_due(DEFINITIONS_TTL, ctx.now);
        let known = definitions.is_usable(DEFINITIONS_TTL, ctx.now);
        if due {
            definitions.loading = true;
            self.shared.gathered.remove(of);
            let first = Sensitivity::NonSensitive;
            return Some(Request::Definitions(of.clone(), first));
        }
        let known = known && (!needs_schemas || self.shared.schemas.is_usable(ctx.now));
        let waiting = self.to_read.get(of).map_or(0, ReadQueue::len);
        let full = self
            .batch_max
            .of(BatchKind::Records, ctx.now)
            .min(self.plan_of(of, ctx.plans).batch_max());
        if !known || !self.may_go(&Group::Records(of.clone()), waiting, full) {
            return None;
        }
        self.begin_reads(of, full, ctx)
    }

    /// Takes up to a `full` batch of records whose reads begin now: from here on their jobs take no more events.
    pub(super) fn begin_reads(
        &mut self,
        of: &ObjectTypeId,
        full: usize,
        ctx: &mut Context<'_>,
    ) -> Option<Request> {
        let mut ids = Vec::new();
        let mut changed: BTreeSet<String> = BTreeSet::new();
        while ids.len() < full
            && let Some(queue) = self.to_read.get_mut(of).filter(|queue| !queue.is_empty())
        {
            for id in queue.take(full - ids.len()) {
                if let Some(job) = self.begin_read(&(of.clone(), id.clone()), ctx) {
                    changed.extend(job.changed_properties().map(str::to_owned));
                    ids.push((id, job.id));
                }
            }
        }
        if self.to_read.get(of).is_some_and(|queue| !queue.is_empty()) {
            self.backlogged.insert(of.clone());
        } else {
            self.backlogged.remove(of);
        }
        let plan = self.plan_of(of, ctx.plans);
        let definitions = self.shared.definitions_of(of);
        let schema = self.shared.schemas.of(of);
        let external_id = ctx.plans.external_id(&self.id, of, schema);
        let wanted = changed.iter().map(String::as_str).chain(external_id);
        let properties = ctx.plans.property_names(of, schema, definitions, wanted);
        let with_history = properties
            .iter()
            .filter(|name| plan.previous_values && changed.contains(*name))
            .cloned()
            .collect();
        (!ids.is_empty()).then(|| Request::Records {
            object_type_id: of.clone(),
            ids,
            properties,
            with_history,
            half_of: None,
        })
    }

    /// Begins the read of a record's next job, or repeats that of the one under way.
    pub(super) fn begin_read(&mut self, key: &Key, ctx: &Context<'_>) -> Option<&Job> {
        let lane = self.lanes.get_mut(key)?;
        lane.queued = None;
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
            self.queue_associations(key, ctx);
        }
        self.lanes.get(key)?.active.as_ref()
    }

    /// The associations are read from the moment on that the record is.
    pub(super) fn queue_associations(&mut self, key: &Key, ctx: &Context<'_>) {
        let plan = self.plan_of(&key.0, ctx.plans);
        let mut found = Vec::new();
        let types = self.associated_types(plan, &mut found);
        let Some(job) = self
            .lanes
            .get_mut(key)
            .and_then(|lane| lane.active.as_mut())
        else {
            return;
        };
        if !job.parts.associations {
            return;
        }
        let job_id = job.id;
        let priority = Priority::of_all(job.events.iter());
        if let Some(reading) = job.reading() {
            reading.problems.extend(found);
        }
        for to in &types {
            if let Some(reading) = job.reading() {
                reading
                    .associations
                    .insert((*to).clone(), AssociationsRead::default());
            }
            let page = AssociationInput {
                id: key.1.clone(),
                after: None,
            };
            let pair = (key.0.clone(), (*to).clone());
            self.to_associate
                .entry(pair)
                .or_default()
                .push(priority, (page, job_id), ctx.now);
        }
        for to in types {
            self.take_turn(Group::Associations(key.0.clone(), to.clone()));
        }
    }

    pub(super) fn take_associations(
        &mut self,
        from: &ObjectTypeId,
        to: &ObjectTypeId,
        within: Priority,
        now: Millis,
    ) -> Option<Request> {
        let group = Group::Associations(from.clone(), to.clone());
        let pair = (from.clone(), to.clone());
        let waiting = self.to_associate.get(&pair).map_or(0, Gathering::len);
        let full = self.batch_max.of(BatchKind::Associations, now);
        if !self.budget.allows(LimitClass::Associations, within, now)
            || !self.may_go(&group, waiting, full)
            || waiting < full && self.gathers_until(&pair).is_some_and(|until| until > now)
        {
            return None;
        }
        let inputs = self.to_associate.get_mut(&pair)?.take(full, now);
        self.still_wanted(Request::Associations {
            from: from.clone(),
            to: to.clone(),
            inputs,
            half_of: None,
        })
    }

    /// While a backlog of records is read, batch after batch, their associations gather to fill larger batches: until when.
    /// Live changes do not wait for the records of an import.
    pub(super) fn gathers_until(&self, pair: &Pair) -> Option<Millis> {
        let gathering = self.to_associate.get(pair)?;
        let urgent = if gathering.queue.has(Priority::Live) {
            Priority::Live
        } else {
            Priority::Bulk
        };
        let more = self.to_read.get(&pair.0)?.has(urgent);
        let gathers = more && self.backlogged.contains(&pair.0);
        gathers.then(|| gathering.since.after(GATHER_MAX))
    }
}
