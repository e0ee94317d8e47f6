//! One portal: its waiting events, its reads under way, its budget, and what it shares.
//!
//! The portal is the unit of order, of budget and of batching. Each record has a lane with at most one job
//! under way; new events join the job that waits. Reads of one kind that wait together travel together:
//! while a call that is not full is under way, its kind waits, so that a backlog fills the batches by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::event::{Millis, ObjectId, ObjectTypeId, PortalId};
use crate::hubspot::call::{AssociationInput, LimitClass};

use super::batch_max::BatchMax;
use super::budget::{Budget, Share};
use super::cache::Shared;
use super::effects::Effects;
use super::health::{Health, Standing};
use super::job::{JobId, Key, Lane};
use super::memory::Memory;
use super::plan::Plans;
use super::pool::DefinitionPool;
use super::priority::{Priority, ReadQueue};
use super::request::{Group, Request};

mod answers;
mod calls;
mod conversations;
mod events;
mod messages;
mod plain;
mod schemas;

use plain::PlainEvents;

/// Messages of a portal that may be on their way after their deliveries were given up, before it has to wait. A destination
/// that confirms nothing would have them pile up, one window after the other.
const LEFT_BEHIND_MAX: usize = 1_000;

/// One portal.
#[derive(Debug)]
pub struct Portal {
    id: PortalId,
    pub health: Health,
    pub budget: Budget,
    /// When HubSpot last answered, a message was last confirmed, or work came after none.
    pub progressed_at: Millis,
    shared: Shared,
    batch_max: BatchMax,
    lanes: HashMap<Key, Lane>,
    /// Records whose job waits to be read, by type.
    to_read: BTreeMap<ObjectTypeId, ReadQueue<ObjectId>>,
    /// Pages of associations that wait to be read.
    to_associate: BTreeMap<Pair, Gathering>,
    /// Types of which more records wait than the last batch of them took.
    backlogged: BTreeSet<ObjectTypeId>,
    /// Requests ready to be sent as they are.
    ready: VecDeque<Request>,
    /// Groups with something waiting, in the order of their turn.
    turns: VecDeque<Group>,
    /// Calls under way by group.
    groups_in_flight: HashMap<Group, usize>,
    in_flight: usize,
    /// Batches sent since the last that was bulk work's turn.
    since_bulk: usize,
    /// Jobs whose own reads are done and that wait for something shared.
    assembling: BTreeSet<Key>,
    /// Records to be read again, by when.
    rereads: BTreeMap<Millis, Vec<(Key, JobId)>>,
    /// Events to be sent as they are.
    plain: PlainEvents,
    /// At most so many messages are on their way whose deliveries were given up.
    left_behind: usize,
}

/// The types at both ends of an association.
type Pair = (ObjectTypeId, ObjectTypeId);

/// Pages of associations that wait to be read, with their jobs.
#[derive(Debug, Default)]
struct Gathering {
    queue: ReadQueue<(AssociationInput, JobId)>,
    /// Since when the first of them has waited, or when the last batch was taken.
    since: Millis,
}

impl Gathering {
    fn len(&self) -> usize {
        self.queue.len()
    }

    fn push(&mut self, priority: Priority, page: (AssociationInput, JobId), now: Millis) {
        if self.queue.is_empty() {
            self.since = now;
        }
        self.queue.push(priority, page);
    }

    fn take(&mut self, count: usize, now: Millis) -> Vec<(AssociationInput, JobId)> {
        self.since = now;
        self.queue.take(count)
    }
}

/// What a portal's methods need besides their own state.
pub struct Context<'a> {
    pub now: Millis,
    /// Whether the calls of the partition's portals are ours to make.
    pub may_call: bool,
    pub plans: &'a Plans,
    pub memory: &'a mut Memory,
    pub pool: &'a mut DefinitionPool,
    pub effects: &'a mut Effects,
}

impl Portal {
    /// A portal of which nothing is known. Since `ours_since` nobody else makes the calls of its events.
    pub fn new(id: PortalId, share: Share, ours_since: Millis) -> Self {
        Self {
            id,
            health: Health::default(),
            budget: Budget::new(share, ours_since),
            progressed_at: Millis::default(),
            shared: Shared::default(),
            batch_max: BatchMax::default(),
            lanes: HashMap::new(),
            to_read: BTreeMap::new(),
            to_associate: BTreeMap::new(),
            backlogged: BTreeSet::new(),
            ready: VecDeque::new(),
            turns: VecDeque::new(),
            groups_in_flight: HashMap::new(),
            in_flight: 0,
            since_bulk: 0,
            assembling: BTreeSet::new(),
            rereads: BTreeMap::new(),
            plain: PlainEvents::default(),
            left_behind: 0,
        }
    }

    /// Its id.
    pub fn id(&self) -> &PortalId {
        &self.id
    }

    /// How work for the portal is taken up.
    pub fn standing(&self, now: Millis) -> Standing {
        if self.is_left_behind() {
            return Standing::Barred;
        }
        self.health.standing(now)
    }

    /// Whether so much is on its way to destinations that do not take it, and no delivery waits for that, that more would
    /// only pile up.
    pub fn is_left_behind(&self) -> bool {
        self.left_behind >= LEFT_BEHIND_MAX
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty() && self.in_flight == 0 && self.plain.is_empty()
    }

    /// Whether events wait.
    pub fn has_work(&self) -> bool {
        !self.lanes.is_empty()
    }

    /// Whether something waits, is under way, or will be asked for again by itself.
    pub fn is_busy(&self) -> bool {
        !self.is_idle() || !self.ready.is_empty()
    }

    /// Whether a new portal would behave as this one, once it has learnt the limits and what is shared.
    pub fn is_as_new(&mut self, now: Millis) -> bool {
        !self.is_busy() && self.health.is_past(now) && self.budget.is_past(now)
    }

    /// When time alone may let something happen.
    pub fn next_wake(&mut self, now: Millis) -> Option<Millis> {
        let reread = self.rereads.keys().next().copied();
        let waits = !self.ready.is_empty() || !self.turns.is_empty();
        let budget = waits.then(|| self.budget_wake(now)).flatten();
        let may_send = match self.health.until().filter(|until| *until > now && waits) {
            Some(until) => Some(until),
            None => budget,
        };
        let gathered = self.to_associate.keys();
        let gathered = gathered.filter_map(|pair| self.gathers_until(pair));
        let gathered = gathered.filter(|until| *until > now).min();
        let all = reread.into_iter().chain(may_send).chain(gathered);
        all.min()
    }

    fn budget_wake(&mut self, now: Millis) -> Option<Millis> {
        let classes = [LimitClass::Burst, LimitClass::Associations];
        let all = classes
            .into_iter()
            .flat_map(|class| [(class, Priority::Live), (class, Priority::Bulk)]);
        all.filter_map(|(class, priority)| self.budget.next_at(class, priority, now))
            .min()
    }
}
