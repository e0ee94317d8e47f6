//! How fast, how late, at what cost, on this machine and on a private RabbitMQ: `make bench`.
//!
//! 1. `ceiling`: what the broker takes when every event is one confirmed message.
//! 2. `receiver`: notifications accepted, as fast as they are answered and at half of that.
//! 3. `worker`: a backlog becomes enriched events.
//! 4. `end_to_end`: from the change in HubSpot to the subscriber.
//! 5. `portals`: the same for many portals on one partition, of which one imports.
//! 6. `everything`: calls, with every type and every part switched on.
//! 7. `changelog`: what a note costs, and how long a take-over reads.
//! 8. `idle-portals`: what portals cost that have nothing to do: to the engines, and to a worker that has ten thousand.
//!
//! Where it makes sense, the integration of `benches/comparison` does the same work beside the relay. Within a stage the
//! rounds of all its cases alternate, so that a machine that slows down slows them all; medians are quoted. No figure
//! is without its check: every answer is 204, the broker holds what it confirmed, events are looked for by id.
//!
//! The load and the broker share the machine's processors with what is measured, so absolute figures are floors.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use contender::Contender;
use report::Report;

#[path = "../../tests/it/helpers/broker.rs"]
#[allow(dead_code, reason = "the benchmark needs less of it than the tests")]
mod broker;
mod ceiling;
mod changelog;
mod contender;
mod end_to_end;
mod everything;
mod hubspot;
mod idle_portals;
mod load;
mod many_portals;
mod plot;
mod portals;
#[path = "../../tests/it/helpers/ports.rs"]
mod ports;
mod process;
mod queues;
mod receiver;
mod report;
mod worker;

const USAGE: &str = "\
cargo bench --bench bench -- [--quick] [--comparison FOLDER] [--out FOLDER] [--only STAGE]
  --quick               one short round of each, to see that it works
  --comparison FOLDER   where benches/comparison is installed; without it the relay is measured alone
  --out FOLDER          where report.md, report.json and plot.svg go [default: target/bench]
  --only STAGE          ceiling, receiver, worker, end-to-end, portals, everything, changelog or idle-portals";

/// How much of everything.
pub struct Plan {
    /// Rounds of a case that takes seconds.
    pub rounds: usize,
    /// Rounds of a case that takes half a minute.
    pub long_rounds: usize,
    /// How long a round lasts that could go on for ever.
    pub round: Duration,
    /// How long HubSpot changes records in a round of `end_to_end`.
    pub traffic: Duration,
    comparison: Option<PathBuf>,
    out: PathBuf,
    only: Option<String>,
}

impl Plan {
    fn of(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self {
            rounds: 5,
            long_rounds: 3,
            round: Duration::from_secs(4),
            traffic: Duration::from_secs(20),
            comparison: None,
            out: PathBuf::from("target/bench"),
            only: None,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--bench" => {}
                "--quick" => {
                    (plan.rounds, plan.long_rounds) = (1, 1);
                    (plan.round, plan.traffic) = (Duration::from_secs(1), Duration::from_secs(5));
                }
                "--comparison" => plan.comparison = Some(value()?.into()),
                "--out" => plan.out = value()?.into(),
                "--only" => plan.only = Some(value()?),
                _ => return Err(format!("unknown argument {argument}")),
            }
        }
        Ok(plan)
    }

    /// Who is measured, in the order of their turns.
    pub fn contenders(&self) -> Vec<Contender> {
        let comparison = self.comparison.clone().map(Contender::Comparison);
        std::iter::once(Contender::Relay)
            .chain(comparison)
            .collect()
    }

    /// Every contender with each of `settings`, in the order of their turns.
    pub fn cases<T: Copy>(&self, settings: impl IntoIterator<Item = T>) -> Vec<(Contender, T)> {
        let of_each = |setting| self.contenders().into_iter().map(move |one| (one, setting));
        settings.into_iter().flat_map(of_each).collect()
    }

    fn wants(&self, stage: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == stage)
    }
}

/// Of sorted times in ms, the one that `share` of them do not exceed, in s; NaN of none.
fn percentile_s(sorted: &[i64], share: f64) -> f64 {
    let rank = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(rank).map_or(f64::NAN, |ms| *ms as f64 / 1_000.0)
}

/// Processor time for each of `count`, in µs.
pub fn per_notification_us(cpu: Duration, count: usize) -> f64 {
    cpu.as_secs_f64() * 1e6 / count as f64
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // `cargo test --benches` only checks that it builds.
    }
    let plan =
        Plan::of(std::env::args().skip(1)).unwrap_or_else(|error| panic!("{error}\n{USAGE}"));
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let begun = Instant::now();
    let mut report = runtime.block_on(measure(&plan));
    report
        .machine
        .insert("the run took", format!("{} s", begun.elapsed().as_secs()));
    write(&plan.out, &report);
    println!("{}", report.markdown());
    println!(
        "in {}: report.md, report.json, plot.svg",
        plan.out.display()
    );
}

async fn measure(plan: &Plan) -> Report {
    let broker = broker::Broker::start();
    let folder = tempfile::tempdir().expect("a folder");
    let mut report = Report {
        machine: machine(&broker),
        tables: Vec::new(),
    };
    // First, while the process holds little else.
    if plan.wants("idle-portals") {
        report.tables.push(idle_portals::measure(plan));
    }
    if plan.wants("ceiling") {
        report.tables.push(ceiling::measure(plan, &broker).await);
    }
    if plan.wants("receiver") {
        report
            .tables
            .extend(receiver::measure(plan, &broker, folder.path()).await);
    }
    if plan.wants("worker") {
        report
            .tables
            .push(worker::measure(plan, &broker, folder.path()).await);
    }
    if plan.wants("end-to-end") {
        report
            .tables
            .push(end_to_end::measure(plan, &broker, folder.path()).await);
    }
    if plan.wants("portals") {
        report
            .tables
            .push(portals::measure(plan, &broker, folder.path()).await);
    }
    if plan.wants("everything") {
        report
            .tables
            .push(everything::measure(plan, &broker, folder.path()).await);
    }
    if plan.wants("idle-portals") {
        report
            .tables
            .push(many_portals::measure(plan, &broker, folder.path()).await);
    }
    if plan.wants("changelog") {
        report
            .tables
            .push(changelog::measure(plan, &broker, folder.path()).await);
    }
    report
}

fn machine(broker: &broker::Broker) -> BTreeMap<&'static str, String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut models = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("model name"));
    let model = models
        .next()
        .unwrap_or_default()
        .trim_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let node = Command::new("node").arg("--version").output();
    let node = node.map_or_else(
        |_| "none".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    BTreeMap::from([
        ("processors", format!("{cores} × {model}")),
        ("RabbitMQ", broker.ctl(&["version"]).trim().to_owned()),
        ("Node", node),
    ])
}

fn write(out: &Path, report: &Report) {
    let json = serde_json::to_string_pretty(report).expect("a report");
    fs::create_dir_all(out).expect("a folder");
    fs::write(out.join("report.json"), json).expect("a file");
    fs::write(out.join("report.md"), report.markdown()).expect("a file");
    fs::write(out.join("plot.svg"), plot::plot(report)).expect("a file");
}
