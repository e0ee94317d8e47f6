//! Answers come: what was read, and what to do when it was not.

use std::collections::HashMap;
use std::time::Duration;

use crate::enrich::assemble::associations_problem;
use crate::enrich::cache::{OWNER_PAGES_MAX, Problem};
use crate::enrich::fresh;
use crate::enrich::health::{Health, UNAUTHORIZED_PROBE};
use crate::enrich::job::{JobId, Key, PagesState, Reading, RecordOutcome, Work};
use crate::enrich::request::{Group, Request, thread_key};
use crate::event::{
    AssociationLabel, DeadLetter, DeadLetterReason, Event, Millis, ObjectId, ObjectTypeId, OwnerId,
    ProblemReason, Stage,
};
use crate::hubspot::call::{
    Answer, Answered, AssociationInput, AssociationPage, CallError, RecordRead, Sensitivity,
};

use super::{Context, Portal};

/// The most pages of associations read of one record to one type; beyond, the message says `truncated`.
pub const ASSOCIATION_PAGES_MAX: u32 = 20;
/// How often a record that a batch does not find is asked for singly. More than once: one that was there when asked
/// for singly may be gone, or merged, when it is read with others again.
const ASKED_SINGLY_MAX: u32 = 3;
/// The least wait after 423, "locked".
const LOCKED_DELAY_MIN: Duration = Duration::from_secs(2);
/// The wait after 477 ("being migrated") that does not say how long.
const MIGRATION_DELAY: Duration = Duration::from_secs(60);

