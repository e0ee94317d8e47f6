//! Nothing that was answered 2xx is lost: the relay and the broker are killed under load, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crm_relay::event::{
    EnrichedEvent, Event, EventId, Millis, ObjectId, ObjectTypeId, PortalId, Version,
};
use crm_relay::normalize::normalize;
use crm_relay::simulator::{Dials, Limits, PortalOptions, Simulator, SimulatorOptions};

use crate::helpers::broker::{self, Broker};
use crate::helpers::eventually;
use crate::helpers::queue::drain;
use crate::helpers::relay::{Bus, RelayProcess};

/// Changes per second while faults strike.
pub const RATE: f64 = 150.0;
/// How long the load runs between two faults.
const BETWEEN_FAULTS: Duration = Duration::from_secs(2);
const FAULTS: usize = 3;
/// How long everything may take to arrive after the last fault.
const ARRIVAL_MAX: Duration = Duration::from_secs(60);

/// How long partitions may take to move.
const SHARING_MAX: Duration = Duration::from_secs(40);

pub type Seen = BTreeMap<EventId, usize>;

pub async fn simulator(portals: &[PortalOptions]) -> Simulator {
    let options = SimulatorOptions {
        portals: portals.to_vec(),
        dials: Dials {
            duplicates: 0.05,
            ..Dials::default()
        },
        ..SimulatorOptions::default()
    };
    Simulator::start(options).await.unwrap()
}

pub fn portals() -> Vec<PortalOptions> {
    vec![PortalOptions::new(8241), PortalOptions::new(62515)]
}

/// All events that HubSpot was told are taken care of.
fn accepted(simulator: &Simulator, portals: &[PortalOptions]) -> Vec<Event> {
    let mut events = Vec::new();
    for portal in portals {
        for acknowledged in simulator.control().acknowledged(portal.id).unwrap() {
            let raw = acknowledged.notification.to_string();
            events.push(normalize(&raw, Millis::default()).unwrap());
        }
    }
    events
}

/// The ids of those, without those whose record was erased.
fn promised(simulator: &Simulator, portals: &[PortalOptions]) -> BTreeSet<EventId> {
    let events = accepted(simulator, portals);
    let subject = |event: &crm_relay::event::Event| -> (PortalId, ObjectTypeId, ObjectId) {
        let key = event.subject();
        (key.portal_id, key.object_type_id, key.object_id)
    };
    let erased: BTreeSet<_> = events
        .iter()
        .filter(|e| e.kind() == "privacy_deleted")
        .map(subject)
        .collect();
    events
        .iter()
        .filter(|event| !erased.contains(&subject(event)))
        .map(|event| event.id.clone())
        .collect()
}

/// In which order the versions of each record came.
#[derive(Default)]
pub struct Versions {
    last: BTreeMap<Subject, Version>,
    greatest: BTreeMap<Subject, Version>,
    /// When what came after a newer version was read; `None` for what needs no read.
    older: Vec<Option<Millis>>,
}

type Subject = (PortalId, String);

impl Versions {
    pub fn add(&mut self, message: &EnrichedEvent) {
        let of: Subject = (message.data.portal_id.clone(), message.subject.clone());
        let version = &message.data.version;
        self.last.insert(of.clone(), version.clone());
        match self.greatest.get(&of) {
            Some(greatest) if version < greatest => {
                self.older.push(message.data.enrichment.fetched_at);
            }
            _ => _ = self.greatest.insert(of, version.clone()),
        }
    }

    /// A record's versions rise, from one worker to the next as well. Whoever takes over from one that was killed may not know
    /// the last second of it, and begin below what that sent; in the end each record has come in its newest version.
    pub fn hold(&self, killed_at: Millis) {
        let read = self.older.iter().flatten();
        let early = read.filter(|read| **read < killed_at).count();
        assert_eq!(early, 0, "records went backwards before anybody was killed");
        let is_old = |(of, last): &(&Subject, &Version)| self.greatest[*of] > **last;
        let old: Vec<_> = self.last.iter().filter(is_old).collect();
        assert!(old.is_empty(), "an older version came last: {old:?}");
    }
}

pub fn count(seen: &mut Seen, messages: impl IntoIterator<Item = EnrichedEvent>) {
    for event in messages.into_iter().flat_map(|message| message.data.events) {
        *seen.entry(event.id).or_default() += 1;
    }
}

