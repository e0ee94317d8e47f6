//! What must hold after each step, and at the end. Told only of what an outsider sees: what HubSpot sent, what
//! lies at the destinations, what was acknowledged.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crm_relay::enrich::Ending;
use crm_relay::event::*;

use crate::hubspot::{HubSpot, Key, Portal};

/// How long before a read a record must have been there for "missing" to be wrong: longer than any read is stale.
const SURELY_THERE: Duration = Duration::from_secs(10);

type Of = (PortalId, Key);

#[derive(Default)]
pub struct Checks {
    /// Every event that HubSpot sent and the receiver answered.
    pub accepted: BTreeMap<EventId, Event>,
    /// The records that an event went out for, in confirmed messages, and their versions.
    confirmed: BTreeMap<EventId, BTreeMap<Key, Version>>,
    /// Of what was acknowledged, whichever engine did it: the newest version of each record, and the newest state.
    settled: BTreeMap<Of, Version>,
    /// Events in dead letters, whether or not the engine heard of it.
    pub dead: BTreeSet<EventId>,
    /// Those of letters that stand for their events as they are, too.
    dead_whole: BTreeSet<EventId>,
    /// Events in messages that a destination got, whether or not the engine heard of it.
    pub out: BTreeSet<EventId>,
    /// Whether every event is to go out as it is, too.
    pub plain: bool,
    /// Events that did.
    plain_confirmed: BTreeSet<EventId>,
    /// What went out last of each record, whichever engine sent it.
    landed: BTreeMap<Of, Version>,
    life: Life,
    /// Whether the engine was ever lost or begun anew, so that counts need not add up.
    pub disturbed: bool,
    /// Whether the engine set a delivery aside.
    pub set_aside: bool,
    /// Copies of events in deliveries that were acknowledged.
    pub acknowledged: u64,
    pub acknowledged_ids: BTreeSet<EventId>,
}

/// What is known of one life of the engine.
#[derive(Default)]
struct Life {
    versions: BTreeMap<Of, (Version, EventId)>,
    /// The newest state that went out, by HubSpot's clock.
    content: BTreeMap<Of, Millis>,
    erased: BTreeSet<Of>,
    messages: BTreeMap<EventId, EventId>,
    /// When each event came first, by its place among all.
    arrived: BTreeMap<EventId, usize>,
    plain_published: BTreeSet<EventId>,
    /// The last one of each portal.
    plain_last: BTreeMap<PortalId, usize>,
    plain_erased: BTreeSet<Of>,
    endings: BTreeMap<Ending, u64>,
}

impl Checks {
    /// `plain`: every event is to go out as it is, too.
    pub fn new(plain: bool) -> Self {
        Self {
            plain,
            ..Self::default()
        }
    }

    /// The engine is told of events.
    pub fn arrived(&mut self, events: &[Event]) {
        for event in events {
            let place = self.life.arrived.len();
            let known_as = event.known_as().into_owned();
            self.life.arrived.entry(known_as).or_insert(place);
        }
    }

    /// The engine says to publish an event as it is: once, in the order they came, and not after its record's erasure.
    pub fn plain_published(&mut self, event: &Event) -> Result<(), String> {
        let subject = event.subject();
        let of = (
            event.portal_id.clone(),
            (subject.object_type_id, subject.object_id),
        );
        let is_first = self
            .life
            .plain_published
            .insert(event.known_as().into_owned());
        if !self.plain || !is_first || self.acknowledged_ids.contains(&*event.known_as()) {
            return Err(format!("plain event {} went out twice", event.id));
        }
        if event.kind() == "privacy_deleted" {
            self.life.plain_erased.insert(of);
        } else if self.life.plain_erased.contains(&of) {
            return Err(format!(
                "plain event {} goes out after its record's privacy deletion",
                event.id
            ));
        }
        let place = self.life.arrived[&*event.known_as()];
        let last = self.life.plain_last.insert(event.portal_id.clone(), place);
        if !self.disturbed && last.is_some_and(|last| last > place) {
            return Err(format!("plain event {} goes out too late", event.id));
        }
        Ok(())
    }

    /// The engine is told that a plain event is confirmed.
    pub fn plain_confirmed(&mut self, event: &Event) {
        self.plain_confirmed.insert(event.known_as().into_owned());
    }

