//! One message of each object type, and of each ending, from a relay that reads a seeded HubSpot.
//!
//! What differs between two runs, which is times and what is made of them, is settled; all else must be the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crm_relay::event::{
    DeadLetter, EnrichedEvent, IdentityHasher, Millis, PropertyValue, STANDARD_OBJECT_TYPES,
    Version,
};
use crm_relay::simulator::{Control, PortalOptions, Simulator, SimulatorOptions};
use serde_json::{Value, json};

use super::{DEAD_LETTER, assert_current};
use crate::helpers::broker;
use crate::helpers::eventually;
use crate::helpers::queue::{drain, drain_bodies};
use crate::helpers::relay::{Bus, RelayProcess};

const PORTAL: u64 = 8241;
const ARRIVAL_MAX: Duration = Duration::from_secs(60);
const CUSTOM_OBJECT: &str = "2-1234567";
const NOTE: &str = "note";
/// What stands for times of this run, and for the seed's, which are thirty days older.
const OCCURRED_AT: &str = "2026-11-23T10:00:00.123Z";
const RECEIVED_AT: &str = "2026-11-23T10:00:00.310Z";
const FETCHED_AT: &str = "2026-11-23T10:00:00.456Z";
const SEEDED_AT: &str = "2026-01-02T03:04:05.678Z";
/// HubSpot draws these.
const HUBSPOT_EVENT_ID: &str = "3029365631";
const DAY: Duration = Duration::from_secs(86_400);

