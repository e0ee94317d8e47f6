//! A privacy deletion is final: in the dead letters, in the embedded store's files, and for what comes late.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crm_relay::bus::embedded::{Embedded, EmbeddedOptions};
use crm_relay::bus::{self, Message, Outgoing, Queue, Target, partition_of};
use crm_relay::dead::claimed;
use crm_relay::event::{
    BATCH_CONTENT_TYPE, Batch, DeadLetter, DeadLetterReason, EnrichedEvent, Event, Millis, Stage,
};
use crm_relay::metrics::Metrics;
use crm_relay::normalize::normalize;
use crm_relay::simulator::{PortalOptions, Simulator, SimulatorOptions};
use serde_json::{Value, json};

use crate::helpers::broker;
use crate::helpers::bus::{next_delivery, options, start};
use crate::helpers::eventually;
use crate::helpers::queue::drain;
use crate::helpers::relay::{Bus, RelayProcess};

const PORTAL: u64 = 8241;
const ARRIVAL_MAX: Duration = Duration::from_secs(60);
/// The value to be erased, and the one beside it.
const VALUE: &str = "Erasmia Tilgung";
const NEIGHBOUR: &str = "Nathalie Nachbar";
/// As many deliveries a batch may have before the bus itself makes it a dead letter.
const DELIVERIES_MAX: usize = 101;

pub(crate) fn on_rabbitmq() -> Bus {
    Bus::on_rabbitmq().0
}

