//! Plain events go out as they came: in order, and without waiting for HubSpot.
//!
//! An event that is wanted both plain and enriched ends when both are done. Its plain half goes first, and is remembered by
//! itself: the delivery that brought it may be set aside, and come again for the other half.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::enrich::effects::Publishing;
use crate::enrich::job::{Key, OnItsWay};
use crate::enrich::ledger::Fate;
use crate::enrich::protocol::{Ending, Published};
use crate::event::{Event, EventId};

use super::{Context, Portal};

/// The most plain events of a portal on their way at once. The next ones wait for all of them, since one that has to be
/// sent again would otherwise come after many that are younger. With a broker in trouble that confirms after 0.3 s, 100 were fewer
/// than one busy portal brought (`make chaos`).
const UNDER_WAY_MAX: usize = 500;
/// While so many of a portal have not ended, those of deliveries that are not taken up wait in the backlog with the rest.
const PLAIN_MAX: usize = 1_000;

/// The plain events of one portal that have not ended.
#[derive(Debug, Default)]
pub(super) struct PlainEvents {
    waiting: VecDeque<Event>,
    /// Each with the record it is of.
    under_way: BTreeMap<EventId, (Key, OnItsWay)>,
    /// Both.
    known: BTreeSet<EventId>,
}

impl PlainEvents {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Their ids.
    pub(super) fn ids(&self) -> impl Iterator<Item = &EventId> {
        self.known.iter()
    }
}

impl Portal {
    /// Sends an event as it is, if that was not done before. Whether it is still to end.
    pub(in crate::enrich) fn send_plain(&mut self, event: &Event, ctx: &mut Context<'_>) -> bool {
        if self.plain.known.contains(&*event.known_as()) {
            return true;
        }
        let is_erasure = event.is_privacy_deletion();
        if ctx.memory.has_seen_plain(&event.known_as())
            || (ctx.memory.leads_to_erased(&self.id, &key_of(event)) && !is_erasure)
        {
            return false;
        }
        self.plain.known.insert(event.known_as().into_owned());
        self.plain.waiting.push_back(event.clone());
        true
    }

    /// Whether no more can be taken in that their deliveries do not wait for.
    pub(in crate::enrich) fn has_plain_enough(&self) -> bool {
        self.plain.known.len() >= PLAIN_MAX
    }

    /// Whether an event is still to go out as it is.
    pub(in crate::enrich) fn has_plain(&self, id: &EventId) -> bool {
        self.plain.known.contains(id)
    }

    /// Publishes what waits, when nothing is on its way.
    pub(super) fn dispatch_plain(&mut self, ctx: &mut Context<'_>) {
        if !self.plain.under_way.is_empty() {
            return;
        }
        let count = self.plain.waiting.len().min(UNDER_WAY_MAX);
        for event in self.plain.waiting.drain(..count) {
            let of = key_of(&event);
            let is_living = !ctx.memory.leads_to_erased(&self.id, &of);
            let on_its_way = OnItsWay::new(is_living && !event.is_privacy_deletion());
            let id = event.known_as().into_owned();
            self.plain.under_way.insert(id, (of, on_its_way));
            ctx.effects.publish_plain(&self.id, event);
        }
    }

    /// A plain event is confirmed, or a dead letter.
    pub(in crate::enrich) fn plain_published(
        &mut self,
        id: &EventId,
        outcome: &Published,
        ctx: &mut Context<'_>,
    ) {
        self.progressed_at = ctx.now;
        let of = self.plain.under_way.get(id).map(|(of, _)| of);
        let erasure = of.and_then(|of| self.erasure_of(of, ctx));
        let on_its_way = self.plain.under_way.get_mut(id);
        let Some((_, on_its_way)) = on_its_way else {
            return;
        };
        match on_its_way.confirmed(outcome, erasure) {
            Ok(outcome) => {
                let fate = Fate::of(id, &outcome);
                self.plain.under_way.remove(id);
                self.plain.known.remove(id);
                self.left_behind = self.left_behind.saturating_sub(1);
                ctx.effects.end_plain(&self.id, id, fate);
            }
            Err(erasure) => {
                let waits = Publishing::Plain(id.clone());
                ctx.effects.search(&self.id, waits, erasure);
            }
        }
    }

    /// Drops those of the plain events that have not reached the publisher that `keep` does not know.
    pub(in crate::enrich) fn keep_waiting(&mut self, keep: impl Fn(&Event) -> bool) {
        let PlainEvents { waiting, known, .. } = &mut self.plain;
        waiting.retain(|event| {
            let keeps = keep(event);
            if !keeps {
                known.remove(&*event.known_as());
            }
            keeps
        });
    }

    /// What waits of an erased record does not go out any more.
    pub(super) fn cancel_plain(&mut self, key: &Key, ctx: &mut Context<'_>) {
        for event in std::mem::take(&mut self.plain.waiting) {
            let is_erasure = event.is_privacy_deletion();
            if !is_erasure && ctx.memory.survivor(&self.id, key_of(&event)) == *key {
                self.plain.known.remove(&*event.known_as());
                let purged = Fate::of_all(Ending::Purged);
                ctx.effects.end_plain(&self.id, &event.known_as(), purged);
            } else {
                self.plain.waiting.push_back(event);
            }
        }
    }
}

fn key_of(event: &Event) -> Key {
    let subject = event.subject();
    (subject.object_type_id, subject.object_id)
}
