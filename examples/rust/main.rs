//! A consumer in Rust: `cargo run --example rust -- amqp://guest:guest@127.0.0.1:5672/%2f crm.destination.billing`.
//!
//! The types are the relay's own. What it keeps is in memory here; keep it in a database, and write what a message
//! changes in one transaction before you acknowledge it.

#![allow(clippy::print_stdout)]

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;
use crm_relay::event::{EnrichedEvent, EventId, Record, Version};
use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

/// What we know, by `source/subject`: one record of one portal.
#[derive(Default)]
struct Store {
    seen: HashSet<EventId>,
    versions: HashMap<String, Version>,
    records: HashMap<String, Record>,
}

impl Store {
    /// Takes in a message, and says what came of it.
    fn take(&mut self, message: EnrichedEvent) -> String {
        let EnrichedEvent {
            source,
            subject,
            data,
            ..
        } = message;
        let events = data.events.into_iter();
        let new = events
            .filter(|event| self.seen.insert(event.id.clone()))
            .count();
        let key = format!("{source}/{subject}");
        // Of two messages about one record the one with the greater version is newer.
        let newest = self.versions.get(&key);
        let state = if newest.is_some_and(|newest| *newest >= data.version) {
            "outdated"
        } else {
            self.versions.insert(key.clone(), data.version.clone());
            match (data.record, data.tombstone) {
                (_, Some(_)) => {
                    self.records.remove(&key);
                    "removed"
                }
                (Some(record), None) => {
                    self.records.insert(key, record);
                    "stored"
                }
                (None, None) => "unread",
            }
        };
        format!("{subject} {} {state}, {new} new events", data.version)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let url = args.next().context("the broker's URL is missing")?;
    let queue = args.next().context("the queue is missing")?;
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(50, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut deliveries = channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await?;
    let mut store = Store::default();
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let message = serde_json::from_slice(&delivery.data)?;
        println!("{}", store.take(message));
        delivery.ack(BasicAckOptions::default()).await?;
    }
    anyhow::bail!("the broker ended the consumer")
}
