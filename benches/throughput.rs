//! First figures: how many notifications a second the receiver accepts on a real RabbitMQ, how long an answer
//! takes, and how many calls to HubSpot a thousand events cost.
//!
//! `cargo bench --bench throughput`. The load comes from this process on the same machine, over ten
//! connections that each send the next request when the last was answered, as HubSpot does; so the
//! figures are a floor, and latencies are those of a closed loop. Rounds of the three sizes alternate.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use crm_relay::event::Millis;
use crm_relay::simulator::{
    Latency, Limits, PortalOptions, Simulator, SimulatorOptions, WebhookOptions,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

#[path = "../tests/it/helpers/broker.rs"]
#[allow(dead_code, reason = "the benchmark needs less of it than the tests")]
mod broker;

const SECRET: &str = "a-client-secret-for-the-benchmark";
const PUBLIC_URL: &str = "https://relay.example.com/webhooks/hubspot";
const PORTAL: u64 = 8241;
const CONNECTIONS: usize = 10;
const SIZES: [usize; 3] = [1, 10, 100];
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(5);
const ARRIVAL_MAX: Duration = Duration::from_secs(120);

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // `cargo test --benches` only checks that it builds.
    }
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let broker = broker::Broker::start();
        receiver(&broker).await;
        calls_per_thousand_events(&broker).await;
    });
}

/// A relay in a process of its own, killed at the end.
struct Relay {
    child: Child,
    receiver: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Relay {
    async fn start(role: &str, prefix: &str, broker: &broker::Broker, base_url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (receiver, admin) = (free_address(), free_address());
        let path = folder.path().join("relay.toml");
        let token = PortalOptions::new(PORTAL).access_token;
        let config = format!(
            "[receiver]\nlisten = \"{receiver}\"\npublic_url = {PUBLIC_URL:?}\n[admin]\nlisten = \"{admin}\"\n\
             [app.main]\nclient_secrets = [{SECRET:?}]\n[bus]\nurl = {:?}\nprefix = {prefix:?}\n\
             [hubspot]\nbase_url = {base_url:?}\n[portal.{PORTAL}]\naccess_token = {token:?}\n\
             [enrich.contact]\nassociations = [\"company\"]\n[destination.out]\nkind = \"queue\"\n[log]\nfilter = \"warn\"\n",
            broker.url(),
        );
        fs::write(&path, config).expect("a configuration");
        let relay = Self {
            child: spawn(role, &path),
            receiver,
            _folder: folder,
        };
        let ready = format!("http://{admin}/readyz");
        wait("the relay is ready", async || {
            reqwest::get(&ready)
                .await
                .is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        relay
    }

    /// Processor time used so far, user and system. Linux counts it in hundredths of a second.
    fn cpu(&self) -> Duration {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process");
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11..=12]
            .iter()
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 10)
    }
}

fn spawn(role: &str, config: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_crm-relay"))
        .args([role, "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the relay starts")
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

async fn wait(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < ARRIVAL_MAX, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What one round showed.
#[derive(Clone, Copy)]
struct Figures {
    notifications_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
}

async fn receiver(broker: &broker::Broker) {
    let relay = Relay::start("receiver", "bench", broker, "http://127.0.0.1:1").await;
    let serial = Arc::new(AtomicU64::new(1));
    let mut rounds: [Vec<Figures>; SIZES.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (of_size, size) in rounds.iter_mut().zip(SIZES) {
            of_size.push(round(&relay, size, &serial).await);
        }
    }
    println!(
        "receiver on RabbitMQ, {CONNECTIONS} connections, medians of {ROUNDS} rounds of {ROUND:?}:"
    );
    println!(
        "| notifications a request | notifications/s | p50 | p99 | CPU a notification |\n|---|---|---|---|---|"
    );
    for (of_size, size) in rounds.iter().zip(SIZES) {
        let median = |figure: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = of_size.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "| {size} | {:.0} | {:.1} ms | {:.1} ms | {:.0} µs |",
            median(|round| round.notifications_per_second),
            median(|round| round.p50_ms),
            median(|round| round.p99_ms),
            median(|round| round.cpu_us),
        );
    }
}

async fn round(relay: &Relay, size: usize, serial: &Arc<AtomicU64>) -> Figures {
    let (begun, cpu) = (Instant::now(), relay.cpu());
    let url = format!("http://{}/webhooks/hubspot", relay.receiver);
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|_| tokio::spawn(connection(url.clone(), size, serial.clone(), begun + ROUND)))
        .collect();
    let mut answers = Vec::new();
    for connection in connections {
        answers.extend(connection.await.expect("a connection ends"));
    }
    let notifications = (answers.len() * size) as f64;
    let elapsed = begun.elapsed().as_secs_f64();
    answers.sort_unstable();
    let at = |share: f64| answers[(answers.len() as f64 * share) as usize].as_secs_f64() * 1_000.0;
    Figures {
        notifications_per_second: notifications / elapsed,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        cpu_us: (relay.cpu() - cpu).as_secs_f64() * 1_000_000.0 / notifications,
    }
}

/// Sends one request after the other until `end`; how long each answer took.
async fn connection(
    url: String,
    size: usize,
    serial: Arc<AtomicU64>,
    end: Instant,
) -> Vec<Duration> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let mut answers = Vec::new();
    while Instant::now() < end {
        let first = serial.fetch_add(size as u64, Ordering::Relaxed);
        let (body, timestamp, signature) = signed(first, size);
        let sent = Instant::now();
        let answer = client
            .post(&url)
            .header("x-hubspot-signature-v3", signature)
            .header("x-hubspot-request-timestamp", timestamp)
            .body(body)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 204);
        answers.push(sent.elapsed());
    }
    answers
}

