//! Receivers and workers are restarted one after the other under load, and HubSpot notices nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::helpers::broker;
use crate::helpers::bus::{options, start};
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
    let both = async || !share.borrow().is_empty() && !others.borrow().is_empty();
    assert!(becomes(PATIENCE, both).await, "they share");
    let before = share.borrow().clone();

    leaver.leave();
    let partitions = usize::from(other.partitions());
    let all = async || others.borrow().len() == partitions;
    assert!(becomes(PATIENCE, all).await, "they are left: {others:?}");
    assert_eq!(*share.borrow(), before, "it finishes what it has");
    leaver.close().await;
    other.close().await;
}
