//! Who sends too much, too slowly or what is no request at all is answered or let go within seconds, fills neither memory
//! nor log, and honest requests go on meanwhile. Beyond what can be worked on requests are shed early and evenly, and
//! that ends with the load.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crm_relay::metrics::Metrics;
use crm_relay::receiver::{BODY_DEADLINE, CONNECTIONS_MAX, HEAD_DEADLINE, Receiver};
use crm_relay::simulator::{PortalOptions, Simulator, SimulatorOptions};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::helpers::relay::{self, RelayProcess, signed};
use crate::ingress::{MemoryBus, Sender, receiver_config};

/// What a deadline may be late by, on a machine that is busy.
const SLACK: Duration = Duration::from_secs(5);
/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// What honest requests may take while others misbehave, at worst.
const HONEST_MAX: Duration = Duration::from_secs(5);
/// Headers of a signature that might be good, by which a request gets its body read.
const CLAIM: &str = "X-HubSpot-Signature-v3: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\nX-HubSpot-Request-Timestamp: 1\r\n";
/// What memory may grow by in all of this, beyond 150 kB for each connection there may be: bodies, and what the
/// allocator keeps.
const MEMORY_SLACK: u64 = 64 << 20;

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With an answer of this status; the server closed.
    Answered(u16),
    /// Without one.
    Closed,
}

fn head(claim: &str, more: &str) -> String {
    format!("POST /webhooks/hubspot HTTP/1.1\r\nHost: x\r\n{claim}{more}\r\n")
}

/// Reads until the other side closes; the status of the first answer.
async fn end_of(mut stream: TcpStream) -> End {
    let mut answer = Vec::new();
    let mut buffer = [0; 4_096];
    // A reset is an end as well.
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        answer.extend_from_slice(&buffer[..read]);
    }
    let text = String::from_utf8_lossy(&answer);
    match text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
    {
        Some(status) => End::Answered(status.parse().unwrap()),
        None => End::Closed,
    }
}

/// Writes `start`, then `again` every `pause` for as long as the other side takes it, and waits for the end.
async fn drip(at: SocketAddr, start: Vec<u8>, again: &'static [u8], pause: Duration) -> End {
    let stream = TcpStream::connect(at).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let writing = tokio::spawn(async move {
        let mut part = start.as_slice();
        while write.write_all(part).await.is_ok() {
            part = again;
            tokio::time::sleep(pause).await;
        }
    });
    let mut answer = Vec::new();
    let _ = read.read_to_end(&mut answer).await;
    writing.abort();
    let text = String::from_utf8_lossy(&answer);
    match text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
    {
        Some(status) => End::Answered(status.parse().unwrap()),
        None => End::Closed,
    }
}

/// For what is written by tasks again and again.
fn leaked(text: String) -> &'static [u8] {
    text.leak().as_bytes()
}

/// Writes all of it, whether or not the other side takes it, and waits for the end.
async fn send(at: SocketAddr, request: impl Into<Vec<u8>>) -> End {
    drip(at, request.into(), b"", PATIENCE).await
}

/// A signed request with `body`, which asks for the connection to be closed.
fn signed_request(body: &[u8], more: &str) -> Vec<u8> {
    let (signature, timestamp) = signed(body);
    let headers = format!(
        "X-HubSpot-Signature-v3: {signature}\r\nX-HubSpot-Request-Timestamp: {timestamp}\r\nContent-Length: {}\r\nConnection: close\r\n{more}",
        body.len()
    );
    [head("", &headers).as_bytes(), body].concat()
}

