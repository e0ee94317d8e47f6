//! What every bus promises (`crm_relay::bus`), as the same tests for each of them, and what RabbitMQ
//! promises besides.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crm_relay::bus::embedded::{Embedded, EmbeddedError, EmbeddedOptions};
use crm_relay::bus::rabbitmq::{RabbitMq, RabbitMqError, RabbitMqOptions};
use crm_relay::bus::{
    Bus, Consumed, MESSAGE_BYTES_MAX, Outgoing, PublishError, Queue, StoredNote, Target, Topic,
};
use crm_relay::event::{Millis, RoutingKey};
use crm_relay::folder::FolderError;
use crm_relay::metrics::Metrics;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::helpers::broker::{self, Broker, unique_prefix};
use crate::helpers::bus::{
    PATIENCE, await_connected, destination, drain, message, next, next_delivery, options, start,
    take, to,
};

/// A bus with a store of its own, to be opened by one test.
trait Fixture {
    /// Opens the bus, with at least 2 partitions.
    fn open(&self) -> BoxFuture<'_, Arc<dyn Bus>>;
    /// Crashes what stores the messages, lets go of `bus` without closing it, and opens it anew.
    fn crash(&self, bus: Arc<dyn Bus>) -> BoxFuture<'_, Arc<dyn Bus>>;
}

mod contract {
    use super::*;

    const PARTITION: Target = Target::Partition(1);
    const QUEUE: Queue = Queue::Partition(1);

