//! What a simulator can be told at its start, and the dials that may be turned while it runs.
//!
//! The parts that the control API takes are serde types; their durations are texts like `250ms`.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything a simulator starts with. The default: one portal, 8241, on a port the OS chooses.
#[derive(Clone, Debug)]
pub struct SimulatorOptions {
    /// Where REST and control API listen. Default `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// Makes data, faults and delays. Default 1.
    pub seed: u64,
    /// The portals. Default: one of [`PortalOptions::default`].
    pub portals: Vec<PortalOptions>,
    /// Where notifications go; without it they are made and kept waiting. See also `Control::set_webhook`.
    pub webhook: Option<WebhookOptions>,
    /// How long a REST call takes. Default nothing.
    pub latency: Latency,
    /// How REST calls fail. Default not at all.
    pub faults: Faults,
    /// How HubSpot misbehaves. Default not at all.
    pub dials: Dials,
}

impl Default for SimulatorOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 1,
            portals: vec![PortalOptions::default()],
            webhook: None,
            latency: Latency::default(),
            faults: Faults::default(),
            dials: Dials::default(),
        }
    }
}

/// One HubSpot account.
#[derive(Clone)]
pub struct PortalOptions {
    /// Its id. Default 8241.
    pub id: u64,
    /// The bearer token that reads it. Default `pat-na1-simulator-<id>` for [`PortalOptions::new`].
    pub access_token: String,
    /// The limits of its tier.
    pub limits: Limits,
    /// Scopes the token lacks, `crm.objects.companies.read` say: what needs them is answered 403.
    pub missing_scopes: BTreeSet<String>,
    /// Contacts to seed; the other types follow in proportion. Default 50; 0 seeds no records.
    pub contacts: usize,
    /// The OAuth app that is installed in it, beside the access token. Default none.
    pub oauth: Option<OAuthOptions>,
}

/// An OAuth app as one portal has it installed.
#[derive(Clone)]
pub struct OAuthOptions {
    /// The app's client id.
    pub client_id: String,
    /// The app's client secrets: each is accepted.
    pub client_secrets: Vec<String>,
    /// What the installation gave.
    pub refresh_token: String,
    /// How long an access token lives; told in whole seconds. HubSpot's is 30 minutes, the default.
    pub life: Duration,
    /// Whether every refresh brings another refresh token, and the old one ends. Default no, as HubSpot does.
    pub rotates: bool,
    /// The portal that the token endpoint says the tokens are of. Default its own.
    pub hub_id: Option<u64>,
}

impl OAuthOptions {
    /// An app with defaults for everything else.
    #[must_use]
    pub fn new(
        client_id: impl Into<String>,
        client_secret: impl Into<String>,
        refresh_token: impl Into<String>,
    ) -> Self {
        Self {
            client_id: client_id.into(),
            client_secrets: vec![client_secret.into()],
            refresh_token: refresh_token.into(),
            life: Duration::from_secs(1_800),
            rotates: false,
            hub_id: None,
        }
    }
}

impl std::fmt::Debug for OAuthOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OAuthOptions")
            .field("client_id", &self.client_id)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl PortalOptions {
    /// A portal with defaults for everything but its id.
    #[must_use]
    pub fn new(id: u64) -> Self {
        Self {
            id,
            access_token: format!("pat-na1-simulator-{id}"),
            limits: Limits::default(),
            missing_scopes: BTreeSet::new(),
            contacts: 50,
            oauth: None,
        }
    }
}

impl Default for PortalOptions {
    fn default() -> Self {
        Self::new(8241)
    }
}

impl std::fmt::Debug for PortalOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortalOptions")
            .field("id", &self.id)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A portal's call limits. The default is a private app's on HubSpot's Professional tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Calls per rolling ten seconds. Default 190.
    pub burst: u32,
    /// Calls per day, midnight to midnight UTC (the simulated portals' time zone). Default 625,000.
    pub daily: u32,
    /// Calls of the association API's own bucket per rolling ten seconds. Default 150.
    pub associations: u32,
    /// Calls of the association API per day. Default 500,000.
    pub associations_daily: u32,
    /// Searches per rolling second. Default 5.
    pub search: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            burst: 190,
            daily: 625_000,
            associations: 150,
            associations_daily: 500_000,
            search: 5,
        }
    }
}