/// A quarter of a gigabyte of nothing, compressed.
fn zip_bomb() -> Vec<u8> {
    let mut gzip = Command::new("gzip")
        .args(["-9", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = gzip.stdin.take().unwrap();
    let writing = std::thread::spawn(move || {
        let zeros = vec![0; 1 << 20];
        for _ in 0..256 {
            input.write_all(&zeros).unwrap();
        }
    });
    let output = gzip.wait_with_output().unwrap();
    writing.join().unwrap();
    output.stdout
}

async fn start() -> (Simulator, RelayProcess) {
    // Already installed when another test came first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let portals = vec![PortalOptions::new(8241)];
    let options = SimulatorOptions {
        portals: portals.clone(),
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    let relay = RelayProcess::start(&simulator, &portals, &relay::Bus::Embedded, "").await;
    (simulator, relay)
}

fn notification(number: u64) -> serde_json::Value {
    serde_json::json!({
        "eventId": number, "subscriptionId": 1, "portalId": 8241, "appId": 1, "occurredAt": 1_751_360_059_094_u64,
        "subscriptionType": "contact.deletion", "attemptNumber": 0, "objectId": number,
    })
}

/// Posts honest notifications one after the other until `done`; the longest that one took.
async fn honest(relay: &RelayProcess, done: &AtomicBool) -> (u64, Duration) {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        count += 1;
        let began = Instant::now();
        relay.post(&[notification(count)]).await;
        longest = longest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (count, longest)
}

/// Lines of the log that an operator is to see.
fn warnings(relay: &RelayProcess) -> Vec<String> {
    let log = relay.log();
    let lines = log.lines();
    let bad = lines.filter(|line| line.contains("WARN") || line.contains("ERROR"));
    bad.map(str::to_owned).collect()
}

/// Runs `attack` beside honest requests, which all succeed in time, and with no more log than allowed; memory is looked at when all are over.
async fn withstands<T>(
    what: &str,
    relay: &RelayProcess,
    lines_max: usize,
    attack: impl Future<Output = T>,
) -> T {
    let (before, lines) = (relay.memory_max(), warnings(relay).len());
    let began = Instant::now();
    let done = AtomicBool::new(false);
    let attacked = async {
        let attacked = tokio::time::timeout(PATIENCE, attack).await;
        done.store(true, Ordering::Relaxed);
        attacked.unwrap_or_else(|_| panic!("{what}: it has no end"))
    };
    let (result, (count, longest)) = tokio::join!(attacked, honest(relay, &done));
    let grown = relay.memory_max() - before;
    let told: Vec<_> = warnings(relay).split_off(lines);
    eprintln!(
        "{what}: {:?}; {count} honest requests, the longest {longest:?}; memory {} MB more; {} lines",
        began.elapsed(),
        grown >> 20,
        told.len()
    );
    assert!(longest < HONEST_MAX, "{what}: {longest:?}");
    assert!(told.len() <= lines_max, "{what}: {told:#?}");
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_is_let_go_in_time_and_others_are_answered_meanwhile() {
    let (simulator, relay) = start().await;
    let at = relay.receiver();
    let second = Duration::from_secs(1);

    let slow_heads = (0..100).map(|_| drip(at, b"POST /web".to_vec(), b"x", second));
    let heads = async {
        let began = Instant::now();
        let ends = join_all(slow_heads).await;
        (ends, began.elapsed())
    };
    let (ends, took) = withstands("slow heads", &relay, 0, heads).await;
    assert!(took < HEAD_DEADLINE + SLACK, "{took:?}");
    for end in ends {
        assert!(matches!(end, End::Answered(408) | End::Closed), "{end:?}");
    }

    let slow_body = head(CLAIM, "Content-Length: 1000\r\n").into_bytes();
    let slow_bodies = (0..100).map(|_| drip(at, slow_body.clone(), b"x", second));
    let bodies = async {
        let began = Instant::now();
        let ends = join_all(slow_bodies).await;
        (ends, began.elapsed())
    };
    let (ends, took) = withstands("slow bodies", &relay, 2, bodies).await;
    assert!(took < BODY_DEADLINE + SLACK, "{took:?}");
    assert!(
        ends.iter().all(|end| *end == End::Answered(408)),
        "{ends:?}"
    );

    // Connections that say nothing at all, more than are accepted: the rest waits, and is served when these are gone.
    let silent = async {
        let silent = (0..CONNECTIONS_MAX + 100).map(|_| TcpStream::connect(at));
        let silent: Vec<_> = join_all(silent)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let began = Instant::now();
        let honest = relay.post_body(b"[]".to_vec()).await;
        assert_eq!(honest, 204);
        let waited = began.elapsed();
        join_all(silent.into_iter().map(end_of)).await;
        waited
    };
    let began = Instant::now();
    let waited = tokio::time::timeout(PATIENCE, silent).await.unwrap();
    eprintln!(
        "silent connections: an honest request waited {waited:?}; all were let go after {:?}",
        began.elapsed()
    );
    assert!(waited < HEAD_DEADLINE + SLACK, "{waited:?}");
    assert!(relay.memory_max() < ALL_MEMORY, "{}", relay.memory_max());
    simulator.stop().await;
}

/// What a debug build has at start is some 40 MB.
const ALL_MEMORY: u64 = (100 << 20) + CONNECTIONS_MAX as u64 * 150_000 + MEMORY_SLACK;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_or_no_request_is_refused_and_costs_little() {
    let (simulator, relay) = start().await;
    let at = relay.receiver();

    let floods = async {
        let many = "X-A: a\r\n".repeat(200);
        let long = format!("X-A: {}\r\n", "a".repeat(1 << 20));
        let header = leaked("X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(64));
        let endless = head("", "").trim_end().to_owned() + "\r\n";
        let floods = (0..32).flat_map(|_| {
            let pause = Duration::from_millis(1);
            [
                drip(at, head("", &many).into_bytes(), b"", PATIENCE),
                drip(at, head("", &long).into_bytes(), b"", PATIENCE),
                drip(at, endless.clone().into_bytes(), header, pause),
            ]
        });
        for end in join_all(floods).await {
            assert!(
                matches!(end, End::Answered(400 | 431) | End::Closed),
                "{end:?}"
            );
        }
    };
    withstands("header floods", &relay, 2, floods).await;

    let huge = async {
        let chunk = leaked(format!("10000\r\n{}\r\n", "x".repeat(0x1_0000)));
        let pause = Duration::ZERO;
        let endless = |claim: &str| {
            let start = head(claim, "Transfer-Encoding: chunked\r\n").into_bytes();
            drip(at, start, chunk, pause)
        };
        let declared = head(CLAIM, "Content-Length: 1099511627776\r\n");
        assert_eq!(send(at, declared).await, End::Answered(413));
        let (claimed, unsigned) = tokio::join!(
            join_all((0..8).map(|_| endless(CLAIM))),
            join_all((0..8).map(|_| endless(""))),
        );
        // Where the rest of a body is on its way, the answer may be lost with it; the end is what counts.
        for end in claimed {
            assert!(matches!(end, End::Answered(413) | End::Closed), "{end:?}");
        }
        for end in unsigned {
            assert!(matches!(end, End::Answered(401) | End::Closed), "{end:?}");
        }
    };
    withstands("huge bodies", &relay, 2, huge).await;

    let lies = async {
        let smuggled = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
        for (request, expected) in [
            (
                head(CLAIM, "Content-Length: 1\r\nContent-Length: 2\r\n") + "xx",
                400,
            ),
            (head(CLAIM, "Content-Length: -1\r\n"), 400),
            (head(CLAIM, smuggled) + "0\r\n\r\n", 400),
            (
                head(CLAIM, "Transfer-Encoding: chunked\r\n") + "nonsense\r\n",
                408,
            ),
            (head(CLAIM, "Content-Length: 1000\r\n") + "short", 408),
            ("\u{16}\u{3}\u{1} this is no HTTP\r\n\r\n".to_owned(), 400),
        ] {
            let end = send(at, request.clone()).await;
            assert_eq!(end, End::Answered(expected), "{request}");
        }
        // What follows a refused request on its connection is not looked at.
        let pipelined = head("", "Content-Length: 2\r\n") + "[]";
        assert_eq!(send(at, pipelined.repeat(1_000)).await, End::Answered(401));
    };
    withstands("lies", &relay, 4, lies).await;
    assert!(relay.memory_max() < ALL_MEMORY, "{}", relay.memory_max());
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_signed_may_be_bad_as_well() {
    let (simulator, relay) = start().await;
    let at = relay.receiver();
    let bomb = zip_bomb();
    let deep = "[".repeat(100_000);
    let deep_element = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
    let deep_field = format!(
        "[{{\"eventId\":{}1{}}}]",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let many = format!("[{}1]", "1,".repeat(99_999));
    let most = format!("[{}1]", "1,".repeat(9_999));
    let signed = async {
        for (what, body, more) in [
            ("a zip bomb", bomb.as_slice(), "Content-Encoding: gzip\r\n"),
            ("deep JSON", deep.as_bytes(), ""),
            ("a deep element", deep_element.as_bytes(), ""),
            ("a deep field", deep_field.as_bytes(), ""),
            ("100,000 elements", many.as_bytes(), ""),
            ("10,000 elements", most.as_bytes(), ""),
        ] {
            let began = Instant::now();
            let end = send(at, signed_request(body, more)).await;
            eprintln!("{what}: {end:?} after {:?}", began.elapsed());
            // 503 where ten thousand dead letters could not be stored in time; HubSpot would send them again.
            let expected: &[u16] = if what == "10,000 elements" {
                &[204, 503]
            } else {
                &[204]
            };
            assert!(
                matches!(end, End::Answered(status) if expected.contains(&status)),
                "{what}: {end:?}"
            );
        }
    };
    withstands("signed nonsense", &relay, 8, signed).await;
    assert!(relay.memory_max() < ALL_MEMORY, "{}", relay.memory_max());
    simulator.stop().await;
}

/// What one of many senders was answered.
#[derive(Clone, Copy, Default)]
struct Tally {
    taken: u32,
    shed: u32,
    slowest_shed: Duration,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_capacity_requests_are_shed_early_and_evenly_and_that_ends_with_the_load() {
    const PLACES: usize = 4;
    const SENDERS: usize = 16;
    const LOAD: Duration = Duration::from_secs(4);
    /// Of each sender, however slow the machine is.
    const ANSWERS_MIN: u32 = 40;
    let bus = MemoryBus::new();
    let metrics = Arc::new(Metrics::new());
    let receiver = Receiver::start(&receiver_config(PLACES), bus.clone(), metrics).unwrap();
    let at = receiver.addr();
    // The bus takes as many at once as there are places, forty times a second.
    let slow_bus = tokio::spawn({
        let bus = Arc::clone(&bus);
        bus.take_permits();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(25)).await;
                bus.give_permits(PLACES);
            }
        }
    });
    let until = Instant::now() + LOAD;
    let senders = (0..SENDERS as u64).map(|which| {
        let sender = Sender::new(at);
        tokio::spawn(async move {
            let mut tally = Tally::default();
            while Instant::now() < until || tally.taken + tally.shed < ANSWERS_MIN {
                let began = Instant::now();
                match sender.post(sender_body()).await.as_u16() {
                    204 => tally.taken += 1,
                    503 => {
                        tally.shed += 1;
                        tally.slowest_shed = tally.slowest_shed.max(began.elapsed());
                    }
                    status => panic!("answered {status}"),
                }
                // After either answer, or whoever has a place would be the first at it again; and never the same, or who finds
                // all places taken would find them so each time.
                let answers = u64::from(tally.taken + tally.shed);
                let pause = 10 + (7 * answers + 3 * which) % 21;
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            tally
        })
    });
    let tallies: Vec<Tally> = join_all(senders)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let taken: u32 = tallies.iter().map(|tally| tally.taken).sum();
    let shed: u32 = tallies.iter().map(|tally| tally.shed).sum();
    let (least, most) = (
        tallies.iter().map(|tally| tally.taken).min().unwrap(),
        tallies.iter().map(|tally| tally.taken).max().unwrap(),
    );
    let slowest = tallies
        .iter()
        .map(|tally| tally.slowest_shed)
        .max()
        .unwrap();
    eprintln!(
        "{taken} taken, {least} to {most} a sender; {shed} shed, the slowest after {slowest:?}"
    );
    assert!(taken > 100, "what there is room for is taken: {taken}");
    assert!(shed > 100, "it was no overload: {shed}");
    let mean = taken / u32::try_from(SENDERS).unwrap();
    assert!(least >= mean / 4, "a sender starved: {least} of {mean}");
    assert!(slowest < Duration::from_secs(4), "shed late: {slowest:?}");

    let sender = Sender::new(at);
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(sender.post(sender_body()).await, 204, "the load has ended");
    }
    eprintln!("ten requests after the load took {:?}", began.elapsed());
    assert!(began.elapsed() < SLACK);
    slow_bus.abort();
    receiver.stop(Duration::from_secs(5)).await;
}

/// A notification and much white space, so that what is shed has a body that was not read.
fn sender_body() -> String {
    let creation = notification(1).to_string();
    format!("[{creation}]{}", " ".repeat(8_000))
}
