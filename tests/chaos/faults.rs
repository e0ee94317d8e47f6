//! What may strike, how, and how it is healed.

use std::time::Duration;

use crm_relay::simulator::{Dials, Fault as Hiccup, Faults, RandomFault};
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use crate::rig::checker::Checker;
use crate::rig::cluster::Cluster;
use crate::rig::deployment::{Deployment, PARTITIONS, PREFIX, SPOOLING};
use crate::rig::dice::Dice;
use crate::rig::ledger::Destination;
use crate::rig::people::portal_id;
use crate::rig::proxy::{Flow, Mode, Proxy};
use crate::rig::relay::{Relay, Role};

/// A slow connection.
const SLOW: Flow = Flow::Slow(20_000);
/// How many descriptors a process may still open when they are exhausted.
const DESCRIPTORS_LEFT: usize = 1;
/// More than any disk has free.
const DISK_ALARM: &str = "100000GB";
const NO_DISK_ALARM: &str = "1MB";
/// Of calls, those that HubSpot answers badly.
const BAD_ANSWERS: f64 = 0.7;
/// What HubSpot says when a portal is moved.
const RETRY_AFTER_S: u32 = 2;
/// How far clocks jump.
const JUMPS: [&str; 4] = ["+3600", "-3600", "+90", "-90"];
/// How old HubSpot's answers are when they are stale.
const STALE_BY: Duration = Duration::from_secs(4);

/// A pair of parts with a proxy between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    ToReceiver,
    ReceiverToBroker,
    WorkerToBroker,
    WorkerToHubSpot,
}

/// What befalls a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Cut,
    Stalled,
    Slow,
    /// What is sent arrives, what comes back does not: of a broker, its confirms.
    Deaf,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill(Role),
    KillAll(Role),
    Freeze(Role),
    RollingRestart(Role),
    /// The node that leads a partition.
    KillLeader,
    KillFollower,
    /// Two of three.
    KillMajority,
    RestartNode,
    FreezeNode,
    Connection(Link, Trouble),
    /// `basic.return`: a partition's queue is bound to nothing.
    Unroutable,
    DiskAlarm,
    DestinationFull,
    /// The spool's disk, while the broker is away.
    SpoolDiskFull,
    Descriptors(Role),
    ClockJump(Role),
    HubSpot(Hiccup),
    StaleReads,
    TokenRevoked,
}

const LINKS: [Link; 4] = [
    Link::ToReceiver,
    Link::ReceiverToBroker,
    Link::WorkerToBroker,
    Link::WorkerToHubSpot,
];
const TROUBLES: [Trouble; 4] = [Trouble::Cut, Trouble::Stalled, Trouble::Slow, Trouble::Deaf];
const HICCUPS: [Hiccup; 9] = [
    Hiccup::Status(429),
    Hiccup::Status(423),
    Hiccup::Status(477),
    Hiccup::Status(500),
    Hiccup::Status(503),
    Hiccup::HalfBody,
    Hiccup::Garbage,
    Hiccup::Hang,
    Hiccup::Reset,
];

/// All faults that this deployment can have.
pub fn possible(parts: &Deployment) -> Vec<Fault> {
    use Role::{Receiver, Worker};
    let mut faults = vec![
        Fault::Kill(Receiver),
        Fault::Kill(Worker),
        Fault::KillAll(Worker),
        Fault::Freeze(Receiver),
        Fault::Freeze(Worker),
        Fault::RollingRestart(Receiver),
        Fault::RollingRestart(Worker),
        Fault::KillLeader,
        Fault::RestartNode,
        Fault::FreezeNode,
        Fault::Unroutable,
        Fault::DiskAlarm,
        Fault::DestinationFull,
        Fault::Descriptors(Receiver),
        Fault::Descriptors(Worker),
        Fault::StaleReads,
        Fault::TokenRevoked,
        Fault::Connection(Link::ReceiverToBroker, Trouble::Refused),
    ];
    if parts.cluster.size() > 1 {
        faults.extend([Fault::KillFollower, Fault::KillMajority]);
    }
    if parts.spool_disk.is_some() {
        faults.push(Fault::SpoolDiskFull);
    }
    if parts.receivers[1].clock().is_some() {
        faults.extend([Fault::ClockJump(Receiver), Fault::ClockJump(Worker)]);
    }
    let links = LINKS.iter();
    let troubles = links.flat_map(|link| TROUBLES.map(|trouble| Fault::Connection(*link, trouble)));
    faults.extend(troubles);
    faults.extend(HICCUPS.map(Fault::HubSpot));
    faults
}