    pub fn accept(&mut self, event: &Event) {
        self.accepted
            .entry(event.known_as().into_owned())
            .or_insert_with(|| event.clone());
    }

    /// The engine is another one, which knows nothing.
    pub fn new_life(&mut self) {
        self.life = Life::default();
        self.disturbed = true;
    }

    pub fn ended(&mut self, ending: Ending) {
        *self.life.endings.entry(ending).or_default() += 1;
    }

    /// The engine says to publish a message.
    pub fn published(&mut self, message: &EnrichedEvent) -> Result<(), String> {
        let of = of(message);
        let data = &message.data;
        let is_erasure = data
            .tombstone
            .as_ref()
            .is_some_and(|t| t.reason == TombstoneReason::PrivacyDeleted);
        let mut events = data.events.iter();
        if events.any(|event| event.only() != data.events[0].only()) {
            return Err(format!("{} is for some and for others", message.subject));
        }
        let has_values = data.record.is_some()
            || data
                .events
                .iter()
                .any(|event| event.kind() == "property_changed");
        if has_values && (is_erasure || self.life.erased.contains(&of)) {
            return Err(format!(
                "{} goes out with values after its privacy deletion",
                message.subject
            ));
        }
        if is_erasure {
            self.life.erased.insert(of);
        }
        if data.events.is_empty() || data.events.len() > EnrichedEvent::EVENTS_MAX {
            return Err(format!(
                "{} lists {} events",
                message.subject,
                data.events.len()
            ));
        }
        Ok(())
    }

    /// The destination refused a message: what comes later is newer than that all the same.
    pub fn refused(&mut self, message: &EnrichedEvent) {
        let version = message.data.version.clone();
        self.landed.insert(of(message), version);
    }

    /// A message is at the destination.
    pub fn landed(&mut self, message: &EnrichedEvent, hubspot: &HubSpot) -> Result<(), String> {
        let of = of(message);
        let data = &message.data;
        let known_as = data.events.iter().map(|event| event.known_as());
        self.out.extend(known_as.map(Cow::into_owned));
        let last = self.life.versions.get(&of).cloned();
        if last.as_ref() == Some(&(data.version.clone(), message.id.clone())) {
            return Ok(());
        }
        let last = last.map(|(version, _)| version);
        let last = last.into_iter().chain(self.settled.get(&of).cloned()).max();
        if last.as_ref().is_some_and(|last| data.version <= *last) {
            return Err(format!(
                "{}: version {} after {last:?}",
                message.subject, data.version
            ));
        }
        check_version(message, self.landed.get(&of))?;
        self.landed.insert(of.clone(), data.version.clone());
        self.life
            .versions
            .insert(of.clone(), (data.version.clone(), message.id.clone()));
        for event in data.events.iter().filter(|event| event.kind() != "merged") {
            if !self.accepted.contains_key(&*event.known_as()) {
                return Err(format!("event {} was never sent", event.id));
            }
            let before = self
                .life
                .messages
                .insert(event.known_as().into_owned(), message.id.clone());
            if before.is_some() || self.acknowledged_ids.contains(&*event.known_as()) {
                return Err(format!(
                    "{}: event {} went out twice",
                    message.subject, event.id
                ));
            }
        }
        let portal = hubspot
            .portals
            .get(&of.0)
            .ok_or("a message of an unknown portal")?;
        check_content(message, &of.1, portal)?;
        self.check_not_backwards(message, of)
    }

    /// No state goes out after a newer one, unless it says that it is stale.
    fn check_not_backwards(&mut self, message: &EnrichedEvent, of: Of) -> Result<(), String> {
        let data = &message.data;
        let state = match (&data.record, &data.tombstone) {
            (Some(record), _) => record.updated_at,
            (None, Some(_)) => data.events.iter().map(|event| event.occurred_at).max(),
            (None, None) => None,
        };
        let Some(state) = state else { return Ok(()) };
        // A deletion that is told again is true still, whatever was deleted since.
        let is_replay = data.events.iter().all(|event| event.replay.is_some());
        if is_replay && data.tombstone.is_some() {
            return Ok(());
        }
        let newest = self.life.content.entry(of).or_insert(state);
        if state < *newest && data.enrichment.status != EnrichmentStatus::Stale {
            return Err(format!(
                "{}: the state of {state} goes out after that of {newest}",
                message.subject
            ));
        }
        *newest = state.max(*newest);
        Ok(())
    }

