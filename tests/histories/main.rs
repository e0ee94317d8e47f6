//! Thousands of seeded histories of the engine, each with troubles of its own, in simulated time.
//!
//! A history is what people do in HubSpot, how HubSpot tells of it and answers calls, and what the bus does with
//! deliveries and messages. After each step the guarantees are checked (`checks.rs`), and at the end everything
//! must have ended.
//!
//! `HISTORIES=1000000 cargo test --release --test histories` runs a long campaign, and `HISTORY_SEED=42 …` replays
//! one history and prints what happened.

#![allow(clippy::print_stdout, missing_docs)]

mod checks;
#[path = "../it/helpers/contract.rs"]
mod contract;
mod coverage;
mod dice;
mod hubspot;
mod ledger;
mod life;
mod trace;
mod weather;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use coverage::{Coverage, Total};
use world::World;

/// How many histories, where nobody says.
const HISTORIES_DEFAULT: u64 = 5_000;
/// So many lines of a failed history are shown.
const LINES_SHOWN: usize = 60;
/// After so many failures no more are looked for.
const FAILURES_MAX: usize = 20;
/// What must have happened in at least one of a hundred histories, or the histories test too little.
const MUST_HAPPEN: [&str; 37] = [
    "plain event",
    "repeated notification",
    "late notification",
    "import",
    "deletion",
    "restored record",
    "privacy deletion",
    "merge",
    "merge of a merge",
    "stale read",
    "401",
    "portal parked",
    "portal changed",
    "403",
    "423",
    "477",
    "5xx",
    "time-out",
    "connection lost",
    "unreadable answer",
    "429 of another policy",
    "429 for others' calls",
    "400 for a batch",
    "copy refused",
    "replay",
    "publish refused",
    "confirm lost",
    "confirm late",
    "set aside",
    "session lost",
    "backlog's session lost",
    "crash",
    "stopped",
    "suspect alone",
    "suspects together",
    "held back",
    "killed by an event",
];

/// Runs the history of `seed`.
fn history(seed: u64) -> Result<Coverage, String> {
    let run = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, false);
        world.run().map(|()| world.coverage)
    }));
    run.unwrap_or_else(|_| Err("the engine panicked".to_owned()))
}

/// The last lines of what happened in the history of `seed`.
fn told(seed: u64) -> Vec<String> {
    let mut world = World::new(seed, true);
    let _ = catch_unwind(AssertUnwindSafe(|| world.run()));
    world.trace.unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number")),
    )
}

/// Panics with what failed, if anything, and what happened before the first failure.
fn fail(failed: &BTreeMap<u64, String>) {
    let Some(seed) = failed.keys().next() else {
        return;
    };
    let lines = told(*seed);
    let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
    let failed: Vec<_> = failed
        .iter()
        .map(|(seed, error)| format!("history {seed}: {error}"))
        .collect();
    panic!(
        "{}\n{}\nHISTORY_SEED={seed} replays it",
        shown.join("\n"),
        failed.join("\n")
    );
}

#[test]
fn histories() {
    if let Some(seed) = number_of("HISTORY_SEED") {
        println!("{}", told(seed).join("\n"));
        history(seed).unwrap_or_else(|error| panic!("history {seed}: {error}"));
        return;
    }
    let count = number_of("HISTORIES").unwrap_or(HISTORIES_DEFAULT);
    let begun = Instant::now();
    let (next, failed) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let total = std::thread::scope(|scope| {
        let run = || {
            let mut total = Total::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= count || failed.lock().unwrap().len() >= FAILURES_MAX {
                    return total;
                }
                match history(seed) {
                    Ok(coverage) => total.add(coverage),
                    Err(error) => _ = failed.lock().unwrap().insert(seed, error),
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let mut total = Total::default();
        threads
            .into_iter()
            .for_each(|thread| total.join(thread.join().unwrap()));
        total
    });
    fail(&failed.into_inner().unwrap());
    println!("{total}in {:.1} s", begun.elapsed().as_secs_f64());
    for what in MUST_HAPPEN {
        assert!(
            count < 1_000 || total.of(what) * 100 >= count,
            "hardly ever: {what}"
        );
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..40 {
        assert!(
            told(seed) == told(seed),
            "history {seed} differs from itself"
        );
    }
}