    async fn publish(bus: &dyn Bus, target: &Target, ids: impl IntoIterator<Item = String>) {
        let batch: Vec<Outgoing> = ids.into_iter().map(|id| to(target.clone(), &id)).collect();
        let verdicts = bus.publish(batch).await;
        assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
    }

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|i| i.to_string()).collect()
    }

    pub async fn a_partition_is_consumed_in_the_order_it_was_confirmed_in(fixture: impl Fixture) {
        let bus = fixture.open().await;
        let expected = ids(700);
        for batch in expected.chunks(300) {
            publish(&*bus, &PARTITION, batch.to_vec()).await;
        }
        let mut consumer = bus.consume(QUEUE, 50);
        assert_eq!(take(&mut consumer, expected.len()).await, expected);
        consumer.close().await;
        bus.close().await;
    }

    pub async fn a_message_arrives_as_it_was_sent(fixture: impl Fixture) {
        let bus = fixture.open().await;
        let sent = message("ä \u{1f600}");
        let verdicts = bus.publish(vec![Outgoing {
            target: PARTITION,
            message: sent.clone(),
        }]);
        assert_eq!(verdicts.await, [Ok(())]);
        let mut consumer = bus.consume(QUEUE, 1);
        let delivery = next_delivery(&mut consumer).await;
        assert_eq!(delivery.message, sent);
        assert_eq!(delivery.delivery_count, 0);
        delivery.unsettled.ack();
        consumer.close().await;
        bus.close().await;
    }

    pub async fn what_is_confirmed_survives_a_crash(fixture: impl Fixture) {
        let bus = fixture.open().await;
        publish(&*bus, &PARTITION, ids(300)).await;
        publish(
            &*bus,
            &Target::DeadLetters("consume.unreadable".into()),
            ids(3),
        )
        .await;
        let bus = fixture.crash(bus).await;
        let mut consumer = bus.consume(QUEUE, 50);
        assert_eq!(take(&mut consumer, 300).await, ids(300));
        let mut letters = bus.consume(Queue::DeadLetters, 50);
        assert_eq!(take(&mut letters, 3).await, ids(3));
        consumer.close().await;
        letters.close().await;
        bus.close().await;
    }

    pub async fn what_no_queue_takes_is_an_error(fixture: impl Fixture) {
        let bus = fixture.open().await;
        let verdicts = bus.publish(vec![
            to(PARTITION, "same"),
            to(Target::Destination("nowhere".into()), "same"),
            to(Target::Topic(Topic::Enriched, Vec::new()), "same"),
            to(Target::DeadLetters("enrich.x".into()), "same"),
        ]);
        let expected = [Ok(()), Err(PublishError::Unroutable), Ok(()), Ok(())];
        assert_eq!(verdicts.await, expected);
        bus.close().await;
    }

    pub async fn a_message_that_is_too_large_is_not_sent(fixture: impl Fixture) {
        let bus = fixture.open().await;
        let mut large = to(PARTITION, "large");
        large.message.body = vec![0; MESSAGE_BYTES_MAX + 1].into();
        let verdicts = bus.publish(vec![large, to(PARTITION, "small")]).await;
        assert_eq!(verdicts, [Err(PublishError::TooLarge), Ok(())]);
        assert_eq!(bus.depth(QUEUE).await, Ok(1));
        bus.close().await;
    }

    pub async fn what_is_acknowledged_does_not_come_again(fixture: impl Fixture) {
        let bus = fixture.open().await;
        publish(&*bus, &PARTITION, ids(3)).await;
        let mut consumer = bus.consume(QUEUE, 10);
        next_delivery(&mut consumer).await.unsettled.ack();
        let second = next_delivery(&mut consumer).await;
        next_delivery(&mut consumer).await.unsettled.ack();
        second.unsettled.ack();
        consumer.close().await;
        publish(&*bus, &PARTITION, ["after".to_owned()]).await;
        let mut consumer = bus.consume(QUEUE, 10);
        assert_eq!(take(&mut consumer, 1).await, ["after"]);
        consumer.close().await;
        bus.close().await;
    }

    pub async fn what_failed_comes_again_and_counts(fixture: impl Fixture) {
        let bus = fixture.open().await;
        publish(&*bus, &PARTITION, ids(1)).await;
        let mut consumer = bus.consume(QUEUE, 1);
        for count in 0..3 {
            let delivery = next_delivery(&mut consumer).await;
            assert_eq!(delivery.delivery_count, count);
            delivery.unsettled.fail();
        }
        let delivery = next_delivery(&mut consumer).await;
        delivery.unsettled.hand_back();
        next_delivery(&mut consumer).await.unsettled.ack();
        consumer.close().await;
        assert_eq!(bus.depth(QUEUE).await, Ok(0));
        bus.close().await;
    }

    pub async fn what_is_not_settled_comes_again_after_the_consumer_closes(fixture: impl Fixture) {
        let bus = fixture.open().await;
        publish(&*bus, &PARTITION, ids(3)).await;
        let mut consumer = bus.consume(QUEUE, 10);
        next_delivery(&mut consumer).await.unsettled.ack();
        let unsettled = next_delivery(&mut consumer).await;
        consumer.close().await;
        let mut consumer = bus.consume(QUEUE, 10);
        let again = next_delivery(&mut consumer).await;
        assert_eq!(again.message.id, "1");
        assert!(again.delivery_count >= 1);
        // Its session is over: settling it now must touch nothing of the new one.
        unsettled.unsettled.ack();
        again.unsettled.ack();
        assert_eq!(take(&mut consumer, 1).await, ["2"]);
        consumer.close().await;
        assert_eq!(bus.depth(QUEUE).await, Ok(0));
        bus.close().await;
    }

    pub async fn one_consumer_is_active_and_hands_over_when_it_closes(fixture: impl Fixture) {
        let bus = fixture.open().await;
        let mut first = bus.consume(QUEUE, 10);
        publish(&*bus, &PARTITION, ids(1)).await;
        assert_eq!(take(&mut first, 1).await, ["0"]);
        let mut second = bus.consume(QUEUE, 10);
        publish(&*bus, &PARTITION, ["a".into(), "b".into()]).await;
        let kept = next_delivery(&mut first).await;
        let idle = tokio::time::timeout(Duration::from_millis(300), second.next()).await;
        assert!(idle.is_err(), "the second consumer got {idle:?}");
        kept.unsettled.ack();
        first.close().await;
        assert_eq!(take(&mut second, 1).await, ["b"]);
        second.close().await;
        bus.close().await;
    }

    pub async fn a_dead_letter_that_is_put_back_keeps_its_key(fixture: impl Fixture) {
        let bus = fixture.open().await;
        let key = || "consume.unreadable".to_owned();
        publish(&*bus, &Target::DeadLetters(key()), ["a".to_owned()]).await;
        let mut letters = bus.consume(Queue::DeadLetters, 1);
        for again in [true, true, false] {
            let delivery = next_delivery(&mut letters).await;
            assert_eq!(
                (&*delivery.message.id, &delivery.routing_key),
                ("a", &key())
            );
            if again {
                let target = Target::KeptDeadLetters(delivery.routing_key);
                let message = delivery.message;
                let verdicts = bus.publish(vec![Outgoing { target, message }]).await;
                assert_eq!(verdicts, [Ok(())]);
            }
            delivery.unsettled.ack();
        }
        letters.close().await;
        assert_eq!(bus.depth(Queue::DeadLetters).await, Ok(0));
        bus.close().await;
    }

    pub async fn one_consumer_is_active_on_the_erasures(fixture: impl Fixture) {
        let bus = fixture.open().await;
        let mut first = bus.consume(Queue::Erasures, 10);
        publish(&*bus, &Target::Erasures, ids(1)).await;
        let kept = next_delivery(&mut first).await;
        let mut second = bus.consume(Queue::Erasures, 10);
        publish(&*bus, &Target::Erasures, ["a".into()]).await;
        let idle = tokio::time::timeout(Duration::from_millis(300), second.next()).await;
        assert!(idle.is_err(), "the second consumer got {idle:?}");
        kept.unsettled.abandon();
        first.close().await;
        assert_eq!(take(&mut second, 2).await, ["0", "a"]);
        second.close().await;
        bus.close().await;
    }

    pub async fn what_is_set_aside_waits_beside_its_partition(fixture: impl Fixture) {
        let (aside, beside) = (Target::Backlog(1), Queue::Backlog(1));
        let bus = fixture.open().await;
        publish(&*bus, &PARTITION, ids(2)).await;
        let mut consumer = bus.consume(QUEUE, 10);
        let first = next_delivery(&mut consumer).await;
        let moved = Outgoing {
            target: aside.clone(),
            message: first.message.clone(),
        };
        assert_eq!(bus.publish(vec![moved]).await, [Ok(())]);
        first.unsettled.ack();
        assert_eq!(take(&mut consumer, 1).await, ["1"]);
        assert_eq!(bus.depth(beside.clone()).await, Ok(1));
        assert_eq!(bus.depth(Queue::Backlog(0)).await, Ok(0));
        let mut backlog = bus.consume(beside, 10);
        let again = next_delivery(&mut backlog).await;
        assert_eq!(again.message, first.message);
        publish(&*bus, &aside, ["later".to_owned()]).await;
        again.unsettled.ack();
        assert_eq!(take(&mut backlog, 1).await, ["later"]);
        consumer.close().await;
        backlog.close().await;
        bus.close().await;
    }

    /// The changelog's messages after a place, as id and place.
    async fn noted(bus: &dyn Bus, partition: u16, after: Option<u64>) -> Vec<(String, u64)> {
        let (sender, mut receiver) = mpsc::channel(10);
        let gather = async {
            let mut notes = Vec::new();
            while let Some(StoredNote { position, note }) = receiver.recv().await {
                notes.push((String::from_utf8(note.to_vec()).unwrap(), position));
            }
            notes
        };
        let read = bus.read_changelog(partition, after, sender);
        let (read, notes) = tokio::time::timeout(PATIENCE, async { tokio::join!(read, gather) })
            .await
            .expect("the changelog is read in time");
        read.unwrap();
        notes
    }

    pub async fn a_changelog_is_read_from_any_place_and_survives_a_crash(fixture: impl Fixture) {
        let bus = fixture.open().await;
        assert!(noted(&*bus, 1, None).await.is_empty());
        publish(&*bus, &Target::Changelog(1), ids(1_200)).await;
        publish(&*bus, &Target::Changelog(0), ["other".to_owned()]).await;
        let all = noted(&*bus, 1, None).await;
        let read: Vec<_> = all.iter().map(|(id, _)| id.clone()).collect();
        assert_eq!(read, ids(1_200));
        assert!(all.is_sorted_by_key(|(_, place)| *place));
        let bus = fixture.crash(bus).await;
        publish(&*bus, &Target::Changelog(1), ["later".to_owned()]).await;
        let rest = noted(&*bus, 1, Some(all[1_000].1)).await;
        assert_eq!(rest.len(), 200);
        assert_eq!(rest[..199], all[1_001..]);
        assert_eq!(rest[199].0, "later");
        let none = noted(&*bus, 1, Some(rest[199].1)).await;
        assert!(none.is_empty(), "{none:?}");
        bus.close().await;
    }

    pub async fn closing_the_bus_ends_consumers_and_publishes(fixture: impl Fixture) {
        let bus = fixture.open().await;
        let mut consumer = bus.consume(QUEUE, 10);
        publish(&*bus, &PARTITION, ids(1)).await;
        next_delivery(&mut consumer).await.unsettled.ack();
        bus.close().await;
        assert!(consumer.next().await.is_none());
        let verdicts = bus.publish(vec![to(PARTITION, "late")]).await;
        assert_eq!(verdicts, [Err(PublishError::Unavailable)]);
        assert!(!*bus.connected().borrow());
    }
}

