//! Reads a destination's queue as a consumer would, with a client of its own.

use std::time::Duration;

use crm_relay::event::EnrichedEvent;
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

/// A queue is empty when nothing comes for this long.
const QUIET: Duration = Duration::from_millis(700);

/// Everything the queue holds now, acknowledged.
pub async fn drain(url: &str, queue: &str) -> Vec<EnrichedEvent> {
    let bodies = drain_bodies(url, queue).await;
    bodies
        .iter()
        .map(|body| serde_json::from_slice(body).unwrap())
        .collect()
}

/// The bodies of everything the queue holds now, acknowledged.
pub async fn drain_bodies(url: &str, queue: &str) -> Vec<Vec<u8>> {
    let deliveries = drain_deliveries(url, queue).await;
    deliveries
        .into_iter()
        .map(|delivery| delivery.data)
        .collect()
}

/// Everything the queue holds now with its AMQP properties, acknowledged.
pub async fn drain_deliveries(url: &str, queue: &str) -> Vec<Delivery> {
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .basic_qos(500, BasicQosOptions::default())
        .await
        .unwrap();
    let mut consumer = channel
        .basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let mut deliveries = Vec::new();
    while let Ok(Some(delivery)) = tokio::time::timeout(QUIET, consumer.next()).await {
        let delivery = delivery.unwrap();
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        deliveries.push(delivery);
    }
    channel.close(200, "done".into()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
    deliveries
}
