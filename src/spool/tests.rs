//! Switching over and back, with a bus that is there or not as the test says.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tempfile::TempDir;

use super::*;
use crate::bus::{BusUnavailable, Claim, Consumer, Message, Queue, StoredNote, Target};

/// Bounds every wait: a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const BYTES_MAX: u64 = 1 << 30;

/// Records what it confirms.
struct MemoryBus {
    confirmed: Mutex<Vec<Outgoing>>,
    /// What it answers instead of confirming, from the message of this place on.
    refusal: Mutex<Option<(usize, PublishError)>>,
    connected: watch::Sender<bool>,
    delay: Duration,
}

impl MemoryBus {
    fn new(connected: bool) -> Arc<Self> {
        Self::slow(connected, Duration::ZERO)
    }

    fn slow(connected: bool, delay: Duration) -> Arc<Self> {
        Arc::new(Self {
            confirmed: Mutex::default(),
            refusal: Mutex::default(),
            connected: watch::Sender::new(connected),
            delay,
        })
    }

    fn refuse(&self, refusal: Option<(usize, PublishError)>) {
        *self.refusal.lock().unwrap() = refusal;
    }

    fn ids(&self) -> Vec<String> {
        let confirmed = self.confirmed.lock().unwrap();
        confirmed.iter().map(|one| one.message.id.clone()).collect()
    }

    async fn has(&self, count: usize) {
        let wait = async {
            while self.confirmed.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("they arrive in time");
    }
}

impl Bus for MemoryBus {
    fn partitions(&self) -> u16 {
        4
    }

    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<(), PublishError>>> {
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            if !*self.connected.borrow() {
                return vec![Err(PublishError::Unavailable); messages.len()];
            }
            let refusal = *self.refusal.lock().unwrap();
            let mut confirmed = self.confirmed.lock().unwrap();
            let judged = messages.into_iter().enumerate();
            judged
                .map(|(place, message)| match refusal {
                    Some((good, error)) if place >= good => Err(error),
                    _ => {
                        confirmed.push(message);
                        Ok(())
                    }
                })
                .collect()
        })
    }

    fn join(&self) -> watch::Receiver<BTreeSet<u16>> {
        watch::Sender::new(BTreeSet::new()).subscribe()
    }

    fn leave(&self) {}

    fn consume(&self, _: Queue, _: u16) -> Consumer {
        unreachable!("nobody consumes here")
    }

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

