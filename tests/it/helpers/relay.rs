//! The relay as its operator runs it: the real program with a configuration file, in a process of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crm_relay::audit::Report;
use crm_relay::event::Millis;
use crm_relay::simulator::{PortalOptions, Simulator, WebhookOptions};
use tempfile::TempDir;

use super::ports::free_address;
use super::{broker, contract, eventually, metric, signature};
use crate::rig::http;

pub const CLIENT_SECRET: &str = "a-client-secret-for-tests";
pub const CLIENT_ID: &str = "a-client-id-for-tests";
/// What `/portals` on the admin port asks for.
pub const ADMIN_TOKEN: &str = "an-admin-token-for-tests";
pub const PUBLIC_URL: &str = "https://relay.example.com/webhooks/hubspot";

/// Where the events go, and by which bus.
pub enum Bus {
    Embedded,
    RabbitMq { url: String, prefix: String },
}

impl Bus {
    /// The shared broker, with names of its own: the bus, the broker's URL, and what the names begin with.
    pub fn on_rabbitmq() -> (Self, String, String) {
        let (url, prefix) = (broker::shared().url(), broker::unique_prefix());
        let bus = Self::RabbitMq {
            url: url.clone(),
            prefix: prefix.clone(),
        };
        (bus, url, prefix)
    }
}

/// One relay, which may be killed and started again with the same configuration.
pub struct RelayProcess {
    folder: TempDir,
    receiver: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
    env: Vec<(String, String)>,
}

impl RelayProcess {
    /// Writes the configuration for the simulated HubSpot and starts the relay.
    pub async fn start(
        simulator: &Simulator,
        portals: &[PortalOptions],
        bus: &Bus,
        more: &str,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut relay = Self {
            receiver: free_address(),
            admin: free_address(),
            child: None,
            env: Vec::new(),
            folder,
        };
        fs::write(
            relay.config_path(),
            relay.config(simulator, portals, bus, more),
        )
        .unwrap();
        relay.resume().await;
        simulator.set_webhook(WebhookOptions {
            signed_url: Some(PUBLIC_URL.to_owned()),
            timeout: Duration::from_secs(5),
            retries_max: 30,
            ..WebhookOptions::new(
                format!("http://{}/webhooks/hubspot", relay.receiver),
                CLIENT_SECRET,
            )
        });
        relay
    }

    fn config(
        &self,
        simulator: &Simulator,
        portals: &[PortalOptions],
        bus: &Bus,
        more: &str,
    ) -> String {
        let (bus, destination) = match bus {
            Bus::Embedded => (
                format!("data_dir = {:?}", self.folder.path().join("bus")),
                format!("kind = \"ndjson\"\npath = {:?}", self.ndjson_path()),
            ),
            Bus::RabbitMq { url, prefix } => (
                format!("url = {url:?}\nprefix = {prefix:?}\npartitions = 4"),
                "kind = \"queue\"".to_owned(),
            ),
        };
        let portals: String = portals
            .iter()
            .map(|portal| {
                format!(
                    "[portal.{}]\naccess_token = {:?}\n",
                    portal.id, portal.access_token
                )
            })
            .collect();
        format!(
            "[receiver]\nlisten = \"{}\"\npublic_url = {PUBLIC_URL:?}\n[admin]\nlisten = \"{}\"\ntoken = {ADMIN_TOKEN:?}\n\
             [app.main]\nclient_id = {CLIENT_ID:?}\nclient_secrets = [{CLIENT_SECRET:?}]\n[bus]\n{bus}\n\
             [hubspot]\nbase_url = {:?}\n{portals}\
             [enrich.contact]\nassociations = [\"company\", \"deal\"]\n\
             [destination.out]\n{destination}\n{more}\n",
            self.receiver,
            self.admin,
            simulator.base_url(),
        )
    }

