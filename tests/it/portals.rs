//! Portals come, change, pause and go while the relay runs; OAuth portals keep their access tokens fresh; and no token is
//! ever to be seen.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crm_relay::event::EnrichedEvent;
use crm_relay::simulator::{
    Control, Counters, Fault, OAuthOptions, PortalOptions, Simulator, SimulatorOptions,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::helpers::eventually;
use crate::helpers::relay::{Bus, CLIENT_ID, CLIENT_SECRET, RelayProcess};

const PORTAL: u64 = 8241;
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const REFRESH_TOKEN: &str = "na1-refresh-of-the-installation";
/// A change of the folder is in force after a look (2 s); a removal after two. The rest is for a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A relay whose portals stand in a folder, and one that stands in its configuration.
struct World {
    simulator: Simulator,
    relay: RelayProcess,
    folder: TempDir,
}

impl World {
    /// HubSpot has `portals`; the folder holds `files` at the start.
    async fn start(portals: Vec<PortalOptions>, files: &[(u64, &str)]) -> Self {
        let simulator = Simulator::start(SimulatorOptions {
            portals,
            ..SimulatorOptions::default()
        })
        .await
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (portal, text) in files {
            std::fs::write(file(folder.path(), *portal), text).unwrap();
        }
        let more = format!("[portals]\nfolder = {:?}\nkeys = [{KEY:?}]", folder.path());
        let fixed = [PortalOptions::new(1_111)];
        let relay = RelayProcess::start(&simulator, &fixed, &Bus::Embedded, &more).await;
        Self {
            simulator,
            relay,
            folder,
        }
    }

    fn hubspot(&self) -> Control {
        self.simulator.control()
    }

    fn counters(&self, portal: u64) -> Counters {
        self.hubspot().counters(portal).unwrap()
    }

    /// Creates a contact; the subject of its messages.
    fn change(&self, portal: u64) -> (u64, String) {
        let id = self
            .hubspot()
            .create(portal, "contacts", &[("firstname", "Zoë")]);
        (portal, format!("contact/{}", id.unwrap()))
    }

    fn arrived(&self) -> BTreeSet<(u64, String)> {
        let text = std::fs::read_to_string(self.relay.ndjson_path()).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let messages = whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        messages
            .map(|message: EnrichedEvent| {
                let portal = message.data.portal_id.as_str().parse().unwrap();
                (portal, message.subject)
            })
            .collect()
    }

    async fn arrives(&self, what: &str, change: &(u64, String)) {
        eventually(what, SOON, async || {
            self.arrived().contains(change).then_some(())
        })
        .await;
    }

    async fn state(&self, portal: u64) -> Value {
        let (_, body) = self.relay.portals("GET", &format!("/{portal}"), None).await;
        body["state"].clone()
    }

    async fn becomes(&self, portal: u64, state: &str) {
        eventually(state, SOON, async || {
            (self.state(portal).await == state).then_some(())
        })
        .await;
    }

    /// All that an outsider may come to see.
    async fn told(&self) -> String {
        let mut told = self.relay.log() + &self.relay.metrics().await;
        told += &self.relay.portals("GET", "", None).await.1.to_string();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            told += &String::from_utf8_lossy(&std::fs::read(path).unwrap());
        }
        told
    }
}

fn oauth(life: Duration, rotates: bool) -> PortalOptions {
    PortalOptions {
        oauth: Some(OAuthOptions {
            life,
            rotates,
            ..OAuthOptions::new(CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN)
        }),
        ..PortalOptions::new(PORTAL)
    }
}

fn oauth_file() -> String {
    format!("refresh_token = {REFRESH_TOKEN:?}\n")
}

