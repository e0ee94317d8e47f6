//! How HubSpot tells of what people do: signed, in batches, several at once, sent again after anything but a 2xx within
//! five seconds, and sometimes after one too.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crm_relay::event::Millis;
use crm_relay::simulator::Control;
use serde_json::Value;

use super::dice::Dice;
use super::ledger::Ledger;
use super::people::{Notification, People};
use crate::helpers::signature;

pub const SECRET: &str = "a-client-secret-for-chaos";
pub const PUBLIC_URL: &str = "https://relay.example.com/webhooks/hubspot";
/// How often changes are made.
const TICK: Duration = Duration::from_millis(20);
/// HubSpot's own time-out.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// HubSpot opens ten connections to an app for a portal.
const REQUESTS_MAX: usize = 20;
/// HubSpot repeats ten times in a day; here more often, and sooner.
const ATTEMPTS_MAX: u32 = 200;
/// After a failure, in milliseconds.
const REPEAT_AFTER_MS: (u64, u64) = (200, 1_500);
/// Of a thousand batches that were answered 2xx, those sent again all the same.
const NEEDLESS_REPEATS: u64 = 20;
const BATCH_MAX: u64 = 100;
/// While so many notifications wait to be answered, or answered ones have not come out, nothing changes.
const WAITING_MAX: usize = 5_000;
const UNDER_WAY_MAX: usize = 30_000;
/// How often it is looked how many are under way.
const UNDER_WAY_INTERVAL: Duration = Duration::from_secs(1);
/// How often receivers are asked whether they are ready.
const READY_INTERVAL: Duration = Duration::from_millis(200);

/// A receiver behind the balancer.
pub struct Backend {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    ready: AtomicBool,
}

impl Backend {
    pub fn new(address: SocketAddr, admin: SocketAddr) -> Self {
        Self {
            address,
            admin,
            ready: AtomicBool::new(false),
        }
    }
}

/// How requests were answered.
#[derive(Default)]
pub struct Answers {
    pub good: AtomicU64,
    /// 503.
    pub unavailable: AtomicU64,
    /// Any other status.
    pub other: AtomicU64,
    /// None in time, or a broken connection.
    pub none: AtomicU64,
    /// Batches sent for the last time, in vain.
    pub given_up: AtomicU64,
}

#[derive(Clone)]
struct Batch {
    portal: u8,
    attempt: u32,
    notifications: Arc<[Notification]>,
}

/// HubSpot's sender.
pub struct Load {
    pub ledger: Arc<Ledger>,
    pub answers: Answers,
    backends: Vec<Backend>,
    client: reqwest::Client,
    state: Mutex<State>,
    wake: tokio::sync::Notify,
    runs: AtomicBool,
}

struct State {
    dice: Dice,
    /// By portal.
    people: Vec<People>,
    /// Batches by when they are due.
    queue: VecDeque<(Instant, Batch)>,
    waiting: usize,
    in_flight: usize,
    turn: usize,
}

