//! One worker process with ten thousand portals: each has a change, and then nothing to do.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::broker::Broker;
use crate::contender::{Contender, PARTITIONS, Place, portal_ids};
use crate::hubspot::HubSpot;
use crate::process::{cpu, memory_mb};
use crate::queues::Queues;
use crate::report::{Row, Table};
use crate::worker::PROFESSIONAL;

pub const TITLE: &str = "Ten thousand portals on one worker";
const PORTALS: u64 = 10_000;
const QUICK_PORTALS: u64 = 500;
/// Portals that change together: each has its own connections, and all at once would be more than the receiver takes.
const WAVE: usize = 200;
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Afterwards its processor time is taken for so long.
const IDLE: Duration = Duration::from_secs(30);
const START: &str = "MB at the start";
const WARM: &str = "MB when each had a change";
const EACH: &str = "KB each";
const CALLS: &str = "calls per portal";
const IDLE_CPU: &str = "CPU when idle, ms a second";

pub async fn measure(plan: &Plan, broker: &Broker, folder: &Path) -> Table {
    let portals = if plan.rounds > 1 {
        PORTALS
    } else {
        QUICK_PORTALS
    };
    let mut row = Row::new(format!("{portals} portals"));
    row.push(round(portals, broker, folder).await);
    Table {
        title: TITLE,
        note: "Memory of the worker process, configured with all of them from the start. A contact is created in each; 100 ms a call. \
               What it holds then are definitions, owners and what limits are left, until a portal has been idle for ten minutes."
            .to_owned(),
        columns: vec![START, WARM, EACH, CALLS, IDLE_CPU],
        rows: vec![row],
    }
}

async fn round(portals: u64, broker: &Broker, folder: &Path) -> [(&'static str, f64); 5] {
    let hubspot = HubSpot::start_portals(portals, 1, PROFESSIONAL).await;
    let contender = Contender::Relay;
    let prefix = "many";
    let place = Place {
        portals,
        partitions: PARTITIONS,
        ..Place::new(broker, prefix, &hubspot, PROFESSIONAL)
    };
    let (_receiver, address) = contender.receiver(&place, folder);
    let worker = contender.worker(&place, folder);
    let queues = Queues::connect(&broker.url()).await;
    let out = contender.out(prefix);
    queues.wait_for(&out).await;
    hubspot
        .notify(&format!("http://{address}/webhooks/hubspot"))
        .await;
    let before = memory_mb(worker.id());
    let begun = Instant::now();
    let changes = async {
        let portals: Vec<_> = portal_ids(portals).collect();
        for wave in portals.chunks(WAVE) {
            for portal in wave {
                hubspot.import_into(*portal, 1).await;
            }
            hubspot.settled().await;
        }
    };
    let mut sources = HashSet::new();
    let arrivals = queues.consume(&out, begun + PATIENCE, |message| {
        let message: serde_json::Value = serde_json::from_slice(message).expect("an event");
        sources.insert(message["source"].as_str().expect("a source").to_owned());
        sources.len() as u64 == portals
    });
    let ((), all) = tokio::join!(changes, arrivals);
    assert!(
        all,
        "changes of {} of {portals} portals came",
        sources.len()
    );
    let warm = memory_mb(worker.id());
    let busy = cpu(worker.id());
    tokio::time::sleep(IDLE).await;
    let idle = cpu(worker.id()) - busy;
    let calls = hubspot.calls().await;
    drop(worker);
    queues.delete(&contender.queues(prefix)).await;
    [
        (START, before),
        (WARM, warm),
        (EACH, (warm - before) * 1_000.0 / portals as f64),
        (CALLS, calls.made as f64 / portals as f64),
        (IDLE_CPU, idle.as_secs_f64() * 1_000.0 / IDLE.as_secs_f64()),
    ]
}