fn file(folder: &Path, portal: u64) -> std::path::PathBuf {
    folder.join(format!("{portal}.toml"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oauth_portal_is_enriched_over_many_lives_of_its_access_token_without_a_401() {
    let portal = oauth(Duration::from_secs(6), false);
    let world = World::start(vec![portal], &[(PORTAL, &oauth_file())]).await;
    let mut changes = Vec::new();
    for _ in 0..40 {
        changes.push(world.change(PORTAL));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for change in &changes {
        world.arrives("every change", change).await;
    }
    let counters = world.counters(PORTAL);
    assert_eq!(counters.replies.get(&401), None, "{counters:?}");
    assert!((4..=8).contains(&counters.refreshes), "{counters:?}");
    let renewed = "crm_relay_hubspot_token_refreshes_total{outcome=\"renewed\"}";
    let renewed = world.relay.metric(renewed).await;
    assert!(renewed >= Some(4.0), "{renewed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_ends_under_many_calls_is_renewed_once_and_nothing_is_lost() {
    for version in ["2026-09", "v3"] {
        let portal = oauth(Duration::from_secs(1_800), false);
        let mut world = World::start(vec![portal], &[(PORTAL, &oauth_file())]).await;
        world
            .relay
            .set_env("CRM_RELAY__HUBSPOT__API_VERSION", version);
        world.relay.kill();
        world.relay.resume().await;
        world.arrives("the first", &world.change(PORTAL)).await;
        assert_eq!(world.counters(PORTAL).refreshes, 1);
        world.hubspot().expire_access_tokens(PORTAL).unwrap();
        let deals: Vec<_> = (0..60)
            .map(|_| {
                let (_, subject) = world.change(PORTAL);
                (PORTAL, subject)
            })
            .collect();
        for deal in &deals {
            world.arrives("every change", deal).await;
        }
        let counters = world.counters(PORTAL);
        assert_eq!(counters.refreshes, 2, "{version}: {counters:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uninstalled_app_parks_its_portal_alone_and_a_new_token_ends_that_in_seconds() {
    let other = PortalOptions::new(1_111);
    let portal = oauth(Duration::from_secs(1_800), false);
    let world = World::start(vec![portal, other], &[(PORTAL, &oauth_file())]).await;
    world.arrives("the first", &world.change(PORTAL)).await;
    world.hubspot().uninstall(PORTAL).unwrap();
    let kept: Vec<_> = (0..5).map(|_| world.change(PORTAL)).collect();
    world.becomes(PORTAL, "parked").await;
    world
        .arrives("another portal's", &world.change(1_111))
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.counters(PORTAL).refreshes_refused, 1, "no storm");
    eventually("the gauge", SOON, async || {
        let parked = "crm_relay_portals{state=\"parked\"}";
        (world.relay.metric(parked).await == Some(1.0)).then_some(())
    })
    .await;
    let log = world.relay.log();
    assert!(log.contains("reinstall the app in portal 8241"), "{log}");

    let refresh_token = world.hubspot().reinstall(PORTAL).unwrap();
    let body = json!({"refresh_token": refresh_token, "app": "main"});
    let (status, answer) = world.relay.portals("PUT", "/8241", Some(body)).await;
    assert_eq!((status, answer["state"].as_str()), (200, Some("ready")));
    for change in &kept {
        world.arrives("what was kept", change).await;
    }
    assert_eq!(world.state(PORTAL).await, "ready");
    let told = world.told().await;
    for secret in [REFRESH_TOKEN, &refresh_token, "CJaccess", CLIENT_SECRET] {
        // The file that a person wrote was replaced by the API's.
        assert!(!told.contains(secret), "{secret} is told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn portals_come_pause_change_and_go_by_their_files() {
    let portals = [PORTAL, 8_242].map(PortalOptions::new);
    let token = |portal: u64| format!("access_token = \"pat-na1-simulator-{portal}\"\n");
    let world = World::start(portals.to_vec(), &[(PORTAL, &token(PORTAL))]).await;
    let path = |portal| file(world.folder.path(), portal);
    world
        .arrives("the first portal's", &world.change(PORTAL))
        .await;

    std::fs::write(path(8_242), token(8_242)).unwrap();
    world.becomes(8_242, "ready").await;
    world
        .arrives("the new portal's", &world.change(8_242))
        .await;
    assert!(world.relay.log().contains("crm-relay portals seal"));

    std::fs::write(path(8_242), token(8_242) + "paused = true").unwrap();
    world.becomes(8_242, "paused").await;
    let before = world.counters(8_242).calls;
    let kept = world.change(8_242);
    world
        .arrives("the other portal's", &world.change(PORTAL))
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.counters(8_242).calls, before, "no call is made");
    assert!(!world.arrived().contains(&kept));

    std::fs::write(path(8_242), "paused = maybe").unwrap();
    eventually("the error", SOON, async || {
        let log = world.relay.log();
        (log.contains("8242.toml:1") && log.contains("stays as it was")).then_some(())
    })
    .await;
    assert_eq!(world.state(8_242).await, "paused");
    std::fs::write(path(8_242), token(8_242)).unwrap();
    world.arrives("what was kept", &kept).await;

    std::fs::remove_file(path(8_242)).unwrap();
    eventually("the portal is gone", SOON, async || {
        let (status, _) = world.relay.portals("GET", "/8242", None).await;
        (status == 404).then_some(())
    })
    .await;
    world.change(8_242);
    let letters = "crm_relay_dead_letters_total{reason=\"unknown_portal\",stage=\"enrich\"}";
    eventually("a dead letter", SOON, async || {
        (world.relay.metric(letters).await > Some(0.0)).then_some(())
    })
    .await;
    world
        .arrives("the first portal's", &world.change(PORTAL))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_adds_pauses_resumes_and_removes_and_lets_nobody_else_in() {
    let portals = [PORTAL, 1_111].map(PortalOptions::new);
    let world = World::start(portals.to_vec(), &[]).await;
    let relay = &world.relay;
    for authorization in [None, Some("Bearer "), Some("Bearer wrong"), Some("Basic x")] {
        let mut request = crate::rig::http().get(relay.admin_url("/portals"));
        if let Some(value) = authorization {
            request = request.header("Authorization", value);
        }
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    let token = "pat-na1-simulator-8241";
    for (path, body, status) in [
        ("/8241", json!({"access_token": "env:HOME"}), 400),
        ("/8241", json!({"access_token": token, "pausd": true}), 400),
        (
            "/8241",
            json!({"access_token": token, "paused": token}),
            400,
        ),
        (
            "/8241",
            json!({"refresh_token": token, "app": "other"}),
            400,
        ),
        ("/8241", json!({}), 400),
        ("/08241", json!({"access_token": token}), 400),
        ("/..%2f8241", json!({"access_token": token}), 400),
        ("/1111", json!({"access_token": token}), 409),
        ("/8241", json!({"access_token": "x".repeat(70_000)}), 413),
    ] {
        let (got, answer) = relay.portals("PUT", path, Some(body)).await;
        assert_eq!(got, status, "{path}: {answer}");
        assert!(answer["error"].is_string() && !answer.to_string().contains(token));
    }
    for method in ["GET", "DELETE"] {
        assert_eq!(relay.portals(method, "/8241", None).await.0, 404);
    }

    let body = json!({"access_token": token});
    assert_eq!(relay.portals("PUT", "/8241", Some(body)).await.0, 200);
    world.arrives("at once", &world.change(PORTAL)).await;

    let paused = Some(json!({"paused": true}));
    let (_, answer) = relay.portals("PATCH", "/8241", paused).await;
    assert_eq!(answer["state"], "paused");
    let kept = world.change(PORTAL);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!world.arrived().contains(&kept));
    let resumed = Some(json!({"paused": false}));
    assert_eq!(relay.portals("PATCH", "/8241", resumed).await.0, 200);
    world.arrives("what was kept", &kept).await;

    let (_, page) = relay.portals("GET", "?limit=1", None).await;
    assert_eq!(page["portals"][0]["source"], "configuration");
    assert_eq!(page["next"], "1111");
    let (_, page) = relay.portals("GET", "?limit=1&after=1111", None).await;
    assert_eq!(page["portals"][0]["id"], "8241");
    assert!(!world.told().await.contains(token));
    assert_eq!(relay.portals("DELETE", "/8241", None).await.0, 204);
    assert_eq!(relay.portals("GET", "/8241", None).await.0, 404);
    assert!(!file(world.folder.path(), PORTAL).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_that_is_replaced_with_every_use_is_written_down_sealed_and_outlives_the_process()
 {
    let portal = oauth(Duration::from_secs(1_800), true);
    let mut world = World::start(vec![portal], &[(PORTAL, &oauth_file())]).await;
    world.hubspot().fail_next(Fault::Status(503), "/token");
    for refreshes in 1..=3 {
        world.arrives("a change", &world.change(PORTAL)).await;
        assert_eq!(world.counters(PORTAL).refreshes, refreshes);
        let told = world.told().await;
        let now = world.hubspot().refresh_token(PORTAL).unwrap().unwrap();
        assert!(!told.contains(&now) && !told.contains(REFRESH_TOKEN));
        world.relay.kill();
        world.relay.resume().await;
    }
    assert_eq!(world.counters(PORTAL).refreshes_refused, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_of_another_portal_is_never_used() {
    let mut portal = oauth(Duration::from_secs(1_800), false);
    portal.oauth.as_mut().unwrap().hub_id = Some(9_999);
    let world = World::start(vec![portal], &[(PORTAL, &oauth_file())]).await;
    world.change(PORTAL);
    world.becomes(PORTAL, "parked").await;
    let (_, answer) = world.relay.portals("GET", "/8241", None).await;
    let problem = answer["problem"].as_str().unwrap();
    assert!(
        problem.contains("9999") && problem.contains("8241"),
        "{problem}"
    );
    assert!(world.counters(PORTAL).calls.is_empty());
}

/// `crm-relay portals …` with the configuration of a folder alone.
fn command(config: &Path, args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_crm-relay"))
        .arg("portals")
        .args(args)
        .env("CRM_RELAY_CONFIG", config)
        .env("TOKEN", "pat-of-a-variable")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads no token may have ended by now.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn the_command_line_keeps_the_folder_and_shows_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("relay.toml");
    let portals = folder.path().join("portals");
    std::fs::create_dir(&portals).unwrap();
    let new_key = || {
        let output = command(&config, &["key"], "");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let configure = |keys: &[&str]| {
        let text = format!(
            "[app.main]\nclient_id = 'id'\nclient_secrets = ['x']\n[portals]\nfolder = {portals:?}\nkeys = {keys:?}\n"
        );
        std::fs::write(&config, text).unwrap();
    };
    let (old, new) = (new_key(), new_key());
    configure(&[&old]);
    let mut shown = String::new();
    let mut run = |args: &[&str], stdin: &str, succeeds: bool| {
        let output = command(&config, args, stdin);
        let text =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), succeeds, "{args:?}: {text}");
        shown += &text;
        text
    };
    run(&["put", "1", "--token", "refresh"], "na1-of-stdin\n", true);
    run(
        &[
            "put", "2", "--token", "access", "--env", "TOKEN", "--paused",
        ],
        "",
        true,
    );
    run(&["put", "3", "--token", "access"], "env:HOME", false);
    run(
        &["put", "3", "--token", "refresh", "--app", "other"],
        "na1-of-stdin",
        false,
    );
    run(&["put", "x", "--token", "access"], "pat", false);
    std::fs::write(portals.join("4.toml"), "access_token = 'pat-by-hand'").unwrap();
    run(&["pause", "1"], "", true);
    run(&["resume", "2"], "", true);
    run(&["pause", "5"], "", false);
    let listed = run(&["list"], "", true);
    let expected = "1\trefresh_token\t-\tpaused\n2\taccess_token\t-\tactive\n4\taccess_token\t-\tactive, to be sealed\n";
    assert_eq!(listed, expected);

    configure(&[&new, &old]);
    assert_eq!(run(&["seal"], "", true), "3 sealed\n");
    assert_eq!(run(&["seal"], "", true), "0 sealed\n");
    configure(&[&new]);
    assert!(!run(&["list"], "", true).contains("sealed"));
    run(&["remove", "4"], "", true);
    run(&["remove", "4"], "", false);
    // A token does not open in another portal's file.
    std::fs::copy(portals.join("1.toml"), portals.join("7.toml")).unwrap();
    assert!(run(&["list"], "", true).contains("7\trefresh_token\t-\tunusable"));

    for entry in std::fs::read_dir(&portals).unwrap() {
        shown += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    for token in ["na1-of-stdin", "pat-of-a-variable", "pat-by-hand"] {
        assert!(!shown.contains(token), "{token}");
    }
}
