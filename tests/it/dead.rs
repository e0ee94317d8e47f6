//! Dead letters are listed without using anything up, replayed to whom they are meant for, and discarded with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crm_relay::bus::embedded::{Embedded, EmbeddedOptions};
use crm_relay::bus::{self, Outgoing, Queue};
use crm_relay::config::Config;
use crm_relay::dead::{DeadLetters, Fate, Filter, WalkError, claimed};
use crm_relay::event::{DeadLetter, DeadLetterReason, EnrichedEvent, Millis, Stage};
use crm_relay::metrics::Metrics;
use crm_relay::simulator::{PortalOptions, Simulator, SimulatorOptions};
use lapin::options::QueueDeleteOptions;
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::erasure::on_rabbitmq;
use crate::helpers::broker;
use crate::helpers::bus::{next_delivery, options, start};
use crate::helpers::eventually;
use crate::helpers::queue::drain;
use crate::helpers::relay::{Bus, RelayProcess};

const PORTAL: u64 = 8241;
/// One that the relay does not know at first.
const STRANGER: u64 = 77;
const ARRIVAL_MAX: Duration = Duration::from_secs(60);
/// RabbitMQ 4 drops a message at its 21st delivery, where nobody says otherwise.
const LISTINGS: usize = 30;
/// More than one consumer holds on RabbitMQ.
const LETTERS: usize = 150;
/// What seals the tokens of portals.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// A value that nothing but `dead show` may tell.
const VALUE: &str = "Verity Wertvoll";

fn embedded(folder: &std::path::Path) -> Arc<dyn bus::Bus> {
    let options = EmbeddedOptions {
        data_dir: folder.to_owned(),
        partitions: 4,
        publish_timeout: Duration::from_secs(5),
    };
    Arc::new(Embedded::open(options, Arc::new(Metrics::new())).unwrap())
}

fn letters_of(bus: &Arc<dyn bus::Bus>) -> DeadLetters {
    DeadLetters::new(&Config::default(), bus.clone(), Arc::new(Metrics::new()))
}

fn unreadable(n: usize) -> DeadLetter {
    let at = Millis::new(1_763_892_000_000).unwrap();
    let letter = DeadLetter::new(
        Stage::Normalize,
        DeadLetterReason::Unreadable,
        "why".into(),
        at,
    );
    letter.with_raw(format!("{{\"n\":{n}}}").as_bytes())
}

/// Publishes so many letters that nobody can read; their ids, in order.
async fn seed(bus: &dyn bus::Bus, count: usize) -> Vec<String> {
    let letters: Vec<_> = (0..count)
        .map(|n| Outgoing::dead_letter(&unreadable(n)))
        .collect();
    let ids = letters.iter().map(|one| one.message.id.clone()).collect();
    let published = bus.publish(letters).await;
    assert!(published.iter().all(Result::is_ok), "{published:?}");
    ids
}

async fn listed(letters: &DeadLetters) -> Vec<String> {
    let listing = letters.list(&Filter::default(), 1_000).await.unwrap();
    assert_eq!(listing.extent.looked_at, listing.extent.kept);
    listing
        .letters
        .into_iter()
        .map(|letter| letter.id)
        .collect()
}

/// Where each letter was published, by where it is listed.
fn places(listed: &[String], published: &[String]) -> Vec<Option<usize>> {
    let place = |id| published.iter().position(|one| one == id);
    listed.iter().map(place).collect()
}

