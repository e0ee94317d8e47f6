//! `crm-relay audit`: what ended, what is on its way, and what is nowhere.

use std::time::Duration;

use crm_relay::audit::{Account, Question, Report, audit};
use crm_relay::bus::{self, Message, Outgoing, Target, partition_of};
use crm_relay::dead::claimed;
use crm_relay::enrich::{Note, Tally};
use crm_relay::event::{Batch, Event, Millis};
use crm_relay::simulator::{Latency, PortalOptions, Simulator};
use serde_json::{Value, json};

use crate::delivery::{PORTAL, world};
use crate::erasure::{deliver_too_often, event, on_rabbitmq, open};
use crate::helpers::eventually;
use crate::helpers::relay::{Bus, RelayProcess};

const ARRIVAL_MAX: Duration = Duration::from_secs(60);

fn created(id: u64) -> Value {
    json!({
        "eventId": id, "subscriptionId": 77, "portalId": PORTAL, "appId": 5, "attemptNumber": 0,
        "occurredAt": Millis::now().as_i64() - 60_000, "subscriptionType": "contact.creation", "objectId": id,
        "changeSource": "CRM_UI",
    })
}

/// That `events` came, as an engine notes it.
async fn note_arrival(bus: &dyn bus::Bus, number: u64, events: &[Event]) {
    let portal_id = events[0].portal_id.clone();
    let partition = partition_of(&portal_id, bus.partitions());
    let note = Note {
        engine: 1,
        number,
        at: Millis::now(),
        entries: Vec::new(),
        destinations: Vec::new(),
        tallies: vec![Tally {
            arrived: events.iter().map(|event| event.id.digest()).collect(),
            ..Tally::new(portal_id)
        }],
    };
    let message = Message {
        id: format!("note-{number}"),
        content_type: "application/octet-stream".to_owned(),
        kind: "crm.changelog_note.v1".to_owned(),
        headers: Vec::new(),
        body: note.encode().into(),
    };
    let target = Target::Changelog(partition);
    let published = bus.publish(vec![Outgoing { target, message }]).await;
    assert_eq!(published, [Ok(())]);
}

async fn settled(bus: &dyn bus::Bus) -> Report {
    audited(bus, true).await
}

async fn audited(bus: &dyn bus::Bus, settled: bool) -> Report {
    let question = Question {
        since: Millis::default(),
        settled,
    };
    audit(bus, question).await.unwrap()
}

/// Once everything ended: the account of the only portal.
async fn account_when_all_ended(relay: &RelayProcess, ended: u64) -> Account {
    eventually("everything ended", ARRIVAL_MAX, async || {
        let (adds_up, report) = relay.audit(&[]).await;
        assert!(adds_up, "{report:?}");
        let account = report.portals.values().next().cloned().unwrap_or_default();
        (account.open == 0 && account.ended == ended).then_some(account)
    })
    .await
}