async fn world(bus: &Bus) -> (Simulator, RelayProcess) {
    let portals = vec![PortalOptions::new(PORTAL)];
    let options = SimulatorOptions {
        portals: portals.clone(),
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    let relay = RelayProcess::start(&simulator, &portals, bus, "").await;
    (simulator, relay)
}

/// The bus of a relay that does not run.
pub(crate) async fn open(bus: &Bus, relay: &RelayProcess) -> Arc<dyn bus::Bus> {
    match bus {
        Bus::Embedded => {
            let options = EmbeddedOptions {
                data_dir: relay.data_dir(),
                partitions: 16,
                publish_timeout: Duration::from_secs(5),
            };
            Arc::new(Embedded::open(options, Arc::new(Metrics::new())).unwrap())
        }
        Bus::RabbitMq { prefix, .. } => start(options(broker::shared(), prefix)).await,
    }
}

fn changed(id: u64, value: &str, event_id: u64) -> Value {
    json!({
        "eventId": event_id, "subscriptionId": 77, "portalId": PORTAL, "appId": 5, "attemptNumber": 0,
        "occurredAt": Millis::now().as_i64() - 60_000, "subscriptionType": "contact.propertyChange",
        "objectId": id, "propertyName": "firstname", "propertyValue": value, "changeSource": "CRM_UI",
    })
}

pub(crate) fn event(notification: &Value) -> Event {
    normalize(&notification.to_string(), Millis::now()).unwrap()
}

/// A notification that nobody can read, since it does not say when it happened.
fn unreadable(id: u64, value: &str) -> Value {
    let mut notification = changed(id, value, 1);
    notification.as_object_mut().unwrap().remove("occurredAt");
    notification
}

fn refused(events: Vec<Event>) -> DeadLetter {
    let reason = DeadLetterReason::RefusedByHubspot;
    let at = Millis::new(1_763_892_000_000).unwrap();
    DeadLetter::new(Stage::Enrich, reason, "refused".into(), at).with_events(events)
}

fn undelivered(id: u64, value: &str) -> DeadLetter {
    let message: EnrichedEvent = serde_json::from_value(json!({
        "specversion": "1.0", "id": format!("{id:032x}"), "source": format!("hubspot/{PORTAL}"),
        "subject": format!("contact/{id}"), "type": "crm.contact.enriched.v1",
        "time": "2026-11-23T10:00:00.123Z", "datacontenttype": "application/json",
        "data": {
            "portal_id": PORTAL.to_string(), "object_type": "contact", "object_type_id": "0-1",
            "object_id": id.to_string(), "version": "001795428000123-001795428000456",
            "events": [event(&changed(id, value, 1))],
            "record": {"properties": {"firstname": value}, "created_at": null, "updated_at": null, "archived": false},
            "pipeline": null, "enrichment": {"status": "complete", "fetched_at": null},
        },
    }))
    .unwrap();
    let reason = DeadLetterReason::DestinationFull;
    let at = Millis::new(1_763_892_000_000).unwrap();
    DeadLetter::new(Stage::FanOut, reason, "full".into(), at).with_enriched_event("small", message)
}

/// Makes a batch a dead letter as the bus itself does: it is delivered too often.
pub(crate) async fn deliver_too_often(bus: &dyn bus::Bus, batch: &Batch) {
    let partition = partition_of(batch.portal_id(), bus.partitions());
    let message = Message {
        id: batch.id().to_string(),
        content_type: BATCH_CONTENT_TYPE.to_owned(),
        kind: "crm.batch.v1".to_owned(),
        headers: Vec::new(),
        body: batch.encode().into(),
    };
    let target = Target::Partition(partition);
    let published = bus.publish(vec![Outgoing { target, message }]).await;
    assert_eq!(published, [Ok(())]);
    let before = bus.depth(Queue::DeadLetters).await.unwrap();
    let mut consumer = bus.consume(Queue::Partition(partition), 1);
    for _ in 0..DELIVERIES_MAX {
        next_delivery(&mut consumer).await.unsettled.fail();
    }
    eventually("it is a dead letter", ARRIVAL_MAX, async || {
        let depth = bus.depth(Queue::DeadLetters).await;
        (depth == Ok(before + 1)).then_some(())
    })
    .await;
    consumer.close().await;
}

/// Everything in the dead letters, which stays there: key, id and body.
pub(crate) async fn letters(bus: &dyn bus::Bus) -> Vec<(String, String, String)> {
    let depth = bus.depth(Queue::DeadLetters).await.unwrap();
    let mut consumer = bus.consume(Queue::DeadLetters, 500);
    let mut all = Vec::new();
    for _ in 0..depth {
        let delivery = next_delivery(&mut consumer).await;
        let message = delivery.message;
        let body = String::from_utf8(message.body.to_vec()).unwrap();
        all.push((delivery.routing_key, message.id, body));
        delivery.unsettled.abandon();
    }
    consumer.close().await;
    all
}

fn store_holds(relay: &RelayProcess, value: &str) -> bool {
    relay.store_files().into_iter().any(|file| {
        let bytes = std::fs::read(file).unwrap();
        bytes
            .windows(value.len())
            .any(|part| part == value.as_bytes())
    })
}

async fn an_erased_record_leaves_the_dead_letters_and_no_neighbour_does(bus: Bus) {
    let (simulator, mut relay) = world(&bus).await;
    let hubspot = simulator.control();
    let erased = hubspot
        .create(PORTAL, "contacts", &[("firstname", VALUE)])
        .unwrap();
    let ids = hubspot.ids(PORTAL, "contacts").unwrap();
    let (old, beside) = (ids[0], ids[1]);
    let survivor = hubspot.merge(PORTAL, "contacts", ids[2], old).unwrap();
    eventually("all of it has arrived", ARRIVAL_MAX, async || {
        let waiting = relay.metric("crm_relay_enrich_waiting_events").await;
        let delivered = "crm_relay_enrich_events_total{ending=\"delivered\"}";
        (waiting == Some(0.0) && relay.metric(delivered).await >= Some(2.0)).then_some(())
    })
    .await;
    // Before the relay stops, so that they are notified: what they lead to, it does after the start.
    assert!(relay.terminate().await.success());

    let seeded = open(&bus, &relay).await;
    let ours = event(&changed(erased, VALUE, 2));
    let theirs = event(&changed(beside, NEIGHBOUR, 3));
    let mixed = refused(vec![ours.clone(), theirs.clone()]);
    let stays = [
        refused(vec![theirs.clone()]),
        undelivered(beside, NEIGHBOUR),
    ];
    let goes = [
        refused(vec![ours.clone()]),
        undelivered(erased, VALUE),
        refused(vec![event(&changed(old, VALUE, 4))]),
        undelivered(old, VALUE),
    ];
    let all = goes.iter().chain([&mixed]).chain(&stays);
    let seeds: Vec<_> = all.clone().map(Outgoing::dead_letter).collect();
    // Many beside them, so that a pass takes more than one go and the store more than one page.
    let crowd = (100..200).map(|n| refused(vec![event(&changed(beside, NEIGHBOUR, n))]));
    let crowd: Vec<_> = crowd.map(|letter| Outgoing::dead_letter(&letter)).collect();
    let published = seeded.publish([seeds, crowd.clone()].concat()).await;
    assert!(published.iter().all(Result::is_ok));
    let too_often = Batch::new(vec![ours, theirs]).unwrap();
    deliver_too_often(&*seeded, &too_often).await;
    seeded.close().await;

    relay.resume().await;
    relay
        .post(&[unreadable(erased, VALUE), unreadable(beside, NEIGHBOUR)])
        .await;
    hubspot.gdpr_delete(PORTAL, erased).unwrap();
    hubspot.gdpr_delete(PORTAL, survivor).unwrap();
    eventually("the letters are gone, or cut", ARRIVAL_MAX, async || {
        let gone = "crm_relay_dead_letters_purged_total{outcome=\"gone\"}";
        let cut = "crm_relay_dead_letters_purged_total{outcome=\"cut\"}";
        let counts = (relay.metric(gone).await, relay.metric(cut).await);
        (counts == (Some(5.0), Some(2.0))).then_some(())
    })
    .await;
    if let Bus::Embedded = bus {
        eventually("the store's files lose it too", ARRIVAL_MAX, async || {
            (!store_holds(&relay, VALUE)).then_some(())
        })
        .await;
        assert!(store_holds(&relay, NEIGHBOUR));
    }
    assert!(relay.terminate().await.success());
    assert!(!relay.log().contains(VALUE) && !relay.log().contains(NEIGHBOUR));

    let found = open(&bus, &relay).await;
    let left = letters(&*found).await;
    assert_eq!(found.depth(Queue::Erasures).await, Ok(0));
    found.close().await;
    assert!(left.iter().all(|(_, _, body)| !body.contains(VALUE)));
    let left: BTreeSet<_> = left.into_iter().collect();
    let as_it_was = |one: &Outgoing| {
        let Target::DeadLetters(key) = &one.target else {
            unreachable!()
        };
        let body = String::from_utf8(one.message.body.to_vec()).unwrap();
        (key.clone(), one.message.id.clone(), body)
    };
    let untouched = stays.iter().map(Outgoing::dead_letter).chain(crowd);
    for letter in untouched.map(|one| as_it_was(&one)) {
        assert!(left.contains(&letter), "{letter:?}");
    }
    let mut cut = mixed.clone();
    cut.events.remove(0);
    let body = String::from_utf8(cut.encode()).unwrap();
    assert!(left.contains(&(cut.routing_key(), mixed.id().to_string(), body)));
    let batch = Batch::new(too_often.events()[1..].to_vec()).unwrap();
    let body = String::from_utf8(batch.encode()).unwrap();
    let key = "consume.delivery_limit".to_owned();
    assert!(left.contains(&(key, too_often.id().to_string(), body)));
    let unread = |letter: &&(String, String, String)| letter.0 == "normalize.unreadable";
    let unread: Vec<_> = left.iter().filter(unread).collect();
    assert_eq!(unread.len(), 1);
    assert!(unread[0].2.contains(NEIGHBOUR));
    assert_eq!(left.len(), 2 + 100 + 1 + 1 + 1, "and no more");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_record_leaves_the_dead_letters_on_rabbitmq() {
    an_erased_record_leaves_the_dead_letters_and_no_neighbour_does(on_rabbitmq()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_record_leaves_the_dead_letters_on_the_embedded_bus() {
    an_erased_record_leaves_the_dead_letters_and_no_neighbour_does(Bus::Embedded).await;
}

/// What was asked for outlives the worker that was asked.
async fn a_search_that_was_not_done_is_done_by_the_next_worker(bus: Bus) {
    let (simulator, mut relay) = world(&bus).await;
    let hubspot = simulator.control();
    let erased = hubspot.ids(PORTAL, "contacts").unwrap()[0];
    assert!(relay.terminate().await.success());
    let seeded = open(&bus, &relay).await;
    let ours = refused(vec![event(&changed(erased, VALUE, 2))]);
    let published = seeded.publish(vec![Outgoing::dead_letter(&ours)]).await;
    assert_eq!(published, [Ok(())]);
    seeded.close().await;
    relay.resume().await;
    hubspot.gdpr_delete(PORTAL, erased).unwrap();
    let delivered = "crm_relay_enrich_events_total{ending=\"delivered\"}";
    // It is noted and acknowledged at once; the pass begins two seconds later at the earliest.
    eventually("the tombstone", ARRIVAL_MAX, async || {
        (relay.metric(delivered).await >= Some(1.0)).then_some(())
    })
    .await;
    relay.kill();
    relay.resume().await;
    eventually("the letter is gone", ARRIVAL_MAX, async || {
        let gone = "crm_relay_dead_letters_purged_total{outcome=\"gone\"}";
        (relay.metric(gone).await == Some(1.0)).then_some(())
    })
    .await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_was_not_done_is_done_after_a_crash_on_rabbitmq() {
    a_search_that_was_not_done_is_done_by_the_next_worker(on_rabbitmq()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_was_not_done_is_done_after_a_crash_on_the_embedded_bus() {
    a_search_that_was_not_done_is_done_by_the_next_worker(Bus::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_worker_reads_nothing_for_late_notifications_of_an_erased_record() {
    let bus = on_rabbitmq();
    let Bus::RabbitMq { url, prefix } = &bus else {
        unreachable!()
    };
    let (simulator, mut relay) = world(&bus).await;
    let hubspot = simulator.control();
    let ids = hubspot.ids(PORTAL, "contacts").unwrap();
    let survivor = hubspot.merge(PORTAL, "contacts", ids[0], ids[1]).unwrap();
    let out = format!("{prefix}.destination.out");
    let mut told = Vec::new();
    let mut tombstone_of = async |id: u64, kind: &str| {
        let subject = format!("contact/{id}");
        eventually("a tombstone", ARRIVAL_MAX, async || {
            told.extend(drain(url, &out).await);
            let mut about = told.iter().filter(|m| m.subject == subject);
            about.any(|m| m.r#type.contains(kind)).then_some(())
        })
        .await;
    };
    tombstone_of(ids[0], "merged").await;
    hubspot.gdpr_delete(PORTAL, survivor).unwrap();
    tombstone_of(survivor, "privacy_deleted").await;
    let acked = "crm_relay_bus_settlements_total{settlement=\"ack\"}";
    eventually("all is noted", ARRIVAL_MAX, async || {
        let taken = relay.metric("crm_relay_bus_deliveries_total").await;
        let waiting = relay.metric("crm_relay_enrich_waiting_events").await;
        (waiting == Some(0.0) && relay.metric(acked).await == taken).then_some(())
    })
    .await;
    relay.kill();
    drain(url, &out).await;

    let portals = [PortalOptions::new(PORTAL)];
    let other = RelayProcess::start(&simulator, &portals, &bus, "").await;
    let calls = hubspot.counters(PORTAL).unwrap().calls;
    let late = [ids[0], ids[1], survivor];
    let late = late.iter().zip(10..).map(|(id, n)| changed(*id, VALUE, n));
    other.post(&late.collect::<Vec<_>>()).await;
    eventually("they have ended", ARRIVAL_MAX, async || {
        let purged = "crm_relay_enrich_events_total{ending=\"purged\"}";
        (other.metric(purged).await >= Some(3.0)).then_some(())
    })
    .await;
    assert_eq!(hubspot.counters(PORTAL).unwrap().calls, calls);
    let told = drain(url, &out).await;
    let all = serde_json::to_string(&told).unwrap();
    assert!(!all.contains(VALUE), "{all}");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portal_whose_token_is_refused_erases_what_it_has_set_aside() {
    let (simulator, mut relay) = world(&Bus::Embedded).await;
    let hubspot = simulator.control();
    let ids = hubspot.ids(PORTAL, "contacts").unwrap();
    let (erased, beside) = (ids[0], ids[1]);
    hubspot.set_revoked(PORTAL, true).unwrap();
    for (id, value) in [(erased, VALUE), (beside, NEIGHBOUR)] {
        let properties = [("firstname", value)];
        hubspot.update(PORTAL, "contacts", id, &properties).unwrap();
    }
    eventually("they are set aside", ARRIVAL_MAX, async || {
        let set_aside = "crm_relay_enrich_set_aside_batches_total";
        (relay.metric(set_aside).await >= Some(1.0)).then_some(())
    })
    .await;
    assert!(store_holds(&relay, VALUE) && store_holds(&relay, NEIGHBOUR));
    hubspot.gdpr_delete(PORTAL, erased).unwrap();
    let out = |relay: &RelayProcess| std::fs::read_to_string(relay.ndjson_path()).unwrap();
    eventually("the tombstone", ARRIVAL_MAX, async || {
        out(&relay).contains("privacy_deleted.v1").then_some(())
    })
    .await;
    eventually("the store's files lose it", ARRIVAL_MAX, async || {
        (!store_holds(&relay, VALUE)).then_some(())
    })
    .await;
    assert!(store_holds(&relay, NEIGHBOUR));
    relay.kill();
    hubspot.set_revoked(PORTAL, false).unwrap();
    relay.resume().await;
    eventually("the neighbour's change", ARRIVAL_MAX, async || {
        out(&relay).contains(NEIGHBOUR).then_some(())
    })
    .await;
    assert!(!out(&relay).contains(VALUE));
    simulator.stop().await;
}

/// An operator who goes through the letters holds a search up, and the metric says for how long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_does_not_get_on_shows() {
    let bus = on_rabbitmq();
    let (simulator, relay) = world(&bus).await;
    let hubspot = simulator.control();
    let erased = hubspot.ids(PORTAL, "contacts").unwrap()[0];
    let operator = open(&bus, &relay).await;
    let letter = refused(vec![event(&changed(erased, VALUE, 2))]);
    let published = operator.publish(vec![Outgoing::dead_letter(&letter)]).await;
    assert_eq!(published, [Ok(())]);
    let claim = claimed(&*operator, ARRIVAL_MAX).await.unwrap().unwrap();
    hubspot.gdpr_delete(PORTAL, erased).unwrap();
    let waits = "crm_relay_erasures_oldest_seconds";
    eventually("it waits", ARRIVAL_MAX, async || {
        (relay.metric(waits).await > Some(1.0)).then_some(())
    })
    .await;
    drop(claim);
    eventually("it is done", ARRIVAL_MAX, async || {
        (relay.metric(waits).await == Some(0.0)).then_some(())
    })
    .await;
    let gone = "crm_relay_dead_letters_purged_total{outcome=\"gone\"}";
    assert_eq!(relay.metric(gone).await, Some(1.0));
    operator.close().await;
    simulator.stop().await;
}
