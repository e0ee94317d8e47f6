//! HubSpot gets a 2xx only when every event of its request is durable, and nobody else gets one.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use bytesize::ByteSize;
use crm_relay::bus::{
    Bus, BusUnavailable, Claim, Consumer, Outgoing, PublishError, Queue, StoredNote, Target,
    partition_of,
};
use crm_relay::config::{AppConfig, Config, OneOrMany, Secret, SignatureVersion};
use crm_relay::event::{Batch, DeadLetter, Millis, RawContent};
use crm_relay::metrics::Metrics;
use crm_relay::receiver::Receiver;
use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::StatusCode;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::helpers::metric;

const PUBLIC_URL: &str = "https://relay.example.com/hubspot/webhook";
const PATH: &str = "/hubspot/webhook";
const SECRET: &str = "crm-relay-test-secret";
const BODY_SIZE_MAX: u64 = 10_000;
const CREATION: &str = r#"{"eventId":1,"portalId":8241,"occurredAt":1751360059094,"subscriptionType":"contact.creation","attemptNumber":0,"objectId":512}"#;
/// Headers of a signature that might be good, by which a request gets its body read.
const CLAIM: &str = "X-HubSpot-Signature-v3: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\nX-HubSpot-Request-Timestamp: 1\r\n";
/// Long enough for anything on loopback.
const PATIENCE: Duration = Duration::from_secs(20);

/// A bus in memory: it records what it is given, and answers as told.
pub struct MemoryBus {
    published: Mutex<Vec<Outgoing>>,
    /// The verdict of every message after the first `n`.
    refusal: Mutex<Option<(usize, PublishError)>>,
    /// A publish takes one permit; none left: it waits.
    permits: Semaphore,
    waiting: watch::Sender<usize>,
    done: watch::Sender<usize>,
    connected: watch::Sender<bool>,
}

impl MemoryBus {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            published: Mutex::default(),
            refusal: Mutex::default(),
            permits: Semaphore::new(1_000),
            waiting: watch::Sender::new(0),
            done: watch::Sender::new(0),
            connected: watch::Sender::new(true),
        })
    }

    /// From now on a publish waits for [`Self::give_permits`].
    pub fn take_permits(&self) {
        self.permits.forget_permits(1_000);
    }

    /// Lets so many publishes at most end that wait now.
    pub fn give_permits(&self, count: usize) {
        self.permits
            .forget_permits(self.permits.available_permits());
        self.permits.add_permits(count);
    }

    fn published(&self) -> Vec<Outgoing> {
        self.published.lock().unwrap().clone()
    }
}

impl Bus for MemoryBus {
    fn partitions(&self) -> u16 {
        16
    }

    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<(), PublishError>>> {
        Box::pin(async move {
            self.waiting.send_modify(|waiting| *waiting += 1);
            self.permits.acquire().await.unwrap().forget();
            let refusal = *self.refusal.lock().unwrap();
            let verdict = |index| match refusal {
                Some((good, error)) if index >= good => Err(error),
                _ => Ok(()),
            };
            let verdicts = (0..messages.len()).map(verdict).collect();
            self.published.lock().unwrap().extend(messages);
            self.done.send_modify(|done| *done += 1);
            verdicts
        })
    }

    fn consume(&self, _: Queue, prefetch: u16) -> Consumer {
        Consumer::spawn(prefetch, |_| tokio::spawn(async {}))
    }

    fn join(&self) -> watch::Receiver<BTreeSet<u16>> {
        watch::Sender::new((0..16).collect()).subscribe()
    }

    fn leave(&self) {}

    fn read_changelog(
        &self,
        _: u16,
        _: Option<u64>,
        _: mpsc::Sender<StoredNote>,
    ) -> BoxFuture<'_, Result<(), BusUnavailable>> {
        unreachable!("nobody reads it here")
    }

    fn depth(&self, _: Queue) -> BoxFuture<'_, Result<u64, BusUnavailable>> {
        Box::pin(async { Ok(0) })
    }

    fn claim_dead_letters(&self) -> BoxFuture<'_, Result<Option<Claim>, BusUnavailable>> {
        unreachable!("nobody takes dead letters here")
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

struct Relay {
    receiver: Receiver,
    bus: Arc<MemoryBus>,
    metrics: Arc<Metrics>,
    sender: Sender,
}

