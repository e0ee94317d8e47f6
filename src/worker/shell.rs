//! The loop of one partition, around its engine.
//!
//! It hands the engine what happens, and does what the engine says: calls to HubSpot and deliveries run as
//! futures beside the loop. A delivery of the bus is acknowledged only when the engine says that all it
//! led to is confirmed, or when it stands in the partition's backlog.
//!
//! Only who is active on the partition may consume its backlog, or two engines would work for one portal. A
//! delivery of the partition is what tells; see [`Backlog`] for where none comes.

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use prometheus::IntGauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::audit;
use crate::bus::{Consumed, Consumer, Delivery, Message, Queue, Unsettled};
use crate::enrich::{
    CallId, DeliveryId, Engine, EngineStats, Entry, Input, Note, NoteId, Output, PublishId,
    Published, Source, Step, Suspects,
};
use crate::event::{
    Batch, BatchError, DeadLetter, DeadLetterReason, Erasure, Event, Millis, PortalId, Stage,
};
use crate::fan_out::Outbound;
use crate::hubspot::call::{Answered, Call, CallError};
use crate::hubspot::client::Changed;

use super::backlog::{self, Backlog};
use super::parts::{Delivered, Parts, Round};
use super::past::{Past, Recalled};

/// The longest a shell sleeps when its engine has no reason to wake.
const TICK_MAX: Duration = Duration::from_secs(1);
/// How often the gauges are brought up to date, at most.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// Messages handed to the destinations in one go.
const DELIVERY_BATCH_MAX: usize = 256;

/// The loop of one partition.
pub(super) struct Shell {
    partition: u16,
    parts: Arc<Parts>,
    engine: Engine,
    clock: Clock,
    consumer: Option<Consumer>,
    backlog: Backlog,
    past: Past,
    suspects: Suspects<Delivery>,
    /// While a lot of suspects waits for its turn among all partitions of the process.
    turn: Option<BoxFuture<'static, OwnedSemaphorePermit>>,
    /// While a lot of suspects is tried.
    trial: Option<OwnedSemaphorePermit>,
    /// Portals whose token or settings changed, of this partition and of others.
    changed: Arc<Changed>,
    unsettled: HashMap<DeliveryId, Taken>,
    /// What came after we were told to stop.
    late: Vec<(Delivery, Source)>,
    last_delivery: u64,
    /// Calls and deliveries under way.
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Messages for the destinations, gathered while the engine's outputs are carried out.
    enriched: Vec<(PublishId, Outbound)>,
    /// The same of plain events, by portal.
    plain: BTreeMap<PortalId, Vec<(PublishId, Outbound)>>,
    reported: EngineStats,
    reported_at: Instant,
}

/// A batch that was taken and not settled.
struct Taken {
    /// `None` where it stands for events of a suspect.
    unsettled: Option<Unsettled>,
    from: Source,
    /// As it came, to be set aside.
    message: Message,
    /// How often it came before.
    delivery_count: u32,
    taken_at: Instant,
    span: Span,
}

/// A clock that never goes back: the system's at the start, and what has passed since.
struct Clock {
    started_at: Millis,
    started: Instant,
}

impl Clock {
    fn new() -> Self {
        Self {
            started_at: Millis::now(),
            started: Instant::now(),
        }
    }

    fn now(&self) -> Millis {
        self.started_at.after(self.started.elapsed())
    }

    fn until(&self, at: Millis) -> Duration {
        at.since(self.now())
    }
}

/// What comes of something that was under way.
enum Done {
    /// The engine is told.
    Tell(Vec<Input>),
    /// Messages were tried.
    Delivered(Delivered),
    /// A message that never was a batch is where it belongs.
    Acknowledge(DeliveryId),
    /// A delivery stands in the backlog, without these of its events.
    PutAside(DeliveryId, Vec<Event>),
    /// A delivery could not be set aside: again, after this delay.
    SetAside(DeliveryId, Duration),
    /// Whether somebody should be told of the backlog was looked at.
    Nothing,
}