/// Where a fault strikes. Two that strike at once are not of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Receivers,
    Workers,
    Broker,
    Links,
    HubSpot,
    /// Of everything.
    Everywhere,
}

/// A fault that has struck.
pub struct Struck {
    fault: Fault,
    /// Which of several: a process, a node, a partition, a portal.
    at: usize,
}

impl Fault {
    /// As the report has it.
    pub fn name(self) -> String {
        let part = |part| match part {
            Role::Receiver => "receiver",
            Role::Worker => "worker",
        };
        match self {
            Self::Kill(one) => format!("{} killed", part(one)),
            Self::KillAll(one) => format!("all {}s killed", part(one)),
            Self::Freeze(one) => format!("{} frozen (SIGSTOP)", part(one)),
            Self::RollingRestart(one) => format!("rolling restart of {}s", part(one)),
            Self::KillLeader => "broker: a partition's leader killed".to_owned(),
            Self::KillFollower => "broker: a follower killed".to_owned(),
            Self::KillMajority => "broker: two of three nodes killed".to_owned(),
            Self::RestartNode => "broker: a node restarted in order".to_owned(),
            Self::FreezeNode => "broker: a node frozen (SIGSTOP)".to_owned(),
            Self::Connection(link, trouble) => {
                let link = match link {
                    Link::ToReceiver => "HubSpot–receiver",
                    Link::ReceiverToBroker => "receiver–broker",
                    Link::WorkerToBroker => "worker–broker",
                    Link::WorkerToHubSpot => "worker–HubSpot",
                };
                let trouble = match trouble {
                    Trouble::Cut => "cut, again and again",
                    Trouble::Stalled => "stalled",
                    Trouble::Slow => "20 kB/s",
                    Trouble::Deaf => "nothing comes back",
                    Trouble::Refused => "refused",
                };
                format!("{link}: {trouble}")
            }
            Self::Unroutable => "broker: a partition unbound (`basic.return`)".to_owned(),
            Self::DiskAlarm => "broker: disk alarm".to_owned(),
            Self::DestinationFull => "a destination's queue at its limit".to_owned(),
            Self::SpoolDiskFull => "the spool's disk full, the broker away".to_owned(),
            Self::Descriptors(one) => format!("{}: no descriptors left", part(one)),
            Self::ClockJump(one) => format!("{}: clock jumps", part(one)),
            Self::HubSpot(Hiccup::Status(status)) => format!("HubSpot: {status}"),
            Self::HubSpot(Hiccup::Hang) => "HubSpot: no answer".to_owned(),
            Self::HubSpot(Hiccup::Reset) => "HubSpot: connection reset".to_owned(),
            Self::HubSpot(Hiccup::HalfBody) => "HubSpot: half a body".to_owned(),
            Self::HubSpot(Hiccup::Garbage) => "HubSpot: garbage".to_owned(),
            Self::StaleReads => "HubSpot: reads 4 s old".to_owned(),
            Self::TokenRevoked => "HubSpot: a token revoked".to_owned(),
        }
    }

    /// Whether both may strike at once.
    pub fn goes_with(self, other: Self) -> bool {
        let places = [self.place(), other.place()];
        places[0] != places[1] && !places.contains(&Place::Everywhere)
    }

    fn place(self) -> Place {
        match self {
            // What is started in turn must get ready.
            Self::RollingRestart(_) => Place::Everywhere,
            Self::Kill(part)
            | Self::KillAll(part)
            | Self::Freeze(part)
            | Self::Descriptors(part)
            | Self::ClockJump(part) => match part {
                Role::Receiver => Place::Receivers,
                Role::Worker => Place::Workers,
            },
            Self::KillLeader
            | Self::KillFollower
            | Self::KillMajority
            | Self::RestartNode
            | Self::FreezeNode
            | Self::Unroutable
            | Self::DiskAlarm
            | Self::DestinationFull => Place::Broker,
            Self::Connection(..) | Self::SpoolDiskFull => Place::Links,
            Self::HubSpot(_) | Self::StaleReads | Self::TokenRevoked => Place::HubSpot,
        }
    }

    /// How long it lasts.
    pub fn lasts(self, dice: &mut Dice) -> Duration {
        match self {
            // What takes a moment lasts for as long as it takes.
            Self::RollingRestart(_) | Self::RestartNode => Duration::ZERO,
            // Longer than a worker may be silent, and than a publish may take.
            Self::Freeze(_) | Self::FreezeNode | Self::DiskAlarm => dice.millis(4_000, 9_000),
            Self::DestinationFull => dice.millis(6_000, 10_000),
            _ => dice.millis(500, 6_000),
        }
    }

