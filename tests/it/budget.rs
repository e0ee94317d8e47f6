//! A portal's budget has one spender, whoever that is: several workers never exceed it, also while partitions move.

use std::time::Duration;

use crm_relay::event::{EnrichedEvent, Millis};
use crm_relay::simulator::{Limits, PortalOptions};

use crate::helpers::queue::drain;
use crate::helpers::relay::{Bus, RelayProcess};
use crate::recovery::{Versions, all_arrives, count, shares_become, simulator, the_ledger_agrees};

/// Calls in ten seconds: so few that work waits in every portal all the time.
const LIMITS: Limits = Limits {
    burst: 10,
    associations: 10,
    daily: 625_000,
    associations_daily: 500_000,
    search: 5,
};
const PORTALS: u64 = 6;
/// Contacts that each portal imports.
const IMPORTED: usize = 500;
/// Live changes a second, over all portals: ten times as many as there are calls.
const RATE: f64 = 60.0;
/// How long the workers stay as they are.
const BETWEEN_MOVES: Duration = Duration::from_secs(2);

/// Events that may be tried apart: those that were on their way to a worker when it gave its partition back. What it had taken is
/// thousands.
const SUSPECTS_MAX: u64 = 1_000;

/// How many events a log says were tried apart.
fn suspects(log: &str) -> u64 {
    let tried = log.lines().filter(|line| line.contains("may have killed"));
    let counts = tried.filter_map(|line| line.rsplit_once("events=")?.1.trim().parse::<u64>().ok());
    counts.sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_keep_within_each_portals_budget_while_its_partition_moves() {
    let portals: Vec<_> = (1..=PORTALS)
        .map(|id| PortalOptions {
            limits: LIMITS,
            ..PortalOptions::new(id)
        })
        .collect();
    let simulator = simulator(&portals).await;
    let (bus, url, prefix) = Bus::on_rabbitmq();
    let start = async || RelayProcess::start(&simulator, &portals, &bus, "").await;
    let control = simulator.control();
    let mut first = start().await;
    shares_become(&[&first], &[4]).await;
    control.set_traffic(RATE);
    for portal in &portals {
        control.import(portal.id, "contacts", IMPORTED).unwrap();
    }
    tokio::time::sleep(BETWEEN_MOVES).await;
    let mut second = start().await;
    shares_become(&[&first, &second], &[2, 2]).await;
    tokio::time::sleep(BETWEEN_MOVES).await;
    let third = start().await;
    shares_become(&[&first, &second, &third], &[1, 1, 2]).await;
    tokio::time::sleep(BETWEEN_MOVES).await;
    let killed_at = Millis::now();
    second.kill();
    shares_become(&[&first, &third], &[2, 2]).await;
    tokio::time::sleep(BETWEEN_MOVES).await;
    assert!(first.terminate().await.success());
    shares_become(&[&third], &[4]).await;
    let queue = format!("{prefix}.destination.out");
    let mut versions = Versions::default();
    let seen = all_arrives(&simulator, &portals, async |seen| {
        let messages: Vec<EnrichedEvent> = drain(&url, &queue).await;
        messages.iter().for_each(|message| versions.add(message));
        count(seen, messages);
    })
    .await;
    let suspects = suspects(&third.log());
    assert!(
        suspects < SUSPECTS_MAX,
        "one worker died, and yet {suspects} events were tried apart"
    );
    the_ledger_agrees(&third, &simulator, &portals, &seen).await;
    let rest = drain(&url, &queue).await;
    rest.iter().for_each(|message| versions.add(message));
    versions.hold(killed_at);
    for portal in &portals {
        // The simulator counts each call as it arrives, in a window that rolls call by call, and refuses those over the limit.
        let counters = control.counters(portal.id).unwrap();
        assert_eq!(
            counters.rate_limited, 0,
            "portal {}: {counters:?}",
            portal.id
        );
        let of_associations = counters.calls.get("associations_batch_read");
        let calls = counters.calls.values().sum::<u64>() - of_associations.unwrap_or(&0);
        assert!(
            calls > 3 * u64::from(LIMITS.burst),
            "hardly any load: {counters:?}"
        );
    }
    drop(third);
    simulator.stop().await;
}
