//! The engine against a model of HubSpot, in simulated time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use crate::config::EnrichConfig;
use crate::event::*;
use crate::hubspot::call::*;

use super::budget::Share;
use super::*;

#[path = "../../tests/it/helpers/contract.rs"]
mod contract;
mod demand;
mod economy;
mod erasure;
mod facts;
mod idle;
mod isolation;
mod ledger;
mod merges;
mod replay;
mod shortage;
mod suspects;
mod types;

/// As many deliveries are unsettled at once, of each queue.
const WINDOW: usize = 200;
/// The first message of each world, and one of so many, is held against its schema.
const MESSAGES_PER_SCHEMA_CHECK: usize = 50;
const PORTAL: &str = "8241";
const START_MS: i64 = 1_763_892_000_000;

fn at(ms: i64) -> Millis {
    Millis::new(START_MS + ms).unwrap()
}

/// What HubSpot holds and how it behaves.
struct Model {
    held: types::Held,
    records: BTreeMap<String, RecordRead>,
    merged: BTreeMap<String, String>,
    associated: BTreeMap<String, Vec<String>>,
    owners: BTreeMap<String, bool>,
    /// Where the listed owners have their mail.
    owners_domain: &'static str,
    /// Beside the three that every test knows.
    definitions: Vec<PropertyDefinition>,
    /// A level whose definitions may not be read.
    forbidden_level: Option<Sensitivity>,
    pipelines: Vec<PipelineDefinition>,
    labels: Vec<AssociationLabel>,
    latency: Duration,
    /// Portals beside [`PORTAL`] whose token is good, and how long HubSpot takes to answer them.
    neighbours: BTreeMap<String, Duration>,
    /// Portals that get nothing but this.
    broken: BTreeMap<String, CallError>,
    /// Answers given instead of the true one, first come first served, to calls of an endpoint.
    faults: VecDeque<(&'static str, CallError)>,
    refuses: BTreeSet<String>,
    /// Larger batches are refused.
    batch_max: usize,
    /// Records whose associations are refused.
    refuses_edges: BTreeSet<String>,
    max: u32,
    arrivals: BTreeMap<PortalId, VecDeque<Millis>>,
    over_limit: usize,
}

/// The engine with everything around it simulated.
struct World {
    engine: Engine,
    model: Model,
    now: Millis,
    answers: Vec<(Millis, CallId, Answered)>,
    calls: Vec<(Millis, Call)>,
    messages: Vec<EnrichedEvent>,
    /// Plain events.
    plain: Vec<Event>,
    /// When the first message of a record went out.
    published_at: BTreeMap<String, Millis>,
    letters: Vec<DeadLetter>,
    /// How many dead letters there were when the search was asked for, and for which record.
    searches: Vec<(usize, Erasure)>,
    notes: Vec<Note>,
    acked: Vec<u64>,
    /// Deliveries by number, as the bus holds them.
    intake: VecDeque<(u64, Vec<Event>)>,
    backlog: VecDeque<(u64, Vec<Event>)>,
    /// By the tag that the engine knows them by.
    unsettled: BTreeMap<u64, (Source, u64, Vec<Event>)>,
    last_tag: u64,
    set_aside: usize,
    endings: BTreeMap<&'static str, usize>,
    /// Messages that wait for a confirm, while `confirm` is false.
    unconfirmed: Vec<(PublishId, Published)>,
    confirm: bool,
    token_changed: bool,
    refreshes: usize,
    deliveries: u64,
}

/// The first two destinations list all of `events`.
fn everybody_has(events: &[Event]) -> Published {
    let copy = |destination| Copied {
        destination,
        listed: events
            .iter()
            .map(|event| event.known_as().into_owned())
            .collect(),
        is_dead: false,
    };
    Published::Copies(vec![copy(0), copy(1)])
}

impl World {
    fn new() -> Self {
        Self::with_config(&[(
            "contact",
            EnrichConfig {
                properties: Some(vec!["*".into()]),
                associations: Some(vec!["company".into()]),
                ..EnrichConfig::default()
            },
        )])
    }

    fn with_config(config: &[(&str, EnrichConfig)]) -> Self {
        let config = config
            .iter()
            .map(|(name, config)| ((*name).to_owned(), config.clone()))
            .collect();
        Self {
            engine: Engine::new(Plans::new(&config), 7),
            model: Model {
                held: types::Held::default(),
                records: BTreeMap::new(),
                merged: BTreeMap::new(),
                associated: BTreeMap::new(),
                owners: BTreeMap::new(),
                owners_domain: "example.com",
                definitions: Vec::new(),
                forbidden_level: None,
                pipelines: Vec::new(),
                labels: Vec::new(),
                latency: Duration::from_millis(50),
                neighbours: BTreeMap::new(),
                broken: BTreeMap::new(),
                faults: VecDeque::new(),
                refuses: BTreeSet::new(),
                batch_max: usize::MAX,
                refuses_edges: BTreeSet::new(),
                max: 190,
                arrivals: BTreeMap::new(),
                over_limit: 0,
            },
            now: at(0),
            answers: Vec::new(),
            calls: Vec::new(),
            messages: Vec::new(),
            plain: Vec::new(),
            published_at: BTreeMap::new(),
            letters: Vec::new(),
            searches: Vec::new(),
            notes: Vec::new(),
            acked: Vec::new(),
            intake: VecDeque::new(),
            backlog: VecDeque::new(),
            unsettled: BTreeMap::new(),
            last_tag: 0,
            set_aside: 0,
            endings: BTreeMap::new(),
            unconfirmed: Vec::new(),
            confirm: true,
            token_changed: false,
            refreshes: 0,
            deliveries: 0,
        }
    }

    fn record(&mut self, id: &str, updated_ms: i64, properties: &[(&str, &str)]) {
        let properties = properties
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        self.model.records.insert(
            id.to_owned(),
            RecordRead {
                id: id.into(),
                properties,
                history: BTreeMap::new(),
                created_at: Some(at(0)),
                updated_at: Some(at(updated_ms)),
                archived: false,
            },
        );
    }

    /// Takes in a note of an engine that was there before.
    fn recall(&mut self, note: Note) {
        let engine = note.engine + 1_000;
        self.engine.restore(Note { engine, ..note });
    }

