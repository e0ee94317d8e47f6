//! The embedded store after anything may have happened to its files: it opens or says why not, and what it gives out and
//! takes in is messages or an error. It never panics and never hangs.
//!
//! The input is read five bytes at a time: three of them a place, over database and log together, two what becomes of it:
//! a byte that is written there, or, where the first is 255, a cut. The files were made by the bus itself.
#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crm_relay::bus::embedded::{Embedded, EmbeddedOptions};
use crm_relay::bus::{Bus, Consumed, Message, Outgoing, Queue, Target};
use libfuzzer_sys::fuzz_target;
use tokio::time::timeout;

const FILES: [&str; 2] = ["bus.sqlite3", "bus.sqlite3-wal"];
/// How long a consumer waits for what a damaged index promised.
const WAIT: Duration = Duration::from_millis(20);
/// Nothing may take longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// More is in no queue.
const MESSAGES_MAX: u64 = 64;

fn open(folder: &Path) -> Option<Embedded> {
    let options = EmbeddedOptions {
        data_dir: folder.to_owned(),
        partitions: 2,
        publish_timeout: Duration::from_secs(5),
    };
    Embedded::open(options, Arc::default()).ok()
}

fn messages() -> Vec<Outgoing> {
    let targets = [
        Target::Partition(0),
        Target::Partition(1),
        Target::Backlog(0),
        Target::Changelog(0),
        Target::DeadLetters("normalize.unreadable".to_owned()),
        Target::Erasures,
    ];
    let message = |target: Target, number: usize| Outgoing {
        target,
        message: Message {
            id: format!("message {number}"),
            content_type: "application/json".to_owned(),
            kind: "crm.batch.v1".to_owned(),
            headers: Vec::new(),
            body: vec![b'x'; number * 97].into(),
        },
    };
    let all = (0..24).map(|number| message(targets[number % targets.len()].clone(), number));
    all.collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Database and log of a bus that was killed.
fn files() -> &'static [Vec<u8>; 2] {
    static FILES_MADE: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    FILES_MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let bus = open(folder.path()).unwrap();
        let read = || FILES.map(|name| std::fs::read(folder.path().join(name)).unwrap());
        runtime().block_on(async {
            assert!(bus.publish(messages()).await.iter().all(Result::is_ok));
            let read = read();
            bus.close().await;
            read
        })
    })
}

fn damage(files: &mut [Vec<u8>; 2], input: &[u8]) {
    for change in input.chunks_exact(5) {
        let place = u32::from_be_bytes([0, change[0], change[1], change[2]]) as usize;
        let lengths = files[0].len() + files[1].len();
        if lengths == 0 {
            return;
        }
        let place = place % lengths;
        let (file, place) = match place.checked_sub(files[0].len()) {
            None => (0, place),
            Some(place) => (1, place),
        };
        match change[3] {
            255 => files[file].truncate(place),
            _ => files[file][place] = change[4],
        }
    }
}

async fn use_it(bus: Embedded) {
    let queues = [
        Queue::Partition(0),
        Queue::Partition(1),
        Queue::Backlog(0),
        Queue::DeadLetters,
        Queue::Erasures,
    ];
    for queue in queues {
        let depth = bus.depth(queue.clone()).await.unwrap_or(0).min(MESSAGES_MAX);
        let mut consumer = bus.consume(queue, 8);
        for _ in 0..depth {
            match timeout(WAIT, consumer.next()).await {
                Ok(Some(Consumed::Delivery(delivery))) => delivery.unsettled.ack(),
                _ => break,
            }
        }
        consumer.close().await;
    }
    let (notes, mut read) = tokio::sync::mpsc::channel(MESSAGES_MAX as usize);
    let _ = timeout(WAIT, bus.read_changelog(0, None, notes)).await;
    while read.try_recv().is_ok() {}
    let _ = bus.publish(messages()).await;
    bus.close().await;
}

fuzz_target!(|input: &[u8]| {
    let mut files = files().clone();
    damage(&mut files, input);
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for (name, bytes) in FILES.iter().zip(&files) {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    runtime().block_on(async {
        if let Some(bus) = open(folder.path()) {
            let used = timeout(PATIENCE, use_it(bus)).await;
            assert!(used.is_ok(), "it hangs");
        }
    });
});
