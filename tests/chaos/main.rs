//! Nothing is lost, shown under fault: real processes, real brokers, real disks.
//!
//! `make chaos` runs two receivers, three workers, a cluster of three RabbitMQ nodes and the simulated HubSpot, with a proxy
//! between any two of them, under load, while faults strike at random from a seed. Whatever HubSpot was answered 2xx must
//! come out or be a dead letter; a record must not go backwards without its version telling; a state that is older than
//! its events must say so. `target/chaos/report.md` has the table; the exit code tells whether a promise was broken.
#![allow(clippy::print_stdout, missing_docs)]

mod audit;
mod campaign;
mod faults;
mod helpers;
mod report;
mod rig;
mod soak;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
cargo test --release --test chaos -- --run [--quick] [--seed N] [--faults N] [--notifications N] [--minutes N]
           [--rate N] [--nodes N] [--only TEXT] [--sabotage] [--soak HOURS] [--out FOLDER]
  --quick             a few minutes, one node of RabbitMQ
  --seed N            which faults strike, and when [default: 1]
  --faults N          how many at least [default: 200]
  --notifications N   how many at least [default: 5000000]
  --minutes N         the end, whatever came until then [default: 240]
  --rate N            notifications a second, as long as they come out [default: 3000]
  --nodes N           of RabbitMQ [default: 3]
  --only TEXT         faults whose name has this
  --sabotage          takes messages away behind everybody's back, so the run must fail
  --soak HOURS        instead, also parts of one: a steady rate, while portals, workers and the broker come and go
  --out FOLDER        where report.md and the processes' folders go [default: target/chaos]";

/// How much of everything.
pub struct Plan {
    pub quick: bool,
    pub seed: u64,
    pub nodes: usize,
    pub workers: usize,
    pub portals: u8,
    /// Notifications a second.
    pub rate: f64,
    faults: usize,
    notifications: u64,
    most: Duration,
    /// Whether to see that the campaign notices what is lost.
    pub sabotage: bool,
    only: String,
    soak: Option<Duration>,
    out: PathBuf,
}

impl Plan {
    /// `None` when nobody asked for a run.
    fn of(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let (mut plan, mut runs) = (Self::long(), false);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--run" => runs = true,
                "--quick" => plan = Self::quick(),
                "--seed" => plan.seed = number(&value()?)?,
                "--faults" => plan.faults = number(&value()?)? as usize,
                "--notifications" => plan.notifications = number(&value()?)?,
                "--minutes" => plan.most = Duration::from_secs(60 * number(&value()?)?),
                "--rate" => plan.rate = number(&value()?)? as f64,
                "--nodes" => plan.nodes = number(&value()?)? as usize,
                "--only" => plan.only = value()?,
                "--sabotage" => plan.sabotage = true,
                "--soak" => {
                    let hours: f64 = value()?.parse().map_err(|_| "--soak needs hours")?;
                    plan.soak = Some(Duration::from_secs_f64(3_600.0 * hours));
                }
                "--out" => plan.out = value()?.into(),
                // What `cargo test` was given for other targets.
                _ if !runs => return Ok(None),
                _ => return Err(format!("unknown argument {argument}")),
            }
        }
        Ok(runs.then_some(plan))
    }

    fn long() -> Self {
        Self {
            quick: false,
            seed: 1,
            nodes: 3,
            workers: 3,
            portals: 8,
            rate: 3_000.0,
            faults: 200,
            notifications: 5_000_000,
            most: Duration::from_secs(4 * 3_600),
            sabotage: false,
            only: String::new(),
            soak: None,
            out: PathBuf::from("target/chaos"),
        }
    }

    /// For CI, where the programs are not optimised.
    fn quick() -> Self {
        Self {
            quick: true,
            nodes: 1,
            workers: 2,
            portals: 3,
            rate: 100.0,
            faults: 40,
            notifications: 1,
            most: Duration::from_secs(4 * 60),
            ..Self::long()
        }
    }

    pub fn wants(&self, fault: &str) -> bool {
        fault.contains(&self.only)
    }

    /// Whether there is more to do.
    pub fn goes_on(&self, faults: usize, made: u64, elapsed: Duration) -> bool {
        elapsed < self.most && (faults < self.faults || made < self.notifications)
    }

    /// Where the processes have their files: empty.
    pub fn fresh_folder(&self) -> PathBuf {
        let folder = std::path::absolute(self.out.join("parts")).unwrap();
        // A run that was killed may have left its small file system.
        let disk = folder.join("receiver-0/disk");
        let _ = Command::new("umount").arg("-lq").arg(disk).output();
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// Tells what happens while it does.
pub fn say(what: &str) {
    println!("{what}");
}

fn main() -> ExitCode {
    let plan =
        Plan::of(std::env::args().skip(1)).unwrap_or_else(|error| panic!("{error}\n{USAGE}"));
    // `cargo test` runs every target; this one only checks that it builds.
    let Some(plan) = plan else {
        return ExitCode::SUCCESS;
    };
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let run = async {
        if let Some(time) = plan.soak {
            return soak::run(&plan, time).await;
        }
        let outcome = campaign::run(&plan).await;
        (outcome.markdown(), outcome.failures())
    };
    // Who is told to stop takes its processes along.
    let ended = runtime.block_on(async {
        let mut told = signal(SignalKind::terminate()).expect("a signal handler");
        tokio::select! {
            ended = run => Some(ended),
            _ = tokio::signal::ctrl_c() => None,
            _ = told.recv() => None,
        }
    });
    let Some((text, failures)) = ended else {
        return ExitCode::FAILURE;
    };
    write(&plan.out, &text);
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        say(&format!("FAILED: {}", failures.join(", ")));
        ExitCode::FAILURE
    }
}

fn write(out: &Path, text: &str) {
    fs::create_dir_all(out).expect("a folder");
    fs::write(out.join("report.md"), text).expect("a file");
    say(text);
    say(&format!("in {}/report.md", out.display()));
}
