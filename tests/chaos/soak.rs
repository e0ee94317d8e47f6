//! Hours at a steady rate, while portals, workers and nodes of the broker come and go: what grows shows.
//!
//! The first receiver and the first worker are left alone, and are what is measured.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::campaign::Stage;
use crate::rig::deployment::PREFIX;
use crate::rig::relay::Relay;

const SAMPLE_INTERVAL: Duration = Duration::from_secs(30);
/// Between two comings or goings.
const CHURN_INTERVAL: Duration = Duration::from_secs(60);
/// How long a portal stays paused.
const PAUSED_FOR: Duration = Duration::from_secs(10);
/// The last quarter's median may be this much above the second's, which is after the start.
const GROWTH_MAX: f64 = 1.3;
/// What a worker remembers of the past grows up to bounds (`SEEN_CAPACITY`, `RECORDS_CAPACITY`) that these hours do not reach, and
/// is no leak. Measured: an event takes 32 to 40 bytes, the version of a record 120 to 200.
const BYTES_PER_EVENT: f64 = 40.0;
const BYTES_PER_RECORD: f64 = 200.0;
/// Rows of the table.
const ROWS: usize = 24;

/// What is measured, and what a growth of it must exceed to count.
const SERIES: [(&str, f64); 8] = [
    ("receiver MB", 10.0),
    ("worker MB", f64::INFINITY),
    ("worker MB without its past", 10.0),
    ("receiver descriptors", 10.0),
    ("worker descriptors", 10.0),
    ("messages in queues", 2_000.0),
    ("events under way", 5_000.0),
    ("latest event s", 5.0),
];

type Sample = (Duration, [f64; SERIES.len()]);

/// The report, and what failed.
pub async fn run(plan: &Plan, time: Duration) -> (String, Vec<String>) {
    let mut stage = Stage::start(plan).await;
    let mut samples: Vec<Sample> = Vec::new();
    let (mut churned, mut turn) = (Instant::now(), 0);
    while stage.begun.elapsed() < time {
        tokio::time::sleep(SAMPLE_INTERVAL).await;
        samples.push((stage.begun.elapsed(), sample(&stage).await));
        if churned.elapsed() > CHURN_INTERVAL {
            churn(&mut stage, turn).await;
            (churned, turn) = (Instant::now(), turn + 1);
        }
    }
    stage.drain().await;
    let found = stage.checker.findings();
    let mut failures = growths(&samples);
    if !stage.ledger.missing().is_empty() {
        failures.push(format!(
            "{} answered 2xx and lost",
            stage.ledger.missing().len()
        ));
    }
    if found.violations > 0 {
        failures.push(format!(
            "{} promises broken: {:?}",
            found.violations, found.told
        ));
    }
    let mut text = format!(
        "Seed {}, nodes of RabbitMQ: {}, {} minutes, {} comings and goings, {} notifications answered 2xx, {} lost, \
         {} promises broken.\n\n| minute |",
        plan.seed,
        plan.nodes,
        stage.begun.elapsed().as_secs() / 60,
        turn,
        stage.ledger.answers(),
        stage.ledger.missing().len(),
        found.violations,
    );
    SERIES
        .iter()
        .for_each(|(name, _)| _ = write!(text, " {name} |"));
    let _ = writeln!(text, "\n|{}", "---|".repeat(SERIES.len() + 1));
    for (at, values) in samples.iter().step_by(samples.len().div_ceil(ROWS).max(1)) {
        let _ = write!(text, "| {} |", at.as_secs() / 60);
        values
            .iter()
            .for_each(|value| _ = write!(text, " {value:.0} |"));
        text.push('\n');
    }
    (text, failures)
}

async fn sample(stage: &Stage) -> [f64; SERIES.len()] {
    let (receiver, worker) = (&stage.parts.receivers[0], &stage.parts.workers[0]);
    let listing = tokio::task::block_in_place(|| {
        let columns = ["list_queues", "name", "messages", "--no-table-headers"];
        stage.parts.cluster.ctl(&columns)
    });
    // A stream keeps what it holds for days.
    let changelog = format!("{PREFIX}.changelog.");
    let queues = listing.lines().filter(|line| !line.starts_with(&changelog));
    let depths = queues.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    let memory = worker.memory_mb();
    [
        receiver.memory_mb(),
        memory,
        memory - past_mb(worker).await,
        receiver.descriptors() as f64,
        worker.descriptors() as f64,
        depths.sum(),
        stage.ledger.missing().len() as f64,
        stage.ledger.take_latest().came_after.as_secs_f64(),
    ]
}

/// What a worker's memory of the past takes at most.
async fn past_mb(worker: &Relay) -> f64 {
    let mut bytes = 0.0;
    for (of, each) in [("events", BYTES_PER_EVENT), ("records", BYTES_PER_RECORD)] {
        let series = format!("crm_relay_enrich_remembered{{of=\"{of}\"}}");
        let count = worker.metric(&series).await;
        bytes += each * count.expect("a worker tells what it remembers");
    }
    bytes / 1e6
}

/// Something goes and comes again.
async fn churn(stage: &mut Stage, turn: usize) {
    let parts = &mut stage.parts;
    match turn % 4 {
        0 => {
            let portal = (turn / 4 % usize::from(parts.size.portals)) as u8;
            parts.write_portal(portal, "paused = true");
            tokio::time::sleep(PAUSED_FOR).await;
            parts.write_portal(portal, "");
        }
        1 => {
            let last = parts.workers.last_mut().expect("workers");
            last.stop().await;
            tokio::time::sleep(PAUSED_FOR).await;
            last.resume();
        }
        2 => {
            let last = parts.receivers.last_mut().expect("receivers");
            last.stop().await;
            last.resume();
        }
        _ => tokio::task::block_in_place(|| {
            let node = turn / 4 % parts.cluster.size();
            parts.cluster.stop(node);
            parts.cluster.resume(node);
        }),
    }
}

/// What the last quarter has more of than the second.
fn growths(samples: &[Sample]) -> Vec<String> {
    let quarter = samples.len() / 4;
    let median = |series: usize, range: std::ops::Range<usize>| {
        let mut values: Vec<f64> = samples[range]
            .iter()
            .map(|sample| sample.1[series])
            .collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let grown = SERIES
        .iter()
        .enumerate()
        .filter_map(|(series, (name, slack))| {
            let early = median(series, quarter..2 * quarter);
            let late = median(series, samples.len() - quarter..samples.len());
            (late > early * GROWTH_MAX + slack)
                .then(|| format!("{name} grew from {early:.0} to {late:.0}"))
        });
    grown.collect()
}
