//! Every event ends once for every destination, whatever the bus answers.

use std::collections::{BTreeSet, VecDeque};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::bus::{BusUnavailable, Claim, Consumer, Message, Queue, StoredNote};
use crate::config::{BusConfig, DestinationConfig, DestinationKind, Secret};
use crate::event::{
    DeadLetter, DeadLetterReason, ENRICHED_CONTENT_TYPE, EnrichedData, EnrichedEvent, Enrichment,
    EnrichmentStatus, Event, EventBody, IdentityHasher, ObjectChange, ObjectEvent, ObjectTypeId,
    Version,
};

mod copies;

const OCCURRED_AT: i64 = 1_763_892_000_123;

/// A change of contact 512's e-mail address.
pub(super) fn change(id: &str, value: &str) -> Event {
    let mut hasher = IdentityHasher::new("test");
    hasher.field(id);
    let at = Millis::new(OCCURRED_AT).unwrap();
    Event {
        id: hasher.finish(),
        portal_id: "8241".into(),
        app_id: None,
        subscription_id: None,
        subscription_type: "contact.propertyChange".into(),
        hubspot_event_id: None,
        occurred_at: at,
        received_at: at,
        attempt_number: 0,
        change_source: None,
        source_id: None,
        value: None,
        replay: None,
        body: EventBody::Object(ObjectEvent {
            object_type_id: ObjectTypeId::from_name("contact"),
            object_id: "512".into(),
            change: ObjectChange::PropertyChanged {
                property_name: "email".into(),
                property_value: Some(value.into()),
                is_sensitive: false,
            },
        }),
    }
}

/// An enriched event of contact 512.
pub(super) fn enriched(events: Vec<Event>) -> EnrichedEvent {
    let at = Millis::new(OCCURRED_AT).unwrap();
    EnrichedEvent::new(EnrichedData {
        portal_id: "8241".into(),
        object_type: "contact".into(),
        object_type_id: ObjectTypeId::from_name("contact"),
        object_id: "512".into(),
        external_id: None,
        version: Version::of_read(at, at),
        events,
        record: None,
        identifiers: BTreeMap::new(),
        previous_values: BTreeMap::new(),
        owners: BTreeMap::new(),
        owner_lists: BTreeMap::new(),
        associations: BTreeMap::new(),
        pipeline: None,
        object_schema: None,
        attachments: None,
        conversation: None,
        tombstone: None,
        enrichment: Enrichment {
            status: EnrichmentStatus::Missing,
            fetched_at: None,
            problems: Vec::new(),
        },
    })
}

/// Answers by target's name (`crm.destination`'s, `dead` or `topic`) from a script, then with `Ok`.
#[derive(Default)]
struct ScriptedBus {
    script: Mutex<HashMap<&'static str, VecDeque<PublishError>>>,
    confirmed: Mutex<Vec<Outgoing>>,
    batches: Mutex<Vec<usize>>,
}

