//! One piece of work: a record's events that become one message.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use crate::demand::Parts;
use crate::event::{
    AssociationLabel, Attachment, EnrichedEvent, EnrichmentProblem, Erasure, Event, EventBody,
    EventId, Millis, ObjectChange, ObjectEvent, ObjectId, ObjectTypeId, Thread, Tombstone,
};
use crate::hubspot::call::RecordRead;

use super::conversations::MessagesRead;
use super::plan::Plans;
use super::priority::{Place, Priority};
use super::protocol::Published;

/// What names a record within a portal.
pub type Key = (ObjectTypeId, ObjectId);

/// Tells the jobs of one engine apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// The events of one record that go out as one message.
#[derive(Debug)]
pub struct Job {
    pub id: JobId,
    pub events: Vec<Event>,
    /// The parts of the message that somebody wants.
    pub parts: Parts,
    pub work: Work,
}

/// What has to be done before the message can go out.
#[derive(Debug)]
pub enum Work {
    /// Read the record.
    Read(Reading),
    /// Nothing: the record is gone.
    Tombstone(Tombstone),
    /// Nothing: the dead letters are to be searched for the record.
    Search(Erasure),
    /// Nothing: there is no record to read.
    Plain,
    /// The message is on its way, with these events in it.
    Publishing(Vec<EventId>, OnItsWay),
}

/// What is on its way to the destinations, of a record that may be erased meanwhile.
#[derive(Debug)]
pub struct OnItsWay {
    /// Whether its record was not erased when it was sent, and it may hold something of that.
    is_of_a_living_record: bool,
    /// What came of it, while the dead letters are to be searched for what it may have become.
    outcome: Option<Published>,
}

impl OnItsWay {
    pub fn new(is_of_a_living_record: bool) -> Self {
        Self {
            is_of_a_living_record,
            outcome: None,
        }
    }

    /// It is confirmed, or a dead letter; and if its record is erased now, by this. What its events end by.
    ///
    /// # Errors
    /// What the dead letters are to be searched for before: the record was erased on its way, and one of them may hold it. Whatever the
    /// outcome, since that may be of a later try than the letter, whose confirm was lost.
    pub fn confirmed<'a>(
        &mut self,
        outcome: &'a Published,
        erasure: Option<Erasure>,
    ) -> Result<Cow<'a, Published>, Erasure> {
        let was_living = std::mem::take(&mut self.is_of_a_living_record);
        if let Some(erasure) = erasure.filter(|_| was_living) {
            self.outcome = Some(outcome.clone());
            return Err(erasure);
        }
        let earlier = self.outcome.take();
        Ok(earlier.map_or(Cow::Borrowed(outcome), Cow::Owned))
    }
}

/// How far the reads of a job are.
#[derive(Debug, Default)]
pub struct Reading {
    /// What became of the record's read; `None` while it is under way.
    pub record: Option<RecordOutcome>,
    /// `completedAt` of the record's read.
    pub completed_at: Option<Millis>,
    /// By the type at the other end.
    pub associations: BTreeMap<ObjectTypeId, AssociationsRead>,
    /// What was read of the files attached to it, where that is asked for.
    pub attachments: Option<Vec<Attachment>>,
    /// What was read of a thread's messages.
    pub messages: MessagesRead,
    /// How often the record was read again because what came was too old.
    pub rereads: u32,
    /// Whether it waits to be read again.
    pub awaits_reread: bool,
    /// How often it was asked for singly, since it may have been merged away.
    pub asked_singly: u32,
    /// Whether the bound on reading again was reached.
    pub stale: bool,
    /// What could not be read of this record.
    pub problems: Vec<EnrichmentProblem>,
}

/// What became of a record's read.
#[derive(Debug, PartialEq, Eq)]
pub enum RecordOutcome {
    Found(RecordRead),
    Thread(Box<Thread>),
    Missing,
    /// With the scopes that HubSpot says are missing.
    Forbidden(Vec<String>),
}

