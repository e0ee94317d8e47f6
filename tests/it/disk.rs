//! A full disk under the embedded bus: HubSpot is asked to come again, nothing is lost, and what is there drains.

use std::time::Duration;

use crm_relay::simulator::{Fault, Faults, PortalOptions, RandomFault, Simulator};

use crate::helpers::eventually;
use crate::helpers::relay::{Bus, RelayProcess};
use crate::recovery::{RATE, all_is_in_the_file, portals, simulator};
use crate::rig::disk::Disk;

const DISK_BYTES: u64 = 96 << 20;
/// What others have of it: the bus refuses events when 64 MiB are left.
const OTHERS_BYTES: u64 = 28 << 20;
/// Contacts that each portal imports: more than there is room for.
const IMPORTED: usize = 2_000;
/// How long the relay may take to notice.
const PATIENCE: Duration = Duration::from_secs(60);

/// A relay whose bus has a small disk. `None` where none can be had.
async fn world() -> Option<(Simulator, Vec<PortalOptions>, RelayProcess, Disk)> {
    let portals = portals();
    let simulator = simulator(&portals).await;
    let mut relay = RelayProcess::start(&simulator, &portals, &Bus::Embedded, "").await;
    assert!(relay.terminate().await.success());
    let Some(disk) = Disk::mount(&relay.data_dir(), DISK_BYTES) else {
        eprintln!("no small disk can be had: only root can; left out");
        return None;
    };
    relay.resume().await;
    Some((simulator, portals, relay, disk))
}

async fn is_refused(relay: &RelayProcess, what: &str) {
    let series = "crm_relay_ingress_requests_total{outcome=\"unavailable\"}";
    eventually(what, PATIENCE, async || {
        (relay.metric(series).await > Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_others_fill_loses_nothing() {
    let Some((simulator, portals, relay, disk)) = world().await else {
        return;
    };
    simulator.control().set_traffic(RATE);
    tokio::time::sleep(Duration::from_secs(2)).await;
    disk.fill();
    is_refused(&relay, "a full disk is noticed").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    disk.empty();
    tokio::time::sleep(Duration::from_secs(3)).await;
    all_is_in_the_file(&simulator, &portals, &relay).await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_the_bus_fills_drains_by_itself() {
    let Some((simulator, portals, relay, disk)) = world().await else {
        return;
    };
    let control = simulator.control();
    disk.take(OTHERS_BYTES);
    let fault = Fault::Status(503);
    control.set_faults(Faults {
        random: vec![RandomFault {
            fault,
            probability: 1.0,
            path: String::new(),
        }],
        ..Faults::default()
    });
    for portal in &portals {
        control.import(portal.id, "contacts", IMPORTED).unwrap();
    }
    is_refused(&relay, "a full disk is noticed").await;
    control.set_faults(Faults::default());
    all_is_in_the_file(&simulator, &portals, &relay).await;
    simulator.stop().await;
}
