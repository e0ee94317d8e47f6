//! Which deliveries are taken up now: no portal may fill the window of its partition.
//!
//! A partition gives out a window of deliveries, and no more until some are settled. A portal that imports, or
//! that cannot be asked, would fill it, and every other portal would wait. So each may hold no more than a part of what is
//! free, which leaves room however many do. What is beyond goes to the partition's backlog, and comes back
//! from there as the portal gets on.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::event::{Event, Millis, PortalId};

use super::health::Standing;
use super::priority::Priority;
use super::protocol::DeliveryId;

/// The window where nobody says: the default of `worker.prefetch`.
pub const WINDOW_DEFAULT: usize = 200;
/// How long a delivery from the backlog is held for its portal to have room, before it goes to the backlog's end
/// and lets the next ones be seen.
const HELD_MAX: Duration = Duration::from_secs(10);
/// The same for a portal that cannot be asked.
const HELD_BARRED_MAX: Duration = Duration::from_secs(2);
/// A portal that got nowhere for so long has its deliveries set aside.
pub const STUCK_AFTER: Duration = Duration::from_secs(60);
/// A delivery that is not settled by then is set aside in any case; the broker takes it back after 30 minutes.
pub const UNSETTLED_MAX: Duration = Duration::from_secs(600);

/// The deliveries of one partition that were taken up, and those that wait for room.
#[derive(Debug)]
pub struct Admission {
    window: usize,
    admitted: HashMap<DeliveryId, Admitted>,
    /// How many each portal has, live and bulk apart: neither keeps the other out.
    counts: HashMap<(PortalId, Priority), usize>,
    held: VecDeque<Held>,
}

/// A delivery that was taken up.
#[derive(Debug)]
struct Admitted {
    portal_id: PortalId,
    priority: Priority,
    /// Events that have not ended.
    left: usize,
    since: Millis,
}

/// A delivery from the backlog that waits for room.
#[derive(Debug)]
pub struct Held {
    pub delivery: DeliveryId,
    pub events: Vec<Event>,
    priority: Priority,
    since: Millis,
}

impl Held {
    fn portal_id(&self) -> &PortalId {
        &self.events[0].portal_id
    }
}

impl Admission {
    pub fn new(window: usize) -> Self {
        Self {
            window,
            admitted: HashMap::new(),
            counts: HashMap::new(),
            held: VecDeque::new(),
        }
    }

    /// Whether nothing was taken up.
    pub fn is_empty(&self) -> bool {
        self.admitted.is_empty()
    }

    /// Whether something waits for room.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether a portal may have one more: live work as many as are free, bulk work half of that. A portal on
    /// trial has one, and one that is barred none.
    pub fn has_room(&self, portal_id: &PortalId, priority: Priority, standing: Standing) -> bool {
        let count = |priority| {
            let count = self.counts.get(&(portal_id.clone(), priority));
            count.copied().unwrap_or(0)
        };
        let free = self.window.saturating_sub(self.admitted.len());
        match (standing, priority) {
            (Standing::Barred, _) => false,
            (Standing::OnTrial, _) => count(Priority::Live) + count(Priority::Bulk) == 0,
            (Standing::Good, Priority::Live) => count(Priority::Live) < free.max(1),
            (Standing::Good, Priority::Bulk) => count(Priority::Bulk) < (free / 2).max(1),
        }
    }

    /// Takes up a delivery of a portal's `events`.
    pub fn admit(&mut self, delivery: DeliveryId, events: &[Event], now: Millis) {
        let Some(first) = events.first() else { return };
        let portal_id = first.portal_id.clone();
        let priority = Priority::of_all(events.iter());
        *self
            .counts
            .entry((portal_id.clone(), priority))
            .or_default() += 1;
        let admitted = Admitted {
            portal_id,
            priority,
            left: events.len(),
            since: now,
        };
        self.admitted.insert(delivery, admitted);
    }

    pub fn hold(&mut self, delivery: DeliveryId, events: Vec<Event>, now: Millis) {
        self.held.push_back(Held {
            delivery,
            priority: Priority::of_all(events.iter()),
            events,
            since: now,
        });
    }

    /// One event of `delivery` ended. Whether that was its last.
    pub fn event_ended(&mut self, delivery: DeliveryId) -> bool {
        let Some(admitted) = self.admitted.get_mut(&delivery) else {
            return false;
        };
        admitted.left -= 1;
        let is_last = admitted.left == 0;
        if is_last {
            self.release(delivery);
        }
        is_last
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.admitted.clear();
        self.counts.clear();
        self.held.clear();
    }