    /// Strikes.
    pub async fn strike(
        self,
        parts: &mut Deployment,
        checker: &Checker,
        dice: &mut Dice,
    ) -> Struck {
        let at = self.target(parts, dice);
        match self {
            Self::Kill(part) => parts.of(part)[at].kill(),
            Self::KillAll(part) => parts.of(part).iter_mut().for_each(Relay::kill),
            Self::Freeze(part) => parts.of(part)[at].signal("STOP"),
            Self::RollingRestart(part) => parts.restart_in_turn(part).await,
            Self::KillLeader | Self::KillFollower => {
                tokio::task::block_in_place(|| parts.cluster.kill(at));
            }
            Self::KillMajority => tokio::task::block_in_place(|| {
                others(parts, at).for_each(|node| parts.cluster.kill(node));
            }),
            Self::RestartNode => tokio::task::block_in_place(|| {
                parts.cluster.stop(at);
                parts.cluster.resume(at);
            }),
            Self::FreezeNode => parts.cluster.freeze(at),
            Self::Connection(link, trouble) => trouble.strike(&proxies(parts, link)[at]).await,
            Self::Unroutable => bind(parts, at, false).await,
            Self::DiskAlarm => set_disk_limit(parts, DISK_ALARM),
            Self::DestinationFull => checker.pause(Destination::Narrow, true),
            Self::SpoolDiskFull => {
                parts.receivers_to_broker[SPOOLING].set(Mode::REFUSE);
                parts.receivers_to_broker[SPOOLING].cut();
                parts.spool_disk.as_ref().expect("a disk").fill();
            }
            Self::Descriptors(part) => {
                let relay = &parts.of(part)[at];
                relay.limit_descriptors(Some(relay.descriptors() + DESCRIPTORS_LEFT));
                // What is open stays open, so the lack is felt by what must be opened anew.
                let links = match part {
                    Role::Receiver => [&parts.to_receivers, &parts.receivers_to_broker],
                    Role::Worker => [&parts.to_hubspot, &parts.workers_to_broker],
                };
                links.iter().for_each(|link| link[at].cut());
            }
            Self::ClockJump(part) => {
                let jump = dice.pick(&JUMPS).expect("there are some");
                parts.of(part)[at].clock().expect("a clock").set(jump);
            }
            Self::HubSpot(fault) => parts.simulator.control().set_faults(Faults {
                random: vec![RandomFault {
                    fault,
                    probability: BAD_ANSWERS,
                    path: String::new(),
                }],
                // Without a word the relay waits for a minute after 477; HubSpot says how long.
                retry_after_s: (fault == Hiccup::Status(477)).then_some(RETRY_AFTER_S),
                ..Faults::default()
            }),
            Self::StaleReads => parts.simulator.control().set_dials(Dials {
                stale_reads: STALE_BY,
                stale_probability: BAD_ANSWERS,
                ..Dials::default()
            }),
            Self::TokenRevoked => {
                let portal = portal_id(at as u8);
                parts.simulator.control().set_revoked(portal, true).unwrap();
            }
        }
        Struck { fault: self, at }
    }

    /// Which of several it strikes.
    fn target(self, parts: &mut Deployment, dice: &mut Dice) -> usize {
        let below = |dice: &mut Dice, end: usize| dice.below(end as u64) as usize;
        let nodes = parts.cluster.size();
        match self {
            Self::Kill(part) | Self::Freeze(part) | Self::Descriptors(part) => {
                below(dice, parts.of(part).len())
            }
            Self::KillAll(_) | Self::RollingRestart(_) => 0,
            Self::DiskAlarm | Self::DestinationFull | Self::StaleReads | Self::HubSpot(_) => 0,
            Self::SpoolDiskFull => SPOOLING,
            Self::KillLeader | Self::KillFollower => {
                let partition = Deployment::partition(dice.below(u64::from(PARTITIONS)) as u16);
                let leader = tokio::task::block_in_place(|| parts.cluster.leader(&partition));
                let step = if self == Self::KillLeader {
                    0
                } else {
                    1 + below(dice, nodes - 1)
                };
                (leader + step) % nodes
            }
            Self::KillMajority | Self::RestartNode | Self::FreezeNode => below(dice, nodes),
            Self::Connection(link, _) => below(dice, proxies(parts, link).len()),
            Self::Unroutable => below(dice, PARTITIONS.into()),
            // The one whose clock may be set.
            Self::ClockJump(Role::Receiver) => 1,
            Self::ClockJump(Role::Worker) => 0,
            Self::TokenRevoked => below(dice, parts.size.portals.into()),
        }
    }
}

