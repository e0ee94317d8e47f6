//! Conversations: a thread is read by itself, then the messages that its events tell of, then who is not known yet.
//!
//! A thread goes through a lane like a record, takes its turn like a batch of records, and costs a call of its own,
//! since HubSpot's API reads one at a time. So threads are read on request only.

use crate::enrich::cache::Problem;
use crate::enrich::conversations::{is_conversation, messages_problem, problem};
use crate::enrich::fresh;
use crate::enrich::job::{JobId, Key, RecordOutcome, Work};
use crate::enrich::priority::{Priority, ReadQueue};
use crate::enrich::request::Request;
use crate::event::{
    Conversation, EnrichmentPart, Millis, ObjectId, ObjectTypeId, ProblemReason, Thread,
    ThreadMessage, Tombstone, TombstoneReason,
};
use crate::hubspot::call::LimitClass;

use super::{Context, Portal};

impl Portal {
    /// The read of the next thread that waits.
    pub(super) fn take_thread(
        &mut self,
        of: &ObjectTypeId,
        within: Priority,
        ctx: &mut Context<'_>,
    ) -> Option<Request> {
        if !self.budget.allows(LimitClass::Burst, within, ctx.now) {
            return None;
        }
        while let Some(id) = self.to_read.get_mut(of).and_then(next) {
            let key = (of.clone(), id);
            if let Some(job) = self.begin_read(&key, ctx) {
                let job = job.id;
                return Some(Request::Thread { id: key.1, job });
            }
        }
        None
    }

    /// A thread was read, or is not there.
    pub(super) fn apply_thread(
        &mut self,
        key: &Key,
        job: JobId,
        thread: Option<Box<Thread>>,
        completed_at: Millis,
        ctx: &mut Context<'_>,
    ) {
        let active = self
            .lanes
            .get_mut(key)
            .and_then(|lane| lane.active.as_mut());
        let Some(active) = active.filter(|active| active.id == job) else {
            return;
        };
        let Work::Read(reading) = &mut active.work else {
            return;
        };
        reading.completed_at = Some(completed_at);
        let Some(thread) = thread else {
            let too_early = fresh::may_still_appear(&active.events, completed_at);
            if !(too_early && self.reread(key, job, ctx)) {
                self.conclude_record(key, job, RecordOutcome::Missing, ctx);
            }
            return;
        };
        let (messages, is_truncated) = reading.messages.begin(&active.events);
        let truncated = messages_problem(ProblemReason::Truncated);
        if is_truncated && !reading.problems.contains(&truncated) {
            reading.problems.push(truncated);
        }
        let reads = messages.into_iter().map(|id| Request::Message {
            thread_id: key.1.clone(),
            id,
            job,
        });
        self.ready.extend(reads);
        self.conclude_record(key, job, RecordOutcome::Thread(thread), ctx);
    }

    /// A message was read, or is not there. It may only not be there yet: then all is read again.
    pub(super) fn apply_message(
        &mut self,
        key: &Key,
        job: JobId,
        id: &str,
        message: Option<Box<ThreadMessage>>,
        ctx: &mut Context<'_>,
    ) {
        let Some(reading) = self.reading(key, job) else {
            return;
        };
        let is_missing = message.is_none();
        if is_missing && reading.awaits_reread {
            return;
        }
        reading.messages.read(id, message);
        if is_missing {
            if self.reread(key, job, ctx) {
                if let Some(reading) = self.reading(key, job) {
                    reading.record = None;
                    reading.messages.restart();
                }
                return;
            }
            self.fail_message(key, job, &Problem::of(ProblemReason::NotFound), ctx);
            return;
        }
        self.advance(key, ctx);
    }

    /// A message may not be read.
    pub(super) fn refuse_message(
        &mut self,
        key: &Key,
        job: JobId,
        id: &str,
        why: &Problem,
        ctx: &mut Context<'_>,
    ) {
        if let Some(reading) = self.reading(key, job) {
            reading.messages.read(id, None);
            self.fail_message(key, job, why, ctx);
        }
    }

    /// `false` for the deletion of a thread that is older than what was sent, where threads are not read: it may have been
    /// restored since, and the event alone is told. A record is read then, see [`Portal::send_unread`].
    pub(super) fn is_news(
        &self,
        key: &Key,
        tombstone: &Tombstone,
        is_old: bool,
        ctx: &Context<'_>,
    ) -> bool {
        let is_read = !is_conversation(&key.0) || self.plan_of(&key.0, ctx.plans).thread;
        is_read || !is_old || tombstone.reason != TombstoneReason::Deleted
    }

    fn fail_message(&mut self, key: &Key, job: JobId, why: &Problem, ctx: &mut Context<'_>) {
        if let Some(reading) = self.reading(key, job) {
            let problem = problem(EnrichmentPart::Messages, why);
            if !reading.problems.contains(&problem) {
                reading.problems.push(problem);
            }
        }
        self.advance(key, ctx);
    }

    /// Asks for those who act in the thread of a job and are not known. `false` when all is read.
    pub(super) fn lacks_of_thread(&mut self, key: &Key, now: Millis) -> bool {
        let active = self.lanes.get(key).and_then(|lane| lane.active.as_ref());
        let Some(Work::Read(reading)) = active.map(|job| &job.work) else {
            return false;
        };
        let Some(RecordOutcome::Thread(thread)) = &reading.record else {
            return false;
        };
        if reading.messages.is_reading() {
            return true;
        }
        let ids = Conversation::actor_ids(thread, reading.messages.done());
        let (requests, lacks) = self.shared.actors.lack(ids, now);
        self.ready.extend(requests);
        lacks
    }
}

fn next(queue: &mut ReadQueue<ObjectId>) -> Option<ObjectId> {
    queue.take(1).pop()
}
