//! What a message says of a record, from the wire to the destination.

use std::collections::{BTreeMap, BTreeSet};

use crm_relay::event::{
    AssociationEvent, EdgeId, EnrichedEvent, EnrichmentStatus, EventBody, ObjectChange,
    PropertyValue,
};
use crm_relay::simulator::{Control, PortalOptions};

use crate::delivery::{PORTAL, arrives, lines, world};
use crate::helpers::relay::{Bus, RelayProcess};

const PASSPORT: &str = "P-SECRET-1";

fn text(text: &str) -> PropertyValue {
    PropertyValue::Text(text.to_owned())
}

/// Ids of owners that seeded contacts name.
fn owners(hubspot: &Control) -> BTreeSet<String> {
    let contacts = hubspot.ids(PORTAL, "contacts").unwrap();
    let named = contacts.into_iter().filter_map(|id| {
        let record = hubspot.record(PORTAL, "contacts", id).unwrap()?;
        let owner = &record["properties"]["account_manager"];
        owner.as_str().map(str::to_owned)
    });
    named.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_arrives_typed_identified_marked_and_with_what_it_held_before() {
    let (simulator, mut relay) = world(&Bus::Embedded, PortalOptions::new(PORTAL), "").await;
    for (key, value) in [
        ("ENRICH__CONTACT__RAW", "true"),
        ("ENRICH__CONTACT__PREVIOUS_VALUES", "true"),
        ("ENRICH__CONTACT__SENSITIVITY", "[\"sensitive\"]"),
        ("PORTAL__8241__EXTERNAL_ID__CONTACT", "customer_number"),
    ] {
        relay.set_env(&format!("CRM_RELAY__{key}"), value);
    }
    relay.kill();
    relay.resume().await;
    let hubspot = simulator.control();
    let owners: Vec<String> = owners(&hubspot).into_iter().take(2).collect();
    let properties = [
        ("email", "zoe@example.com"),
        ("customer_number", "0042"),
        ("passport_number", PASSPORT),
        ("birthday", "2001-02-03"),
        ("lifecyclestage", "lead"),
        ("hubspot_owner_id", &owners[0]),
        ("account_manager", &owners[1]),
    ];
    let id = hubspot.create(PORTAL, "contacts", &properties).unwrap();
    let subject = format!("contact/{id}");
    let changes = |message: &EnrichedEvent, name: &str| {
        let events = message.data.events.iter();
        let mut of_name = events.filter(|event| match &event.body {
            EventBody::Object(object) => {
                matches!(&object.change, ObjectChange::PropertyChanged { property_name, .. } if property_name == name)
            }
            _ => false,
        });
        of_name.next().cloned()
    };
    let message = arrives(&relay, "the contact", |message| {
        message.subject == subject && changes(message, "birthday").is_some()
    })
    .await;
    let data = &message.data;
    assert_eq!(
        data.enrichment.status,
        EnrichmentStatus::Complete,
        "{:?}",
        data.enrichment
    );
    assert_eq!(data.external_id.as_deref(), Some("0042"));
    let identifiers = [("email", "zoe@example.com"), ("customer_number", "0042")];
    let identifiers = identifiers.map(|(name, value)| (name.to_owned(), text(value)));
    assert_eq!(data.identifiers, identifiers.into());
    for (name, id) in ["hubspot_owner_id", "account_manager"].iter().zip(&owners) {
        let owner = &data.owners[*name];
        assert_eq!(owner.id.as_str(), id);
        assert!(owner.name.is_some() && owner.user_id.as_ref().is_some_and(|user| user != id));
    }
    let record = data.record.as_ref().unwrap();
    let birthday = changes(&message, "birthday").unwrap();
    assert_eq!(
        birthday.value,
        Some(text("2001-02-03")),
        "milliseconds on the wire"
    );
    assert_eq!(record.properties["birthday"], text("2001-02-03"));
    assert_eq!(record.raw.as_ref().unwrap()["birthday"], "2001-02-03");
    assert_eq!(record.sensitive, ["passport_number"]);
    assert_eq!(record.properties["passport_number"], text(PASSPORT));
    assert!(record.calculated.contains(&"createdate".to_owned()));
    assert!(record.read_only.contains(&"createdate".to_owned()));

    let update = [("lifecyclestage", "customer"), ("birthday", "")];
    hubspot.update(PORTAL, "contacts", id, &update).unwrap();
    let message = arrives(&relay, "the update", |message| {
        let stage = changes(message, "lifecyclestage");
        message.subject == subject
            && stage.is_some_and(|event| event.value == Some(text("customer")))
            && changes(message, "birthday").is_some()
    })
    .await;
    let record = message.data.record.as_ref().unwrap();
    assert_eq!(
        record.properties["birthday"],
        PropertyValue::Null,
        "it was cleared"
    );
    let before = &message.data.previous_values;
    // A message that lists the creation too tells of what was before that.
    let was_new = changes(&message, "email").is_some();
    let lead = if was_new {
        PropertyValue::Null
    } else {
        text("lead")
    };
    assert_eq!(before["lifecyclestage"], lead);
    let born = if was_new {
        PropertyValue::Null
    } else {
        text("2001-02-03")
    };
    assert_eq!(before["birthday"], born);
    assert!(!relay.log().contains(PASSPORT) && !relay.log().contains("zoe@"));
    simulator.stop().await;
}

/// The association events that arrived so far between two records, by edge: each with the type it starts from.
fn edges(relay: &RelayProcess, one: u64, other: u64) -> BTreeMap<EdgeId, Vec<AssociationEvent>> {
    let ends = BTreeSet::from([one.to_string(), other.to_string()]);
    let mut edges: BTreeMap<EdgeId, Vec<AssociationEvent>> = BTreeMap::new();
    for event in lines(relay)
        .into_iter()
        .flat_map(|message| message.data.events)
    {
        let EventBody::Association(edge) = event.body else {
            continue;
        };
        let ids = [&edge.from_object_id, &edge.to_object_id].map(ToString::to_string);
        if BTreeSet::from(ids) == ends {
            edges
                .entry(edge.edge_id.clone().unwrap())
                .or_default()
                .push(edge);
        }
    }
    edges
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_association_is_one_edge_from_both_ends_and_all_of_a_record_are_listed() {
    let more = "[enrich.company]\nassociations = [\"contact\"]\n";
    let (simulator, relay) = world(&Bus::Embedded, PortalOptions::new(PORTAL), more).await;
    let hubspot = simulator.control();
    let contact = hubspot.create(PORTAL, "contacts", &[]).unwrap();
    let [mill, depot] = ["mill", "depot"].map(|name| {
        hubspot
            .create(PORTAL, "companies", &[("name", name)])
            .unwrap()
    });
    hubspot
        .associate(PORTAL, ("contacts", contact), ("companies", mill), &[1])
        .unwrap();
    hubspot
        .associate(PORTAL, ("companies", mill), ("companies", depot), &[13])
        .unwrap();
    hubspot
        .disassociate(PORTAL, ("companies", mill), ("companies", depot), &[13])
        .unwrap();

    let told = crate::helpers::eventually(
        "both ends of all edges",
        crate::delivery::ARRIVAL_MAX,
        async || {
            let told = (edges(&relay, contact, mill), edges(&relay, mill, depot));
            let count =
                |edges: &BTreeMap<EdgeId, Vec<AssociationEvent>>| edges.values().flatten().count();
            // Unlabelled and primary; unlabelled and parent, and the parent gone: each from both ends.
            (count(&told.0) == 4 && count(&told.1) == 6).then_some(told)
        },
    )
    .await;
    let ranks: Vec<_> = told
        .0
        .values()
        .map(|both| {
            let from: BTreeSet<_> = both
                .iter()
                .map(|edge| edge.from_object_type_id.name())
                .collect();
            assert_eq!(from, BTreeSet::from(["contact", "company"]), "{both:?}");
            both.iter().map(|edge| edge.is_primary).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(ranks.len(), 2);
    assert!(ranks.contains(&vec![true, true]) && ranks.contains(&vec![false, false]));
    let parent: Vec<_> = told.1.values().filter(|events| events.len() == 4).collect();
    let labels: BTreeSet<_> = parent[0]
        .iter()
        .map(|edge| (edge.association_type_id, edge.label.as_deref()))
        .collect();
    let expected = [
        (Some(13), Some("Child Company")),
        (Some(14), Some("Parent Company")),
    ];
    assert_eq!(
        labels,
        expected.into(),
        "both directions, added and removed, are one edge"
    );

    let many = hubspot.import(PORTAL, "contacts", 501).unwrap();
    for id in &many {
        hubspot
            .associate(PORTAL, ("companies", depot), ("contacts", *id), &[])
            .unwrap();
    }
    let subject = format!("company/{depot}");
    let message = arrives(&relay, "all contacts of the depot", |message| {
        let listed = message.data.associations.get("contact");
        message.subject == subject && listed.is_some_and(|all| all.len() == many.len())
    })
    .await;
    assert!(message.data.enrichment.problems.is_empty());
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deal_arrives_with_all_its_owners_its_json_and_the_place_of_its_stage() {
    let (simulator, relay) = world(&Bus::Embedded, PortalOptions::new(PORTAL), "").await;
    let hubspot = simulator.control();
    let owners: Vec<String> = owners(&hubspot).into_iter().take(2).collect();
    let properties = [
        ("dealname", "Ten chairs"),
        ("pipeline", "renewals"),
        ("dealstage", "renewal_won"),
        ("collaborators", &owners.join(";")),
        ("configuration", "{\n  \"seats\": 2.50\n}"),
    ];
    let id = hubspot.create(PORTAL, "deals", &properties).unwrap();
    let ticket = [
        ("subject", "Help"),
        ("hs_pipeline", "0"),
        ("hs_pipeline_stage", "4"),
    ];
    let ticket = hubspot.create(PORTAL, "tickets", &ticket).unwrap();
    let whole = async |subject: String| {
        arrives(&relay, &subject, |message| {
            message.subject == subject && message.data.pipeline.is_some()
        })
        .await
    };
    let deal = whole(format!("deal/{id}")).await.data;
    let listed = &deal.owner_lists["collaborators"];
    let ids: Vec<_> = listed.iter().map(|owner| owner.id.as_str()).collect();
    assert_eq!(ids, owners);
    assert!(listed.iter().all(|owner| owner.email.is_some()));
    let configuration = PropertyValue::Json("{\"seats\":2.50}".to_owned());
    assert_eq!(
        deal.record.unwrap().properties["configuration"],
        configuration
    );
    let pipeline = deal.pipeline.unwrap();
    let stage = pipeline.stage.unwrap();
    assert_eq!(
        (pipeline.display_order, stage.display_order),
        (Some(1), Some(1))
    );
    assert_eq!(
        stage.probability,
        Some(PropertyValue::Number("1.0".to_owned()))
    );
    assert_eq!((stage.closed, stage.ticket_state), (Some(true), None));
    let stage = whole(format!("ticket/{ticket}"))
        .await
        .data
        .pipeline
        .unwrap();
    let stage = stage.stage.unwrap();
    assert_eq!(stage.ticket_state.as_deref(), Some("CLOSED"));
    assert_eq!((stage.closed, stage.display_order), (Some(true), Some(3)));
    simulator.stop().await;
}
