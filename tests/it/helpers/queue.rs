//! Reads a destination's queue as a consumer would, with a client of its own.

use std::time::Duration;

use crm_relay::event::{DEAD_LETTER_CONTENT_TYPE, ENRICHED_CONTENT_TYPE, EnrichedEvent};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
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
        hold_against_schema(&delivery);
        deliveries.push(delivery);
    }
    channel.close(200, "done".into()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
    deliveries
}

fn hold_against_schema(delivery: &Delivery) {
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    let kind = text(delivery.properties.kind()).unwrap_or_default();
    let is_binary = delivery
        .properties
        .headers()
        .as_ref()
        .is_some_and(|headers| {
            headers
                .inner()
                .keys()
                .any(|name| name.as_str() == "ce-specversion")
        });
    match text(delivery.properties.content_type()).as_deref() {
        // Its body alone; what is in the headers is looked at by the tests of that mode.
        Some("application/json") if is_binary => {}
        Some(ENRICHED_CONTENT_TYPE) if kind.contains(".event.") => {
            contract::assert_plain_event(&delivery.data);
        }
        Some(ENRICHED_CONTENT_TYPE) => contract::assert_enriched_event(&delivery.data),
        Some(DEAD_LETTER_CONTENT_TYPE) => contract::assert_dead_letter(&delivery.data),
        other => panic!("no message of ours has the content type {other:?}"),
    }
}