/// What wakes the loop.
enum Wake {
    Consumed(Option<Consumed>),
    Backlog(Option<Consumed>),
    Recalled(Recalled),
    Changed(PortalId),
    /// A lot of suspects may be tried.
    Turn(OwnedSemaphorePermit),
    Done(Done),
    Time,
    Stop,
}

impl Shell {
    pub(super) fn new(partition: u16, prefetch: u16, engine: Engine, parts: Arc<Parts>) -> Self {
        Self {
            partition,
            engine,
            clock: Clock::new(),
            consumer: Some(parts.bus.consume(Queue::Partition(partition), prefetch)),
            backlog: Backlog::new(partition, prefetch),
            past: Past::new(partition),
            suspects: Suspects::default(),
            turn: None,
            trial: None,
            changed: parts.hubspot.watch(),
            parts,
            unsettled: HashMap::new(),
            late: Vec::new(),
            last_delivery: 0,
            under_way: FuturesUnordered::new(),
            enriched: Vec::new(),
            plain: BTreeMap::new(),
            reported: EngineStats::default(),
            reported_at: Instant::now(),
        }
    }

    pub(super) async fn run(mut self, stopping: CancellationToken) {
        let mut draining = false;
        while !(draining && self.engine.is_idle() && self.under_way.is_empty()) {
            match self.wait(&stopping, draining).await {
                Wake::Consumed(Some(Consumed::Delivery(delivery))) if self.past.is_known() => {
                    self.take(delivery, Source::Intake);
                }
                Wake::Consumed(Some(Consumed::Delivery(delivery))) => {
                    self.past.hold(delivery, &self.parts.bus);
                }
                Wake::Consumed(Some(Consumed::Lost)) => self.lost(Source::Intake),
                Wake::Consumed(None) => self.consumer = None,
                Wake::Backlog(Some(Consumed::Delivery(delivery))) => {
                    self.take(delivery, Source::Backlog);
                }
                Wake::Backlog(Some(Consumed::Lost)) => self.lost(Source::Backlog),
                Wake::Backlog(None) => self.backlog.close(),
                Wake::Recalled(recalled) => self.recall(recalled),
                Wake::Changed(portal_id) => self.tell(Input::PortalChanged(portal_id)),
                Wake::Done(Done::Tell(inputs)) => self.tell_all(inputs),
                Wake::Done(Done::Delivered(delivered)) => {
                    if let Some(round) = delivered.again {
                        self.deliver(round);
                    }
                    self.tell_all(delivered.inputs);
                }
                Wake::Done(Done::Acknowledge(delivery)) => self.acknowledge(delivery),
                Wake::Done(Done::PutAside(delivery, purged)) => self.put_aside(delivery, purged),
                Wake::Done(Done::SetAside(delivery, delay)) => self.set_aside(delivery, delay),
                Wake::Done(Done::Nothing) => {}
                Wake::Turn(permit) => {
                    self.turn = None;
                    self.try_lot(permit);
                }
                Wake::Time => self.tell(Input::Tick),
                Wake::Stop => {
                    draining = true;
                    self.turn = None;
                    self.note_in_hand();
                }
            }
            if draining {
                self.take_late();
            } else {
                self.try_suspects();
                self.look_for_backlog();
            }
            self.publish_gathered();
            if self.reported_at.elapsed() >= REPORT_INTERVAL {
                self.report();
            }
        }
        self.report();
        self.close().await;
    }