impl Struck {
    /// Puts things right again, as far as the relay must not do that itself.
    pub async fn heal(self, parts: &mut Deployment, checker: &Checker) {
        let at = self.at;
        match self.fault {
            Fault::Kill(part) => parts.of(part)[at].resume(),
            Fault::KillAll(part) => parts.of(part).iter_mut().for_each(Relay::resume),
            Fault::Freeze(part) => parts.of(part)[at].signal("CONT"),
            Fault::RollingRestart(_) | Fault::RestartNode => {}
            Fault::KillLeader | Fault::KillFollower => {
                tokio::task::block_in_place(|| parts.cluster.resume(at));
            }
            Fault::KillMajority => tokio::task::block_in_place(|| {
                others(parts, at).for_each(|node| parts.cluster.resume(node));
            }),
            Fault::FreezeNode => parts.cluster.thaw(at),
            Fault::Connection(link, _) => proxies(parts, link)[at].set(Mode::PASS),
            Fault::Unroutable => bind(parts, at, true).await,
            Fault::DiskAlarm => set_disk_limit(parts, NO_DISK_ALARM),
            Fault::DestinationFull => checker.pause(Destination::Narrow, false),
            Fault::SpoolDiskFull => {
                parts.spool_disk.as_ref().expect("a disk").empty();
                parts.receivers_to_broker[SPOOLING].set(Mode::PASS);
            }
            Fault::Descriptors(part) => parts.of(part)[at].limit_descriptors(None),
            Fault::ClockJump(part) => parts.of(part)[at].clock().expect("a clock").set("+0"),
            Fault::HubSpot(_) => parts.simulator.control().set_faults(Faults::default()),
            Fault::StaleReads => parts.simulator.control().set_dials(Dials::default()),
            Fault::TokenRevoked => {
                let portal = at as u8;
                let hubspot = parts.simulator.control();
                hubspot.set_revoked(portal_id(portal), false).unwrap();
                // Who mends it says so; otherwise the next probe would be in five minutes.
                parts.write_portal(portal, "# the token is good again");
                tokio::time::sleep(Duration::from_secs(3)).await;
                parts.write_portal(portal, "");
            }
        }
    }
}

impl Trouble {
    async fn strike(self, proxy: &Proxy) {
        match self {
            Self::Cut => {
                for _ in 0..5 {
                    proxy.cut();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
            Self::Stalled => proxy.set(Mode::both(Flow::Hold)),
            Self::Slow => proxy.set(Mode::both(SLOW)),
            Self::Deaf => proxy.set(Mode::DEAF),
            Self::Refused => {
                proxy.set(Mode::REFUSE);
                proxy.cut();
            }
        }
    }
}

fn proxies(parts: &Deployment, link: Link) -> &[Proxy] {
    match link {
        Link::ToReceiver => &parts.to_receivers,
        Link::ReceiverToBroker => &parts.receivers_to_broker,
        Link::WorkerToBroker => &parts.workers_to_broker,
        Link::WorkerToHubSpot => &parts.to_hubspot,
    }
}

fn others(parts: &Deployment, than: usize) -> impl Iterator<Item = usize> + use<> {
    (0..parts.cluster.size()).filter(move |node| *node != than)
}

fn set_disk_limit(parts: &Deployment, limit: &str) {
    tokio::task::block_in_place(|| parts.cluster.ctl_all(&["set_disk_free_limit", limit]));
}

/// Binds a partition's queue to its exchange, or takes the binding away.
async fn bind(parts: &Deployment, partition: usize, bound: bool) {
    let address = *parts.cluster.living().first().expect("a node lives");
    let url = Cluster::url(address);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await;
    let connection = connection.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    let queue = Deployment::partition(partition as u16);
    let (exchange, key) = (format!("{PREFIX}.intake"), partition.to_string());
    let (queue, exchange, key) = (queue.into(), exchange.into(), key.into());
    let none = FieldTable::default();
    if bound {
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(queue, exchange, key, options, none);
        bound.await.expect("bound");
    } else {
        let unbound = channel.queue_unbind(queue, exchange, key, none);
        unbound.await.expect("unbound");
    }
    connection.close(200, "".into()).await.expect("closed");
}
