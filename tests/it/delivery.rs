//! What changes in HubSpot arrives, whole and typed, at the destinations.

use std::collections::HashSet;
use std::time::Duration;

use crm_relay::bus::partition_of;
use crm_relay::event::{
    EnrichedEvent, EnrichmentStatus, EventBody, ObjectChange, PropertyValue, TombstoneReason,
};
use crm_relay::simulator::{Limits, PortalOptions, Simulator, SimulatorOptions};
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use crate::helpers::broker;
use crate::helpers::queue::{drain, drain_bodies};
use crate::helpers::relay::{Bus, RelayProcess};
use crate::helpers::{eventually, metric};

pub(crate) const PORTAL: u64 = 8241;
pub(crate) const ARRIVAL_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn world(
    bus: &Bus,
    portal: PortalOptions,
    more: &str,
) -> (Simulator, RelayProcess) {
    let portals = vec![portal];
    let options = SimulatorOptions {
        portals: portals.clone(),
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    let relay = RelayProcess::start(&simulator, &portals, bus, more).await;
    (simulator, relay)
}

pub(crate) fn lines(relay: &RelayProcess) -> Vec<EnrichedEvent> {
    let text = std::fs::read_to_string(relay.ndjson_path()).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The first message that `wanted` accepts.
pub(crate) async fn arrives(
    relay: &RelayProcess,
    what: &str,
    wanted: impl Fn(&EnrichedEvent) -> bool,
) -> EnrichedEvent {
    eventually(what, ARRIVAL_MAX, async || {
        lines(relay).into_iter().find(|message| wanted(message))
    })
    .await
}

/// What a series of `/metrics` says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_arrives_with_record_owner_associations_and_pipeline_in_both_path_families() {
    for version in ["2026-09", "v3"] {
        let more = "[enrich.deal]\nassociations = [\"contact\", \"company\"]\n";
        let (simulator, mut relay) = world(&Bus::Embedded, PortalOptions::new(PORTAL), more).await;
        relay.set_env("CRM_RELAY__HUBSPOT__API_VERSION", version);
        relay.kill();
        relay.resume().await;
        let hubspot = simulator.control();
        let owner = hubspot
            .ids(PORTAL, "deals")
            .unwrap()
            .into_iter()
            .find_map(|id| {
                let record = hubspot.record(PORTAL, "deals", id).unwrap()?;
                Some(
                    record["properties"]["hubspot_owner_id"]
                        .as_str()?
                        .to_owned(),
                )
            });
        let contact = hubspot
            .create(
                PORTAL,
                "contacts",
                &[("firstname", "Zoë"), ("email", "zoe@example.com")],
            )
            .unwrap();
        let deal = hubspot
            .create(
                PORTAL,
                "deals",
                &[
                    ("dealname", "Ten chairs"),
                    ("amount", "1250.50"),
                    ("pipeline", "default"),
                    ("dealstage", "contractsent"),
                    ("hubspot_owner_id", owner.as_deref().unwrap()),
                ],
            )
            .unwrap();
        hubspot
            .associate(PORTAL, ("deals", deal), ("contacts", contact), &[])
            .unwrap();
        let subject = format!("deal/{deal}");
        let message = arrives(&relay, "the deal", |message| {
            message.subject == subject
                && message
                    .data
                    .associations
                    .get("contact")
                    .is_some_and(|records| !records.is_empty())
        })
        .await;
        let data = &message.data;
        assert_eq!(
            data.enrichment.status,
            EnrichmentStatus::Complete,
            "{:?}",
            data.enrichment
        );
        let record = data.record.as_ref().unwrap();
        assert_eq!(
            record.properties["amount"],
            PropertyValue::Number("1250.50".into())
        );
        assert!(
            record.labels.contains_key("dealstage"),
            "{:?}",
            record.labels.keys()
        );
        assert_eq!(data.owners["hubspot_owner_id"].id.as_str(), owner.unwrap());
        assert!(data.owners["hubspot_owner_id"].email.is_some());
        assert_eq!(
            data.associations["contact"][0].id.as_str(),
            contact.to_string()
        );
        let stage = data.pipeline.as_ref().unwrap().stage.as_ref().unwrap();
        assert_eq!(stage.id, "contractsent");
        assert!(
            stage.label.is_some() && stage.closed == Some(false),
            "{stage:?}"
        );
        assert_eq!(
            simulator.control().counters(PORTAL).unwrap().rate_limited,
            0
        );
        simulator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_deletions_and_privacy_deletions_arrive_as_tombstones() {
    let (simulator, relay) = world(&Bus::Embedded, PortalOptions::new(PORTAL), "").await;
    let hubspot = simulator.control();
    let ids = hubspot.ids(PORTAL, "contacts").unwrap();
    let survivor = hubspot.merge(PORTAL, "contacts", ids[0], ids[1]).unwrap();
    hubspot.archive(PORTAL, "contacts", ids[2]).unwrap();
    hubspot.gdpr_delete(PORTAL, ids[3]).unwrap();

    let tombstone = async |id: u64, reason: TombstoneReason| {
        let subject = format!("contact/{id}");
        arrives(&relay, &format!("{reason:?} of {subject}"), |message| {
            let is = message
                .data
                .tombstone
                .as_ref()
                .is_some_and(|tombstone| tombstone.reason == reason);
            is && message.subject == subject
        })
        .await
    };
    for old in &ids[..2] {
        let message = tombstone(*old, TombstoneReason::Merged).await;
        let into = message.data.tombstone.unwrap().merged_into.unwrap();
        assert_eq!(into.as_str(), survivor.to_string());
    }
    let kept = arrives(&relay, "the survivor", |message| {
        message.subject == format!("contact/{survivor}") && message.data.record.is_some()
    })
    .await;
    let merge = kept.data.events.iter().find_map(|event| match &event.body {
        EventBody::Object(object) => Some(object).filter(|_| event.kind() == "merged"),
        _ => None,
    });
    let ObjectChange::Merged {
        merged_object_ids,
        primary_object_id,
        new_object_id,
        ..
    } = &merge.unwrap().change
    else {
        panic!("{merge:?}")
    };
    let old: HashSet<_> = merged_object_ids.iter().map(ToString::to_string).collect();
    assert_eq!(
        old,
        HashSet::from([ids[0], ids[1]].map(|id| id.to_string()))
    );
    let named = [primary_object_id, new_object_id].map(|id| id.as_ref().unwrap().to_string());
    assert_eq!(named, [ids[0], survivor].map(|id| id.to_string()));

    let deleted = tombstone(ids[2], TombstoneReason::Deleted).await;
    assert_eq!(deleted.r#type, "crm.contact.deleted.v1");
    hubspot.restore(PORTAL, "contacts", ids[2]).unwrap();
    let restored = arrives(&relay, "the restored record", |message| {
        let events = &message.data.events;
        message.subject == deleted.subject && events.iter().any(|event| event.kind() == "restored")
    })
    .await;
    assert!(restored.data.record.is_some() && restored.data.tombstone.is_none());
    assert!(restored.data.version > deleted.data.version);
    let erased = tombstone(ids[3], TombstoneReason::PrivacyDeleted).await;
    assert!(erased.data.record.is_none());
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_stays_within_the_limits_of_a_small_portal() {
    let limits = Limits {
        burst: 12,
        associations: 10,
        ..Limits::default()
    };
    let portal = PortalOptions {
        limits,
        ..PortalOptions::new(PORTAL)
    };
    let (simulator, relay) = world(&Bus::Embedded, portal, "").await;
    let hubspot = simulator.control();
    let created = hubspot.import(PORTAL, "contacts", 700).unwrap();
    for id in hubspot.ids(PORTAL, "companies").unwrap() {
        hubspot
            .update(PORTAL, "companies", id, &[("description", "changed")])
            .unwrap();
    }
    eventually(
        "every record arrives",
        Duration::from_secs(60),
        async || {
            let seen: std::collections::BTreeSet<_> = lines(&relay)
                .into_iter()
                .map(|message| message.subject)
                .collect();
            created
                .iter()
                .all(|id| seen.contains(&format!("contact/{id}")))
                .then_some(())
        },
    )
    .await;
    let counters = hubspot.counters(PORTAL).unwrap();
    assert_eq!(counters.rate_limited, 0, "{counters:?}");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_keeps_the_events_until_it_is_good_again() {
    let (simulator, mut relay) = world(&Bus::Embedded, PortalOptions::new(PORTAL), "").await;
    let hubspot = simulator.control();
    hubspot.set_revoked(PORTAL, true).unwrap();
    let id = hubspot
        .create(PORTAL, "contacts", &[("email", "kept@example.com")])
        .unwrap();
    eventually("the portal is paused", ARRIVAL_MAX, async || {
        relay
            .metrics()
            .await
            .contains("crm_relay_enrich_portals{state=\"paused\"} 1")
            .then_some(())
    })
    .await;
    assert!(
        lines(&relay)
            .iter()
            .all(|message| message.subject != format!("contact/{id}"))
    );
    let shows = "it shows as waiting, and not as something that the worker does not get on with";
    eventually(shows, ARRIVAL_MAX, async || {
        let waiting = relay.metric("crm_relay_enrich_waiting_events").await;
        let oldest = relay
            .metric("crm_relay_enrich_oldest_waiting_seconds")
            .await;
        (waiting > Some(0.0) && oldest == Some(0.0)).then_some(())
    })
    .await;
    hubspot.set_revoked(PORTAL, false).unwrap();
    relay.kill();
    relay.resume().await;
    let subject = format!("contact/{id}");
    arrives(&relay, "what was kept", |message| {
        message.subject == subject
    })
    .await;
    assert!(
        !relay.log().contains("kept@example.com"),
        "no property value in the log"
    );
    simulator.stop().await;
}

/// A portal that is on one partition with `other`.
fn neighbour_of(other: u64, partitions: u16) -> u64 {
    let partition = |portal: u64| partition_of(&portal.to_string().as_str().into(), partitions);
    (1..)
        .find(|portal| *portal != other && partition(*portal) == partition(other))
        .unwrap()
}

async fn a_revoked_neighbour_is_not_felt_and_loses_nothing(bus: Bus, partitions: u16) {
    let revoked = neighbour_of(PORTAL, partitions);
    let portals = [PORTAL, revoked].map(PortalOptions::new).to_vec();
    let options = SimulatorOptions {
        portals: portals.clone(),
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    let more = "[worker]\nprefetch = 4\n";
    let mut relay = RelayProcess::start(&simulator, &portals, &bus, more).await;
    let hubspot = simulator.control();
    hubspot.set_revoked(revoked, true).unwrap();
    let set_aside = "crm_relay_enrich_set_aside_batches_total";
    let mut theirs = HashSet::new();
    eventually("the window would be full", ARRIVAL_MAX, async || {
        let id = hubspot.create(revoked, "contacts", &[]).unwrap();
        theirs.insert(format!("contact/{id}"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let count = relay.metric(set_aside).await;
        count.filter(|count| *count >= 20.0)
    })
    .await;

    let mut arrived = HashSet::new();
    let ours = hubspot.create(PORTAL, "contacts", &[]).unwrap();
    eventually("the other portal's change", ARRIVAL_MAX, async || {
        arrived.extend(subjects(&relay, &bus).await);
        let ours = (PORTAL.to_string(), format!("contact/{ours}"));
        arrived.contains(&ours).then_some(())
    })
    .await;
    assert!(
        arrived
            .iter()
            .all(|(portal, _)| *portal == PORTAL.to_string())
    );

    // Nothing new comes to the partition: the backlog itself must bring the work back.
    relay.kill();
    hubspot.set_revoked(revoked, false).unwrap();
    relay.resume().await;
    eventually("what was set aside", ARRIVAL_MAX, async || {
        arrived.extend(subjects(&relay, &bus).await);
        let wanted = |id: &String| arrived.contains(&(revoked.to_string(), id.clone()));
        theirs.iter().all(wanted).then_some(())
    })
    .await;
    simulator.stop().await;
}

/// Portal and subject of what came to the destination `out`; from a queue, since the last call.
async fn subjects(relay: &RelayProcess, bus: &Bus) -> Vec<(String, String)> {
    let messages = match bus {
        Bus::Embedded => lines(relay),
        Bus::RabbitMq { url, prefix } => drain(url, &format!("{prefix}.destination.out")).await,
    };
    let messages = messages.into_iter();
    messages
        .map(|message| (message.data.portal_id.to_string(), message.subject))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_neighbour_is_not_felt_on_rabbitmq() {
    let bus = Bus::RabbitMq {
        url: broker::shared().url(),
        prefix: broker::unique_prefix(),
    };
    a_revoked_neighbour_is_not_felt_and_loses_nothing(bus, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_neighbour_is_not_felt_on_the_embedded_bus() {
    a_revoked_neighbour_is_not_felt_and_loses_nothing(Bus::Embedded, 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_settles_what_is_in_flight_and_exits_with_0() {
    let (simulator, mut relay) = world(&Bus::Embedded, PortalOptions::new(PORTAL), "").await;
    let hubspot = simulator.control();
    hubspot.set_traffic(100.0);
    arrives(&relay, "the first message", |_| true).await;
    hubspot.set_traffic(0.0);
    let status = relay.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", relay.log());
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_not_ready_any_more_still_answers_for_the_delay() {
    let more = "[shutdown]\ndelay = \"6s\"";
    let (simulator, mut relay) = world(&Bus::Embedded, PortalOptions::new(PORTAL), more).await;
    assert_eq!(relay.probe("/readyz").await, 200);
    let asked = std::time::Instant::now();
    relay.ask_to_stop();
    eventually("not ready any more", Duration::from_secs(4), async || {
        (relay.probe("/readyz").await == 503).then_some(())
    })
    .await;
    assert_eq!(relay.unsigned_request().await, Some(401));
    assert_eq!(relay.probe("/livez").await, 200);
    assert_eq!(relay.ended().await.code(), Some(0), "{}", relay.log());
    assert!(asked.elapsed() >= Duration::from_secs(6));
    assert_eq!(relay.unsigned_request().await, None);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_queue_gets_what_its_patterns_match_and_so_does_one_bound_by_others() {
    let (bus, url, prefix) = Bus::on_rabbitmq();
    let more = "[destination.deals]\nkind = \"queue\"\nmatch = [\"*.deal.#\"]\n\
                [destination.small]\nkind = \"queue\"\nmatch = [\"*.company.#\"]\nmax_length_bytes = \"1 KiB\"\n";
    let (simulator, relay) = world(&bus, PortalOptions::new(PORTAL), more).await;

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
            format!("{prefix}.enriched").as_str().into(),
            "*.contact.property_changed.lastname".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();

    let hubspot = simulator.control();
    let contact = hubspot.ids(PORTAL, "contacts").unwrap()[0];
    hubspot
        .update(
            PORTAL,
            "contacts",
            contact,
            &[("lastname", "Changed"), ("firstname", "Also")],
        )
        .unwrap();
    let deal = hubspot.ids(PORTAL, "deals").unwrap()[0];
    hubspot
        .update(PORTAL, "deals", deal, &[("amount", "7")])
        .unwrap();
    let company = hubspot.ids(PORTAL, "companies").unwrap()[0];
    let mut update = 0;
    let dead = format!("{prefix}.dead.letters");
    let (mut all, mut deals, mut bound, mut letters) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    eventually("all have arrived", ARRIVAL_MAX, async || {
        // A quorum queue notices that it is full a moment after it is: what comes later is refused.
        update += 1;
        let description = format!("change {update}, more than a kilobyte for its queue");
        let properties = [("description", description.as_str())];
        hubspot
            .update(PORTAL, "companies", company, &properties)
            .unwrap();
        all.extend(drain(&url, &format!("{prefix}.destination.out")).await);
        deals.extend(drain(&url, &format!("{prefix}.destination.deals")).await);
        bound.extend(drain(&url, &theirs).await);
        letters.extend(drain_bodies(&url, &dead).await);
        (all.len() >= 3 && !deals.is_empty() && !bound.is_empty() && !letters.is_empty())
            .then_some(())
    })
    .await;
    assert!(
        deals
            .iter()
            .all(|message| message.subject == format!("deal/{deal}"))
    );
    assert!(
        bound
            .iter()
            .all(|message| message.subject == format!("contact/{contact}"))
    );
    let letter: serde_json::Value = serde_json::from_slice(&letters[0]).unwrap();
    assert_eq!(letter["reason"], "destination_full");
    assert_eq!(letter["destination"], "small");
    assert!(
        letter["enriched_event"]["subject"]
            .as_str()
            .unwrap()
            .starts_with("company/")
    );
    let full = "crm_relay_dead_letters_total{reason=\"destination_full\",stage=\"fan_out\"}";
    assert!(relay.metric(full).await.unwrap() >= 1.0);
    eventually("the full queue's depth shows", ARRIVAL_MAX, async || {
        let small = "crm_relay_bus_queue_messages{queue=\"destination.small\"}";
        relay
            .metric(small)
            .await
            .filter(|messages| *messages >= 1.0)
    })
    .await;
    connection.close(200, "done".into()).await.unwrap();
    simulator.stop().await;
}

async fn what_hubspot_repeats_after_a_restart_does_not_go_out_again(bus: Bus) {
    let (simulator, mut relay) = world(&bus, PortalOptions::new(PORTAL), "").await;
    let hubspot = simulator.control();
    let acked = "crm_relay_bus_settlements_total{settlement=\"ack\"}";
    let known = hubspot.create(PORTAL, "contacts", &[]).unwrap();
    let erased = hubspot.ids(PORTAL, "contacts").unwrap()[0];
    hubspot
        .update(PORTAL, "contacts", erased, &[("firstname", "Erased")])
        .unwrap();
    hubspot.gdpr_delete(PORTAL, erased).unwrap();
    let mut arrived = Vec::new();
    for id in [known, erased] {
        eventually("the change", ARRIVAL_MAX, async || {
            arrived.extend(subjects(&relay, &bus).await);
            let wanted = (PORTAL.to_string(), format!("contact/{id}"));
            arrived.contains(&wanted).then_some(())
        })
        .await;
    }
    eventually("all that was told has ended", ARRIVAL_MAX, async || {
        let told = hubspot.counters(PORTAL).unwrap().notifications;
        let metrics = relay.metrics().await;
        let ended = metrics
            .lines()
            .filter(|line| line.starts_with("crm_relay_enrich_events_total{"));
        let ended = ended.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        (told.acknowledged == told.made && ended.sum::<u64>() >= told.made).then_some(())
    })
    .await;
    eventually("all is noted", ARRIVAL_MAX, async || {
        let metrics = relay.metrics().await;
        let idle = metric(&metrics, "crm_relay_enrich_waiting_events") == Some(0.0);
        let taken = metric(&metrics, "crm_relay_bus_deliveries_total");
        (idle && metric(&metrics, acked) == taken).then_some(())
    })
    .await;
    // From a queue this takes the rest; of a file it counts the lines.
    let rest = subjects(&relay, &bus).await;
    let before = if matches!(bus, Bus::Embedded) {
        rest.len()
    } else {
        0
    };
    relay.kill();
    relay.resume().await;
    let told = hubspot.acknowledged(PORTAL).unwrap();
    let told: Vec<_> = told.into_iter().map(|one| one.notification).collect();
    relay.post(&told).await;
    // HubSpot promises no order: the change may have been told after the erasure.
    let is_change = |one: &&serde_json::Value| {
        one["objectId"] == erased && one["subscriptionType"] == "object.propertyChange"
    };
    let mut late = told.iter().find(is_change).unwrap().clone();
    late["eventId"] = 7_777_777.into();
    relay.post(&[late]).await;
    let new = hubspot.create(PORTAL, "contacts", &[]).unwrap();
    let mut again = Vec::new();
    eventually("a new change", ARRIVAL_MAX, async || {
        let all = subjects(&relay, &bus).await;
        match bus {
            Bus::Embedded => again = all[before..].to_vec(),
            Bus::RabbitMq { .. } => again.extend(all),
        }
        let wanted = (PORTAL.to_string(), format!("contact/{new}"));
        again.contains(&wanted).then_some(())
    })
    .await;
    let new = format!("contact/{new}");
    assert!(
        again.iter().all(|(_, subject)| *subject == new),
        "{again:?}"
    );
    let metrics = relay.metrics().await;
    let ended = |ending| {
        metric(
            &metrics,
            &format!("crm_relay_enrich_events_total{{ending=\"{ending}\"}}"),
        )
    };
    assert_eq!(ended("duplicate"), Some(told.len() as f64));
    assert_eq!(
        ended("purged"),
        Some(1.0),
        "a late notification of the erased record"
    );
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hubspot_repeats_after_a_restart_does_not_go_out_again_on_rabbitmq() {
    let bus = Bus::RabbitMq {
        url: broker::shared().url(),
        prefix: broker::unique_prefix(),
    };
    what_hubspot_repeats_after_a_restart_does_not_go_out_again(bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hubspot_repeats_after_a_restart_does_not_go_out_again_on_the_embedded_bus() {
    what_hubspot_repeats_after_a_restart_does_not_go_out_again(Bus::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_value_is_nowhere_in_the_store_once_the_relay_has_stopped() {
    let (simulator, mut relay) = world(&Bus::Embedded, PortalOptions::new(PORTAL), "").await;
    let hubspot = simulator.control();
    let id = hubspot
        .create(PORTAL, "contacts", &[("email", "erase-me@example.com")])
        .unwrap();
    hubspot
        .update(PORTAL, "contacts", id, &[("firstname", "Erasmia")])
        .unwrap();
    let holds = |relay: &RelayProcess| {
        let mut files = relay.store_files().into_iter();
        files.any(|file| {
            let bytes = std::fs::read(file).unwrap();
            ["erase-me@example.com", "Erasmia"].iter().any(|value| {
                bytes
                    .windows(value.len())
                    .any(|part| part == value.as_bytes())
            })
        })
    };
    eventually("the value is in the store", ARRIVAL_MAX, async || {
        holds(&relay).then_some(())
    })
    .await;
    hubspot.gdpr_delete(PORTAL, id).unwrap();
    arrives(&relay, "the tombstone", |message| {
        message.subject == format!("contact/{id}") && message.data.tombstone.is_some()
    })
    .await;
    assert!(relay.terminate().await.success());
    assert!(!holds(&relay));
    assert!(!relay.log().contains("erase-me@") && !relay.log().contains("Erasmia"));
    simulator.stop().await;
}
