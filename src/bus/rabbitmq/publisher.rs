//! Publishing: a batch is one exclusive use of one confirm channel, and verdicts are given only when every
//! confirm of a window has come.
//!
//! lapin hands a returned message to whichever confirm resolves next, so neither confirm nor return tells
//! anything by itself. All of them together do: once every confirm of a window is there, so is every return,
//! and each return names its message by exchange, routing key and message id. No two mandatory messages of
//! one window share these three, so the match is exact.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::time::Instant;

use super::session::Session;
use super::topology::Topology;
use crate::bus::{MESSAGE_BYTES_MAX, Outgoing, PublishError, Queue, Target, Topic};
use crate::event::Millis;

/// The most unconfirmed messages on one channel. More buys latency, not throughput.
const WINDOW_MESSAGES_MAX: usize = 256;
/// The most unconfirmed bytes on one channel, beyond its first message: lapin holds a copy of each.
const WINDOW_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;
/// AMQP's `app-id` of what we publish.
const APP_ID: &str = "crm-relay";
/// AMQP's delivery mode for messages that outlive a restart.
const PERSISTENT: u8 = 2;

/// What came of one message.
pub(super) type Verdict = Result<(), PublishError>;

/// A message in AMQP's terms.
struct Prepared {
    /// Its place in the batch.
    index: usize,
    address: Address,
    mandatory: bool,
    properties: BasicProperties,
    body: bytes::Bytes,
}

/// What a returned message is recognised by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Address {
    exchange: String,
    routing_key: String,
    message_id: String,
}

/// What the broker said to one message before the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Ack,
    Nack,
    /// Nothing, or the channel broke.
    None,
}

/// Publishes `messages` over `session` and gives one verdict for each, in order, by `deadline`.
pub(super) async fn publish(
    session: Option<Arc<Session>>,
    topology: &Topology,
    messages: Vec<Outgoing>,
    deadline: Instant,
) -> Vec<Verdict> {
    let mut verdicts = vec![Err(PublishError::Unavailable); messages.len()];
    let mut batch = Vec::with_capacity(messages.len());
    for (index, outgoing) in messages.into_iter().enumerate() {
        match prepare(index, outgoing, topology) {
            Ok(prepared) => batch.push(prepared),
            Err(error) => verdicts[index] = Err(error),
        }
    }
    if let Some(session) = session.filter(|session| !batch.is_empty() && !session.blocked()) {
        publish_batch(&session, topology, &batch, deadline, &mut verdicts).await;
    }
    verdicts
}

/// Sends window after window. What is not sent keeps the verdict it has, [`PublishError::Unavailable`].
async fn publish_batch(
    session: &Session,
    topology: &Topology,
    batch: &[Prepared],
    deadline: Instant,
    verdicts: &mut [Verdict],
) {
    let leased = tokio::time::timeout_at(deadline, session.lease()).await;
    let Ok(Ok(Some(lease))) = leased else {
        return;
    };
    for window in windows(batch) {
        let (answers, returned) = send(lease.channel(), window, deadline).await;
        let complete = !answers.contains(&Answer::None);
        for (message, verdict) in window.iter().zip(judge(window, &answers, &returned)) {
            verdicts[message.index] = verdict;
        }
        if returned.iter().any(|address| is_own(topology, address)) {
            tracing::error!("a queue of ours is gone from the broker; declaring it again");
            session.end();
        }
        if !complete {
            return;
        }
    }
    lease.give_back();
}

/// Publishes a window in order, then collects answers and returns until all are there or time is up.
async fn send(
    channel: &Channel,
    window: &[Prepared],
    deadline: Instant,
) -> (Vec<Answer>, HashSet<Address>) {
    let mut answers = vec![Answer::None; window.len()];
    let mut returned = HashSet::new();
    let mut waiting = FuturesUnordered::new();
    for (place, message) in window.iter().enumerate() {
        let mut confirm = Box::pin(async move { (place, send_one(channel, message).await) });
        // The first poll takes the delivery tag and queues the frames, so this is the order on the wire.
        match poll_once(confirm.as_mut()).await {
            Poll::Ready((place, confirmed)) => {
                take(confirmed, &mut answers[place], &mut returned);
            }
            Poll::Pending => waiting.push(confirm),
        }
    }
    let collect = async {
        while let Some((place, confirmed)) = waiting.next().await {
            take(confirmed, &mut answers[place], &mut returned);
        }
    };
    // Late is not failed: what has no answer stays unknown.
    let _ = tokio::time::timeout_at(deadline, collect).await;
    drop(waiting);
    (answers, returned)
}

