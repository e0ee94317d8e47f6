//! What came of it, as Markdown.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::audit::Audited;
use crate::rig::checker::Findings;
use crate::rig::ledger::{Latest, Missing};
use crate::rig::people::KINDS;

/// Missing events that are told one by one.
const TOLD_MAX: usize = 20;

/// One fault, or two at once, and what was seen until everything flowed again.
pub struct Incident {
    pub faults: Vec<String>,
    /// After the beginning.
    pub at: Duration,
    pub lasted: Duration,
    /// From the healing until every portal brought a change made after it; `None`: not in time.
    pub recovered: Option<Duration>,
    /// Answers 503, other answers that are not 2xx, requests without an answer.
    pub unavailable: u64,
    pub other: u64,
    pub unanswered: u64,
    pub repeats: u64,
    pub backwards: u64,
    pub stale: u64,
    pub dead: u64,
    pub violations: u64,
    pub latest: Latest,
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at {} s for {:.1} s: {}: {} times 503, {} others, {} without an answer, {} repeats, {} backwards, \
             {} stale, {} dead letters, {} violations, {}; ",
            self.at.as_secs(),
            self.lasted.as_secs_f64(),
            self.faults.join(" and "),
            self.unavailable,
            self.other,
            self.unanswered,
            self.repeats,
            self.backwards,
            self.stale,
            self.dead,
            self.violations,
            self.latest,
        )?;
        match self.recovered {
            Some(after) => write!(f, "flows {:.1} s later", after.as_secs_f64()),
            None => write!(f, "DOES NOT FLOW AGAIN"),
        }
    }
}

impl fmt::Display for Latest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the latest after {:.1} s (notification {}, {}, of portal {}, answered after {:.1} s)",
            self.came_after.as_secs_f64(),
            self.number,
            KINDS[usize::from(self.kind)],
            self.portal,
            self.answered_after.as_secs_f64(),
        )
    }
}

/// A whole campaign.
pub struct Outcome {
    pub seed: u64,
    pub nodes: usize,
    pub elapsed: Duration,
    pub made: u64,
    pub answered: u64,
    pub given_up: u64,
    /// Answered 2xx.
    pub requests: u64,
    /// Whether HubSpot had everything answered in the end.
    pub settled: bool,
    /// What the relay's own ledger says.
    pub audited: Audited,
    pub findings: Findings,
    /// Notifications of erased records that did not come out.
    pub silenced: u64,
    pub incidents: Vec<Incident>,
    /// Folders of processes that ended by themselves.
    pub died: Vec<PathBuf>,
    /// What was answered 2xx and never came.
    pub missing: Vec<Missing>,
}

impl Outcome {
    /// What must not be.
    pub fn failures(&self) -> Vec<String> {
        let stuck = self.incidents.iter().filter(|one| one.recovered.is_none());
        let counts = [
            (self.missing.len() as u64, "answered 2xx and lost"),
            (self.findings.violations, "promises broken"),
            (stuck.count() as u64, "faults after which nothing flowed"),
            (self.died.len() as u64, "processes ended by themselves"),
            (u64::from(!self.settled), "senders not done in time"),
            (
                self.audited.differences.len() as u64,
                "differences between the relay's ledger and what came out",
            ),
        ];
        let failed = counts.iter().filter(|(count, _)| *count > 0);
        failed
            .map(|(count, what)| format!("{count} {what}"))
            .collect()
    }