/// The associations of a record to one type, page by page.
#[derive(Debug, Default)]
pub struct AssociationsRead {
    pub to: Vec<(ObjectId, Vec<AssociationLabel>)>,
    pub pages: u32,
    pub state: PagesState,
}

/// Whether more pages are to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PagesState {
    #[default]
    Reading,
    Done,
    /// A problem of the job says why.
    Failed,
}

/// The work of one record: at most one job under way, and those that wait for it.
#[derive(Debug, Default)]
pub struct Lane {
    /// Being read or published.
    pub active: Option<Job>,
    /// Waiting, oldest first.
    pub waiting: VecDeque<Job>,
    /// Where the record stands in the queue of records to read.
    pub queued: Option<Place>,
}

impl Lane {
    /// How urgent its next read is: as urgent as the most urgent event that it holds up.
    pub fn priority(&self) -> Priority {
        let jobs = self.active.iter().chain(&self.waiting);
        Priority::of_all(jobs.flat_map(|job| &job.events))
    }
}

impl Job {
    /// Whether `event`, which needs a read, may join this job, which has not begun.
    pub fn takes_another(&self, event: &Event) -> bool {
        self.events.len() < EnrichedEvent::EVENTS_MAX
            && matches!(&self.work, Work::Read(_))
            && self.is_for_the_same(event)
    }

    /// Whether the message of this job goes to those whom `event` is for. A destination to which a copy is replayed gets a
    /// message of its own.
    fn is_for_the_same(&self, event: &Event) -> bool {
        let mut events = self.events.iter().take(1);
        events.all(|one| one.only() == event.only())
    }

    /// Whether all of it is replayed.
    pub fn is_replayed(&self) -> bool {
        self.events.iter().all(|event| event.replay.is_some())
    }

    /// Whether it waits for the name of its type alone.
    pub fn is_held(&self) -> bool {
        matches!(self.work, Work::Tombstone(_) | Work::Plain)
    }

    /// Takes `event` in, with the parts that are wanted because of it.
    pub fn take(&mut self, event: Event, plans: &Plans) {
        let wanted = plans.wants(&event).parts;
        self.parts = self.parts.and(wanted.unwrap_or(Parts::NONE));
        self.events.push(event);
    }

    /// Moves this job, which has not begun, into a tombstone for a `deletion`, if nothing
    /// in it happened later. The record is gone: there is nothing to read.
    pub fn may_join_tombstone(&self, deletion: &Event) -> bool {
        self.takes_another(deletion)
            && self
                .events
                .iter()
                .all(|event| event.occurred_at <= deletion.occurred_at)
            && !self.events.iter().any(is_merge)
    }

    /// The names of the properties its events changed.
    pub fn changed_properties(&self) -> impl Iterator<Item = &str> {
        self.events.iter().filter_map(|event| match &event.body {
            EventBody::Object(ObjectEvent {
                change: ObjectChange::PropertyChanged { property_name, .. },
                ..
            }) => Some(property_name.as_str()),
            _ => None,
        })
    }

    /// The newest `occurredAt` of its events.
    pub fn newest(&self) -> Millis {
        let newest = self.events.iter().map(|event| event.occurred_at).max();
        newest.expect("a job has at least one event")
    }

    /// Its reads, while it is being read.
    pub fn reading(&mut self) -> Option<&mut Reading> {
        match &mut self.work {
            Work::Read(reading) => Some(reading),
            _ => None,
        }
    }
}

/// Whether an event asks for its record to be read, or its thread, where threads are.
pub fn needs_read(event: &Event, threads_are_read: impl FnOnce() -> bool) -> bool {
    match &event.body {
        EventBody::Object(object) => !matches!(
            object.change,
            ObjectChange::Deleted | ObjectChange::PrivacyDeleted
        ),
        EventBody::Association(_) => true,
        EventBody::Conversation(_) => threads_are_read(),
        EventBody::Unknown(_) => false,
    }
}

fn is_merge(event: &Event) -> bool {
    matches!(
        &event.body,
        EventBody::Object(ObjectEvent {
            change: ObjectChange::Merged { .. },
            ..
        })
    )
}