async fn send_one(channel: &Channel, message: &Prepared) -> lapin::Result<Confirmation> {
    let confirm = channel.basic_publish(
        message.address.exchange.as_str().into(),
        message.address.routing_key.as_str().into(),
        BasicPublishOptions {
            mandatory: message.mandatory,
            immediate: false,
        },
        &message.body,
        message.properties.clone(),
    );
    confirm.await?.await
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

fn take(
    confirmed: lapin::Result<Confirmation>,
    answer: &mut Answer,
    returned: &mut HashSet<Address>,
) {
    let message = match confirmed {
        Ok(Confirmation::Ack(message)) => {
            *answer = Answer::Ack;
            message
        }
        Ok(Confirmation::Nack(message)) => {
            *answer = Answer::Nack;
            message
        }
        Ok(Confirmation::NotRequested) => {
            tracing::error!("a channel without confirms was published on (this is a bug)");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "a publish has no confirm");
            None
        }
    };
    returned.extend(message.as_ref().map(address_of));
}

fn address_of(message: &BasicReturnMessage) -> Address {
    let message_id = message.properties.message_id();
    Address {
        exchange: message.exchange.as_str().to_owned(),
        routing_key: message.routing_key.as_str().to_owned(),
        message_id: message_id
            .as_ref()
            .map_or_else(String::new, |id| id.as_str().to_owned()),
    }
}

/// One verdict for each message of a window.
///
/// While an answer is missing, a return may be missing too: it hangs on the confirm that has not come. Then
/// an acknowledged mandatory message may be one that was returned, so it is unknown as well.
fn judge(window: &[Prepared], answers: &[Answer], returned: &HashSet<Address>) -> Vec<Verdict> {
    let complete = !answers.contains(&Answer::None);
    window
        .iter()
        .zip(answers)
        .map(|(message, answer)| match answer {
            _ if message.mandatory && returned.contains(&message.address) => {
                Err(PublishError::Unroutable)
            }
            Answer::Nack => Err(PublishError::Rejected),
            Answer::Ack if complete || !message.mandatory => Ok(()),
            Answer::Ack | Answer::None => Err(PublishError::Unknown),
        })
        .collect()
}

/// Cuts a batch into windows: bounded in messages and bytes, and without two mandatory messages that a
/// return could not tell apart.
fn windows(batch: &[Prepared]) -> Vec<&[Prepared]> {
    let mut windows = Vec::new();
    let (mut start, mut bytes, mut seen) = (0, 0, HashSet::new());
    for (place, message) in batch.iter().enumerate() {
        let full = place - start == WINDOW_MESSAGES_MAX
            || (place > start && bytes + message.body.len() > WINDOW_BYTES_MAX);
        if full || (message.mandatory && seen.contains(&message.address)) {
            windows.push(&batch[start..place]);
            (start, bytes) = (place, 0);
            seen.clear();
        }
        bytes += message.body.len();
        if message.mandatory {
            seen.insert(&message.address);
        }
    }
    windows.push(&batch[start..]);
    windows
}

/// Whether a message that no queue took was meant for a queue that we declare ourselves.
fn is_own(topology: &Topology, address: &Address) -> bool {
    let is_partition = || {
        let n = address.routing_key.parse::<u16>();
        address.exchange == topology.intake() && n.is_ok_and(|n| n < topology.partitions())
    };
    [topology.dead(), topology.dead_kept()].contains(&address.exchange) || is_partition()
}

