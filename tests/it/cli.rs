//! The command line: exit codes, what `config` shows, and starting and stopping the real program.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The longest anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines of log read at most while waiting for one.
const LINES_MAX: usize = 200;

/// The file of the README, on ports that the operating system chooses.
const FILE: &str = r##"
[receiver]
listen = "127.0.0.1:0"
public_url = "https://relay.example.com/webhooks/hubspot"
[admin]
listen = "127.0.0.1:0"
[app.main]
client_secrets = ["env:HUBSPOT_CLIENT_SECRET"]
signatures = ["v3"]
[bus]
data_dir = "./data"
[hubspot]
base_url = "https://api.hubapi.com"
api_version = "2026-09"
[portal.8241]
access_token = "env:HUBSPOT_TOKEN"
[enrich.contact]
properties = ["*"]
associations = ["company", "deal"]
[destination.billing]
kind = "ndjson"
path = "billing.ndjson"
match = ["*.contact.#", "*.deal.property_changed.dealstage"]
[log]
format = "json"
"##;

/// The same with a broker and a queue, as most will have it.
fn with_broker() -> String {
    FILE.replace(
        "[bus]",
        "[bus]\nurl = \"amqp://guest:hunter2@127.0.0.1:5672/%2f\"",
    )
    .replace(
        "kind = \"ndjson\"\npath = \"billing.ndjson\"",
        "kind = \"queue\"",
    )
}

struct Place(tempfile::TempDir);

impl Place {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("relay.toml"), file).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("relay.toml")
    }

    /// The program in this folder, with no environment but the secrets.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crm-relay"));
        command
            .args(args)
            .env_clear()
            .env("HUBSPOT_CLIENT_SECRET", "hunter2")
            .env("HUBSPOT_TOKEN", "hunter2")
            .current_dir(self.0.path());
        command
    }
}

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn the_effective_configuration_is_shown_without_secrets() {
    let place = Place::new(&with_broker());
    let (code, stdout, stderr) = output(
        place
            .command(&["config", "--config", "relay.toml"])
            .env("CRM_RELAY__PORTAL__77__ACCESS_TOKEN", "hunter2")
            .env("CRM_RELAY__BUS__PARTITIONS", "4"),
    );
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(!stdout.contains("hunter2"), "{stdout}");
    insta::assert_snapshot!(stdout);
}

#[test]
fn a_configuration_that_cannot_run_is_shown_and_refused_with_code_2() {
    let place = Place::new(FILE);
    let (code, stdout, stderr) = output(
        place
            .command(&["config", "--role", "worker"])
            .env("CRM_RELAY_CONFIG", place.file())
            .env_remove("HUBSPOT_TOKEN"),
    );
    assert_eq!(code, Some(2));
    assert!(stdout.contains("[portal.8241]"), "{stdout}");
    assert!(
        stderr.contains(
            "portal.8241.access_token: the environment variable HUBSPOT_TOKEN is not set"
        ),
        "{stderr}"
    );
    assert!(stderr.contains("bus.url: it is missing"), "{stderr}");
    let (code, _, started) = output(
        place
            .command(&["worker", "-c", "relay.toml"])
            .env_remove("HUBSPOT_TOKEN"),
    );
    assert_eq!(code, Some(2));
    assert!(started.contains("portal.8241.access_token"), "{started}");
}

#[test]
fn a_wrong_command_line_or_file_ends_with_code_2() {
    let place = Place::new("[bus]\nurl = 'hunter2\n");
    for args in [
        &["nonsense"][..],
        &[],
        &["run", "--config", "no.toml"],
        &["run", "-c", "relay.toml"],
        &["run"],
    ] {
        let (code, _, stderr) = output(&mut place.command(args));
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[test]
fn a_wrong_filter_is_a_wrong_configuration() {
    let place = Place::new(FILE);
    let (code, _, stderr) = output(
        place
            .command(&["run", "-c", "relay.toml"])
            .env("CRM_RELAY__LOG__FILTER", "inof"),
    );
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("log.filter: `inof` is no level"),
        "{stderr}"
    );
}

#[test]
fn the_version_is_told() {
    let (code, stdout, _) = output(&mut Place::new("").command(&["--version"]));
    assert_eq!(
        (code, stdout),
        (
            Some(0),
            format!("crm-relay {}\n", env!("CARGO_PKG_VERSION"))
        )
    );
}

/// A running program. It is killed when a test fails before stopping it.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
    told: String,
}

impl Running {
    fn start(place: &Place) -> Self {
        let mut command = place.command(&["run", "--config", "relay.toml"]);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self {
            child,
            log,
            told: String::new(),
        }
    }

    /// Reads the log up to the line that has `field`, and gives its value.
    fn wait_for(&mut self, field: &str) -> String {
        for _ in 0..LINES_MAX {
            let mut line = String::new();
            assert_ne!(
                self.log.read_line(&mut line).unwrap(),
                0,
                "no {field} in:\n{}",
                self.told
            );
            self.told.push_str(&line);
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(value) = line.get(field) {
                return value.as_str().unwrap().to_owned();
            }
        }
        panic!("no {field} in:\n{}", self.told);
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not end within {PATIENCE:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn status(url: &str) -> u16 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    crate::rig::http()
        .get(url)
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

#[tokio::test]
async fn the_program_serves_its_probes_and_ends_with_code_0_on_sigterm_or_sigint() {
    for signal in ["-TERM", "-INT"] {
        let place = Place::new(FILE);
        let mut running = Running::start(&place);
        let admin = running.wait_for("admin.addr");
        let receiver = running.wait_for("receiver.addr");
        assert_ne!(admin, receiver);
        assert_eq!(status(&format!("http://{admin}/livez")).await, 200);
        assert_eq!(status(&format!("http://{admin}/readyz")).await, 200);
        assert_eq!(status(&format!("http://{admin}/metrics")).await, 200);
        running.signal(signal);
        assert_eq!(running.exit_code(), Some(0), "{}", running.told);
        assert!(!running.told.contains("hunter2"), "{}", running.told);
    }
}

/// A demo with much going on, on whose stdout a line has been read.
fn busy_demo(place: &Place) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = place
        .command(&["demo", "--json", "--rate", "200"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"specversion\""), "{line}");
    (child, stdout)
}

#[test]
fn a_demo_ends_in_time_with_code_0_and_its_totals_when_asked_to_or_when_nobody_reads_on() {
    for asked in [true, false] {
        let place = Place::new("");
        let (mut child, stdout) = busy_demo(&place);
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut running = Running {
            child,
            log,
            told: String::new(),
        };
        let reader = std::thread::spawn(move || {
            let kept = asked.then_some(stdout);
            kept.map(|mut stdout| std::io::copy(&mut stdout, &mut std::io::sink()))
        });
        if asked {
            running.signal("-INT");
        }
        assert_eq!(running.exit_code(), Some(0), "asked: {asked}");
        running.log.read_to_string(&mut running.told).unwrap();
        reader.join().unwrap();
        let told = &running.told;
        assert!(told.contains("notifications acknowledged"), "{told}");
        assert!(!told.contains("grace time"), "{told}");
        assert!(!told.contains("the connection to HubSpot failed"), "{told}");
        assert!(!told.contains("Broken pipe"), "{told}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_ends_the_program_with_code_1_and_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::new(FILE);
    let addr = taken.local_addr().unwrap().to_string();
    let (code, _, stderr) = output(
        place
            .command(&["run", "-c", "relay.toml"])
            .env("CRM_RELAY__ADMIN__LISTEN", addr),
    );
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("set admin.listen to a free address"),
        "{stderr}"
    );
}
