//! The parts of a deployment, put together: two receivers, of which one has a spool, three workers, the broker, HubSpot.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crm_relay::simulator::{
    Latency, Limits, PortalOptions, Simulator, SimulatorOptions, Subscriptions, WebhookOptions,
};

use super::cluster::Cluster;
use super::disk::Disk;
use super::ledger::{Destination, NARROW_PORTAL, PLAIN_PORTAL};
use super::load::{Backend, PUBLIC_URL, SECRET};
use super::people::{PROPERTY, portal_id};
use super::proxy::Proxy;
use super::relay::{Clock, Relay, Role};
use crate::helpers::ports::free_address;

pub const PREFIX: &str = "chaos";
pub const PARTITIONS: u16 = 4;
pub const RECEIVERS: usize = 2;
/// The receiver that has a spool.
pub const SPOOLING: usize = 0;
/// With which the ledger is asked for.
pub const ADMIN_TOKEN: &str = "an-admin-token-for-the-campaign";
/// Asked for, though nothing is sealed here.
const PORTALS_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// A destination that holds so much, and no more.
const NARROW_BYTES: &str = "30 KB";
/// What the spool may hold, and the file system of its own that it is on.
const SPOOL_BYTES_MAX: &str = "256 MiB";
const SPOOL_DISK_BYTES: u64 = 64 << 20;
/// By then the balancer has seen that a process is ready.
const READY_SEEN_AFTER: Duration = Duration::from_millis(500);
/// Nothing is refused for its number: budgets have tests of their own.
const UNLIMITED: u32 = 1_000_000_000;

/// How large.
#[derive(Clone, Copy)]
pub struct Size {
    pub nodes: usize,
    pub workers: usize,
    pub portals: u8,
}

pub struct Deployment {
    pub size: Size,
    pub simulator: Simulator,
    pub cluster: Arc<Cluster>,
    pub receivers: Vec<Relay>,
    pub workers: Vec<Relay>,
    /// HubSpot to each receiver.
    pub to_receivers: Vec<Proxy>,
    /// Each receiver to the broker.
    pub receivers_to_broker: Vec<Proxy>,
    /// Each worker to the broker.
    pub workers_to_broker: Vec<Proxy>,
    /// Each worker to HubSpot.
    pub to_hubspot: Vec<Proxy>,
    /// The spool's own file system, where one could be mounted.
    pub spool_disk: Option<Disk>,
    portals_folder: PathBuf,
    /// Holds everything that is on disk but the broker's.
    pub folder: PathBuf,
}

impl Deployment {
    /// Starts everything in `folder` and waits until receivers are ready.
    pub async fn start(size: Size, seed: u64, folder: &Path) -> Self {
        let cluster = Arc::new(tokio::task::block_in_place(|| Cluster::start(size.nodes)));
        let simulator = hubspot(size.portals, seed).await;
        let portals_folder = folder.join("portals");
        fs::create_dir_all(&portals_folder).unwrap();
        let mut deployment = Self {
            size,
            simulator,
            cluster,
            receivers: Vec::new(),
            workers: Vec::new(),
            to_receivers: Vec::new(),
            receivers_to_broker: Vec::new(),
            workers_to_broker: Vec::new(),
            to_hubspot: Vec::new(),
            spool_disk: None,
            portals_folder,
            folder: folder.to_owned(),
        };
        (0..size.portals).for_each(|portal| deployment.write_portal(portal, ""));
        for index in 0..RECEIVERS {
            deployment.add_receiver(index).await;
        }
        for index in 0..size.workers {
            deployment.add_worker(index).await;
        }
        for relay in deployment.receivers.iter().chain(&deployment.workers) {
            relay.ready().await;
        }
        let queues = Self::queues();
        tokio::task::block_in_place(|| deployment.cluster.await_registered(&queues));
        let copies = tokio::task::block_in_place(|| deployment.cluster.fewest_copies());
        assert_eq!(copies, size.nodes, "every node has a copy of every queue");
        deployment
    }