    /// The engine is told that a message is confirmed.
    pub fn confirmed(&mut self, message: &EnrichedEvent) {
        let (_, key) = of(message);
        for event in &message.data.events {
            let known_as = event.known_as().into_owned();
            let versions = self.confirmed.entry(known_as).or_default();
            versions.insert(key.clone(), message.data.version.clone());
        }
    }

    /// The engine is told that a dead letter is confirmed.
    pub fn buried(&mut self, letter: &DeadLetter) {
        let copy = letter.enriched_event.iter();
        let events = copy.flat_map(|message| &message.data.events);
        let events = events.chain(&letter.events);
        let ids: Vec<_> = events.map(|event| event.known_as().into_owned()).collect();
        if letter.reason == DeadLetterReason::KilledWorker {
            self.dead_whole.extend(ids.iter().cloned());
        }
        self.dead.extend(ids);
    }

    /// A delivery is acknowledged: its events must have ended.
    pub fn acknowledged(&mut self, events: &[Event], hubspot: &HubSpot) -> Result<(), String> {
        for event in events {
            if !self.has_ended(event, hubspot) {
                return Err(format!(
                    "acknowledged before its end: {} of {:?}",
                    event.id,
                    event.subject()
                ));
            }
            self.acknowledged += 1;
            self.acknowledged_ids.insert(event.known_as().into_owned());
            let confirmed = self.confirmed.get(&*event.known_as());
            for (key, version) in confirmed.into_iter().flatten() {
                let of = (event.portal_id.clone(), key.clone());
                let newest = self.settled.entry(of).or_insert_with(|| version.clone());
                *newest = version.clone().max(newest.clone());
            }
        }
        Ok(())
    }

    fn has_ended(&self, event: &Event, hubspot: &HubSpot) -> bool {
        let known_as = event.known_as();
        let parts = self.confirmed.get(&*known_as).map_or(0, BTreeMap::len);
        let is_out = parts >= parts_of(event) || self.dead.contains(&*known_as);
        let goes_plain = self.plain && event.only().is_none();
        let is_out_plain = !goes_plain
            || self.plain_confirmed.contains(&*known_as)
            || self.dead_whole.contains(&*known_as);
        (is_out && is_out_plain)
            || hubspot
                .portals
                .get(&event.portal_id)
                .is_some_and(|portal| is_erased(portal, event))
    }

    /// Nothing is under way any more: no dead letter holds an event of an erased record, its deletion excepted.
    pub fn nothing_erased_is_dead(
        &self,
        letters: &[DeadLetter],
        hubspot: &HubSpot,
    ) -> Result<(), String> {
        let events = letters.iter().flat_map(|letter| &letter.events);
        for event in events.filter(|event| event.kind() != "privacy_deleted") {
            let portal = hubspot.portals.get(&event.portal_id);
            if portal.is_some_and(|portal| is_erased(portal, event)) {
                return Err(format!(
                    "a dead letter holds {} of {:?}, which is erased",
                    event.kind(),
                    event.subject()
                ));
            }
        }
        let messages = letters.iter().filter_map(|one| one.enriched_event.as_ref());
        for message in messages.filter(|message| message.data.record.is_some()) {
            let portal = hubspot.portals.get(&message.data.portal_id);
            let mut events = message.data.events.iter();
            if portal.is_some_and(|portal| events.any(|event| is_erased(portal, event))) {
                return Err(format!(
                    "a dead letter holds {}, which is erased",
                    message.subject
                ));
            }
        }
        Ok(())
    }

