//! The worker: how fast a backlog becomes enriched events, and what that costs in calls.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::contender::{Contender, Place};
use crate::hubspot::{HubSpot, Manners};
use crate::load;
use crate::process::{broker_process, cpu, peak_memory_mb};
use crate::queues::Queues;
use crate::report::{Row, Table};
use crate::{Plan, per_notification_us};

pub const TITLE: &str = "Worker on a backlog";
pub const RATE: &str = "events/s";
const COLUMNS: [&str; 7] = [
    RATE,
    "calls per 1,000 events",
    "429s",
    "worker CPU µs",
    "broker CPU µs",
    "HubSpot CPU µs",
    "peak memory MB",
];
/// A backlog comes in full requests.
const REQUEST_SIZE: usize = 100;
/// How long a backlog may take.
const BACKLOG_MAX: Duration = Duration::from_secs(120);
/// With a limit, the first calls of a window come for nothing. So the rate is that of two whole windows, after half of one.
const STEADY_FROM: Duration = Duration::from_secs(5);
const STEADY_UNTIL: Duration = Duration::from_secs(25);

struct Case {
    name: &'static str,
    manners: Manners,
    /// Events in the relay's backlog, and in that of the comparison, which is slower.
    events: [usize; 2],
    events_per_record: usize,
    /// Whether it ends with the backlog, or at [`STEADY_UNTIL`].
    whole: bool,
}

const UNLIMITED: Manners = Manners {
    latency: Duration::ZERO,
    calls_per_10s: None,
};
/// A private app on HubSpot's Professional tier.
pub const PROFESSIONAL: Manners = Manners {
    latency: Duration::from_millis(100),
    calls_per_10s: Some(190),
};
pub const LIMITED: &str = "100 ms a call, 190 calls per 10 s";
const CASES: [Case; 3] = [
    Case {
        name: "no latency, no limit, a record per event",
        manners: UNLIMITED,
        events: [20_000, 4_000],
        events_per_record: 1,
        whole: true,
    },
    Case {
        name: "no latency, no limit, 10 events per record",
        manners: UNLIMITED,
        events: [20_000, 4_000],
        events_per_record: 10,
        whole: true,
    },
    Case {
        name: LIMITED,
        manners: PROFESSIONAL,
        events: [70_000, 1_200],
        events_per_record: 1,
        whole: false,
    },
];

pub async fn measure(plan: &Plan, broker: &Broker, folder: &Path) -> Table {
    let mut rows: Vec<Row> = Vec::new();
    for case in &CASES {
        let first = rows.len();
        let contenders = plan.contenders();
        rows.extend(
            contenders
                .iter()
                .map(|contender| Row::new(case_name(contender, case.name))),
        );
        let rounds = if case.whole {
            plan.rounds
        } else {
            plan.long_rounds
        };
        for round in 0..rounds {
            for (index, contender) in contenders.iter().enumerate() {
                let prefix = format!("worker-{first}-{index}-{round}");
                rows[first + index]
                    .push(self::round(case, contender, broker, &prefix, folder).await);
            }
        }
    }
    Table {
        title: TITLE,
        note: format!(
            "The backlog waits at the broker; the time is from the start of the process to the last confirmed copy in \
             the destination's queue, start-up included, and every event is looked for by its id. With a limit, where \
             the first window comes for nothing: the copies between {} and {} s after the start.",
            STEADY_FROM.as_secs(),
            STEADY_UNTIL.as_secs(),
        ),
        columns: COLUMNS.to_vec(),
        rows,
    }
}

/// How a row is called.
pub fn case_name(contender: &Contender, case: &str) -> String {
    format!("{}: {case}", contender.name())
}

async fn round(
    case: &Case,
    contender: &Contender,
    broker: &Broker,
    prefix: &str,
    folder: &Path,
) -> [(&'static str, f64); 7] {
    let events = case.events[usize::from(!matches!(contender, Contender::Relay))];
    let hubspot = HubSpot::start(events / case.events_per_record, case.manners).await;
    let place = Place::new(broker, prefix, &hubspot, case.manners);
    fill(contender, &place, folder, events, &hubspot.contacts().await);
    let queues = Queues::connect(&broker.url()).await;

    let node = broker_process(broker.address());
    let (broker_cpu, hubspot_cpu) = (cpu(node), cpu(hubspot.process.id()));
    let begun = Instant::now();
    let worker = contender.worker(&place, folder);
    let out = contender.out(prefix);
    queues.wait_for(&out).await;
    let mut seen = HashSet::new();
    let (mut steady, mut ended) = (0, Duration::ZERO);
    let done = queues.consume(&out, begun + BACKLOG_MAX, |message| {
        let before = seen.len();
        seen.extend(contender.told(message).into_iter().map(|told| told.id));
        ended = begun.elapsed();
        if (STEADY_FROM..STEADY_UNTIL).contains(&ended) {
            steady += seen.len() - before;
        }
        seen.len() == events || !case.whole && ended >= STEADY_UNTIL
    });
    assert!(
        done.await,
        "{prefix}: {} of {events} events came",
        seen.len()
    );
    let rate = if case.whole {
        let missing = (0..events).find(|index| !seen.contains(&load::event_id(*index).to_string()));
        assert!(
            missing.is_none(),
            "{prefix}: event {missing:?} did not come"
        );
        events as f64 / ended.as_secs_f64()
    } else {
        assert!(
            seen.len() < events,
            "{prefix}: the backlog was too short to keep it busy"
        );
        steady as f64 / (STEADY_UNTIL - STEADY_FROM).as_secs_f64()
    };
    let calls = hubspot.calls().await;
    let figures = [
        (RATE, rate),
        (
            "calls per 1,000 events",
            calls.made as f64 * 1_000.0 / seen.len() as f64,
        ),
        ("429s", calls.refused as f64),
        (
            "worker CPU µs",
            per_notification_us(cpu(worker.id()), seen.len()),
        ),
        (
            "broker CPU µs",
            per_notification_us(cpu(node) - broker_cpu, seen.len()),
        ),
        (
            "HubSpot CPU µs",
            per_notification_us(cpu(hubspot.process.id()) - hubspot_cpu, seen.len()),
        ),
        ("peak memory MB", peak_memory_mb(worker.id())),
    ];
    drop(worker);
    queues.delete(&contender.queues(prefix)).await;
    figures
}

/// Sends the backlog through the contender's receiver, which is gone afterwards.
fn fill(contender: &Contender, place: &Place, folder: &Path, events: usize, records: &[u64]) {
    let (_receiver, address) = contender.receiver(place, folder);
    let requests = load::sign(events / REQUEST_SIZE, REQUEST_SIZE, records);
    let answers = load::once(address, &requests);
    assert_eq!(answers.notifications, events);
}