/// What somebody else does on the broker.
mod foreign {
    use lapin::message::BasicGetMessage;
    use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
    use lapin::types::FieldTable;
    use lapin::{Channel, Connection, ConnectionProperties};

    use crate::helpers::broker;

    pub struct BoundQueue {
        _connection: Connection,
        channel: Channel,
    }

    const NAME: &str = "somebody's";

    /// Binds an exclusive queue on the shared broker to `exchange` by all `keys`.
    pub async fn bound_queue(exchange: &str, keys: &[&str]) -> BoundQueue {
        let url = broker::shared().url();
        let connection = Connection::connect(&url, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        let (options, none) = (QueueDeclareOptions::exclusive(), FieldTable::default());
        channel
            .queue_declare(NAME.into(), options, none.clone())
            .await
            .unwrap();
        for key in keys {
            let options = QueueBindOptions::default();
            let bound = channel.queue_bind(
                NAME.into(),
                exchange.into(),
                (*key).into(),
                options,
                none.clone(),
            );
            bound.await.unwrap();
        }
        BoundQueue {
            _connection: connection,
            channel,
        }
    }

    impl BoundQueue {
        /// Takes the first message.
        pub async fn get(&self) -> Option<BasicGetMessage> {
            let options = BasicGetOptions { no_ack: true };
            self.channel.basic_get(NAME.into(), options).await.unwrap()
        }
    }
}

/// Makes one test of each promise, for the fixture that `$fixture` makes.
macro_rules! contract {
    ($fixture:expr; $($promise:ident),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            contract::$promise($fixture).await;
        })+
    };
}