    fn deliver(&mut self, events: Vec<Event>) -> u64 {
        self.deliveries += 1;
        self.intake.push_back((self.deliveries, events));
        let delivery = self.deliveries;
        self.tell_all(VecDeque::new());
        delivery
    }

    fn tell(&mut self, input: Input) {
        if matches!(input, Input::Lost) {
            // What was unsettled comes again: the tests deliver it.
            self.unsettled.clear();
            self.intake.clear();
            self.backlog.clear();
        }
        self.tell_all(VecDeque::from([input]));
    }

    fn tell_all(&mut self, mut inputs: VecDeque<Input>) {
        while let Some(input) = inputs.pop_front().or_else(|| self.next_batch()) {
            for output in self.engine.handle(self.now, input) {
                inputs.extend(self.carry_out(output));
            }
        }
    }

    /// What the bus delivers next: at most [`WINDOW`] of each queue are unsettled.
    fn next_batch(&mut self) -> Option<Input> {
        for from in [Source::Intake, Source::Backlog] {
            let queue = match from {
                Source::Intake => &mut self.intake,
                Source::Backlog => &mut self.backlog,
            };
            let unsettled = self.unsettled.values().filter(|taken| taken.0 == from);
            if unsettled.count() < WINDOW
                && let Some((delivery, events)) = queue.pop_front()
            {
                self.last_tag += 1;
                let tag = self.last_tag;
                self.unsettled.insert(tag, (from, delivery, events.clone()));
                return Some(Input::Batch {
                    delivery: DeliveryId(tag),
                    events,
                    from,
                });
            }
        }
        None
    }

    fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Call {
                call_id,
                portal_id,
                call,
            } => {
                let answered = self.model.answer(&portal_id, &call, self.now);
                let due = self.now.after(self.model.latency_of(&portal_id));
                self.answers.push((due, call_id, answered));
                self.calls.push((self.now, call));
                None
            }
            Output::RefreshToken(portal_id) => {
                self.refreshes += 1;
                Some(Input::TokenRefreshed {
                    portal_id,
                    changed: self.token_changed,
                })
            }
            Output::Publish { publish, event } => {
                if self
                    .messages
                    .len()
                    .is_multiple_of(MESSAGES_PER_SCHEMA_CHECK)
                {
                    contract::assert_enriched_event(&event.encode());
                }
                let id = event.data.object_id.as_str().to_owned();
                self.published_at.entry(id).or_insert(self.now);
                let outcome = everybody_has(&event.data.events);
                self.messages.push(*event);
                self.confirmed(publish, outcome)
            }
            Output::PublishPlain { publish, event } => {
                let outcome = everybody_has(std::slice::from_ref(&event));
                self.plain.push(*event);
                self.confirmed(publish, outcome)
            }
            Output::Bury { publish, letter } => {
                contract::assert_dead_letter(&letter.encode());
                self.letters.push(*letter);
                self.confirmed(publish, Published::Buried)
            }
            Output::Search { publish, erasure } => {
                self.searches.push((self.letters.len(), erasure));
                self.confirmed(publish, Published::Searched)
            }
            Output::Note { id, note } => {
                self.notes.push(note);
                Some(Input::Noted(id))
            }
            Output::Ack(tag) => {
                let (_, delivery, _) = self.unsettled.remove(&tag.0).expect("it is settled once");
                self.acked.push(delivery);
                None
            }
            Output::SetAside(tag) => {
                let (_, delivery, events) =
                    self.unsettled.remove(&tag.0).expect("it is settled once");
                self.backlog.push_back((delivery, events));
                self.set_aside += 1;
                None
            }
            Output::Ended(ending) => {
                *self.endings.entry(ending.as_str()).or_default() += 1;
                None
            }
        }
    }

    fn confirmed(&mut self, publish: PublishId, outcome: Published) -> Option<Input> {
        if self.confirm {
            return Some(Input::Published { publish, outcome });
        }
        self.unconfirmed.push((publish, outcome));
        None
    }

    fn confirm_all(&mut self) {
        self.confirm = true;
        for (publish, outcome) in std::mem::take(&mut self.unconfirmed) {
            self.tell(Input::Published { publish, outcome });
        }
    }

    /// Lets time pass until `duration` from now, or until nothing more can happen.
    fn run_for(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        for _ in 0..1_000_000 {
            let answer = self.answers.iter().map(|(at, ..)| *at).min();
            let wake = self.engine.next_wake(self.now);
            let Some(next) = answer
                .into_iter()
                .chain(wake)
                .min()
                .filter(|next| *next <= end)
            else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            match self.answers.iter().position(|(at, ..)| *at <= self.now) {
                Some(due) => {
                    let (_, call, answered) = self.answers.remove(due);
                    self.tell(Input::Answered { call, answered });
                }
                None => self.tell(Input::Tick),
            }
        }
        panic!("the engine spins");
    }

    fn settle(&mut self) {
        self.run_for(Duration::from_secs(60));
    }

    fn calls_to(&self, endpoint: &str) -> usize {
        self.calls
            .iter()
            .filter(|(_, call)| call.endpoint() == endpoint)
            .count()
    }

    fn ending(&self, ending: &str) -> usize {
        self.endings.get(ending).copied().unwrap_or(0)
    }

    fn only_message(&self) -> &EnrichedEvent {
        assert_eq!(self.messages.len(), 1, "{:#?}", self.messages);
        &self.messages[0]
    }
}

impl Model {
    fn latency_of(&self, portal_id: &PortalId) -> Duration {
        let neighbour = self.neighbours.get(portal_id.as_str());
        neighbour.copied().unwrap_or(self.latency)
    }

    fn answer(&mut self, portal_id: &PortalId, call: &Call, now: Millis) -> Answered {
        let limits = self.count(portal_id, call, now);
        if let Some(error) = self.broken.get(portal_id.as_str()) {
            let result = Err(error.clone());
            return Answered { result, limits };
        }
        let fault = self
            .faults
            .iter()
            .position(|(endpoint, _)| *endpoint == call.endpoint());
        let result = match fault.and_then(|fault| self.faults.remove(fault)) {
            Some((_, error)) => Err(error),
            None if portal_id.as_str() != PORTAL
                && !self.neighbours.contains_key(portal_id.as_str()) =>
            {
                Err(CallError::Unauthorized)
            }
            None => self.truth(call, now),
        };
        Answered { result, limits }
    }

