//! Consuming a queue: one channel per consumer and session, deliveries out, settlements back.
//!
//! A delivery's tag means something only on the channel it came by, so each session has its own path for
//! settlements; one of an old session finds it gone. A consumer ends by closing its channel, never by
//! `basic.cancel`, which would let the next consumer start beside deliveries that are not settled.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::error::{SessionError, within};
use super::session::{Session, close_consumer, delays};
use crate::bus::{
    Consumed, ConsumerFeed, Delivery, Message, RECONNECT_DELAY_MAX, Settlement, Unsettled,
};
use crate::metrics::Metrics;

/// How long one answer of the broker may take.
const CONSUME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long writing settlements may take before the session counts as broken.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most settlements written at once, between two looks at everything else.
const SETTLEMENTS_MAX: usize = 256;
/// Where a quorum queue counts deliveries. Absent on the first one.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// A consumer's task.
pub(super) struct Feed {
    /// The queue's name.
    pub(super) queue: ShortString,
    /// The most unsettled deliveries.
    pub(super) prefetch: u16,
    /// The present session.
    pub(super) session: watch::Receiver<Option<Arc<Session>>>,
    /// Resolves when the bus closes.
    pub(super) closing: CancellationToken,
    /// Counts deliveries and settlements.
    pub(super) metrics: Arc<Metrics>,
}

/// Why a session with the queue ended.
enum End {
    /// The consumer or the bus closes. All is flushed.
    Closed,
    /// The channel, the connection or the queue is gone.
    Lost,
}

type Settlements = mpsc::UnboundedReceiver<(u64, Settlement)>;

impl Feed {
    /// Consumes, session after session, until the consumer or the bus closes.
    pub(super) async fn run(mut self, feed: ConsumerFeed) {
        let mut delays = delays();
        while let Some(session) = self.next_session(&feed).await {
            match self.begin(&session).await {
                Ok((channel, mut consumer)) => {
                    delays = self::delays();
                    let end = self.serve(&session, &channel, &mut consumer, &feed).await;
                    close_consumer(&channel, consumer).await;
                    if matches!(end, End::Closed) || !feed.send(Consumed::Lost).await {
                        return;
                    }
                }
                Err(error) => self.note(&session, &error),
            }
            let delay = delays.next().unwrap_or(RECONNECT_DELAY_MAX);
            self.rest(delay.min(RECONNECT_DELAY_MAX), &feed).await;
        }
    }

    /// The present session, or the next one. `None` when consuming is over.
    async fn next_session(&mut self, feed: &ConsumerFeed) -> Option<Arc<Session>> {
        tokio::select! {
            biased;
            () = feed.closed() => None,
            () = self.closing.cancelled() => None,
            session = self.session.wait_for(Option::is_some) => session.ok()?.clone(),
        }
    }

    async fn rest(&self, delay: Duration, feed: &ConsumerFeed) {
        tokio::select! {
            () = feed.closed() => {}
            () = self.closing.cancelled() => {}
            () = tokio::time::sleep(delay) => {}
        }
    }

