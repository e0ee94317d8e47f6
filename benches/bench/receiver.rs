//! The receiver: notifications answered 204 after the broker confirmed them, at one, ten and a hundred a request.

use std::path::Path;

use crate::broker::Broker;
use crate::contender::{Contender, PARTITIONS, Place};
use crate::load::{self, Answers, CONNECTIONS, Requests};
use crate::process::{Process, broker_process, cpu, peak_memory_mb};
use crate::queues::Queues;
use crate::report::{Row, Table};
use crate::{Plan, per_notification_us};

/// Notifications in a request, and how many requests are signed for a round.
const SIZES: [(usize, usize); 3] = [(1, 5_000), (10, 2_000), (100, 500)];
/// The open loop's rate, as a share of the highest rate that the same receiver just reached.
const LOAD: f64 = 0.5;
const RECORDS: u64 = 1_000;
pub const CLOSED: &str = "Receiver, as fast as it answers";
pub const OPEN: &str = "Receiver, at half of that rate";
pub const RATE: &str = "notifications/s";
const COLUMNS: [&str; 8] = [
    RATE,
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "receiver CPU µs",
    "broker CPU µs",
    "load CPU µs",
    "peak memory MB",
];

/// A running receiver.
struct Subject {
    contender: Contender,
    prefix: String,
    process: Process,
    address: std::net::SocketAddr,
}

pub async fn measure(plan: &Plan, broker: &Broker, folder: &Path) -> [Table; 2] {
    let bench = Bench {
        plan,
        queues: Queues::connect(&broker.url()).await,
        broker: broker_process(broker.address()),
        records: (1..=RECORDS).collect(),
    };
    let subjects: Vec<_> = plan
        .contenders()
        .into_iter()
        .map(|contender| Subject::start(contender, broker, folder))
        .collect();
    let cases: Vec<_> = SIZES
        .iter()
        .flat_map(|size| subjects.iter().map(move |subject| (subject, *size)))
        .collect();
    let closed = bench.rounds(&cases, |case, requests| {
        load::closed(cases[case].0.address, requests, plan.round)
    });
    let closed = closed.await;
    let rates: Vec<_> = closed
        .iter()
        .map(|row| row.median(RATE).expect("a rate") * LOAD)
        .collect();
    let open = bench.rounds(&cases, |case, requests| {
        let rate = rates[case] / requests.size as f64;
        load::open(cases[case].0.address, requests, rate, plan.round)
    });
    let open = open.await;
    [
        Table {
            title: CLOSED,
            note: format!(
                "{CONNECTIONS} connections that each send the next request when the last was answered. Every answer was \
                 204, and after each round the intake queues held what the answers promised. Peak memory is that of the \
                 process so far."
            ),
            columns: COLUMNS.to_vec(),
            rows: closed,
        },
        Table {
            title: OPEN,
            note: format!(
                "The same, {:.0} % of the rate above: requests are due at fixed times, and latency counts from then.",
                LOAD * 100.0
            ),
            columns: COLUMNS.to_vec(),
            rows: open,
        },
    ]
}

impl Subject {
    fn start(contender: Contender, broker: &Broker, folder: &Path) -> Self {
        let prefix = format!("receiver-{}", contender.name());
        let place = Place {
            broker_url: broker.url(),
            prefix: prefix.clone(),
            // A receiver never calls.
            hubspot_url: "http://127.0.0.1:1".to_owned(),
            calls_per_10s: None,
            portals: 1,
            partitions: PARTITIONS,
            enrich: String::new(),
        };
        let (process, address) = contender.receiver(&place, folder);
        Self {
            contender,
            prefix,
            process,
            address,
        }
    }
}

struct Bench<'a> {
    plan: &'a Plan,
    queues: Queues,
    broker: u32,
    records: Vec<u64>,
}

impl Bench<'_> {
    /// All rounds of all cases in turn, each after a short one that warms up and is not counted.
    async fn rounds(
        &self,
        cases: &[(&Subject, (usize, usize))],
        send: impl Fn(usize, &Requests) -> Answers,
    ) -> Vec<Row> {
        let name = |(subject, (size, _)): &(&Subject, (usize, usize))| {
            Row::new(case_name(&subject.contender, *size))
        };
        let mut rows: Vec<_> = cases.iter().map(name).collect();
        for round in 0..=self.plan.rounds {
            for (case, (subject, (size, count))) in cases.iter().enumerate() {
                let requests = load::sign(*count, *size, &self.records);
                let row = self
                    .round(subject, &requests, || send(case, &requests))
                    .await;
                if round > 0 {
                    rows[case].push(row);
                }
            }
        }
        rows
    }

    async fn round(
        &self,
        subject: &Subject,
        requests: &Requests,
        send: impl FnOnce() -> Answers,
    ) -> [(&'static str, f64); 8] {
        let ids = [subject.process.id(), self.broker, std::process::id()];
        let before = ids.map(cpu);
        let answers = send();
        let after = ids.map(cpu);
        let held = self.empty(subject).await;
        // The relay packs what one request has for a partition into one message.
        let (least, most) = match subject.contender {
            Contender::Relay => (answers.latencies.len(), answers.notifications),
            Contender::Comparison(_) => (answers.notifications, answers.notifications),
        };
        assert!(
            (least..=most).contains(&held),
            "{}: {held} messages of {} requests with {}",
            subject.contender.name(),
            answers.latencies.len(),
            requests.size,
        );
        let used =
            |index: usize| per_notification_us(after[index] - before[index], answers.notifications);
        [
            (RATE, answers.rate()),
            ("p50 ms", answers.percentile_ms(0.5)),
            ("p99 ms", answers.percentile_ms(0.99)),
            ("p99.9 ms", answers.percentile_ms(0.999)),
            ("receiver CPU µs", used(0)),
            ("broker CPU µs", used(1)),
            ("load CPU µs", used(2)),
            ("peak memory MB", peak_memory_mb(subject.process.id())),
        ]
    }

    /// Empties the intake; how many messages it held.
    async fn empty(&self, subject: &Subject) -> usize {
        let mut held = 0;
        for queue in subject.contender.intake(&subject.prefix) {
            held += self.queues.purge(&queue).await as usize;
        }
        held
    }
}

/// How a row is called.
pub fn case_name(contender: &Contender, size: usize) -> String {
    format!("{}, {size} a request", contender.name())
}
