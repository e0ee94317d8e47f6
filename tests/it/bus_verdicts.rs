//! Every verdict of a publish matches what the broker holds afterwards, whatever else goes on at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crm_relay::bus::rabbitmq::{RabbitMq, RabbitMqOptions};
use crm_relay::bus::{Bus, Outgoing, PublishError, Queue, Target};
use crm_relay::metrics::Metrics;

use crate::helpers::broker::{self, unique_prefix};
use crate::helpers::bus::{await_connected, destination, drain, options, start, to};
use crate::rig::proxy::{Flow, Mode, Proxy};

/// Publishing at once: more than there are channels.
const TASKS: usize = 24;
/// Batches each task publishes.
const BATCHES: usize = 2;
/// Messages in a batch: of ten, one goes nowhere, one to a queue that is full, eight to partitions.
const BATCH: usize = 250;
/// Bytes the small queue takes before it rejects.
const SMALL: u64 = 300;

type Verdict = Result<(), PublishError>;

fn target(number: usize) -> Target {
    match number % 10 {
        3 => Target::Destination("nowhere".into()),
        7 => Target::Destination("small".into()),
        n => Target::Partition(u16::try_from(n % 4).unwrap()),
    }
}

async fn publish_all(bus: Arc<dyn Bus>, task: usize) -> Vec<(String, Target, Verdict)> {
    let mut all = Vec::with_capacity(BATCHES * BATCH);
    for batch in 0..BATCHES {
        let ids = (0..BATCH).map(|n| format!("{task}-{batch}-{n}"));
        let outgoing: Vec<Outgoing> = ids.enumerate().map(|(n, id)| to(target(n), &id)).collect();
        let verdicts = bus.publish(outgoing.clone()).await;
        let sent = outgoing.into_iter().zip(verdicts);
        all.extend(sent.map(|(outgoing, verdict)| (outgoing.message.id, outgoing.target, verdict)));
    }
    all
}

/// How often each id is in the broker's queues.
async fn read_back(bus: &dyn Bus) -> HashMap<String, usize> {
    let mut held = HashMap::new();
    let partitions = (0..bus.partitions()).map(Queue::Partition);
    for queue in partitions.chain([Queue::Destination("small".into())]) {
        for id in drain(bus, queue).await {
            *held.entry(id).or_default() += 1;
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verdict_matches_what_the_broker_holds() {
    let bus = start(RabbitMqOptions {
        destinations: vec![destination("small", SMALL)],
        ..options(broker::shared(), &unique_prefix())
    })
    .await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(publish_all(bus.clone(), task)))
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    assert_eq!(all.len(), TASKS * BATCHES * BATCH);
    let held = read_back(&*bus).await;
    let mut rejected = 0;
    for (id, target, verdict) in &all {
        let expected = match (target, held.get(id)) {
            (_, Some(1)) => Ok(()),
            (_, Some(n)) => panic!("{id} is there {n} times"),
            (Target::Destination(name), None) if name == "nowhere" => Err(PublishError::Unroutable),
            (_, None) => Err(PublishError::Rejected),
        };
        assert_eq!(*verdict, expected, "{id} to {target:?}");
        rejected += usize::from(expected == Err(PublishError::Rejected));
    }
    // Most of a tenth: the small queue takes a few before it is full.
    assert!(rejected > all.len() / 20, "only {rejected} were rejected");
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_one_event_get_a_verdict_each() {
    let bus = start(RabbitMqOptions {
        destinations: vec![destination("a", 1 << 20), destination("b", 1 << 20)],
        ..options(broker::shared(), &unique_prefix())
    })
    .await;
    let copy = |name: &str| to(Target::Destination(name.into()), "same id");
    let batch = vec![
        copy("a"),
        copy("nowhere"),
        copy("b"),
        copy("a"),
        copy("nowhere"),
    ];
    let lost = Err(PublishError::Unroutable);
    assert_eq!(
        bus.publish(batch).await,
        [Ok(()), lost, Ok(()), Ok(()), lost]
    );
    assert_eq!(bus.depth(Queue::Destination("a".into())).await, Ok(2));
    assert_eq!(bus.depth(Queue::Destination("b".into())).await, Ok(1));
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_is_never_taken_for_its_neighbours() {
    let bus = start(options(broker::shared(), &unique_prefix())).await;
    let alternating = |n: usize| match n % 2 {
        0 => Target::Partition(0),
        _ => Target::Destination("nowhere".into()),
    };
    for round in 0..20 {
        let batch: Vec<_> = (0..250)
            .map(|n| to(alternating(n), &format!("{round}-{n}")))
            .collect();
        for (n, verdict) in bus.publish(batch).await.into_iter().enumerate() {
            let expected = match n % 2 {
                0 => Ok(()),
                _ => Err(PublishError::Unroutable),
            };
            assert_eq!(verdict, expected, "message {n} of round {round}");
        }
    }
    assert_eq!(bus.depth(Queue::Partition(0)).await, Ok(20 * 125));
    bus.close().await;
}

/// Messages that are given up while most of them are still to be written.
const GIVEN_UP: usize = 60;
/// Bytes of each.
const LARGE: usize = 256 * 1024;
/// Consumers that come and go meanwhile.
const CONSUMERS: usize = 300;
/// A link that takes so many bytes a second of what we send.
const SLOW: Mode = Mode {
    up: Flow::Slow(3_200_000),
    ..Mode::PASS
};

/// A bus that gives up after a moment, over a slow link which must be kept.
async fn impatient_bus(metrics: &Arc<Metrics>) -> (Arc<dyn Bus>, Proxy) {
    let mut options = options(broker::shared(), &unique_prefix());
    let direct = broker::shared().address();
    let slow = Proxy::start(move || vec![direct]).await;
    slow.set(SLOW);
    let url = broker::shared().url();
    let url = url.replace(&direct.port().to_string(), &slow.address.port().to_string());
    options.url = url.into();
    options.publish_timeout = Duration::from_secs(1);
    let bus = RabbitMq::start(options, metrics.clone()).await.unwrap();
    await_connected(&bus, true).await;
    (Arc::new(bus), slow)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_or_lets_go_does_not_cost_the_others_their_connection() {
    let metrics = Arc::new(Metrics::new());
    let (bus, _link) = impatient_bus(&metrics).await;
    let publishing = async {
        let batch = (0..GIVEN_UP).map(|n| {
            let mut outgoing = to(Target::Partition(0), &n.to_string());
            outgoing.message.body = vec![b'x'; LARGE].into();
            outgoing
        });
        let verdicts = bus.publish(batch.collect()).await;
        assert_eq!(verdicts, vec![Err(PublishError::Unknown); GIVEN_UP]);
        // What was begun arrives.
        let mut arrived = 0;
        for _ in 0..600 {
            arrived = bus.depth(Queue::Partition(0)).await.unwrap_or(arrived);
            if arrived == GIVEN_UP as u64 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        arrived
    };
    let consuming = async {
        for _ in 0..CONSUMERS {
            let mut consumer = bus.consume(Queue::Partition(1), 10);
            let told = tokio::time::timeout(Duration::from_millis(5), consumer.next()).await;
            assert!(told.is_err(), "{told:?}");
            consumer.close().await;
        }
    };
    let (arrived, ()) = tokio::join!(publishing, consuming);
    assert_eq!(metrics.bus_sessions_lost_total.get(), 0);
    assert_eq!(arrived, GIVEN_UP as u64);
    bus.close().await;
}