    async fn begin(&self, session: &Session) -> Result<(Channel, lapin::Consumer), SessionError> {
        let channel = session.channel().await?;
        let qos = channel.basic_qos(self.prefetch, BasicQosOptions { global: false });
        within(CONSUME_TIMEOUT, qos).await?;
        let consume = channel.basic_consume(
            self.queue.clone(),
            ShortString::default(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = within(CONSUME_TIMEOUT, consume).await?;
        Ok((channel, consumer))
    }

    fn note(&self, session: &Session, error: &SessionError) {
        tracing::warn!(queue = self.queue.as_str(), %error, "the queue cannot be consumed; trying again");
        if error.is_not_found() {
            // Somebody deleted it. A new session declares what is ours.
            session.end();
        }
    }

    async fn serve(
        &self,
        session: &Session,
        channel: &Channel,
        consumer: &mut lapin::Consumer,
        feed: &ConsumerFeed,
    ) -> End {
        let (sender, mut settlements) = mpsc::unbounded_channel();
        loop {
            tokio::select! {
                biased;
                () = session.ended() => return End::Lost,
                () = feed.closed() => return self.finish(channel, &mut settlements).await,
                () = self.closing.cancelled() => return self.finish(channel, &mut settlements).await,
                Some(first) = settlements.recv() => {
                    if self.settle(channel, first, &mut settlements).await.is_err() {
                        return End::Lost;
                    }
                }
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => {
                        self.metrics.bus_deliveries_total.inc();
                        if !feed.send(Consumed::Delivery(translate(delivery, &sender))).await {
                            return self.finish(channel, &mut settlements).await;
                        }
                    }
                    // The broker cancelled the consumer, or the channel broke.
                    Some(Err(_)) | None => return End::Lost,
                },
            }
        }
    }

    /// Writes what is settled so far. What fails now comes again.
    async fn finish(&self, channel: &Channel, settlements: &mut Settlements) -> End {
        while let Ok(first) = settlements.try_recv() {
            if self.settle(channel, first, settlements).await.is_err() {
                break;
            }
        }
        End::Closed
    }

    /// Writes `first` and what waits behind it, and counts it.
    async fn settle(
        &self,
        channel: &Channel,
        first: (u64, Settlement),
        settlements: &mut Settlements,
    ) -> Result<(), SessionError> {
        let mut batch = vec![first];
        while batch.len() < SETTLEMENTS_MAX
            && let Ok(next) = settlements.try_recv()
        {
            batch.push(next);
        }
        let writes = batch.iter().map(|(tag, how)| write(channel, *tag, *how));
        within(SETTLE_TIMEOUT, try_join_all(writes)).await?;
        for (_, how) in &batch {
            let settled = &self.metrics.bus_settlements_total;
            settled.with_label_values(&[how.as_str()]).inc();
        }
        Ok(())
    }
}

async fn write(channel: &Channel, tag: u64, how: Settlement) -> lapin::Result<()> {
    match how {
        Settlement::Ack => {
            channel
                .basic_ack(tag, BasicAckOptions { multiple: false })
                .await
        }
        Settlement::HandBack => {
            let options = BasicNackOptions {
                multiple: false,
                requeue: true,
            };
            channel.basic_nack(tag, options).await
        }
        Settlement::Fail => {
            let options = BasicRejectOptions { requeue: true };
            channel.basic_reject(tag, options).await
        }
    }
}

fn translate(
    delivery: lapin::message::Delivery,
    settlements: &mpsc::UnboundedSender<(u64, Settlement)>,
) -> Delivery {
    let properties = &delivery.properties;
    Delivery {
        routing_key: delivery.routing_key.as_str().to_owned(),
        delivery_count: delivery_count(properties),
        unsettled: Unsettled::new(delivery.delivery_tag, settlements.clone()),
        message: Message {
            id: text(properties.message_id()),
            content_type: text(properties.content_type()),
            kind: text(properties.kind()),
            headers: Vec::new(),
            body: Bytes::from(delivery.data),
        },
    }
}

fn text(property: &Option<ShortString>) -> String {
    property
        .as_ref()
        .map_or_else(String::new, |text| text.as_str().to_owned())
}

/// The header may have any of AMQP's integer types.
fn delivery_count(properties: &BasicProperties) -> u32 {
    let headers = properties.headers().as_ref();
    let count = match headers.and_then(|headers| headers.inner().get(DELIVERY_COUNT)) {
        Some(AMQPValue::ShortShortInt(n)) => i64::from(*n),
        Some(AMQPValue::ShortShortUInt(n)) => i64::from(*n),
        Some(AMQPValue::ShortInt(n)) => i64::from(*n),
        Some(AMQPValue::ShortUInt(n)) => i64::from(*n),
        Some(AMQPValue::LongInt(n)) => i64::from(*n),
        Some(AMQPValue::LongUInt(n)) => i64::from(*n),
        Some(AMQPValue::LongLongInt(n)) => *n,
        _ => 0,
    };
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(value: Option<AMQPValue>) -> u32 {
        let mut headers = FieldTable::default();
        if let Some(value) = value {
            headers.insert(DELIVERY_COUNT.into(), value);
        }
        delivery_count(&BasicProperties::default().with_headers(headers))
    }

    #[test]
    fn a_delivery_count_is_read_whatever_its_type_and_absent_is_0() {
        assert_eq!(delivery_count(&BasicProperties::default()), 0);
        assert_eq!(counted(None), 0);
        assert_eq!(counted(Some(AMQPValue::LongLongInt(3))), 3);
        assert_eq!(counted(Some(AMQPValue::ShortShortUInt(2))), 2);
        assert_eq!(counted(Some(AMQPValue::LongInt(-1))), 0);
        assert_eq!(counted(Some(AMQPValue::LongLongInt(i64::MAX))), u32::MAX);
    }
}