/// A receiver on a port of its own, with two apps.
pub fn receiver_config(requests_max: usize) -> Config {
    let mut config = Config::default();
    config.receiver.listen = ([127, 0, 0, 1], 0).into();
    config.receiver.public_url = OneOrMany::One(PUBLIC_URL.to_owned());
    config.receiver.body_size_max = ByteSize::b(BODY_SIZE_MAX);
    config.receiver.requests_max = requests_max;
    let app = |secret: &str, signatures: &[SignatureVersion]| AppConfig {
        client_id: None,
        client_secrets: vec![Secret::new("retired"), Secret::new(secret)],
        signatures: signatures.to_vec(),
    };
    let v3 = [SignatureVersion::V3];
    config.app.insert("crm".to_owned(), app(SECRET, &v3));
    config.app.insert("other".to_owned(), app("other", &v3));
    config
}

fn relay_of(config: &Config) -> Relay {
    let bus = MemoryBus::new();
    let metrics = Arc::new(Metrics::new());
    let receiver = Receiver::start(config, bus.clone(), metrics.clone()).unwrap();
    Relay {
        sender: Sender::new(receiver.addr()),
        receiver,
        bus,
        metrics,
    }
}

fn relay() -> Relay {
    relay_of(&receiver_config(256))
}

fn sign(secret: &str, body: &[u8], timestamp: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("POST{PUBLIC_URL}").as_bytes());
    mac.update(body);
    mac.update(timestamp.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}

/// Who posts signed bodies to a receiver of [`receiver_config`].
pub struct Sender {
    client: reqwest::Client,
    url: String,
}

impl Sender {
    pub fn new(at: std::net::SocketAddr) -> Self {
        // Already installed when another test came first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        Self {
            client: client.build().unwrap(),
            url: format!("http://{at}{PATH}"),
        }
    }

    fn signed(&self, secret: &str, body: impl Into<Vec<u8>>) -> reqwest::RequestBuilder {
        let body = body.into();
        let timestamp = Millis::now().as_i64().to_string();
        self.client
            .post(&self.url)
            .header("X-HubSpot-Signature-v3", sign(secret, &body, &timestamp))
            .header("X-HubSpot-Request-Timestamp", timestamp)
            .body(body)
    }

    pub async fn post(&self, body: impl Into<Vec<u8>>) -> StatusCode {
        self.signed(SECRET, body).send().await.unwrap().status()
    }
}

impl Relay {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.receiver.addr())
    }

    fn signed(&self, secret: &str, body: impl Into<Vec<u8>>) -> reqwest::RequestBuilder {
        self.sender.signed(secret, body)
    }

    async fn post(&self, body: impl Into<Vec<u8>>) -> StatusCode {
        self.sender.post(body).await
    }

    /// The value of the series that begins with `series`, 0 when it is not there.
    fn metric(&self, series: &str) -> u64 {
        metric(&self.metrics.encode(), series).map_or(0, |value| value as u64)
    }

    fn requests(&self, outcome: &str) -> u64 {
        self.metric(&format!(
            "crm_relay_ingress_requests_total{{outcome=\"{outcome}\"}}"
        ))
    }

    fn failures(&self, reason: &str) -> u64 {
        self.metric(&format!(
            "crm_relay_ingress_signature_failures_total{{reason=\"{reason}\"}}"
        ))
    }
}