async fn a_batch_that_the_bus_gave_up_is_accounted_for_and_one_that_is_gone_is_a_hole(bus: Bus) {
    let (simulator, mut relay) = world(&bus, PortalOptions::new(PORTAL), "").await;
    assert!(relay.terminate().await.success());
    let store = open(&bus, &relay).await;
    let [given_up, gone] = [1, 2].map(|id| event(&created(id)));
    let batch = Batch::new(vec![given_up.clone()]).unwrap();
    note_arrival(&*store, 1, &[given_up]).await;
    deliver_too_often(&*store, &batch).await;
    let report = settled(&*store).await;
    assert!(report.adds_up(), "{report:?}");
    assert_eq!(report.portals[&"8241".into()].given_up_by_bus, 1);

    let claim = claimed(&*store, ARRIVAL_MAX).await.unwrap();
    assert!(claim.is_some());
    let report = settled(&*store).await;
    let finding = &report.findings[0];
    assert!(finding.contains("somebody else"), "{report:?}");
    assert!(!report.adds_up() && report.holes.is_empty(), "{report:?}");
    drop(claim);

    note_arrival(&*store, 2, &[gone]).await;
    let report = settled(&*store).await;
    assert_eq!(report.holes.len(), 1, "{report:?}");
    assert_eq!(report.holes[0].events, 1);
    store.close().await;
    let (adds_up, report) = relay.audit(&["--settled"]).await;
    assert!(!adds_up && report.holes.len() == 1, "{report:?}");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_given_up_is_accounted_for_and_one_gone_is_a_hole_on_rabbitmq() {
    a_batch_that_the_bus_gave_up_is_accounted_for_and_one_that_is_gone_is_a_hole(on_rabbitmq())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_given_up_is_accounted_for_and_one_gone_is_a_hole_on_the_embedded_bus() {
    a_batch_that_the_bus_gave_up_is_accounted_for_and_one_that_is_gone_is_a_hole(Bus::Embedded)
        .await;
}

async fn set_latency(simulator: &Simulator, latency: Duration) {
    simulator.control().set_latency(Latency {
        min: latency,
        max: latency,
    });
}

async fn what_a_worker_has_in_its_hands_is_no_hole(bus: Bus) {
    let (simulator, relay) = world(&bus, PortalOptions::new(PORTAL), "").await;
    let id = simulator.control().ids(PORTAL, "contacts").unwrap()[0];
    set_latency(&simulator, Duration::from_secs(15)).await;
    relay.post(&[created(id)]).await;
    eventually("it is open, and in hand", ARRIVAL_MAX, async || {
        let (adds_up, report) = relay.audit(&[]).await;
        assert!(adds_up, "{report:?}");
        let partition = report.partitions.first()?;
        (partition.open == 1 && partition.in_hand == Some(1)).then_some(())
    })
    .await;
    set_latency(&simulator, Duration::ZERO).await;
    let account = account_when_all_ended(&relay, 1).await;
    assert_eq!(account.destinations["out"].delivered, 1);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_has_in_its_hands_is_no_hole_on_rabbitmq() {
    what_a_worker_has_in_its_hands_is_no_hole(on_rabbitmq()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_has_in_its_hands_is_no_hole_on_the_embedded_bus() {
    what_a_worker_has_in_its_hands_is_no_hole(Bus::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_token_is_open_and_no_hole_and_ends_after_it_was_mended() {
    let (simulator, mut relay) = world(&on_rabbitmq(), PortalOptions::new(PORTAL), "").await;
    let hubspot = simulator.control();
    let ids = hubspot.ids(PORTAL, "contacts").unwrap();
    hubspot.set_revoked(PORTAL, true).unwrap();
    let events: Vec<_> = ids[..20].iter().map(|id| created(*id)).collect();
    for chunk in events.chunks(4) {
        relay.post(chunk).await;
    }
    // HubSpot repeats itself.
    relay.post(&events[..1]).await;
    eventually("all are open", ARRIVAL_MAX, async || {
        let (adds_up, report) = relay.audit(&[]).await;
        assert!(adds_up, "{report:?}");
        let account = report.portals.get(&"8241".into())?;
        (account.open == 20).then_some(())
    })
    .await;
    // It is known after a crash as well.
    relay.kill();
    hubspot.set_revoked(PORTAL, false).unwrap();
    relay.resume().await;
    let account = account_when_all_ended(&relay, 20).await;
    assert_eq!(account.destinations["out"].delivered, 20);
    assert!(account.duplicates >= 1);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_nobody_is_told() {
    let (simulator, relay) = world(&Bus::Embedded, PortalOptions::new(PORTAL), "").await;
    let answer = crate::rig::http()
        .get(relay.admin_url("/audit"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 401);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_worker_answers_for_is_a_finding_and_no_hole() {
    let bus = Bus::Embedded;
    let (simulator, mut relay) = world(&bus, PortalOptions::new(PORTAL), "").await;
    assert!(relay.terminate().await.success());
    let store = open(&bus, &relay).await;
    note_arrival(&*store, 1, &[event(&created(1))]).await;
    let report = audited(&*store, false).await;
    assert!(report.holes.is_empty(), "{report:?}");
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert!(report.findings[0].contains("no worker said"), "{report:?}");
    store.close().await;
    simulator.stop().await;
}