fn signed(first: u64, size: usize) -> (String, String, String) {
    let now = Millis::now().as_i64();
    let mut body = String::from("[");
    for id in first..first + size as u64 {
        let separator = if id == first { "" } else { "," };
        let _ = write!(
            body,
            "{separator}{{\"eventId\":{id},\"subscriptionId\":3900002,\"portalId\":{PORTAL},\"appId\":15000001,\
             \"occurredAt\":{now},\"subscriptionType\":\"object.propertyChange\",\"attemptNumber\":0,\
             \"objectId\":{},\"objectTypeId\":\"0-1\",\"propertyName\":\"email\",\
             \"propertyValue\":\"ada@example.com\",\"changeSource\":\"CRM_UI\",\"sourceId\":\"userId:75500001\",\
             \"isSensitive\":false}}",
            874_710_000_000 + id % 1_000,
        );
    }
    body.push(']');
    let timestamp = now.to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length is a key");
    mac.update(format!("POST{PUBLIC_URL}{body}{timestamp}").as_bytes());
    let signature = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    (body, timestamp, signature)
}

/// The simulated HubSpot answers after 100 ms and allows 190 calls in 10 s, as a Professional account does.
async fn calls_per_thousand_events(broker: &broker::Broker) {
    println!(
        "\nwhole way, RabbitMQ, simulated HubSpot with 100 ms latency and 190 calls per 10 s:"
    );
    println!("| load | events | API calls per 1,000 events | 429s |\n|---|---|---|---|");
    for (name, prefix, rate, import) in [
        ("5 changes/s for 20 s", "slow", 5.0, 0),
        ("50 changes/s for 20 s", "fast", 50.0, 0),
        ("import of 2,000 contacts", "import", 0.0, 2_000),
    ] {
        let options = SimulatorOptions {
            portals: vec![PortalOptions {
                limits: Limits::default(),
                ..PortalOptions::new(PORTAL)
            }],
            ..SimulatorOptions::default()
        };
        let simulator = Simulator::start(options).await.expect("a simulator");
        let hubspot = simulator.control();
        let latency = Duration::from_millis(100);
        hubspot.set_latency(Latency {
            min: latency,
            max: latency,
        });
        let relay = Relay::start("run", prefix, broker, &simulator.base_url()).await;
        simulator.set_webhook(WebhookOptions {
            signed_url: Some(PUBLIC_URL.to_owned()),
            ..WebhookOptions::new(
                format!("http://{}/webhooks/hubspot", relay.receiver),
                SECRET,
            )
        });
        if import > 0 {
            hubspot
                .import(PORTAL, "contacts", import)
                .expect("an import");
        } else {
            hubspot.set_traffic(rate);
            tokio::time::sleep(Duration::from_secs(20)).await;
            hubspot.set_traffic(0.0);
        }
        let counters = settled(&simulator).await;
        let calls: u64 = counters.calls.values().sum();
        let events = counters.notifications.made;
        println!(
            "| {name} | {events} | {} | {} |",
            calls * 1_000 / events,
            counters.rate_limited
        );
        simulator.stop().await;
    }
}

/// The counters once nothing is sent and nothing is asked any more.
async fn settled(simulator: &Simulator) -> crm_relay::simulator::Counters {
    const QUIET: u32 = 60;
    let figures = || {
        let counters = simulator.control().counters(PORTAL).expect("the portal");
        (
            counters.calls.values().sum::<u64>(),
            counters.notifications.acknowledged,
        )
    };
    let (mut last, mut quiet) = (figures(), 0);
    wait("everything is read", async || {
        let now = figures();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
        quiet >= QUIET
    })
    .await;
    simulator.control().counters(PORTAL).expect("the portal")
}