    fn count(&mut self, portal_id: &PortalId, call: &Call, now: Millis) -> RateLimits {
        if call.limit_class() == LimitClass::Associations {
            return RateLimits {
                max: Some(self.max),
                remaining: Some(self.max),
                ..RateLimits::default()
            };
        }
        let arrivals = self.arrivals.entry(portal_id.clone()).or_default();
        while arrivals
            .front()
            .is_some_and(|first| now.since(*first) >= Duration::from_secs(10))
        {
            arrivals.pop_front();
        }
        arrivals.push_back(now);
        let used = u32::try_from(arrivals.len()).unwrap();
        self.over_limit += usize::from(used > self.max);
        RateLimits {
            max: Some(self.max),
            remaining: Some(self.max.saturating_sub(used)),
            interval: Some(Duration::from_secs(10)),
            ..RateLimits::default()
        }
    }

    fn truth(&self, call: &Call, now: Millis) -> Result<Answer, CallError> {
        let completed_at = now;
        let refused = CallError::Refused {
            status: 400,
            category: None,
        };
        if let Some(answer) = self.held.answer(call, now) {
            return Ok(answer);
        }
        Ok(match call {
            Call::ReadRecords { ids, .. } => {
                assert!(ids.len() <= READ_RECORDS_MAX);
                assert_eq!(
                    ids.iter().collect::<BTreeSet<_>>().len(),
                    ids.len(),
                    "an id twice"
                );
                if ids.len() > self.batch_max
                    || ids.iter().any(|id| self.refuses.contains(id.as_str()))
                {
                    return Err(refused);
                }
                let found = ids
                    .iter()
                    .rev()
                    .filter_map(|id| self.records.get(id.as_str()).cloned());
                Answer::Records {
                    records: found.collect(),
                    completed_at,
                }
            }
            Call::ReadRecord { id, .. } => {
                let id = self
                    .merged
                    .get(id.as_str())
                    .map_or(id.as_str(), String::as_str);
                Answer::Record {
                    record: self.records.get(id).cloned(),
                    completed_at,
                }
            }
            Call::ReadAssociations { inputs, .. } => {
                assert!(inputs.len() <= READ_ASSOCIATIONS_MAX);
                let refuses =
                    |input: &AssociationInput| self.refuses_edges.contains(input.id.as_str());
                if inputs.len() > self.batch_max || inputs.iter().any(refuses) {
                    return Err(refused);
                }
                Answer::Associations(inputs.iter().filter_map(|input| self.page(input)).collect())
            }
            Call::ListOwners { archived, after } => Answer::Owners {
                owners: match (archived, after) {
                    (false, None) => vec![self.listed_owner("1", false)],
                    (false, Some(_)) => vec![self.listed_owner("2", false)],
                    (true, _) => vec![self.listed_owner("3", true)],
                },
                after: (!archived && after.is_none()).then(|| "2".to_owned()),
            },
            Call::ReadOwner { id, archived } => Answer::Owner(
                (self.owners.get(id.as_str()) == Some(archived))
                    .then(|| owner(id.as_str(), *archived)),
            ),
            Call::ListProperties { sensitivity, .. } => {
                if self.forbidden_level == Some(*sensitivity) {
                    return Err(CallError::Forbidden {
                        missing_scopes: vec![sensitivity.as_str().to_owned()],
                    });
                }
                let always = [
                    definition("email", "string", None),
                    definition("hubspot_owner_id", "enumeration", Some("OWNER")),
                    definition("second_owner", "enumeration", Some("OWNER")),
                ];
                let all = always.iter().chain(&self.definitions);
                let of_level = all.filter(|one| one.sensitivity == *sensitivity);
                Answer::Properties(of_level.cloned().collect())
            }
            Call::ListPipelines { .. } => Answer::Pipelines(self.pipelines.clone()),
            Call::ListAssociationLabels { .. } => Answer::AssociationLabels(self.labels.clone()),
            other => panic!("nothing is held for {other:?}"),
        })
    }

    fn listed_owner(&self, id: &str, archived: bool) -> Owner {
        Owner {
            email: Some(format!("{id}@{}", self.owners_domain)),
            ..owner(id, archived)
        }
    }

    /// Two associations a page.
    fn page(&self, input: &AssociationInput) -> Option<AssociationPage> {
        let all = self.associated.get(input.id.as_str())?;
        let from: usize = input
            .after
            .as_deref()
            .map_or(0, |after| after.parse().unwrap());
        let to = all[from..]
            .iter()
            .take(2)
            .map(|id| (id.as_str().into(), Vec::new()))
            .collect();
        Some(AssociationPage {
            from: input.id.clone(),
            to,
            after: (all.len() > from + 2).then(|| (from + 2).to_string()),
        })
    }
}

fn owner(id: &str, archived: bool) -> Owner {
    Owner {
        id: id.into(),
        email: Some(format!("{id}@example.com")),
        name: None,
        user_id: None,
        r#type: Some("PERSON".into()),
        archived,
        teams: Vec::new(),
    }
}

fn definition(name: &str, value_type: &str, references: Option<&str>) -> PropertyDefinition {
    PropertyDefinition {
        name: name.to_owned(),
        value_type: value_type.to_owned(),
        field_type: "text".to_owned(),
        referenced_object_type: references.map(str::to_owned),
        hubspot_defined: true,
        ..PropertyDefinition::default()
    }
}

fn event(portal: &str, id: &str, occurred_ms: i64, change: ObjectChange) -> Event {
    let mut hasher = IdentityHasher::new("test");
    hasher.field(&format!("{portal}/{id}/{occurred_ms}/{change:?}"));
    Event {
        id: hasher.finish(),
        portal_id: portal.into(),
        app_id: None,
        subscription_id: None,
        subscription_type: "object.test".into(),
        hubspot_event_id: None,
        occurred_at: at(occurred_ms),
        received_at: at(occurred_ms),
        attempt_number: 0,
        change_source: None,
        source_id: None,
        value: None,
        replay: None,
        body: EventBody::Object(ObjectEvent {
            object_type_id: ObjectTypeId::from_name("contact"),
            object_id: id.into(),
            change,
        }),
    }
}