    pub fn markdown(&self) -> String {
        let found = &self.findings;
        let mut text = format!(
            "Seed {}, {} of RabbitMQ, {} faults in {} minutes.\n\n",
            self.seed,
            if self.nodes == 1 {
                "one node".to_owned()
            } else {
                format!("{} nodes", self.nodes)
            },
            self.incidents
                .iter()
                .map(|one| one.faults.len())
                .sum::<usize>(),
            self.elapsed.as_secs() / 60,
        );
        let mut rows = vec![
            ("notifications made".to_owned(), self.made),
            ("answered 2xx".to_owned(), self.answered),
            ("in so many requests".to_owned(), self.requests),
            ("**lost**".to_owned(), self.missing.len() as u64),
            ("**disorder that `version` does not tell, states older than their events without a word, and messages \
              that cannot be read**".to_owned(), found.violations),
            ("messages that came out".to_owned(), found.messages),
            ("events that came to a destination twice, under one id".to_owned(), found.repeats),
            ("messages out of order, as `version` tells".to_owned(), found.backwards),
            ("messages that say that they are stale".to_owned(), found.stale),
            ("messages that the broker gave the consumer twice".to_owned(), found.redelivered),
            ("notifications that HubSpot gave up".to_owned(), self.given_up),
            ("notifications of erased records that came too late, and did not come out".to_owned(), self.silenced),
            ("events that ended, by the relay's own ledger".to_owned(), self.audited.ended),
            ("**differences between that and what came out**".to_owned(), self.audited.differences.len() as u64),
            ("of these events, ended a second time by a worker that was frozen".to_owned(), self.audited.ended_again),
            ("copies of them that the ledger knew for repeats".to_owned(), self.audited.duplicates),
        ];
        let by = |what: &str, counts: &BTreeMap<String, u64>| {
            let row = |(why, count): (&String, &u64)| (format!("{what} `{why}`"), *count);
            counts.iter().map(row).collect::<Vec<_>>()
        };
        rows.extend(by("messages that a record is gone:", &found.tombstones));
        rows.extend(by("events in dead letters", &found.dead));
        let _ = writeln!(text, "| | |\n|---|---|");
        for (what, count) in rows {
            let _ = writeln!(text, "| {what} | {count} |");
        }
        text.push_str(
            "\n| fault | times | 503 | other refusals | no answer | flows again after, s: median, most | repeats | out of order, told | stale, told \
             | dead letters | latest event, s |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for (fault, of) in self.by_fault() {
            let sum = |of_one: fn(&Incident) -> u64| of.iter().map(|one| of_one(one)).sum::<u64>();
            let mut after: Vec<_> = of.iter().filter_map(|one| one.recovered).collect();
            after.sort();
            let seconds = |one: Option<&Duration>| {
                one.map_or("–".to_owned(), |one| format!("{:.1}", one.as_secs_f64()))
            };
            let _ = writeln!(
                text,
                "| {fault} | {} | {} | {} | {} | {}, {} | {} | {} | {} | {} | {} |",
                of.len(),
                sum(|one| one.unavailable),
                sum(|one| one.other),
                sum(|one| one.unanswered),
                seconds(after.get(after.len() / 2)),
                seconds(after.last()),
                sum(|one| one.repeats),
                sum(|one| one.backwards),
                sum(|one| one.stale),
                sum(|one| one.dead),
                seconds(of.iter().map(|one| &one.latest.came_after).max()),
            );
        }
        self.add_failures(&mut text);
        text
    }

    /// What two did together stands with either.
    fn by_fault(&self) -> BTreeMap<&str, Vec<&Incident>> {
        let mut by_fault: BTreeMap<&str, Vec<&Incident>> = BTreeMap::new();
        for incident in &self.incidents {
            for fault in &incident.faults {
                by_fault.entry(fault).or_default().push(incident);
            }
        }
        by_fault
    }

    fn add_failures(&self, text: &mut String) {
        let failures = self.failures();
        if failures.is_empty() {
            return;
        }
        let _ = writeln!(text, "\nFAILED: {}.\n", failures.join(", "));
        for what in &self.findings.told {
            let _ = writeln!(text, "- {what}");
        }
        for difference in self.audited.differences.iter().take(TOLD_MAX) {
            let _ = writeln!(text, "- the ledger: {difference}");
        }
        for missing in self.missing.iter().take(TOLD_MAX) {
            let _ = writeln!(
                text,
                "- lost: notification {}, {}, of portal {}, to {}",
                missing.number,
                KINDS[usize::from(missing.kind)],
                missing.portal,
                missing.destination.name()
            );
        }
        for died in &self.died {
            let _ = writeln!(text, "- ended by itself: {}", died.display());
        }
    }
}
