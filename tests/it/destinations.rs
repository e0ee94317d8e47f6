//! Each destination gets what it asks for, in the form it asks for, and HubSpot is asked for no more than that.

use std::collections::BTreeSet;
use std::time::Duration;

use crm_relay::event::{EnrichedEvent, Millis, PlainEvent};
use crm_relay::simulator::{PortalOptions, Simulator, SimulatorOptions};
use lapin::message::Delivery;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use serde_json::json;

use crate::helpers::eventually;
use crate::helpers::queue::{drain, drain_deliveries};
use crate::helpers::relay::{Bus, RelayProcess};

const PORTAL: u64 = 8241;
const ARRIVAL_MAX: Duration = Duration::from_secs(30);

async fn world(bus: &Bus, more: &str) -> (Simulator, RelayProcess) {
    let portals = vec![PortalOptions::new(PORTAL)];
    let options = SimulatorOptions {
        portals: portals.clone(),
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    let relay = RelayProcess::start(&simulator, &portals, bus, more).await;
    (simulator, relay)
}

fn header(delivery: &Delivery, name: &str) -> Option<String> {
    let headers = delivery.properties.headers().as_ref()?;
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

/// Everything as plain events, and of the rest deals alone: `out` is the destination that the helper makes.
const PLAIN_ALONE: &str =
    "match = [\"*.deal.#\"]\n[destination.plain]\nkind = \"queue\"\ncontent = \"event\"\n";

const DESTINATIONS: &str = r#"
[destination.customers]
kind = "queue"
match = ["*.contacts.#"]
where = { lifecyclestage = ["customer"] }
parts = ["record"]
properties = ["email", "lifecyclestage"]
[destination.changes]
kind = "queue"
match = ["*.0-1.#"]
changed = ["lastname"]
format = "binary"
[destination.nobody]
kind = "queue"
portals = ["77"]
[destination.plain]
kind = "queue"
content = "event"
match = ["*.contact.property_changed.#"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_destination_gets_its_events_its_view_of_the_record_and_its_format() {
    let (bus, url, prefix) = Bus::on_rabbitmq();
    let (simulator, _relay) = world(&bus, DESTINATIONS).await;
    let hubspot = simulator.control();
    let properties = [("email", "zoe@example.com"), ("lifecyclestage", "lead")];
    let contact = hubspot.create(PORTAL, "contacts", &properties).unwrap();
    let subject = format!("contact/{contact}");
    for (name, value) in [
        ("lastname", "Holm"),
        ("lifecyclestage", "customer"),
        ("lastname", "Berg"),
        ("lifecyclestage", "evangelist"),
        ("lastname", "Dahl"),
    ] {
        // Each is seen on its own: the destination of everything has it before the next is made.
        hubspot
            .update(PORTAL, "contacts", contact, &[(name, value)])
            .unwrap();
        let out = format!("{prefix}.destination.out");
        let mut wanted = (subject.clone(), format!("{name}={value}"));
        eventually(&wanted.1.clone(), ARRIVAL_MAX, async || {
            let messages = drain(&url, &out).await;
            let found = messages.iter().any(|message| {
                let record = message.data.record.as_ref();
                let value_read = record.and_then(|record| record.properties.get(name));
                let json = serde_json::to_value(value_read).unwrap();
                message.subject == wanted.0 && json == value
            });
            found.then(|| wanted.1.clear())
        })
        .await;
    }
    let deal = hubspot.ids(PORTAL, "deals").unwrap()[0];
    hubspot
        .update(PORTAL, "deals", deal, &[("amount", "7")])
        .unwrap();
    hubspot.archive(PORTAL, "contacts", contact).unwrap();

    let mut customers: Vec<EnrichedEvent> = Vec::new();
    eventually("the tombstone", ARRIVAL_MAX, async || {
        customers.extend(drain(&url, &format!("{prefix}.destination.customers")).await);
        customers
            .iter()
            .any(|message| message.data.tombstone.is_some())
            .then_some(())
    })
    .await;
    let shown: Vec<_> = customers
        .iter()
        .filter_map(|message| {
            assert_eq!(message.subject, subject);
            assert!(message.data.owners.is_empty() && message.data.associations.is_empty());
            let properties = &message.data.record.as_ref()?.properties;
            let names: Vec<_> = properties.keys().map(String::as_str).collect();
            let stage = serde_json::to_value(&properties["lifecyclestage"]).unwrap();
            Some((stage.as_str().unwrap().to_owned(), names.len()))
        })
        .collect();
    let stages: Vec<_> = shown.iter().map(|(stage, _)| stage.as_str()).collect();
    // The lead is shown when its stage was set and never matched; the evangelist once, as it leaves.
    let distinct: BTreeSet<_> = stages.iter().copied().collect();
    assert!(distinct.contains("customer"), "{shown:?}");
    assert_eq!(
        stages
            .iter()
            .filter(|stage| **stage == "evangelist")
            .count(),
        1
    );
    for (stage, names) in &shown {
        let expected = if stage == "customer" { 2 } else { 1 };
        assert_eq!(*names, expected, "{shown:?}");
    }

    let mut binary: Vec<Delivery> = Vec::new();
    eventually("the binary messages", ARRIVAL_MAX, async || {
        binary.extend(drain_deliveries(&url, &format!("{prefix}.destination.changes")).await);
        let deleted = |one: &&Delivery| {
            header(one, "ce-type").is_some_and(|kind| kind == "crm.contact.deleted.v1")
        };
        binary.iter().find(deleted).map(|_| ())
    })
    .await;
    let mut names = Vec::new();
    for message in &binary {
        let properties = &message.properties;
        let text = |property: &Option<lapin::types::ShortString>| {
            property.as_ref().map(|text| text.as_str().to_owned())
        };
        assert_eq!(text(properties.content_type()).unwrap(), "application/json");
        assert_eq!(text(properties.message_id()), header(message, "ce-id"));
        assert_eq!(text(properties.kind()), header(message, "ce-type"));
        assert_eq!(header(message, "ce-specversion").unwrap(), "1.0");
        assert_eq!(header(message, "ce-subject").unwrap(), subject);
        assert_eq!(
            header(message, "ce-source").unwrap(),
            format!("hubspot/{PORTAL}")
        );
        assert!(header(message, "ce-time").unwrap().ends_with('Z'));
        let data: serde_json::Value = serde_json::from_slice(&message.data).unwrap();
        assert_eq!(data["object_id"], contact.to_string());
        names.extend(
            data["record"]["properties"]["lastname"]
                .as_str()
                .map(str::to_owned),
        );
        for event in data["events"].as_array().unwrap() {
            let changed = &event["property_name"];
            assert!(changed.is_null() || changed == "lastname", "{event}");
        }
    }
    for name in ["Holm", "Berg", "Dahl"] {
        assert!(names.iter().any(|one| one == name), "{names:?}");
    }

    let plain = drain_deliveries(&url, &format!("{prefix}.destination.plain")).await;
    let plain: Vec<PlainEvent> = plain
        .iter()
        .map(|message| serde_json::from_slice(&message.data).unwrap())
        .collect();
    let values: Vec<_> = plain
        .iter()
        .filter(|event| event.subject == subject)
        .map(|event| serde_json::to_value(&event.data).unwrap()["property_value"].clone())
        .collect();
    for value in ["Holm", "customer", "Berg", "evangelist", "Dahl"] {
        assert!(values.iter().any(|one| one == value), "{values:?}");
    }
    for event in &plain {
        assert_eq!(event.id, event.data.id);
        assert_eq!(event.r#type, "crm.contact.event.property_changed.v1");
    }
    assert!(
        drain(&url, &format!("{prefix}.destination.nobody"))
            .await
            .is_empty()
    );
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_events_go_out_while_the_portal_refuses_every_read_and_what_is_unwanted_asks_for_none()
 {
    let (bus, url, prefix) = Bus::on_rabbitmq();
    let (simulator, mut relay) = world(&bus, PLAIN_ALONE).await;
    relay.set_env("CRM_RELAY__BUS__ENRICHED_TOPIC", "[]");
    relay.set_env("CRM_RELAY__BUS__EVENTS_TOPIC", "*.contacts.created");
    relay.kill();
    relay.resume().await;
    let connection = Connection::connect(&url, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let theirs = format!("{prefix}.theirs");
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(theirs.as_str().into(), durable, FieldTable::default())
        .await
        .unwrap();
    channel
        .queue_bind(
            theirs.as_str().into(),
            format!("{prefix}.events").as_str().into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();

    let hubspot = simulator.control();
    hubspot.set_revoked(PORTAL, true).unwrap();
    let deal = hubspot.ids(PORTAL, "deals").unwrap()[0];
    hubspot
        .update(PORTAL, "deals", deal, &[("amount", "7")])
        .unwrap();
    let contact = hubspot.create(PORTAL, "contacts", &[]).unwrap();
    let (mut plain, mut bound) = (BTreeSet::new(), BTreeSet::new());
    let subjects = async |queue: &str| -> Vec<String> {
        let messages = drain_deliveries(&url, queue).await;
        let read = |message: Delivery| {
            let event: PlainEvent = serde_json::from_slice(&message.data).unwrap();
            format!("{} {}", event.subject, event.data.kind())
        };
        messages.into_iter().map(read).collect()
    };
    let wanted = [
        format!("deal/{deal} property_changed"),
        format!("contact/{contact} created"),
    ];
    eventually("both as plain events", ARRIVAL_MAX, async || {
        plain.extend(subjects(&format!("{prefix}.destination.plain")).await);
        bound.extend(subjects(&theirs).await);
        let all = wanted.iter().all(|one| plain.contains(one));
        (all && bound.contains(&wanted[1])).then_some(())
    })
    .await;
    assert!(
        bound.iter().all(|one| one.ends_with("created")),
        "{bound:?}"
    );
    assert!(
        drain(&url, &format!("{prefix}.destination.out"))
            .await
            .is_empty()
    );
    // The contact's events have ended, though nothing could be read.
    let delivered = "crm_relay_enrich_events_total{ending=\"delivered\"}";
    let delivered = relay.metric(delivered).await;
    assert!(delivered >= Some(1.0), "{delivered:?}");
    connection.close(200, "done".into()).await.unwrap();
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_events_of_a_portal_stay_in_order_however_many_go_out_at_once() {
    let (bus, url, prefix) = Bus::on_rabbitmq();
    let (simulator, relay) = world(&bus, PLAIN_ALONE).await;
    let notifications: Vec<_> = (0..8_000)
        .map(|n| {
            json!({
                "eventId": n, "subscriptionId": 77, "portalId": PORTAL, "appId": 5, "attemptNumber": 0,
                "occurredAt": Millis::now().as_i64() - 60_000 + n, "subscriptionType": "contact.propertyChange",
                "objectId": 1 + n % 7, "propertyName": "city", "propertyValue": n.to_string(),
                "changeSource": "CRM_UI",
            })
        })
        .collect();
    relay.post(&notifications).await;
    let mut came = Vec::new();
    eventually("all plain events", ARRIVAL_MAX, async || {
        for message in drain_deliveries(&url, &format!("{prefix}.destination.plain")).await {
            let event: serde_json::Value = serde_json::from_slice(&message.data).unwrap();
            let value = event["data"]["property_value"].as_str().unwrap();
            came.push(value.parse::<i64>().unwrap());
        }
        (came.len() >= notifications.len()).then_some(())
    })
    .await;
    assert!(came.is_sorted(), "{came:?}");
    simulator.stop().await;
}
