//! Talking to a bus in tests: messages, options, bounded waits.

use std::sync::Arc;
use std::time::Duration;

use crm_relay::bus::rabbitmq::{DestinationQueue, RabbitMq, RabbitMqOptions};
use crm_relay::bus::{Bus, Consumed, Consumer, Delivery, Message, Outgoing, Queue, Target};
use crm_relay::config::ClientTlsConfig;
use crm_relay::metrics::Metrics;

use super::broker::Broker;

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A message whose body is its id.
pub fn message(id: &str) -> Message {
    Message {
        id: id.to_owned(),
        content_type: "application/json".to_owned(),
        kind: "test".to_owned(),
        headers: Vec::new(),
        body: id.to_owned().into(),
    }
}

/// A message to `target`.
pub fn to(target: Target, id: &str) -> Outgoing {
    Outgoing {
        target,
        message: message(id),
    }
}

/// Options for `broker`: four partitions, no destination.
pub fn options(broker: &Broker, prefix: &str) -> RabbitMqOptions {
    RabbitMqOptions {
        url: broker.url().into(),
        tls: ClientTlsConfig::default(),
        prefix: prefix.to_owned(),
        partitions: 4,
        publish_timeout: Duration::from_secs(20),
        destinations: Vec::new(),
        connection_name: "crm-relay test".to_owned(),
    }
}

/// A destination's queue.
pub fn destination(name: &str, max_length_bytes: u64) -> DestinationQueue {
    DestinationQueue {
        name: name.to_owned(),
        max_length_bytes,
    }
}

/// A bus that must start.
pub async fn start(options: RabbitMqOptions) -> Arc<dyn Bus> {
    let bus = RabbitMq::start(options, Arc::new(Metrics::new())).await;
    let bus: Arc<dyn Bus> = Arc::new(bus.unwrap_or_else(|error| panic!("{error}")));
    await_connected(&*bus, true).await;
    bus
}

/// Waits until the bus is connected, or is not.
pub async fn await_connected(bus: &dyn Bus, state: bool) {
    let mut connected = bus.connected();
    let reached = connected.wait_for(|connected| *connected == state);
    tokio::time::timeout(PATIENCE, reached)
        .await
        .expect("the bus reaches the state in time")
        .unwrap();
}

/// What the consumer is told next.
pub async fn next(consumer: &mut Consumer) -> Consumed {
    tokio::time::timeout(PATIENCE, consumer.next())
        .await
        .expect("the consumer is told something in time")
        .expect("the bus is open")
}

/// The next delivery, which must not be a loss.
pub async fn next_delivery(consumer: &mut Consumer) -> Delivery {
    match next(consumer).await {
        Consumed::Delivery(delivery) => delivery,
        Consumed::Lost => panic!("the session was lost"),
    }
}

/// Takes and acknowledges `count` messages and returns their ids.
pub async fn take(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut ids = Vec::with_capacity(count);
    while ids.len() < count {
        let delivery = next_delivery(consumer).await;
        ids.push(delivery.message.id.clone());
        delivery.unsettled.ack();
    }
    ids
}

/// Empties `queue` and returns the ids of what was in it. It must not be published to meanwhile.
pub async fn drain(bus: &dyn Bus, queue: Queue) -> Vec<String> {
    let count = bus.depth(queue.clone()).await.unwrap();
    let mut consumer = bus.consume(queue, 256);
    let ids = take(&mut consumer, usize::try_from(count).unwrap()).await;
    consumer.close().await;
    ids
}
