//! Calls, with everything switched on: every object type, all properties, previous values, associations to the four main
//! types, owners, pipelines, signed URLs of attachments, threads with their messages and actors.
//!
//! The dearest case: no record changes twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crm_relay::event::STANDARD_OBJECT_TYPES;
use crm_relay::simulator::{
    Control, Latency, Limits, PortalOptions, Simulator, SimulatorOptions, Subscriptions,
    WebhookOptions,
};

use crate::Plan;
use crate::broker::Broker;
use crate::contender::{Contender, PARTITIONS, Place, access_token};
use crate::load::{PORTAL, PUBLIC_URL, SECRET};
use crate::queues::Queues;
use crate::report::{Row, Table};
use crate::worker::PROFESSIONAL;

pub const TITLE: &str = "Calls with everything switched on";
const COLUMNS: [&str; 7] = [
    "calls per 1,000 events",
    "of these: records",
    "associations",
    "files",
    "threads, messages, actors",
    "definitions, owners, pipelines, schemas",
    "429s",
];
/// Changed records of each type, and threads with a new message.
const RECORDS: usize = 200;
/// One in so many engagements has a file of its own.
const FILE_EVERY: usize = 10;
/// Changes a second, where they come one at a time.
const RATE: u32 = 10;
const CUSTOM_OBJECT: &str = "2-1234567";
/// Nobody reads these by their own id.
const WITHOUT_A_READ: &str = "deal_split";
/// How long the relay may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// A user who is an owner, in the simulator's seed.
const AGENT: &str = "A-75500001";

