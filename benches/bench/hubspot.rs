//! The simulated HubSpot, in a process of its own so that its processor time is told apart.

use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::contender::access_token;
use crate::load::{PORTAL, PUBLIC_URL, SECRET};
use crate::process::{Process, free_address, wait_for_listener};

/// As many calls as anybody could make.
const UNLIMITED: u32 = 1_000_000_000;

/// A running simulator with one portal.
pub struct HubSpot {
    pub process: Process,
    pub base_url: String,
    client: reqwest::Client,
}

/// How it answers.
#[derive(Clone, Copy)]
pub struct Manners {
    pub latency: Duration,
    /// Calls that are allowed in ten seconds; `None`: all of them.
    pub calls_per_10s: Option<u32>,
}

/// The calls it was asked.
#[derive(Clone, Copy)]
pub struct Calls {
    pub made: u64,
    /// Those answered 429.
    pub refused: u64,
}

impl HubSpot {
    /// Starts one whose portal has `contacts`.
    pub async fn start(contacts: usize, manners: Manners) -> Self {
        let address = free_address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_crm-relay"));
        command
            .args(["simulate", "--listen", &address.to_string()])
            .args(["--portal", &PORTAL.to_string(), "--token", &access_token()])
            .args(["--contacts", &contacts.to_string()])
            .args(["--latency", &format!("{}ms", manners.latency.as_millis())]);
        if let Some(calls) = manners.calls_per_10s {
            command.args(["--limit", &calls.to_string()]);
        }
        let process = Process::start(&mut command);
        wait_for_listener(address);
        let client = reqwest::Client::builder().no_proxy().build();
        let hubspot = Self {
            process,
            base_url: format!("http://{address}"),
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
            hubspot
                .put(&format!("portals/{PORTAL}/limits"), &limits)
                .await;
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

    /// The `eventId` and `occurredAt` of the notifications that were answered 2xx.
    pub async fn acknowledged(&self) -> Vec<(String, i64)> {
        #[derive(Deserialize)]
        struct Acknowledged {
            notification: Notification,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Notification {
            event_id: u64,
            occurred_at: i64,
        }
        let all: Vec<Acknowledged> = self.get(&format!("portals/{PORTAL}/acknowledged")).await;
        let told = all.into_iter().map(|one| one.notification);
        told.map(|told| (told.event_id.to_string(), told.occurred_at))
            .collect()
    }

    /// The calls so far.
    pub async fn calls(&self) -> Calls {
        let counters: Value = self.get(&format!("portals/{PORTAL}/counters")).await;
        let calls = counters["calls"].as_object().expect("counters");
        Calls {
            made: calls.values().filter_map(Value::as_u64).sum(),
            refused: counters["rate_limited"].as_u64().expect("a counter"),
        }
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
