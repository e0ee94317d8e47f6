//! The broker's queues, as a subscriber and an operator see them.

use std::time::Instant;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};

use crate::process::{WAIT_INTERVAL, WAIT_MAX};

const PREFETCH: u16 = 500;

/// A connection with a channel.
pub struct Queues {
    connection: Connection,
    channel: Channel,
}

impl Queues {
    pub async fn connect(url: &str) -> Self {
        let connection = Self::connection(url).await;
        let channel = connection.create_channel().await.expect("a channel");
        Self {
            connection,
            channel,
        }
    }

    pub async fn connection(url: &str) -> Connection {
        Connection::connect(url, ConnectionProperties::default())
            .await
            .expect("a connection")
    }

    /// Declares a durable quorum queue.
    pub async fn declare(&self, queue: &str) {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        let declared = self
            .channel
            .queue_declare(queue.into(), options, arguments)
            .await;
        declared.expect("a queue");
    }

    /// Empties a queue; how many messages it held.
    pub async fn purge(&self, queue: &str) -> u32 {
        let purged = self
            .channel
            .queue_purge(queue.into(), QueuePurgeOptions::default());
        purged.await.expect("a queue")
    }

    /// Waits until somebody has declared `queue`.
    pub async fn wait_for(&self, queue: &str) {
        let begun = Instant::now();
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        loop {
            // The broker closes the channel on which it was asked for what is not there.
            let channel = self.channel().await;
            let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
            if declared.await.is_ok() {
                return;
            }
            assert!(begun.elapsed() < WAIT_MAX, "nobody declares {queue}");
            tokio::time::sleep(WAIT_INTERVAL).await;
        }
    }

    /// Deletes queues and what they hold; those that are not there too.
    pub async fn delete(&self, queues: &[String]) {
        for queue in queues {
            let deleted = self
                .channel
                .queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
            deleted.await.expect("an open channel");
        }
    }

    /// Consumes `queue` as a subscriber does, with acknowledgements, until `take` says it is enough or the time has
    /// come; whether it was enough.
    pub async fn consume(
        &self,
        queue: &str,
        until: Instant,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> bool {
        let channel = self.channel().await;
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        qos.await.expect("a prefetch");
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let mut consumer = consumer.await.expect("a consumer");
        let mut enough = false;
        while !enough
            && let Ok(Some(delivery)) = tokio::time::timeout_at(until.into(), consumer.next()).await
        {
            let delivery = delivery.expect("a delivery");
            enough = take(&delivery.data);
            let acknowledged = delivery.ack(BasicAckOptions::default());
            acknowledged.await.expect("an open channel");
        }
        channel.close(200, "".into()).await.expect("closed");
        enough
    }

    async fn channel(&self) -> Channel {
        self.connection.create_channel().await.expect("a channel")
    }
}
