//! The configuration: what each setting means, its unit and its default.
//!
//! One TOML file, every key overridable from the environment: `CRM_RELAY__RECEIVER__LISTEN` stands for
//! `receiver.listen`. [`load`] reads, checks and reports; nothing else in the program reads the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::event::KeyPattern;

mod load;
mod overlay;
mod secret;
mod tree;
mod typed;
mod validate;

pub use load::{ConfigError, KeyError, load, load_with};
pub use secret::{Secret, SecretError};
pub use validate::{Problem, Report, Role};

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The public side: what HubSpot calls.
    pub receiver: ReceiverConfig,
    /// The worker: how much it takes on at once.
    pub worker: WorkerConfig,
    /// The private side: metrics and probes.
    pub admin: AdminConfig,
    /// HubSpot apps by a name of your own, each with the secrets that sign its notifications.
    pub app: BTreeMap<String, AppConfig>,
    /// Where events are stored and routed.
    pub bus: BusConfig,
    /// Where the receiver keeps events while the broker is away.
    pub spool: SpoolConfig,
    /// HubSpot's API.
    pub hubspot: HubSpotConfig,
    /// Portals by id, each with its access token.
    pub portal: BTreeMap<String, PortalConfig>,
    /// What to read, by object type: singular, plural or id.
    pub enrich: BTreeMap<String, EnrichConfig>,
    /// Downstream consumers by name.
    pub destination: BTreeMap<String, DestinationConfig>,
    /// Logs.
    pub log: LogConfig,
    /// Stopping.
    pub shutdown: ShutdownConfig,
}

/// `[receiver]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReceiverConfig {
    /// Address and port to listen on. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// The URL (or URLs) HubSpot calls, exactly as the app's settings have it: scheme, host, path and query are
    /// signed. Requests are answered on its path. No default.
    pub public_url: OneOrMany<String>,
    /// The largest request body. Default `8 MiB`.
    pub body_size_max: ByteSize,
    /// Requests being worked on at once; what comes beyond is answered 503. Default 256.
    pub requests_max: usize,
}

/// `[worker]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Batches taken from one partition and not yet settled. Default 200.
    pub prefetch: u16,
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port of `/metrics`, `/livez` and `/readyz`. Default `127.0.0.1:9090`.
    pub listen: SocketAddr,
}

/// `[app.<name>]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AppConfig {
    /// The app's client secrets: one, or several while a secret is rotated.
    pub client_secrets: Vec<Secret>,
    /// Which signatures its requests may carry. A request that has a v3 signature must pass v3. Default `["v3"]`.
    #[serde(default = "default_signatures")]
    pub signatures: Vec<SignatureVersion>,
}

/// A version of HubSpot's request signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureVersion {
    /// SHA-256 of secret and body.
    V1,
    /// SHA-256 of secret, method, URI and body.
    V2,
    /// HMAC-SHA-256 of method, URI, body and timestamp.
    V3,
}

/// `[bus]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// The broker, `amqp://` or `amqps://` with user, password, host, port and vhost. Left out: the embedded bus.
    pub url: Option<Secret>,
    /// Where the embedded bus keeps its store: a folder on a local disk. Default `./data`.
    pub data_dir: PathBuf,
    /// Begins the names of exchanges and queues. Default `crm`.
    pub prefix: String,
    /// How many partitions the intake has. Fixed once the queues exist. Default 16.
    pub partitions: u16,
    /// How long a publish may take before it counts as failed. HubSpot gives up after 5 s. Default `3s`.
    #[serde(with = "humantime_serde")]
    pub publish_timeout: Duration,
}

/// `[spool]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// A folder on a local disk that outlives the process, for one receiver alone. Left out: no spool, and requests are
    /// answered 503 while the broker is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The most bytes its files may have; beyond, requests are answered 503. Default `1 GiB`.
    pub bytes_max: ByteSize,
}