/// Where and how notifications are posted: one HubSpot app's webhook settings.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookOptions {
    /// Where to post.
    pub target_url: String,
    /// The URL that is signed, where it differs from `target_url` (a proxy stands between).
    #[serde(default)]
    pub signed_url: Option<String>,
    /// The app's client secret.
    pub client_secret: String,
    /// The app's id. Default 15000001.
    #[serde(default = "default_app_id")]
    pub app_id: u64,
    /// `maxConcurrentRequests`: requests in flight per portal. Default 10.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// Notifications per request, 1 to 100. Default 100.
    #[serde(default = "default_batch_max")]
    pub batch_max: usize,
    /// How long an answer may take. HubSpot's is 5 s, the default.
    #[serde(default = "default_timeout", with = "humantime_serde")]
    pub timeout: Duration,
    /// Retries before a batch is dropped. Default 10.
    #[serde(default = "default_retries_max")]
    pub retries_max: u32,
    /// The shortest delay before a retry. Default 100 ms, so that nobody need wait; HubSpot spreads ten over 24 hours.
    #[serde(default = "default_retry_delay_min", with = "humantime_serde")]
    pub retry_delay_min: Duration,
    /// The longest delay before a retry; each is drawn anew. Default 1 s.
    #[serde(default = "default_retry_delay_max", with = "humantime_serde")]
    pub retry_delay_max: Duration,
    /// Which signatures a request carries. Default v1 and v3 side by side, as HubSpot sends.
    #[serde(default)]
    pub signatures: Signatures,
    /// What the app subscribes to. Default [`Subscriptions::generic`].
    #[serde(default)]
    pub subscriptions: Subscriptions,
}

impl WebhookOptions {
    /// Settings with defaults for everything but the target and the secret.
    #[must_use]
    pub fn new(target_url: impl Into<String>, client_secret: impl Into<String>) -> Self {
        Self {
            target_url: target_url.into(),
            signed_url: None,
            client_secret: client_secret.into(),
            app_id: default_app_id(),
            concurrency: default_concurrency(),
            batch_max: default_batch_max(),
            timeout: default_timeout(),
            retries_max: default_retries_max(),
            retry_delay_min: default_retry_delay_min(),
            retry_delay_max: default_retry_delay_max(),
            signatures: Signatures::default(),
            subscriptions: Subscriptions::default(),
        }
    }

    /// The delays a retry may have.
    pub(crate) fn retry_delay(&self) -> RangeInclusive<Duration> {
        self.retry_delay_min..=self.retry_delay_max.max(self.retry_delay_min)
    }
}

impl std::fmt::Debug for WebhookOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookOptions")
            .field("target_url", &self.target_url)
            .finish_non_exhaustive()
    }
}

/// Which signatures a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signatures {
    /// v1 and v3, as CRM subscriptions send.
    #[default]
    V1AndV3,
    /// v2 and v3, as workflow actions send.
    V2AndV3,
    /// v1 alone, as apps older than v3.
    V1,
    /// v2 alone.
    V2,
}

/// The active subscriptions, each `<subscription type>`, narrowed by `/<object type id>` and by
/// `/<property>`: `contact.creation`, `object.merge/0-1`, `object.propertyChange/0-3/amount`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Subscriptions(pub BTreeSet<String>);

/// What every prefix of subscription types offers.
const KINDS: [&str; 6] = [
    "creation",
    "deletion",
    "merge",
    "restore",
    "propertyChange",
    "associationChange",
];
/// Prefixes of the classic subscriptions.
const CLASSIC: [&str; 6] = [
    "contact",
    "company",
    "deal",
    "ticket",
    "line_item",
    "product",
];

/// Changes of threads.
const CONVERSATION: [&str; 5] = [
    "creation",
    "deletion",
    "privacyDeletion",
    "newMessage",
    "propertyChange",
];

impl Subscriptions {
    /// `object.*` for all types, `contact.privacyDeletion`, and `conversation.*`.
    #[must_use]
    pub fn generic() -> Self {
        let object = KINDS.iter().map(|kind| format!("object.{kind}"));
        Self(
            object
                .chain(["contact.privacyDeletion".to_owned()])
                .chain(CONVERSATION.map(|kind| format!("conversation.{kind}")))
                .collect(),
        )
    }