/// A change of each is the load.
enum Subject {
    Record { object_type: &'static str, id: u64 },
    Thread(u64),
}

pub async fn measure(plan: &Plan, broker: &Broker, folder: &Path) -> Table {
    let records = if plan.rounds > 1 {
        RECORDS
    } else {
        RECORDS / 10
    };
    let mut rows = Vec::new();
    for (name, is_backlog) in [("a backlog", true), ("10 changes/s", false)] {
        let mut row = Row::new(name);
        // One at a time takes as long as the changes: a tenth of them will do.
        let records = if is_backlog { records } else { records / 10 };
        let prefix = format!("everything-{is_backlog}");
        row.push(round(records, is_backlog, broker, &prefix, folder).await);
        rows.push(row);
    }
    Table {
        title: TITLE,
        note: format!(
            "One change of each of {records} records of every type ({} a type where they come at {RATE} a second), and one new message in as many threads. \
             All properties with previous values, associations to contacts, companies, deals and tickets, owners, pipelines, signed URLs of \
             attachments (one in {FILE_EVERY} engagements has a file), and threads. 100 ms a call, 190 calls per 10 s; one round, since \
             calls are counted and not timed.",
            records / 10,
        ),
        columns: COLUMNS.to_vec(),
        rows,
    }
}

async fn round(
    records: usize,
    is_backlog: bool,
    broker: &Broker,
    prefix: &str,
    folder: &Path,
) -> [(&'static str, f64); 7] {
    let simulator = Simulator::start(options()).await.expect("a simulator");
    let hubspot = simulator.control();
    let subjects = subjects(&hubspot, records);
    let place = Place {
        broker_url: broker.url(),
        prefix: prefix.to_owned(),
        hubspot_url: simulator.base_url(),
        calls_per_10s: PROFESSIONAL.calls_per_10s,
        portals: 1,
        partitions: PARTITIONS,
        enrich: everything(),
    };
    let contender = Contender::Relay;
    let (_receiver, address) = contender.receiver(&place, folder);
    hubspot.set_webhook(Some(webhook(
        address,
        &["object.propertyChange", "conversation.newMessage"],
    )));
    let mut worker = (!is_backlog).then(|| contender.worker(&place, folder));
    let before = hubspot.counters(PORTAL).expect("a portal").calls;
    for subject in &subjects {
        change(&hubspot, subject);
        if !is_backlog {
            tokio::time::sleep(Duration::from_secs(1) / RATE).await;
        }
    }
    assert!(
        hubspot.settled(PATIENCE).await,
        "notifications stay unanswered"
    );
    worker.get_or_insert_with(|| contender.worker(&place, folder));

    let queues = Queues::connect(&broker.url()).await;
    let out = contender.out(prefix);
    queues.wait_for(&out).await;
    let mut seen = HashSet::new();
    let all = queues.consume(&out, Instant::now() + PATIENCE, |message| {
        seen.extend(contender.told(message).into_iter().map(|told| told.id));
        seen.len() >= subjects.len()
    });
    assert!(
        all.await,
        "{} of {} events came",
        seen.len(),
        subjects.len()
    );
    let counters = hubspot.counters(PORTAL).expect("a portal");
    let calls = counters.calls.into_iter();
    let calls: BTreeMap<_, _> = calls
        .map(|(kind, calls)| (kind, calls - before.get(kind).copied().unwrap_or(0)))
        .collect();
    drop(worker);
    queues.delete(&contender.queues(prefix)).await;
    simulator.stop().await;
    figures(&calls, counters.rate_limited, seen.len())
}

fn figures(
    calls: &BTreeMap<&'static str, u64>,
    refused: u64,
    events: usize,
) -> [(&'static str, f64); 7] {
    let per_thousand = |calls: u64| calls as f64 * 1_000.0 / events as f64;
    let of = |kinds: &[&str]| per_thousand(kinds.iter().filter_map(|kind| calls.get(kind)).sum());
    let all = per_thousand(calls.values().sum());
    let records = of(&["objects_batch_read", "object"]);
    let associations = of(&["associations_batch_read"]);
    let files = of(&["file", "file_signed_url"]);
    let threads = of(&[
        "conversation_thread",
        "conversation_message",
        "conversation_actors",
    ]);
    [
        (COLUMNS[0], all),
        (COLUMNS[1], records),
        (COLUMNS[2], associations),
        (COLUMNS[3], files),
        (COLUMNS[4], threads),
        (COLUMNS[5], all - records - associations - files - threads),
        (COLUMNS[6], refused as f64),
    ]
}

fn options() -> SimulatorOptions {
    let portal = PortalOptions {
        access_token: access_token(PORTAL),
        limits: Limits {
            burst: PROFESSIONAL.calls_per_10s.expect("a limit"),
            ..Limits::default()
        },
        ..PortalOptions::new(PORTAL)
    };
    SimulatorOptions {
        portals: vec![portal],
        // What is made before the load is told to nobody.
        webhook: Some(webhook(SocketAddr::from(([127, 0, 0, 1], 1)), &[])),
        latency: Latency {
            min: PROFESSIONAL.latency,
            max: PROFESSIONAL.latency,
        },
        ..SimulatorOptions::default()
    }
}

fn webhook(receiver: SocketAddr, subscriptions: &[&str]) -> WebhookOptions {
    let subscriptions: BTreeSet<_> = subscriptions.iter().map(|one| (*one).to_owned()).collect();
    WebhookOptions {
        signed_url: Some(PUBLIC_URL.to_owned()),
        subscriptions: Subscriptions(subscriptions),
        ..WebhookOptions::new(format!("http://{receiver}/webhooks/hubspot"), SECRET)
    }
}

/// The object types that are read by name, and a custom object.
fn object_types() -> impl Iterator<Item = &'static str> {
    let standard = STANDARD_OBJECT_TYPES.iter();
    let published = standard.filter(|standard| standard.id.starts_with("0-"));
    let names = published.map(|standard| standard.singular);
    names
        .filter(|name| *name != WITHOUT_A_READ)
        .chain([CUSTOM_OBJECT])
}

fn has_attachments(object_type: &str) -> bool {
    let mut standard = STANDARD_OBJECT_TYPES.iter();
    standard.any(|one| one.singular == object_type && one.is_engagement())
}

fn everything() -> String {
    let of_type = |name: &str| {
        let attachments = if has_attachments(name) {
            "attachments = \"signed_urls\"\n"
        } else {
            ""
        };
        format!(
            "[enrich.{name}]\nassociations = [\"contact\", \"company\", \"deal\", \"ticket\"]\nprevious_values = true\n{attachments}"
        )
    };
    let types: String = object_types().map(of_type).collect();
    format!("{types}[enrich.conversation]\nthread = true\n")
}

/// So many records of every type, each associated with a contact, and threads; in turn, as changes come.
fn subjects(hubspot: &Control, records: usize) -> Vec<Subject> {
    let contacts = hubspot.ids(PORTAL, "contacts").expect("contacts");
    let mut subjects = Vec::new();
    for number in 0..records {
        let contact = contacts[number % contacts.len()];
        for object_type in object_types() {
            let id = create(hubspot, object_type, number);
            // HubSpot has no association of some types with contacts: then nothing is associated.
            let _ = hubspot.associate(PORTAL, (object_type, id), ("contacts", contact), &[]);
            subjects.push(Subject::Record { object_type, id });
        }
        let thread = hubspot.begin_thread(PORTAL, Some(contact), None);
        let thread = thread.expect("a thread");
        hubspot
            .assign_thread(PORTAL, thread, AGENT)
            .expect("an agent");
        subjects.push(Subject::Thread(thread));
    }
    subjects
}

fn create(hubspot: &Control, object_type: &str, number: usize) -> u64 {
    let file = (has_attachments(object_type) && number.is_multiple_of(FILE_EVERY)).then(|| {
        let file = hubspot.add_file(PORTAL, ("offer", "pdf"), "PRIVATE", 4_096);
        file.expect("a file").to_string()
    });
    let properties: Vec<_> = file
        .iter()
        .map(|file| ("hs_attachment_ids", file.as_str()))
        .collect();
    hubspot
        .create(PORTAL, object_type, &properties)
        .expect("a record")
}

fn change(hubspot: &Control, subject: &Subject) {
    match subject {
        Subject::Record { object_type, id } => {
            let owner = [("hubspot_owner_id", "1180014")];
            hubspot
                .update(PORTAL, object_type, *id, &owner)
                .expect("a record");
        }
        Subject::Thread(thread) => {
            hubspot
                .say(PORTAL, *thread, "Where is my order?")
                .expect("a thread");
        }
    }
}