    /// Nothing is under way any more: every event has ended, and the counts add up.
    pub fn finish(&self, hubspot: &HubSpot) -> Result<(), String> {
        if let Some(lost) = self
            .accepted
            .values()
            .find(|event| !self.has_ended(event, hubspot))
        {
            return Err(format!("lost: {} of {:?}", lost.id, lost.subject()));
        }
        let count = |ending| self.life.endings.get(&ending).copied().unwrap_or(0);
        let duplicates = count(Ending::Duplicate);
        let once: u64 = self.life.endings.values().sum::<u64>() - duplicates;
        let ids = self.acknowledged_ids.len() as u64;
        // A delivery that was set aside half done comes again with what had ended.
        let again = (once + duplicates).saturating_sub(self.acknowledged);
        if !self.disturbed
            && (once != ids
                || once + duplicates < self.acknowledged
                || (again > 0 && !self.set_aside))
        {
            return Err(format!(
                "{once} endings and {duplicates} duplicates for {ids} events in {} copies",
                self.acknowledged
            ));
        }
        Ok(())
    }
}

fn of(message: &EnrichedEvent) -> Of {
    let data = &message.data;
    (
        data.portal_id.clone(),
        (data.object_type_id.clone(), data.object_id.clone()),
    )
}

/// In how many messages an event goes out: a merge is told to every id.
fn parts_of(event: &Event) -> usize {
    match &event.body {
        EventBody::Object(ObjectEvent {
            change: ObjectChange::Merged {
                merged_object_ids, ..
            },
            ..
        }) => merged_object_ids.len() + 1,
        _ => 1,
    }
}

/// Whether the event's record, or one that it was merged into, was deleted for privacy.
pub fn is_erased(portal: &Portal, event: &Event) -> bool {
    let subject = event.subject();
    let mut key = (subject.object_type_id, subject.object_id);
    loop {
        if portal.erased.contains(&key) {
            return true;
        }
        match portal.merged.get(&key) {
            Some(survivor) => key.1 = survivor.clone(),
            None => return false,
        }
    }
}

/// A version is made of HubSpot's clock: of the state, the newest event and the read; later only where what
/// went out before demands it.
fn check_version(message: &EnrichedEvent, last: Option<&Version>) -> Result<(), String> {
    let data = &message.data;
    let events = data.events.iter().map(|event| event.occurred_at);
    let updated_at = data.record.as_ref().and_then(|record| record.updated_at);
    let state = events.chain(updated_at).max().unwrap_or_default();
    let natural = if data.tombstone.is_some() {
        Version::of_tombstone(state)
    } else {
        Version::of_read(state, data.enrichment.fetched_at.unwrap_or_default())
    };
    if data.version != natural && last.is_none_or(|last| *last < natural) {
        return Err(format!(
            "{}: version {} instead of {natural}",
            message.subject, data.version
        ));
    }
    Ok(())
}

/// What a message says of its record was true, and contains its changes unless it says that it is stale.
fn check_content(message: &EnrichedEvent, key: &Key, portal: &Portal) -> Result<(), String> {
    let data = &message.data;
    let status = data.enrichment.status;
    if status == EnrichmentStatus::Missing {
        let read_at = data.enrichment.fetched_at.unwrap_or_default().as_i64();
        let from = Millis::new(read_at - SURELY_THERE.as_millis() as i64).unwrap_or_default();
        if portal.was_there_since(&portal.survivor(key), from) {
            return Err(format!(
                "{} is said to be missing, but it is there",
                message.subject
            ));
        }
    }
    let Some(record) = &data.record else {
        return Ok(());
    };
    let text = |name: &str| match record.properties.get(name) {
        Some(PropertyValue::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    if !portal.ever_held(key, record.updated_at, text("email")) {
        return Err(format!("{} never was as it is said to be", message.subject));
    }
    for event in &data.events {
        let EventBody::Object(ObjectEvent {
            change:
                ObjectChange::PropertyChanged {
                    property_name,
                    property_value,
                    ..
                },
            ..
        }) = &event.body
        else {
            continue;
        };
        let newer_event = data
            .events
            .iter()
            .any(|other| other.occurred_at >= event.occurred_at && other.id != event.id);
        let is_older = record.updated_at.is_some_and(|at| at < event.occurred_at);
        if is_older
            && !newer_event
            && status != EnrichmentStatus::Stale
            && text(property_name) != property_value.as_deref()
        {
            return Err(format!(
                "{} lacks its change of {property_name}, and does not say so",
                message.subject
            ));
        }
    }
    Ok(())
}
