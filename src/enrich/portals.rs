//! The portals of one engine: those that had work lately, and which of them have something to do.
//!
//! Thousands of portals share an engine, and few of them have work at a time. So what happens all the time (an event,
//! a tick, the next wake) looks at the busy ones alone, and a portal that was idle for a while is dropped, with its
//! definitions and owners. What must not be forgotten of it stands in [`Memory`](super::memory::Memory); its limits are learnt
//! anew, by a first call that goes alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::event::{Millis, PortalId};

use super::budget::Share;
use super::portal::Portal;

/// A portal that has had nothing to do for so long is dropped, unless it cannot be asked, calls of it may
/// still count, or its calls for the day grow short.
pub const IDLE_KEEP: Duration = Duration::from_secs(600);

/// The portals of one engine.
#[derive(Debug)]
pub struct Portals {
    share: Share,
    /// Since when every call of these portals is ours; see [`Self::take_over`].
    ours_since: Millis,
    /// Until when none of them makes a call.
    quiet_until: Millis,
    all: BTreeMap<PortalId, Portal>,
    /// Those that have something to do, and some that no longer have.
    busy: BTreeSet<PortalId>,
    /// When each is to be looked at, whether it is idle.
    looks: BTreeSet<(Millis, PortalId)>,
}

impl Portals {
    pub fn new(share: Share) -> Self {
        Self {
            share,
            ours_since: Millis::default(),
            quiet_until: Millis::default(),
            all: BTreeMap::new(),
            busy: BTreeSet::new(),
            looks: BTreeSet::new(),
        }
    }

    pub fn get(&self, id: &PortalId) -> Option<&Portal> {
        self.all.get(id)
    }

    pub fn get_mut(&mut self, id: &PortalId) -> Option<&mut Portal> {
        self.all.get_mut(id)
    }

    /// The portal, for work that comes for it.
    pub fn enter(&mut self, id: &PortalId, now: Millis) -> &mut Portal {
        if !self.busy.contains(id) {
            self.busy.insert(id.clone());
        }
        let looks = &mut self.looks;
        self.all.entry(id.clone()).or_insert_with(|| {
            looks.insert((now.after(IDLE_KEEP), id.clone()));
            let mut portal = Portal::new(id.clone(), self.share, self.ours_since);
            portal.budget.pause(self.quiet_until);
            portal
        })
    }

    /// The portal was told something: whether it still has something to do.
    pub fn told(&mut self, id: &PortalId) {
        if self.all.get(id).is_none_or(|portal| !portal.is_busy()) {
            self.busy.remove(id);
        }
    }

    /// Those that have something to do.
    pub fn busy(&self) -> Vec<PortalId> {
        self.busy.iter().cloned().collect()
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Portal> {
        self.all.values_mut()
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        let mut busy = self.busy.iter().filter_map(|id| self.all.get(id));
        busy.all(Portal::is_idle)
    }

    /// When time alone may let something happen.
    pub fn next_wake(&mut self, now: Millis) -> Option<Millis> {
        let all = &mut self.all;
        let busy = self.busy.iter();
        busy.filter_map(|id| all.get_mut(id)?.next_wake(now)).min()
    }

    /// From `now` on the calls of these portals are ours, which they may not have been before: somebody else may have
    /// used up their limits a moment ago. None makes a call before `quiet_until`.
    pub fn take_over(&mut self, now: Millis, quiet_until: Millis) {
        (self.ours_since, self.quiet_until) = (now, quiet_until);
        for portal in self.all.values_mut() {
            portal.budget.take_over(now);
            portal.budget.pause(quiet_until);
        }
    }

    /// Drops those that were idle for [`IDLE_KEEP`]. Each is looked at once in that time.
    pub fn drop_idle(&mut self, now: Millis) {
        while let Some((at, _)) = self.looks.first()
            && *at <= now
            && let Some((_, id)) = self.looks.pop_first()
        {
            let Some(portal) = self.all.get_mut(&id) else {
                continue;
            };
            let idle_at = portal.progressed_at.after(IDLE_KEEP);
            if idle_at <= now && portal.is_as_new(now) {
                self.all.remove(&id);
                self.busy.remove(&id);
            } else {
                let next = if idle_at > now {
                    idle_at
                } else {
                    now.after(IDLE_KEEP)
                };
                self.looks.insert((next, id));
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.all.len()
    }
}
