//! Portals side by side: live changes while nothing else happens, and while one portal imports.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crm_relay::event::Millis;

use crate::broker::Broker;
use crate::contender::{Contender, Place};
use crate::hubspot::{Acknowledged, Calls, HubSpot};
use crate::load::PORTAL;
use crate::queues::Queues;
use crate::report::{Row, Table};
use crate::worker::PROFESSIONAL;
use crate::{Plan, percentile_s};

pub const TITLE: &str = "Portals side by side";
const PORTALS: [u64; 3] = [1, 10, 1_000];
/// Live changes a second, over all portals.
const RATE: f64 = 10.0;
const CONTACTS: u64 = 1_000;
const IMPORTED: usize = 5_000;
/// How long after the last change an event may still come.
const PATIENCE: Duration = Duration::from_secs(10);
/// All portals share one: the hardest case.
const PARTITIONS: u16 = 1;
const COLUMNS: [&str; 9] = [
    "idle p50 s",
    "idle p99 s",
    "import p50 s",
    "import p99 s",
    "others' p50 s",
    "others' p99 s",
    "events/s in the import",
    "calls per 1,000 events",
    "429s",
];

pub async fn measure(plan: &Plan, broker: &Broker, folder: &Path) -> Table {
    let cases = plan.cases(PORTALS);
    let name = |contender: &Contender, portals| format!("{}, {portals} portals", contender.name());
    let mut rows: Vec<_> = cases
        .iter()
        .map(|(contender, portals)| Row::new(name(contender, *portals)))
        .collect();
    for round in 0..plan.long_rounds {
        for (case, (contender, portals)) in cases.iter().enumerate() {
            let prefix = format!("portals-{case}-{round}");
            rows[case].push(self::round(plan, contender, *portals, broker, &prefix, folder).await);
        }
    }
    Table {
        title: TITLE,
        note: format!(
            "{RATE} live changes a second over all portals, on one partition. First for {} s alone; then for as long beside \
             the import of {IMPORTED} contacts by the first portal. Each portal has {} calls in 10 s, answered after \
             {} ms. Lateness of live changes is from `occurredAt` to the subscriber; \"others\" are the portals that do \
             not import. What has not come {} s after the last change counts with the time it has waited by then.",
            plan.traffic.as_secs(),
            PROFESSIONAL.calls_per_10s.unwrap_or_default(),
            PROFESSIONAL.latency.as_millis(),
            PATIENCE.as_secs(),
        ),
        columns: COLUMNS.to_vec(),
        rows,
    }
}

async fn round(
    plan: &Plan,
    contender: &Contender,
    portals: u64,
    broker: &Broker,
    prefix: &str,
    folder: &Path,
) -> [(&'static str, f64); 9] {
    let contacts = usize::try_from((CONTACTS / portals).max(10)).expect("few");
    let hubspot = HubSpot::start_portals(portals, contacts, PROFESSIONAL).await;
    let place = Place {
        portals,
        partitions: PARTITIONS,
        ..Place::new(broker, prefix, &hubspot, PROFESSIONAL)
    };
    let (receiver, address) = contender.receiver(&place, folder);
    let worker = contender.worker(&place, folder);
    let queues = Queues::connect(&broker.url()).await;
    let out = contender.out(prefix);
    queues.wait_for(&out).await;
    hubspot
        .notify(&format!("http://{address}/webhooks/hubspot"))
        .await;

    let traffic = async {
        let idle_from = Millis::now().as_i64();
        hubspot.set_traffic(RATE).await;
        tokio::time::sleep(plan.traffic).await;
        let import_from = Millis::now().as_i64();
        hubspot.import(IMPORTED).await;
        tokio::time::sleep(plan.traffic).await;
        hubspot.set_traffic(0.0).await;
        hubspot.settled().await;
        (idle_from, import_from, hubspot.acknowledged().await)
    };
    let end = Instant::now() + 2 * plan.traffic + PATIENCE;
    let mut arrived = HashMap::new();
    let arrivals = queues.consume(&out, end, |message| {
        let now = Millis::now().as_i64();
        for told in contender.told(message) {
            arrived.entry(told.id).or_insert(now);
        }
        false
    });
    let ((idle_from, import_from, acknowledged), _) = tokio::join!(traffic, arrivals);
    let calls = hubspot.calls().await;
    drop((receiver, worker));
    queues.delete(&contender.queues(prefix)).await;
    let outcome = Outcome {
        acknowledged,
        arrived,
        idle_from,
        import_from,
        now: Millis::now().as_i64(),
    };
    outcome.figures(calls)
}

/// What a round brought.
struct Outcome {
    acknowledged: Vec<Acknowledged>,
    /// When an event arrived, by id.
    arrived: HashMap<String, i64>,
    idle_from: i64,
    import_from: i64,
    now: i64,
}

impl Outcome {
    fn figures(&self, calls: Calls) -> [(&'static str, f64); 9] {
        let live = |event: &Acknowledged| !is_imported(event);
        let idle = self.latenesses(|event| {
            live(event) && (self.idle_from..self.import_from).contains(&event.occurred_at)
        });
        let during = self.latenesses(|event| live(event) && event.occurred_at >= self.import_from);
        let others = self.latenesses(|event| {
            live(event) && event.occurred_at >= self.import_from && event.portal_id != PORTAL
        });
        [
            (COLUMNS[0], percentile_s(&idle, 0.5)),
            (COLUMNS[1], percentile_s(&idle, 0.99)),
            (COLUMNS[2], percentile_s(&during, 0.5)),
            (COLUMNS[3], percentile_s(&during, 0.99)),
            (COLUMNS[4], percentile_s(&others, 0.5)),
            (COLUMNS[5], percentile_s(&others, 0.99)),
            (COLUMNS[6], self.import_rate()),
            (
                COLUMNS[7],
                calls.made as f64 * 1_000.0 / self.arrived.len() as f64,
            ),
            (COLUMNS[8], calls.refused as f64),
        ]
    }

    /// In ms, sorted.
    fn latenesses(&self, of: impl Fn(&Acknowledged) -> bool) -> Vec<i64> {
        let events = self.acknowledged.iter().filter(|event| of(event));
        let mut late: Vec<_> = events
            .map(|event| {
                let at = self.arrived.get(&event.id()).copied();
                at.unwrap_or(self.now) - event.occurred_at
            })
            .collect();
        late.sort_unstable();
        late
    }

    /// Events of the import, from its begin to the last that arrived.
    fn import_rate(&self) -> f64 {
        let imported = self.acknowledged.iter();
        let imported = imported.filter(|event| is_imported(event));
        let arrived: Vec<_> = imported
            .filter_map(|event| self.arrived.get(&event.id()))
            .collect();
        let last = arrived.iter().max().map_or(self.now, |last| **last);
        arrived.len() as f64 * 1_000.0 / (last - self.import_from) as f64
    }
}

fn is_imported(event: &Acknowledged) -> bool {
    event.change_source.as_deref() == Some("IMPORT")
}