    /// Writes a portal's file, as its owner does who has a new token, or the same once more.
    pub fn write_portal(&self, portal: u8, more: &str) {
        let id = portal_id(portal);
        let token = PortalOptions::new(id).access_token;
        let file = self.portals_folder.join(format!("{id}.toml"));
        let new = file.with_extension("new");
        fs::write(&new, format!("access_token = {token:?}\n{more}\n")).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// The quorum queues that matter.
    pub fn queues() -> Vec<String> {
        let partitions = (0..PARTITIONS).map(Self::partition);
        let destinations = Destination::EACH.map(Self::destination);
        let letters = [Self::dead_letters()];
        partitions.chain(destinations).chain(letters).collect()
    }

    pub fn partition(n: u16) -> String {
        format!("{PREFIX}.intake.{n}")
    }

    pub fn destination(destination: Destination) -> String {
        format!("{PREFIX}.destination.{}", destination.name())
    }

    pub fn dead_letters() -> String {
        format!("{PREFIX}.dead.letters")
    }

    /// Receivers as the balancer knows them: by their proxies.
    pub fn backends(&self) -> Vec<Backend> {
        let pairs = self.to_receivers.iter().zip(&self.receivers);
        let backend = |(proxy, relay): (&Proxy, &Relay)| Backend::new(proxy.address, relay.admin);
        pairs.map(backend).collect()
    }

    /// The processes of a role.
    pub fn of(&mut self, role: Role) -> &mut Vec<Relay> {
        match role {
            Role::Receiver => &mut self.receivers,
            Role::Worker => &mut self.workers,
        }
    }

    /// Restarts one after the other, as Kubernetes does: the next when the last is ready again.
    pub async fn restart_in_turn(&mut self, role: Role) {
        for relay in self.of(role) {
            relay.stop().await;
            relay.resume();
            relay.ready().await;
            tokio::time::sleep(READY_SEEN_AFTER).await;
        }
    }

    async fn broker_proxy(&self, index: usize) -> Proxy {
        let cluster = Arc::clone(&self.cluster);
        Proxy::start(move || {
            let mut living = cluster.living();
            let turn = index % living.len().max(1);
            living.rotate_left(turn);
            living
        })
        .await
    }

    async fn add_receiver(&mut self, index: usize) {
        let (listen, admin) = (free_address(), free_address());
        let broker = self.broker_proxy(index).await;
        let folder = self.folder.join(format!("receiver-{index}"));
        let mut more = String::new();
        if index == SPOOLING {
            let spool = folder.join("disk");
            fs::create_dir_all(&spool).unwrap();
            self.spool_disk = Disk::mount(&spool, SPOOL_DISK_BYTES);
            let spool = spool.join("spool");
            more = format!("[spool]\nfolder = {spool:?}\nbytes_max = {SPOOL_BYTES_MAX:?}\n");
        }
        let config = format!(
            "[receiver]\nlisten = \"{listen}\"\n{}{more}",
            self.config(admin, &broker, None)
        );
        let clock = clock(&folder, index == 1);
        let relay = Relay::start(Role::Receiver, admin, folder, &config, clock);
        self.receivers.push(relay);
        self.receivers_to_broker.push(broker);
        self.to_receivers
            .push(Proxy::start(move || vec![listen]).await);
    }

    async fn add_worker(&mut self, index: usize) {
        let admin = free_address();
        let broker = self.broker_proxy(RECEIVERS + index).await;
        let hubspot = self.simulator.base_url();
        let hubspot: SocketAddr = hubspot.trim_start_matches("http://").parse().unwrap();
        let hubspot = Proxy::start(move || vec![hubspot]).await;
        let folder = self.folder.join(format!("worker-{index}"));
        let config = format!(
            "[receiver]\n{}",
            self.config(admin, &broker, Some(&hubspot))
        );
        let clock = clock(&folder, index == 0);
        let relay = Relay::start(Role::Worker, admin, folder, &config, clock);
        self.workers.push(relay);
        self.workers_to_broker.push(broker);
        self.to_hubspot.push(hubspot);
    }

    /// Begins within `[receiver]`.
    fn config(&self, admin: SocketAddr, broker: &Proxy, hubspot: Option<&Proxy>) -> String {
        let hubspot = hubspot.map_or_else(
            || self.simulator.base_url(),
            |proxy| format!("http://{}", proxy.address),
        );
        let url = format!("amqp://guest:guest@{}/%2f", broker.address);
        let (narrow, plain) = (portal_id(NARROW_PORTAL), portal_id(PLAIN_PORTAL));
        format!(
            "public_url = {PUBLIC_URL:?}\n[admin]\nlisten = \"{admin}\"\ntoken = {ADMIN_TOKEN:?}\n[app.main]\nclient_secrets = [{SECRET:?}]\n\
             [bus]\nurl = {url:?}\nprefix = {PREFIX:?}\npartitions = {PARTITIONS}\n\
             [hubspot]\nbase_url = {hubspot:?}\ntimeout = \"10s\"\n\
             [portals]\nfolder = {:?}\nkeys = [{PORTALS_KEY:?}]\n\
             [enrich.contact]\nproperties = [{PROPERTY:?}]\nassociations = [\"company\"]\n\
             [destination.all]\nkind = \"queue\"\n\
             [destination.narrow]\nkind = \"queue\"\nportals = [\"{narrow}\"]\nmax_length_bytes = {NARROW_BYTES:?}\n\
             [destination.plain]\nkind = \"queue\"\nportals = [\"{plain}\"]\ncontent = \"event\"\n\
             [shutdown]\ndelay = \"2s\"\n",
            self.portals_folder,
        )
    }

    /// Starts processes again that ended by themselves, as Kubernetes does; which these were.
    pub fn revive(&mut self) -> Vec<PathBuf> {
        let all = self.receivers.iter_mut().chain(&mut self.workers);
        let ended = all.filter_map(|relay| {
            let ended = relay.has_ended();
            ended.then(|| {
                relay.resume();
                relay.folder().to_owned()
            })
        });
        ended.collect()
    }
}

async fn hubspot(portals: u8, seed: u64) -> Simulator {
    let limits = Limits {
        burst: UNLIMITED,
        daily: UNLIMITED,
        associations: UNLIMITED,
        associations_daily: UNLIMITED,
        search: UNLIMITED,
    };
    let portals = (0..portals).map(|portal| PortalOptions {
        limits,
        ..PortalOptions::new(portal_id(portal))
    });
    // Notifications come from `load`.
    let silent = WebhookOptions {
        subscriptions: Subscriptions(BTreeSet::new()),
        ..WebhookOptions::new("http://127.0.0.1:9/", SECRET)
    };
    let options = SimulatorOptions {
        seed,
        portals: portals.collect(),
        webhook: Some(silent),
        latency: Latency {
            min: Duration::from_millis(5),
            max: Duration::from_millis(30),
        },
        ..SimulatorOptions::default()
    };
    Simulator::start(options).await.unwrap()
}

/// Where libfaketime is usually found.
const FAKETIME: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

fn clock(folder: &Path, wanted: bool) -> Option<Clock> {
    let library = FAKETIME
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists());
    let library = library.filter(|_| wanted)?;
    fs::create_dir_all(folder).unwrap();
    let clock = Clock {
        library,
        file: folder.join("clock"),
    };
    clock.set("+0");
    Some(clock)
}
