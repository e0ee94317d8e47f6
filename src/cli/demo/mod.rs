//! `crm-relay demo`: the whole relay on the embedded bus, against the simulator, with nothing to set up.
//!
//! The relay is the real one, configured as a file would configure it. Its one destination is an NDJSON file
//! in a temporary folder, and the demo shows what arrives there.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::Instant;

use crate::config::{
    AppConfig, Config, DestinationConfig, DestinationKind, EnrichConfig, OneOrMany, PortalConfig,
    Role, Secret, SignatureVersion,
};
use crate::event::EnrichedEvent;
use crate::relay::Relay;
use crate::shutdown::Signals;
use crate::simulator::{Dials, PortalOptions, Simulator, SimulatorOptions, WebhookOptions};
use crate::telemetry;

mod totals;
mod view;

use totals::Totals;

const PORTAL: u64 = 8241;
const CLIENT_SECRET: &str = "the-demo-is-no-secret";
const PUBLIC_URL: &str = "https://relay.example.com/webhooks/hubspot";
const WEBHOOK_PATH: &str = "/webhooks/hubspot";
/// How often the destination's file is looked at, and the totals are redrawn.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const TOTALS_INTERVAL: Duration = Duration::from_secs(1);
/// How HubSpot misbehaves in the demo: a few repeats, so that the totals show them.
const DUPLICATES: f64 = 0.05;

/// What `crm-relay demo` takes.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// End after this many enriched events, with exit code 0. Without it: until Ctrl-C.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
    /// Print enriched events as NDJSON on stdout, one `CloudEvent` a line.
    #[arg(long)]
    json: bool,
    /// Changes per second in the simulated portal.
    #[arg(long, value_name = "N", default_value_t = 5.0, value_parser = rate)]
    rate: f64,
    /// Makes the portal and what happens in it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.1..=1_000.0).contains(&rate) => Ok(rate),
        _ => Err("give a number from 0.1 to 1000, changes per second".to_owned()),
    }
}

