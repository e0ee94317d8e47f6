//! `crm-relay audit`: whether every event ended, or is on its way.
//!
//! It asks the relay that runs with the same configuration, on its admin port. With `--settled` it reads the bus itself.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use secrecy::ExposeSecret as _;

use super::ConfigArgs;
use super::simulate::parse_duration;
use crate::audit::{Account, Endings, Question, Report, audit};
use crate::config::{Config, Role};
use crate::event::Millis;
use crate::metrics::Metrics;
use crate::relay::open_bus;

/// How long the relay may take: it reads up to a gigabyte for each partition.
const ANSWER_MAX: Duration = Duration::from_secs(600);
/// How long the bus may take to connect.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// The arguments of `crm-relay audit`.
#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Counts what ended since then. What is still open is known for 72 hours in any case.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    since: Duration,
    /// What a line of the table is for.
    #[arg(long, value_enum, default_value = "portal")]
    by: By,
    /// Prints everything as JSON.
    #[arg(long)]
    json: bool,
    /// No worker runs: reads the bus from here and asks nobody. Whatever is open and in no queue is a hole.
    #[arg(long)]
    settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// A portal and a destination.
    Portal,
    /// A destination, over all portals.
    Destination,
}

/// The audit was done, and found something.
#[derive(Debug, thiserror::Error)]
#[error("the ledger does not add up: {events} events are nowhere, {findings} other findings")]
pub(super) struct DoesNotAddUp {
    events: usize,
    findings: usize,
}

impl AuditArgs {
    /// Does what is asked.
    pub(super) async fn execute(self) -> anyhow::Result<()> {
        let config = self.config.load()?;
        let report = match self.settled {
            true => read_bus(&config, self.since).await?,
            false => ask_relay(&config, self.since).await?,
        };
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        } else {
            print(&report, self.by, &mut out)?;
        }
        out.flush()?;
        if !report.adds_up() {
            let events: usize = report.holes.iter().map(|hole| hole.events).sum();
            let findings = report.findings.len();
            return Err(DoesNotAddUp { events, findings }.into());
        }
        Ok(())
    }
}

async fn ask_relay(config: &Config, since: Duration) -> anyhow::Result<Report> {
    let token = config.admin.token.as_ref();
    let token = token.context("admin.token is not configured; the relay answers nobody without")?;
    let url = format!("http://{}/audit", reachable(config.admin.listen));
    let client = reqwest::Client::builder().timeout(ANSWER_MAX).build()?;
    let request = client
        .get(&url)
        .query(&[("since", format!("{}s", since.as_secs()))])
        .bearer_auth(token.resolve()?.expose_secret());
    let answer = request.send().await.with_context(|| {
        format!("no relay answers at {url}; start it, or add --settled where no worker runs")
    })?;
    let status = answer.status();
    if !status.is_success() {
        bail!("the relay answers {status}: {}", answer.text().await?);
    }
    answer
        .json()
        .await
        .context("the relay's answer cannot be read")
}

async fn read_bus(config: &Config, since: Duration) -> anyhow::Result<Report> {
    let bus = open_bus(config, Role::Worker, &Arc::new(Metrics::new())).await?;
    let mut connected = bus.connected();
    let connects = tokio::time::timeout(CONNECT_MAX, connected.wait_for(|connected| *connected));
    // What it resolves to would keep the bus from saying that it closes.
    let is_connected = connects.await.is_ok_and(|found| found.is_ok());
    if !is_connected {
        bail!("the bus does not connect within {CONNECT_MAX:?}");
    }
    let question = Question {
        since: Millis::now().before(since),
        settled: true,
    };
    let report = audit(bus.as_ref(), question).await;
    bus.close().await;
    Ok(report?)
}

