//! One node of RabbitMQ or a cluster of three, of which any may be killed, frozen, stopped and started again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::helpers::broker::Broker;

/// How long a queue may have no leader when everything is well.
const ELECTION_MAX: Duration = Duration::from_secs(60);

/// The nodes. Whoever connects, directly or by a proxy, asks [`Cluster::living`].
pub struct Cluster {
    nodes: Vec<Node>,
}

struct Node {
    broker: Broker,
    /// Neither killed, nor stopped, nor frozen.
    lives: AtomicBool,
}

impl Cluster {
    /// Starts so many nodes and waits until they answer.
    pub fn start(count: usize) -> Self {
        let first = Broker::start();
        let others: Vec<_> = (1..count).map(|_| Broker::start_beside(&first)).collect();
        let nodes = std::iter::once(first).chain(others).map(|broker| Node {
            broker,
            lives: AtomicBool::new(true),
        });
        let cluster = Self {
            nodes: nodes.collect(),
        };
        let running = cluster.ctl(&["cluster_status", "--formatter", "json"]);
        for node in &cluster.nodes {
            assert!(running.contains(node.broker.name()), "not in the cluster");
        }
        cluster
    }

    /// How many nodes there are.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// What a load balancer would send connections to.
    pub fn living(&self) -> Vec<SocketAddr> {
        let living = self.nodes.iter().filter(|node| node.lives());
        living.map(|node| node.broker.address()).collect()
    }

    /// Where to connect to at `address`, a node's or a proxy's.
    pub fn url(address: SocketAddr) -> String {
        format!("amqp://guest:guest@{address}/%2f?heartbeat=5")
    }

    /// Waits until a single node has the names of its queues on disk; see [`Broker::await_registered`].
    pub fn await_registered(&self, queues: &[String]) {
        if let [only] = &self.nodes[..] {
            only.broker.await_registered(queues);
        }
    }

    /// How many nodes hold a copy of each queue: the fewest.
    pub fn fewest_copies(&self) -> usize {
        let listing = self.ctl(&["list_queues", "type", "members", "--no-table-headers"]);
        // Those by which workers hear of one another are classic, and live with their connections.
        let replicated = listing.lines().filter(|line| !line.starts_with("classic"));
        let copies = replicated.map(|line| line.matches("@localhost").count());
        copies.min().unwrap_or_default()
    }

    /// What `rabbitmqctl` says of a node that lives.
    pub fn ctl(&self, args: &[&str]) -> String {
        let node = self.nodes.iter().find(|node| node.lives());
        node.expect("a node lives").broker.ctl(args)
    }

    /// The same of every node that lives.
    pub fn ctl_all(&self, args: &[&str]) {
        let living = self.nodes.iter().filter(|node| node.lives());
        living.for_each(|node| _ = node.broker.ctl(args));
    }

    /// The node that leads a queue.
    ///
    /// # Panics
    /// When nobody leads it for a while.
    pub fn leader(&self, queue: &str) -> usize {
        let begun = Instant::now();
        loop {
            let listing = self.ctl(&["list_queues", "name", "leader", "--no-table-headers"]);
            let mut rows = listing.lines().map(str::split_whitespace);
            let row = rows.find(|row| row.clone().next() == Some(queue));
            let leader = row.and_then(|mut row| row.nth(1));
            let mut nodes = self.nodes.iter();
            if let Some(index) = nodes.position(|node| Some(node.broker.name()) == leader) {
                return index;
            }
            assert!(
                begun.elapsed() < ELECTION_MAX,
                "{queue} has no leader: {listing}"
            );
        }
    }

    /// SIGKILL.
    pub fn kill(&self, index: usize) {
        self.nodes[index].lives.store(false, Ordering::Relaxed);
        self.nodes[index].broker.kill();
    }

    /// In order, as for an upgrade.
    pub fn stop(&self, index: usize) {
        self.nodes[index].lives.store(false, Ordering::Relaxed);
        self.nodes[index].broker.stop();
    }

    /// Starts again what was killed or stopped.
    pub fn resume(&self, index: usize) {
        self.nodes[index].broker.resume();
        self.nodes[index].lives.store(true, Ordering::Relaxed);
    }

    /// SIGSTOP.
    pub fn freeze(&self, index: usize) {
        self.nodes[index].lives.store(false, Ordering::Relaxed);
        self.nodes[index].broker.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self, index: usize) {
        self.nodes[index].broker.signal("CONT");
        self.nodes[index].lives.store(true, Ordering::Relaxed);
    }
}

impl Node {
    fn lives(&self) -> bool {
        self.lives.load(Ordering::Relaxed)
    }
}