/// `[hubspot]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HubSpotConfig {
    /// Default `https://api.hubapi.com`, the same for every region.
    pub base_url: String,
    /// `v3`, or a date like `2026-09` (the default).
    pub api_version: String,
    /// How long one call may take. Default `30s`.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The part of every portal's limits that is ours, over 0 and up to 1. Default 1.
    pub budget_share: f64,
}

/// `[portal.<id>]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortalConfig {
    /// A private app's access token or a service key. With `file:PATH` it is read again when HubSpot refuses it.
    pub access_token: Secret,
}

/// `[enrich.<object type>]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnrichConfig {
    /// Internal names of the properties to read, or `["*"]` for all. Left out: HubSpot's own visible
    /// properties that are neither calculated nor hidden, and all of the portal's own.
    pub properties: Option<Vec<String>>,
    /// Types whose associations to read: singular, plural or id. Default none.
    pub associations: Vec<String>,
}

/// `[destination.<name>]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationConfig {
    /// How it is delivered to.
    pub kind: DestinationKind,
    /// It gets what one of these patterns matches. Default `["#"]`, everything.
    #[serde(rename = "match", default = "match_everything")]
    pub patterns: Vec<KeyPattern>,
    /// `ndjson` only: the file to append to, or `-` for stdout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// `queue` only: the most bytes the queue may hold; beyond, copies become dead letters. Fixed once the
    /// queue exists (lower it by a policy). Default `1 GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length_bytes: Option<ByteSize>,
}

/// How a destination is delivered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationKind {
    /// A durable queue of its own on RabbitMQ, `crm.destination.<name>`.
    Queue,
    /// Lines of JSON, to a file or stdout.
    Ndjson,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `human` or `json`. Default `human`.
    pub format: LogFormat,
    /// What to log, as `tracing`'s directives. Default `info`.
    pub filter: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a terminal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// `[shutdown]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// How long the receiver goes on as before once `/readyz` says that we are stopping, so that a load balancer
    /// has sent its last request before the port closes. Part of `grace`; a worker alone does not wait.
    /// Default `0s`; on Kubernetes `5s`.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// How long stopping may take, from SIGTERM to exit. Default `25s`, inside Kubernetes' 30.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// A single value.
    One(T),
    /// Any number of them.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values, however they were written.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// By hand, since `untagged` would lose what is wrong with a value, and since a list in an environment
/// variable is a text until somebody asks for a list.
impl<'de> Deserialize<'de> for OneOrMany<String> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(OneOrManyVisitor)
    }
}

struct OneOrManyVisitor;

impl<'de> Visitor<'de> for OneOrManyVisitor {
    type Value = OneOrMany<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or a list of texts")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(OneOrMany::One(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut many = Vec::new();
        while let Some(item) = items.next_element()? {
            many.push(item);
        }
        Ok(OneOrMany::Many(many))
    }
}

impl Default for ReceiverConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: OneOrMany::Many(Vec::new()),
            body_size_max: ByteSize::mib(8),
            requests_max: 256,
        }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { prefetch: 200 }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
        }
    }
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            url: None,
            data_dir: PathBuf::from("./data"),
            prefix: "crm".to_owned(),
            partitions: 16,
            publish_timeout: Duration::from_secs(3),
        }
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            folder: None,
            bytes_max: ByteSize::gib(1),
        }
    }
}

impl Default for HubSpotConfig {
    fn default() -> Self {
        Self {
            base_url: "https://api.hubapi.com".to_owned(),
            api_version: "2026-09".to_owned(),
            timeout: Duration::from_secs(30),
            budget_share: 1.0,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            filter: "info".to_owned(),
        }
    }
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            grace: Duration::from_secs(25),
        }
    }
}

fn default_signatures() -> Vec<SignatureVersion> {
    vec![SignatureVersion::V3]
}

fn match_everything() -> Vec<KeyPattern> {
    vec!["#".parse().expect("# is a pattern")]
}