async fn listing_uses_nothing_up(bus: Arc<dyn bus::Bus>) {
    let ids = seed(&*bus, LETTERS).await;
    let letters = letters_of(&bus);
    let in_order: Vec<_> = (0..LETTERS).map(Some).collect();
    for _ in 0..LISTINGS {
        assert_eq!(places(&listed(&letters).await, &ids), in_order);
        assert_eq!(bus.depth(Queue::DeadLetters).await, Ok(LETTERS as u64));
    }
    let some: Vec<_> = ids.iter().step_by(7).cloned().collect();
    let filter = Filter {
        ids: some.clone(),
        ..Filter::default()
    };
    let dry = letters.discard(&filter, "a trial", true).await.unwrap();
    assert_eq!(
        (dry.done, listed(&letters).await.len()),
        (some.len(), LETTERS)
    );
    let stays = letters.replay(&filter, 5, false).await.unwrap();
    assert_eq!((stays.done, stays.letters.len()), (0, 5));
    assert!(stays.letters.iter().all(|one| one.outcome == Fate::Stays));
    let gone = letters.discard(&filter, "a test", false).await.unwrap();
    assert_eq!(gone.done, some.len());
    let left = ids.iter().filter(|id| !some.contains(id)).cloned();
    let left: BTreeSet<_> = left.collect();
    let found = listed(&letters).await;
    assert_eq!(found.len(), left.len());
    assert_eq!(BTreeSet::from_iter(found), left);
    // They are what they were, also for who takes them.
    let mut consumer = bus.consume(Queue::DeadLetters, 100);
    for _ in &left {
        let delivery = next_delivery(&mut consumer).await;
        assert!(left.contains(&delivery.message.id));
        assert_eq!(delivery.routing_key, "normalize.unreadable");
        delivery.unsettled.ack();
    }
    consumer.close().await;
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_thirty_times_loses_nothing_and_keeps_the_order_on_rabbitmq() {
    let bus = start(options(broker::shared(), &broker::unique_prefix())).await;
    listing_uses_nothing_up(bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_thirty_times_loses_nothing_and_keeps_the_order_on_the_embedded_bus() {
    let folder = tempfile::tempdir().unwrap();
    listing_uses_nothing_up(embedded(folder.path())).await;
}

/// Two processes on one broker, and two callers in one process.
async fn one_at_a_time_takes_letters(one: Arc<dyn bus::Bus>, other: Arc<dyn bus::Bus>) {
    let ids = seed(&*one, 3).await;
    let moment = Duration::from_millis(500);
    let claim = claimed(&*one, moment).await.unwrap().unwrap();
    for bus in [&one, &other] {
        assert!(claimed(&**bus, moment).await.unwrap().is_none());
    }
    let busy = letters_of(&other).list(&Filter::default(), 10).await;
    assert_eq!(busy.unwrap_err(), WalkError::Busy);
    assert!(!claim.is_lost());
    drop(claim);
    for bus in [&other, &one] {
        assert_eq!(listed(&letters_of(bus)).await, ids);
    }
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_takes_dead_letters_on_rabbitmq() {
    let options = options(broker::shared(), &broker::unique_prefix());
    one_at_a_time_takes_letters(start(options.clone()).await, start(options).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_takes_dead_letters_on_the_embedded_bus() {
    let folder = tempfile::tempdir().unwrap();
    let bus = embedded(folder.path());
    one_at_a_time_takes_letters(bus.clone(), bus).await;
}

/// A relay that knows one of two portals, with room for the other's file.
struct World {
    simulator: Simulator,
    relay: RelayProcess,
    bus: Bus,
    _portals: tempfile::TempDir,
    arrived: Vec<EnrichedEvent>,
}

impl World {
    async fn start(bus: Bus, more: &str) -> Self {
        let options = SimulatorOptions {
            portals: vec![PortalOptions::new(PORTAL), PortalOptions::new(STRANGER)],
            ..SimulatorOptions::default()
        };
        let simulator = Simulator::start(options).await.unwrap();
        let portals = tempfile::tempdir().unwrap();
        let more = format!(
            "{more}\n[portals]\nfolder = {:?}\nkeys = [{KEY:?}]\n",
            portals.path()
        );
        let known = [PortalOptions::new(PORTAL)];
        let relay = RelayProcess::start(&simulator, &known, &bus, &more).await;
        Self {
            simulator,
            relay,
            bus,
            _portals: portals,
            arrived: Vec::new(),
        }
    }

    /// Everything that destination `out` has got so far.
    async fn arrived(&mut self) -> &[EnrichedEvent] {
        match &self.bus {
            Bus::RabbitMq { url, prefix } => {
                let more = drain(url, &format!("{prefix}.destination.out")).await;
                self.arrived.extend(more);
            }
            Bus::Embedded => {
                let text = std::fs::read_to_string(self.relay.ndjson_path()).unwrap();
                let whole = text.rfind('\n').map_or("", |end| &text[..end]);
                let read = |line| serde_json::from_str(line).unwrap();
                self.arrived = whole.lines().map(read).collect();
            }
        }
        &self.arrived
    }

    /// What `dead list` finds by these arguments.
    fn list(&self, args: &[&str]) -> Vec<Value> {
        self.told(&[&["list", "--json"], args].concat())
    }

    /// The lines of a command that succeeds.
    fn told(&self, args: &[&str]) -> Vec<Value> {
        let (code, out, err) = self.relay.dead(args);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        out.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    async fn are_dead(&self, args: &[&str], count: usize) -> Vec<Value> {
        eventually("dead letters", ARRIVAL_MAX, async || {
            Some(self.list(args)).filter(|letters| letters.len() == count)
        })
        .await
    }
}

fn changed(portal: u64, id: u64, event_id: u64) -> Value {
    json!({
        "eventId": event_id, "subscriptionId": 77, "portalId": portal, "appId": 5, "attemptNumber": 0,
        "occurredAt": Millis::now().as_i64() - 60_000, "subscriptionType": "contact.propertyChange",
        "objectId": id, "propertyName": "firstname", "propertyValue": VALUE, "changeSource": "CRM_UI",
    })
}

async fn an_operator_lists_shows_replays_and_discards(bus: Bus) {
    let mut world = World::start(bus, "").await;
    let contact = world.simulator.control().ids(STRANGER, "contacts").unwrap()[0];
    // One of a portal that is not known yet, one that nobody can read, and one that is no webhook.
    let mut unreadable = changed(PORTAL, 1, 2);
    unreadable.as_object_mut().unwrap().remove("occurredAt");
    world
        .relay
        .post(&[changed(STRANGER, contact, 1), unreadable])
        .await;
    assert_eq!(
        world.relay.post_body(b"{\"objectId\":1}".to_vec()).await,
        204
    );
    world.are_dead(&[], 3).await;
    let unknown = world.list(&["--reason", "unknown_portal"]);
    let [unknown] = &unknown[..] else {
        panic!("{unknown:?}")
    };
    assert_eq!(unknown["stage"], "enrich");
    assert_eq!(unknown["subject"], format!("contact/{contact}"));
    for (args, count) in [
        (&["--portal", "77"][..], 1),
        (&["--portal", "8241"], 1),
        (&["--stage", "ingress"], 1),
        (&["--object-type", "contacts"], 1),
        (&["--since", "1h"], 3),
        (&["--until", "1h"], 0),
        (&["--limit", "2"], 2),
        (&["--reason", "destination_full"], 0),
    ] {
        assert_eq!(world.list(args).len(), count, "{args:?}");
    }
    let (code, table, _) = world.relay.dead(&["list"]);
    assert_eq!(code, Some(0));
    assert!(
        table.contains("unknown_portal") && table.contains("3 of 3 match"),
        "{table}"
    );
    assert!(!table.contains(VALUE));
    let id = unknown["id"].as_str().unwrap();
    let (_, shown, _) = world.relay.dead(&["show", id]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let event = &shown[0]["letter"]["events"][0];
    assert_eq!(event["property_value"], VALUE);
    assert_eq!(world.relay.dead(&["show", "no-such-id"]).0, Some(1));

    let would = world.told(&["replay", "--dry-run", "--json"]);
    let outcomes: BTreeMap<_, _> = would
        .iter()
        .map(|one| {
            (
                one["reason"].as_str().unwrap(),
                one["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("not_an_array", "stays"),
        ("unknown_portal", "replayed"),
        ("unreadable", "stays"),
    ];
    assert_eq!(outcomes, BTreeMap::from(expected));
    assert_eq!(world.list(&[]).len(), 3, "a dry run changes nothing");

    // Its portal is still unknown: it comes back as another failure.
    assert_eq!(world.told(&["replay", "--id", id, "--json"]).len(), 1);
    eventually("it failed again", ARRIVAL_MAX, async || {
        let again = world.list(&["--reason", "unknown_portal"]);
        again
            .iter()
            .find(|one| one["at"] != unknown["at"])
            .map(|_| ())
    })
    .await;
    let token = PortalOptions::new(STRANGER).access_token;
    let put = world
        .relay
        .portals("PUT", "/77", Some(json!({"access_token": token})))
        .await;
    assert_eq!(put.0, 200, "{}", put.1);
    let (code, table, _) = world.relay.dead(&["replay", "--reason", "unknown_portal"]);
    assert_eq!(code, Some(0));
    assert!(table.contains("1 replayed, 0 stay"), "{table}");
    let event_id = event["id"].as_str().unwrap().to_owned();
    eventually("it arrives under the id it had", ARRIVAL_MAX, async || {
        let arrived = world.arrived().await;
        let mut events = arrived.iter().flat_map(|message| &message.data.events);
        events
            .any(|event| event.id.as_str() == event_id)
            .then_some(())
    })
    .await;
    world.are_dead(&[], 2).await;

    assert_eq!(
        world.relay.dead(&["discard", "--reason", "unreadable"]).0,
        Some(2)
    );
    let (code, _, err) = world.relay.dead(&["discard", "--because", "no filter"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("by a filter, or all"), "{err}");
    let because = ["discard", "--because", "seen by a test", "--json"];
    let dry = world.told(&[&because[..], &["--all", "--dry-run"]].concat());
    assert_eq!((dry.len(), world.list(&[]).len()), (2, 2));
    let gone = world.told(&[&because[..], &["--reason", "unreadable"]].concat());
    assert_eq!(gone.len(), 1);
    assert_eq!(world.told(&[&because[..], &["--all"]].concat()).len(), 1);
    assert_eq!(world.list(&[]).len(), 0);
    for (series, count) in [
        ("replayed_total{reason=\"unknown_portal\"}", 2.0),
        ("replayed_total{reason=\"unreadable\"}", 0.0),
        ("discarded_total{reason=\"unreadable\"}", 1.0),
        ("discarded_total{reason=\"not_an_array\"}", 1.0),
    ] {
        let series = format!("crm_relay_dead_letters_{series}");
        assert_eq!(world.relay.metric(&series).await, Some(count), "{series}");
    }
    let log = world.relay.log();
    assert!(log.contains("seen by a test"));
    assert!(!log.contains(VALUE));
    world.simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_lists_shows_replays_and_discards_on_rabbitmq() {
    an_operator_lists_shows_replays_and_discards(on_rabbitmq()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_lists_shows_replays_and_discards_on_the_embedded_bus() {
    an_operator_lists_shows_replays_and_discards(Bus::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_answered_without_the_token() {
    let world = World::start(Bus::Embedded, "").await;
    let client = crate::rig::http();
    for (path, token) in [
        ("/dead/list", None),
        ("/dead/replay", Some("x")),
        ("/dead/discard", Some("x")),
    ] {
        let mut request = client.post(world.relay.admin_url(path)).body("{}");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        assert_eq!(request.send().await.unwrap().status(), 401, "{path}");
    }
    let (code, _, err) = world.relay.dead(&["list", "--url", "http://127.0.0.1:1"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("no relay answers"), "{err}");
    world.simulator.stop().await;
}

/// What the destination `small` refused goes to it alone, as its records are by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_go_back_to_a_full_destination_by_themselves_when_it_has_room() {
    let small = "[destination.small]\nkind = \"queue\"\nmatch = [\"*.company.#\"]\nmax_length_bytes = \"1 KiB\"\n";
    let bus = on_rabbitmq();
    let Bus::RabbitMq { url, prefix } = &bus else {
        unreachable!()
    };
    let (url, queue) = (url.clone(), format!("{prefix}.destination.small"));
    let mut world = World::start(bus, small).await;
    let hubspot = world.simulator.control();
    let company = hubspot.ids(PORTAL, "companies").unwrap()[0];
    let full = ["--reason", "destination_full", "--destination", "small"];
    // A quorum queue notices that it is full a moment after it is: what comes later is refused.
    let mut update = 0;
    let letters = eventually("some are refused", ARRIVAL_MAX, async || {
        update += 1;
        let description = format!("change {update}");
        let properties = [("description", description.as_str())];
        hubspot
            .update(PORTAL, "companies", company, &properties)
            .unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        Some(world.list(&full)).filter(|letters| letters.len() >= 3)
    })
    .await;
    let ids_of = |letter: &Value| -> Vec<String> {
        let (_, shown, _) = world.relay.dead(&["show", letter["id"].as_str().unwrap()]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let events = shown[0]["letter"]["enriched_event"]["data"]["events"]
            .as_array()
            .unwrap()
            .clone();
        events
            .iter()
            .map(|event| event["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut refused: BTreeSet<String> = letters.iter().flat_map(ids_of).collect();
    assert!(!refused.is_empty());
    let properties = [("description", "fresher than all of them")];
    hubspot
        .update(PORTAL, "companies", company, &properties)
        .unwrap();

    let mut last = None;
    eventually("what was refused arrives", ARRIVAL_MAX * 2, async || {
        for message in drain(&url, &queue).await {
            assert!(last.as_ref() < Some(&message.data.version), "versions rise");
            for event in &message.data.events {
                if refused.remove(event.id.as_str()) {
                    let record = message.data.record.as_ref().unwrap();
                    let text = serde_json::to_value(&record.properties["description"]).unwrap();
                    assert_eq!(text, "fresher than all of them");
                }
            }
            last = Some(message.data.version);
        }
        refused.is_empty().then_some(())
    })
    .await;
    eventually("none is left", ARRIVAL_MAX, async || {
        world.list(&full).is_empty().then_some(())
    })
    .await;
    let replayed = world
        .relay
        .metric("crm_relay_dead_letters_replayed_total{reason=\"destination_full\"}")
        .await;
    assert!(replayed >= Some(3.0), "{replayed:?}");
    let mut seen = BTreeSet::new();
    for message in world.arrived().await {
        for event in &message.data.events {
            assert!(
                seen.insert(event.id.clone()),
                "it is replayed to small alone"
            );
        }
    }
    world.simulator.stop().await;
}

/// A queue that somebody deleted is there again after a restart; what it did not take is replayed by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_for_a_queue_that_was_gone_are_replayed_to_it_alone() {
    let gone =
        "[destination.gone]\nkind = \"queue\"\nmatch = [\"*.company.#\"]\ncontent = \"event\"\n";
    let bus = on_rabbitmq();
    let Bus::RabbitMq { url, prefix } = &bus else {
        unreachable!()
    };
    let (url, queue) = (url.clone(), format!("{prefix}.destination.gone"));
    let mut world = World::start(bus, gone).await;
    let connection = Connection::connect(&url, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    let hubspot = world.simulator.control();
    let company = hubspot.ids(PORTAL, "companies").unwrap()[0];
    let properties = [("description", "while it was gone")];
    hubspot
        .update(PORTAL, "companies", company, &properties)
        .unwrap();
    let unavailable = [
        "--reason",
        "destination_unavailable",
        "--destination",
        "gone",
    ];
    let letters = world.are_dead(&unavailable, 1).await;
    assert!(world.relay.terminate().await.success());
    world.relay.resume().await;
    assert_eq!(
        world
            .told(&[&["replay", "--json"], &unavailable[..]].concat())
            .len(),
        1
    );
    let plain = eventually("the plain event", ARRIVAL_MAX, async || {
        crate::helpers::queue::drain_bodies(&url, &queue)
            .await
            .pop()
    })
    .await;
    let plain: Value = serde_json::from_slice(&plain).unwrap();
    assert_eq!(plain["subject"], letters[0]["subject"]);
    assert_eq!(plain["data"]["property_value"], "while it was gone");
    let about = |one: &&EnrichedEvent| one.data.object_id.as_str() == company.to_string();
    assert_eq!(world.arrived().await.iter().filter(about).count(), 1);
    connection.close(200, "done".into()).await.unwrap();
    world.simulator.stop().await;
}
