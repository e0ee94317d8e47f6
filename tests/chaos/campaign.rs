//! Load runs, faults strike one after the other or two at once, and in the end nothing may be missing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::audit::{self, Audited};
use crate::faults::{Fault, possible};
use crate::report::{Incident, Outcome};
use crate::rig::becomes;
use crate::rig::checker::Checker;
use crate::rig::deployment::{Deployment, Size};
use crate::rig::dice::Dice;
use crate::rig::ledger::{Destination, Ledger};
use crate::rig::load::Load;

/// How long everything may take to flow again after a fault was healed.
const RECOVERY_MAX: Duration = Duration::from_secs(180);
/// Between a recovery and the next fault, in milliseconds.
const PAUSE_MS: (u64, u64) = (300, 2_000);
/// Of a thousand faults, those that another joins.
const PAIRS: u64 = 200;
/// How long messages pile up before they are taken away.
const PILE_UP: Duration = Duration::from_secs(12);
/// How long HubSpot may take to have everything answered in the end.
const ANSWERS_MAX: Duration = Duration::from_secs(300);
/// How long what is under way in the end may take to come, if something comes.
const DRAIN_MAX: Duration = Duration::from_secs(1_800);
/// What has not come when nothing comes for so long is lost.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What runs.
pub struct Stage {
    pub parts: Deployment,
    pub load: Arc<Load>,
    pub checker: Arc<Checker>,
    pub ledger: Arc<Ledger>,
    pub begun: Instant,
}

impl Stage {
    /// Starts everything, with load, and waits until it flows.
    pub async fn start(plan: &Plan) -> Self {
        let size = Size {
            nodes: plan.nodes,
            workers: plan.workers,
            portals: plan.portals,
        };
        let folder = plan.fresh_folder();
        let parts = Deployment::start(size, plan.seed, &folder).await;
        let ledger = Arc::new(Ledger::default());
        let checker = Checker::start(Arc::clone(&parts.cluster), Arc::clone(&ledger));
        let hubspot = parts.simulator.control();
        let backends = parts.backends();
        let load = Load::new(
            plan.seed,
            hubspot,
            size.portals,
            Arc::clone(&ledger),
            backends,
        );
        load.start();
        load.change(plan.rate);
        let stage = Self {
            parts,
            load,
            checker,
            ledger,
            begun: Instant::now(),
        };
        assert!(stage.flows_again().await.is_some(), "nothing comes out");
        stage
    }

    /// How long it took until every portal brought a change that was made after this was called.
    pub async fn flows_again(&self) -> Option<Duration> {
        let (begun, made) = (Instant::now(), self.ledger.made());
        let flows = becomes(RECOVERY_MAX, async || {
            self.ledger.flows_since(made, self.parts.size.portals)
        });
        flows.await.then(|| begun.elapsed())
    }

    /// Ends the load and waits for what is under way: everything, or nothing more for a while.
    pub async fn drain(&self) -> bool {
        self.load.pause();
        let answered = becomes(ANSWERS_MAX, async || self.load.is_settled()).await;
        let (mut least, mut since) = (usize::MAX, Instant::now());
        becomes(DRAIN_MAX, async || {
            let missing = self.ledger.missing().len();
            if missing < least {
                (least, since) = (missing, Instant::now());
            }
            missing == 0 || since.elapsed() > SILENCE_MAX
        })
        .await;
        answered
    }

    fn counts(&self) -> [u64; 10] {
        let answers = &self.load.answers;
        let answers = [
            &answers.good,
            &answers.unavailable,
            &answers.other,
            &answers.none,
        ];
        let [good, unavailable, other, none] = answers.map(|one| one.load(Ordering::Relaxed));
        let found = self.checker.findings();
        let dead = found.dead.values().sum();
        [
            good,
            unavailable,
            other,
            none,
            found.repeats,
            found.backwards,
            found.stale,
            dead,
            found.redelivered,
            found.violations,
        ]
    }
}