    /// `contact.*`, `company.*` and the other classic ones. Products have no `associationChange`.
    #[must_use]
    pub fn classic() -> Self {
        let all = CLASSIC
            .iter()
            .flat_map(|prefix| KINDS.iter().map(move |kind| format!("{prefix}.{kind}")));
        let mut all: BTreeSet<String> = all
            .filter(|name| name != "product.associationChange")
            .collect();
        all.insert("contact.privacyDeletion".to_owned());
        Self(all)
    }

    /// Both families at once: every change is told twice.
    #[must_use]
    pub fn all() -> Self {
        let mut all = Self::generic();
        all.0.extend(Self::classic().0);
        all
    }

    /// The subscription that a notification falls under, the narrowest first.
    pub(crate) fn matching(
        &self,
        kind: &str,
        object_type_id: &str,
        property: Option<&str>,
    ) -> Option<String> {
        let by_property = property.map(|name| format!("{kind}/{object_type_id}/{name}"));
        let by_type = format!("{kind}/{object_type_id}");
        let candidates = by_property.into_iter().chain([by_type, kind.to_owned()]);
        candidates.into_iter().find(|name| self.0.contains(name))
    }
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self::generic()
    }
}

/// How long a REST call takes: between the two, drawn for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Latency {
    /// The least.
    #[serde(with = "humantime_serde")]
    pub min: Duration,
    /// The most; less than `min` counts as `min`.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
}

/// One way for a REST call to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// This status with HubSpot's body for it: 401, 423, 429, 477, 500, 502, 503, 504, 521–524, …
    Status(u16),
    /// No answer until the caller gives up, at most [`HANG_MAX`].
    Hang,
    /// The connection is closed without an answer.
    Reset,
    /// The connection is closed after half the body.
    HalfBody,
    /// 200 with a body that is not JSON.
    Garbage,
}

/// The longest a call is kept hanging.
pub const HANG_MAX: Duration = Duration::from_secs(120);

/// How REST calls fail.
#[derive(Clone, Debug, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Faults by probability, drawn in order for every call.
    pub random: Vec<RandomFault>,
    /// Faults for the next calls that match, used up one by one before any random one.
    pub next: VecDeque<NextFault>,
    /// The `Retry-After` header of faults, in seconds. Default none, as HubSpot's 429 has none.
    pub retry_after_s: Option<u32>,
}

/// A fault that strikes with a probability.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RandomFault {
    /// What happens.
    pub fault: Fault,
    /// 0 to 1.
    pub probability: f64,
    /// Only to calls whose path contains this. Default: to all.
    #[serde(default)]
    pub path: String,
}

/// A fault that strikes once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NextFault {
    /// What happens.
    pub fault: Fault,
    /// Only to calls whose path contains this. Default: to any.
    #[serde(default)]
    pub path: String,
}

/// How HubSpot misbehaves, in ways its documentation admits or leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dials {
    /// Probability that a notification is sent twice.
    pub duplicates: f64,
    /// Probability that a notification changes places with others: its sending is put off by up to `late_by`,
    /// and its batch is shuffled.
    pub reordering: f64,
    /// Probability that a notification comes late by exactly `late_by`.
    pub late: f64,
    /// How late. Duplicates are spread over the same time.
    #[serde(with = "humantime_serde")]
    pub late_by: Duration,
    /// Reads show the state of this long ago.
    #[serde(with = "humantime_serde")]
    pub stale_reads: Duration,
    /// Probability that a read is stale, where `stale_reads` is set. 0 counts as always.
    pub stale_probability: f64,
    /// Whether a batch read answers a merged-away id with the survivor. HubSpot does not document what it does;
    /// the default is to count the id as missing.
    pub batch_read_follows_merges: bool,
    /// Batch reads of more inputs are refused; 0 counts as what HubSpot documents, 100 records and 1,000 associations.
    pub batch_read_max: usize,
}

fn default_app_id() -> u64 {
    15_000_001
}
fn default_concurrency() -> usize {
    10
}
fn default_batch_max() -> usize {
    100
}
fn default_timeout() -> Duration {
    Duration::from_secs(5)
}
fn default_retries_max() -> u32 {
    10
}
fn default_retry_delay_min() -> Duration {
    Duration::from_millis(100)
}
fn default_retry_delay_max() -> Duration {
    Duration::from_secs(1)
}
