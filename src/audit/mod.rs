//! Whether every event ended, for every destination, or is on its way: what the notes of all partitions add up to, and where
//! the events are that arrived and have not ended.
//!
//! An open event may be in three places. It waits in its partition's queue or backlog: what there is to be delivered is
//! counted. It is in the hands of a worker: that is asked by a *roll call*, a message to the partition, which whoever is
//! active there answers in the changelog. Or the bus itself gave its batch up: then it is among the dead letters. One that is
//! nowhere is a *hole*.
//!
//! While something waits in the queues of a partition nobody can say that it is not the event in question. So a hole is
//! certain where they are empty, and an audit says most when there is little to do.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::bus::{Bus, BusUnavailable, Message, Outgoing, Queue, StoredNote, Target};
use crate::dead::{PATIENCE, Walk, WalkError};
use crate::enrich::{EventDigest, Note};
use crate::event::{Batch, DEAD_LETTER_KIND, DeadLetter, Millis, PortalId};
use crate::jitter;

pub mod api;
mod books;

pub use books::{Account, Books, Endings, Open};

/// The `type` of a roll call.
const ROLL_CALL_KIND: &str = "crm.roll_call.v1";
/// The most events that a worker says it has in its hands: 6 MB.
pub const IN_HAND_MAX: usize = 400_000;
/// How long a worker may take to answer: it reads its changelog first, and finishes what it does.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How often it is looked for the answer.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// Roll calls after which an event that was nowhere is a hole: it may have been on its way from one place to the other.
const ROLL_CALLS: usize = 3;
/// Wait between them.
const ROLL_CALL_INTERVAL: Duration = Duration::from_secs(3);
/// What is found where events are open, and no worker says whether it has them.
const NOBODY_ANSWERED: &str = "no worker said what it has in hand: the partition is changing hands, or its worker is reading what was \
                               noted or has no place left; ask again when crm_relay_bus_queue_messages{queue=\"intake\"} is 0. Where no worker runs: \
                               crm-relay audit --settled";
/// Notes read ahead.
const NOTES_AHEAD_MAX: usize = 64;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Endings are counted that were noted since.
    pub since: Millis,
    /// No worker runs, so none is asked.
    pub settled: bool,
}

/// What the audit found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Endings were counted that were noted since,
    pub since: Millis,
    /// and until then.
    pub until: Millis,
    /// By portal.
    pub portals: BTreeMap<PortalId, Account>,
    /// By partition, those where something is open or waits.
    pub partitions: Vec<PartitionReport>,
    /// Events that arrived, have not ended and are nowhere.
    pub holes: Vec<Hole>,
    /// What else is amiss.
    pub findings: Vec<String>,
}

/// Where the open events of a partition are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartitionReport {
    /// Which partition.
    pub partition: u16,
    /// Events that arrived and have not ended.
    pub open: usize,
    /// Those that a worker has in its hands; `None` when none was asked or none answered.
    pub in_hand: Option<usize>,
    /// Messages in its queue.
    pub in_queue: u64,
    /// Messages in its backlog.
    pub in_backlog: u64,
}

/// Events of a portal that are nowhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hole {
    /// Whose.
    pub portal_id: PortalId,
    /// Of which partition.
    pub partition: u16,
    /// How many.
    pub events: usize,
    /// When the oldest of them was noted to have come.
    pub since: Millis,
}

impl Report {
    /// Whether every event ended or is on its way, and the counts are right.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.holes.is_empty() && self.findings.is_empty()
    }
}

/// The number of the roll call that a message is, if it is one.
pub(crate) fn roll_call_of(message: &Message) -> Option<u64> {
    let is_one = message.kind == ROLL_CALL_KIND;
    let number = is_one.then(|| <[u8; 8]>::try_from(&message.body[..]).unwrap_or_default());
    number.map(u64::from_be_bytes)
}