struct OnRabbitMq {
    /// `None`: the shared one, which must not be crashed.
    broker: Option<Arc<Broker>>,
    prefix: String,
}

impl OnRabbitMq {
    fn shared() -> Self {
        Self {
            broker: None,
            prefix: unique_prefix(),
        }
    }

    fn own() -> Self {
        Self {
            broker: Some(Arc::new(Broker::start())),
            prefix: unique_prefix(),
        }
    }

    fn options(&self) -> RabbitMqOptions {
        let broker = self.broker.as_deref().unwrap_or_else(|| broker::shared());
        options(broker, &self.prefix)
    }

    /// Waits until the node would know the bus's queues after a crash.
    async fn await_registered(&self) {
        let broker = self.broker.clone().expect("a node of its own");
        let partitions = (0..self.options().partitions).map(|n| format!("intake.{n}"));
        let queues: Vec<String> = partitions
            .chain(["dead.letters".to_owned()])
            .map(|queue| format!("{}.{queue}", self.prefix))
            .collect();
        tokio::task::spawn_blocking(move || broker.await_registered(&queues))
            .await
            .unwrap();
    }
}

impl Fixture for OnRabbitMq {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Bus>> {
        Box::pin(start(self.options()))
    }

    fn crash(&self, bus: Arc<dyn Bus>) -> BoxFuture<'_, Arc<dyn Bus>> {
        Box::pin(async move {
            drop(bus);
            self.await_registered().await;
            let broker = self.broker.clone().expect("a node of its own");
            tokio::task::spawn_blocking(move || broker.restart())
                .await
                .unwrap();
            self.open().await
        })
    }
}

mod on_rabbitmq {
    use super::*;