impl Portal {
    /// Takes an answer in.
    pub(in crate::enrich) fn answered(
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
                self.progressed_at = ctx.now;
                if let (Some(whole), Some((kind, size))) = (request.half_of(), request.batch()) {
                    self.batch_max.taken(whole, kind, size, ctx.now);
                }
                self.apply(request, answer, ctx);
            }
            Err(error) => self.failed(request, error, ctx),
        }
    }

    /// Every row of the table of what HubSpot answers when it does not answer.
    pub(super) fn failed(&mut self, request: Request, error: CallError, ctx: &mut Context<'_>) {
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
            // It may be too large: histories of long texts are.
            CallError::Unreadable { .. } if request.has_history() => {
                self.health = self.health.failed(ctx.now, ctx.effects.jitter());
                match request.split(ctx.effects.next_split()) {
                    Some((first, second)) => self.ready.extend([first, second]),
                    None => self.ready.push_front(request),
                }
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
            CallError::Paused | CallError::Parked(_) => {
                self.health = Health::Paused {
                    until: ctx.now.after(UNAUTHORIZED_PROBE),
                };
                self.ready.push_front(request);
            }
            CallError::NoToken => {
                self.refuse(request, DeadLetterReason::UnknownPortal, &error, ctx)
            }
            CallError::Forbidden { missing_scopes } => {
                let documented = request.documented_scope().map(str::to_owned);
                let problem = Problem {
                    reason: ProblemReason::Forbidden,
                    missing_scopes: match documented {
                        Some(scope) if missing_scopes.is_empty() => vec![scope],
                        _ => missing_scopes,
                    },
                };
                self.forbid(request, &problem, ctx);
            }
            CallError::Refused { status, .. } => {
                let id = ctx.effects.next_split();
                match request.split(id) {
                    Some((first, second)) => {
                        self.batch_max.halved(id, status, request.half_of());
                        self.ready.push_front(second);
                        self.ready.push_front(first);
                    }
                    None => {
                        self.batch_max.refused(request.half_of());
                        self.refuse(request, DeadLetterReason::RefusedByHubspot, &error, ctx);
                    }
                }
            }
        }
    }

    /// The token was read again. If it is the same, the portal waits for someone to mend it.
    pub(in crate::enrich) fn token_refreshed(&mut self, changed: bool, now: Millis) {
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

    /// Its token or its settings changed: it is asked again as if nothing had been wrong.
    pub(in crate::enrich) fn changed(&mut self) {
        self.health = Health::Ready;
    }

    /// A request that HubSpot refuses for good: its jobs become dead letters; a part goes missing.
    pub(super) fn refuse(
        &mut self,
        request: Request,
        reason: DeadLetterReason,
        error: &CallError,
        ctx: &mut Context<'_>,
    ) {
        if let Some(records) = request.records() {
            for (key, job) in records {
                self.bury(&key, job, reason, error, ctx);
            }
        } else {
            let refused = Problem {
                reason: ProblemReason::Refused,
                missing_scopes: Vec::new(),
            };
            self.forbid(request, &refused, ctx);
        }
    }

    /// The job's events become a dead letter.
    pub(super) fn bury(
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
        let ids = job.events.iter().map(|event| event.known_as().into_owned());
        let ids = ids.collect();
        let only = job.events.first().and_then(Event::only).map(str::to_owned);
        let letter = DeadLetter {
            destination: only,
            ..DeadLetter::new(Stage::Enrich, reason, error.to_string(), ctx.now)
        };
        let letter = letter.with_events(job.events);
        ctx.effects.bury(&self.id, key, letter);
        self.assembling.remove(key);
        self.begin_publishing(key, job.id, ids, ctx);
    }

    /// A part that may not be read.
    pub(super) fn forbid(&mut self, request: Request, problem: &Problem, ctx: &mut Context<'_>) {
        if let Some(records) = request.records() {
            for (key, job) in records {
                let outcome = RecordOutcome::Forbidden(problem.missing_scopes.clone());
                self.conclude_record(&key, job, outcome, ctx);
            }
            return;
        }
        match request {
            // Concluded above, record by record.
            Request::Records { .. } | Request::Single { .. } | Request::Thread { .. } => {}
            Request::Associations {
                from, to, inputs, ..
            } => {
                for (input, job) in inputs {
                    self.fail_associations(&(from.clone(), input.id), job, &to, problem, ctx);
                }
            }
            Request::Definitions(of, Sensitivity::NonSensitive) => {
                self.shared
                    .definitions
                    .entry(of)
                    .or_default()
                    .set(Err(problem.clone()), ctx.now);
            }
            Request::Definitions(of, level) => {
                let gathered = self.shared.gathered.entry(of.clone()).or_default();
                gathered.1.get_or_insert_with(|| problem.clone());
                self.continue_definitions(of, level, ctx);
            }
            Request::Labels { from, to } => {
                self.shared
                    .labels
                    .entry((from, to))
                    .or_default()
                    .set(Err(problem.clone()), ctx.now);
                self.advance_assembling(ctx);
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
            Request::Schemas => {
                self.shared.schemas.set(Err(problem.clone()), ctx.now);
                self.advance_assembling(ctx);
            }
            Request::File(id) => {
                let files = &mut self.shared.files;
                files.read(id, Err(problem.clone()), ctx.now);
                self.advance_assembling(ctx);
            }
            Request::SignFile(id) => {
                let files = &mut self.shared.files;
                files.signed(&id, Err(problem.clone()), ctx.now);
                self.advance_assembling(ctx);
            }
            Request::Message { thread_id, id, job } => {
                self.refuse_message(&thread_key(&thread_id), job, &id, problem, ctx);
            }
            Request::Actors(ids) => {
                self.shared.actors.failed(&ids, problem, ctx.now);
                self.advance_assembling(ctx);
            }
        }
    }

    /// Takes what was read in.
    pub(super) fn apply(&mut self, request: Request, answer: Answer, ctx: &mut Context<'_>) {
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
            (
                Request::Associations {
                    from, to, inputs, ..
                },
                Answer::Associations(pages),
            ) => {
                self.apply_associations(&from, &to, inputs, pages, ctx);
            }
            (Request::Definitions(of, level), Answer::Properties(definitions)) => {
                let gathered = self.shared.gathered.entry(of.clone()).or_default();
                gathered.0.extend(definitions);
                self.continue_definitions(of, level, ctx);
            }
            (Request::Labels { from, to }, Answer::AssociationLabels(labels)) => {
                self.shared
                    .labels
                    .entry((from, to))
                    .or_default()
                    .set(Ok(labels), ctx.now);
                self.advance_assembling(ctx);
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
                    .for_each(|owner| self.shared.owners.list_one(owner));
                self.continue_owner_list(archived, after, ctx);
            }
            (Request::Owner { id, archived }, Answer::Owner(owner)) => {
                self.owner_answered(id, archived, owner, ctx);
            }
            (Request::Schemas, Answer::Schemas(schemas)) => {
                self.shared.schemas.set(Ok(schemas), ctx.now);
                self.advance_assembling(ctx);
            }
            (Request::File(id), Answer::File(file)) => {
                let file = file.map(|file| *file);
                self.shared.files.read(id, Ok(file), ctx.now);
                self.advance_assembling(ctx);
            }
            (Request::SignFile(id), Answer::SignedUrl(url)) => {
                self.shared.files.signed(&id, Ok(url), ctx.now);
                self.advance_assembling(ctx);
            }
            (
                Request::Thread { id, job },
                Answer::Thread {
                    thread,
                    completed_at,
                },
            ) => self.apply_thread(&thread_key(&id), job, thread, completed_at, ctx),
            (Request::Message { thread_id, id, job }, Answer::Message(message)) => {
                self.apply_message(&thread_key(&thread_id), job, &id, message, ctx);
            }
            (Request::Actors(ids), Answer::Actors(actors)) => {
                self.shared.actors.read(&ids, actors, ctx.now);
                self.advance_assembling(ctx);
            }
            (request, _) => {
                debug_assert!(false, "an answer of another kind to {request:?}");
                self.ready.push_front(request);
            }
        }
    }

    /// The definitions of a type are read level by level of sensitivity, and used when all are there.
    fn continue_definitions(&mut self, of: ObjectTypeId, read: Sensitivity, ctx: &mut Context<'_>) {
        if let Some(next) = self.plan_of(&of, ctx.plans).sensitivity_after(read) {
            self.ready.push_back(Request::Definitions(of, next));
            return;
        }
        let (definitions, problem) = self.shared.gathered.remove(&of).unwrap_or_default();
        let definitions = ctx.pool.share(definitions);
        self.shared
            .definitions
            .entry(of)
            .or_default()
            .set(Ok(definitions.lacking(problem)), ctx.now);
    }

    pub(super) fn apply_records(
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

    /// A record was read: it is good unless it is older than the events that led to the read, or than what went
    /// out before.
    pub(super) fn found(
        &mut self,
        key: &Key,
        job: JobId,
        record: RecordRead,
        ctx: &mut Context<'_>,
    ) {
        let definitions = self.shared.definitions_of(&key.0);
        let events = self.lanes[key]
            .active
            .as_ref()
            .map_or(&[][..], |job| &job.events);
        let sent = ctx.memory.sent(&self.id, key).and_then(|sent| sent.newest);
        let stale = record.updated_at.is_some_and(|at| Some(at) < sent)
            || fresh::is_stale(&record, events, definitions);
        if stale && self.reread(key, job, ctx) {
            return;
        }
        if let Some(reading) = self.reading(key, job) {
            reading.stale = stale;
        }
        self.conclude_record(key, job, RecordOutcome::Found(record), ctx);
    }

    /// A record was not there: it may still appear, or have been merged away.
    pub(super) fn not_found(
        &mut self,
        key: &Key,
        job: JobId,
        completed_at: Millis,
        ctx: &mut Context<'_>,
    ) {
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
        if reading.asked_singly >= ASKED_SINGLY_MAX {
            self.conclude_record(key, job, RecordOutcome::Missing, ctx);
        } else {
            reading.asked_singly += 1;
            self.ready.push_back(Request::Single {
                object_type_id: key.0.clone(),
                id: key.1.clone(),
                job,
            });
        }
    }

    /// Reads a record again in a while; `false` when that was done often enough.
    pub(super) fn reread(&mut self, key: &Key, job: JobId, ctx: &mut Context<'_>) -> bool {
        let Some(reading) = self.reading(key, job) else {
            return false;
        };
        if reading.rereads >= fresh::REREADS_MAX {
            return false;
        }
        let delay = fresh::reread_delay(reading.rereads);
        reading.rereads += 1;
        self.reread_after(delay, key, job, ctx.now);
        true
    }

    fn reread_after(&mut self, delay: Duration, key: &Key, job: JobId, now: Millis) {
        if let Some(reading) = self.reading(key, job) {
            reading.awaits_reread = true;
            let due = self.rereads.entry(now.after(delay)).or_default();
            due.push((key.clone(), job));
        }
    }

    pub(super) fn apply_single(
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
                if ctx.memory.survivor(&self.id, survivor.clone()) == *key {
                    // The merges we were told of lead back here: following them would never end.
                    self.conclude_record(key, job, RecordOutcome::Missing, ctx);
                } else {
                    self.follow(key, &survivor, ctx);
                }
            }
            // It is there after all: read it as the others are read.
            Some(_) => self.reread_after(fresh::reread_delay(0), key, job, ctx.now),
            None => self.conclude_record(key, job, RecordOutcome::Missing, ctx),
        }
    }

    /// The record was merged into another without our being told: its events go there.
    pub(super) fn follow(&mut self, old: &Key, survivor: &Key, ctx: &mut Context<'_>) {
        let Some(job) = self.lanes.get_mut(old).and_then(|lane| lane.active.take()) else {
            return;
        };
        self.redirect(old, survivor, ctx);
        let survivor = ctx.memory.survivor(&self.id, survivor.clone());
        let mut first = Some(self.work_at_the_end(&survivor, ctx));
        for event in job.events {
            let work = first.take();
            let work = work.unwrap_or_else(|| Work::Read(Reading::default()));
            self.append(survivor.clone(), event, work, ctx);
        }
        self.wake_lane(old, ctx);
    }

    pub(super) fn apply_associations(
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

    pub(super) fn take_page(
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
                let priority = self.lanes[key].priority();
                self.to_associate
                    .entry(pair)
                    .or_default()
                    .push(priority, (page, job), ctx.now);
                self.take_turn(Group::Associations(key.0.clone(), to.clone()));
            }
            _ => {
                read.state = PagesState::Done;
                if truncated {
                    reading
                        .problems
                        .push(associations_problem(to, ProblemReason::Truncated, &[]));
                }
                self.advance(key, ctx);
            }
        }
    }

    pub(super) fn fail_associations(
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
            let problem = associations_problem(to, problem.reason, &problem.missing_scopes);
            reading.problems.push(problem);
        }
        self.advance(key, ctx);
    }

    /// The list goes on: active owners page by page, then archived ones.
    pub(super) fn continue_owner_list(
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
    pub(super) fn owner_answered(
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
            found => self.shared.owners.found_singly(id.clone(), found, ctx.now),
        }
        self.shared.owners.asked.retain(|asked| *asked != id);
        self.advance_assembling(ctx);
    }
}