/// Runs the campaign.
pub async fn run(plan: &Plan) -> Outcome {
    let mut dice = Dice::new(plan.seed);
    let mut stage = Stage::start(plan).await;
    let all = possible(&stage.parts);
    let all: Vec<_> = all
        .into_iter()
        .filter(|one| plan.wants(&one.name()))
        .collect();
    let (mut incidents, mut died) = (Vec::new(), Vec::new());
    let mut round = Vec::new();
    while plan.goes_on(incidents.len(), stage.ledger.made(), stage.begun.elapsed()) {
        if round.is_empty() {
            round = shuffled(&all, &mut dice);
        }
        let first = round.pop().expect("there are faults");
        let pair = [Some(first), joining(first, &all, plan, &mut dice)];
        let faults: Vec<Fault> = pair.into_iter().flatten().collect();
        let incident = strike(&mut stage, &faults, &mut dice).await;
        crate::say(&format!("{incident}, {} made", stage.ledger.made()));
        incidents.push(incident);
        died.extend(stage.parts.revive());
        tokio::time::sleep(dice.millis(PAUSE_MS.0, PAUSE_MS.1)).await;
    }
    if plan.sabotage {
        sabotage(&stage).await;
    }
    let answered = stage.drain().await;
    let audited = audit::audit(&stage).await;
    outcome(plan, stage, incidents, died, (answered, audited))
}

/// A test of the test: messages that are taken away must be missed.
async fn sabotage(stage: &Stage) {
    stage.checker.pause(Destination::All, true);
    tokio::time::sleep(PILE_UP).await;
    let queue = Deployment::destination(Destination::All);
    tokio::task::block_in_place(|| stage.parts.cluster.ctl(&["purge_queue", &queue]));
    stage.checker.pause(Destination::All, false);
}

/// Every fault once, in random order; after that comes the next round.
fn shuffled(all: &[Fault], dice: &mut Dice) -> Vec<Fault> {
    let mut left = all.to_vec();
    let mut shuffled = Vec::new();
    while !left.is_empty() {
        shuffled.push(left.swap_remove(dice.below(left.len() as u64) as usize));
    }
    shuffled
}

fn joining(first: Fault, all: &[Fault], plan: &Plan, dice: &mut Dice) -> Option<Fault> {
    let fitting: Vec<_> = all
        .iter()
        .filter(|other| first.goes_with(**other))
        .collect();
    (!plan.quick && dice.chance(PAIRS))
        .then(|| dice.pick(&fitting).map(|other| **other))
        .flatten()
}

async fn strike(stage: &mut Stage, faults: &[Fault], dice: &mut Dice) -> Incident {
    let before = stage.counts();
    stage.ledger.take_latest();
    let at = stage.begun.elapsed();
    let lasts = faults.iter().map(|one| one.lasts(dice)).max();
    let mut struck = Vec::new();
    for fault in faults {
        struck.push(fault.strike(&mut stage.parts, &stage.checker, dice).await);
    }
    tokio::time::sleep(lasts.unwrap_or_default()).await;
    for one in struck {
        one.heal(&mut stage.parts, &stage.checker).await;
    }
    let lasted = stage.begun.elapsed() - at;
    let recovered = stage.flows_again().await;
    let after = stage.counts();
    let changed: Vec<u64> = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    Incident {
        faults: faults.iter().map(|one| one.name()).collect(),
        at,
        lasted,
        recovered,
        unavailable: changed[1],
        other: changed[2],
        unanswered: changed[3],
        repeats: changed[4],
        backwards: changed[5],
        stale: changed[6],
        dead: changed[7],
        violations: changed[9],
        latest: stage.ledger.take_latest(),
    }
}

fn outcome(
    plan: &Plan,
    stage: Stage,
    incidents: Vec<Incident>,
    died: Vec<PathBuf>,
    (answered, audited): (bool, Audited),
) -> Outcome {
    let missing = stage.ledger.missing();
    Outcome {
        seed: plan.seed,
        nodes: plan.nodes,
        elapsed: stage.begun.elapsed(),
        made: stage.ledger.made(),
        answered: stage.ledger.answers(),
        given_up: stage.load.answers.given_up.load(Ordering::Relaxed),
        requests: stage.counts()[0],
        settled: answered,
        audited,
        findings: stage.checker.findings(),
        silenced: stage.ledger.silenced(),
        incidents,
        died,
        missing,
    }
}
