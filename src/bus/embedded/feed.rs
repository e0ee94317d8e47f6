//! Feeds a consumer: waits for its turn, then keeps it supplied up to its prefetch and passes settlements on.
//!
//! All a session remembers is which messages are in hand and how far it has looked. A message that comes back is
//! found again by looking from before it, so it is delivered again in its place.
//!
//! A delivery is counted, durably, *before* it is handed out; a hand-back takes the count back. So a
//! message that crashes the process every time reaches the delivery limit, and so does, more slowly,
//! whatever was in hand beside it: the same as on RabbitMQ.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::Handle;
use super::signals::Lane;
use super::store::{Fetched, QueueId, Stored, Wanted};
use super::writer::Command;
use crate::bus::{Consumed, ConsumerFeed, Delivery, Settlement, Unsettled};

/// Feeds a consumer of `queue` until it, or the bus, is closed.
pub(super) async fn run(handle: Arc<Handle>, queue: QueueId, prefetch: u16, feed: ConsumerFeed) {
    let lane = handle.signals.lane(queue);
    let mut connected = handle.signals.connected();
    let Some(_active) = handle.unless_stopped(&feed, lane.active.lock()).await else {
        return;
    };
    loop {
        let wait = async { connected.wait_for(|connected| *connected).await.is_ok() };
        match handle.unless_stopped(&feed, wait).await {
            None => return,
            Some(true) => {}
            // The store has failed for good.
            Some(false) => return idle(Arc::clone(&handle), feed).await,
        }
        connected.borrow_and_update();
        let session = Session::new(&handle, &feed, lane, queue, prefetch);
        match session.run(&mut connected).await {
            End::Stopped => return,
            End::Broken if !feed.send(Consumed::Lost).await => return,
            End::Broken => {}
        }
    }
}

/// Waits for nothing but the end: for a queue that this bus does not have.
pub(super) async fn idle(handle: Arc<Handle>, feed: ConsumerFeed) {
    handle
        .unless_stopped(&feed, std::future::pending::<()>())
        .await;
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The consumer or the bus is closed. What was settled is durable.
    Stopped,
    /// The store is away. All in hand is void.
    Broken,
}

/// The time between two losses.
struct Session<'a> {
    handle: &'a Handle,
    feed: &'a ConsumerFeed,
    lane: &'a Lane,
    queue: QueueId,
    prefetch: usize,
    settle: mpsc::UnboundedSender<(u64, Settlement)>,
    settlements: mpsc::UnboundedReceiver<(u64, Settlement)>,
    /// Delivered and not settled.
    in_hand: BTreeSet<i64>,
    /// Everything up to here is in hand or settled.
    looked_at: i64,
    /// Nothing waits beyond; until something is appended or comes back.
    exhausted: bool,
}

impl<'a> Session<'a> {
    fn new(
        handle: &'a Handle,
        feed: &'a ConsumerFeed,
        lane: &'a Lane,
        queue: QueueId,
        prefetch: u16,
    ) -> Self {
        let (settle, settlements) = mpsc::unbounded_channel();
        Self {
            handle,
            feed,
            lane,
            queue,
            prefetch: usize::from(prefetch),
            settle,
            settlements,
            in_hand: BTreeSet::new(),
            looked_at: 0,
            exhausted: false,
        }
    }

    async fn run(mut self, connected: &mut watch::Receiver<bool>) -> End {
        loop {
            let room = self.in_hand.len() < self.prefetch;
            tokio::select! {
                biased;
                () = self.handle.stopped(self.feed) => return self.stop().await,
                _ = connected.changed() => return End::Broken,
                Some(first) = self.settlements.recv() => {
                    if self.pass_on(Some(first)).await.is_none() {
                        return End::Broken;
                    }
                }
                () = self.lane.appended.notified(), if room && self.exhausted => {
                    self.exhausted = false;
                }
                () = std::future::ready(()), if room && !self.exhausted => {
                    if let Err(end) = self.supply().await {
                        return end;
                    }
                }
            }
        }
    }

    /// Makes the settlements made so far durable. Their messages are gone, whether or not the bus is closing.
    async fn stop(&mut self) -> End {
        if let Some(done) = self.pass_on(None).await {
            // A dropped answer means that the store is away: then they come again.
            let _ = done.await;
        }
        End::Stopped
    }

    /// Hands `first` and all settlements that wait to the writer, whose answer comes after the commit. `None` when
    /// it is gone. The next fetch stands behind them in its queue, so nothing needs to wait for the answer.
    async fn pass_on(&mut self, first: Option<(u64, Settlement)>) -> Option<oneshot::Receiver<()>> {
        let mut settled = Vec::new();
        let mut next = first.or_else(|| self.settlements.try_recv().ok());
        while let Some((tag, settlement)) = next {
            let seq = i64::try_from(tag).expect("the tag was made of a sequence number");
            self.note(seq, settlement);
            settled.push((seq, settlement));
            next = self.settlements.try_recv().ok();
        }
        let (done, answer) = oneshot::channel();
        let command = Command::Settle { settled, done };
        self.handle.commands.send(command).await.ok()?;
        Some(answer)
    }

    fn note(&mut self, seq: i64, settlement: Settlement) {
        self.in_hand.remove(&seq);
        if settlement != Settlement::Ack {
            self.looked_at = self.looked_at.min(seq - 1);
            self.exhausted = false;
        }
        let metrics = self.handle.signals.metrics();
        metrics
            .bus_settlements_total
            .with_label_values(&[settlement.as_str()])
            .inc();
    }

    /// Fetches and delivers what there is room for.
    async fn supply(&mut self) -> Result<(), End> {
        let fetched = self.fetch().await.ok_or(End::Broken)?;
        self.looked_at = fetched.looked_at.unwrap_or(self.looked_at);
        self.exhausted = fetched.exhausted;
        for stored in fetched.messages {
            self.in_hand.insert(stored.seq);
            if !self.deliver(stored).await {
                self.stop().await;
                return Err(End::Stopped);
            }
        }
        Ok(())
    }

    async fn fetch(&self) -> Option<Fetched> {
        let (done, fetched) = oneshot::channel();
        let wanted = Wanted {
            queue: self.queue,
            after: self.looked_at,
            in_hand: self.in_hand.clone(),
            count: self.prefetch - self.in_hand.len(),
        };
        let command = Command::Fetch { wanted, done };
        self.handle.commands.send(command).await.ok()?;
        fetched.await.ok()
    }

    async fn deliver(&self, stored: Stored) -> bool {
        let tag = u64::try_from(stored.seq).expect("sequence numbers begin at 1");
        let delivery = Delivery {
            message: stored.message,
            routing_key: stored.routing_key,
            delivery_count: stored.delivery_count,
            unsettled: Unsettled::new(tag, self.settle.clone()),
        };
        self.handle.signals.metrics().bus_deliveries_total.inc();
        self.feed.send(Consumed::Delivery(delivery)).await
    }
}
