//! `crm-relay dead`: the dead letters of a relay that runs, over its admin port.
//!
//! Address and token are those of the configuration, so that it works beside the relay, in its container say. Values of properties are
//! shown by `dead show` alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ConfigArgs;
use crate::config::{Secret, is_portal_id};
use crate::dead::api::{DiscardOrder, ListOrder, ReplayOrder};
use crate::dead::{Filter, Listing, reasons};
use crate::event::{Millis, PortalId, Stage};

mod table;

use table::{lines, tell, write_table};

/// How long an answer may take: a walk through many letters takes its time.
const ANSWER_MAX: Duration = Duration::from_secs(600);

/// The arguments of `crm-relay dead`.
#[derive(Debug, Args)]
pub(super) struct DeadCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists dead letters, oldest first, without values of properties.
    List(List),
    /// Shows one whole, values of properties included.
    Show(Show),
    /// Has them tried again: records are read afresh, ids of events stay.
    Replay(Replay),
    /// Takes them away for good.
    Discard(Discard),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    relay: RelayArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// The most that are listed, up to 1,000; the others are counted.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Prints one JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    relay: RelayArgs,
    /// The letter's id.
    id: String,
}

#[derive(Debug, Args)]
struct Replay {
    #[command(flatten)]
    relay: RelayArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// The most that are replayed, up to 1,000.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    /// Only tells what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Prints one JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Discard {
    #[command(flatten)]
    relay: RelayArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// All of them; said instead of a filter.
    #[arg(long)]
    all: bool,
    /// Why, for the relay's log.
    #[arg(long, value_name = "TEXT")]
    because: String,
    /// Only tells which.
    #[arg(long)]
    dry_run: bool,
    /// Prints one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Where the relay is.
#[derive(Debug, Args)]
struct RelayArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The relay's admin port; left out, `admin.listen` on this machine. The token is `admin.token`.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Which letters: those that all of it is true of.
#[derive(Debug, Args)]
struct FilterArgs {
    /// One of these ids.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    /// Where it ended.
    #[arg(long, value_enum)]
    stage: Option<StageArg>,
    /// Why.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(reasons()))]
    reason: Option<String>,
    /// Of which portal.
    #[arg(long, value_parser = portal_id)]
    portal: Option<PortalId>,
    /// About a record of which type: singular, plural or id.
    #[arg(long)]
    object_type: Option<String>,
    /// Which destination did not take it.
    #[arg(long)]
    destination: Option<String>,
    /// Failed then or later: `2026-11-23T10:00:00Z`, or how long ago, `36h`.
    #[arg(long, value_parser = time)]
    since: Option<Millis>,
    /// Failed before that.
    #[arg(long, value_parser = time)]
    until: Option<Millis>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum StageArg {
    Ingress,
    Normalize,
    Consume,
    Enrich,
    FanOut,
}

impl DeadCommand {
    /// Does what is asked.
    pub(super) async fn execute(self) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        match self.action {
            Action::List(list) => list.execute(&mut out).await,
            Action::Show(show) => show.execute(&mut out).await,
            Action::Replay(replay) => replay.execute(&mut out).await,
            Action::Discard(discard) => discard.execute(&mut out).await,
        }
    }
}

impl List {
    async fn execute(self, out: &mut impl io::Write) -> anyhow::Result<()> {
        let order = ListOrder {
            filter: self.filter.filter(),
            limit: Some(self.limit),
        };
        let Listing { extent, letters } = self.relay.connect()?.post("list", &order).await?;
        if self.json {
            return lines(&letters, out);
        }
        write_table(
            letters
                .iter()
                .map(|letter| (letter, letter.detail.as_str())),
            out,
        )?;
        let mut told = format!("{} of {} match", extent.matched, extent.kept);
        if extent.looked_at < extent.kept {
            told += &format!("; {} were looked at", extent.looked_at);
        }
        if letters.len() < extent.matched {
            told += &format!("; the first {} are shown", letters.len());
        }
        Ok(writeln!(out, "{told}")?)
    }
}

impl Show {
    async fn execute(self, out: &mut impl io::Write) -> anyhow::Result<()> {
        let relay = self.relay.connect()?;
        let shown: Value = relay.call(Method::GET, &self.id, None::<&()>).await?;
        Ok(writeln!(out, "{:#}", shown["letters"])?)
    }
}

impl Replay {
    async fn execute(self, out: &mut impl io::Write) -> anyhow::Result<()> {
        let order = ReplayOrder {
            filter: self.filter.filter(),
            limit: Some(self.limit),
            dry_run: self.dry_run,
        };
        let report = self.relay.connect()?.post("replay", &order).await?;
        tell(&report, "replayed", self.json, out)
    }
}

impl Discard {
    async fn execute(self, out: &mut impl io::Write) -> anyhow::Result<()> {
        let order = DiscardOrder {
            filter: self.filter.filter(),
            all: self.all,
            because: self.because,
            dry_run: self.dry_run,
        };
        let report = self.relay.connect()?.post("discard", &order).await?;
        tell(&report, "discarded", self.json, out)
    }
}

/// The admin port of a relay.
struct Relay {
    client: reqwest::Client,
    url: String,
    token: SecretString,
}

impl RelayArgs {
    fn connect(&self) -> anyhow::Result<Relay> {
        let config = self.config.load()?;
        let token = config.admin.token.as_ref();
        let token = token.context("admin.token is not set; without it the relay answers nobody")?;
        let url = self.url.clone();
        let url = url.unwrap_or_else(|| format!("http://{}", reachable(config.admin.listen)));
        Ok(Relay {
            client: reqwest::Client::builder().timeout(ANSWER_MAX).build()?,
            url: url.trim_end_matches('/').to_owned(),
            token: Secret::resolve(token).context("admin.token")?,
        })
    }
}

/// Where to connect to for who listens there: one that listens on all addresses is on this machine too.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    listen
}

