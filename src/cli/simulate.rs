//! `crm-relay simulate`: a HubSpot on your desk, until Ctrl-C.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use crate::shutdown::Signals;
use crate::simulator::{
    Dials, Fault, Faults, Latency, Limits, PortalOptions, RandomFault, Simulator, SimulatorOptions,
    Subscriptions, WebhookOptions,
};

/// Simulate HubSpot: portals with data, the CRM API with its limits, signed webhooks.
#[derive(Args, Clone)]
pub struct SimulateArgs {
    /// Address and port of the API.
    #[arg(long, default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
    /// The same seed makes the same data.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A portal to simulate; repeat for more.
    #[arg(long = "portal", value_name = "ID", default_value = "8241")]
    pub portals: Vec<u64>,
    /// The access token of each portal, in the same order [default: pat-na1-simulator-<ID>].
    #[arg(long = "token", value_name = "TOKEN")]
    pub tokens: Vec<String>,
    /// Contacts per portal; other records follow in proportion.
    #[arg(long, default_value_t = 50)]
    pub contacts: usize,
    /// Where to post notifications; without it they are kept.
    #[arg(long, value_name = "URL", requires = "client_secret")]
    pub target: Option<String>,
    /// The URL that is signed, where it differs from the target.
    #[arg(long, value_name = "URL", requires = "target")]
    pub signed_url: Option<String>,
    /// The app's client secret, which signs notifications.
    #[arg(
        long,
        env = "CRM_RELAY_SIMULATOR_CLIENT_SECRET",
        hide_env_values = true
    )]
    pub client_secret: Option<String>,
    /// Which subscriptions the app has.
    #[arg(long, value_enum, default_value = "generic")]
    pub subscriptions: SubscriptionFamily,
    /// Changes to make, in notifications per second.
    #[arg(long, default_value_t = 0.0, value_name = "PER_SECOND")]
    pub rate: f64,
    /// How long each API call takes: a duration, or a range as 50ms-200ms.
    #[arg(long, default_value = "0ms", value_parser = parse_latency)]
    pub latency: Latency,
    /// Calls per ten seconds and portal.
    #[arg(long, default_value_t = Limits::default().burst)]
    pub limit: u32,
    /// Calls per day and portal.
    #[arg(long, default_value_t = Limits::default().daily)]
    pub daily_limit: u32,
    /// Share of notifications sent twice, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = parse_share)]
    pub duplicates: f64,
    /// Share of notifications sent out of order, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = parse_share)]
    pub reordering: f64,
    /// Share of notifications sent late, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = parse_share)]
    pub late: f64,
    /// How late, and over what time duplicates and reordering spread.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub late_by: Duration,
    /// Reads show the state of this long ago.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    pub stale_reads: Duration,
    /// Share of API calls answered 502, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = parse_share)]
    pub errors: f64,
}

/// Which subscriptions the simulated app has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SubscriptionFamily {
    /// `object.*` and `contact.privacyDeletion`.
    Generic,
    /// `contact.*`, `company.*`, …
    Classic,
    /// Both: every change is told twice.
    All,
}

/// Runs the simulator until Ctrl-C.
///
/// # Errors
/// When it cannot start, or stdout is closed.
pub async fn run(args: SimulateArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.tokens.len() <= args.portals.len(),
        "more --token than --portal: give one token for each portal"
    );
    let mut signals = Signals::catch()?;
    let options = options(&args);
    let portals = options.portals.clone();
    let simulator = Simulator::start(options).await?;
    simulator.control().set_traffic(args.rate);
    welcome(&simulator.base_url(), &portals, args.target.as_deref())?;
    signals.next().await;
    simulator.stop().await;
    Ok(())
}