/// Changes that tell more than another owner would, by the type's name.
const CHANGES: [(&str, &str, &str); 6] = [
    ("contact", "jobtitle", "Head of Purchasing"),
    ("company", "numberofemployees", "250"),
    ("deal", "amount", "1250.50"),
    ("ticket", "hs_ticket_priority", "HIGH"),
    ("line_item", "price", "12.50"),
    ("task", "hs_task_status", "COMPLETED"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_are_checked_in_as_the_relay_sends_them() {
    let portal = PortalOptions::new(PORTAL);
    let options = SimulatorOptions {
        portals: vec![portal.clone()],
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    let (url, prefix) = (broker::shared().url(), broker::unique_prefix());
    let bus = Bus::RabbitMq {
        url: url.clone(),
        prefix: prefix.clone(),
    };
    let types = simulated_types(&simulator.control());
    let relay = RelayProcess::start(&simulator, &[portal], &bus, &enrich(&types)).await;
    let mut desk = Desk {
        queue: format!("{prefix}.destination.out"),
        url,
        arrived: Vec::new(),
    };

    let mut examples = BTreeMap::new();
    let mut wanted = BTreeMap::new();
    for name in &types {
        let id = change(&simulator.control(), name);
        wanted.insert(name.clone(), (format!("{name}/{id}"), "property_changed"));
    }
    let thread = begin_thread(&simulator.control());
    examples.append(&mut desk.examples(wanted).await);
    let mut wanted = end_and_associate(&simulator.control());
    let said = simulator
        .control()
        .say(PORTAL, thread, "Where is my order?");
    said.unwrap();
    wanted.insert(
        "conversation".to_owned(),
        (format!("conversation/{thread}"), "new_message"),
    );
    examples.append(&mut desk.examples(wanted).await);
    relay.post(&strange_notifications()).await;
    let wanted = BTreeMap::from([("unknown".to_owned(), ("unknown/5".to_owned(), "unknown"))]);
    examples.append(&mut desk.examples(wanted).await);
    for (name, event) in examples {
        let event = settled(&name, event);
        let text = serde_json::to_string_pretty(&event).unwrap();
        assert_current(
            &format!("schemas/examples/{name}.json"),
            &format!("{text}\n"),
        );
    }
    let letters = drain_bodies(&desk.url, &format!("{prefix}.dead.letters")).await;
    let letter = serde_json::to_string_pretty(&settled_letter(&letters[0])).unwrap();
    assert_current(
        &format!("schemas/examples/{DEAD_LETTER}.json"),
        &format!("{letter}\n"),
    );
    simulator.stop().await;
}

/// Reads what arrives.
struct Desk {
    url: String,
    queue: String,
    arrived: Vec<EnrichedEvent>,
}

impl Desk {
    /// The first message about each subject that an event of that kind, and nothing else, led to.
    async fn examples(
        &mut self,
        wanted: BTreeMap<String, (String, &'static str)>,
    ) -> BTreeMap<String, EnrichedEvent> {
        let mut found = BTreeMap::new();
        eventually("an example of each", ARRIVAL_MAX, async || {
            self.arrived.extend(drain(&self.url, &self.queue).await);
            for (name, (subject, kind)) in &wanted {
                let fits = |message: &&EnrichedEvent| {
                    let events = &message.data.events;
                    message.subject == *subject && events.len() == 1 && events[0].kind() == *kind
                };
                if let Some(message) = self.arrived.iter().find(fits) {
                    found.insert(name.clone(), message.clone());
                }
            }
            let missing: Vec<_> = wanted
                .keys()
                .filter(|name| !found.contains_key(*name))
                .collect();
            if !missing.is_empty() {
                eprintln!("still missing: {missing:?}");
            }
            missing.is_empty().then_some(())
        })
        .await;
        found
    }
}

/// The types that the simulator holds, by the names that messages have.
fn simulated_types(hubspot: &Control) -> BTreeSet<String> {
    // Those whose id no source tells have one of the simulator's there.
    let standard = STANDARD_OBJECT_TYPES
        .iter()
        .filter(|standard| standard.id != standard.plural)
        .map(|standard| standard.singular);
    let all = standard.chain([CUSTOM_OBJECT]);
    let simulated = all.filter(|name| hubspot.ids(PORTAL, name).is_ok());
    simulated.map(str::to_owned).collect()
}

/// Reads the associations of every type, and what comes on request alone; the helper's configuration has the
/// associations of contacts.
fn enrich(types: &BTreeSet<String>) -> String {
    let others = types.iter().filter(|name| *name != "contact");
    let of_type = |name: &String| {
        let more = match name.as_str() {
            "deal" | "ticket" => "previous_values = true\n",
            NOTE => "attachments = \"metadata\"\n",
            _ => "",
        };
        format!("[enrich.{name}]\nassociations = [\"contact\", \"company\"]\n{more}")
    };
    let types: String = others.map(of_type).collect();
    format!("{types}[enrich.conversation]\nthread = true\n")
}

/// Changes one property of the first record of a type.
fn change(hubspot: &Control, name: &str) -> u64 {
    let id = hubspot.ids(PORTAL, name).unwrap()[0];
    if name == NOTE {
        return attach(hubspot, id);
    }
    let record = hubspot.record(PORTAL, name, id).unwrap().unwrap();
    let owners = ["1180001", "1180014"];
    let owner = owners
        .iter()
        .find(|owner| record["properties"]["hubspot_owner_id"] != **owner);
    let told = CHANGES.iter().find(|(of, ..)| *of == name);
    let (property, value) = told.map_or(
        ("hubspot_owner_id", *owner.unwrap()),
        |(_, property, value)| (property, value),
    );
    hubspot
        .update(PORTAL, name, id, &[(property, value)])
        .unwrap();
    id
}

/// Attaches a file to a note.
fn attach(hubspot: &Control, note: u64) -> u64 {
    let file = hubspot.add_file(PORTAL, ("offer", "pdf"), "PRIVATE", 48_213);
    let attached = [("hs_attachment_ids", &*file.unwrap().to_string())];
    hubspot.update(PORTAL, NOTE, note, &attached).unwrap();
    note
}

/// A thread of a contact, with an agent.
fn begin_thread(hubspot: &Control) -> u64 {
    let contact = hubspot.ids(PORTAL, "contacts").unwrap()[0];
    let thread = hubspot.begin_thread(PORTAL, Some(contact), None).unwrap();
    hubspot.assign_thread(PORTAL, thread, "A-75500001").unwrap();
    thread
}

/// An association, and the ways in which a record goes.
fn end_and_associate(hubspot: &Control) -> BTreeMap<String, (String, &'static str)> {
    let ids = hubspot.ids(PORTAL, "contacts").unwrap();
    let company = hubspot
        .create(PORTAL, "companies", &[("name", "Acme")])
        .unwrap();
    hubspot
        .associate(PORTAL, ("contacts", ids[2]), ("companies", company), &[])
        .unwrap();
    hubspot.archive(PORTAL, "contacts", ids[3]).unwrap();
    hubspot.gdpr_delete(PORTAL, ids[4]).unwrap();
    hubspot.merge(PORTAL, "contacts", ids[5], ids[6]).unwrap();
    let survivor = hubspot.survivor(PORTAL, "contacts", ids[5]).unwrap();
    let wanted = [
        ("contact-association", ids[2], "association_added"),
        ("contact-deleted", ids[3], "deleted"),
        ("contact-privacy-deleted", ids[4], "privacy_deleted"),
        ("contact-merged-away", ids[6], "merged"),
        ("contact-merged", survivor, "merged"),
    ];
    let wanted = wanted.into_iter();
    wanted
        .map(|(name, id, kind)| (name.to_owned(), (format!("contact/{id}"), kind)))
        .collect()
}

/// What the simulator does not send: of a type that nobody knows, and one that cannot be read.
fn strange_notifications() -> Vec<Value> {
    let head = json!({
        "eventId": 3_269_190_001_u64, "subscriptionId": 2_371_001, "portalId": PORTAL, "appId": 2_438_001,
        "occurredAt": 1_795_428_000_123_i64, "attemptNumber": 0,
    });
    let with = |more: Value| {
        let mut all = head.as_object().unwrap().clone();
        all.extend(more.as_object().unwrap().clone());
        Value::Object(all)
    };
    vec![
        with(
            json!({"subscriptionType": "event.completed", "objectId": 5, "eventTypeName": "pe8241_signed_up"}),
        ),
        json!({"eventId": 1, "portalId": PORTAL, "subscriptionType": "contact.creation"}),
    ]
}

/// The message with times that are the same in every run, and what is made of them.
fn settled(name: &str, event: EnrichedEvent) -> EnrichedEvent {
    let now = Millis::now();
    let mut data = event.data;
    for (place, event) in data.events.iter_mut().enumerate() {
        let mut hasher = IdentityHasher::new("example");
        hasher.field(name);
        hasher.field(&place.to_string());
        event.id = hasher.finish();
        event.hubspot_event_id = Some(HUBSPOT_EVENT_ID.to_owned());
        event.occurred_at = fixed(OCCURRED_AT);
        event.received_at = fixed(RECEIVED_AT);
    }
    if let Some(record) = &mut data.record {
        for time in [&mut record.created_at, &mut record.updated_at] {
            *time = time.map(|time| fixed_time(time, now).map_or(time, fixed));
        }
        for value in record.properties.values_mut() {
            if let PropertyValue::Text(text) = value {
                settle_text(text, now);
            }
        }
    }
    if let Some(conversation) = &mut data.conversation {
        let thread = &mut conversation.thread;
        let times = [&mut thread.created_at, &mut thread.latest_message_at];
        let messages = conversation.messages.iter_mut();
        let times = times
            .into_iter()
            .chain(messages.map(|one| &mut one.created_at));
        times.for_each(|time| *time = time.map(|_| fixed(OCCURRED_AT)));
    }
    data.enrichment.fetched_at = data.enrichment.fetched_at.map(|_| fixed(FETCHED_AT));
    data.version = match data.enrichment.fetched_at {
        Some(fetched_at) => Version::of_read(fixed(OCCURRED_AT), fetched_at),
        None => Version::of_tombstone(fixed(OCCURRED_AT)),
    };
    EnrichedEvent::new(data)
}

fn settled_letter(json: &[u8]) -> DeadLetter {
    DeadLetter {
        failed_at: fixed(OCCURRED_AT),
        ..serde_json::from_slice(json).unwrap()
    }
}

fn fixed(time: &str) -> Millis {
    Millis::parse(time).unwrap()
}

/// A seeded value such as a close date is a whole hour, and stays.
fn settle_text(text: &mut String, now: Millis) {
    let time = Millis::parse(text).filter(|_| !text.ends_with(":00:00.000Z"));
    if let Some(fixed) = time.and_then(|time| fixed_time(time, now)) {
        fixed.clone_into(text);
    }
}

/// What stands for a time that is this run's or the seed's.
fn fixed_time(time: Millis, now: Millis) -> Option<&'static str> {
    let age = now.since(time);
    let seeded = age > 29 * DAY && age < 31 * DAY;
    if age < DAY {
        Some(OCCURRED_AT)
    } else {
        seeded.then_some(SEEDED_AT)
    }
}