/// Reads all changelogs, and looks for what is open.
///
/// # Errors
/// [`BusUnavailable`].
pub async fn audit(bus: &dyn Bus, question: Question) -> Result<Report, BusUnavailable> {
    let mut report = Report {
        since: question.since,
        until: Millis::now(),
        portals: BTreeMap::new(),
        partitions: Vec::new(),
        holes: Vec::new(),
        findings: Vec::new(),
    };
    let mut nowhere: HashMap<EventDigest, (u16, Open)> = HashMap::new();
    for partition in 0..bus.partitions() {
        let mut reader = Reader::new(bus, partition, question.since);
        reader.read_on().await?;
        let missing = reader.look_for_open(question.settled).await?;
        let of_it = |event| Some((event, (partition, reader.books.open().get(&event)?.clone())));
        nowhere.extend(missing.into_iter().filter_map(of_it));
        report.add(reader).await?;
    }
    if !nowhere.is_empty() {
        look_among_letters(bus, &mut nowhere, &mut report).await?;
    }
    report.tell_holes(nowhere);
    Ok(report)
}

/// Reads the changelog of one partition.
struct Reader<'b> {
    bus: &'b dyn Bus,
    partition: u16,
    position: Option<u64>,
    books: Books,
    in_hand: Option<usize>,
}

impl<'b> Reader<'b> {
    fn new(bus: &'b dyn Bus, partition: u16, since: Millis) -> Self {
        Self {
            bus,
            partition,
            position: None,
            books: Books::new(since),
            in_hand: None,
        }
    }

    /// Reads what was noted since it was read last.
    async fn read_on(&mut self) -> Result<(), BusUnavailable> {
        let (sender, mut notes) = mpsc::channel(NOTES_AHEAD_MAX);
        let read = self
            .bus
            .read_changelog(self.partition, self.position, sender);
        let (books, position) = (&mut self.books, &mut self.position);
        let taken = async {
            while let Some(StoredNote { position: at, note }) = notes.recv().await {
                *position = Some(at);
                match Note::decode(&note) {
                    Ok(note) => books.read(note),
                    Err(error) => books.find(format!("note {at}: {error}")),
                }
            }
        };
        let (read, ()) = tokio::join!(read, taken);
        read
    }

    /// The open events that are neither in a worker's hands nor, perhaps, in a queue.
    async fn look_for_open(
        &mut self,
        settled: bool,
    ) -> Result<HashSet<EventDigest>, BusUnavailable> {
        let mut missing: HashSet<_> = self.books.open().keys().copied().collect();
        for round in 0..ROLL_CALLS {
            if missing.is_empty() {
                return Ok(missing);
            }
            if round > 0 {
                sleep(ROLL_CALL_INTERVAL).await;
            }
            // Before, since a roll call that nobody answers stays in the queue.
            let mut waits = self.waiting().await? != (0, 0);
            let in_hand = match settled {
                true => None,
                false => self.call_roll().await?,
            };
            let open = self.books.open();
            missing.retain(|event| open.contains_key(event));
            if let Some(in_hand) = &in_hand {
                missing.retain(|event| !in_hand.contains(event));
                self.in_hand = Some(in_hand.iter().filter(|one| open.contains_key(*one)).count());
                waits |= self.waiting().await? != (0, 0);
            }
            if waits {
                return Ok(HashSet::new());
            }
            if settled || missing.is_empty() {
                return Ok(missing);
            }
            if in_hand.is_none() {
                self.books.find(NOBODY_ANSWERED.to_owned());
                return Ok(HashSet::new());
            }
        }
        Ok(missing)
    }

    /// What whoever is active on the partition has in its hands; `None` when nobody answers.
    async fn call_roll(&mut self) -> Result<Option<HashSet<EventDigest>>, BusUnavailable> {
        let call = jitter::number();
        let message = Message {
            id: format!("roll-call-{call}"),
            content_type: "application/octet-stream".to_owned(),
            kind: ROLL_CALL_KIND.to_owned(),
            headers: Vec::new(),
            body: Bytes::copy_from_slice(&call.to_be_bytes()),
        };
        let target = Target::Partition(self.partition);
        let verdicts = self.bus.publish(vec![Outgoing { target, message }]).await;
        if verdicts.iter().any(Result::is_err) {
            return Err(BusUnavailable);
        }
        let deadline = Instant::now() + ANSWER_MAX;
        while Instant::now() < deadline {
            sleep(LOOK_INTERVAL).await;
            self.read_on().await?;
            if let Some(in_hand) = self.books.in_hand(call) {
                return Ok(Some(in_hand.clone()));
            }
        }
        Ok(None)
    }

