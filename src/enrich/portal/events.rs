//! Events come: each finds its record's lane.

use std::collections::VecDeque;

use crate::demand::Parts;
use crate::enrich::job::{Job, Key, Lane, Reading, Work, needs_read};
use crate::enrich::ledger::Fate;
use crate::enrich::priority::Priority;
use crate::enrich::protocol::Ending;
use crate::enrich::request::Group;
use crate::event::{
    ConversationChange, ConversationEvent, Erasure, Event, EventBody, ObjectChange, ObjectEvent,
    ObjectId, ObjectTypeId, RecordDigest, Tombstone, TombstoneReason,
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
        self.shared.schemas.note(&key.0, ctx.now);
        let wanted = ctx.plans.wants(&event);
        let plain = usize::from(wanted.plain && self.send_plain(&event, ctx));
        if wanted.plain && plain == 0 && !ctx.memory.has_seen_plain(&event.known_as()) {
            ctx.effects.purge_plain(&event.known_as());
        }
        if wanted.parts.is_some() {
            return plain + self.enrich(key, event, ctx);
        }
        let is_merge = self.heed(&key, &event, ctx);
        if event.is_privacy_deletion() || (is_merge && ctx.memory.is_erased(&self.id, &key)) {
            self.search(&key, event, ctx);
            return plain + 1;
        }
        if plain > 0 {
            return plain;
        }
        if wanted.plain && self.search_for_late(&event, ctx) {
            return 1;
        }
        ctx.effects
            .end(&event.known_as(), Fate::of_all(Ending::Unwanted));
        1
    }

    /// Has the dead letters searched for an event of an erased record that had come before: an engine that died may have made it
    /// one of them since the erasure. Whether that is so.
    fn search_for_late(&mut self, event: &Event, ctx: &mut Context<'_>) -> bool {
        if !ctx.memory.has_arrived(&event.known_as().digest()) {
            return false;
        }
        let subject = event.subject();
        let own = (subject.object_type_id, subject.object_id);
        let Some(erasure) = self.erasure_of(&own, ctx) else {
            return false;
        };
        let key = ctx.memory.survivor(&self.id, own);
        let erasure = erasure.named_for(&key);
        self.append(key, event.clone(), Work::Search(erasure), ctx);
        true
    }

    /// Takes up an event that somebody wants enriched. Returns how many jobs it is part of.
    fn enrich(&mut self, key: Key, event: Event, ctx: &mut Context<'_>) -> usize {
        if let EventBody::Conversation(ConversationEvent { change, .. }) = &event.body {
            match change {
                ConversationChange::PrivacyDeleted => return self.erase(key, event, ctx),
                ConversationChange::Deleted if !ctx.memory.is_erased(&self.id, &key) => {
                    return self.delete(key, event, ctx);
                }
                _ => {}
            }
        }
        if let EventBody::Object(ObjectEvent { change, .. }) = &event.body {
            match change.clone() {
                ObjectChange::PrivacyDeleted => return self.erase(key, event, ctx),
                ObjectChange::Deleted if !ctx.memory.is_erased(&self.id, &key) => {
                    if event.subject().object_id == key.1 {
                        return self.delete(key, event, ctx);
                    }
                    // Of an id that was merged away: that is no news of the survivor.
                    self.append(key, event, Work::Read(Reading::default()), ctx);
                    return 1;
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
            ctx.effects
                .end(&event.known_as(), Fate::of_all(Ending::Purged));
            return 1 + usize::from(self.search_for_late(&event, ctx));
        }
        self.note_unknown_property(&key.0, &event, ctx);
        let threads_are_read = || self.plan_of(&key.0, ctx.plans).thread;
        let work = if needs_read(&event, threads_are_read) {
            Work::Read(Reading::default())
        } else {
            Work::Plain
        };
        self.append(key, event, work, ctx);
        1
    }

    /// What an event means for others, though nobody wants it enriched: where ids lead to. Whether it is a merge.
    fn heed(&mut self, key: &Key, event: &Event, ctx: &mut Context<'_>) -> bool {
        let EventBody::Object(ObjectEvent {
            change: ObjectChange::Merged {
                merged_object_ids, ..
            },
            ..
        }) = &event.body
        else {
            return false;
        };
        for id in merged_object_ids {
            self.redirect(&(key.0.clone(), id.clone()), key, ctx);
        }
        true
    }

    /// A property we have no definition of: read the definitions again before the record. Of a sensitive one there is
    /// none, unless these are asked for.
    pub(super) fn note_unknown_property(
        &mut self,
        object_type_id: &ObjectTypeId,
        event: &Event,
        ctx: &Context<'_>,
    ) {
        let EventBody::Object(ObjectEvent {
            change:
                ObjectChange::PropertyChanged {
                    property_name,
                    is_sensitive,
                    ..
                },
            ..
        }) = &event.body
        else {
            return;
        };
        if *is_sensitive && self.plan_of(object_type_id, ctx.plans).sensitivity.len() == 1 {
            return;
        }
        let known = self.shared.definitions_of(object_type_id);
        if known.is_some_and(|definitions| definitions.get(property_name).is_none())
            && let Some(cached) = self.shared.definitions.get_mut(object_type_id)
        {
            let name = format!("{object_type_id}/{property_name}");
            self.shared.absent.look_again(cached, name, ctx.now);
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
            Some(last) if last.may_join_tombstone(&event) => {
                last.work = tombstone;
                last.take(event, ctx.plans);
                self.wake_lane(&key, ctx);
            }
            _ => self.append(key, event, tombstone, ctx),
        }
        1
    }

    /// A privacy deletion cancels all work for the record and for what was merged into it, but for telling that they are gone,
    /// and keeps late events from bringing it back. Then the dead letters are searched: what is under way may still become one.
    pub(super) fn erase(&mut self, key: Key, event: Event, ctx: &mut Context<'_>) -> usize {
        self.search(&key, event.clone(), ctx);
        let tombstone = Work::Tombstone(Tombstone {
            reason: TombstoneReason::PrivacyDeleted,
            merged_into: None,
        });
        self.append(key, event, tombstone, ctx);
        2
    }

    /// Forgets an erased record, and has the dead letters searched for it.
    fn search(&mut self, key: &Key, event: Event, ctx: &mut Context<'_>) {
        let erasure = self.forget(key, ctx);
        self.append(key.clone(), event, Work::Search(erasure), ctx);
    }

    /// Cancels the work for a record and for what leads to it, but for telling that they are gone, and remembers that they are
    /// erased.
    fn forget(&mut self, key: &Key, ctx: &mut Context<'_>) -> Erasure {
        let erasure = Erasure {
            portal_id: self.id.clone(),
            object_type_id: key.0.clone(),
            object_id: key.1.clone(),
            merged: ctx.memory.erase(&self.id, key, ctx.now),
        };
        // An earlier erasure of it may still wait to be told, behind its search.
        let is_of_a_living_record = |job: &Job| match &job.work {
            Work::Search(_) => false,
            Work::Tombstone(tombstone) => tombstone.reason == TombstoneReason::Deleted,
            _ => true,
        };
        self.cancel(key, is_of_a_living_record, ctx);
        self.cancel_plain(key, ctx);
        if !erasure.merged.is_empty() {
            let leads_here = |(object_type_id, object_id): &Key| {
                erasure
                    .merged
                    .contains(&RecordDigest::of(&self.id, object_type_id, object_id))
            };
            let mut old: Vec<Key> = self
                .lanes
                .keys()
                .filter(|key| leads_here(key))
                .cloned()
                .collect();
            // A history replays exactly.
            old.sort_unstable();
            // That they are gone is told all the same.
            let is_read = |job: &Job| matches!(job.work, Work::Read(_));
            for old in old {
                self.cancel(&old, is_read, ctx);
                self.wake_lane(&old, ctx);
            }
        }
        erasure
    }

    /// What the dead letters are to be searched for when something of a record was on its way while it was erased; `None` where it
    /// was not.
    pub(super) fn erasure_of(&self, of: &Key, ctx: &Context<'_>) -> Option<Erasure> {
        let key = ctx.memory.survivor(&self.id, of.clone());
        ctx.memory.is_erased(&self.id, &key).then(|| Erasure {
            portal_id: self.id.clone(),
            object_type_id: of.0.clone(),
            object_id: of.1.clone(),
            merged: ctx.memory.merged_into(&self.id, &key),
        })
    }

    /// Cancels what waits in a lane, where it `is_meant`, and what is being read.
    fn cancel(&mut self, key: &Key, is_meant: impl Fn(&Job) -> bool, ctx: &mut Context<'_>) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let (mut cancelled, rest): (VecDeque<Job>, _) = lane.waiting.drain(..).partition(is_meant);
        lane.waiting = rest;
        if lane
            .active
            .as_mut()
            .is_some_and(|job| job.reading().is_some())
        {
            cancelled.extend(lane.active.take());
        }
        for event in cancelled.iter().flat_map(|job| &job.events) {
            ctx.effects
                .end(&event.known_as(), Fate::of_all(Ending::Purged));
        }
        let active = self.lanes.get(key).and_then(|lane| lane.active.as_ref());
        if !active.is_some_and(Job::is_held) {
            self.assembling.remove(key);
        }
    }

    /// A merge reads the survivor, and sends a tombstone for each id that now leads to it. What waited
    /// for these goes to the survivor; if that is erased, so are they.
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
        let work = self.work_at_the_end(&survivor, ctx);
        self.append(survivor, event, work, ctx);
        merged.len() + 1
    }

    /// What is to be done for a record that another turned out to lead to. An erased one is not read: with the other, more
    /// dead letters may be about it.
    pub(super) fn work_at_the_end(&mut self, survivor: &Key, ctx: &mut Context<'_>) -> Work {
        if ctx.memory.is_erased(&self.id, survivor) {
            Work::Search(self.forget(survivor, ctx))
        } else {
            Work::Read(Reading::default())
        }
    }

    /// Sends what waits for `old`, and what comes later, to `survivor`. An erased record leads nowhere.
    pub(super) fn redirect(&mut self, old: &Key, survivor: &Key, ctx: &mut Context<'_>) {
        if old == survivor
            || ctx.memory.survivor(&self.id, survivor.clone()) == *old
            || ctx.memory.is_erased(&self.id, old)
        {
            return;
        }
        ctx.memory.merge(&self.id, old, survivor, ctx.now);
        let Some(lane) = self.lanes.get_mut(old) else {
            return;
        };
        let (reads, rest): (VecDeque<Job>, _) = lane
            .waiting
            .drain(..)
            .partition(|job| matches!(job.work, Work::Read(_)));
        lane.waiting = rest;
        self.wake_lane(old, ctx);
        for event in reads.into_iter().flat_map(|job| job.events) {
            self.append(survivor.clone(), event, Work::Read(Reading::default()), ctx);
        }
    }

    /// Puts an event at the end of its record's lane, in the job that waits there if that takes it. An
    /// erased record is not read, whichever way an event leads to it.
    pub(super) fn append(&mut self, key: Key, event: Event, work: Work, ctx: &mut Context<'_>) {
        if matches!(work, Work::Read(_)) && ctx.memory.is_erased(&self.id, &key) {
            ctx.effects
                .end(&event.known_as(), Fate::of_all(Ending::Purged));
            return;
        }
        let lane = self.lanes.entry(key.clone()).or_default();
        match lane.waiting.back_mut() {
            Some(last) if matches!(work, Work::Read(_)) && last.takes_another(&event) => {
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