fn changed(id: &str, occurred_ms: i64, value: &str) -> Event {
    event(
        PORTAL,
        id,
        occurred_ms,
        ObjectChange::PropertyChanged {
            property_name: "email".into(),
            property_value: Some(value.to_owned()),
            is_sensitive: false,
        },
    )
}

pub(super) fn imported(id: &str, occurred_ms: i64) -> Event {
    Event {
        change_source: Some("IMPORT".to_owned()),
        ..event(PORTAL, id, occurred_ms, ObjectChange::Created)
    }
}

pub(crate) fn created(id: &str, occurred_ms: i64) -> Event {
    event(PORTAL, id, occurred_ms, ObjectChange::Created)
}

/// An event as another portal's.
pub(super) fn event_of(portal: &str, event: Event) -> Event {
    let mut hasher = IdentityHasher::new("test");
    hasher.field(&format!("{portal}/{}", event.id));
    Event {
        id: hasher.finish(),
        portal_id: portal.into(),
        ..event
    }
}

/// Changes one contact each `every`, for `count` times, and returns how long each took to go out, sorted.
fn live_latencies(world: &mut World, count: usize, every: Duration) -> Vec<Duration> {
    let mut changed_at = BTreeMap::new();
    for n in 0..count {
        let id = format!("live{n}");
        let ms = i64::try_from(world.now.since(at(0)).as_millis()).unwrap();
        world.record(&id, ms, &[("email", "x")]);
        changed_at.insert(id.clone(), world.now);
        world.deliver(vec![changed(&id, ms, "x")]);
        world.run_for(every);
    }
    world.settle();
    let mut latencies: Vec<_> = changed_at
        .iter()
        .map(|(id, at)| world.published_at[id].since(*at))
        .collect();
    latencies.sort();
    latencies
}

/// A world whose contacts are read without associations, so that a batch costs one call.
fn lean_world(max: u32) -> World {
    let mut world = World::with_config(&[(
        "contact",
        EnrichConfig {
            properties: Some(vec!["*".into()]),
            ..EnrichConfig::default()
        },
    )]);
    world.model.max = max;
    world
}

/// Delivers the creation of `count` contacts in batches of 100, as an import or one by one.
fn deliver_many(world: &mut World, prefix: &str, count: usize, make: fn(&str, i64) -> Event) {
    let ids: Vec<_> = (0..count).map(|n| format!("{prefix}{n}")).collect();
    for id in &ids {
        world.record(id, 0, &[("email", "a@example.com")]);
    }
    for chunk in ids.chunks(100) {
        world.deliver(chunk.iter().map(|id| make(id, 0)).collect());
    }
}

fn merged(survivor: &str, old: &[&str], occurred_ms: i64) -> Event {
    event(
        PORTAL,
        survivor,
        occurred_ms,
        ObjectChange::Merged {
            merged_object_ids: old.iter().map(|id| (*id).into()).collect(),
            primary_object_id: None,
            new_object_id: None,
            number_of_properties_moved: None,
        },
    )
}

#[test]
fn a_change_becomes_an_enriched_event_and_is_acknowledged_once_that_is_confirmed() {
    let mut world = World::new();
    world.record("1", 5, &[("email", "a@b.c")]);
    world
        .model
        .associated
        .insert("1".into(), vec!["9".into(), "8".into(), "7".into()]);
    world.confirm = false;
    let delivery = world.deliver(vec![changed("1", 5, "a@b.c")]);
    world.settle();
    let data = &world.only_message().data;
    assert_eq!(data.enrichment.status, EnrichmentStatus::Complete);
    assert_eq!(
        data.record.as_ref().unwrap().properties["email"],
        PropertyValue::Text("a@b.c".into())
    );
    assert_eq!(data.associations["company"].len(), 3, "both pages");
    assert!(world.acked.is_empty(), "not before the confirm");
    world.confirm_all();
    assert!(world.acked.is_empty(), "not before it is noted");
    world.settle();
    assert_eq!(world.acked, [delivery]);
    assert!(world.engine.is_idle());
    assert_eq!(world.ending("delivered"), 1);
}

#[test]
fn idle_latency_is_one_round_trip_once_definitions_are_known() {
    let mut world = World::new();
    world.record("1", 5, &[]);
    world.record("2", 5, &[]);
    world.deliver(vec![changed("1", 1, "")]);
    world.settle();
    world.deliver(vec![changed("2", 2, "")]);
    world.run_for(world.model.latency);
    assert_eq!(world.messages.len(), 2);
}

#[test]
fn events_of_one_record_that_wait_together_are_listed_in_one_message_of_at_most_100() {
    let mut world = World::new();
    world.record("1", 1_000, &[]);
    world.deliver((0..230).map(|n| changed("1", n, "x")).collect());
    world.settle();
    let listed: Vec<usize> = world
        .messages
        .iter()
        .map(|message| message.data.events.len())
        .collect();
    assert_eq!(listed, [100, 100, 30]);
    assert!(
        world
            .messages
            .is_sorted_by(|a, b| a.data.version < b.data.version)
    );
}

#[test]
fn a_repeat_ends_with_the_first_copy_or_at_once_after_it() {
    let mut world = World::new();
    world.record("1", 5, &[]);
    world.confirm = false;
    world.deliver(vec![changed("1", 1, "")]);
    world.deliver(vec![changed("1", 1, "")]);
    world.settle();
    assert!(world.acked.is_empty());
    world.confirm_all();
    world.deliver(vec![changed("1", 1, "")]);
    world.settle();
    assert_eq!(world.acked, [1, 2, 3]);
    assert_eq!((world.messages.len(), world.ending("duplicate")), (1, 2));
}

#[test]
fn versions_rise_even_when_hubspots_times_do_not() {
    let mut world = World::new();
    world.record("1", 10, &[]);
    for occurred_ms in [500, 20, 400, 500] {
        world.deliver(vec![changed("1", occurred_ms, &format!("{occurred_ms}"))]);
        world.settle();
    }
    assert_eq!(world.messages.len(), 3, "one is a repeat");
    assert!(
        world
            .messages
            .is_sorted_by(|a, b| a.data.version < b.data.version)
    );
}

