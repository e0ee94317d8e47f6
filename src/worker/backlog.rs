//! The backlog of a partition, as its shell consumes it.
//!
//! The broker does not tell a consumer of the partition that it is the active one; a delivery does. After a
//! restart none may come for hours while the backlog is full. So who has had no delivery looks there now and
//! then, and if something waits, publishes a notice to the partition: the one that gets it is active.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::bus::{Bus, Consumed, Consumer, Message, Outgoing, Queue, Target};

/// How often a shell that has had no delivery looks whether the backlog holds something.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The `type` of a notice.
const NOTICE_KIND: &str = "crm.backlog_notice.v1";

/// The consumer of a partition's backlog, while we are active on the partition.
#[derive(Debug)]
pub(super) struct Backlog {
    partition: u16,
    prefetch: u16,
    consumer: Option<Consumer>,
    next_look: Instant,
}

/// Whether a message only tells that the backlog holds something.
pub(super) fn is_notice(message: &Message) -> bool {
    message.kind == NOTICE_KIND
}

impl Backlog {
    pub(super) fn new(partition: u16, prefetch: u16) -> Self {
        Self {
            partition,
            prefetch,
            consumer: None,
            next_look: Instant::now(),
        }
    }

    /// We are active on the partition: begins to consume, if not done yet.
    pub(super) fn open(&mut self, bus: &dyn Bus) {
        let queue = Queue::Backlog(self.partition);
        self.consumer
            .get_or_insert_with(|| bus.consume(queue, self.prefetch));
    }

    /// Lets go of the backlog: we may not be active any more, or the bus is closed.
    pub(super) fn close(&mut self) {
        self.consumer = None;
        self.next_look = Instant::now();
    }

    /// What [`Self::next`] would give without waiting.
    pub(super) fn unread(&mut self) -> impl Iterator<Item = Consumed> + '_ {
        self.consumer.iter_mut().flat_map(Consumer::unread)
    }

    /// What the backlog delivers; pending while it is not open.
    pub(super) async fn next(&mut self) -> Option<Consumed> {
        match &mut self.consumer {
            Some(consumer) => consumer.next().await,
            None => pending().await,
        }
    }

    /// What is to be done to find out whether somebody is to be told of the backlog; `None` when it is open or
    /// was looked at not long ago.
    pub(super) fn look(&mut self, bus: Arc<dyn Bus>) -> Option<BoxFuture<'static, ()>> {
        if self.consumer.is_some() || Instant::now() < self.next_look || !*bus.connected().borrow()
        {
            return None;
        }
        self.next_look = Instant::now() + LOOK_INTERVAL;
        let partition = self.partition;
        Some(Box::pin(async move {
            let depth = bus.depth(Queue::Backlog(partition)).await;
            if depth.is_ok_and(|messages| messages > 0) {
                // When it fails, the next look comes.
                bus.publish(vec![notice(partition)]).await;
            }
        }))
    }
}

fn notice(partition: u16) -> Outgoing {
    Outgoing {
        target: Target::Partition(partition),
        message: Message {
            id: format!("backlog-{partition}"),
            content_type: "application/octet-stream".to_owned(),
            kind: NOTICE_KIND.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        },
    }
}
