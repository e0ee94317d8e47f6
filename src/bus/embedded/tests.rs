//! Crash, order and failure, seen from outside the bus.

use std::path::Path;

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::bus::{Consumed, Delivery, Message, Topic};
use crate::folder::FolderError;

mod damage;
mod model;

const P0: Queue = Queue::Partition(0);
/// Bounds every wait: a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn try_open(path: &Path, partitions: u16) -> Result<Embedded, EmbeddedError> {
    let options = EmbeddedOptions {
        data_dir: path.to_owned(),
        partitions,
        publish_timeout: Duration::from_secs(5),
    };
    Embedded::open(options, Arc::default())
}

fn open(folder: &TempDir) -> Embedded {
    try_open(folder.path(), 2).unwrap()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn outgoing(target: Target, id: &str) -> Outgoing {
    let message = Message {
        id: id.to_owned(),
        content_type: "text/plain".to_owned(),
        kind: "test".to_owned(),
        headers: Vec::new(),
        body: Bytes::from(format!("body of {id}")),
    };
    Outgoing { target, message }
}

async fn publish(bus: &Embedded, ids: &[&str]) {
    let messages = ids.iter().map(|id| outgoing(Target::Partition(0), id));
    let verdicts = bus.publish(messages.collect()).await;
    assert_eq!(verdicts, vec![Ok(()); ids.len()]);
}

async fn next(consumer: &mut Consumer) -> Delivery {
    match timeout(PATIENCE, consumer.next()).await.unwrap().unwrap() {
        Consumed::Delivery(delivery) => delivery,
        Consumed::Lost => panic!("the session was lost"),
    }
}

/// Acknowledges all that comes until `count` messages did; `(id, delivery_count)` of each.
async fn drain(consumer: &mut Consumer, count: usize) -> Vec<(String, u32)> {
    let mut drained = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        drained.push((delivery.message.id, delivery.delivery_count));
        delivery.unsettled.ack();
    }
    drained
}

/// What `drain` gives for messages never delivered before.
fn fresh(ids: &[&str]) -> Vec<(String, u32)> {
    ids.iter().map(|id| ((*id).to_owned(), 0)).collect()
}

/// The files as a crash would leave them, without the lock.
fn crashed_copy(of: &TempDir) -> TempDir {
    let copy = folder();
    for name in ["bus.sqlite3", "bus.sqlite3-wal"] {
        std::fs::copy(of.path().join(name), copy.path().join(name)).unwrap();
    }
    copy
}

