//! Receivers and workers are restarted one after the other under load, and HubSpot notices nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crm_relay::bus::partition_of;
use crm_relay::simulator::{Control, Fault, PortalOptions, Simulator, SimulatorOptions};

use crate::helpers::bus::{options, start};
use crate::helpers::queue::drain;
use crate::helpers::relay::{Bus, RelayProcess};
use crate::helpers::{broker, eventually};
use crate::rig::becomes;
use crate::rig::checker::Checker;
use crate::rig::deployment::{Deployment, Size};
use crate::rig::ledger::Ledger;
use crate::rig::load::Load;
use crate::rig::relay::Role;

const SIZE: Size = Size {
    nodes: 1,
    workers: 2,
    portals: 3,
};
/// Notifications a second.
const RATE: f64 = 150.0;
/// How long everything may take to flow.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that an event may be late by a restart: partitions are handed over, and the changelog is read.
const HAND_OVER_MAX: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_is_not_felt() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = Deployment::start(SIZE, 1, folder.path()).await;
    let ledger = Arc::new(Ledger::default());
    let checker = Checker::start(Arc::clone(&parts.cluster), Arc::clone(&ledger));
    let (hubspot, backends) = (parts.simulator.control(), parts.backends());
    let load = Load::new(1, hubspot, SIZE.portals, Arc::clone(&ledger), backends);
    load.start();
    load.change(RATE);
    let flows = async || becomes(PATIENCE, async || ledger.flows_since(0, SIZE.portals)).await;
    assert!(flows().await, "nothing comes out");
    let unanswered_at_first = load.answers.none.load(Ordering::Relaxed);
    ledger.take_latest();

    parts.restart_in_turn(Role::Receiver).await;
    let made = ledger.made();
    assert!(becomes(PATIENCE, async || ledger.flows_since(made, SIZE.portals)).await);
    let latest = ledger.take_latest().came_after;
    assert!(latest < HAND_OVER_MAX, "receivers: {latest:?}");
    parts.restart_in_turn(Role::Worker).await;
    let made = ledger.made();
    assert!(becomes(PATIENCE, async || ledger.flows_since(made, SIZE.portals)).await);
    let latest = ledger.take_latest().came_after;
    assert!(latest < HAND_OVER_MAX, "workers: {latest:?}");

    load.pause();
    assert!(becomes(PATIENCE, async || load.is_settled()).await);
    assert!(becomes(PATIENCE, async || ledger.missing().is_empty()).await);
    let answers = &load.answers;
    let bad = [&answers.unavailable, &answers.other, &answers.none];
    let bad = bad.map(|count| count.load(Ordering::Relaxed));
    assert_eq!(bad, [0, 0, unanswered_at_first], "HubSpot noticed");
    let found = checker.findings();
    assert_eq!(found.violations, 0, "{:?}", found.told);
    assert!(found.dead.is_empty(), "{:?}", found.dead);
    assert_eq!(found.backwards, 0, "no record goes backwards");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_gives_its_share_to_the_others_before_its_bus_is_closed() {
    let options = options(broker::shared(), &broker::unique_prefix());
    let leaver = start(options.clone()).await;
    let share = leaver.join();
    let other = start(options).await;
    let others = other.join();
    let partitions = usize::from(other.partitions());
    let shared = async || {
        let (ours, theirs) = (share.borrow().len(), others.borrow().len());
        ours > 0 && theirs > 0 && ours + theirs == partitions
    };
    assert!(becomes(PATIENCE, shared).await, "they share");
    let before = share.borrow().clone();

    leaver.leave();
    let all = async || others.borrow().len() == partitions;
    assert!(becomes(PATIENCE, all).await, "they are left: {others:?}");
    assert_eq!(*share.borrow(), before, "it finishes what it has");
    leaver.close().await;
    other.close().await;
}

/// How long what a stopping worker has finished may stay away: much less than it waits for what hangs, 23 s.
const FINISHED_AWAY_MAX: Duration = Duration::from_secs(12);

/// A portal of each of so many partitions.
fn portals(partitions: u16) -> Vec<PortalOptions> {
    let of = |n: u16| {
        move |portal: &u64| partition_of(&portal.to_string().as_str().into(), partitions) == n
    };
    let portals = (0..partitions).map(|n| (1_000_u64..).find(of(n)).unwrap());
    portals.map(PortalOptions::new).collect()
}

/// Changes a record of the portal; what the message about it is about.
fn change(hubspot: &Control, portal: u64) -> (String, String) {
    let id = hubspot.create(portal, "contacts", &[]).unwrap();
    (portal.to_string(), format!("contact/{id}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_hands_over_what_it_has_finished_though_something_else_hangs() {
    let (bus, url, prefix) = Bus::on_rabbitmq();
    let portals = portals(4);
    let simulator = Simulator::start(SimulatorOptions {
        portals: portals.clone(),
        ..SimulatorOptions::default()
    });
    let simulator = simulator.await.unwrap();
    let hubspot = simulator.control();
    let leaver = RelayProcess::start(&simulator, &portals, &bus, "").await;
    let other = RelayProcess::start(&simulator, &portals, &bus, "").await;
    eventually("each has two", PATIENCE, async || {
        let partitions = "crm_relay_worker_partitions";
        let of = (
            leaver.metric(partitions).await,
            other.metric(partitions).await,
        );
        (of == (Some(2.0), Some(2.0))).then_some(())
    })
    .await;

    // One after the other, until the leaver has it.
    let mut left: Vec<u64> = portals.iter().map(|portal| portal.id).collect();
    let waiting = async |relay: &RelayProcess| {
        let waiting = relay.metric("crm_relay_enrich_waiting_events").await;
        waiting.unwrap_or(0.0)
    };
    let mut with_other = 0.0;
    loop {
        let portal = left.pop().expect("it has two of the four");
        hubspot.fail_next(Fault::Hang, "0-1/batch/read");
        change(&hubspot, portal);
        let hangs = eventually("a call hangs", PATIENCE, async || {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (here, there) = (waiting(&leaver).await, waiting(&other).await);
            (here > 0.0 || there > with_other).then_some(here > 0.0)
        });
        if hangs.await {
            break;
        }
        with_other = waiting(&other).await;
    }
    leaver.ask_to_stop();
    let mut open: Vec<_> = left
        .iter()
        .map(|portal| change(&hubspot, *portal))
        .collect();
    eventually("what does not hang comes", FINISHED_AWAY_MAX, async || {
        for event in drain(&url, &format!("{prefix}.destination.out")).await {
            let came = (event.data.portal_id.to_string(), event.subject.to_string());
            open.retain(|one| *one != came);
        }
        open.is_empty().then_some(())
    })
    .await;
    assert_eq!(leaver.probe("/livez").await, 200, "it is still stopping");
    simulator.stop().await;
}