    contract! { OnRabbitMq::shared();
        a_partition_is_consumed_in_the_order_it_was_confirmed_in,
        a_message_arrives_as_it_was_sent,
        what_no_queue_takes_is_an_error,
        a_message_that_is_too_large_is_not_sent,
        what_is_acknowledged_does_not_come_again,
        what_failed_comes_again_and_counts,
        what_is_not_settled_comes_again_after_the_consumer_closes,
        one_consumer_is_active_and_hands_over_when_it_closes,
        one_consumer_is_active_on_the_erasures,
        a_dead_letter_that_is_put_back_keeps_its_key,
        what_is_set_aside_waits_beside_its_partition,
        closing_the_bus_ends_consumers_and_publishes,
    }

    contract! { OnRabbitMq::own();
        a_changelog_is_read_from_any_place_and_survives_a_crash,
        what_is_confirmed_survives_a_crash,
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_broker_that_restarts_loses_nothing_that_was_confirmed() {
        let fixture = OnRabbitMq::own();
        let bus = fixture.open().await;
        fixture.await_registered().await;
        let mut consumer = bus.consume(Queue::Partition(0), 20);
        let publisher = tokio::spawn(publish_through(bus.clone(), MESSAGES));
        let broker = fixture.broker.clone().unwrap();
        let mut held = Some(next_delivery(&mut consumer).await);
        let mut restart = None;
        let (mut seen, mut losses) = (HashSet::new(), 0);
        while seen.len() < MESSAGES {
            match next(&mut consumer).await {
                Consumed::Delivery(delivery) => {
                    seen.insert(delivery.message.id.clone());
                    delivery.unsettled.ack();
                }
                Consumed::Lost => {
                    losses += 1;
                    // The first message is void now, and is seen only when it comes again.
                    held.take()
                        .into_iter()
                        .for_each(|held| held.unsettled.abandon());
                }
            }
            if seen.len() == MESSAGES / 2 && restart.is_none() {
                let broker = broker.clone();
                restart = Some(tokio::task::spawn_blocking(move || broker.restart()));
            }
        }
        assert!(losses >= 1, "the consumer was never told of the loss");
        restart
            .expect("half of the messages were seen")
            .await
            .unwrap();
        publisher.await.unwrap();
        consumer.close().await;
        bus.close().await;
    }

    /// How long the broker may be away.
    const RESTART_MAX: std::time::Duration = std::time::Duration::from_secs(120);
    /// How many messages go through while the broker restarts.
    const MESSAGES: usize = 2_000;

    /// Publishes `count` messages one by one, each until it is confirmed.
    async fn publish_through(bus: Arc<dyn Bus>, count: usize) {
        for id in 0..count {
            let one = || bus.publish(vec![to(Target::Partition(0), &id.to_string())]);
            let deadline = tokio::time::Instant::now() + RESTART_MAX;
            while one().await != [Ok(())] {
                assert!(
                    tokio::time::Instant::now() < deadline,
                    "the broker did not come back"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_partition_that_was_deleted_is_declared_again() {
        let fixture = OnRabbitMq::shared();
        let bus = fixture.open().await;
        // The highest, by which it is known how many there are.
        let mut consumer = bus.consume(Queue::Partition(3), 5);
        let queue = format!("{}.intake.3", fixture.prefix);
        tokio::task::spawn_blocking(move || broker::shared().ctl(&["delete_queue", &queue]))
            .await
            .unwrap();
        assert!(matches!(next(&mut consumer).await, Consumed::Lost));
        let verdict = async {
            loop {
                let verdicts = bus.publish(vec![to(Target::Partition(3), "back")]).await;
                if verdicts == [Ok(())] {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), verdict)
            .await
            .expect("the queue is declared again");
        while let Consumed::Lost = next(&mut consumer).await {}
        consumer.close().await;
        bus.close().await;
    }

    async fn refused(options: RabbitMqOptions) -> RabbitMqError {
        let started = RabbitMq::start(options, Arc::new(Metrics::new())).await;
        started.err().expect("it must not start")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_number_of_partitions_is_refused() {
        let fixture = OnRabbitMq::shared();
        fixture.open().await.close().await;
        for partitions in [1, 3, 5, 16] {
            let error = refused(RabbitMqOptions {
                partitions,
                ..fixture.options()
            })
            .await;
            let expected = RabbitMqError::Partitions {
                configured: partitions,
                found: 4,
                queue_prefix: format!("{}.intake.", fixture.prefix),
            };
            assert_eq!(error, expected);
        }
        fixture.open().await.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_queue_declared_otherwise_is_named_with_its_setting() {
        let fixture = OnRabbitMq::shared();
        let with_limit = |bytes| RabbitMqOptions {
            destinations: vec![destination("erp", bytes)],
            ..fixture.options()
        };
        start(with_limit(1_000)).await.close().await;
        let error = refused(with_limit(2_000)).await.to_string();
        let queue = format!("{}.destination.erp", fixture.prefix);
        for word in [
            &*queue,
            "destination.erp.max_length_bytes",
            "x-max-length-bytes",
        ] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn wrong_credentials_and_vhosts_are_refused_at_start() {
        let fixture = OnRabbitMq::shared();
        let broker = broker::shared();
        let with_url = |url: String| RabbitMqOptions {
            url: url.into(),
            ..fixture.options()
        };
        let error = refused(with_url(broker.url_as("guest", "hunter2", "%2f"))).await;
        assert!(
            matches!(error, RabbitMqError::Credentials { .. }),
            "{error}"
        );
        assert!(!error.to_string().contains("hunter2"));
        let error = refused(with_url(broker.url_as("guest", "guest", "nowhere"))).await;
        assert!(matches!(error, RabbitMqError::Vhost { .. }), "{error}");
        let error = refused(with_url("http://localhost".into())).await;
        assert_eq!(error, RabbitMqError::Url);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_broker_that_comes_later_is_found() {
        let fixture = OnRabbitMq::own();
        let broker = fixture.broker.clone().unwrap();
        tokio::task::spawn_blocking(move || broker.stop())
            .await
            .unwrap();
        let bus = RabbitMq::start(fixture.options(), Arc::new(Metrics::new())).await;
        let bus = bus.unwrap_or_else(|error| panic!("{error}"));
        let mut consumer = bus.consume(Queue::Partition(0), 1);
        let verdicts = bus.publish(vec![to(Target::Partition(0), "early")]).await;
        assert_eq!(verdicts, [Err(PublishError::Unavailable)]);
        assert!(bus.depth(Queue::Partition(0)).await.is_err());
        let broker = fixture.broker.clone().unwrap();
        tokio::task::spawn_blocking(move || broker.resume())
            .await
            .unwrap();
        await_connected(&bus, true).await;
        let verdicts = bus.publish(vec![to(Target::Partition(0), "now")]).await;
        assert_eq!(verdicts, [Ok(())]);
        assert_eq!(take(&mut consumer, 1).await, ["now"]);
        bus.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_broker_short_of_memory_makes_publishes_unknown_and_then_unavailable() {
        let fixture = OnRabbitMq::own();
        let broker = fixture.broker.clone().unwrap();
        let timeout = Duration::from_secs(2);
        let bus = start(RabbitMqOptions {
            publish_timeout: timeout,
            ..fixture.options()
        })
        .await;
        let set = |limit: &'static str| {
            let broker = broker.clone();
            tokio::task::spawn_blocking(move || {
                broker.ctl(&["set_vm_memory_high_watermark", limit])
            })
        };
        set("0.000001").await.unwrap();
        let first = bus.publish(vec![to(Target::Partition(0), "first")]).await;
        assert_eq!(first, [Err(PublishError::Unknown)]);
        let second = bus.publish(vec![to(Target::Partition(0), "second")]).await;
        assert_eq!(second, [Err(PublishError::Unavailable)]);
        set("0.4").await.unwrap();
        // What was unknown is there in the end: lapin writes it when the broker takes messages again.
        let mut consumer = bus.consume(Queue::Partition(0), 1);
        assert_eq!(take(&mut consumer, 1).await, ["first"]);
        consumer.close().await;
        bus.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dead_letter_that_is_put_back_goes_to_nobody_else() {
        let fixture = OnRabbitMq::shared();
        let bus = fixture.open().await;
        let theirs = foreign::bound_queue(&format!("{}.dead", fixture.prefix), &["#"]).await;
        let key = || "enrich.x".to_owned();
        let batch = vec![
            to(Target::DeadLetters(key()), "new"),
            to(Target::KeptDeadLetters(key()), "kept"),
        ];
        assert_eq!(bus.publish(batch).await, [Ok(()); 2]);
        assert_eq!(drain(&*bus, Queue::DeadLetters).await.len(), 2);
        let heard = theirs.get().await.expect("a message").properties.clone();
        assert_eq!(heard.message_id().as_ref().unwrap().as_str(), "new");
        assert!(theirs.get().await.is_none());
        bus.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_event_goes_once_to_a_queue_bound_to_several_of_its_keys() {
        let fixture = OnRabbitMq::shared();
        let bus = fixture.open().await;
        let key = |kind: &str| RoutingKey::new(&"1".into(), "contact", kind, None);
        let topic = |kinds: [&str; 2]| Target::Topic(Topic::Enriched, kinds.map(key).into());
        let unheard = to(topic(["created", "merged"]), "unheard");
        assert_eq!(bus.publish(vec![unheard]).await, [Ok(())]);
        let enriched = format!("{}.enriched", fixture.prefix);
        let theirs = foreign::bound_queue(&enriched, &["*.*.merged", "*.*.deleted"]).await;
        let batch = vec![
            to(topic(["created", "merged"]), "by CC"),
            to(topic(["merged", "deleted"]), "by both"),
            to(topic(["created", "restored"]), "by none"),
        ];
        assert_eq!(bus.publish(batch).await, [Ok(()); 3]);
        for id in ["by CC", "by both"] {
            let properties = theirs.get().await.expect("a message").properties.clone();
            assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id);
            assert_eq!(*properties.delivery_mode(), Some(2));
            assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "crm-relay");
            assert_eq!(properties.kind().as_ref().unwrap().as_str(), "test");
            let seconds = i64::try_from(properties.timestamp().unwrap()).unwrap();
            assert!((Millis::now().as_i64() / 1_000 - seconds).abs() < 60);
        }
        assert!(theirs.get().await.is_none());
        bus.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_poison_message_ends_as_a_dead_letter() {
        let fixture = OnRabbitMq::shared();
        let bus = fixture.open().await;
        assert_eq!(
            bus.publish(vec![to(Target::Partition(0), "poison")]).await,
            [Ok(())]
        );
        let mut consumer = bus.consume(Queue::Partition(0), 1);
        for _ in 0..=100 {
            next_delivery(&mut consumer).await.unsettled.fail();
        }
        let mut letters = bus.consume(Queue::DeadLetters, 1);
        assert_eq!(take(&mut letters, 1).await, ["poison"]);
        letters.close().await;
        assert_eq!(
            drain(&*bus, Queue::Partition(0)).await,
            Vec::<String>::new()
        );
        bus.close().await;
    }
}

/// The embedded bus on a folder of its own.
struct OnEmbedded(tempfile::TempDir);

impl OnEmbedded {
    fn own() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The store that was let go of unlocks in its own time.
    async fn open_again(&self) -> Arc<dyn Bus> {
        for _ in 0..500 {
            let options = EmbeddedOptions {
                data_dir: self.0.path().to_owned(),
                partitions: 2,
                publish_timeout: Duration::from_secs(5),
            };
            match Embedded::open(options, Arc::new(Metrics::new())) {
                Err(EmbeddedError::Folder(FolderError::InUse { .. })) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => return Arc::new(opened.unwrap()),
            }
        }
        panic!("the store stays locked");
    }
}

impl Fixture for OnEmbedded {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Bus>> {
        Box::pin(self.open_again())
    }

    fn crash(&self, bus: Arc<dyn Bus>) -> BoxFuture<'_, Arc<dyn Bus>> {
        drop(bus);
        Box::pin(self.open_again())
    }
}

mod on_embedded {
    use super::*;

    contract! { OnEmbedded::own();
        a_partition_is_consumed_in_the_order_it_was_confirmed_in,
        a_message_arrives_as_it_was_sent,
        what_no_queue_takes_is_an_error,
        a_message_that_is_too_large_is_not_sent,
        what_is_acknowledged_does_not_come_again,
        what_failed_comes_again_and_counts,
        what_is_not_settled_comes_again_after_the_consumer_closes,
        one_consumer_is_active_and_hands_over_when_it_closes,
        one_consumer_is_active_on_the_erasures,
        a_dead_letter_that_is_put_back_keeps_its_key,
        what_is_set_aside_waits_beside_its_partition,
        a_changelog_is_read_from_any_place_and_survives_a_crash,
        closing_the_bus_ends_consumers_and_publishes,
        what_is_confirmed_survives_a_crash,
    }
}