    /// Starts the program again and waits until it is ready.
    pub async fn resume(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_crm-relay"))
            .args(["run", "--config"])
            .arg(self.config_path())
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let ready = format!("http://{}/readyz", self.admin);
        eventually("the relay is ready", Duration::from_secs(30), async || {
            let answer = http().get(&ready).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Sets a variable for the next start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What `crm-relay audit --json` says with these arguments, and whether it succeeds.
    pub async fn audit(&self, arguments: &[&str]) -> (bool, Report) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crm-relay"));
        command
            .args(["audit", "--json", "--config"])
            .arg(self.config_path())
            .args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = tokio::time::timeout(Duration::from_secs(60), output);
        let output = output.await.unwrap().unwrap().unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        (output.status.success(), report)
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.ended().await
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        eventually("the relay ends", Duration::from_secs(30), async || {
            child.try_wait().unwrap()
        })
        .await
    }

    pub fn ndjson_path(&self) -> PathBuf {
        self.folder.path().join("out.ndjson")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap()
    }

    /// A call to `/portals…` on the admin port: status and body.
    pub async fn portals(
        &self,
        method: &str,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> (u16, serde_json::Value) {
        let url = format!("http://{}/portals{path}", self.admin);
        let method = method.parse().unwrap();
        let mut request = http().request(method, url).bearer_auth(ADMIN_TOKEN);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    /// `crm-relay dead` with these arguments, beside the relay: exit code, stdout and stderr.
    pub fn dead(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_crm-relay"))
            .arg("dead")
            .args(args)
            .arg("--config")
            .arg(self.config_path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// The status of a probe.
    pub async fn probe(&self, path: &str) -> u16 {
        let answer = http().get(self.admin_url(path)).send().await;
        answer.unwrap().status().as_u16()
    }

    /// The status that a request without a signature gets; `None` when the port does not listen.
    pub async fn unsigned_request(&self) -> Option<u16> {
        let url = format!("http://{}/webhooks/hubspot", self.receiver);
        let answer = http().post(url).body("[]").send().await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    /// Posts notifications as HubSpot would, signed.
    pub async fn post(&self, notifications: &[serde_json::Value]) {
        let body = serde_json::to_vec(notifications).unwrap();
        assert_eq!(self.post_body(body).await, 204);
    }

    /// Posts a body, signed; the status it is answered with.
    pub async fn post_body(&self, body: Vec<u8>) -> u16 {
        let (signature, timestamp) = signed(&body);
        let answer = http()
            .post(format!("http://{}/webhooks/hubspot", self.receiver))
            .header("X-HubSpot-Signature-v3", signature)
            .header("X-HubSpot-Request-Timestamp", timestamp)
            .body(body)
            .send()
            .await;
        answer.unwrap().status().as_u16()
    }

    /// Where HubSpot's requests come in.
    pub fn receiver(&self) -> SocketAddr {
        self.receiver
    }

    /// The most memory that the process has had, in bytes.
    pub fn memory_max(&self) -> u64 {
        let id = self.child.as_ref().unwrap().id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() * 1_024
    }

    /// `bus.data_dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.path("bus")
    }

    /// Files of the embedded bus's store.
    pub fn store_files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.data_dir()).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    pub async fn metrics(&self) -> String {
        let answer = http().get(self.admin_url("/metrics")).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// The value of a series, as it is now.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        metric(&self.metrics().await, series)
    }

    /// Every line of the NDJSON destination; one that a kill cut off is no JSON and comes again whole.
    fn hold_lines_against_schema(&self) {
        let text = fs::read_to_string(self.ndjson_path()).unwrap_or_default();
        let is_whole = |line: &&str| serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok();
        let lines = text.lines().filter(is_whole);
        lines.for_each(|line| contract::assert_enriched_event(line.as_bytes()));
    }

    fn config_path(&self) -> PathBuf {
        self.path("relay.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.path("relay.log")
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the relay's log\n{}", self.log());
        } else {
            self.hold_lines_against_schema();
        }
    }
}

/// The headers of `body`, signed now: signature and timestamp.
pub fn signed(body: &[u8]) -> (String, String) {
    let timestamp = Millis::now().as_i64().to_string();
    let signature = signature::v3(CLIENT_SECRET, PUBLIC_URL, body, &timestamp);
    (signature, timestamp)
}