impl ScriptedBus {
    fn failing(script: &[(&'static str, &[PublishError])]) -> Arc<Self> {
        let script = script
            .iter()
            .map(|(name, errors)| (*name, errors.iter().copied().collect()));
        Arc::new(Self {
            script: Mutex::new(script.collect()),
            ..Self::default()
        })
    }

    fn answer(&self, outgoing: Outgoing) -> Result<(), PublishError> {
        let name = name(&outgoing.target);
        let error = self
            .script
            .lock()
            .unwrap()
            .get_mut(&*name)
            .and_then(VecDeque::pop_front);
        if let Some(error) = error {
            return Err(error);
        }
        self.confirmed.lock().unwrap().push(outgoing);
        Ok(())
    }

    fn confirmed(&self, target: &str) -> Vec<Message> {
        let confirmed = self.confirmed.lock().unwrap();
        let of_target = confirmed.iter().filter(|one| name(&one.target) == target);
        of_target.map(|one| one.message.clone()).collect()
    }

    fn letters(&self) -> Vec<DeadLetter> {
        let read = |message: &Message| serde_json::from_slice(&message.body).unwrap();
        self.confirmed("dead").iter().map(read).collect()
    }
}

fn name(target: &Target) -> String {
    match target {
        Target::Destination(name) => name.clone(),
        Target::DeadLetters(_) | Target::KeptDeadLetters(_) => "dead".to_owned(),
        Target::Topic(Topic::Enriched, _) => "topic".to_owned(),
        Target::Topic(Topic::Events, _) => "events".to_owned(),
        Target::Partition(_) | Target::Backlog(_) | Target::Changelog(_) | Target::Erasures => {
            unreachable!("fan-out publishes to no partition")
        }
    }
}

impl Bus for ScriptedBus {
    fn partitions(&self) -> u16 {
        1
    }

    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<(), PublishError>>> {
        self.batches.lock().unwrap().push(messages.len());
        let verdicts = messages.into_iter().map(|one| self.answer(one)).collect();
        std::future::ready(verdicts).boxed()
    }

    fn consume(&self, _: Queue, _: u16) -> Consumer {
        unreachable!("fan-out consumes nothing")
    }

    fn join(&self) -> watch::Receiver<BTreeSet<u16>> {
        watch::Sender::new((0..1).collect()).subscribe()
    }

    fn leave(&self) {}

    fn read_changelog(
        &self,
        _: u16,
        _: Option<u64>,
        _: mpsc::Sender<StoredNote>,
    ) -> BoxFuture<'_, Result<(), BusUnavailable>> {
        unreachable!("nobody reads it here")
    }

    fn depth(&self, _: Queue) -> BoxFuture<'_, Result<u64, BusUnavailable>> {
        std::future::ready(Err(BusUnavailable)).boxed()
    }

