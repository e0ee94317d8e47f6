//! The relay's own ledger, by `crm-relay audit`, against what came out: two counts that know nothing of each other.

use std::process::Command;
use std::time::{Duration, Instant};

use crm_relay::audit::{Account, Report};

use crate::campaign::Stage;
use crate::rig::ledger::Destination;
use crate::rig::people::portal_id;

/// How long the ledger may take to agree: what ended is noted within a second, but a worker may still be starting.
const AGREES_WITHIN: Duration = Duration::from_secs(120);
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Everything that the campaign made, whatever the workers' clocks said.
const SINCE: &str = "72h";

/// What the ledger says.
#[derive(Default)]
pub struct Audited {
    /// Events that ended, once each.
    pub ended: u64,
    /// Those that two workers ended, since one was frozen and did not know that it had lost its partition.
    pub ended_again: u64,
    /// Copies of events that had come before.
    pub duplicates: u64,
    /// Where it has a hole, or says otherwise than what came out.
    pub differences: Vec<String>,
}

/// Asks until nothing is open and both counts agree, or for as long as it may take.
pub async fn audit(stage: &Stage) -> Audited {
    let begun = Instant::now();
    loop {
        let audited = compare(stage, ask(stage));
        if audited.differences.is_empty() || begun.elapsed() > AGREES_WITHIN {
            return audited;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// The last worker is asked, whose clock is right.
fn ask(stage: &Stage) -> Result<Report, String> {
    let worker = stage.parts.workers.last().expect("there are workers");
    let mut command = Command::new("timeout");
    command
        .arg(AGREES_WITHIN.as_secs().to_string())
        .arg(env!("CARGO_BIN_EXE_crm-relay"))
        .args(["audit", "--json", "--since", SINCE, "--config"])
        .arg(worker.config_path());
    let output = tokio::task::block_in_place(|| command.output());
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).map_err(|_| format!("no report: {said}"));
    let report: Report = report?;
    match output.status.success() == report.adds_up() {
        true => Ok(report),
        false => Err(format!(
            "{}, with a report that is otherwise: {said}",
            output.status
        )),
    }
}

fn compare(stage: &Stage, report: Result<Report, String>) -> Audited {
    let mut audited = Audited::default();
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            audited.differences.push(error);
            return audited;
        }
    };
    audited.differences.clone_from(&report.findings);
    for hole in &report.holes {
        let (events, portal) = (hole.events, &hole.portal_id);
        audited
            .differences
            .push(format!("{events} events of portal {portal} are nowhere"));
    }
    for portal in 0..stage.parts.size.portals {
        let id = portal_id(portal).to_string();
        let account = report.portals.get(&id.as_str().into());
        let account = account.cloned().unwrap_or_default();
        audited.ended += account.ended - account.ended_again;
        audited.ended_again += account.ended_again;
        audited.duplicates += account.duplicates;
        if account.open > 0 {
            let open = account.open;
            audited
                .differences
                .push(format!("{open} events of portal {id} are open"));
        }
        for destination in Destination::EACH
            .into_iter()
            .filter(|one| one.wants(portal))
        {
            let came = stage.ledger.ended(portal, destination);
            audited.differences.extend(
                differs(&account, destination, came)
                    .map(|how| format!("portal {id}, {}: {how}", destination.name())),
            );
        }
    }
    audited
}

/// How an account differs from the number of events that a destination got, or that are dead letters of it.
fn differs(account: &Account, destination: Destination, came: u64) -> Option<String> {
    let endings = account.destinations.get(destination.name()).copied();
    let endings = endings.unwrap_or_default();
    let ended = endings.delivered + endings.merged + endings.dead + endings.purged;
    let lacks = ended + account.given_up_by_bus < came;
    let again = match destination {
        Destination::Plain => account.plain_ended_again,
        _ => account.ended_again,
    };
    let exceeds = ended > came + again;
    (lacks || exceeds).then(|| format!("{ended} events ended by the ledger, {came} came out"))
}
