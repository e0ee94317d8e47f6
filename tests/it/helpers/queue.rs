//! Reads a destination's queue as a consumer would, with a client of its own.

use std::time::Duration;

use crm_relay::event::{DEAD_LETTER_CONTENT_TYPE, ENRICHED_CONTENT_TYPE, EnrichedEvent};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use super::contract;

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

/// The bodies of everything the queue holds now, acknowledged, each as its schema says.
pub async fn drain_bodies(url: &str, queue: &str) -> Vec<Vec<u8>> {
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
    let mut bodies = Vec::new();
    while let Ok(Some(delivery)) = tokio::time::timeout(QUIET, consumer.next()).await {
        let delivery = delivery.unwrap();
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        hold_against_schema(&delivery);
        bodies.push(delivery.data);
    }
    channel.close(200, "done".into()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
    bodies
}

fn hold_against_schema(delivery: &Delivery) {
    let content_type = delivery
        .properties
        .content_type()
        .as_ref()
        .map(|text| text.as_str());
    match content_type {
        Some(ENRICHED_CONTENT_TYPE) => contract::assert_enriched_event(&delivery.data),
        Some(DEAD_LETTER_CONTENT_TYPE) => contract::assert_dead_letter(&delivery.data),
        other => panic!("no message of ours has the content type {other:?}"),
    }
}