async fn wait_for_connected(bus: &Embedded, connected: bool) {
    let mut receiver = bus.connected();
    let wait = receiver.wait_for(|now| *now == connected);
    timeout(PATIENCE, wait).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_confirmed_outlives_a_crash_in_order_and_whole() {
    let original = folder();
    let bus = open(&original);
    publish(&bus, &["a", "b"]).await;
    publish(&bus, &["c"]).await;
    let reopened = open(&crashed_copy(&original));
    let mut consumer = reopened.consume(P0, 10);
    let first = next(&mut consumer).await;
    assert_eq!(first.message, outgoing(Target::Partition(0), "a").message);
    first.unsettled.ack();
    assert_eq!(drain(&mut consumer, 2).await, fresh(&["b", "c"]));
}

#[tokio::test]
async fn a_torn_tail_of_the_log_loses_only_what_was_not_confirmed() {
    let original = folder();
    let bus = open(&original);
    publish(&bus, &["a", "b"]).await;
    let wal = original.path().join("bus.sqlite3-wal");
    let confirmed = wal.metadata().unwrap().len();
    publish(&bus, &["c"]).await;
    let written = wal.metadata().unwrap().len();
    for torn_at in [
        confirmed,
        confirmed + 1,
        (confirmed + written) / 2,
        written - 1,
    ] {
        let copy = crashed_copy(&original);
        let torn = copy.path().join("bus.sqlite3-wal");
        let file = std::fs::OpenOptions::new().write(true).open(torn).unwrap();
        file.set_len(torn_at).unwrap();
        let reopened = open(&copy);
        assert_eq!(reopened.depth(P0).await, Ok(2), "torn at {torn_at}");
        let mut consumer = reopened.consume(P0, 10);
        assert_eq!(drain(&mut consumer, 2).await, fresh(&["a", "b"]));
    }
}

#[tokio::test]
async fn a_crash_with_a_message_in_hand_counts_as_a_delivery_and_acks_stay() {
    let original = folder();
    let bus = open(&original);
    publish(&bus, &["a", "b"]).await;
    let mut consumer = bus.consume(P0, 2);
    drain(&mut consumer, 1).await;
    let in_hand = next(&mut consumer).await;
    let acked = async {
        while bus.depth(P0).await != Ok(1) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, acked).await.unwrap();
    let reopened = open(&crashed_copy(&original));
    let mut again = reopened.consume(P0, 2);
    assert_eq!(drain(&mut again, 1).await, [("b".to_owned(), 1)]);
    in_hand.unsettled.abandon();
}

#[tokio::test]
async fn dropping_the_bus_without_closing_unlocks_it_and_loses_nothing() {
    let original = folder();
    let bus = open(&original);
    publish(&bus, &["a"]).await;
    drop(bus);
    let reopened = timeout(PATIENCE, async {
        loop {
            match try_open(original.path(), 2) {
                Ok(bus) => return bus,
                Err(EmbeddedError::Folder(FolderError::InUse { .. })) => {
                    tokio::task::yield_now().await
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(reopened.await.unwrap().depth(P0).await, Ok(1));
}

#[tokio::test]
async fn messages_come_back_in_their_place() {
    let bus_folder = folder();
    let bus = open(&bus_folder);
    publish(&bus, &["a", "b", "c", "d"]).await;
    let mut consumer = bus.consume(P0, 3);
    let (a, b, c) = (
        next(&mut consumer).await,
        next(&mut consumer).await,
        next(&mut consumer).await,
    );
    b.unsettled.hand_back();
    let b = next(&mut consumer).await;
    assert_eq!((b.message.id.as_str(), b.delivery_count), ("b", 0));
    a.unsettled.fail();
    let a = next(&mut consumer).await;
    assert_eq!((a.message.id.as_str(), a.delivery_count), ("a", 1));
    for delivery in [a, b, c] {
        delivery.unsettled.ack();
    }
    assert_eq!(drain(&mut consumer, 1).await, fresh(&["d"]));
}

#[tokio::test]
async fn a_message_that_fails_too_often_becomes_a_dead_letter_and_the_rest_goes_on() {
    let bus_folder = folder();
    let bus = open(&bus_folder);
    publish(&bus, &["poison", "b"]).await;
    let mut consumer = bus.consume(P0, 1);
    for count in 0..=store::DELIVERY_LIMIT {
        let delivery = next(&mut consumer).await;
        assert_eq!(
            (delivery.message.id.as_str(), delivery.delivery_count),
            ("poison", count)
        );
        delivery.unsettled.fail();
    }
    assert_eq!(drain(&mut consumer, 1).await, fresh(&["b"]));
    let mut dead = bus.consume(Queue::DeadLetters, 1);
    assert_eq!(drain(&mut dead, 1).await, fresh(&["poison"]));
    let counted = &bus.handle.signals.metrics().dead_letters_total;
    assert_eq!(
        counted
            .with_label_values(&["consume", "delivery_limit"])
            .get(),
        1
    );
}

#[tokio::test]
async fn only_one_consumer_is_active_and_the_next_follows_when_it_closes() {
    let bus_folder = folder();
    let bus = open(&bus_folder);
    let mut first = bus.consume(P0, 1);
    publish(&bus, &["a", "b", "c"]).await;
    drain(&mut first, 1).await;
    let mut second = bus.consume(P0, 10);
    let b = next(&mut first).await;
    assert!(second.next().now_or_never().is_none());
    b.unsettled.ack();
    first.close().await;
    assert_eq!(next(&mut second).await.message.id, "c");
}

#[tokio::test]
async fn each_target_has_the_verdict_its_documentation_gives() {
    let bus_folder = folder();
    let bus = open(&bus_folder);
    let mut large = outgoing(Target::Partition(1), "large");
    large.message.body = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
    let mut largest = outgoing(Target::Partition(1), "largest");
    largest.message.body = Bytes::from(vec![0; MESSAGE_BYTES_MAX]);
    let verdicts = bus.publish(vec![
        outgoing(Target::Topic(Topic::Enriched, Vec::new()), "topic"),
        outgoing(Target::Destination("crm".into()), "destination"),
        outgoing(Target::Partition(2), "no such partition"),
        large,
        largest,
        outgoing(Target::DeadLetters("a.b".into()), "dead"),
    ]);
    let expected = [
        Ok(()),
        Err(PublishError::Unroutable),
        Err(PublishError::Unroutable),
        Err(PublishError::TooLarge),
        Ok(()),
        Ok(()),
    ];
    assert_eq!(verdicts.await, expected);
    assert_eq!(bus.depth(Queue::Partition(1)).await, Ok(1));
    assert_eq!(bus.depth(Queue::DeadLetters).await, Ok(1));
    assert_eq!(
        bus.depth(Queue::Destination("crm".into())).await,
        Err(BusUnavailable)
    );
}

#[tokio::test]
async fn closing_flushes_settlements_ends_consumers_and_unlocks() {
    let bus_folder = folder();
    let bus = open(&bus_folder);
    publish(&bus, &["a", "b"]).await;
    let mut consumer = bus.consume(P0, 1);
    drain(&mut consumer, 1).await;
    bus.close().await;
    assert!(!*bus.connected().borrow());
    let refused = bus.publish(vec![outgoing(Target::Partition(0), "c")]).await;
    assert_eq!(refused, [Err(PublishError::Unavailable)]);
    while let Some(consumed) = timeout(PATIENCE, consumer.next()).await.unwrap() {
        consumed.abandon();
    }
    let reopened = open(&bus_folder);
    assert_eq!(reopened.depth(P0).await, Ok(1));
    bus.close().await;
}

#[tokio::test]
async fn a_locked_database_suspends_the_bus_and_consumers_are_told() {
    let bus_folder = folder();
    let bus = open(&bus_folder);
    publish(&bus, &["a"]).await;
    let mut consumer = bus.consume(P0, 1);
    let a = next(&mut consumer).await;
    let shell = Connection::open(bus_folder.path().join("bus.sqlite3")).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = bus.publish(vec![outgoing(Target::Partition(0), "b")]).await;
    assert_eq!(refused, [Err(PublishError::Unavailable)]);
    shell.execute_batch("ROLLBACK").unwrap();
    wait_for_connected(&bus, true).await;
    let lost = timeout(PATIENCE, consumer.next()).await.unwrap();
    assert!(matches!(lost, Some(Consumed::Lost)), "{lost:?}");
    a.unsettled.ack();
    assert_eq!(drain(&mut consumer, 1).await, [("a".to_owned(), 1)]);
    publish(&bus, &["c"]).await;
    assert_eq!(drain(&mut consumer, 1).await, fresh(&["c"]));
}

#[tokio::test]
async fn a_verdict_that_does_not_come_in_time_is_unknown() {
    let bus_folder = folder();
    let mut bus = open(&bus_folder);
    bus.publish_timeout = Duration::from_millis(50);
    let shell = Connection::open(bus_folder.path().join("bus.sqlite3")).unwrap();
    // Shorter than the writer waits for the shell to finish.
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let late = bus
        .publish(vec![outgoing(Target::Partition(0), "late")])
        .await;
    assert_eq!(late, [Err(PublishError::Unknown)]);
}

#[tokio::test]
async fn what_passes_through_is_counted() {
    let bus_folder = folder();
    let bus = open(&bus_folder);
    publish(&bus, &["a", "b"]).await;
    let mut consumer = bus.consume(P0, 2);
    drain(&mut consumer, 1).await;
    next(&mut consumer).await.unsettled.ack();
    consumer.close().await;
    let metrics = bus.handle.signals.metrics();
    let published = &metrics.bus_publish_messages_total;
    assert_eq!(
        published
            .with_label_values(&["partition", "confirmed"])
            .get(),
        2
    );
    assert_eq!(metrics.bus_deliveries_total.get(), 2);
    assert_eq!(
        metrics
            .bus_settlements_total
            .with_label_values(&["ack"])
            .get(),
        2
    );
    assert_eq!(metrics.bus_connected.get(), 1);
}

#[tokio::test]
async fn a_broken_store_stops_for_good_and_still_closes() {
    let bus_folder = folder();
    let bus = open(&bus_folder);
    let shell = Connection::open(bus_folder.path().join("bus.sqlite3")).unwrap();
    shell.execute_batch("DROP TABLE messages").unwrap();
    let refused = bus.publish(vec![outgoing(Target::Partition(0), "b")]).await;
    assert_eq!(refused, [Err(PublishError::Unavailable)]);
    assert!(!*bus.connected().borrow());
    let mut connected = bus.connected();
    let ends = async { while connected.changed().await.is_ok() {} };
    let in_time = timeout(PATIENCE, ends).await;
    in_time.expect("it shows that the store does not come back");
    assert_eq!(bus.depth(P0).await, Err(BusUnavailable));
    timeout(PATIENCE, bus.close()).await.unwrap();
}

#[tokio::test]
async fn a_store_of_another_shape_is_refused_and_the_key_is_named() {
    let bus_folder = folder();
    open(&bus_folder).close().await;
    let error = try_open(bus_folder.path(), 3).unwrap_err();
    assert!(error.to_string().contains("bus.partitions"), "{error}");
    assert!(matches!(
        try_open(bus_folder.path(), 0),
        Err(EmbeddedError::NoPartitions)
    ));
    let database = bus_folder.path().join("bus.sqlite3");
    let shell = Connection::open(&database).unwrap();
    shell.pragma_update(None, "user_version", 99).unwrap();
    drop(shell);
    let error = try_open(bus_folder.path(), 2).unwrap_err();
    assert!(
        matches!(error, EmbeddedError::Newer { found: 99, .. }),
        "{error}"
    );
    std::fs::write(&database, [7; 8192]).unwrap();
    let error = try_open(bus_folder.path(), 2).unwrap_err();
    assert!(matches!(error, EmbeddedError::Corrupt { .. }), "{error}");
}
