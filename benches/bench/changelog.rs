//! The changelog of a partition: what a note costs, and how long whoever takes the partition over reads.
//!
//! The worst case of what the README promises to remember: 72 hours at 50 events a second, all of one partition, a note
//! each second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_relay::bus::embedded::{Embedded, EmbeddedOptions};
use crm_relay::bus::rabbitmq::{RabbitMq, RabbitMqOptions};
use crm_relay::bus::{Bus, Message, Outgoing, Target};
use crm_relay::config::ClientTlsConfig;
use crm_relay::enrich::{
    Count, Counted, Ending, Engine, Entry, NOTE_DELAY, Note, Plans, SEEN_KEEP, Sent, Tally,
};
use crm_relay::event::{Millis, ObjectTypeId, PortalId, RecordDigest};
use crm_relay::metrics::Metrics;
use tokio::sync::mpsc;

use crate::Plan;
use crate::broker::Broker;
use crate::report::{Row, Table};

const EVENTS_PER_SECOND: u64 = 50;
/// Notes published together while the changelog is filled.
const BATCH: usize = 1_000;
/// Notes written one by one, as a worker does.
const SINGLE: u32 = 200;
/// `--quick` takes one in so many.
const QUICK_SHARE: u64 = 10;
const BYTES: &str = "bytes/event";
const WRITE: &str = "a note, ms";
const READ: &str = "read back, s";

pub async fn measure(plan: &Plan, broker: &Broker, folder: &std::path::Path) -> Table {
    let notes = SEEN_KEEP.as_secs() / NOTE_DELAY.as_secs();
    let notes = if plan.rounds > 1 {
        notes
    } else {
        notes / QUICK_SHARE
    };
    let options = RabbitMqOptions {
        url: broker.url().into(),
        tls: ClientTlsConfig::default(),
        prefix: "changelog".to_owned(),
        partitions: 1,
        publish_timeout: Duration::from_secs(60),
        destinations: Vec::new(),
        connection_name: "bench".to_owned(),
    };
    let rabbitmq = RabbitMq::start(options, Arc::new(Metrics::new())).await;
    let options = EmbeddedOptions {
        data_dir: folder.join("changelog"),
        partitions: 1,
        publish_timeout: Duration::from_secs(60),
    };
    let embedded = Embedded::open(options, Arc::new(Metrics::new()));
    let buses: [(&str, Arc<dyn Bus>); 2] = [
        ("RabbitMQ", Arc::new(rabbitmq.expect("a bus"))),
        ("embedded", Arc::new(embedded.expect("a bus"))),
    ];
    let mut rows = Vec::new();
    for (name, bus) in buses {
        let mut row = Row::new(name);
        let bytes = fill(&*bus, notes).await;
        let write_ms = write_singly(&*bus).await;
        let read = read_back(bus.clone(), notes + u64::from(SINGLE)).await;
        row.push([
            (BYTES, bytes as f64 / (notes * EVENTS_PER_SECOND) as f64),
            (WRITE, write_ms),
            (READ, read.as_secs_f64()),
        ]);
        rows.push(row);
        bus.close().await;
    }
    Table {
        title: "Changelog of a partition",
        note: format!(
            "{notes} notes of {EVENTS_PER_SECOND} events, each in a message of its own record: 72 hours at that rate are {}. A \
             note, ms: one at a time, to its confirm. Read back: from the bus into an engine.",
            SEEN_KEEP.as_secs() / NOTE_DELAY.as_secs()
        ),
        columns: vec![BYTES, WRITE, READ],
        rows,
    }
}

/// The `number`th note. Ids are hashes, so their bits are spread here as well.
fn note(number: u64) -> Outgoing {
    let at = Millis::new(1_763_892_000_000).unwrap_or_default();
    let at = at.after(NOTE_DELAY * u32::try_from(number).unwrap_or(u32::MAX));
    let (portal, contact) = (PortalId::from("8241"), ObjectTypeId::from_name("contact"));
    let hash = |n: u64| {
        let spread = (u128::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        spread.to_be_bytes()
    };
    let events = number * EVENTS_PER_SECOND..(number + 1) * EVENTS_PER_SECOND;
    let sent = Sent {
        state: at,
        read: Some(at),
        newest: Some(at),
    };
    let entries = events.clone().map(|n| Entry::Sent {
        record: RecordDigest::of(&portal, &contact, &n.to_string().as_str().into()),
        sent,
    });
    let delivered = Count {
        destination: 0,
        ending: Ending::Delivered,
        events: u32::try_from(EVENTS_PER_SECOND).unwrap_or(u32::MAX),
    };
    let tally = Tally {
        ended: events.map(hash).collect(),
        counts: vec![delivered],
        ..Tally::new(portal.clone())
    };
    let out = Counted {
        name: "out".to_owned(),
        plain: false,
    };
    let note = Note {
        engine: u64::MAX,
        number: number + 1,
        at,
        entries: entries.collect(),
        destinations: vec![out],
        tallies: vec![tally],
    };
    let message = Message {
        id: format!("note-{number}"),
        content_type: "application/octet-stream".to_owned(),
        kind: "crm.changelog_note.v1".to_owned(),
        headers: Vec::new(),
        body: note.encode().into(),
    };
    Outgoing {
        target: Target::Changelog(0),
        message,
    }
}

/// How many bytes it took.
async fn fill(bus: &dyn Bus, notes: u64) -> usize {
    let mut bytes = 0;
    let mut numbers = (0..notes).peekable();
    while numbers.peek().is_some() {
        let batch: Vec<_> = numbers.by_ref().take(BATCH).map(note).collect();
        bytes += batch
            .iter()
            .map(|one| one.message.body.len())
            .sum::<usize>();
        let verdicts = bus.publish(batch).await;
        assert!(
            verdicts.iter().all(Result::is_ok),
            "every note is confirmed"
        );
    }
    bytes
}

/// The median of how long one takes, in ms.
async fn write_singly(bus: &dyn Bus) -> f64 {
    let mut took = Vec::new();
    for number in 0..SINGLE {
        let begun = Instant::now();
        let verdicts = bus.publish(vec![note(number.into())]).await;
        assert_eq!(verdicts, [Ok(())]);
        took.push(begun.elapsed());
    }
    took.sort();
    took[took.len() / 2].as_secs_f64() * 1_000.0
}

async fn read_back(bus: Arc<dyn Bus>, expected: u64) -> Duration {
    let begun = Instant::now();
    let (sender, mut notes) = mpsc::channel(64);
    let reading = tokio::spawn(async move { bus.read_changelog(0, None, sender).await });
    let mut engine = Engine::new(Plans::default(), 1);
    let mut count = 0;
    while let Some(stored) = notes.recv().await {
        engine.restore(Note::decode(&stored.note).expect("a note"));
        count += 1;
    }
    assert_eq!(reading.await.expect("no panic"), Ok(()));
    assert_eq!(count, expected, "every note is read");
    begun.elapsed()
}