fn letter(outgoing: &Outgoing) -> DeadLetter {
    serde_json::from_slice(&outgoing.message.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_array_is_answered_204_once_its_events_are_published() {
    let relay = relay();
    let other = CREATION.replace("8241", "\"62515\"");
    let body = format!("[{CREATION},{other},{}]", CREATION.replace("512", "513"));
    assert_eq!(relay.post(body).await, StatusCode::NO_CONTENT);
    let published = relay.bus.published();
    assert_eq!(published.len(), 2);
    for (outgoing, portal, events) in [(&published[0], "8241", 2), (&published[1], "62515", 1)] {
        let batch = Batch::decode(&outgoing.message.body).unwrap();
        assert_eq!(
            (batch.portal_id().as_str(), batch.events().len()),
            (portal, events)
        );
        let partition = partition_of(&portal.into(), 16);
        assert_eq!(outgoing.target, Target::Partition(partition));
    }
    assert_eq!(relay.requests("accepted"), 1);
    assert_eq!(relay.metric("crm_relay_ingress_notifications_total"), 3);
    assert_eq!(
        relay.metric("crm_relay_normalize_events_total{kind=\"created\"}"),
        3
    );
    assert_eq!(
        relay.metric("crm_relay_ingress_request_duration_seconds_count"),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_array_is_answered_204_and_publishes_nothing() {
    let relay = relay();
    assert_eq!(relay.post("[]").await, StatusCode::NO_CONTENT);
    assert!(relay.bus.published().is_empty());
    assert_eq!(relay.requests("accepted"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_app_and_every_active_secret_is_taken() {
    let relay = relay();
    for secret in [SECRET, "other", "retired"] {
        let response = relay.signed(secret, format!("[{CREATION}]")).send().await;
        assert_eq!(response.unwrap().status(), StatusCode::NO_CONTENT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wrong_old_or_future_signature_is_answered_401_and_publishes_nothing() {
    let relay = relay();
    let body = format!("[{CREATION}]");
    let v1 = hex::encode(Sha256::digest(format!("{SECRET}{body}")));
    let now = Millis::now().as_i64();
    let v3 = |secret: &str, timestamp: i64| {
        let timestamp = timestamp.to_string();
        let signature = sign(secret, body.as_bytes(), &timestamp);
        relay
            .sender
            .client
            .post(relay.url(PATH))
            .body(body.clone())
            .header("X-HubSpot-Signature-v3", signature)
            .header("X-HubSpot-Request-Timestamp", timestamp)
    };
    let bare = || relay.sender.client.post(relay.url(PATH)).body(body.clone());
    let minutes = 60_000;
    for (request, reason) in [
        (bare(), "missing"),
        (bare().header("X-HubSpot-Signature", &v1), "not_enabled"),
        (v3("stranger", now), "mismatch"),
        (
            v3("stranger2", now).header("X-HubSpot-Signature", &v1),
            "mismatch",
        ),
        (v3(SECRET, now - 6 * minutes), "stale"),
        (v3(SECRET, now + 6 * minutes), "from_the_future"),
        (
            v3(SECRET, now).header("X-HubSpot-Request-Timestamp", "1"),
            "duplicated",
        ),
        (
            bare()
                .header("X-HubSpot-Signature-v3", "?")
                .header("X-HubSpot-Request-Timestamp", "1"),
            "malformed",
        ),
    ] {
        let before = relay.failures(reason);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{reason}");
        assert_eq!(response.text().await.unwrap(), "", "{reason}");
        assert_eq!(relay.failures(reason), before + 1, "{reason}");
    }
    assert_eq!(relay.requests("unauthorized"), 8);
    assert!(relay.bus.published().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn host_and_forwarded_headers_are_not_trusted() {
    let relay = relay();
    let request = relay
        .signed(SECRET, format!("[{CREATION}]"))
        .header("Host", "evil.example")
        .header("X-Forwarded-Host", "evil.example")
        .header("X-Forwarded-Proto", "gopher");
    assert_eq!(
        request.send().await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_body_that_is_no_array_is_answered_204_and_kept_as_a_dead_letter() {
    let relay = relay();
    for body in [&b"{\"callbackId\":\"ap-1\"}"[..], b"\xff\xfe", b""] {
        assert_eq!(relay.post(body).await, StatusCode::NO_CONTENT);
        let published = relay.bus.published();
        let last = published.last().unwrap();
        assert_eq!(
            last.target,
            Target::DeadLetters("ingress.not_an_array".into())
        );
        let kept = match letter(last).raw.unwrap() {
            RawContent::Text(text) => text.into_bytes(),
            RawContent::Base64(text) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .unwrap(),
        };
        assert_eq!(kept, body);
    }
    assert_eq!(relay.requests("not_an_array"), 3);
    assert_eq!(
        relay.metric("crm_relay_dead_letters_total{reason=\"not_an_array\",stage=\"ingress\"}"),
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_element_becomes_a_dead_letter_beside_the_others_batch() {
    let relay = relay();
    let body = format!("[{{\"portalId\":1}},{CREATION},7]");
    assert_eq!(relay.post(body).await, StatusCode::NO_CONTENT);
    let published = relay.bus.published();
    let targets: Vec<_> = published.iter().map(|o| o.target.clone()).collect();
    let dead = Target::DeadLetters("normalize.unreadable".into());
    let partition = Target::Partition(partition_of(&"8241".into(), 16));
    assert_eq!(targets, [dead.clone(), dead, partition]);
    assert_eq!(
        letter(&published[1]).raw,
        Some(RawContent::Text("7".into()))
    );
    assert_eq!(relay.metric("crm_relay_normalize_failures_total"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_answered_413() {
    let relay = relay();
    let limit = usize::try_from(BODY_SIZE_MAX).unwrap();
    assert_eq!(
        relay.post(vec![b' '; limit + 1]).await,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(relay.post(vec![b' '; limit]).await, StatusCode::NO_CONTENT);
    assert_eq!(relay.requests("too_large"), 1);
    // Announced, or found out while it comes.
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: x\r\n{CLAIM}");
    let announced = format!("{head}Content-Length: 999999\r\n\r\n");
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", limit + 1, "x".repeat(limit + 1));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}");
    for request in [announced, chunked] {
        let answer = exchange(&relay, request).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    assert_eq!(relay.requests("too_large"), 3);
}

/// Sends bytes and returns the first of what comes back.
async fn exchange(relay: &Relay, request: String) -> String {
    let addr = relay.receiver.addr();
    let exchange = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 1_024];
        let read = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    });
    exchange.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_does_not_confirm_every_message_is_answered_503_with_retry_after() {
    let relay = relay();
    let body = format!("[{CREATION},{}]", CREATION.replace("8241", "62515"));
    for (good, error) in [
        (0, PublishError::Unavailable),
        (1, PublishError::Unknown),
        (1, PublishError::Rejected),
        (0, PublishError::Unroutable),
    ] {
        *relay.bus.refusal.lock().unwrap() = Some((good, error));
        let response = relay.signed(SECRET, body.clone()).send().await.unwrap();
        assert_eq!(
            response.status(),
            StatusCode::SERVICE_UNAVAILABLE,
            "{error}"
        );
        let retry_after = response.headers()["retry-after"].to_str().unwrap();
        assert!(retry_after.parse::<u32>().unwrap() > 0);
    }
    assert_eq!(relay.requests("unavailable"), 4);
    assert_eq!(relay.metric("crm_relay_ingress_notifications_total"), 0);
    let refused = relay.bus.published().len();
    *relay.bus.refusal.lock().unwrap() = None;
    assert_eq!(relay.post(body).await, StatusCode::NO_CONTENT);
    let published = relay.bus.published();
    // The repeat carries the same ids as the attempt that failed.
    assert_eq!(published[0].message.id, published[refused].message.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_dead_letter_is_answered_503() {
    let relay = relay();
    *relay.bus.refusal.lock().unwrap() = Some((0, PublishError::Unavailable));
    assert_eq!(relay.post("{}").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(relay.requests("unavailable"), 1);
    let text = relay.metrics.encode();
    let mut dead_letters = text
        .lines()
        .filter(|line| line.starts_with("crm_relay_dead_letters_total{"));
    assert!(dead_letters.all(|line| line.ends_with(" 0")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limit_are_shed_with_503_and_the_first_one_still_ends_well() {
    let relay = relay_of(&receiver_config(1));
    relay.bus.take_permits();
    let body = format!("[{CREATION}]");
    let first = tokio::spawn(relay.signed(SECRET, body.clone()).send());
    let mut waiting = relay.bus.waiting.subscribe();
    let begun = tokio::time::timeout(PATIENCE, waiting.wait_for(|&n| n == 1)).await;
    begun.unwrap().unwrap();
    let second = relay.signed(SECRET, body).send().await.unwrap();
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(second.headers().contains_key("retry-after"));
    assert_eq!(relay.requests("overloaded"), 1);
    relay.bus.permits.add_permits(1);
    assert_eq!(
        first.await.unwrap().unwrap().status(),
        StatusCode::NO_CONTENT
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_has_begun_ends_although_hubspot_hangs_up() {
    let relay = relay();
    relay.bus.take_permits();
    let timestamp = Millis::now().as_i64().to_string();
    let body = format!("[{CREATION}]");
    let signature = sign(SECRET, body.as_bytes(), &timestamp);
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nX-HubSpot-Signature-v3: {signature}\r\n\
         X-HubSpot-Request-Timestamp: {timestamp}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = std::net::TcpStream::connect(relay.receiver.addr()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut waiting = relay.bus.waiting.subscribe();
    let begun = tokio::time::timeout(PATIENCE, waiting.wait_for(|&n| n == 1)).await;
    begun.unwrap().unwrap();
    drop(stream);
    // The forced stop drops whatever the server still holds of the request.
    relay.receiver.stop(Duration::from_millis(50)).await;
    relay.bus.permits.add_permits(1);
    let mut done = relay.bus.done.subscribe();
    let ended = tokio::time::timeout(PATIENCE, done.wait_for(|&n| n == 1)).await;
    ended.unwrap().unwrap();
    assert_eq!(relay.bus.published().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_paths_are_404_and_other_methods_405() {
    let relay = relay();
    for path in [
        "/",
        "/hubspot",
        "/hubspot/webhook/",
        "/hubspot%2Fwebhook",
        "/metrics",
    ] {
        let response = relay
            .sender
            .client
            .post(relay.url(path))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
    }
    for method in [
        reqwest::Method::GET,
        reqwest::Method::HEAD,
        reqwest::Method::PUT,
    ] {
        let response = relay
            .sender
            .client
            .request(method, relay.url(PATH))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "POST");
    }
    assert_eq!(relay.requests("unknown_path"), 0, "strangers' do not count");
    assert!(relay.bus.published().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bears_a_signature_and_comes_to_another_path_is_404_and_counted() {
    let relay = relay();
    let mut request = relay
        .signed(SECRET, format!("[{CREATION}]"))
        .build()
        .unwrap();
    request.url_mut().set_path("/hubspot");
    let response = relay.sender.client.execute(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(relay.requests("unknown_path"), 1);
    assert!(relay.bus.published().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_answers_what_is_in_flight_and_takes_nothing_new() {
    let relay = relay();
    relay.bus.take_permits();
    let first = tokio::spawn(relay.signed(SECRET, format!("[{CREATION}]")).send());
    let mut waiting = relay.bus.waiting.subscribe();
    let begun = tokio::time::timeout(PATIENCE, waiting.wait_for(|&n| n == 1)).await;
    begun.unwrap().unwrap();
    let addr = relay.receiver.addr();
    let stop = tokio::spawn(relay.receiver.stop(PATIENCE));
    relay.bus.permits.add_permits(1);
    assert_eq!(
        first.await.unwrap().unwrap().status(),
        StatusCode::NO_CONTENT
    );
    tokio::time::timeout(PATIENCE, stop).await.unwrap().unwrap();
    assert!(std::net::TcpStream::connect(addr).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_gives_up_on_a_stuck_request_after_the_grace() {
    let relay = relay();
    relay.bus.take_permits();
    let first = tokio::spawn(relay.signed(SECRET, format!("[{CREATION}]")).send());
    let mut waiting = relay.bus.waiting.subscribe();
    let begun = tokio::time::timeout(PATIENCE, waiting.wait_for(|&n| n == 1)).await;
    begun.unwrap().unwrap();
    let stop = relay.receiver.stop(Duration::from_millis(50));
    tokio::time::timeout(PATIENCE, stop).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, first).await.unwrap();
    assert!(
        answer.unwrap().is_err(),
        "nothing was confirmed, so nothing may be answered 2xx"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_could_verify_nothing_does_not_start() {
    let start = |change: fn(&mut Config)| {
        let mut config = receiver_config(1);
        change(&mut config);
        let started = Receiver::start(&config, MemoryBus::new(), Arc::new(Metrics::new()));
        started.unwrap_err().to_string()
    };
    assert!(start(|c| c.app.clear()).contains("[app.<name>]"));
    assert!(
        start(|c| c.receiver.public_url = OneOrMany::Many(vec![])).contains("receiver.public_url")
    );
    let no_secret = start(|c| c.app.get_mut("crm").unwrap().client_secrets.clear());
    assert!(no_secret.contains("app.crm.client_secrets"), "{no_secret}");
}