impl DemoArgs {
    /// Runs the demo until its number of events, or until Ctrl-C.
    ///
    /// # Errors
    /// What kept a part from starting, or the destination's file from being read.
    pub(super) async fn execute(self) -> anyhow::Result<()> {
        let mut signals = Signals::catch()?;
        let folder = tempfile::Builder::new()
            .prefix("crm-relay-demo-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        let simulator = self.simulator().await?;
        let config = configure(&simulator, folder.path());
        telemetry::init(&config.log)?;
        let relay = Relay::start(&config, Role::Run).await?;
        begin(&simulator, &relay, self.rate)?;
        let path = destination_path(folder.path());
        let mut totals = Totals::new(self.json);
        let shown = tokio::select! {
            shown = self.show(&simulator, &relay, &path, &mut totals) => until_stdout_closed(shown),
            _ = signals.next() => Ok(()),
        };
        totals.finish(&simulator.control().counters(PORTAL)?, relay.metrics());
        simulator.control().set_traffic(0.0);
        // The relay first: what it has taken in it can only finish while HubSpot answers.
        tokio::select! {
            stopped = relay.stop() => stopped?,
            _ = signals.next() => {}
        }
        simulator.stop().await;
        shown
    }

    async fn simulator(&self) -> anyhow::Result<Simulator> {
        let options = SimulatorOptions {
            seed: self.seed,
            portals: vec![PortalOptions::new(PORTAL)],
            dials: Dials {
                duplicates: DUPLICATES,
                ..Dials::default()
            },
            ..SimulatorOptions::default()
        };
        Ok(Simulator::start(options).await?)
    }

    /// Shows what arrives in the destination's file.
    async fn show(
        &self,
        simulator: &Simulator,
        relay: &Relay,
        path: &Path,
        totals: &mut Totals,
    ) -> anyhow::Result<()> {
        let mut lines = BufReader::new(open(path).await?);
        let mut line = String::new();
        let mut redrawn = Instant::now();
        let colours = std::io::stdout().is_terminal();
        while self.events.is_none_or(|most| totals.shown < most) {
            let read = lines.read_line(&mut line).await?;
            if read > 0 && line.ends_with('\n') {
                totals.clear();
                self.print(&line, colours)?;
                totals.shown += 1;
                line.clear();
            } else {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            if redrawn.elapsed() >= TOTALS_INTERVAL {
                totals.draw(&simulator.control().counters(PORTAL)?, relay.metrics());
                redrawn = Instant::now();
            }
        }
        Ok(())
    }

    fn print(&self, line: &str, colours: bool) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        if self.json {
            stdout.write_all(line.as_bytes())?;
        } else {
            let event: EnrichedEvent =
                serde_json::from_str(line).context("a line of the destination's file")?;
            stdout.write_all(view::render(&event, colours).as_bytes())?;
        }
        Ok(stdout.flush()?)
    }
}

/// Who closes stdout has seen enough (`| head`), which is no failure.
fn until_stdout_closed(shown: anyhow::Result<()>) -> anyhow::Result<()> {
    match shown {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        shown => shown,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What a configuration file would say.
fn configure(simulator: &Simulator, folder: &Path) -> Config {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::default();
    config.receiver.listen = any_port;
    config.receiver.public_url = OneOrMany::One(PUBLIC_URL.to_owned());
    config.admin.listen = any_port;
    config.app = one(
        "demo",
        AppConfig {
            client_id: None,
            client_secrets: vec![Secret::new(CLIENT_SECRET)],
            signatures: vec![SignatureVersion::V3],
        },
    );
    config.bus.data_dir = folder.join("bus");
    config.hubspot.base_url = simulator.base_url();
    let token = PortalOptions::new(PORTAL).access_token;
    config.portal = one(
        &PORTAL.to_string(),
        PortalConfig {
            access_token: Some(Secret::new(token)),
            ..PortalConfig::default()
        },
    );
    config.enrich = enrich();
    config.destination = one(
        "terminal",
        DestinationConfig {
            path: Some(destination_path(folder)),
            ..DestinationConfig::new(DestinationKind::Ndjson)
        },
    );
    config.log.filter = "warn".to_owned();
    config
}

fn enrich() -> BTreeMap<String, EnrichConfig> {
    [
        ("contact", ["company", "deal"]),
        ("company", ["contact", "deal"]),
        ("deal", ["contact", "company"]),
        ("ticket", ["contact", "company"]),
    ]
    .into_iter()
    .map(|(name, associations)| {
        let associations = associations.map(str::to_owned).to_vec();
        (
            name.to_owned(),
            EnrichConfig {
                associations: Some(associations),
                ..EnrichConfig::default()
            },
        )
    })
    .collect()
}

fn one<T>(name: &str, value: T) -> BTreeMap<String, T> {
    BTreeMap::from([(name.to_owned(), value)])
}

fn destination_path(folder: &Path) -> PathBuf {
    folder.join("enriched.ndjson")
}

/// Points the simulated HubSpot at the relay, and lets things happen in the portal.
fn begin(simulator: &Simulator, relay: &Relay, rate: f64) -> anyhow::Result<()> {
    let receiver = relay.receiver_addr().context("the relay has no receiver")?;
    simulator.set_webhook(WebhookOptions {
        signed_url: Some(PUBLIC_URL.to_owned()),
        ..WebhookOptions::new(format!("http://{receiver}{WEBHOOK_PATH}"), CLIENT_SECRET)
    });
    simulator.control().set_traffic(rate);
    let mut stderr = std::io::stderr().lock();
    writeln!(
        stderr,
        "The relay receives on http://{receiver}{WEBHOOK_PATH} and shows its metrics on http://{}/metrics.\n\
         The simulated HubSpot is {}; its portal {PORTAL} changes {rate} times a second. Ctrl-C ends it.\n",
        relay.admin_addr(),
        simulator.base_url(),
    )?;
    Ok(())
}

/// The relay has made the file by the time it has started.
async fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path)
        .await
        .with_context(|| format!("cannot read {}", path.display()))
}