    /// Portals of which deliveries were taken up, and when the first of those was.
    pub fn portals(&self) -> BTreeMap<PortalId, Millis> {
        let mut portals = BTreeMap::new();
        for one in self.admitted.values() {
            let first = portals.entry(one.portal_id.clone()).or_insert(one.since);
            *first = one.since.min(*first);
        }
        portals
    }

    /// The events that wait for room.
    pub fn held_events(&self) -> impl Iterator<Item = &Event> {
        self.held.iter().flat_map(|held| &held.events)
    }

    /// Portals of which deliveries wait for room.
    pub fn waiting(&self) -> BTreeSet<PortalId> {
        self.held
            .iter()
            .map(|held| held.portal_id().clone())
            .collect()
    }

    /// Gives up the deliveries of a portal, in the order they came.
    pub fn release_all(&mut self, portal_id: &PortalId) -> Vec<DeliveryId> {
        let of_portal = self.admitted.iter();
        let of_portal = of_portal.filter(|(_, one)| one.portal_id == *portal_id);
        let mut deliveries: Vec<_> = of_portal.map(|(delivery, _)| *delivery).collect();
        deliveries.sort();
        for delivery in &deliveries {
            self.release(*delivery);
        }
        deliveries
    }

    /// The next held delivery that has room now.
    pub fn next_with_room(&mut self, standing: impl Fn(&PortalId) -> Standing) -> Option<Held> {
        let with_room = self.held.iter().position(|held| {
            let portal_id = held.portal_id();
            self.has_room(portal_id, held.priority, standing(portal_id))
        });
        self.held.remove(with_room?)
    }

    /// Those held for too long.
    pub fn overdue(
        &mut self,
        now: Millis,
        standing: impl Fn(&PortalId) -> Standing,
    ) -> Vec<DeliveryId> {
        let mut overdue = Vec::new();
        self.held.retain(|held| {
            let longest = match standing(held.portal_id()) {
                Standing::Barred => HELD_BARRED_MAX,
                Standing::Good | Standing::OnTrial => HELD_MAX,
            };
            let keep = now.since(held.since) < longest;
            if !keep {
                overdue.push(held.delivery);
            }
            keep
        });
        overdue
    }

    fn release(&mut self, delivery: DeliveryId) {
        let Some(admitted) = self.admitted.remove(&delivery) else {
            return;
        };
        let whose = (admitted.portal_id, admitted.priority);
        if let Some(count) = self.counts.get_mut(&whose) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::tests::{created, event_of, imported};

    fn make(priority: Priority) -> Event {
        match priority {
            Priority::Live => created("1", 0),
            Priority::Bulk => imported("1", 0),
        }
    }

    fn admit(
        admission: &mut Admission,
        portal: &str,
        priority: Priority,
        standing: Standing,
    ) -> bool {
        let has_room = admission.has_room(&portal.into(), priority, standing);
        if has_room {
            let delivery = DeliveryId(admission.admitted.len() as u64);
            let events = [event_of(portal, make(priority))];
            admission.admit(delivery, &events, Millis::default());
        }
        has_room
    }

    fn fill(admission: &mut Admission, portal: &str, priority: Priority) -> usize {
        (0..1_000)
            .take_while(|_| admit(admission, portal, priority, Standing::Good))
            .count()
    }

    #[test]
    fn however_many_portals_take_all_they_may_there_is_room_for_another() {
        for priority in [Priority::Live, Priority::Bulk] {
            let mut admission = Admission::new(200);
            let counts: Vec<_> = (0..20)
                .map(|n| fill(&mut admission, &n.to_string(), priority))
                .collect();
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
            let most = if priority == Priority::Live { 100 } else { 67 };
            assert_eq!(counts[0], most);
        }
    }

    #[test]
    fn live_and_bulk_work_of_a_portal_leave_room_for_each_other() {
        let mut admission = Admission::new(200);
        assert_eq!(fill(&mut admission, "1", Priority::Live), 100);
        assert_eq!(fill(&mut admission, "1", Priority::Bulk), 33);
    }

    #[test]
    fn a_portal_on_trial_has_one_and_a_barred_one_none() {
        let mut admission = Admission::new(200);
        let (barred, on_trial) = (Standing::Barred, Standing::OnTrial);
        assert!(!admit(&mut admission, "1", Priority::Live, barred));
        assert!(admit(&mut admission, "1", Priority::Live, on_trial));
        assert!(!admit(&mut admission, "1", Priority::Live, on_trial));
        assert!(!admit(&mut admission, "1", Priority::Bulk, on_trial));
        assert!(admission.event_ended(DeliveryId(0)));
        assert!(admit(&mut admission, "1", Priority::Live, on_trial));
    }
}