/// A message in AMQP's terms.
///
/// # Errors
/// [`PublishError::TooLarge`]: the body, or a property that AMQP holds in 255 bytes.
fn prepare(
    index: usize,
    Outgoing { target, message }: Outgoing,
    topology: &Topology,
) -> Result<Prepared, PublishError> {
    if message.body.len() > MESSAGE_BYTES_MAX {
        return Err(PublishError::TooLarge);
    }
    let mut headers = text_headers(message.headers);
    let mandatory = !matches!(target, Target::Topic(..));
    let (exchange, routing_key) = match target {
        Target::Partition(n) => (topology.intake(), n.to_string()),
        Target::Backlog(n) => (String::new(), topology.queue(&Queue::Backlog(n))),
        Target::Changelog(n) => (String::new(), topology.changelog(n)),
        Target::Destination(name) => (String::new(), topology.queue(&Queue::Destination(name))),
        Target::DeadLetters(key) => (topology.dead(), key),
        Target::KeptDeadLetters(key) => (topology.dead_kept(), key),
        Target::Erasures => (String::new(), topology.queue(&Queue::Erasures)),
        Target::Topic(topic, keys) => {
            let mut keys = keys.iter().map(|key| key.as_str().to_owned());
            let first = keys.next().unwrap_or_default();
            copy_to(keys, &mut headers);
            let exchange = match topic {
                Topic::Enriched => topology.enriched(),
                Topic::Events => topology.events(),
            };
            (exchange, first)
        }
    };
    short(&routing_key)?;
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_app_id(APP_ID.into())
        .with_timestamp(now_seconds())
        .with_message_id(short(&message.id)?)
        .with_content_type(short(&message.content_type)?)
        .with_type(short(&message.kind)?);
    if !headers.inner().is_empty() {
        properties = properties.with_headers(headers);
    }
    Ok(Prepared {
        index,
        address: Address {
            exchange,
            routing_key,
            message_id: message.id,
        },
        mandatory,
        properties,
        body: message.body,
    })
}

fn text_headers(texts: Vec<(&'static str, String)>) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, text) in texts {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    }
    headers
}

/// RabbitMQ's `CC` header: further routing keys, visible to consumers.
fn copy_to(keys: impl Iterator<Item = String>, headers: &mut FieldTable) {
    let keys: Vec<AMQPValue> = keys.map(|key| AMQPValue::LongString(key.into())).collect();
    if !keys.is_empty() {
        headers.insert("CC".into(), AMQPValue::FieldArray(keys.into()));
    }
}

/// AMQP's `timestamp` counts seconds.
fn now_seconds() -> u64 {
    u64::try_from(Millis::now().as_i64() / 1_000).unwrap_or(0)
}

fn short(text: &str) -> Result<ShortString, PublishError> {
    ShortString::try_new(text).map_err(|_| PublishError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(id: &str, mandatory: bool, bytes: usize) -> Prepared {
        Prepared {
            index: 0,
            address: Address {
                exchange: "x".into(),
                routing_key: "k".into(),
                message_id: id.into(),
            },
            mandatory,
            properties: BasicProperties::default(),
            body: vec![0; bytes].into(),
        }
    }

    fn sizes(batch: &[Prepared]) -> Vec<usize> {
        windows(batch).iter().map(|window| window.len()).collect()
    }

    #[test]
    fn a_window_is_bounded_in_messages() {
        let batch: Vec<_> = (0..600)
            .map(|i| prepared(&i.to_string(), true, 1))
            .collect();
        assert_eq!(sizes(&batch), [256, 256, 88]);
    }

    #[test]
    fn a_window_is_bounded_in_bytes() {
        let batch: Vec<_> = (0..5)
            .map(|i| prepared(&i.to_string(), true, MESSAGE_BYTES_MAX))
            .collect();
        assert_eq!(sizes(&batch), [2, 2, 1]);
    }

    #[test]
    fn messages_that_a_return_cannot_tell_apart_go_in_different_windows() {
        let batch: Vec<_> = ["a", "b", "a", "a"].map(|id| prepared(id, true, 1)).into();
        assert_eq!(sizes(&batch), [2, 1, 1]);
        let batch: Vec<_> = ["a", "a"].map(|id| prepared(id, false, 1)).into();
        assert_eq!(sizes(&batch), [2]);
    }

    #[test]
    fn a_return_counts_for_its_message_whatever_confirm_it_hangs_on() {
        let window: Vec<_> = ["a", "b", "c"].map(|id| prepared(id, true, 1)).into();
        let returned = HashSet::from([window[1].address.clone()]);
        let verdicts = judge(
            &window,
            &[Answer::Ack, Answer::Ack, Answer::Nack],
            &returned,
        );
        assert_eq!(
            verdicts,
            [
                Ok(()),
                Err(PublishError::Unroutable),
                Err(PublishError::Rejected)
            ]
        );
    }

    #[test]
    fn an_incomplete_window_confirms_no_mandatory_message() {
        let window = [
            prepared("a", true, 1),
            prepared("b", false, 1),
            prepared("c", true, 1),
        ];
        let verdicts = judge(
            &window,
            &[Answer::Ack, Answer::Ack, Answer::None],
            &HashSet::new(),
        );
        assert_eq!(
            verdicts,
            [
                Err(PublishError::Unknown),
                Ok(()),
                Err(PublishError::Unknown)
            ]
        );
    }
}
