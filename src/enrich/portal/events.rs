//! Events come: each finds its record's lane.

use std::collections::VecDeque;

use crate::demand::Parts;
use crate::enrich::cache::DEFINITIONS_AGE_MIN;
use crate::enrich::job::{Job, Key, Lane, Reading, Work, needs_read};
use crate::enrich::priority::Priority;
use crate::enrich::protocol::Ending;
use crate::enrich::request::Group;
use crate::event::{
    Event, EventBody, Millis, ObjectChange, ObjectEvent, ObjectId, ObjectTypeId, Tombstone,
    TombstoneReason,
};

use super::{Context, Portal};

impl Portal {
    /// Takes an event in. Returns how many parts it has, jobs and plain events: that many times it must end.
    pub(in crate::enrich) fn arrive(&mut self, event: Event, ctx: &mut Context<'_>) -> usize {
        if !self.has_work() {
            self.progressed_at = ctx.now;
        }
        let subject = event.subject();
        let key = (subject.object_type_id, subject.object_id);
        let key = ctx.memory.survivor(&self.id, key);
        let wanted = ctx.plans.wants(&event);
        let plain = usize::from(wanted.plain && self.send_plain(&event, ctx));
        if wanted.parts.is_some() {
            return plain + self.enrich(key, event, ctx);
        }
        self.heed(&key, &event, ctx);
        if plain == 0 {
            let ending = match wanted.plain {
                true if ctx.memory.has_seen_plain(&event.id) => Ending::Delivered,
                true => Ending::Purged,
                false => Ending::Unwanted,
            };
            ctx.effects.end(&event.id, ending);
            return 1;
        }
        plain
    }

    /// Takes up an event that somebody wants enriched. Returns how many jobs it is part of.
    fn enrich(&mut self, key: Key, event: Event, ctx: &mut Context<'_>) -> usize {
        if let EventBody::Object(ObjectEvent { change, .. }) = &event.body {
            match change.clone() {
                ObjectChange::PrivacyDeleted => return self.erase(key, event, ctx),
                ObjectChange::Deleted if !ctx.memory.is_erased(&self.id, &key) => {
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
        if ctx.memory.is_erased(&self.id, &key) {
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

    /// What an event means for others, though nobody wants it enriched: where ids lead to, and what must not go out.
    fn heed(&mut self, key: &Key, event: &Event, ctx: &mut Context<'_>) {
        let EventBody::Object(ObjectEvent { change, .. }) = &event.body else {
            return;
        };
        match change {
            ObjectChange::PrivacyDeleted => {
                self.cancel(key, ctx);
                self.wake_lane(key, ctx);
            }
            ObjectChange::Merged {
                merged_object_ids, ..
            } => {
                for id in merged_object_ids {
                    self.redirect(&(key.0.clone(), id.clone()), key, ctx);
                }
            }
            _ => {}
        }
    }

    /// A property we have no definition of: read the definitions again before the record.
    pub(super) fn note_unknown_property(
        &mut self,
        object_type_id: &ObjectTypeId,
        event: &Event,
        now: Millis,
    ) {
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
    pub(super) fn delete(&mut self, key: Key, event: Event, ctx: &mut Context<'_>) -> usize {
        let tombstone = Work::Tombstone(Tombstone {
            reason: TombstoneReason::Deleted,
            merged_into: None,
        });
        let lane = self.lanes.entry(key.clone()).or_default();
        match lane.waiting.back_mut() {
            Some(last) if last.may_join_tombstone(event.occurred_at) => {
                last.work = tombstone;
                last.take(event, ctx.plans);
                self.wake_lane(&key, ctx);
            }
            _ => self.append(key, event, tombstone, ctx),
        }
        1
    }

    /// A privacy deletion cancels all work for the record, and keeps late events from bringing it back.
    pub(super) fn erase(&mut self, key: Key, event: Event, ctx: &mut Context<'_>) -> usize {
        self.cancel(&key, ctx);
        let tombstone = Work::Tombstone(Tombstone {
            reason: TombstoneReason::PrivacyDeleted,
            merged_into: None,
        });
        self.append(key, event, tombstone, ctx);
        1
    }

    /// Cancels all work for an erased record, and remembers that it is.
    fn cancel(&mut self, key: &Key, ctx: &mut Context<'_>) {
        ctx.memory.erase(&self.id, key, ctx.now);
        if let Some(lane) = self.lanes.get_mut(key) {
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
        self.assembling.remove(key);
        self.cancel_plain(key, ctx);
    }

    /// A merge reads the survivor, and sends a tombstone for each id that now leads to it. What waited
    /// for these goes to the survivor.
    pub(super) fn merge(
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
    pub(super) fn redirect(&mut self, old: &Key, survivor: &Key, ctx: &mut Context<'_>) {
        if old == survivor || ctx.memory.survivor(&self.id, survivor.clone()) == *old {
            return;
        }
        ctx.memory.merge(&self.id, old, &survivor.1, ctx.now);
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
    pub(super) fn append(&mut self, key: Key, event: Event, work: Work, ctx: &mut Context<'_>) {
        if matches!(work, Work::Read(_)) && ctx.memory.is_erased(&self.id, &key) {
            ctx.effects.end(&event.id, Ending::Purged);
            return;
        }
        let lane = self.lanes.entry(key.clone()).or_default();
        match lane.waiting.back_mut() {
            Some(last) if matches!(work, Work::Read(_)) && last.takes(&event) => {
                last.take(event, ctx.plans);
            }
            _ => {
                let mut job = Job {
                    id: ctx.effects.next_job(),
                    events: Vec::new(),
                    parts: Parts::NONE,
                    work,
                };
                job.take(event, ctx.plans);
                lane.waiting.push_back(job);
            }
        }
        self.wake_lane(&key, ctx);
    }

    /// Begins the next job of a lane that has none under way.
    pub(super) fn wake_lane(&mut self, key: &Key, ctx: &mut Context<'_>) {
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

    pub(super) fn drop_if_empty(&mut self, key: &Key) {
        let is_empty = |lane: &Lane| lane.active.is_none() && lane.waiting.is_empty();
        if self.lanes.get(key).is_some_and(is_empty) {
            self.lanes.remove(key);
        }
    }

    pub(super) fn queue_read(&mut self, key: &Key) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let queue = self.to_read.entry(key.0.clone()).or_default();
        let queued = lane.queued.map(|place| place.priority);
        if queued == Some(Priority::Live) {
            return;
        }
        let priority = lane.priority();
        if queued == Some(priority) {
            return;
        }
        if let Some(place) = lane.queued {
            queue.remove(place);
        }
        lane.queued = Some(queue.push(priority, key.1.clone()));
        self.take_turn(Group::Records(key.0.clone()));
    }

    pub(super) fn take_turn(&mut self, group: Group) {
        if !self.turns.contains(&group) {
            self.turns.push_back(group);
        }
    }
}
