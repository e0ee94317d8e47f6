//! End to end: HubSpot changes records at a steady rate, and a subscriber waits for the enriched events.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crm_relay::event::Millis;

use crate::broker::Broker;
use crate::contender::{Contender, Place};
use crate::hubspot::HubSpot;
use crate::process::{cpu, peak_memory_mb};
use crate::queues::Queues;
use crate::report::{Row, Table};
use crate::worker::PROFESSIONAL;
use crate::{Plan, per_notification_us, percentile_s};

pub const TITLE: &str = "End to end";
const RATES: [u32; 2] = [10, 100];
const CONTACTS: usize = 1_000;
/// How long after the last change an event may still come.
const PATIENCE: Duration = Duration::from_secs(10);
pub const P99: &str = "p99 s";
const COLUMNS: [&str; 9] = [
    "arrived %",
    "p50 s",
    P99,
    "p99.9 s",
    "calls per 1,000 events",
    "429s",
    "receiver CPU µs",
    "worker CPU µs",
    "peak memory MB",
];

pub async fn measure(plan: &Plan, broker: &Broker, folder: &Path) -> Table {
    let cases = plan.cases(RATES);
    let mut rows: Vec<_> = cases
        .iter()
        .map(|(contender, rate)| Row::new(case_name(contender, *rate)))
        .collect();
    for round in 0..plan.long_rounds {
        for (case, (contender, rate)) in cases.iter().enumerate() {
            let prefix = format!("whole-{case}-{round}");
            rows[case].push(self::round(plan, contender, *rate, broker, &prefix, folder).await);
        }
    }
    Table {
        title: TITLE,
        note: format!(
            "The simulated HubSpot changes records of all kinds for {} s, answers each call after {} ms and allows {} in \
             10 s. Lateness is from `occurredAt` to the subscriber. What has not come {} s after the last change counts \
             with the time it has waited by then.",
            plan.traffic.as_secs(),
            PROFESSIONAL.latency.as_millis(),
            PROFESSIONAL.calls_per_10s.unwrap_or_default(),
            PATIENCE.as_secs(),
        ),
        columns: COLUMNS.to_vec(),
        rows,
    }
}

/// How a row is called.
pub fn case_name(contender: &Contender, rate: u32) -> String {
    format!("{}, {rate} changes/s", contender.name())
}

async fn round(
    plan: &Plan,
    contender: &Contender,
    rate: u32,
    broker: &Broker,
    prefix: &str,
    folder: &Path,
) -> [(&'static str, f64); 9] {
    let hubspot = HubSpot::start(CONTACTS, PROFESSIONAL).await;
    let place = Place::new(broker, prefix, &hubspot, PROFESSIONAL);
    let (receiver, address) = contender.receiver(&place, folder);
    let worker = contender.worker(&place, folder);
    let queues = Queues::connect(&broker.url()).await;
    let out = contender.out(prefix);
    queues.wait_for(&out).await;
    hubspot
        .notify(&format!("http://{address}/webhooks/hubspot"))
        .await;

    let end = Instant::now() + plan.traffic + PATIENCE;
    let traffic = async {
        hubspot.set_traffic(f64::from(rate)).await;
        tokio::time::sleep(plan.traffic).await;
        hubspot.set_traffic(0.0).await;
        hubspot.settled().await;
        hubspot.acknowledged().await
    };
    let mut lateness = HashMap::new();
    let arrivals = queues.consume(&out, end, |message| {
        let now = Millis::now().as_i64();
        for told in contender.told(message) {
            let late = now - told.occurred_at.as_millisecond();
            lateness.entry(told.id).or_insert(late);
        }
        false
    });
    let (acknowledged, _) = tokio::join!(traffic, arrivals);

    let now = Millis::now().as_i64();
    let arrived = acknowledged
        .iter()
        .filter(|event| lateness.contains_key(&event.id()))
        .count();
    let mut late: Vec<_> = acknowledged
        .iter()
        .map(|event| {
            let waited = now - event.occurred_at;
            lateness.get(&event.id()).copied().unwrap_or(waited)
        })
        .collect();
    late.sort_unstable();
    let seconds = |share: f64| percentile_s(&late, share);
    let calls = hubspot.calls().await;
    let figures = [
        (
            "arrived %",
            arrived as f64 * 100.0 / acknowledged.len() as f64,
        ),
        ("p50 s", seconds(0.5)),
        (P99, seconds(0.99)),
        ("p99.9 s", seconds(0.999)),
        (
            "calls per 1,000 events",
            calls.made as f64 * 1_000.0 / arrived as f64,
        ),
        ("429s", calls.refused as f64),
        (
            "receiver CPU µs",
            per_notification_us(cpu(receiver.id()), acknowledged.len()),
        ),
        (
            "worker CPU µs",
            per_notification_us(cpu(worker.id()), arrived),
        ),
        (
            "peak memory MB",
            peak_memory_mb(receiver.id()) + peak_memory_mb(worker.id()),
        ),
    ];
    drop((receiver, worker));
    queues.delete(&contender.queues(prefix)).await;
    figures
}
