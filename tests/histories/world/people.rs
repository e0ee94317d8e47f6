//! What happens in HubSpot, until the receiver has it.

use std::collections::BTreeMap;
use std::time::Duration;

use crm_relay::enrich::Input;
use crm_relay::enrich::budget::Share;
use crm_relay::event::{Event, PortalId};

use super::{Happening, World};

use crate::trace;

/// One event of so many thousands is the one that kills.
const DEADLY: u64 = 100;

impl World {
    /// The most calls of ours that a window of HubSpot's may hold.
    pub(super) fn ours_max(&self, portal_id: &PortalId) -> u32 {
        let max = self
            .hubspot
            .portals
            .get(portal_id)
            .map_or(0, |portal| portal.max);
        if self.share == Share::WHOLE {
            max
        } else {
            (max / 2).max(1)
        }
    }

    pub(super) fn act(&mut self) {
        let ids: Vec<_> = self.hubspot.portals.keys().cloned().collect();
        let ahead = Duration::from_millis(self.weather.clock_ahead_ms);
        if let Some(id) = self.dice.pick(&ids)
            && let Some(portal) = self.hubspot.portals.get_mut(id)
        {
            let at = self.now.after(ahead);
            let events = self
                .people
                .act(id, portal, at, &mut self.dice, &mut self.coverage);
            for event in events {
                self.trace(|| format!("HubSpot {}: {}", event.portal_id, trace::event(&event)));
                self.notify(event);
            }
        }
        self.actions_left -= 1;
        if self.actions_left > 0 {
            let pause = self.dice.millis(1, self.weather.pace_ms);
            self.schedule(pause, Happening::Act);
        }
    }

    /// HubSpot tells of an event: some time later, perhaps much later, perhaps again.
    pub(super) fn notify(&mut self, event: Event) {
        let late = self.dice.chance(self.weather.late);
        self.coverage.note_if(late, "late notification");
        let delay = if late {
            self.dice.millis(1_000, 120_000)
        } else {
            self.dice.millis(10, 400)
        };
        if self.dice.chance(self.weather.repeated) {
            self.coverage.note("repeated notification");
            let again = delay + self.dice.millis(0, 60_000);
            self.notify_after(
                again,
                Event {
                    attempt_number: 1,
                    ..event.clone()
                },
            );
        }
        self.notify_after(delay, event);
    }

    pub(super) fn notify_after(&mut self, delay: Duration, event: Event) {
        self.scheduled += 1;
        self.notified
            .insert((self.now.after(delay), self.scheduled), event);
        self.schedule(delay, Happening::Flush);
    }

    /// The receiver takes what is due: a batch for each portal, now and then in another order.
    pub(super) fn flush(&mut self) {
        let later = self.notified.split_off(&(self.now, u64::MAX));
        let due: Vec<Event> = std::mem::replace(&mut self.notified, later)
            .into_values()
            .collect();
        let mut batches: BTreeMap<PortalId, Vec<Event>> = BTreeMap::new();
        for event in due {
            let event = Event {
                received_at: self.now,
                ..event
            };
            self.checks.accept(&event);
            if self.weather.deadly && self.deadly.is_none() && self.dice.chance(DEADLY) {
                self.deadly = Some(event.id.clone());
            }
            self.coverage.events += 1;
            let batch = batches.entry(event.portal_id.clone()).or_default();
            let at = if self.dice.chance(self.weather.shuffled) {
                self.dice.below(batch.len() as u64 + 1)
            } else {
                batch.len() as u64
            };
            batch.insert(usize::try_from(at).unwrap_or(0), event);
        }
        for events in batches.into_values() {
            for chunk in events.chunks(100) {
                let message = self.bus.message(chunk.to_vec());
                self.bus.intake.push_back(message);
            }
        }
    }

    pub(super) fn refreshed(&mut self, portal_id: PortalId) -> Result<(), String> {
        let portal = self
            .hubspot
            .portals
            .get_mut(&portal_id)
            .ok_or("a refresh for an unknown portal")?;
        let changed = portal.revoked_until.is_none_or(|until| until <= self.now);
        if changed {
            if portal.revoked_until.take().is_some() {
                portal.token += 1;
            }
            portal.token_of_relay = portal.token;
        }
        self.tell(Input::TokenRefreshed { portal_id, changed })
    }
}