    fn claim_dead_letters(&self) -> BoxFuture<'_, Result<Option<Claim>, BusUnavailable>> {
        unreachable!("nobody takes dead letters here")
    }

    fn connected(&self) -> watch::Receiver<bool> {
        watch::Sender::new(true).subscribe()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

fn queue(pattern: &str) -> DestinationConfig {
    DestinationConfig {
        patterns: vec![pattern.parse().unwrap()],
        ..DestinationConfig::new(DestinationKind::Queue)
    }
}

fn ndjson(path: &std::path::Path) -> DestinationConfig {
    DestinationConfig {
        path: Some(path.to_owned()),
        ..DestinationConfig::new(DestinationKind::Ndjson)
    }
}

fn fan_out(bus: &Arc<ScriptedBus>, destinations: &[(&str, DestinationConfig)]) -> FanOut {
    fan_out_with(BusConfig::default(), bus, destinations)
}

fn fan_out_with(
    topics: BusConfig,
    bus: &Arc<ScriptedBus>,
    destinations: &[(&str, DestinationConfig)],
) -> FanOut {
    let destinations = destinations
        .iter()
        .map(|(name, config)| ((*name).to_owned(), config.clone()));
    let config = Config {
        destination: destinations.collect(),
        bus: BusConfig {
            url: Some(Secret::new("amqp://localhost")),
            ..topics
        },
        ..Config::default()
    };
    let bus: Arc<dyn Bus> = Arc::<ScriptedBus>::clone(bus);
    FanOut::new(&config, bus, Arc::default()).unwrap()
}

/// Copies that destinations have, and copies that dead letters hold.
type Counts = Result<(usize, usize), FanOutFailure>;

fn delivered(copies: usize, dead: usize) -> Counts {
    Ok((copies, dead))
}

fn counts(copies: &[CopyEnded]) -> (usize, usize) {
    let dead = copies.iter().filter(|copy| copy.is_dead).count();
    (copies.len() - dead, dead)
}

impl FanOut {
    async fn deliver_enriched(&self, events: Vec<EnrichedEvent>) -> Vec<Counts> {
        let events = events
            .into_iter()
            .map(|one| Outbound::Enriched(Box::new(one)));
        let results = self.deliver(events.collect()).await.into_iter();
        let results = results.map(|result| result.map(|copies| counts(&copies)));
        results.collect()
    }
}

#[tokio::test]
async fn an_event_goes_to_every_destination_that_wants_it_and_to_the_topic() {
    let bus = ScriptedBus::failing(&[]);
    let all = [
        ("all", queue("#")),
        ("deals", queue("*.deal.#")),
        ("mail", queue("#.email")),
    ];
    let fan_out = fan_out(&bus, &all);
    let event = enriched(vec![change("1", "a@b.c")]);
    assert_eq!(
        fan_out.deliver_enriched(vec![event.clone()]).await,
        [delivered(2, 0)]
    );
    for (target, copies) in [("all", 1), ("deals", 0), ("mail", 1), ("topic", 1)] {
        assert_eq!(bus.confirmed(target).len(), copies, "{target}");
    }
    let copy = &bus.confirmed("all")[0];
    assert_eq!(
        (copy.id.as_str(), &copy.kind),
        (event.id.as_str(), &event.r#type)
    );
    assert_eq!(copy.content_type, ENRICHED_CONTENT_TYPE);
    assert_eq!(copy.body, event.encode());
    assert_eq!(*bus.batches.lock().unwrap(), [3], "all in one batch");
    let copies = &fan_out.metrics.fan_out_copies_total;
    assert_eq!(copies.with_label_values(&["delivered"]).get(), 2);
    assert_eq!(
        fan_out.metrics.fan_out_lateness_seconds.get_sample_count(),
        1
    );
}

#[tokio::test]
async fn an_event_that_nobody_wants_is_unwanted_even_when_the_topic_fails() {
    let bus = ScriptedBus::failing(&[("topic", &[PublishError::Unavailable])]);
    let fan_out = fan_out(&bus, &[("deals", queue("*.deal.#"))]);
    let results = fan_out
        .deliver_enriched(vec![enriched(vec![change("1", "x")])])
        .await;
    assert_eq!(results, [delivered(0, 0)]);
}

#[tokio::test]
async fn a_refused_copy_becomes_a_dead_letter_with_its_reason() {
    for (error, reason) in [
        (PublishError::Rejected, DeadLetterReason::DestinationFull),
        (
            PublishError::Unroutable,
            DeadLetterReason::DestinationUnavailable,
        ),
        (PublishError::TooLarge, DeadLetterReason::TooLarge),
    ] {
        let bus = ScriptedBus::failing(&[("a", &[error])]);
        let fan_out = fan_out(&bus, &[("a", queue("#")), ("b", queue("#"))]);
        let event = enriched(vec![change("1", "x")]);
        assert_eq!(
            fan_out.deliver_enriched(vec![event.clone()]).await,
            [delivered(1, 1)]
        );
        let letter = &bus.letters()[0];
        assert_eq!(
            (letter.reason, letter.destination.as_deref()),
            (reason, Some("a"))
        );
        assert_eq!(letter.enriched_event.as_deref(), Some(&event));
        let counted = &fan_out.metrics.dead_letters_total;
        assert_eq!(
            counted
                .with_label_values(&["fan_out", reason.as_str()])
                .get(),
            1
        );
    }
}

#[tokio::test]
async fn an_unconfirmed_dead_letter_is_retried() {
    let bus = ScriptedBus::failing(&[
        ("a", &[PublishError::Rejected]),
        ("dead", &[PublishError::Unknown]),
    ]);
    let fan_out = fan_out(&bus, &[("a", queue("#"))]);
    let event = enriched(vec![change("1", "x")]);
    let first = fan_out.deliver_enriched(vec![event.clone()]).await;
    assert_eq!(first, [Err(FanOutFailure::Retry)]);
    assert_eq!(
        fan_out.deliver_enriched(vec![event]).await,
        [delivered(1, 0)]
    );
}

#[tokio::test]
async fn a_dead_letter_of_an_earlier_try_still_counts_as_dead() {
    let full = &[PublishError::Rejected];
    let bus = ScriptedBus::failing(&[("a", full), ("b", full), ("dead", &[PublishError::Unknown])]);
    let fan_out = fan_out(&bus, &[("a", queue("#")), ("b", queue("#"))]);
    let event = enriched(vec![change("1", "x")]);
    let first = fan_out.deliver_enriched(vec![event.clone()]).await;
    assert_eq!(first, [Err(FanOutFailure::Retry)]);
    assert_eq!(
        fan_out.deliver_enriched(vec![event]).await,
        [delivered(1, 1)]
    );
    assert_eq!(bus.letters().len(), 1);
}

#[tokio::test]
async fn a_retry_sends_only_what_was_not_confirmed() {
    for error in [PublishError::Unavailable, PublishError::Unknown] {
        let bus = ScriptedBus::failing(&[("a", &[error, error])]);
        let fan_out = fan_out(&bus, &[("a", queue("#")), ("b", queue("#"))]);
        let event = enriched(vec![change("1", "x")]);
        for _ in 0..2 {
            let results = fan_out.deliver_enriched(vec![event.clone()]).await;
            assert_eq!(results, [Err(FanOutFailure::Retry)]);
        }
        assert_eq!(
            fan_out.deliver_enriched(vec![event.clone()]).await,
            [delivered(2, 0)]
        );
        assert_eq!((bus.confirmed("a").len(), bus.confirmed("b").len()), (1, 1));
        assert!(fan_out.lock_retried().is_empty());
    }
}

#[tokio::test]
async fn one_event_s_trouble_is_not_the_other_s() {
    let bus = ScriptedBus::failing(&[("a", &[PublishError::Unknown])]);
    let fan_out = fan_out(&bus, &[("a", queue("#"))]);
    let events = vec![
        enriched(vec![change("1", "x")]),
        enriched(vec![change("2", "x")]),
    ];
    let results = fan_out.deliver_enriched(events).await;
    assert_eq!(results, [Err(FanOutFailure::Retry), delivered(1, 0)]);
}

#[tokio::test]
async fn ndjson_gets_a_line_per_event_in_order() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("out.ndjson");
    let fan_out = fan_out(&ScriptedBus::failing(&[]), &[("file", ndjson(&path))]);
    let events: Vec<_> = (0..3)
        .map(|n| enriched(vec![change(&n.to_string(), "line\nbreak")]))
        .collect();
    let results = fan_out.deliver_enriched(events.clone()).await;
    assert_eq!(results, vec![delivered(1, 0); 3]);
    let text = std::fs::read_to_string(&path).unwrap();
    let read: Vec<EnrichedEvent> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read, events);
}