/// Where something that listens there is reached from the same machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn print(report: &Report, by: By, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "noted from {} to {}\n", report.since, report.until)?;
    let mut table = vec![
        [
            "portal",
            "destination",
            "events",
            "delivered",
            "merged",
            "unwanted",
            "dead",
            "purged",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    match by {
        By::Portal => {
            for (portal_id, account) in &report.portals {
                for (destination, endings) in &account.destinations {
                    table.push(line(portal_id.as_str(), destination, *endings));
                }
            }
        }
        By::Destination => {
            let mut all: std::collections::BTreeMap<&String, Endings> = Default::default();
            for (destination, endings) in report.portals.values().flat_map(|one| &one.destinations)
            {
                let so_far = all.entry(destination).or_default();
                *so_far = so_far.plus(*endings);
            }
            table.extend(
                all.into_iter()
                    .map(|(to, endings)| line("all", to, endings)),
            );
        }
    }
    print_table(&table, out)?;
    print_totals(report, out)
}

fn line(portal: &str, destination: &str, endings: Endings) -> Vec<String> {
    let counts = [
        endings.sum(),
        endings.delivered,
        endings.merged,
        endings.unwanted,
        endings.dead,
        endings.purged,
    ];
    let names = [portal.to_owned(), destination.to_owned()];
    names
        .into_iter()
        .chain(counts.map(|count| count.to_string()))
        .collect()
}

/// Names to the left, numbers to the right.
fn print_table(lines: &[Vec<String>], out: &mut impl Write) -> io::Result<()> {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in lines {
        for (column, (text, width)) in line.iter().zip(&widths).enumerate() {
            match column {
                0 => write!(out, "{text:<width$}")?,
                1 => write!(out, "  {text:<width$}")?,
                _ => write!(out, "  {text:>width$}")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

fn print_totals(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let sum = |of: fn(&Account) -> u64| report.portals.values().map(of).sum::<u64>();
    writeln!(
        out,
        "\nevents: {} ended, {} open; copies that came again: {}; ended by two workers: {}, and as plain events: {}; given up by the bus: {}",
        sum(|account| account.ended),
        sum(|account| account.open),
        sum(|account| account.duplicates),
        sum(|account| account.ended_again),
        sum(|account| account.plain_ended_again),
        sum(|account| account.given_up_by_bus),
    )?;
    for partition in &report.partitions {
        let in_hand = partition
            .in_hand
            .map_or("unknown".to_owned(), |count| count.to_string());
        writeln!(
            out,
            "partition {}: {} events open, {in_hand} of them in a worker's hands; {} messages in its queue, {} in its backlog",
            partition.partition, partition.open, partition.in_queue, partition.in_backlog,
        )?;
    }
    for hole in &report.holes {
        writeln!(
            out,
            "HOLE: portal {}, partition {}: {} events that came are nowhere, the first since {}",
            hole.portal_id, hole.partition, hole.events, hole.since,
        )?;
    }
    for finding in &report.findings {
        writeln!(out, "FINDING: {finding}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_portal_and_destination_has_a_line_and_holes_are_told() {
        let endings = |delivered| Endings {
            delivered,
            ..Endings::default()
        };
        let account = |delivered, open| Account {
            ended: delivered,
            open,
            destinations: [("out".to_owned(), endings(delivered))].into(),
            ..Account::default()
        };
        let hole = crate::audit::Hole {
            portal_id: "62515".into(),
            partition: 2,
            events: 1,
            since: Millis::default(),
        };
        let report = Report {
            since: Millis::default(),
            until: Millis::default(),
            portals: [
                ("8241".into(), account(7, 0)),
                ("62515".into(), account(12, 1)),
            ]
            .into(),
            partitions: Vec::new(),
            holes: vec![hole],
            findings: Vec::new(),
        };
        let told = |by| {
            let mut out = Vec::new();
            print(&report, by, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        insta::assert_snapshot!("by_portal", told(By::Portal));
        insta::assert_snapshot!("by_destination", told(By::Destination));
    }

    #[test]
    fn an_address_that_means_all_is_reached_as_the_machine_itself() {
        let at = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(at("[::]:9090"), "[::1]:9090");
        assert_eq!(at("10.0.0.7:9090"), "10.0.0.7:9090");
    }
}
