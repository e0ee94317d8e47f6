//! Every object type of HubSpot's arrives typed, whatever is special about it.

use std::collections::BTreeSet;
use std::time::Duration;

use crm_relay::event::{
    EnrichedEvent, EnrichmentPart, EnrichmentStatus, PropertyValue, STANDARD_OBJECT_TYPES,
};
use crm_relay::simulator::{PortalOptions, Simulator, SimulatorOptions};

use crate::helpers::eventually;
use crate::helpers::relay::{Bus, RelayProcess};

const PORTAL: u64 = 8241;
const ARRIVAL_MAX: Duration = Duration::from_secs(60);
/// HubSpot documents neither a read of deal splits by their own id nor notifications of them.
const WITHOUT_A_READ: [&str; 1] = ["deal_split"];
/// A property of each type's own that is a number, a time or a choice, with what is written and what arrives.
const TYPED: [(&str, &str, &str, &str); 10] = [
    ("product", "price", "12.50", "12.50"),
    ("line_item", "price", "12.50", "12.50"),
    ("feedback_submission", "hs_value", "9", "9"),
    (
        "marketing_event",
        "hs_start_datetime",
        "1795428000000",
        "\"2026-11-23T10:00:00.000Z\"",
    ),
    ("call", "hs_call_duration", "120000", "120000"),
    (
        "meeting_event",
        "hs_meeting_start_time",
        "1795428000000",
        "\"2026-11-23T10:00:00.000Z\"",
    ),
    (
        "communication",
        "hs_communication_channel_type",
        "SMS",
        "\"SMS\"",
    ),
    ("invoice", "hs_amount_billed", "1.10", "1.10"),
    (
        "lead",
        "hs_pipeline_stage",
        "new-stage-id",
        "\"new-stage-id\"",
    ),
    ("order", "hs_total_price", "7", "7"),
];

