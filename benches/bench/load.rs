//! Signed requests, and two ways to send them over a few connections.
//!
//! *Closed loop*: each connection sends the next request when the last was answered. It finds the highest rate, and
//! says nothing about latency under a given load: a slow answer delays the requests behind it, and nobody counts that.
//!
//! *Open loop*: requests are due at fixed times whatever becomes of the ones before, and latency counts from the time
//! at which a request was due. So a stall is felt by every request that it holds up.
//!
//! Requests are signed before the clock starts and written as they are, so that the load costs little beside what it
//! measures. What it does cost is reported.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use crm_relay::event::Millis;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

pub const SECRET: &str = "a-client-secret-for-the-benchmark";
pub const PUBLIC_URL: &str = "https://relay.example.com/webhooks/hubspot";
pub const PORTAL: u64 = 8241;
/// HubSpot's own: it opens about as many to one app.
pub const CONNECTIONS: usize = 10;
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How old our changes are: older than the simulated records' last change, which nobody made for their sake. A record
/// that lags behind the change it was read for would, rightly, be read again.
const OCCURRED_AGO: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// The first of the ids of our events.
const FIRST_EVENT: u64 = 1_000_000_000;

/// Requests of one size, ready to be written to a socket.
pub struct Requests {
    bytes: Vec<Vec<u8>>,
    /// Notifications in each.
    pub size: usize,
}

/// What came of sending.
pub struct Answers {
    /// Notifications that were answered 204.
    pub notifications: usize,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// How long each answer took, in order of length.
    pub latencies: Vec<Duration>,
}

impl Answers {
    /// The latency that a share of the answers did not exceed, in ms.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let rank = (self.latencies.len() as f64 * share) as usize;
        let latency = self.latencies[rank.min(self.latencies.len() - 1)];
        latency.as_secs_f64() * 1_000.0
    }

    /// Notifications per second.
    pub fn rate(&self) -> f64 {
        self.notifications as f64 / self.elapsed.as_secs_f64()
    }
}

/// Signs `count` requests of `size` notifications each, all of different events, about `records` in turn.
pub fn sign(count: usize, size: usize, records: &[u64]) -> Requests {
    let request = |index: usize| {
        let first = index * size;
        let body = body(first, size, records);
        request(&body)
    };
    Requests {
        bytes: (0..count).map(request).collect(),
        size,
    }
}

/// The id of the `index`th event of [`sign`].
pub fn event_id(index: usize) -> u64 {
    FIRST_EVENT + index as u64
}

fn body(first: usize, size: usize, records: &[u64]) -> String {
    let occurred_at = Millis::now().as_i64() - OCCURRED_AGO.as_millis() as i64;
    let mut body = String::from("[");
    for index in first..first + size {
        let separator = if index == first { "" } else { "," };
        let (event, record) = (event_id(index), records[index % records.len()]);
        let _ = write!(
            body,
            "{separator}{{\"eventId\":{event},\"subscriptionId\":3900002,\"portalId\":{PORTAL},\"appId\":15000001,\
             \"occurredAt\":{occurred_at},\"subscriptionType\":\"object.propertyChange\",\"attemptNumber\":0,\
             \"objectId\":{record},\"objectTypeId\":\"0-1\",\"propertyName\":\"email\",\
             \"propertyValue\":\"ada@example.com\",\"changeSource\":\"CRM_UI\",\"sourceId\":\"userId:75500001\",\
             \"isSensitive\":false}}",
        );
    }
    body.push(']');
    body
}

/// A whole HTTP request with HubSpot's v3 signature.
fn request(body: &str) -> Vec<u8> {
    let timestamp = Millis::now().as_i64();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length is a key");
    mac.update(format!("POST{PUBLIC_URL}{body}{timestamp}").as_bytes());
    let signature = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    format!(
        "POST /webhooks/hubspot HTTP/1.1\r\nHost: relay.example.com\r\nContent-Type: application/json\r\n\
         X-HubSpot-Signature-v3: {signature}\r\nX-HubSpot-Request-Timestamp: {timestamp}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends for `duration` as fast as it is answered, the requests in turn.
pub fn closed(address: SocketAddr, requests: &Requests, duration: Duration) -> Answers {
    send(address, requests, |begun, _| {
        (begun.elapsed() < duration).then(Instant::now)
    })
}

/// Sends for `duration` at `rate` requests a second, the requests in turn.
pub fn open(address: SocketAddr, requests: &Requests, rate: f64, duration: Duration) -> Answers {
    send(address, requests, |begun, index| {
        let due = Duration::from_secs_f64(index as f64 / rate);
        (due < duration).then_some(begun + due)
    })
}

/// Sends each request once, as fast as it is answered.
pub fn once(address: SocketAddr, requests: &Requests) -> Answers {
    send(address, requests, |_, index| {
        (index < requests.bytes.len()).then(Instant::now)
    })
}

/// Sends until `due` says there is no request of that index; it is given the beginning and tells when one is due.
fn send(
    address: SocketAddr,
    requests: &Requests,
    due: impl Fn(Instant, usize) -> Option<Instant> + Sync,
) -> Answers {
    let next = AtomicUsize::new(0);
    let streams: Vec<_> = (0..CONNECTIONS).map(|_| connect(address)).collect();
    let begun = Instant::now();
    let connection = |mut stream: TcpStream| {
        let mut latencies = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(due) = due(begun, index) else {
                return latencies;
            };
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            exchange(&mut stream, &requests.bytes[index % requests.bytes.len()]);
            latencies.push(due.elapsed());
        }
    };
    let mut latencies = std::thread::scope(|scope| {
        let threads: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(|| connection(stream)))
            .collect();
        let answered = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a connection"));
        answered.collect::<Vec<_>>()
    });
    let elapsed = begun.elapsed();
    latencies.sort_unstable();
    Answers {
        notifications: latencies.len() * requests.size,
        elapsed,
        latencies,
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(ANSWER_MAX)).expect("a socket");
    stream
}

/// Writes a request and reads its answer, which must be 204.
fn exchange(stream: &mut TcpStream, request: &[u8]) {
    const NO_CONTENT: &[u8] = b"HTTP/1.1 204";
    stream.write_all(request).expect("an open connection");
    let (mut answer, mut length) = ([0; 1_024], 0);
    while !answer[..length].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut answer[length..]).expect("an answer");
        assert!(read > 0, "the receiver hung up");
        length += read;
    }
    assert!(
        answer.starts_with(NO_CONTENT),
        "not 204 but {}",
        String::from_utf8_lossy(&answer[..length])
    );
}
