//! What is compared: crm-relay, and the integration that a team writes in an afternoon (`benches/comparison`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::broker::Broker;
use crate::hubspot::{HubSpot, Manners};
use crate::load::{PORTAL, PUBLIC_URL, SECRET};
use crate::ports::free_address;
use crate::process::{Process, wait_for_listener};

/// The relay's default.
pub const PARTITIONS: u16 = 16;
/// What both read, where nothing else is said.
const ENRICH: &str = "[enrich.contact]\nassociations = [\"company\"]\n";
/// What the comparison keeps in the air at once, calls and messages.
const CONCURRENCY: &str = "50";

/// One of the two.
#[derive(Clone)]
pub enum Contender {
    Relay,
    /// Where its packages are installed.
    Comparison(PathBuf),
}

/// Where a contender runs: its queues, its HubSpot.
pub struct Place {
    pub broker_url: String,
    /// Begins the names of its queues.
    pub prefix: String,
    pub hubspot_url: String,
    /// Calls that HubSpot allows in ten seconds, for those who must be told; `None`: as many as one likes.
    pub calls_per_10s: Option<u32>,
    /// How many portals it serves, and how many partitions the relay spreads them over.
    pub portals: u64,
    pub partitions: u16,
    /// The relay's settings of what to read.
    pub enrich: String,
}

impl Place {
    /// For one portal.
    pub fn new(broker: &Broker, prefix: &str, hubspot: &HubSpot, manners: Manners) -> Self {
        Self {
            broker_url: broker.url(),
            prefix: prefix.to_owned(),
            hubspot_url: hubspot.base_url.clone(),
            calls_per_10s: manners.calls_per_10s,
            portals: 1,
            partitions: PARTITIONS,
            enrich: ENRICH.to_owned(),
        }
    }
}

/// A change as a message of either contender tells it.
#[derive(Debug, Deserialize)]
pub struct Told {
    /// HubSpot's `eventId`.
    #[serde(rename = "hubspot_event_id")]
    pub id: String,
    pub occurred_at: jiff::Timestamp,
}

impl Contender {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Relay => "crm-relay",
            Self::Comparison(_) => "comparison",
        }
    }

    /// The queues that its receiver publishes to.
    pub fn intake(&self, prefix: &str) -> Vec<String> {
        match self {
            Self::Relay => (0..PARTITIONS)
                .map(|partition| format!("{prefix}.intake.{partition}"))
                .collect(),
            Self::Comparison(_) => vec![format!("{prefix}.intake")],
        }
    }

    /// The queue of its enriched events.
    pub fn out(&self, prefix: &str) -> String {
        match self {
            Self::Relay => format!("{prefix}.destination.out"),
            Self::Comparison(_) => format!("{prefix}.out"),
        }
    }

    /// All of its queues.
    pub fn queues(&self, prefix: &str) -> Vec<String> {
        let mut queues = self.intake(prefix);
        queues.push(self.out(prefix));
        queues.push(format!("{prefix}.dead.letters"));
        queues
    }

    /// Starts its receiver and waits until it listens.
    pub fn receiver(&self, place: &Place, folder: &Path) -> (Process, SocketAddr) {
        let address = free_address();
        let process = match self {
            Self::Relay => relay("receiver", place, address, folder),
            Self::Comparison(home) => comparison(home, "receiver.mjs", place, address),
        };
        wait_for_listener(address);
        (process, address)
    }

    /// Starts its worker.
    pub fn worker(&self, place: &Place, folder: &Path) -> Process {
        match self {
            Self::Relay => relay("worker", place, free_address(), folder),
            Self::Comparison(home) => comparison(home, "worker.mjs", place, free_address()),
        }
    }

    /// The changes that one of its messages tells of.
    pub fn told(&self, message: &[u8]) -> Vec<Told> {
        match self {
            Self::Relay => {
                #[derive(Deserialize)]
                struct Message {
                    data: Data,
                }
                #[derive(Deserialize)]
                struct Data {
                    events: Vec<Told>,
                }
                let message: Message = serde_json::from_slice(message).expect("an enriched event");
                message.data.events
            }
            Self::Comparison(_) => {
                #[derive(Deserialize)]
                struct Message {
                    notification: Notification,
                }
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct Notification {
                    event_id: u64,
                    occurred_at: i64,
                }
                let message: Message = serde_json::from_slice(message).expect("a notification");
                let occurred_at =
                    jiff::Timestamp::from_millisecond(message.notification.occurred_at);
                vec![Told {
                    id: message.notification.event_id.to_string(),
                    occurred_at: occurred_at.expect("a time"),
                }]
            }
        }
    }
}

fn relay(role: &str, place: &Place, receiver: SocketAddr, folder: &Path) -> Process {
    let admin = free_address();
    let portals: String = portal_ids(place.portals)
        .map(|id| format!("[portal.{id}]\naccess_token = {:?}\n", access_token(id)))
        .collect();
    let config = format!(
        "[receiver]\nlisten = \"{receiver}\"\npublic_url = {PUBLIC_URL:?}\n[admin]\nlisten = \"{admin}\"\n\
         [app.main]\nclient_secrets = [{SECRET:?}]\n[bus]\nurl = {:?}\nprefix = {:?}\npartitions = {}\n\
         [hubspot]\nbase_url = {:?}\n{portals}\
         {}[destination.out]\nkind = \"queue\"\n[log]\nfilter = \"warn\"\n",
        place.broker_url, place.prefix, place.partitions, place.hubspot_url, place.enrich,
    );
    let path = folder.join(format!("{}-{role}.toml", place.prefix));
    std::fs::write(&path, config).expect("a configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_crm-relay"));
    Process::start(command.arg(role).arg("--config").arg(path))
}

fn comparison(home: &Path, script: &str, place: &Place, receiver: SocketAddr) -> Process {
    let mut command = Command::new("node");
    command
        .arg(home.join(script))
        .env("AMQP_URL", &place.broker_url)
        .env("QUEUE_PREFIX", &place.prefix)
        .env("PORT", receiver.port().to_string())
        .env("PUBLIC_URL", PUBLIC_URL)
        .env("CLIENT_SECRET", SECRET)
        .env("ACCESS_TOKENS", access_tokens(place.portals))
        .env("HUBSPOT_URL", &place.hubspot_url)
        .env("CONCURRENCY", CONCURRENCY);
    if let Some(calls) = place.calls_per_10s {
        command.env("CALLS_PER_10S", calls.to_string());
    }
    Process::start(&mut command)
}

/// The ids of so many portals.
pub fn portal_ids(count: u64) -> Range<u64> {
    PORTAL..PORTAL + count
}

/// The simulator's token for a portal.
pub fn access_token(portal: u64) -> String {
    format!("pat-na1-simulator-{portal}")
}

/// As JSON, by portal.
fn access_tokens(portals: u64) -> String {
    let tokens = portal_ids(portals).map(|id| (id.to_string(), access_token(id)));
    let tokens: BTreeMap<_, _> = tokens.collect();
    serde_json::to_string(&tokens).expect("JSON")
}