async fn world(more: &str) -> (Simulator, RelayProcess) {
    let portals = vec![PortalOptions::new(PORTAL)];
    let options = SimulatorOptions {
        portals: portals.clone(),
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    let relay = RelayProcess::start(&simulator, &portals, &Bus::Embedded, more).await;
    (simulator, relay)
}

fn lines(relay: &RelayProcess, file: &str) -> Vec<EnrichedEvent> {
    let path = relay.ndjson_path().with_file_name(file);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn arrives(
    relay: &RelayProcess,
    what: &str,
    wanted: impl Fn(&EnrichedEvent) -> bool,
) -> EnrichedEvent {
    eventually(what, ARRIVAL_MAX, async || {
        lines(relay, "out.ndjson")
            .into_iter()
            .find(|message| wanted(message))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_of_the_table_arrives_typed_with_its_record() {
    let (simulator, relay) = world("").await;
    let hubspot = simulator.control();
    let mut wanted = Vec::new();
    for standard in STANDARD_OBJECT_TYPES {
        if WITHOUT_A_READ.contains(&standard.singular) {
            continue;
        }
        let typed = TYPED.iter().find(|typed| typed.0 == standard.singular);
        let properties: Vec<_> = typed.iter().map(|typed| (typed.1, typed.2)).collect();
        let id = hubspot
            .create(PORTAL, standard.plural, &properties)
            .unwrap();
        wanted.push((standard, typed, id));
    }
    for (standard, typed, id) in wanted {
        let id = id.to_string();
        let message = arrives(&relay, standard.singular, |message| {
            message.data.object_id.as_str() == id && message.data.record.is_some()
        })
        .await;
        let data = &message.data;
        if standard.id.starts_with("0-") {
            assert_eq!(message.subject, format!("{}/{id}", standard.singular));
            assert_eq!(data.object_type_id.as_str(), standard.id);
        } else {
            // Nobody publishes its id; under the one it comes by it flows as any unknown type does.
            assert_eq!(message.subject, format!("{}/{id}", data.object_type_id));
        }
        assert_eq!(
            data.enrichment.status,
            EnrichmentStatus::Complete,
            "{data:?}"
        );
        let properties = &data.record.as_ref().unwrap().properties;
        assert!(matches!(
            properties["hs_object_id"],
            PropertyValue::Number(_)
        ));
        if let Some((_, name, _, arrived)) = typed {
            let value = serde_json::to_string(&properties[*name]).unwrap();
            assert_eq!(value, *arrived, "{} {name}", standard.singular);
        }
    }
    let counters = hubspot.counters(PORTAL).unwrap();
    assert_eq!(counters.rate_limited, 0);
    assert!(
        !counters.calls.contains_key("schemas"),
        "no custom object was met"
    );
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_object_arrives_by_its_name_with_its_labelled_associations() {
    let more = "[enrich.p_car]\nassociations = [\"contact\"]\n\
                [enrich.deal]\nassociations = [\"p_car\"]\n\
                [destination.cars]\nkind = \"ndjson\"\npath = \"cars.ndjson\"\nmatch = [\"*.p_car.#\"]\n";
    for version in ["2026-09", "v3"] {
        let portals = vec![PortalOptions::new(PORTAL)];
        let options = SimulatorOptions {
            portals: portals.clone(),
            ..SimulatorOptions::default()
        };
        let simulator = Simulator::start(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cars = folder.path().join("cars.ndjson");
        let more = more.replace("\"cars.ndjson\"", &format!("{cars:?}"));
        let more = format!("{more}[log]\nfilter = \"debug\"\n");
        let mut relay = RelayProcess::start(&simulator, &portals, &Bus::Embedded, &more).await;
        relay.set_env("CRM_RELAY__HUBSPOT__API_VERSION", version);
        relay.kill();
        relay.resume().await;

        let hubspot = simulator.control();
        let contact = hubspot.ids(PORTAL, "contacts").unwrap()[0];
        let car = hubspot
            .create(
                PORTAL,
                "2-1234567",
                &[("plate", "B-AR 5"), ("year", "2021")],
            )
            .unwrap();
        let (from, to) = (("p_car", car), ("contacts", contact));
        hubspot.associate(PORTAL, from, to, &[105]).unwrap();
        hubspot
            .update(PORTAL, "p8241_car", car, &[("electric", "true")])
            .unwrap();
        let message = arrives(&relay, "the car", |message| {
            let associated = message.data.associations.get("contact");
            message.subject == format!("2-1234567/{car}")
                && associated.is_some_and(|contacts| !contacts.is_empty())
        })
        .await;
        let data = &message.data;
        assert_eq!(data.enrichment.status, EnrichmentStatus::Complete);
        let schema = data.object_schema.as_ref().unwrap();
        assert_eq!(schema.fully_qualified_name.as_deref(), Some("p8241_car"));
        assert_eq!(schema.labels.singular.as_deref(), Some("Car"));
        assert_eq!(schema.primary_display_property.as_deref(), Some("plate"));
        let properties = &data.record.as_ref().unwrap().properties;
        assert_eq!(properties["year"], PropertyValue::Number("2021".into()));
        assert_eq!(
            data.associations["contact"][0].id.as_str(),
            contact.to_string()
        );
        assert_eq!(data.associations["contact"][0].labels, ["Driver"]);

        hubspot.archive(PORTAL, "p_car", car).unwrap();
        let deal = hubspot
            .create(PORTAL, "deals", &[("dealname", "d")])
            .unwrap();
        let deal = arrives(&relay, "the deal", |message| {
            message.subject == format!("deal/{deal}")
        })
        .await;
        assert!(deal.data.associations["p_car"].is_empty());
        eventually(
            "the tombstone at the destination of cars",
            ARRIVAL_MAX,
            async || {
                let text = std::fs::read_to_string(&cars).unwrap_or_default();
                text.contains("crm.2-1234567.deleted.v1").then_some(())
            },
        )
        .await;
        let text = std::fs::read_to_string(&cars).unwrap();
        assert!(!text.contains("\"deal/"), "cars and nothing else");
        assert_eq!(hubspot.counters(PORTAL).unwrap().calls["schemas"], 1);
        simulator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engagement_arrives_with_what_it_is_attached_to_and_what_is_attached_to_it() {
    let more = "[enrich.note]\nattachments = \"metadata\"\n\
                [enrich.call]\nattachments = \"signed_urls\"\n[log]\nfilter = \"debug\"\n";
    let (simulator, relay) = world(more).await;
    let hubspot = simulator.control();
    let contact = hubspot.ids(PORTAL, "contacts").unwrap()[0];
    let add = |name, access| hubspot.add_file(PORTAL, name, access, 4_096).unwrap();
    let private = add(("offer", "pdf"), "PRIVATE");
    let public = add(("logo", "png"), "PUBLIC_INDEXABLE");
    let attached = format!("{private};{public};1");
    let mut subjects = Vec::new();
    for (plural, singular) in [("notes", "note"), ("calls", "call")] {
        let id = hubspot
            .create(PORTAL, plural, &[("hs_attachment_ids", &attached)])
            .unwrap();
        hubspot
            .associate(PORTAL, (plural, id), ("contacts", contact), &[])
            .unwrap();
        subjects.push(format!("{singular}/{id}"));
    }
    let mut messages = Vec::new();
    for subject in &subjects {
        let message = arrives(&relay, subject, |message| {
            let associated = message.data.associations.get("contact");
            message.subject == *subject && associated.is_some_and(|to| !to.is_empty())
        })
        .await;
        messages.push(message);
    }
    for message in &messages {
        let files = message.data.attachments.as_ref().unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name.as_deref()).collect();
        assert_eq!(names, [Some("offer"), Some("logo"), None]);
        assert_eq!(files[0].access.as_deref(), Some("PRIVATE"));
        assert_eq!(
            (files[0].size, files[0].r#type.as_deref()),
            (Some(4_096), Some("DOCUMENT"))
        );
        assert!(files[0].url.is_none() && files[1].url.is_some());
        let types: BTreeSet<_> = message
            .data
            .associations
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            types,
            BTreeSet::from(["company", "contact", "deal", "ticket"])
        );
        let problems = &message.data.enrichment.problems;
        assert_eq!(
            problems[0].part,
            EnrichmentPart::Attachments,
            "{problems:?}"
        );
    }
    let signed = |at: usize| {
        let files = messages[at].data.attachments.as_ref().unwrap();
        let signed = files.iter().map(|file| file.signed_url.as_ref());
        signed.map(|signed| signed.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(
        (signed(0), signed(1)),
        (vec![false; 3], vec![true, false, false])
    );
    let url = &messages[1].data.attachments.as_ref().unwrap()[0].signed_url;
    let url = url.as_ref().unwrap().url.clone();
    let secret = url.split_once("signature=").unwrap().1;
    assert!(!relay.log().contains(secret), "no signed URL in the log");
    let metrics = relay.metrics().await;
    assert!(!metrics.contains(secret));

    hubspot
        .set_missing_scopes(PORTAL, BTreeSet::from(["files".to_owned()]))
        .unwrap();
    let other = add(("other", "pdf"), "PRIVATE").to_string();
    let id = hubspot
        .create(PORTAL, "notes", &[("hs_attachment_ids", &other)])
        .unwrap();
    let message = arrives(&relay, "the note without the scope", |message| {
        message.subject == format!("note/{id}")
    })
    .await;
    assert!(message.data.record.is_some());
    let problem = &message.data.enrichment.problems[0];
    assert_eq!(problem.missing_scopes, ["files"]);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_arrives_with_its_messages_and_those_who_act() {
    for version in ["2026-09", "v3"] {
        let (simulator, mut relay) = world("[enrich.conversation]\nthread = true\n").await;
        relay.set_env("CRM_RELAY__HUBSPOT__API_VERSION", version);
        relay.kill();
        relay.resume().await;
        let hubspot = simulator.control();
        let contact = hubspot.ids(PORTAL, "contacts").unwrap()[0];
        let ticket = hubspot.ids(PORTAL, "tickets").unwrap()[0];
        let thread = hubspot
            .begin_thread(PORTAL, Some(contact), Some(ticket))
            .unwrap();
        hubspot.assign_thread(PORTAL, thread, "A-75500001").unwrap();
        hubspot.say(PORTAL, thread, "Where is my order?").unwrap();
        let subject = format!("conversation/{thread}");
        let message = arrives(&relay, "the message", |message| {
            let read = message.data.conversation.as_ref();
            message.subject == subject && read.is_some_and(|read| !read.messages.is_empty())
        })
        .await;
        assert_eq!(message.data.enrichment.status, EnrichmentStatus::Complete);
        let read = message.data.conversation.as_ref().unwrap();
        assert_eq!(read.thread.status.as_deref(), Some("OPEN"));
        let ids = (
            read.thread.associated_contact_id.as_ref().unwrap().as_str(),
            read.thread.associated_ticket_id.as_ref().unwrap().as_str(),
        );
        assert_eq!(
            ids,
            (contact.to_string().as_str(), ticket.to_string().as_str())
        );
        assert_eq!(read.messages[0].text.as_deref(), Some("Where is my order?"));
        assert!(read.actors["A-75500001"].email.is_some());
        assert_eq!(read.messages[0].created_by, Some(format!("V-{contact}")));
        assert!(!relay.log().contains("Where is my order?"));

        let gone = hubspot.begin_thread(PORTAL, None, None).unwrap();
        hubspot.archive_thread(PORTAL, gone).unwrap();
        arrives(&relay, "the tombstone", |message| {
            message.subject == format!("conversation/{gone}")
                && message.r#type == "crm.conversation.deleted.v1"
        })
        .await;
        simulator.stop().await;
    }
}