fn options(args: &SimulateArgs) -> SimulatorOptions {
    let limits = Limits {
        burst: args.limit,
        daily: args.daily_limit,
        ..Limits::default()
    };
    let portal = |(index, id): (usize, &u64)| {
        let default = PortalOptions::new(*id);
        let access_token = args
            .tokens
            .get(index)
            .cloned()
            .unwrap_or_else(|| default.access_token.clone());
        PortalOptions {
            access_token,
            limits,
            contacts: args.contacts,
            ..default
        }
    };
    SimulatorOptions {
        listen: args.listen,
        seed: args.seed,
        portals: args.portals.iter().enumerate().map(portal).collect(),
        webhook: webhook(args),
        latency: args.latency,
        faults: faults(args.errors),
        dials: Dials {
            duplicates: args.duplicates,
            reordering: args.reordering,
            late: args.late,
            late_by: args.late_by,
            stale_reads: args.stale_reads,
            ..Dials::default()
        },
    }
}

fn webhook(args: &SimulateArgs) -> Option<WebhookOptions> {
    let (target, secret) = (args.target.as_ref()?, args.client_secret.as_ref()?);
    let subscriptions = match args.subscriptions {
        SubscriptionFamily::Generic => Subscriptions::generic(),
        SubscriptionFamily::Classic => Subscriptions::classic(),
        SubscriptionFamily::All => Subscriptions::all(),
    };
    Some(WebhookOptions {
        signed_url: args.signed_url.clone(),
        subscriptions,
        ..WebhookOptions::new(target, secret)
    })
}

fn faults(errors: f64) -> Faults {
    let fault = RandomFault {
        fault: Fault::Status(502),
        probability: errors,
        path: String::new(),
    };
    Faults {
        random: if errors > 0.0 {
            vec![fault]
        } else {
            Vec::new()
        },
        ..Faults::default()
    }
}

/// The tokens are made up, so they may be shown.
fn welcome(url: &str, portals: &[PortalOptions], target: Option<&str>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "HubSpot is simulated at {url}")?;
    for portal in portals {
        writeln!(
            out,
            "  portal {}: Authorization: Bearer {}",
            portal.id, portal.access_token
        )?;
    }
    match target {
        Some(target) => writeln!(out, "Notifications go to {target}")?,
        None => writeln!(
            out,
            "Notifications are kept until PUT {url}/simulator/webhook says where they go"
        )?,
    }
    writeln!(out, "Steer it at {url}/simulator; Ctrl-C ends it")
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let deserializer = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text);
    humantime_serde::deserialize(deserializer)
        .map_err(|_| format!("{text} is not a duration; write it as 250ms or 2s"))
}

fn parse_latency(text: &str) -> Result<Latency, String> {
    let (min, max) = text.split_once('-').unwrap_or((text, text));
    let latency = Latency {
        min: parse_duration(min)?,
        max: parse_duration(max)?,
    };
    if latency.max < latency.min {
        Err(format!("{text} ends before it begins"))
    } else {
        Ok(latency)
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text
        .parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text} is not a share from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn parse(flags: &[&str]) -> Result<SimulateArgs, clap::Error> {
        Cli::try_parse_from(["simulate"].iter().chain(flags)).map(|cli| cli.args)
    }

    #[test]
    fn flags_become_options() {
        let args = parse(&[
            "--portal",
            "1",
            "--portal",
            "2",
            "--token",
            "a",
            "--latency",
            "50ms-200ms",
            "--limit",
            "7",
            "--duplicates",
            "0.05",
        ]);
        let options = options(&args.unwrap());
        let tokens: Vec<&str> = options
            .portals
            .iter()
            .map(|portal| portal.access_token.as_str())
            .collect();
        assert_eq!(tokens, ["a", "pat-na1-simulator-2"]);
        assert_eq!(
            (options.portals[1].limits.burst, options.dials.duplicates),
            (7, 0.05)
        );
        assert_eq!(
            options.latency,
            Latency {
                min: Duration::from_millis(50),
                max: Duration::from_millis(200)
            }
        );
        assert!(options.webhook.is_none() && options.faults.random.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flags in [
            ["--latency", "2s-1s"],
            ["--duplicates", "1.5"],
            ["--target", "http://localhost/"],
            ["--late-by", "soon"],
        ] {
            assert!(parse(&flags).is_err(), "{flags:?}");
        }
    }
}