impl Relay {
    async fn post<T: DeserializeOwned>(
        &self,
        act: &str,
        order: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.call(Method::POST, act, Some(order)).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let url = format!("{}/dead/{path}", self.url);
        let mut request = self.client.request(method, &url);
        request = request.bearer_auth(self.token.expose_secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await;
        let answer = answer.with_context(|| format!("no relay answers at {}", self.url))?;
        let status = answer.status();
        let body = answer.bytes().await.context("the answer broke off")?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .context("the answer cannot be read; is it this version's?");
        }
        let error: Value = serde_json::from_slice(&body).unwrap_or_default();
        match error["error"].as_str() {
            Some(error) => bail!("{error}"),
            None => bail!("the relay answered {status}"),
        }
    }
}

impl FilterArgs {
    fn filter(&self) -> Filter {
        Filter {
            ids: self.ids.clone(),
            stage: self.stage.map(StageArg::stage),
            reason: self.reason.clone(),
            portal_id: self.portal.clone(),
            object_type: self.object_type.clone(),
            destination: self.destination.clone(),
            since: self.since,
            until: self.until,
        }
    }
}

impl StageArg {
    fn stage(self) -> Stage {
        match self {
            Self::Ingress => Stage::Ingress,
            Self::Normalize => Stage::Normalize,
            Self::Consume => Stage::Consume,
            Self::Enrich => Stage::Enrich,
            Self::FanOut => Stage::FanOut,
        }
    }
}

fn portal_id(text: &str) -> Result<PortalId, String> {
    if is_portal_id(text) {
        Ok(PortalId::from(text))
    } else {
        Err("a portal's id has digits only, and no leading 0".to_owned())
    }
}

/// A time, or how long ago it was.
fn time(text: &str) -> Result<Millis, String> {
    if let Some(at) = Millis::parse(text) {
        return Ok(at);
    }
    let ago: jiff::SignedDuration = text.parse().map_err(
        |_| "write a time as 2026-11-23T10:00:00Z, or how long ago it was as 36h or 90m",
    )?;
    let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
    let at = Millis::now()
        .as_i64()
        .checked_sub(ago)
        .and_then(Millis::new);
    at.ok_or_else(|| "that is before all times".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_how_long_ago_it_was() {
        let moment = Millis::parse("2026-11-23T10:00:00Z").unwrap();
        assert_eq!(time("2026-11-23T10:00:00Z"), Ok(moment));
        let ago = Millis::now().since(time("36h").unwrap());
        let hours = Duration::from_secs(36 * 3_600);
        assert!(ago >= hours && ago < hours + Duration::from_secs(60));
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn who_listens_on_all_addresses_is_asked_on_this_machine() {
        let asked = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(asked("[::]:9090"), "[::1]:9090");
        assert_eq!(asked("10.0.0.7:9090"), "10.0.0.7:9090");
    }
}