    /// Messages in the queue and in the backlog.
    async fn waiting(&self) -> Result<(u64, u64), BusUnavailable> {
        let queue = self.bus.depth(Queue::Partition(self.partition)).await?;
        let backlog = self.bus.depth(Queue::Backlog(self.partition)).await?;
        Ok((queue, backlog))
    }
}

impl Report {
    async fn add(&mut self, reader: Reader<'_>) -> Result<(), BusUnavailable> {
        let (in_queue, in_backlog) = reader.waiting().await?;
        let open = reader.books.open().len();
        if open > 0 || in_queue > 0 || in_backlog > 0 {
            self.partitions.push(PartitionReport {
                partition: reader.partition,
                open,
                in_hand: reader.in_hand,
                in_queue,
                in_backlog,
            });
        }
        let partition = reader.partition;
        let (accounts, findings) = reader.books.close();
        self.portals.extend(accounts);
        let findings = findings.into_iter();
        self.findings
            .extend(findings.map(|finding| format!("partition {partition}: {finding}")));
        Ok(())
    }

    fn tell_holes(&mut self, nowhere: HashMap<EventDigest, (u16, Open)>) {
        let mut holes: BTreeMap<PortalId, Hole> = BTreeMap::new();
        for (partition, Open { portal_id, at }) in nowhere.into_values() {
            let hole = holes.entry(portal_id.clone()).or_insert(Hole {
                portal_id,
                partition,
                events: 0,
                since: at,
            });
            hole.events += 1;
            hole.since = hole.since.min(at);
        }
        self.holes.extend(holes.into_values());
    }
}

/// Strikes those of `nowhere` that are among the dead letters: the bus gave their batches up.
async fn look_among_letters(
    bus: &dyn Bus,
    nowhere: &mut HashMap<EventDigest, (u16, Open)>,
    report: &mut Report,
) -> Result<(), BusUnavailable> {
    let mut walk = match Walk::begin(bus, PATIENCE).await {
        Ok(walk) => walk,
        Err(WalkError::Unavailable) => return Err(BusUnavailable),
        Err(error @ WalkError::Busy) => {
            let finding = format!(
                "{} open events may be among the dead letters: {error}",
                nowhere.len()
            );
            report.findings.push(finding);
            nowhere.clear();
            return Ok(());
        }
    };
    while !nowhere.is_empty()
        && let Some((_, message)) = walk.next().await.map_err(|_| BusUnavailable)?
    {
        for event in events_of(&message) {
            if let Some((_, open)) = nowhere.remove(&event) {
                let account = report.portals.entry(open.portal_id).or_default();
                account.open = account.open.saturating_sub(1);
                account.given_up_by_bus += 1;
            }
        }
    }
    let (taken, depth) = (walk.taken(), walk.depth());
    if taken < depth && !nowhere.is_empty() {
        report.findings.push(format!(
            "there are {depth} dead letters, of which {taken} were looked through for open events; \
             replay or discard some, and ask again"
        ));
    }
    walk.end(&BTreeSet::new()).await;
    Ok(())
}

/// The events that a message among the dead letters holds.
fn events_of(message: &Message) -> Vec<EventDigest> {
    let events = if message.kind == DEAD_LETTER_KIND {
        let letter = serde_json::from_slice::<DeadLetter>(&message.body);
        letter.map(|letter| letter.events).unwrap_or_default()
    } else {
        let batch = Batch::decode(&message.body);
        batch.map(Batch::into_events).unwrap_or_default()
    };
    events
        .iter()
        .map(|event| event.known_as().digest())
        .collect()
}