/// Waits until HubSpot has nothing left to send, and then until all it was promised has arrived.
pub async fn all_arrives(
    simulator: &Simulator,
    portals: &[PortalOptions],
    mut arrived: impl AsyncFnMut(&mut Seen),
) -> Seen {
    simulator.control().set_traffic(0.0);
    eventually("HubSpot has sent everything", ARRIVAL_MAX, async || {
        let waiting = portals.iter().map(|portal| {
            let counts = simulator
                .control()
                .counters(portal.id)
                .unwrap()
                .notifications;
            counts.made + counts.duplicates - counts.acknowledged - counts.dropped
        });
        (waiting.sum::<u64>() == 0).then_some(())
    })
    .await;
    let promised = promised(simulator, portals);
    assert!(promised.len() > 500, "hardly any load: {}", promised.len());
    let mut seen = Seen::new();
    let deadline = tokio::time::Instant::now() + ARRIVAL_MAX;
    loop {
        arrived(&mut seen).await;
        let lost: Vec<_> = promised
            .iter()
            .filter(|id| !seen.contains_key(*id))
            .collect();
        if lost.is_empty() {
            return seen;
        }
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        assert!(
            !left.is_zero(),
            "{} of {} events were lost",
            lost.len(),
            promised.len()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The same, where the destination is a file.
pub async fn all_is_in_the_file(
    simulator: &Simulator,
    portals: &[PortalOptions],
    relay: &RelayProcess,
) -> Seen {
    let path = relay.ndjson_path();
    all_arrives(simulator, portals, async |seen| {
        let text = std::fs::read_to_string(&path).unwrap();
        seen.clear();
        // A line that was cut by a kill is whole further down.
        let lines = text.lines();
        count(
            seen,
            lines.filter_map(|line| serde_json::from_str(line).ok()),
        );
    })
    .await
}

/// The ledger has every event that HubSpot was promised, once, and as many in the destination as lie there.
pub async fn the_ledger_agrees(
    relay: &RelayProcess,
    simulator: &Simulator,
    portals: &[PortalOptions],
    seen: &Seen,
) {
    let mut came: BTreeMap<PortalId, BTreeSet<EventId>> = BTreeMap::new();
    for event in accepted(simulator, portals) {
        came.entry(event.portal_id).or_default().insert(event.id);
    }
    let mut last = None;
    let deadline = tokio::time::Instant::now() + ARRIVAL_MAX;
    let report = loop {
        let (adds_up, report) = relay.audit(&[]).await;
        assert!(adds_up, "{report:?}");
        let all_ended = came.iter().all(|(portal_id, events)| {
            let account = report.portals.get(portal_id);
            account.is_some_and(|account| {
                let once = account.ended - account.ended_again;
                account.open == 0 && once == events.len() as u64
            })
        });
        if all_ended {
            break report;
        }
        let counts: Vec<_> = came.values().map(BTreeSet::len).collect();
        assert!(
            tokio::time::Instant::now() < deadline,
            "{counts:?} events came; {report:?}, before {last:?}"
        );
        last = Some(report);
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let outs = report.portals.values();
    let outs = outs.map(|account| account.destinations["out"]);
    let has: u64 = outs.clone().map(|out| out.delivered + out.merged).sum();
    let dead: u64 = outs.map(|out| out.dead).sum();
    let (least, most) = (promised(simulator, portals).len(), seen.len());
    assert!(
        least as u64 <= has && has <= most as u64,
        "{least} ≤ {has} ≤ {most}"
    );
    assert_eq!(dead, 0);
}

async fn kill_the_relay_under_load(simulator: &Simulator, relay: &mut RelayProcess) {
    simulator.control().set_traffic(RATE);
    for _ in 0..FAULTS {
        tokio::time::sleep(BETWEEN_FAULTS).await;
        relay.kill();
        relay.resume().await;
    }
    tokio::time::sleep(BETWEEN_FAULTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_is_killed_under_load_on_the_embedded_bus_and_nothing_is_lost() {
    let portals = portals();
    let simulator = simulator(&portals).await;
    let mut relay = RelayProcess::start(&simulator, &portals, &Bus::Embedded, "").await;
    kill_the_relay_under_load(&simulator, &mut relay).await;
    let seen = all_is_in_the_file(&simulator, &portals, &relay).await;
    the_ledger_agrees(&relay, &simulator, &portals, &seen).await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_is_killed_under_load_on_rabbitmq_and_nothing_is_lost() {
    let portals = portals();
    let simulator = simulator(&portals).await;
    let (bus, url, prefix) = Bus::on_rabbitmq();
    let mut relay = RelayProcess::start(&simulator, &portals, &bus, "").await;
    kill_the_relay_under_load(&simulator, &mut relay).await;
    let queue = format!("{prefix}.destination.out");
    let seen = all_arrives(&simulator, &portals, async |seen| {
        count(seen, drain(&url, &queue).await)
    })
    .await;
    the_ledger_agrees(&relay, &simulator, &portals, &seen).await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_is_killed_under_load_and_nothing_is_lost() {
    let portals = portals();
    let simulator = simulator(&portals).await;
    let broker = Broker::start();
    let (url, prefix) = (broker.url(), broker::unique_prefix());
    let bus = Bus::RabbitMq {
        url: url.clone(),
        prefix: prefix.clone(),
    };
    let relay = RelayProcess::start(&simulator, &portals, &bus, "").await;
    simulator.control().set_traffic(RATE);
    for _ in 0..2 {
        tokio::time::sleep(BETWEEN_FAULTS * 2).await;
        tokio::task::block_in_place(|| broker.restart());
    }
    tokio::time::sleep(BETWEEN_FAULTS).await;
    let queue = format!("{prefix}.destination.out");
    let seen = all_arrives(&simulator, &portals, async |seen| {
        count(seen, drain(&url, &queue).await)
    })
    .await;
    the_ledger_agrees(&relay, &simulator, &portals, &seen).await;
    let metrics = relay.metrics().await;
    assert!(
        !metrics.contains("crm_relay_bus_sessions_lost_total 0"),
        "the loss was noticed"
    );
    simulator.stop().await;
}

/// How many partitions a worker consumes.
async fn share(relay: &RelayProcess) -> u64 {
    let share = relay.metric("crm_relay_worker_partitions").await;
    share.unwrap() as u64
}

pub async fn shares_become(relays: &[&RelayProcess], expected: &[u64]) {
    eventually(&format!("{expected:?}"), SHARING_MAX, async || {
        let mut shares = Vec::new();
        for relay in relays {
            shares.push(share(relay).await);
        }
        shares.sort_unstable();
        (shares == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_come_and_go_share_the_partitions_and_lose_nothing() {
    let limits = Limits {
        burst: 40,
        ..Limits::default()
    };
    let portals: Vec<_> = (1..=6)
        .map(|id| PortalOptions {
            limits,
            ..PortalOptions::new(id)
        })
        .collect();
    let simulator = simulator(&portals).await;
    let (bus, url, prefix) = Bus::on_rabbitmq();
    let start = async || RelayProcess::start(&simulator, &portals, &bus, "").await;
    let mut first = start().await;
    shares_become(&[&first], &[4]).await;
    simulator.control().set_traffic(RATE / 2.0);
    tokio::time::sleep(BETWEEN_FAULTS).await;
    let mut second = start().await;
    shares_become(&[&first, &second], &[2, 2]).await;
    tokio::time::sleep(BETWEEN_FAULTS).await;
    let third = start().await;
    shares_become(&[&first, &second, &third], &[1, 1, 2]).await;
    tokio::time::sleep(BETWEEN_FAULTS).await;
    assert!(second.terminate().await.success());
    shares_become(&[&first, &third], &[2, 2]).await;
    tokio::time::sleep(BETWEEN_FAULTS).await;
    let killed_at = Millis::now();
    first.kill();
    shares_become(&[&third], &[4]).await;
    tokio::time::sleep(BETWEEN_FAULTS).await;
    let queue = format!("{prefix}.destination.out");
    let mut versions = Versions::default();
    let seen = all_arrives(&simulator, &portals, async |seen| {
        let messages: Vec<EnrichedEvent> = drain(&url, &queue).await;
        messages.iter().for_each(|message| versions.add(message));
        count(seen, messages);
    })
    .await;
    the_ledger_agrees(&third, &simulator, &portals, &seen).await;
    let rest = drain(&url, &queue).await;
    rest.iter().for_each(|message| versions.add(message));
    versions.hold(killed_at);
    let again = seen.values().filter(|times| **times > 1).count();
    assert!(
        again * 4 < seen.len(),
        "{again} of {} came again, and one worker was killed",
        seen.len()
    );
    for portal in &portals {
        let counters = simulator.control().counters(portal.id).unwrap();
        assert_eq!(counters.rate_limited, 0, "{counters:?}");
    }
    simulator.stop().await;
}
