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

mod destination;
mod load;
mod overlay;
mod secret;
mod tls;
mod tree;
mod typed;
mod validate;

pub use destination::{
    DestinationConfig, DestinationContent, DestinationFormat, DestinationKind, DestinationPart,
};
pub use load::{ConfigError, KeyError, load, load_text, load_with, portal_of};
pub use secret::{Secret, SecretError};
pub use tls::{ClientTlsConfig, ServerTlsConfig};
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
    /// Portals by id, each with its token.
    pub portal: BTreeMap<String, PortalConfig>,
    /// Portals that come and go while we run.
    pub portals: PortalsConfig,
    /// What to read, by object type: singular, plural, id, or a custom object's name.
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
    /// With what it speaks TLS itself. Left out: plain HTTP, for a proxy that ends TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTlsConfig>,
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
    /// Address and port of `/metrics`, `/livez`, `/readyz`, `/portals` and `/dead`. Default `127.0.0.1:9090`.
    pub listen: SocketAddr,
    /// What requests carry as a bearer token, all but probes, and `/metrics` where it is open; read at start. Left out:
    /// nobody is answered there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// Whether `/metrics` needs no token on an address that other machines reach. On loopback it never does.
    /// Default `false`.
    #[serde(skip_serializing_if = "is_false")]
    pub open_metrics: bool,
}

/// `[app.<name>]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AppConfig {
    /// The app's client id, which its OAuth portals need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
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
    /// TLS with a broker of `amqps://`; read at every connection.
    #[serde(skip_serializing_if = "ClientTlsConfig::is_default")]
    pub tls: ClientTlsConfig,
    /// Where the embedded bus keeps its store: a folder on a local disk. Default `./data`.
    pub data_dir: PathBuf,
    /// Begins the names of exchanges and queues. Default `crm`.
    pub prefix: String,
    /// How many partitions the intake has. Fixed once the queues exist. Default 16.
    pub partitions: u16,
    /// Patterns of what is enriched for the topic exchange `crm.enriched`, whoever listens there. `[]`: nothing.
    /// Default `["#"]`, everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enriched_topic: Option<Vec<KeyPattern>>,
    /// Patterns of what goes to the topic exchange `crm.events` as plain events. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_topic: Option<Vec<KeyPattern>>,
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
    /// TLS with what answers at `base_url`, which may be a proxy with an authority of its own; read at start.
    #[serde(skip_serializing_if = "ClientTlsConfig::is_default")]
    pub tls: ClientTlsConfig,
}

/// `[portal.<id>]`, and a file of `portals.folder`. It has one of the two tokens.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortalConfig {
    /// A private app's access token or a service key. With `file:PATH` it is read again when HubSpot refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Secret>,
    /// What the portal's installation of an OAuth app gave: access tokens are had for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Secret>,
    /// The app that `refresh_token` is of, by its name here. Left out: the only one with a `client_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Whether no call is made for it, and its events are kept. Default `false`.
    #[serde(skip_serializing_if = "is_false")]
    pub paused: bool,
    /// By object type, the property that this portal's other systems know a record by; over the type's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub external_id: BTreeMap<String, String>,
}

/// `[portals]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortalsConfig {
    /// A folder of files `<portal id>.toml`, each with the keys of a `[portal.<id>]`. It is watched. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// What seals tokens at rest: 32 bytes in base64 each; read at start. The first seals, all unseal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Secret>,
}

/// `[enrich.<object type>]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnrichConfig {
    /// Internal names of the properties to read, or `["*"]` for all. Left out: HubSpot's own visible
    /// properties that are neither calculated nor hidden, and all of the portal's own.
    pub properties: Option<Vec<String>>,
    /// Types whose associations to read: singular, plural, id or a custom object's name. Default none; of engagements
    /// (calls, e-mails, meetings, notes, tasks, communications, postal mail) contact, company, deal and ticket.
    pub associations: Option<Vec<String>>,
    /// What to read of the files attached to an engagement. Default nothing.
    pub attachments: Option<AttachmentsConfig>,
    /// `enrich.conversation` only: whether to read threads, their new messages and who wrote them, each by a call of its
    /// own. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub thread: bool,
    /// Whether messages also hold HubSpot's own text of every value. Default false.
    pub raw: bool,
    /// Whether messages also say what changed properties held before. Records are then read 50 at a time instead
    /// of 100. Default false.
    pub previous_values: bool,
    /// The property that other systems know a record by. Default none.
    pub external_id: Option<String>,
    /// Which of the sensitive properties to read as well. Default none.
    pub sensitivity: Vec<SensitivityLevel>,
}

/// What is read of attached files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachmentsConfig {
    /// Name, type, size and access.
    Metadata,
    /// That, and URLs by which whoever has them can fetch private files for a while.
    SignedUrls,
}

/// A level of sensitivity that a token needs a scope for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SensitivityLevel {
    /// `crm.objects.<type>.sensitive.read.v2`
    Sensitive,
    /// `crm.objects.<type>.highly_sensitive.read.v2`
    HighlySensitive,
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
            tls: None,
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
            token: None,
            open_metrics: false,
        }
    }
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            url: None,
            tls: ClientTlsConfig::default(),
            data_dir: PathBuf::from("./data"),
            prefix: "crm".to_owned(),
            partitions: 16,
            enriched_topic: None,
            events_topic: None,
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
            tls: ClientTlsConfig::default(),
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

/// Whether `text` is what HubSpot gives a portal for an id: digits, and no leading 0.
#[must_use]
pub fn is_portal_id(text: &str) -> bool {
    const DIGITS_MAX: usize = 20;
    (1..=DIGITS_MAX).contains(&text.len())
        && !text.starts_with('0')
        && text.bytes().all(|b| b.is_ascii_digit())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn default_signatures() -> Vec<SignatureVersion> {
    vec![SignatureVersion::V3]
}