#[tokio::test]
async fn a_file_that_takes_no_writes_is_retried_and_does_not_repeat_another_s_copies() {
    let bus = ScriptedBus::failing(&[]);
    let full = ndjson(std::path::Path::new("/dev/full"));
    let fan_out = fan_out(&bus, &[("full", full), ("a", queue("#"))]);
    let event = enriched(vec![change("1", "x")]);
    for _ in 0..3 {
        let results = fan_out.deliver_enriched(vec![event.clone()]).await;
        assert_eq!(results, [Err(FanOutFailure::Retry)]);
    }
    assert_eq!(bus.confirmed("a").len(), 1);
}

#[test]
fn a_destination_that_cannot_be_opened_is_named() {
    let missing = DestinationConfig {
        path: None,
        ..ndjson(std::path::Path::new("x"))
    };
    let unreachable = ndjson(std::path::Path::new("/nonexistent/out.ndjson"));
    for config in [missing, unreachable] {
        let config = Config {
            destination: BTreeMap::from([("file".to_owned(), config)]),
            ..Config::default()
        };
        let bus: Arc<dyn Bus> = ScriptedBus::failing(&[]);
        let error = FanOut::new(&config, bus, Arc::default()).unwrap_err();
        assert!(
            error.to_string().contains("destination.file.path"),
            "{error}"
        );
    }
}
