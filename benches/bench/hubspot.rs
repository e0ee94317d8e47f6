//! The simulated HubSpot, in a process of its own so that its processor time is told apart.

use std::ops::Range;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::contender::{access_token, portal_ids};
use crate::load::{PORTAL, PUBLIC_URL, SECRET};
use crate::ports::free_address;
use crate::process::{Process, wait_for_listener};

/// As many calls as anybody could make.
const UNLIMITED: u32 = 1_000_000_000;

/// A running simulator.
pub struct HubSpot {
    pub process: Process,
    pub base_url: String,
    portals: Range<u64>,
    client: reqwest::Client,
}

/// How it answers.
#[derive(Clone, Copy)]
pub struct Manners {
    pub latency: Duration,
    /// Calls that are allowed in ten seconds; `None`: all of them.
    pub calls_per_10s: Option<u32>,
}

/// A notification that was answered 2xx.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledged {
    event_id: u64,
    pub portal_id: u64,
    /// In ms of Unix time.
    pub occurred_at: i64,
    pub change_source: Option<String>,
}

impl Acknowledged {
    /// HubSpot's `eventId`, as messages tell it.
    pub fn id(&self) -> String {
        self.event_id.to_string()
    }
}

/// The calls it was asked.
#[derive(Clone, Copy)]
pub struct Calls {
    pub made: u64,
    /// Those answered 429.
    pub refused: u64,
}

impl HubSpot {
    /// Starts one whose single portal has `contacts`.
    pub async fn start(contacts: usize, manners: Manners) -> Self {
        Self::start_portals(1, contacts, manners).await
    }

    /// Starts one with so many portals, of which each has `contacts`.
    pub async fn start_portals(portals: u64, contacts: usize, manners: Manners) -> Self {
        let portals = portal_ids(portals);
        let address = free_address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_crm-relay"));
        command
            .args(["simulate", "--listen", &address.to_string()])
            .args(["--contacts", &contacts.to_string()])
            .args(["--latency", &format!("{}ms", manners.latency.as_millis())]);
        for portal in portals.clone() {
            command.args(["--portal", &portal.to_string()]);
            command.args(["--token", &access_token(portal)]);
        }
        if let Some(calls) = manners.calls_per_10s {
            command.args(["--limit", &calls.to_string()]);
        }
        let process = Process::start(&mut command);
        wait_for_listener(address);
        // No connection is kept: the simulator may close one that was idle just when it is used again.
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build();
        let hubspot = Self {
            process,
            base_url: format!("http://{address}"),
            portals,
            client: client.expect("a client"),
        };
        if manners.calls_per_10s.is_none() {
            let limits = [
                "burst",
                "daily",
                "associations",
                "associations_daily",
                "search",
            ];
            let limits = limits.map(|limit| (limit.to_owned(), json!(UNLIMITED)));
            let limits = Value::Object(limits.into_iter().collect());
            for portal in hubspot.portals.clone() {
                let path = format!("portals/{portal}/limits");
                hubspot.put(&path, &limits).await;
            }
        }
        hubspot
    }

    /// The ids of its contacts.
    pub async fn contacts(&self) -> Vec<u64> {
        self.get(&format!("portals/{PORTAL}/contacts")).await
    }

    /// Sends notifications to `url` from now on.
    pub async fn notify(&self, url: &str) {
        let webhook = json!({"target_url": url, "signed_url": PUBLIC_URL, "client_secret": SECRET});
        self.put("webhook", &webhook).await;
    }

    /// Changes records at `rate` notifications a second.
    pub async fn set_traffic(&self, rate: f64) {
        self.put("traffic", &json!(rate)).await;
    }

    /// Waits until every notification is answered.
    pub async fn settled(&self) {
        let settled: bool = self.get("settled?timeout_ms=60000").await;
        assert!(settled, "notifications stay unanswered");
    }

    /// Has its first portal import so many contacts.
    pub async fn import(&self, contacts: usize) {
        self.import_into(PORTAL, contacts).await;
    }

    /// Has a portal import so many contacts.
    pub async fn import_into(&self, portal: u64, contacts: usize) {
        let path = format!("portals/{portal}/contacts/import");
        let answer = self.client.post(self.url(&path)).json(&contacts).send();
        let answer = answer.await.expect("an answer").error_for_status();
        answer.expect("the simulator does as told");
    }

    /// The notifications that were answered 2xx.
    pub async fn acknowledged(&self) -> Vec<Acknowledged> {
        #[derive(Deserialize)]
        struct Delivered {
            notification: Acknowledged,
        }
        let mut all = Vec::new();
        for portal in self.portals.clone() {
            let path = format!("portals/{portal}/acknowledged");
            let delivered: Vec<Delivered> = self.get(&path).await;
            all.extend(delivered.into_iter().map(|one| one.notification));
        }
        all
    }

    /// The calls so far.
    pub async fn calls(&self) -> Calls {
        let mut all = Calls {
            made: 0,
            refused: 0,
        };
        for portal in self.portals.clone() {
            let counters: Value = self.get(&format!("portals/{portal}/counters")).await;
            let calls = counters["calls"].as_object().expect("counters");
            all.made += calls.values().filter_map(Value::as_u64).sum::<u64>();
            all.refused += counters["rate_limited"].as_u64().expect("a counter");
        }
        all
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let answer = self
            .client
            .get(self.url(path))
            .send()
            .await
            .expect("an answer");
        let answer = answer
            .error_for_status()
            .expect("the simulator does as told");
        answer.json().await.expect("JSON")
    }

    async fn put(&self, path: &str, body: &Value) {
        let answer = self
            .client
            .put(self.url(path))
            .json(body)
            .send()
            .await
            .expect("an answer");
        answer
            .error_for_status()
            .expect("the simulator does as told");
    }

    fn url(&self, path: &str) -> String {
        format!("{}/simulator/{path}", self.base_url)
    }
}