#[test]
fn a_deletion_reads_nothing_and_takes_in_what_waited() {
    let mut world = World::new();
    world.model.latency = Duration::from_secs(1);
    let events = vec![
        changed("1", 1, "x"),
        event(PORTAL, "1", 2, ObjectChange::Deleted),
    ];
    world.deliver(events);
    world.settle();
    let message = world.only_message();
    assert_eq!(message.r#type, "crm.contact.deleted.v1");
    assert_eq!(message.data.events.len(), 2);
    assert_eq!(world.calls_to("objects_batch_read"), 0);
    assert_eq!(world.acked, [1]);
}

#[test]
fn a_late_deletion_of_a_record_that_is_back_does_not_bury_it() {
    let mut world = World::new();
    world.record("1", 100, &[]);
    world.deliver(vec![event(PORTAL, "1", 90, ObjectChange::Restored)]);
    world.settle();
    world.deliver(vec![event(PORTAL, "1", 80, ObjectChange::Deleted)]);
    world.settle();
    assert!(
        world
            .messages
            .iter()
            .all(|message| message.data.tombstone.is_none())
    );
    assert_eq!(world.messages.len(), 2);
}

#[test]
fn a_merge_sends_the_survivor_and_a_tombstone_for_every_old_id() {
    let mut world = World::new();
    world.record("3", 100, &[]);
    world.deliver(vec![
        changed("1", 1, "x"),
        merged("3", &["1", "2"], 2),
        changed("2", 3, "y"),
    ]);
    world.settle();
    let tombstones: BTreeSet<_> = world
        .messages
        .iter()
        .filter(|message| message.data.tombstone.is_some())
        .map(|message| message.subject.as_str())
        .collect();
    assert_eq!(tombstones, ["contact/1", "contact/2"].into());
    let survivor: Vec<_> = world
        .messages
        .iter()
        .filter(|m| m.data.record.is_some())
        .collect();
    assert_eq!(survivor.len(), 1);
    assert_eq!(survivor[0].subject, "contact/3");
    assert_eq!(
        survivor[0].data.events.len(),
        3,
        "what waited for the old ids, and the merge"
    );
    assert_eq!((world.acked.len(), world.ending("delivered")), (1, 3));
}

#[test]
fn an_id_that_was_merged_away_unseen_leads_to_the_survivor() {
    let mut world = World::new();
    world.record("3", 100, &[]);
    world.model.merged.insert("1".into(), "3".into());
    world.deliver(vec![changed("1", 1, "x")]);
    world.settle();
    assert_eq!(world.only_message().subject, "contact/3");
    assert_eq!(world.acked, [1]);
}

#[test]
fn a_privacy_deletion_purges_what_waits_and_what_comes_late() {
    let mut world = World::new();
    world.record("1", 100, &[("email", "a@b.c")]);
    world.deliver(vec![changed("1", 1, "a@b.c")]);
    world.deliver(vec![event(PORTAL, "1", 2, ObjectChange::PrivacyDeleted)]);
    world.settle();
    world.deliver(vec![
        changed("1", 1, "late@b.c"),
        event(PORTAL, "1", 2, ObjectChange::Deleted),
    ]);
    world.settle();
    assert_eq!(
        world.only_message().r#type,
        "crm.contact.privacy_deleted.v1"
    );
    assert_eq!(world.ending("purged"), 3);
    assert_eq!(world.acked.len(), 3);
}

#[test]
fn a_missing_record_is_said_to_be_missing_and_a_new_one_is_waited_for() {
    let mut world = World::new();
    world.deliver(vec![changed("1", 1, "x")]);
    world.settle();
    assert_eq!(
        world.only_message().data.enrichment.status,
        EnrichmentStatus::Missing
    );
    assert_eq!(world.calls_to("object"), 1, "asked for singly");

    let mut world = World::new();
    world.deliver(vec![event(PORTAL, "2", 0, ObjectChange::Created)]);
    world.run_for(Duration::from_millis(600));
    world.record("2", 0, &[]);
    world.settle();
    assert_eq!(
        world.only_message().data.enrichment.status,
        EnrichmentStatus::Complete
    );
}

#[test]
fn a_stale_read_is_repeated_and_told_when_that_does_not_help() {
    let mut world = World::new();
    world.record("1", 1, &[("email", "old")]);
    world.deliver(vec![changed("1", 5, "new")]);
    world.run_for(Duration::from_millis(300));
    assert!(world.messages.is_empty());
    world.record("1", 5, &[("email", "new")]);
    world.settle();
    assert_eq!(
        world.only_message().data.enrichment.status,
        EnrichmentStatus::Complete
    );

    let mut world = World::new();
    world.record("1", 1, &[("email", "old")]);
    world.deliver(vec![changed("1", 5, "new")]);
    world.settle();
    assert_eq!(
        world.only_message().data.enrichment.status,
        EnrichmentStatus::Stale
    );
    assert_eq!(world.calls_to("objects_batch_read"), 4);
}

#[test]
fn owners_are_listed_once_and_asked_for_singly_beyond_the_list() {
    let mut world = World::new();
    world.model.owners = [("55".to_owned(), true)].into();
    for (id, first, second) in [("1", "1", "2"), ("2", "3", "55"), ("3", "55", "404")] {
        world.record(
            id,
            5,
            &[("hubspot_owner_id", first), ("second_owner", second)],
        );
        world.deliver(vec![changed(id, 5, "")]);
    }
    world.settle();
    assert_eq!(world.messages.len(), 3);
    for message in &world.messages {
        let known = message
            .data
            .owners
            .values()
            .filter(|owner| owner.email.is_some())
            .count();
        assert_eq!(
            known,
            if message.subject == "contact/3" { 1 } else { 2 },
            "{message:#?}"
        );
        assert_eq!(message.data.owners.len(), 2);
    }
    assert_eq!(
        world.calls_to("owners"),
        3,
        "two pages of active owners, one of archived ones"
    );
    assert_eq!(
        world.calls_to("owner"),
        4,
        "two ids, each among the active and the archived"
    );
}

#[test]
fn a_forbidden_read_goes_out_and_names_the_scope() {
    let mut world = World::new();
    let missing_scopes = vec!["crm.objects.contacts.read".to_owned()];
    let forbidden = CallError::Forbidden {
        missing_scopes: missing_scopes.clone(),
    };
    world.model.faults = [("objects_batch_read", forbidden)].into();
    world.deliver(vec![changed("1", 1, "x")]);
    world.settle();
    let enrichment = &world.only_message().data.enrichment;
    assert_eq!(enrichment.status, EnrichmentStatus::Forbidden);
    assert_eq!(enrichment.problems[0].missing_scopes, missing_scopes);
    assert_eq!(world.acked, [1]);
}

#[test]
fn a_part_that_is_refused_leaves_the_rest() {
    for endpoint in ["associations_batch_read", "properties", "owners"] {
        let mut world = World::new();
        world.record("1", 5, &[("hubspot_owner_id", "1")]);
        let refused = CallError::Refused {
            status: 404,
            category: None,
        };
        world.model.faults = [(endpoint, refused)].into();
        world.deliver(vec![changed("1", 5, "")]);
        world.settle();
        let data = &world.only_message().data;
        assert_eq!(
            data.enrichment.status,
            EnrichmentStatus::Partial,
            "{endpoint}"
        );
        assert_eq!(data.enrichment.problems.len(), 1, "{endpoint}");
        assert!(data.record.is_some());
    }
}

#[test]
fn a_refused_batch_is_split_until_the_offender_stands_alone() {
    let mut world = World::new();
    for id in 0..100 {
        world.record(&id.to_string(), 5, &[]);
    }
    world.model.refuses = ["37".to_owned()].into();
    world.deliver((0..100).map(|id| changed(&id.to_string(), 1, "")).collect());
    world.settle();
    assert_eq!(world.messages.len(), 99);
    assert_eq!(world.letters.len(), 1);
    assert_eq!(world.letters[0].reason, DeadLetterReason::RefusedByHubspot);
    assert_eq!(
        world.letters[0].events[0].subject().object_id.as_str(),
        "37"
    );
    assert_eq!(world.acked, [1]);
    assert!(world.calls_to("objects_batch_read") <= 15);
}

#[test]
fn waiting_is_all_that_hubspots_troubles_cost() {
    let retry_after = Some(Duration::from_secs(3));
    for error in [
        CallError::RateLimited {
            policy: RateLimitPolicy::TenSecondly,
            retry_after,
        },
        CallError::RateLimited {
            policy: RateLimitPolicy::Secondly,
            retry_after: None,
        },
        CallError::Locked {
            status: 423,
            retry_after: None,
        },
        CallError::Locked {
            status: 477,
            retry_after,
        },
        CallError::Unavailable { status: 503 },
        CallError::TimedOut,
        CallError::Disconnected,
        CallError::Unreadable {
            reason: "half a body".into(),
        },
    ] {
        let mut world = World::new();
        world.record("1", 5, &[]);
        world.model.faults = [
            ("properties", error.clone()),
            ("objects_batch_read", error.clone()),
        ]
        .into();
        world.deliver(vec![changed("1", 1, "")]);
        world.run_for(Duration::from_millis(200));
        assert!(world.acked.is_empty(), "{error}");
        world.settle();
        assert_eq!(world.acked, [1], "{error}");
        assert_eq!(
            world.only_message().data.enrichment.status,
            EnrichmentStatus::Complete
        );
    }
}

#[test]
fn a_refused_token_pauses_its_portal_alone_and_is_tried_again() {
    let mut world = World::new();
    world.record("1", 5, &[]);
    world.deliver(vec![event("666", "1", 1, ObjectChange::Restored)]);
    world.deliver(vec![changed("1", 1, "")]);
    world.settle();
    assert_eq!(world.acked, [2], "the other portal goes on");
    assert_eq!(world.refreshes, 1);
    assert_eq!(world.engine.stats(world.now).portals_paused, 1);
    world.run_for(Duration::from_secs(600));
    assert!(
        (2..=3).contains(&world.refreshes),
        "probed every five minutes: {}",
        world.refreshes
    );
    assert_eq!(world.acked, [2], "its events are kept");
}

#[test]
fn a_portal_that_is_paused_or_parked_keeps_its_events_and_goes_on_when_it_changed() {
    for error in [
        CallError::Paused,
        CallError::Parked("an uninstall".to_owned()),
    ] {
        let mut world = World::new();
        world.record("1", 5, &[]);
        world.model.broken.insert(PORTAL.to_owned(), error);
        world.deliver(vec![changed("1", 1, "")]);
        world.run_for(Duration::from_secs(30));
        assert_eq!(world.refreshes, 0, "there is no token to be read again");
        assert_eq!(world.engine.stats(world.now).portals_paused, 1);
        let tries = world.calls.len();
        world.run_for(Duration::from_secs(200));
        assert_eq!(world.calls.len(), tries, "it is tried every five minutes");
        assert!(world.acked.is_empty() && world.letters.is_empty());

        world.model.broken.clear();
        world.tell(Input::PortalChanged(PORTAL.into()));
        world.run_for(Duration::from_secs(5));
        assert_eq!(world.acked, [1], "within seconds");
    }
}

#[test]
fn a_portal_without_a_token_is_a_dead_letter() {
    let mut world = World::new();
    for endpoint in [
        "properties",
        "objects_batch_read",
        "associations_batch_read",
    ] {
        world.model.faults.push_back((endpoint, CallError::NoToken));
    }
    world.deliver(vec![changed("1", 1, "")]);
    world.settle();
    assert_eq!(world.letters[0].reason, DeadLetterReason::UnknownPortal);
    assert_eq!(world.acked, [1]);
}

#[test]
fn after_a_loss_everything_comes_again_and_nothing_is_sent_twice() {
    let mut world = World::new();
    world.record("1", 5, &[]);
    world.record("2", 5, &[]);
    world.confirm = false;
    world.deliver(vec![changed("1", 1, "")]);
    world.settle();
    assert_eq!(world.messages.len(), 1, "on its way");
    world.deliver(vec![changed("2", 1, "")]);
    world.tell(Input::Lost);
    world.deliver(vec![changed("1", 1, "")]);
    world.deliver(vec![changed("2", 1, "")]);
    world.settle();
    world.confirm_all();
    world.settle();
    let mut subjects: Vec<_> = world.messages.iter().map(|m| m.subject.as_str()).collect();
    subjects.sort_unstable();
    assert_eq!(subjects, ["contact/1", "contact/2"]);
    assert_eq!(
        world.acked,
        [3, 4],
        "the void deliveries are not acknowledged"
    );
    assert!(world.engine.is_idle());
}

#[test]
fn a_loss_in_the_middle_of_a_merge_loses_no_part_of_it() {
    let mut world = World::new();
    world.record("3", 100, &[]);
    world.confirm = false;
    let merge = merged("3", &["1", "2"], 2);
    world.deliver(vec![merge.clone()]);
    assert_eq!(
        world.messages.len(),
        2,
        "the tombstones are on their way, the survivor is being read"
    );
    world.tell(Input::Lost);
    world.confirm_all();
    world.deliver(vec![merge]);
    world.settle();
    assert!(
        world
            .messages
            .iter()
            .any(|message| message.subject == "contact/3")
    );
    assert_eq!(world.acked, [2]);
}

#[test]
fn a_confirm_from_before_a_loss_does_not_settle_a_repeat_too_early() {
    let mut world = World::new();
    world.record("3", 100, &[]);
    world.confirm = false;
    let merge = merged("3", &["1", "2"], 2);
    world.deliver(vec![merge.clone()]);
    world.tell(Input::Lost);
    world.deliver(vec![merge]);
    for _ in 0..4 {
        for (publish, outcome) in std::mem::take(&mut world.unconfirmed) {
            world.tell(Input::Published { publish, outcome });
        }
    }
    assert!(world.acked.is_empty(), "the survivor is still being read");
    world.confirm = true;
    world.settle();
    assert_eq!(world.acked, [2]);
    assert!(world.engine.is_idle());
}

#[test]
fn merges_that_contradict_hubspot_do_not_read_in_a_circle() {
    let mut world = World::new();
    world.record("3", 100, &[]);
    world.model.merged.insert("1".into(), "3".into());
    world.deliver(vec![merged("1", &["3"], 2)]);
    world.settle();
    assert_eq!(world.acked, [1]);
    assert!(world.calls_to("object") <= 2);
}

#[test]
fn nothing_that_leads_to_an_erased_record_reads_it() {
    let mut world = World::new();
    world.record("3", 100, &[("email", "a@b.c")]);
    world.model.merged.insert("1".into(), "3".into());
    world.deliver(vec![event(PORTAL, "3", 1, ObjectChange::PrivacyDeleted)]);
    world.deliver(vec![changed("1", 1, "a@b.c"), merged("3", &["2"], 2)]);
    world.settle();
    assert!(world.messages.iter().all(|m| m.data.record.is_none()));
    assert_eq!(world.acked.len(), 2);
}

#[test]
fn an_unknown_property_does_not_untype_records_under_way() {
    let mut world = World::new();
    world.record("1", 5, &[("hubspot_owner_id", "1"), ("second_owner", "2")]);
    world.record("2", 5, &[]);
    world.deliver(vec![changed("1", 1, "")]);
    world.settle();
    world.run_for(Duration::from_secs(60));
    world.deliver(vec![changed("1", 6, "")]);
    let mut unknown = changed("2", 7, "");
    if let EventBody::Object(ObjectEvent {
        change: ObjectChange::PropertyChanged { property_name, .. },
        ..
    }) = &mut unknown.body
    {
        *property_name = "brand_new".into();
    }
    unknown.id = changed("2", 8, "").id;
    world.deliver(vec![unknown]);
    world.settle();
    assert_eq!(world.calls_to("properties"), 2);
    for message in world.messages.iter().filter(|m| m.subject == "contact/1") {
        assert_eq!(message.data.owners.len(), 2, "found by the definitions");
    }
}

#[test]
fn events_that_name_no_record_go_out_unread() {
    let mut world = World::new();
    let mut conversation = changed("77", 1, "OPEN");
    conversation.body = EventBody::Conversation(ConversationEvent {
        thread_id: "77".into(),
        change: ConversationChange::Created,
    });
    let mut unknown = changed("78", 1, "");
    unknown.body = EventBody::Unknown(UnknownEvent {
        object_id: None,
        raw: serde_json::json!({}),
    });
    world.deliver(vec![conversation, unknown]);
    assert_eq!(world.messages.len(), 2);
    assert!(world.calls.is_empty());
    assert_eq!(world.messages[0].r#type, "crm.conversation.enriched.v1");
    world.settle();
    assert_eq!(world.acked, [1]);
}

#[test]
fn an_engine_that_takes_over_knows_what_was_noted() {
    let mut world = World::new();
    world.record("1", 5, &[("email", "a@b.c")]);
    world.record("3", 100, &[]);
    world.deliver(vec![changed("1", 5, "a@b.c"), merged("3", &["2"], 50)]);
    world.deliver(vec![event(PORTAL, "4", 6, ObjectChange::PrivacyDeleted)]);
    world.settle();
    assert_eq!(world.acked.len(), 2);
    let mut after = World::new();
    after.record("1", 5, &[("email", "a@b.c")]);
    after.record("3", 100, &[]);
    after.record("4", 5, &[("email", "late@b.c")]);
    for note in &world.notes {
        let bytes = note.encode();
        after.recall(Note::decode(&bytes).unwrap());
    }
    after.deliver(vec![changed("1", 5, "a@b.c"), changed("2", 40, "x")]);
    after.deliver(vec![changed("4", 5, "late@b.c"), changed("1", 4, "late")]);
    after.settle();
    assert_eq!(after.ending("duplicate"), 1);
    assert_eq!(after.ending("purged"), 1, "the erased record stays erased");
    let version = |world: &World, subject: &str| {
        let mut messages = world.messages.iter();
        let message = messages.find(|message| message.subject == subject);
        message.map(|message| message.data.version.clone())
    };
    assert!(version(&after, "contact/1") > version(&world, "contact/1"));
    assert!(version(&after, "contact/3") > version(&world, "contact/3"));
    assert_eq!(version(&after, "contact/2"), None, "it leads to 3");
    let stored: Vec<u8> = world.notes.iter().flat_map(Note::encode).collect();
    let holds = |text: &str| {
        stored
            .windows(text.len())
            .any(|bytes| bytes == text.as_bytes())
    };
    assert!(!holds("a@b.c") && !holds("email"));
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Deliver(Vec<(u8, u8, u8)>),
    Pass(u16),
    Fault(u8),
    Lose,
    /// From here on the destinations confirm nothing, or everything again.
    Confirm(bool),
    Update(u8, u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec((0_u8..12, 0_u8..6, any::<u8>()), 1..20).prop_map(Step::Deliver),
        4 => (1_u16..2_000).prop_map(Step::Pass),
        1 => (0_u8..6).prop_map(Step::Fault),
        1 => Just(Step::Lose),
        2 => any::<bool>().prop_map(Step::Confirm),
        2 => (0_u8..12, any::<u16>()).prop_map(|(id, ms)| Step::Update(id, ms)),
    ];
    prop::collection::vec(step, 1..40)
}

fn history_event(id: u8, kind: u8, occurred: u8) -> Event {
    let (id, occurred_ms) = (id.to_string(), i64::from(occurred) * 10);
    match kind {
        0 => event(PORTAL, &id, occurred_ms, ObjectChange::Created),
        1 => event(PORTAL, &id, occurred_ms, ObjectChange::Deleted),
        2 if occurred < 20 => event(PORTAL, &id, occurred_ms, ObjectChange::PrivacyDeleted),
        3 if occurred < 60 => merged("11", &[&id, "10"], occurred_ms),
        _ => changed(&id, occurred_ms, "x"),
    }
}

fn merged_ids(event: &Event) -> Vec<ObjectId> {
    match &event.body {
        EventBody::Object(ObjectEvent {
            change: ObjectChange::Merged {
                merged_object_ids, ..
            },
            ..
        }) => merged_object_ids.clone(),
        _ => Vec::new(),
    }
}

fn fault(kind: u8) -> (&'static str, CallError) {
    match kind {
        0 => ("objects_batch_read", CallError::Unavailable { status: 502 }),
        1 => ("associations_batch_read", CallError::TimedOut),
        2 => (
            "objects_batch_read",
            CallError::Refused {
                status: 400,
                category: None,
            },
        ),
        3 => (
            "objects_batch_read",
            CallError::RateLimited {
                policy: RateLimitPolicy::TenSecondly,
                retry_after: None,
            },
        ),
        4 => (
            "object",
            CallError::Forbidden {
                missing_scopes: Vec::new(),
            },
        ),
        _ => ("properties", CallError::Disconnected),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens: no call over the limit, every event ends, every delivery that is not void is
    /// acknowledged once, every event that did not end as purged or dead is in a message, and a record's
    /// versions rise.
    #[test]
    fn whatever_happens_nothing_is_lost_and_versions_rise(steps in steps(), max in 2_u32..30) {
        let mut world = World::new();
        world.model.max = max;
        for id in [1, 2, 3, 4, 10, 11] {
            world.record(&id.to_string(), 5, &[("email", "x"), ("hubspot_owner_id", "1")]);
        }
        let mut alive: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
        let mut all: BTreeMap<EventId, Event> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Deliver(events) => {
                    let events: Vec<_> = events.into_iter().map(|(id, kind, at)| history_event(id, kind, at)).collect();
                    all.extend(events.iter().map(|event| (event.id.clone(), event.clone())));
                    let delivery = world.deliver(events.clone());
                    alive.insert(delivery, events);
                }
                Step::Pass(ms) => world.run_for(Duration::from_millis(ms.into())),
                Step::Confirm(true) => world.confirm_all(),
                Step::Confirm(false) => world.confirm = false,
                Step::Fault(kind) => world.model.faults.push_back(fault(kind)),
                Step::Update(id, ms) => {
                    if let Some(record) = world.model.records.get_mut(&id.to_string()) {
                        record.updated_at = Some(at(ms.into()));
                    }
                }
                Step::Lose => {
                    alive.retain(|delivery, _| !world.acked.contains(delivery));
                    world.tell(Input::Lost);
                    for (void, events) in std::mem::take(&mut alive) {
                        prop_assert!(!world.acked.contains(&void));
                        let delivery = world.deliver(events.clone());
                        alive.insert(delivery, events);
                    }
                }
            }
        }
        world.run_for(Duration::from_secs(3_600));
        world.confirm_all();
        world.run_for(Duration::from_secs(3_600));
        prop_assert!(world.engine.is_idle());
        prop_assert_eq!(world.model.over_limit, 0);
        let acked: BTreeSet<_> = world.acked.iter().copied().collect();
        prop_assert_eq!(acked.len(), world.acked.len(), "acknowledged twice");
        prop_assert!(alive.keys().all(|delivery| acked.contains(delivery)));

        let sent: BTreeSet<_> = world.messages.iter().flat_map(|m| &m.data.events).map(|e| e.id.clone()).collect();
        let dead: BTreeSet<_> = world.letters.iter().flat_map(|l| &l.events).map(|e| e.id.clone()).collect();
        let erased: BTreeSet<_> = all.values().filter(|e| e.kind() == "privacy_deleted").map(|e| e.subject().object_id).collect();
        // Every merge of these histories is into 11.
        let old: BTreeSet<ObjectId> = all.values().flat_map(merged_ids).chain(["11".into()]).collect();
        let survivor_erased = erased.iter().any(|id| old.contains(id));
        for (id, event) in &all {
            let subject = event.subject().object_id;
            let purged = erased.contains(&subject) || (survivor_erased && old.contains(&subject));
            prop_assert!(sent.contains(id) || dead.contains(id) || purged, "lost: {event:?}");
        }
        let mut last: BTreeMap<&str, &Version> = BTreeMap::new();
        for message in &world.messages {
            let newer = last.insert(&message.subject, &message.data.version);
            prop_assert!(newer.is_none_or(|older| *older < message.data.version), "{}", message.subject);
        }
    }
}