impl Load {
    /// Nothing changes yet.
    pub fn new(
        seed: u64,
        hubspot: Control,
        portals: u8,
        ledger: Arc<Ledger>,
        backends: Vec<Backend>,
    ) -> Arc<Self> {
        let people = (0..portals)
            .map(|portal| People::new(portal, hubspot.clone(), Arc::clone(&ledger)))
            .collect();
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX);
        Arc::new(Self {
            ledger,
            answers: Answers::default(),
            state: Mutex::new(State {
                dice: Dice::new(seed),
                people,
                queue: VecDeque::new(),
                waiting: 0,
                in_flight: 0,
                turn: 0,
            }),
            backends,
            client: client.build().unwrap(),
            wake: tokio::sync::Notify::new(),
            runs: AtomicBool::new(false),
        })
    }

    /// Begins to send, and to ask receivers whether they are ready.
    pub fn start(self: &Arc<Self>) {
        for index in 0..self.backends.len() {
            tokio::spawn(Arc::clone(self).watch(index));
        }
        for _ in 0..REQUESTS_MAX {
            tokio::spawn(Arc::clone(self).send());
        }
    }

    /// Changes records at so many notifications a second, until [`Self::pause`].
    pub fn change(self: &Arc<Self>, rate: f64) {
        self.runs.store(true, Ordering::Relaxed);
        tokio::spawn(Arc::clone(self).people(rate));
    }

    /// Nothing changes any more; what was made is sent.
    pub fn pause(&self) {
        self.runs.store(false, Ordering::Relaxed);
    }

    /// Whether all was answered, or given up.
    pub fn is_settled(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.queue.is_empty() && state.in_flight == 0
    }

    async fn people(self: Arc<Self>, rate: f64) {
        let (mut looked, mut under_way) = (Instant::now(), 0);
        let (mut ticked, mut due) = (Instant::now(), 0.0);
        while self.runs.load(Ordering::Relaxed) {
            tokio::time::sleep(TICK).await;
            due = rate.min(
                due + rate
                    * std::mem::replace(&mut ticked, Instant::now())
                        .elapsed()
                        .as_secs_f64(),
            );
            if looked.elapsed() > UNDER_WAY_INTERVAL {
                (looked, under_way) = (Instant::now(), self.ledger.missing().len());
            }
            let waiting = self.state.lock().unwrap().waiting;
            while due > 0.0 && under_way < UNDER_WAY_MAX && waiting < WAITING_MAX {
                due -= self.change_some() as f64;
            }
        }
    }

    /// One batch of one portal's changes; how many notifications.
    fn change_some(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let portal = state.dice.below(state.people.len() as u64) as u8;
        // As many small batches as large ones, as far as requests go.
        let size = 1 + state.dice.below(BATCH_MAX) * state.dice.below(BATCH_MAX) / BATCH_MAX;
        let (size, mut notifications) = (size as usize, Vec::new());
        while notifications.len() < size {
            let people = &mut state.people[usize::from(portal)];
            notifications.extend(people.change(&mut state.dice, size - notifications.len()));
        }
        state.waiting += size;
        let batch = Batch {
            portal,
            attempt: 0,
            notifications: notifications.into(),
        };
        state.queue.push_back((Instant::now(), batch));
        self.wake.notify_one();
        size
    }

    /// Sends one batch after the other.
    async fn send(self: Arc<Self>) {
        loop {
            let Some(batch) = self.next() else {
                let _ = tokio::time::timeout(TICK, self.wake.notified()).await;
                continue;
            };
            let answer = self.post(&batch).await;
            self.note(batch, answer);
        }
    }

    fn next(&self) -> Option<Batch> {
        let mut state = self.state.lock().unwrap();
        let now = Instant::now();
        let due = state.queue.iter().position(|(due, _)| *due <= now)?;
        let (_, batch) = state.queue.remove(due)?;
        state.in_flight += 1;
        Some(batch)
    }

    /// The status, if there was one in time.
    async fn post(&self, batch: &Batch) -> Option<u16> {
        let address = self.ready_backend()?;
        let body = body(batch);
        let timestamp = Millis::now().as_i64().to_string();
        let signature = signature::v3(SECRET, PUBLIC_URL, body.as_bytes(), &timestamp);
        let request = self
            .client
            .post(format!("http://{address}/webhooks/hubspot"))
            .header("Content-Type", "application/json")
            .header("X-HubSpot-Signature-v3", signature)
            .header("X-HubSpot-Request-Timestamp", timestamp)
            .body(body);
        let answer = request.send().await.ok()?;
        Some(answer.status().as_u16())
    }

    /// One that is ready, in turn. Where none is, HubSpot gets its answer from the balancer, as if there were none.
    fn ready_backend(&self) -> Option<SocketAddr> {
        let mut state = self.state.lock().unwrap();
        state.turn += 1;
        let turn = state.turn;
        let count = self.backends.len();
        let mut in_turn = (0..count).map(|index| &self.backends[(turn + index) % count]);
        let ready = in_turn.find(|backend| backend.ready.load(Ordering::Relaxed));
        ready.map(|backend| backend.address)
    }

    fn note(&self, batch: Batch, answer: Option<u16>) {
        let counter = match answer {
            Some(200..=299) => &self.answers.good,
            Some(503) => &self.answers.unavailable,
            Some(_) => &self.answers.other,
            None => &self.answers.none,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let good = matches!(answer, Some(200..=299));
        if good {
            let numbers = batch.notifications.iter().map(|one| one.number);
            numbers.for_each(|number| self.ledger.answered(number));
        }
        let mut state = self.state.lock().unwrap();
        state.in_flight -= 1;
        let given_up = !good && batch.attempt == ATTEMPTS_MAX;
        if given_up {
            self.answers.given_up.fetch_add(1, Ordering::Relaxed);
        }
        let is_first_end = (good || given_up) && batch.attempt < NEEDLESS;
        if is_first_end {
            state.waiting -= batch.notifications.len();
        }
        let needless = good && is_first_end && state.dice.chance(NEEDLESS_REPEATS);
        if (good && !needless) || given_up || (!good && batch.attempt >= NEEDLESS) {
            return;
        }
        let after = state.dice.millis(REPEAT_AFTER_MS.0, REPEAT_AFTER_MS.1);
        let attempt = if needless {
            NEEDLESS
        } else {
            batch.attempt + 1
        };
        let again = Batch { attempt, ..batch };
        state.queue.push_back((Instant::now() + after, again));
    }

    async fn watch(self: Arc<Self>, index: usize) {
        let backend = &self.backends[index];
        let url = format!("http://{}/readyz", backend.admin);
        loop {
            let asked = self.client.get(&url).timeout(READY_INTERVAL * 5);
            let answer = asked.send().await;
            let ready = answer.is_ok_and(|answer| answer.status().is_success());
            backend.ready.store(ready, Ordering::Relaxed);
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }
}

/// Marks the needless repeat of a batch, which is sent once and counts for nothing.
const NEEDLESS: u32 = 1_000;

fn body(batch: &Batch) -> String {
    let attempt = batch.attempt.min(ATTEMPTS_MAX);
    let bodies = batch.notifications.iter();
    let bodies = bodies.map(|one| one.body(batch.portal, attempt));
    bodies.collect::<Value>().to_string()
}
