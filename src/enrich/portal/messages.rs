//! Messages go out: put together when all parts are there, with versions that rise.

use std::time::Duration;

use crate::demand::Parts;
use crate::enrich::assemble::{self, OwnerIds};
use crate::enrich::cache::{Cached, DEFINITIONS_TTL, OWNERS_TTL, OwnerLookup, is_type_of};
use crate::enrich::effects::Publishing;
use crate::enrich::job::{Job, JobId, Key, OnItsWay, PagesState, Reading, RecordOutcome, Work};
use crate::enrich::ledger::Fate;
use crate::enrich::protocol::Published;
use crate::enrich::request::Request;
use crate::event::{
    EnrichedEvent, Event, EventBody, EventId, Millis, OwnerId, TombstoneReason, Version,
};
use crate::hubspot::call::RecordRead;

use super::{Context, Portal};

impl Portal {
    pub(super) fn conclude_record(
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

    pub(super) fn advance_assembling(&mut self, ctx: &mut Context<'_>) {
        for key in std::mem::take(&mut self.assembling) {
            self.advance(&key, ctx);
        }
    }

    /// Sends the message of a job that has all it needs.
    pub(super) fn advance(&mut self, key: &Key, ctx: &mut Context<'_>) {
        let active = self.lanes.get(key).and_then(|lane| lane.active.as_ref());
        let Some(Job {
            work: Work::Read(reading),
            parts,
            ..
        }) = active
        else {
            self.release_held(key, ctx);
            return;
        };
        let parts = *parts;
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
                let lacks = self.lacks_shared(key, &record, parts, ctx.now);
                if (parts.attachments && self.lacks_attachments(key, &record, ctx)) || lacks {
                    self.assembling.insert(key.clone());
                    return;
                }
            }
            Some(RecordOutcome::Thread(_)) => {
                if self.lacks_of_thread(key, ctx.now) {
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
            (reading, job.parts),
            ctx,
        );
        self.publish(key, job.id, message, ctx);
    }

    /// Asks for what the record shares with others, is wanted and is not known yet. `false` when all is known.
    pub(super) fn lacks_shared(
        &mut self,
        key: &Key,
        record: &RecordRead,
        parts: Parts,
        now: Millis,
    ) -> bool {
        let mut lacks = false;
        lacks |= self.lacks_labels(key, now);
        if parts.pipeline && assemble::stands_in_pipeline(record, &key.0) {
            let cached = self.shared.pipelines.entry(key.0.clone()).or_default();
            if let Some(Ok(pipelines)) = cached.get()
                && !assemble::knows_stage(record, &key.0, pipelines)
            {
                let name = assemble::stage_name(record, &key.0);
                self.shared.absent.look_again(cached, name, now);
            }
            if let Some(request) = ask(
                cached,
                DEFINITIONS_TTL,
                now,
                Request::Pipelines(key.0.clone()),
            ) {
                self.ready.push_back(request);
            }
            lacks |= !self.shared.pipelines[&key.0].is_usable(DEFINITIONS_TTL, now);
        }
        let owner_ids = assemble::owner_ids(record, &key.0, &self.shared);
        if parts.owners && !owner_ids.is_empty() {
            let first_page = Request::OwnerPage {
                archived: false,
                after: None,
            };
            if let Some(request) = ask(&mut self.shared.owners.list, OWNERS_TTL, now, first_page) {
                self.ready.push_back(request);
            }
            let ids = owner_ids.values().flat_map(OwnerIds::as_slice).cloned();
            lacks |= self.lacks_owners(ids, now);
        }
        lacks
    }

    /// Asks for the labels of associations that the events of the job at `key` tell of without.
    fn lacks_labels(&mut self, key: &Key, now: Millis) -> bool {
        let job = self.lanes.get(key).and_then(|lane| lane.active.as_ref());
        let events = job.map_or(&[][..], |job| &job.events);
        let edges = events.iter().filter_map(|event| match &event.body {
            EventBody::Association(edge) if edge.needs_label() => Some(edge),
            _ => None,
        });
        let mut lacks = false;
        for edge in edges {
            let (from, to) = (
                edge.from_object_type_id.clone(),
                edge.to_object_type_id.clone(),
            );
            let cached = self
                .shared
                .labels
                .entry((from.clone(), to.clone()))
                .or_default();
            if let Some(Ok(labels)) = cached.get()
                && !labels.iter().any(|label| is_type_of(label, edge))
            {
                let category = edge.association_category.as_deref().unwrap_or_default();
                let type_id = edge.association_type_id.unwrap_or_default();
                let name = format!("{from}/{to}/{category}/{type_id}");
                self.shared.absent.look_again(cached, name, now);
            }
            if let Some(request) = ask(cached, DEFINITIONS_TTL, now, Request::Labels { from, to }) {
                self.ready.push_back(request);
            }
            lacks |= !cached.is_usable(DEFINITIONS_TTL, now);
        }
        lacks
    }

    pub(super) fn lacks_owners(&mut self, ids: impl Iterator<Item = OwnerId>, now: Millis) -> bool {
        if !self.shared.owners.list.is_usable(OWNERS_TTL, now) {
            return true;
        }
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

    pub(super) fn message(
        &mut self,
        key: &Key,
        newest: Millis,
        events: Vec<Event>,
        (mut reading, parts): (Reading, Parts),
        ctx: &mut Context<'_>,
    ) -> EnrichedEvent {
        if parts.attachments {
            self.attach(key, &mut reading, ctx.plans);
        }
        let updated_at = match &reading.record {
            Some(RecordOutcome::Found(record)) => record.updated_at,
            _ => None,
        };
        let state = updated_at.map_or(newest, |updated_at| updated_at.max(newest));
        let read = Some(reading.completed_at.unwrap_or_default());
        let of = (&self.id, key);
        let version = ctx
            .memory
            .next_version(of, state, read, updated_at, ctx.now);
        let shared = &self.shared;
        assemble::read(of, version, events, reading, parts, shared, ctx.plans)
    }

    /// Sends a job that needs no read. A deletion that is older than what was sent is no news: the record
    /// may have been restored since, so it is read instead.
    pub(super) fn send_unread(&mut self, key: &Key, job: Job, ctx: &mut Context<'_>) {
        let Some(mut job) = self.hold_for_schema(key, job, ctx) else {
            return;
        };
        let newest = job.newest();
        let is_old = self.is_older_than_sent(key, &job, ctx);
        let tombstone = match std::mem::replace(&mut job.work, Work::Plain) {
            Work::Search(erasure) => {
                let ids = job.events.iter().map(|event| event.known_as().into_owned());
                self.begin_publishing(key, job.id, ids.collect(), ctx);
                let waits = Publishing::Record(key.clone());
                ctx.effects.search(&self.id, waits, erasure);
                return;
            }
            Work::Tombstone(tombstone) if self.is_news(key, &tombstone, is_old, ctx) => {
                Some(tombstone)
            }
            _ => None,
        };
        let is_deletion = tombstone
            .as_ref()
            .is_some_and(|t| t.reason == TombstoneReason::Deleted);
        if is_deletion && is_old {
            job.work = Work::Read(Reading::default());
            self.lanes
                .entry(key.clone())
                .or_default()
                .waiting
                .push_front(job);
            self.queue_read(key);
            return;
        }
        let (read, since) = match &tombstone {
            Some(_) => (None, Some(newest)),
            None => (Some(Millis::default()), None),
        };
        let of = (&self.id, key);
        let version = ctx.memory.next_version(of, newest, read, since, ctx.now);
        let events = std::mem::take(&mut job.events);
        let message = assemble::unread(&self.id, key, version, events, tombstone, &self.shared);
        self.publish(key, job.id, message, ctx);
    }

    /// Whether a deletion is older than what was sent. One that is replayed is not, as long as a tombstone is what was sent.
    fn is_older_than_sent(&self, key: &Key, job: &Job, ctx: &Context<'_>) -> bool {
        let sent = ctx.memory.sent(&self.id, key);
        sent.is_some_and(|last| {
            let is_told_again = job.is_replayed() && last.read.is_none();
            Version::of_tombstone(job.newest()) <= last.version() && !is_told_again
        })
    }

    pub(super) fn publish(
        &mut self,
        key: &Key,
        job: JobId,
        message: EnrichedEvent,
        ctx: &mut Context<'_>,
    ) {
        let ids = message
            .data
            .events
            .iter()
            .map(|event| event.known_as().into_owned())
            .collect();
        self.begin_publishing(key, job, ids, ctx);
        ctx.effects.publish(&self.id, key, message);
    }

    /// The job's message, or its dead letter, is on its way with the events `ids`.
    pub(super) fn begin_publishing(
        &mut self,
        key: &Key,
        job: JobId,
        ids: Vec<EventId>,
        ctx: &Context<'_>,
    ) {
        let on_its_way = OnItsWay::new(!ctx.memory.leads_to_erased(&self.id, key));
        self.lanes.entry(key.clone()).or_default().active = Some(Job {
            id: job,
            events: Vec::new(),
            parts: Parts::NONE,
            work: Work::Publishing(ids, on_its_way),
        });
    }

    /// The message of a record's lane is confirmed: its events end, those in nobody's copy as unwanted, and the next job
    /// begins.
    pub(in crate::enrich) fn published(
        &mut self,
        key: &Key,
        outcome: &Published,
        ctx: &mut Context<'_>,
    ) {
        self.progressed_at = ctx.now;
        let erasure = self.erasure_of(key, ctx);
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        // In the lane of the erased record itself a search waits already.
        let is_search = |job: &Job| matches!(job.work, Work::Search(_));
        let erasure = erasure.filter(|_| !lane.waiting.iter().any(is_search));
        if let Some(Job {
            work: Work::Publishing(ids, on_its_way),
            ..
        }) = &mut lane.active
        {
            let outcome = match on_its_way.confirmed(outcome, erasure) {
                Ok(outcome) => outcome,
                Err(erasure) => {
                    let waits = Publishing::Record(key.clone());
                    ctx.effects.search(&self.id, waits, erasure);
                    return;
                }
            };
            for id in ids {
                ctx.effects.end(id, Fate::of(id, &outcome));
            }
            lane.active = None;
            self.left_behind = self.left_behind.saturating_sub(1);
            ctx.memory.confirmed(&self.id, key);
        }
        self.wake_lane(key, ctx);
    }

    /// Drops all reads and messages that have not reached the publisher: their events come again. Returns the ids of
    /// the events whose messages are on their way, and of the plain events that have not ended.
    pub(in crate::enrich) fn lost(&mut self) -> Vec<EventId> {
        self.to_read.clear();
        self.to_associate.clear();
        self.backlogged.clear();
        self.turns.clear();
        self.rereads.clear();
        self.assembling.clear();
        self.ready.retain(Request::is_shared);
        let mut on_their_way: Vec<EventId> = self.plain.ids().cloned().collect();
        self.lanes.retain(|_, lane| {
            lane.waiting.clear();
            lane.queued = None;
            match lane.active.as_ref().map(|job| &job.work) {
                Some(Work::Publishing(ids, _)) => {
                    on_their_way.extend(ids.iter().cloned());
                    true
                }
                _ => false,
            }
        });
        self.left_behind = self.lanes.len() + self.plain.len();
        on_their_way
    }

    /// Lets the messages on their way end the events that `keep` knows, and no others.
    pub(in crate::enrich) fn keep_on_their_way(&mut self, keep: impl Fn(&EventId) -> bool) {
        for lane in self.lanes.values_mut() {
            if let Some(Job {
                work: Work::Publishing(ids, _),
                ..
            }) = &mut lane.active
            {
                ids.retain(&keep);
            }
        }
    }

    /// The reads of the job under way at `key`, if it is still that job.
    pub(super) fn reading(&mut self, key: &Key, job: JobId) -> Option<&mut Reading> {
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