fn open(folder: &TempDir, bus: &Arc<MemoryBus>) -> (Arc<Spool>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let spool = Spool::open(folder.path(), BYTES_MAX, bus.clone(), metrics.clone());
    (Arc::new(spool.unwrap()), metrics)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn outgoing(id: impl ToString) -> Outgoing {
    let message = Message {
        id: id.to_string(),
        content_type: "text/plain".to_owned(),
        kind: "test".to_owned(),
        headers: Vec::new(),
        body: Bytes::from_static(b"{}"),
    };
    let target = Target::Partition(0);
    Outgoing { target, message }
}

async fn put(spool: &Spool, ids: impl IntoIterator<Item = u32>) {
    for id in ids {
        assert_eq!(spool.publish(vec![outgoing(id)]).await, [Ok(())], "{id}");
    }
}

fn numbers(ids: impl IntoIterator<Item = u32>) -> Vec<String> {
    ids.into_iter().map(|id| id.to_string()).collect()
}

#[tokio::test]
async fn with_a_broker_nothing_touches_the_disk() {
    let (folder, bus) = (folder(), MemoryBus::new(true));
    let (spool, metrics) = open(&folder, &bus);
    put(&spool, 0..5).await;
    assert_eq!(bus.ids(), numbers(0..5));
    assert_eq!(metrics.spool_stored_total.get(), 0);
    assert_eq!(metrics.spool_bytes.get(), 0);
}

#[tokio::test]
async fn without_a_broker_requests_are_stored_at_once_and_sent_in_order_when_it_is_back() {
    let (folder, bus) = (folder(), MemoryBus::new(false));
    let (spool, metrics) = open(&folder, &bus);
    put(&spool, 0..600).await;
    assert_eq!(metrics.spool_messages.get(), 600);
    bus.connected.send_replace(true);
    put(&spool, 600..900).await;
    bus.has(900).await;
    assert_eq!(bus.ids(), numbers(0..900));
    let stored = metrics.spool_stored_total.get();
    assert_eq!(metrics.spool_drained_total.get(), stored);
    spool.stop(PATIENCE).await;
    assert_eq!(
        (metrics.spool_messages.get(), metrics.spool_bytes.get()),
        (0, 0)
    );
}

#[tokio::test]
async fn what_the_broker_did_not_confirm_is_stored_and_what_it_refused_is_not() {
    let (folder, bus) = (folder(), MemoryBus::new(true));
    let (spool, metrics) = open(&folder, &bus);
    for (error, expected) in [
        (PublishError::Unknown, Ok(())),
        (PublishError::Unavailable, Ok(())),
        (PublishError::Rejected, Err(PublishError::Rejected)),
        (PublishError::Unroutable, Err(PublishError::Unroutable)),
    ] {
        spool.drained().await;
        let stored = metrics.spool_stored_total.get();
        bus.refuse(Some((1, error)));
        let verdicts = spool.publish(vec![outgoing(1), outgoing(2)]).await;
        assert_eq!(verdicts, [Ok(()), expected]);
        let spooled = metrics.spool_stored_total.get() - stored;
        assert_eq!(spooled, u64::from(expected.is_ok()), "only what failed");
        bus.refuse(None);
    }
}

#[tokio::test]
async fn messages_that_fail_within_a_chunk_go_again_with_all_behind_them() {
    let (folder, bus) = (folder(), MemoryBus::new(false));
    let (spool, _) = open(&folder, &bus);
    put(&spool, 0..10).await;
    bus.refuse(Some((4, PublishError::Unknown)));
    bus.connected.send_replace(true);
    bus.has(6).await;
    bus.refuse(None);
    bus.has(10).await;
    assert_eq!(bus.ids(), numbers(0..10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_stream_does_not_keep_the_spool_in_use_and_stays_in_order() {
    let (folder, bus) = (folder(), MemoryBus::slow(false, Duration::from_millis(5)));
    let (spool, metrics) = open(&folder, &bus);
    put(&spool, 0..300).await;
    bus.connected.send_replace(true);
    // Eight at once, each with a row of its own that must stay in order, and never a pause.
    let streams = (1..=8_u32).map(|stream| {
        let (spool, metrics) = (Arc::clone(&spool), Arc::clone(&metrics));
        tokio::spawn(async move {
            let mut next = stream * 100_000;
            let deadline = tokio::time::Instant::now() + PATIENCE;
            let mut straight = 0;
            while straight < 20 {
                assert!(tokio::time::Instant::now() < deadline, "never handed over");
                let before = metrics.spool_stored_total.get();
                put(&spool, [next]).await;
                next += 1;
                let still = metrics.spool_stored_total.get() == before;
                straight = if still { straight + 1 } else { 0 };
            }
            next - stream * 100_000
        })
    });
    let mut counts = Vec::new();
    for stream in streams.collect::<Vec<_>>() {
        counts.push(stream.await.unwrap());
    }
    let expected = 300 + counts.iter().sum::<u32>() as usize;
    bus.has(expected).await;
    let ids: Vec<u32> = bus.ids().iter().map(|id| id.parse().unwrap()).collect();
    for row in 0..=8 {
        let of_row = ids.iter().filter(|id| **id / 100_000 == row);
        assert!(of_row.is_sorted(), "row {row}");
    }
    assert_eq!(metrics.spool_messages.get(), 0);
}

#[tokio::test]
async fn what_is_left_at_stopping_is_sent_after_the_next_start() {
    let (folder, bus) = (folder(), MemoryBus::new(false));
    let (spool, _) = open(&folder, &bus);
    put(&spool, 0..5).await;
    let begun = std::time::Instant::now();
    spool.stop(PATIENCE).await;
    assert!(
        begun.elapsed() < PATIENCE / 2,
        "nobody takes it: no reason to wait"
    );
    assert_eq!(
        spool.publish(vec![outgoing(9)]).await,
        [Err(PublishError::Unavailable)]
    );
    bus.connected.send_replace(true);
    let (spool, _) = open(&folder, &bus);
    bus.has(5).await;
    put(&spool, 5..6).await;
    assert_eq!(bus.ids(), numbers(0..6));
}

#[tokio::test]
async fn stopping_drains_while_the_broker_is_there() {
    let (folder, bus) = (folder(), MemoryBus::slow(false, Duration::from_millis(200)));
    let (spool, metrics) = open(&folder, &bus);
    put(&spool, 0..5).await;
    bus.connected.send_replace(true);
    spool.stop(PATIENCE).await;
    assert_eq!(bus.ids(), numbers(0..5));
    assert_eq!(metrics.spool_messages.get(), 0);
}

#[tokio::test]
async fn a_full_spool_refuses_says_so_and_takes_again() {
    let (folder, bus) = (folder(), MemoryBus::new(false));
    let metrics = Arc::new(Metrics::new());
    let bytes_max = 2 * log::RECORD_BYTES_MAX;
    let spool = Spool::open(folder.path(), bytes_max, bus.clone(), metrics.clone()).unwrap();
    let large = |id| {
        let mut large = outgoing(id);
        large.message.body = Bytes::from(vec![0; MESSAGE_BYTES_MAX]);
        vec![large]
    };
    let mut takes = spool.takes();
    for id in 0..2 {
        assert!(*takes.borrow_and_update());
        assert_eq!(spool.publish(large(id)).await, [Ok(())]);
    }
    assert!(!*takes.borrow_and_update());
    assert_eq!(
        spool.publish(large(2)).await,
        [Err(PublishError::Unavailable)]
    );
    assert!(u64::try_from(metrics.spool_bytes.get()).unwrap() <= bytes_max);
    bus.connected.send_replace(true);
    let room = takes.wait_for(|takes| *takes);
    timeout(PATIENCE, room).await.unwrap().unwrap();
    bus.has(2).await;
}

#[tokio::test]
async fn damage_is_counted_told_and_set_apart_and_the_rest_arrives() {
    let (folder, bus) = (folder(), MemoryBus::new(false));
    let (spool, _) = open(&folder, &bus);
    put(&spool, 0..10).await;
    spool.stop(PATIENCE).await;
    let files = || {
        std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().path())
    };
    let named = |end: &str| {
        files()
            .filter(|file| file.to_string_lossy().ends_with(end))
            .count()
    };
    let file = files()
        .find(|file| file.to_string_lossy().ends_with(".spool"))
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (_spool, metrics) = open(&folder, &bus);
    bus.connected.send_replace(true);
    bus.has(9).await;
    let damaged = metrics.spool_damaged_total.with_label_values(&["message"]);
    assert_eq!(damaged.get(), 1);
    let wait = async {
        while named(".spool") > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
    assert_eq!(named(".damaged"), 1);
}

#[tokio::test]
async fn a_second_receiver_on_the_same_folder_is_refused_and_the_key_is_named() {
    let (folder, bus) = (folder(), MemoryBus::new(true));
    let (_first, _) = open(&folder, &bus);
    let second = Spool::open(folder.path(), BYTES_MAX, bus, Arc::default());
    let error = second.err().unwrap().to_string();
    assert!(
        error.contains("spool.folder") && error.contains("in use"),
        "{error}"
    );
}

#[tokio::test]
async fn what_a_newer_program_left_is_not_thrown_away() {
    let (folder, bus) = (folder(), MemoryBus::new(true));
    std::fs::write(folder.path().join("0000000001-0.v2.spool"), "?").unwrap();
    let refused = Spool::open(folder.path(), BYTES_MAX, bus, Arc::default());
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("move the folder away"), "{error}");
}