    async fn wait(&mut self, stopping: &CancellationToken, draining: bool) -> Wake {
        let now = self.clock.now();
        let sleep = self
            .engine
            .next_wake(now)
            .map_or(TICK_MAX, |at| self.clock.until(at).min(TICK_MAX));
        let consumed = async {
            match &mut self.consumer {
                Some(consumer) if !draining => consumer.next().await,
                _ => pending().await,
            }
        };
        let from_backlog = async {
            if draining {
                return pending().await;
            }
            self.backlog.next().await
        };
        let recalled = async {
            if draining {
                return pending().await;
            }
            self.past.next().await
        };
        let turn = async {
            match &mut self.turn {
                Some(turn) => turn.await,
                None => pending().await,
            }
        };
        let done = async {
            match self.under_way.next().await {
                Some(done) => done,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            // First, so that what a call found out about a portal before it changed is not heard after.
            done = done => Wake::Done(done),
            () = stopping.cancelled(), if !draining => Wake::Stop,
            consumed = consumed => Wake::Consumed(consumed),
            consumed = from_backlog => Wake::Backlog(consumed),
            recalled = recalled => Wake::Recalled(recalled),
            permit = turn => Wake::Turn(permit),
            portal_id = self.changed.next() => Wake::Changed(portal_id),
            () = tokio::time::sleep(sleep) => Wake::Time,
        }
    }

    /// The engine learns what was noted before; then it gets its first deliveries, and the backlog's.
    fn recall(&mut self, recalled: Recalled) {
        match recalled {
            Recalled::Note(note) => {
                self.suspects.read(&note);
                self.engine.restore(note);
            }
            Recalled::Unreadable(error) => {
                let partition = self.partition;
                tracing::error!(partition, %error, "a note of the changelog is left out; repeats may go out again");
            }
            Recalled::All(waiting) => {
                self.backlog.open(self.parts.bus.as_ref());
                for delivery in waiting {
                    self.take(delivery, Source::Intake);
                }
            }
        }
    }

    fn take(&mut self, delivery: Delivery, from: Source) {
        if backlog::is_notice(&delivery.message) {
            delivery.unsettled.ack();
            return;
        }
        if let Some(call) = audit::roll_call_of(&delivery.message) {
            delivery.unsettled.ack();
            return self.answer_roll_call(call);
        }
        let batch = Batch::decode(&delivery.message.body);
        if let Ok(batch) = &batch
            && self.is_suspect(&delivery, batch.events())
        {
            return self.suspects.add(delivery, from, batch.events().to_vec());
        }
        if self.suspects.are_there() {
            return self.suspects.hold(self.clock.now(), delivery, from);
        }
        self.take_up(delivery, batch, from);
    }

    /// Hands the engine what was delivered.
    fn take_up(&mut self, delivery: Delivery, batch: Result<Batch, BatchError>, from: Source) {
        self.last_delivery += 1;
        let id = DeliveryId(self.last_delivery);
        let span = tracing::info_span!(
            "batch",
            partition = self.partition,
            delivery.count = delivery.delivery_count,
            portal.id = tracing::field::Empty,
            events = tracing::field::Empty,
        );
        let taken = Taken {
            unsettled: Some(delivery.unsettled),
            from,
            message: delivery.message.clone(),
            delivery_count: delivery.delivery_count,
            taken_at: Instant::now(),
            span: span.clone(),
        };
        self.unsettled.insert(id, taken);
        match batch {
            Ok(batch) => {
                span.record("portal.id", tracing::field::display(batch.portal_id()));
                span.record("events", batch.events().len());
                let events = batch.into_events();
                self.tell(Input::Batch {
                    delivery: id,
                    events,
                    from,
                });
            }
            Err(error) => self.bury_unreadable(id, error.to_string(), &delivery.message.body),
        }
    }

    /// Notes which events are in our hands, for an audit that asks.
    fn answer_roll_call(&self, call: u64) {
        let taken = self.unsettled.values().map(|taken| &taken.message);
        let waiting = self.suspects.deliveries(None).chain(self.past.deliveries());
        let waiting = waiting.chain(self.late.iter().map(|(delivery, _)| delivery));
        let batches = taken.chain(waiting.map(|delivery| &delivery.message));
        let batches = batches.filter_map(|message| Batch::decode(&message.body).ok());
        let events = batches
            .flat_map(Batch::into_events)
            .take(audit::IN_HAND_MAX);
        let events = events.map(|event| event.known_as().digest()).collect();
        self.note_by_itself(Entry::InHand { call, events });
    }

    /// Notes what we have in hand: whoever gets it next is to know that it killed nobody here.
    fn note_in_hand(&self) {
        self.note_given_back(self.in_hand(None));
    }

    /// Notes what is delivered while the rest is finished. It is kept, or more would come in its place.
    fn take_late(&mut self) {
        let backlog = self.backlog.unread().map(|one| (one, Source::Backlog));
        let intake = self.consumer.iter_mut().flat_map(Consumer::unread);
        let consumed: Vec<_> = backlog
            .chain(intake.map(|one| (one, Source::Intake)))
            .collect();
        let mut late = Vec::new();
        for (consumed, from) in consumed {
            match consumed {
                Consumed::Delivery(delivery) => match audit::roll_call_of(&delivery.message) {
                    Some(call) => {
                        delivery.unsettled.ack();
                        self.answer_roll_call(call);
                    }
                    None => late.push((delivery, from)),
                },
                Consumed::Lost => {
                    self.late.append(&mut late);
                    self.lost(from);
                }
            }
        }
        self.note_given_back(late.iter().map(|(delivery, _)| with_count(delivery)));
        self.late.append(&mut late);
    }

    /// Notes that these messages come again without having killed anybody; each with how often it had come before.
    fn note_given_back<'m>(&self, messages: impl Iterator<Item = (&'m Message, u32)>) {
        let messages: Vec<_> = messages
            .map(|(message, count)| (message.id.clone(), count))
            .collect();
        if !messages.is_empty() {
            self.note_by_itself(Entry::GivenBack(messages));
        }
    }

    /// The messages that were delivered and not settled, with how often each had come before: those that came `from` there, or all.
    fn in_hand(&self, from: Option<Source>) -> impl Iterator<Item = (&Message, u32)> {
        let is_whole = |taken: &&Taken| taken.unsettled.is_some();
        let is_meant = move |taken: &&Taken| from.is_none_or(|from| taken.from == from);
        let taken = self.unsettled.values().filter(is_whole).filter(is_meant);
        let taken = taken.map(|taken| (&taken.message, taken.delivery_count));
        // Before the past is known nothing of the backlog is there.
        let waiting = self.suspects.deliveries(from).chain(self.past.deliveries());
        taken.chain(waiting.map(with_count))
    }

    fn note_by_itself(&self, entry: Entry) {
        let (parts, partition) = (self.parts.clone(), self.partition);
        let body = Note::of_shell(entry).encode();
        self.under_way.push(Box::pin(async move {
            // Nobody waits for it by its number, and the broker does not look at it.
            parts.note(partition, NoteId(0), body).await;
            Done::Nothing
        }));
    }

    /// Whether what was delivered may have killed a worker.
    fn is_suspect(&self, delivery: &Delivery, events: &[Event]) -> bool {
        let came_too_often = self
            .suspects
            .came_too_often(&delivery.message.id, delivery.delivery_count);
        came_too_often || events.iter().any(|event| self.engine.tries(event) > 0)
    }

    /// Goes on with suspects, and with what was held back for them.
    fn try_suspects(&mut self) {
        while let Some(step) = self.suspects.next(self.clock.now(), self.is_free()) {
            match step {
                Step::Ask => {
                    let trial = self.parts.trial.clone();
                    self.turn = Some(Box::pin(async move {
                        let permit = trial.acquire_owned().await;
                        permit.expect("nobody closes it")
                    }));
                }
                Step::Settle(delivery) => delivery.unsettled.ack(),
                Step::Take(delivery, from) => {
                    let batch = Batch::decode(&delivery.message.body);
                    self.take_up(delivery, batch, from);
                }
            }
        }
        if !self.suspects.are_tried() {
            self.trial = None;
        }
    }

    /// Whether nothing is under way, so that a worker that dies by a suspect dies by nothing else.
    fn is_free(&self) -> bool {
        self.unsettled.is_empty() && self.engine.is_idle()
    }

    /// Tries the next lot of suspects. Until it has ended, no other partition of the process does.
    fn try_lot(&mut self, permit: OwnedSemaphorePermit) {
        let (is_free, partition) = (self.is_free(), self.partition);
        let (engine, unsettled, last) =
            (&self.engine, &mut self.unsettled, &mut self.last_delivery);
        let tries = |event: &Event| engine.tries(event);
        let lot = self
            .suspects
            .begin(is_free, tries, |delivery, from, events| {
                *last += 1;
                let taken = Taken {
                    unsettled: None,
                    from,
                    message: with_events(&delivery.message, events.to_vec()),
                    delivery_count: delivery.delivery_count,
                    taken_at: Instant::now(),
                    span: tracing::info_span!("suspects", partition),
                };
                unsettled.insert(DeliveryId(*last), taken);
                DeliveryId(*last)
            });
        if lot.is_empty() {
            return;
        }
        let events = lot.iter().map(|(_, events)| events.len()).sum::<usize>();
        tracing::warn!(
            partition,
            events,
            "events that may have killed a worker are tried with nothing else under way"
        );
        self.trial = Some(permit);
        self.tell(Input::Suspects(lot));
    }

    /// Remembers that we live, though what came `from` there is void, or all of it.
    fn survive(&mut self, from: Option<Source>) {
        let ids: Vec<_> = self
            .in_hand(from)
            .map(|(message, _)| message.id.clone())
            .collect();
        self.suspects.survived(ids);
    }

    /// A message that is no batch of ours is kept whole as a dead letter, and then acknowledged.
    fn bury_unreadable(&self, delivery: DeliveryId, detail: String, body: &[u8]) {
        let reason = DeadLetterReason::Unreadable;
        let letter = DeadLetter::new(Stage::Consume, reason, detail, Millis::now()).with_raw(body);
        let parts = self.parts.clone();
        self.under_way.push(Box::pin(async move {
            parts.bury(letter).await;
            Done::Acknowledge(delivery)
        }));
    }

    fn acknowledge(&mut self, delivery: DeliveryId) {
        if let Some(taken) = self.unsettled.remove(&delivery) {
            if let Some(unsettled) = taken.unsettled {
                unsettled.ack();
            }
            self.suspects.settled(delivery);
            let duration_ms =
                u64::try_from(taken.taken_at.elapsed().as_millis()).unwrap_or(u64::MAX);
            taken
                .span
                .in_scope(|| tracing::debug!(duration_ms, "acknowledged"));
        }
    }

    /// What came `from` there is void. With the partition itself another worker may be active now: the backlog is let go as well.
    fn lost(&mut self, from: Source) {
        if from == Source::Backlog {
            self.survive(Some(from));
            return self.abandon(Some(from));
        }
        self.survive(None);
        self.backlog.close();
        self.past.lost();
        self.abandon(None);
        self.tell(Input::Lost);
    }

    /// Moves a delivery to the backlog, after `delay`. It is acknowledged when it is there; one that is void meanwhile
    /// comes again anyway.
    fn set_aside(&self, delivery: DeliveryId, delay: Duration) {
        let Some(taken) = self.unsettled.get(&delivery) else {
            return;
        };
        let (message, purged) = self.without_erased(&taken.message);
        let Some(message) = message else {
            self.under_way
                .push(Box::pin(async move { Done::PutAside(delivery, purged) }));
            return;
        };
        let (parts, partition) = (self.parts.clone(), self.partition);
        self.under_way.push(Box::pin(async move {
            match parts.set_aside(partition, message, delay).await {
                Ok(()) => Done::PutAside(delivery, purged),
                Err(delay) => Done::SetAside(delivery, delay),
            }
        }));
    }

    /// A delivery stands in the backlog; what was left out of it ends, and that is noted first.
    fn put_aside(&mut self, delivery: DeliveryId, purged: Vec<Event>) {
        if purged.is_empty() {
            self.acknowledge(delivery);
        } else if self.unsettled.contains_key(&delivery) {
            self.tell(Input::PutAside { delivery, purged });
        }
    }

    /// A batch without the events whose records are erased, and these; `None` when no other is left.
    fn without_erased(&self, message: &Message) -> (Option<Message>, Vec<Event>) {
        let Ok(batch) = Batch::decode(&message.body) else {
            return (Some(message.clone()), Vec::new());
        };
        let events = batch.into_events().into_iter();
        let (purged, left): (Vec<_>, Vec<_>) =
            events.partition(|event| self.engine.may_be_dropped(event));
        if purged.is_empty() {
            return (Some(message.clone()), purged);
        }
        let message = (!left.is_empty()).then(|| with_events(message, left));
        (message, purged)
    }

    /// While nothing says that we are active, now and then: whether that is for want of deliveries.
    fn look_for_backlog(&mut self) {
        if let Some(look) = self.backlog.look(self.parts.bus.clone()) {
            self.under_way.push(Box::pin(async move {
                look.await;
                Done::Nothing
            }));
        }
    }

    fn tell_all(&mut self, inputs: Vec<Input>) {
        inputs.into_iter().for_each(|input| self.tell(input));
    }

    /// Hands the engine what happened, and does what it says.
    fn tell(&mut self, input: Input) {
        for output in self.engine.handle(self.clock.now(), input) {
            match output {
                Output::Call {
                    call_id,
                    portal_id,
                    call,
                } => self.call(call_id, portal_id, call),
                Output::RefreshToken(portal_id) => self.refresh_token(portal_id),
                Output::Publish { publish, event } => {
                    self.enriched.push((publish, Outbound::Enriched(event)));
                }
                Output::PublishPlain { publish, event } => {
                    let of_portal = self.plain.entry(event.portal_id.clone()).or_default();
                    of_portal.push((publish, Outbound::Plain(event)));
                }
                Output::Bury { publish, letter } => self.bury(publish, *letter),
                Output::Search { publish, erasure } => self.search(publish, erasure),
                Output::Note { id, note } => self.note(id, &note),
                Output::Ack(delivery) => self.acknowledge(delivery),
                Output::SetAside(delivery) => self.set_aside(delivery, Duration::ZERO),
                Output::Ended(ending) => {
                    let ended = &self.parts.metrics.enrich_events_total;
                    ended.with_label_values(&[ending.as_str()]).inc();
                }
            }
        }
    }

    fn call(&self, call: CallId, portal_id: PortalId, wire_call: Call) {
        let parts = self.parts.clone();
        self.under_way.push(Box::pin(async move {
            let answered = parts.hubspot.call(&portal_id, &wire_call).await;
            log_failure(&portal_id, &wire_call, &answered);
            Done::Tell(vec![Input::Answered { call, answered }])
        }));
    }

    fn refresh_token(&self, portal_id: PortalId) {
        let parts = self.parts.clone();
        self.under_way.push(Box::pin(async move {
            let changed = parts.hubspot.refresh_token(&portal_id).await;
            Done::Tell(vec![Input::TokenRefreshed { portal_id, changed }])
        }));
    }

    fn bury(&self, publish: PublishId, letter: DeadLetter) {
        let parts = self.parts.clone();
        self.under_way.push(Box::pin(async move {
            parts.bury(letter).await;
            let outcome = Published::Buried;
            Done::Tell(vec![Input::Published { publish, outcome }])
        }));
    }

    fn search(&self, publish: PublishId, erasure: Erasure) {
        let parts = self.parts.clone();
        self.under_way.push(Box::pin(async move {
            parts.search(erasure).await;
            let outcome = Published::Searched;
            Done::Tell(vec![Input::Published { publish, outcome }])
        }));
    }

    fn note(&self, id: NoteId, note: &Note) {
        let (parts, partition, body) = (self.parts.clone(), self.partition, note.encode());
        self.under_way.push(Box::pin(async move {
            parts.note(partition, id, body).await;
            Done::Tell(vec![Input::Noted(id)])
        }));
    }

    /// Messages that became ready together go to the destinations together. Rounds overtake one another, which enriched events tell
    /// by their version; plain ones have none, so what a portal has of them is one round.
    fn publish_gathered(&mut self) {
        while !self.enriched.is_empty() {
            let count = self.enriched.len().min(DELIVERY_BATCH_MAX);
            let round = Round::first(self.enriched.drain(..count));
            self.deliver(round);
        }
        while let Some((_, of_portal)) = self.plain.pop_first() {
            self.deliver(Round::first(of_portal.into_iter()));
        }
    }

    fn deliver(&self, round: Round) {
        let parts = self.parts.clone();
        self.under_way.push(Box::pin(async move {
            let delivered = parts.deliver(round).await;
            Done::Delivered(delivered)
        }));
    }

    fn report(&mut self) {
        let stats = self.engine.stats(self.clock.now());
        self.show(stats);
        self.reported_at = Instant::now();
    }

    /// Gauges are sums over partitions: each shell adds what changed since it last reported.
    fn show(&mut self, stats: EngineStats) {
        let (metrics, old) = (&self.parts.metrics, &self.reported);
        let add = |gauge: &IntGauge, new: usize, old: usize| {
            let count = |n| i64::try_from(n).unwrap_or(i64::MAX);
            gauge.add(count(new) - count(old));
        };
        let waiting = &metrics.enrich_waiting_events;
        add(waiting, stats.waiting_events, old.waiting_events);
        let remembered = |of| metrics.enrich_remembered.with_label_values(&[of]);
        let (events, records) = (remembered("events"), remembered("records"));
        add(&events, stats.remembered_events, old.remembered_events);
        add(&records, stats.remembered_records, old.remembered_records);
        for (state, new, old) in [
            ("ready", stats.portals_ready, old.portals_ready),
            ("waiting", stats.portals_waiting, old.portals_waiting),
            (
                "backing_off",
                stats.portals_backing_off,
                old.portals_backing_off,
            ),
            ("paused", stats.portals_paused, old.portals_paused),
        ] {
            let portals = metrics.enrich_portals.with_label_values(&[state]);
            add(&portals, new, old);
        }
        metrics
            .enrich_set_aside_batches_total
            .inc_by(stats.set_aside);
        self.parts.report(self.partition, stats, self.clock.now());
        self.reported = stats;
    }

    /// Flushes what was settled and releases the partition.
    async fn close(mut self) {
        self.abandon(None);
        self.past.lost();
        self.backlog.close();
        if let Some(consumer) = self.consumer.take() {
            consumer.close().await;
        }
        tracing::debug!(partition = self.partition, "the partition was released");
    }

    /// Lets go of the deliveries that came `from` there, or of all; they come again.
    fn abandon(&mut self, from: Option<Source>) {
        let of_it = |taken: &Taken| from.is_none_or(|from| taken.from == from);
        for (id, taken) in self.unsettled.extract_if(|_, taken| of_it(taken)) {
            if let Some(unsettled) = taken.unsettled {
                unsettled.abandon();
            }
            self.suspects.settled(id);
        }
        let is_meant = |late: &mut (Delivery, Source)| from.is_none_or(|from| late.1 == from);
        let late = self.late.extract_if(.., is_meant);
        let late = late.map(|(delivery, _)| delivery);
        for delivery in self.suspects.abandon(from).into_iter().chain(late) {
            delivery.unsettled.abandon();
        }
    }
}

impl Drop for Shell {
    /// A shell that is stopped in the middle lets go of what it did not settle: it comes again.
    fn drop(&mut self) {
        self.abandon(None);
        self.past.lost();
        self.show(EngineStats::default());
    }
}

/// A message, and how often it had come before.
fn with_count(delivery: &Delivery) -> (&Message, u32) {
    (&delivery.message, delivery.delivery_count)
}

/// A message with these of a batch's events, and no others.
fn with_events(message: &Message, events: Vec<Event>) -> Message {
    let batch = Batch::new(events).expect("some events of one portal");
    Message {
        id: batch.id().to_string(),
        body: batch.encode().into(),
        ..message.clone()
    }
}

/// Failures that the engine answers by waiting are worth a line each, at a level that fits.
fn log_failure(portal_id: &PortalId, call: &Call, answered: &Answered) {
    if let Err(CallError::Paused | CallError::Parked(_)) = &answered.result {
        // It was told when it began.
        tracing::debug!(portal.id = %portal_id, endpoint = call.endpoint(), "no call is made for the portal");
    } else if let Err(error) = &answered.result {
        tracing::warn!(portal.id = %portal_id, endpoint = call.endpoint(), "a call to HubSpot failed: {error}");
    }
}
