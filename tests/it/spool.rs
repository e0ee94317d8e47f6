//! While the broker is away HubSpot gets its 204 from the spool, and everything arrives when it is back.

use std::collections::BTreeMap;
use std::time::Duration;

use crm_relay::event::{EnrichedEvent, PortalId, Version};
use crm_relay::simulator::PortalOptions;

use crate::helpers::broker::{self, Broker};
use crate::helpers::eventually;
use crate::helpers::queue::drain;
use crate::helpers::relay::{Bus, RelayProcess};
use crate::recovery::{RATE, all_arrives, count, portals, simulator};

/// How long things go on as they are.
const A_WHILE: Duration = Duration::from_secs(4);
/// How long the relay may take to notice, and to drain.
const PATIENCE: Duration = Duration::from_secs(60);

struct Parts {
    portals: Vec<PortalOptions>,
    broker: Broker,
    url: String,
    prefix: String,
    bus: Bus,
    spool: tempfile::TempDir,
}

impl Parts {
    fn new() -> Self {
        let (broker, prefix) = (Broker::start(), broker::unique_prefix());
        let url = broker.url();
        let bus = Bus::RabbitMq {
            url: url.clone(),
            prefix: prefix.clone(),
        };
        Self {
            portals: portals(),
            broker,
            url,
            prefix,
            bus,
            spool: tempfile::tempdir().unwrap(),
        }
    }

    fn config(&self, bytes_max: &str) -> String {
        let folder = self.spool.path().join("spool");
        format!("[spool]\nfolder = {folder:?}\nbytes_max = {bytes_max:?}")
    }

    fn destination(&self) -> String {
        format!("{}.destination.out", self.prefix)
    }
}

async fn answered(relay: &RelayProcess, outcome: &str) -> f64 {
    let series = format!("crm_relay_ingress_requests_total{{outcome=\"{outcome}\"}}");
    relay.metric(&series).await.unwrap()
}

async fn nothing_was_refused(relay: &RelayProcess) {
    for outcome in ["unavailable", "overloaded"] {
        assert_eq!(answered(relay, outcome).await, 0.0, "{outcome}");
    }
}

async fn spool_is_drained(relay: &RelayProcess) {
    eventually("the spool is drained", PATIENCE, async || {
        let left = relay.metric("crm_relay_spool_messages").await;
        (left == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_is_killed_under_load_and_hubspot_notices_nothing() {
    let parts = Parts::new();
    let simulator = simulator(&parts.portals).await;
    let config = parts.config("1 GiB");
    let relay = RelayProcess::start(&simulator, &parts.portals, &parts.bus, &config).await;
    simulator.control().set_traffic(RATE);
    tokio::time::sleep(A_WHILE).await;
    tokio::task::block_in_place(|| parts.broker.kill());
    tokio::time::sleep(A_WHILE).await;
    assert!(relay.metric("crm_relay_spool_messages").await > Some(20.0));
    assert_eq!(relay.probe("/readyz").await, 200, "HubSpot is answered");
    tokio::task::block_in_place(|| parts.broker.resume());
    tokio::time::sleep(A_WHILE).await;
    spool_is_drained(&relay).await;
    let (url, queue) = (&parts.url, parts.destination());
    let mut versions: BTreeMap<(PortalId, String), Version> = BTreeMap::new();
    let mut backwards = 0;
    all_arrives(&simulator, &parts.portals, async |seen| {
        let messages: Vec<EnrichedEvent> = drain(url, &queue).await;
        for message in &messages {
            let of = (message.data.portal_id.clone(), message.subject.clone());
            let version = message.data.version.clone();
            let older = versions.insert(of, version.clone());
            backwards += usize::from(older.is_some_and(|older| older > version));
        }
        count(seen, messages);
    })
    .await;
    assert_eq!(backwards, 0, "no record goes backwards");
    nothing_was_refused(&relay).await;
    let stored = relay.metric("crm_relay_spool_stored_total").await;
    let drained = relay.metric("crm_relay_spool_drained_total").await;
    assert_eq!(stored, drained);
    simulator.control().set_traffic(RATE);
    tokio::time::sleep(A_WHILE / 2).await;
    let later = relay.metric("crm_relay_spool_stored_total").await;
    assert_eq!(later, stored, "requests go straight to the broker again");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_is_killed_while_the_broker_is_away_and_nothing_is_lost() {
    let parts = Parts::new();
    let simulator = simulator(&parts.portals).await;
    let config = parts.config("1 GiB");
    let mut relay = RelayProcess::start(&simulator, &parts.portals, &parts.bus, &config).await;
    simulator.control().set_traffic(RATE);
    tokio::time::sleep(A_WHILE).await;
    tokio::task::block_in_place(|| parts.broker.kill());
    for _ in 0..2 {
        tokio::time::sleep(A_WHILE / 2).await;
        relay.kill();
        // It is ready although there is no broker.
        relay.resume().await;
    }
    tokio::time::sleep(A_WHILE / 2).await;
    simulator.control().set_traffic(0.0);
    assert!(relay.terminate().await.success());
    assert!(relay.log().contains("messages stay in the spool"));
    relay.resume().await;
    assert!(relay.metric("crm_relay_spool_messages").await > Some(20.0));
    tokio::task::block_in_place(|| parts.broker.resume());
    let (url, queue) = (&parts.url, parts.destination());
    all_arrives(&simulator, &parts.portals, async |seen| {
        count(seen, drain(url, &queue).await);
    })
    .await;
    spool_is_drained(&relay).await;
    let damaged = "crm_relay_spool_damaged_total{what=\"message\"}";
    assert_eq!(relay.metric(damaged).await, Some(0.0));
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_is_answered_503_until_the_broker_has_emptied_it() {
    let parts = Parts::new();
    let simulator = simulator(&parts.portals).await;
    let config = parts.config("32 MiB");
    let mut relay = RelayProcess::start(&simulator, &parts.portals, &parts.bus, &config).await;
    tokio::time::sleep(A_WHILE).await;
    tokio::task::block_in_place(|| parts.broker.kill());
    // No array of notifications: kept whole, as a dead letter.
    let large = vec![b'x'; 7 * 1024 * 1024];
    let mut taken = 0;
    let refused = loop {
        match relay.post_body(large.clone()).await {
            204 => taken += 1,
            status => break status,
        }
        assert!(taken < 10, "32 MiB hold no more than four of them");
    };
    assert_eq!((taken, refused), (4, 503));
    assert_eq!(
        relay.probe("/readyz").await,
        503,
        "another receiver may have room"
    );
    tokio::task::block_in_place(|| parts.broker.resume());
    spool_is_drained(&relay).await;
    eventually("it is ready again", PATIENCE, async || {
        (relay.probe("/readyz").await == 200).then_some(())
    })
    .await;
    assert_eq!(relay.post_body(large).await, 204);
    let mut dead = 0;
    eventually("all are there", PATIENCE, async || {
        dead += broker_depth(&parts, "dead.letters").await;
        (dead > taken).then_some(())
    })
    .await;
    dead += broker_depth(&parts, "dead.letters").await;
    assert_eq!(dead, taken + 1);
    assert!(relay.terminate().await.success());
    assert!(relay.log().contains("the spool is empty"));
    simulator.stop().await;
}

async fn broker_depth(parts: &Parts, queue: &str) -> usize {
    let queue = format!("{}.{queue}", parts.prefix);
    crate::helpers::queue::drain_bodies(&parts.url, &queue)
        .await
        .len()
}
