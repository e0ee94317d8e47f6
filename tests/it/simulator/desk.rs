//! A simulator with a client for it, and a target that takes what it posts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crm_relay::simulator::{Control, Simulator, SimulatorOptions, WebhookOptions};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const PORTAL: u64 = 8241;
pub(crate) const SECRET: &str = "the-client-secret";
pub(crate) const SETTLED: Duration = Duration::from_secs(20);

/// A simulator with a client that has its token.
pub(crate) struct Desk {
    pub(crate) simulator: Simulator,
    pub(crate) control: Control,
    pub(crate) client: reqwest::Client,
}

impl Desk {
    pub(crate) async fn start() -> Self {
        Self::with(SimulatorOptions::default()).await
    }

    pub(crate) async fn with(options: SimulatorOptions) -> Self {
        let simulator = Simulator::start(options).await.unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        Self {
            control: simulator.control(),
            simulator,
            client,
        }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> reqwest::Result<Response> {
        let request = self
            .client
            .request(method, format!("{}{path}", self.simulator.base_url()));
        let request = request.bearer_auth("pat-na1-simulator-8241");
        match body {
            Some(body) => request.json(&body).send().await,
            None => request.send().await,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        read(self.send(Method::GET, path, None).await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        read(self.send(Method::POST, path, Some(body)).await.unwrap()).await
    }

    pub(crate) fn ids(&self, object_type: &str) -> Vec<u64> {
        self.control.ids(PORTAL, object_type).unwrap()
    }
}

pub(crate) async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// One request that a target got.
#[derive(Clone)]
pub(crate) struct Posted {
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Posted {
    pub(crate) fn notifications(&self) -> Vec<Value> {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A target for webhooks that answers with the statuses it was given, then with 204.
pub(crate) struct Target {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Target {
    pub(crate) async fn start(statuses: Vec<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let posted = Arc::new(Mutex::new(Vec::new()));
        let statuses = Arc::new(Mutex::new(statuses.into_iter()));
        let all = Arc::clone(&posted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, Arc::clone(&all), Arc::clone(&statuses)));
            }
        });
        Self { address, posted }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hubspot/webhook?tenant=a%3Ab", self.address)
    }

    pub(crate) fn webhook(&self) -> WebhookOptions {
        let fast = Duration::from_millis(5);
        WebhookOptions {
            retry_delay_min: fast,
            retry_delay_max: 4 * fast,
            ..WebhookOptions::new(self.url(), SECRET)
        }
    }

    pub(crate) fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap().clone()
    }

    pub(crate) fn notifications(&self) -> Vec<Value> {
        self.posted()
            .iter()
            .flat_map(Posted::notifications)
            .collect()
    }
}

/// Reads one request after another and closes at the first that is not whole.
async fn take(
    mut stream: TcpStream,
    posted: Arc<Mutex<Vec<Posted>>>,
    statuses: Arc<Mutex<std::vec::IntoIter<u16>>>,
) {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let pairs = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        let headers: BTreeMap<String, String> = pairs
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers["content-length"].parse().unwrap();
        while bytes.len() < end + length {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body = bytes[end..end + length].to_vec();
        bytes.drain(..end + length);
        posted.lock().unwrap().push(Posted { headers, body });
        let status = statuses.lock().unwrap().next().unwrap_or(204);
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

pub(crate) fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

pub(crate) fn strings(ids: &[u64]) -> Vec<Value> {
    ids.iter().map(|id| json!({"id": id.to_string()})).collect()
}
