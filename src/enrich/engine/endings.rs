//! How events end: what is counted, noted and acknowledged by that.

use crate::enrich::changelog::{Note, Page};
use crate::enrich::ledger::{Fate, Half};
use crate::enrich::protocol::{DeliveryId, Ending, NoteId, Output};
use crate::event::{Event, EventId, Millis, PortalId};

use super::Engine;

impl Engine {
    /// Events are open from the first time that they are seen.
    pub(super) fn enter_in_ledger(&mut self, now: Millis, events: &[Event]) {
        for event in events
            .iter()
            .filter(|event| !self.memory.has_seen(&event.known_as()))
        {
            let digest = event.known_as().digest();
            if !self.memory.has_arrived(&digest) {
                self.ledger.arrived(&event.portal_id, digest, now);
            }
        }
    }

    /// Notes what came to be known, if that is due, and acknowledges what waits for no note.
    pub(super) fn note(&mut self, now: Millis) {
        let (tallies, arrived) = self.ledger.take(now);
        for event in arrived {
            self.memory.arrive(event, now);
        }
        let page = Page::new(self.memory.take_entries(), tallies);
        self.changelog.add(page, now);
        let settled = self.changelog.take_settled();
        self.acknowledge(now, settled);
        let id = NoteId(self.effects.next_id());
        if let Some(page) = self.changelog.next(now, id) {
            self.notes += 1;
            let note = Note {
                engine: self.instance,
                number: self.notes,
                at: now,
                entries: page.entries,
                destinations: self.ledger.destinations().to_vec(),
                tallies: page.tallies.into_values().collect(),
            };
            self.effects.outputs.push_back(Output::Note { id, note });
        }
    }

    /// What waited for a note goes on: deliveries are acknowledged, and suspects are tried.
    pub(super) fn acknowledge(&mut self, now: Millis, settled: Vec<DeliveryId>) {
        for delivery in settled {
            match self.take_noted_suspects(delivery) {
                Some(events) => self.take_up(now, delivery, events),
                None => self.effects.outputs.push_back(Output::Ack(delivery)),
            }
        }
    }

    pub(super) fn part_ended(&mut self, now: Millis, id: &EventId, half: Half, fate: Fate) {
        let has_seen_plain = self.memory.has_seen_plain(id);
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        live.parts -= 1;
        live.ending = live.ending.max(fate.whole());
        match half {
            Half::Enriched => {
                let so_far = std::mem::replace(&mut live.enriched, Fate::of_all(Ending::Unwanted));
                live.enriched = so_far.and(&fate);
            }
            Half::Plain => live.plain = Some(fate),
        }
        if live.parts > 0 {
            return;
        }
        let Some(mut live) = self.live.remove(id) else {
            return;
        };
        if has_seen_plain {
            live.ending = live.ending.max(Ending::Delivered);
        }
        let unasked = Fate::of_all(Ending::Unwanted);
        let plain = live.plain.as_ref().unwrap_or(&unasked);
        let plain = (!has_seen_plain).then_some(plain);
        self.ledger
            .ended(&live.portal_id, id.digest(), &live.enriched, plain);
        self.memory.see(id, now);
        self.effects.outputs.push_back(Output::Ended(live.ending));
        for (repeat, delivery) in live.deliveries.into_iter().enumerate() {
            if repeat > 0 {
                self.duplicate(&live.portal_id);
            }
            self.event_ended(delivery);
        }
    }

    /// The plain half of an event ended. Where that is not its end, it is noted by itself.
    pub(super) fn plain_ended(
        &mut self,
        now: Millis,
        portal_id: &PortalId,
        id: &EventId,
        fate: Fate,
    ) {
        if self.memory.has_seen(id) {
            // It was purged meanwhile, since its record is erased.
            return;
        }
        let live = self.live.get(id);
        if live.is_none_or(|live| live.parts > 1) {
            let half = self.memory.see_plain(id, now);
            self.ledger.plain_ended(portal_id, half, &fate);
        }
        self.part_ended(now, id, Half::Plain, fate);
    }

    pub(super) fn duplicate(&mut self, portal_id: &PortalId) {
        self.ledger.duplicate(portal_id);
        self.effects
            .outputs
            .push_back(Output::Ended(Ending::Duplicate));
    }

    /// A delivery stands in the backlog without `purged`, which end by that.
    pub(super) fn purge_aside(&mut self, now: Millis, delivery: DeliveryId, purged: &[Event]) {
        let gone = Fate::of_all(Ending::Purged);
        for event in purged {
            if self.memory.has_seen(&event.known_as()) {
                self.duplicate(&event.portal_id);
            } else if !self.live.contains_key(&*event.known_as()) {
                let plain = (!self.memory.has_seen_plain(&event.known_as())).then_some(&gone);
                self.ledger
                    .ended(&event.portal_id, event.known_as().digest(), &gone, plain);
                self.memory.see(&event.known_as(), now);
                self.effects
                    .outputs
                    .push_back(Output::Ended(Ending::Purged));
            }
        }
        self.changelog.settle(delivery);
    }

    pub(super) fn event_ended(&mut self, delivery: DeliveryId) {
        if self.admission.event_ended(delivery) {
            self.end_trial(delivery);
            self.changelog.settle(delivery);
            self.has_room = true;
        }
    }
}
