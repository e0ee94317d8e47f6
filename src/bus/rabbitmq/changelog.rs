//! Reading a partition's changelog, a stream, from some place to its end.
//!
//! A stream has no end that a consumer is told of. So an end mark is published first, and read up to: what
//! was confirmed before stands before it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::sync::mpsc;

use super::error::{SessionError, within};
use super::session::{Session, close_consumer};
use crate::bus::StoredNote;

/// The `type` of an end mark.
pub(super) const END_KIND: &str = "crm.changelog_end.v1";
/// How long the broker may take for an answer, or for the next note.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Deliveries ahead of us. A stream gives credit by them.
const PREFETCH: u16 = 2_000;
/// Deliveries acknowledged at once.
const ACK_EVERY: u64 = 500;
/// Where a stream says which place a message has.
const OFFSET: &str = "x-stream-offset";

/// Sends the notes of the stream `queue` after place `after`, up to the end mark of message id `end`.
///
/// # Errors
/// The broker's, and a time-out.
pub(super) async fn read(
    session: &Session,
    queue: &str,
    after: Option<u64>,
    end: &str,
    notes: &mpsc::Sender<StoredNote>,
) -> Result<(), SessionError> {
    let channel = session.channel().await?;
    let mut consumer = begin(&channel, queue, after).await?;
    let read = read_on(&channel, &mut consumer, end, notes).await;
    close_consumer(&channel, consumer).await;
    read
}

async fn begin(
    channel: &Channel,
    queue: &str,
    after: Option<u64>,
) -> Result<lapin::Consumer, SessionError> {
    let qos = channel.basic_qos(PREFETCH, BasicQosOptions { global: false });
    within(READ_TIMEOUT, qos).await?;
    let mut arguments = FieldTable::default();
    arguments.insert(OFFSET.into(), first_place(after));
    let consume = channel.basic_consume(
        queue.into(),
        ShortString::default(),
        BasicConsumeOptions::default(),
        arguments,
    );
    within(READ_TIMEOUT, consume).await
}

async fn read_on(
    channel: &Channel,
    consumer: &mut lapin::Consumer,
    end: &str,
    notes: &mpsc::Sender<StoredNote>,
) -> Result<(), SessionError> {
    let mut count = 0_u64;
    loop {
        let next = tokio::time::timeout(READ_TIMEOUT, consumer.next());
        let next = next
            .await
            .map_err(|_| SessionError::Timeout(READ_TIMEOUT))?;
        let delivery = next.ok_or(SessionError::Cancelled)??;
        let properties = &delivery.properties;
        let is_end = properties
            .kind()
            .as_ref()
            .is_some_and(|kind| kind.as_str() == END_KIND);
        let id = properties.message_id().as_ref();
        if is_end && id.is_some_and(|id| id.as_str() == end) {
            return Ok(());
        }
        count += 1;
        if count.is_multiple_of(ACK_EVERY) {
            let acks = channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true });
            within(READ_TIMEOUT, acks).await?;
        }
        let position = place(properties).filter(|_| !is_end);
        if let Some(position) = position {
            let note = Bytes::from(delivery.data);
            if notes.send(StoredNote { position, note }).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn first_place(after: Option<u64>) -> AMQPValue {
    match after.and_then(|after| i64::try_from(after).ok()) {
        Some(after) => AMQPValue::LongLongInt(after + 1),
        None => AMQPValue::LongString("first".into()),
    }
}

fn place(properties: &BasicProperties) -> Option<u64> {
    match properties.headers().as_ref()?.inner().get(OFFSET)? {
        AMQPValue::LongLongInt(place) => u64::try_from(*place).ok(),
        _ => None,
    }
}
