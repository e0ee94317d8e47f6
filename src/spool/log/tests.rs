//! The queue on a simulated disk that crashes, tears writes and fails, and on a real one that flips bits.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::bus::{Message, Target};
use crate::folder::Folder;

mod simulated;

use simulated::{Fault, SimulatedDisk};

/// Room for some dozens of the messages below.
const BYTES_MAX: u64 = 8_000;
fn now() -> Millis {
    Millis::default()
}

fn outgoing(id: u32, body_bytes: usize) -> Outgoing {
    let message = Message {
        id: id.to_string(),
        content_type: "text/plain".to_owned(),
        kind: "test".to_owned(),
        headers: Vec::new(),
        body: Bytes::from(vec![u8::try_from(id % 251).unwrap(); body_bytes]),
    };
    let target = Target::Partition(0);
    Outgoing { target, message }
}

/// Whether a message that came out is as it went in.
fn is_whole(outgoing: &Outgoing) -> bool {
    let id: u32 = outgoing.message.id.parse().unwrap();
    let byte = u8::try_from(id % 251).unwrap();
    outgoing.message.body.iter().all(|found| *found == byte)
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// Requests that come together: the messages of each.
    Take(Vec<usize>),
    /// The oldest file is delivered and removed.
    Drain,
    /// The disk fails after so many more operations.
    Fault(usize, Fault),
    /// The program is killed, or the machine.
    Crash { power_lost: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![Just(Fault::Once), Just(Fault::Crash)];
    prop_oneof![
        6 => prop::collection::vec(1_usize..4, 1..5).prop_map(Step::Take),
        4 => Just(Step::Drain),
        3 => (0_usize..12, fault).prop_map(|(after, fault)| Step::Fault(after, fault)),
        1 => any::<bool>().prop_map(|power_lost| Step::Crash { power_lost }),
    ]
}

/// What must be true of the queue.
struct Model {
    disk: SimulatedDisk,
    log: Log<SimulatedDisk>,
    next_id: u32,
    /// The messages of requests that were answered 204, in rounds: within one there is no order.
    answered: Vec<BTreeSet<u32>>,
    /// As they came out, repeats among them.
    delivered: Vec<u32>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        let log = Log::open(disk.clone(), BYTES_MAX).unwrap();
        Self {
            disk,
            log,
            next_id: 0,
            answered: Vec::new(),
            delivered: Vec::new(),
        }
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Take(requests) => self.take(&requests),
            Step::Drain => drop(self.drain()),
            Step::Fault(after, fault) => self.disk.fail_after(after, fault),
            Step::Crash { power_lost } => self.crash(power_lost),
        }
        if self.disk.has_crashed() {
            self.crash(true);
        }
        assert!(self.disk.bytes() <= BYTES_MAX, "beyond its bound");
    }

    /// As the writer does: requests are written, one sync answers them all, and an error none.
    fn take(&mut self, requests: &[usize]) {
        let mut round = BTreeSet::new();
        for messages in requests {
            let ids: Vec<u32> = (self.next_id..).take(*messages).collect();
            self.next_id += u32::try_from(*messages).unwrap();
            let outgoing: Vec<_> = ids.iter().map(|id| outgoing(*id, 40)).collect();
            match self.log.append(&outgoing, now()) {
                Ok(()) => round.extend(ids),
                Err(AppendError::Full) => {}
                Err(AppendError::Io(_)) => return self.log.give_up(),
            }
        }
        match self.log.sync() {
            Ok(()) => self.answered.push(round),
            Err(_) => self.log.give_up(),
        }
    }

    /// Whether there was something.
    fn drain(&mut self) -> io::Result<bool> {
        let Some(oldest) = self.log.oldest()? else {
            return Ok(false);
        };
        assert_eq!(oldest.damaged, 0, "nothing that was answered was damaged");
        assert!(oldest.messages.iter().all(is_whole));
        let ids = oldest
            .messages
            .iter()
            .map(|one| one.message.id.parse::<u32>());
        self.delivered.extend(ids.map(Result::unwrap));
        self.log.remove(oldest.number, false)?;
        Ok(true)
    }

    fn crash(&mut self, power_lost: bool) {
        self.disk.restart(power_lost);
        self.log = Log::open(self.disk.clone(), BYTES_MAX).unwrap();
    }

    fn end(mut self) {
        self.crash(true);
        while self.drain().unwrap() {}
        assert_eq!(self.log.waiting(), Waiting::default());
        let first = |id: &u32| self.delivered.iter().position(|other| other == id);
        let mut behind = None;
        for round in &self.answered {
            let places: Vec<_> = round.iter().map(first).collect();
            assert!(places.iter().all(Option::is_some), "lost of {round:?}");
            let earliest = places.iter().min().copied().flatten();
            assert!(
                earliest.is_none() || earliest > behind,
                "{round:?} came out before what was answered earlier"
            );
            behind = behind.max(places.into_iter().max().flatten());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_disk_does_what_was_answered_comes_out_in_order_and_the_bound_holds(
        steps in prop::collection::vec(step(), 1..60),
        seed in any::<u64>(),
    ) {
        let mut model = Model::new(seed);
        steps.into_iter().for_each(|step| model.act(step));
        model.end();
    }
}

fn real(temp: &TempDir) -> Log<Folder> {
    let folder = Folder::open(temp.path(), "spool.folder").unwrap();
    Log::open(folder, 1 << 30).unwrap()
}

/// Some files of some dozens of messages each.
fn filled(temp: &TempDir) -> BTreeSet<u32> {
    let mut log = real(temp);
    let ids = 0..160;
    for id in ids.clone() {
        log.append(&[outgoing(id, 100_000)], now()).unwrap();
        log.sync().unwrap();
    }
    assert!(log.sealed.len() >= 3);
    ids.collect()
}

fn flip(temp: &TempDir, name: &str, place: usize) {
    let path = temp.path().join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[place] ^= 1 << (place % 8);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn bits_flipped_on_disk_cost_the_messages_they_hit_and_are_counted() {
    for seed in 0..6 {
        let temp = tempfile::tempdir().unwrap();
        let put = filled(&temp);
        let mut random = simulated::Random::new(seed);
        let names = real(&temp).disk.list().unwrap();
        let names: Vec<_> = names.iter().filter(|(_, bytes)| *bytes > 0).collect();
        for _ in 0..5 {
            let (name, bytes) = names[random.below(names.len())];
            flip(&temp, name, random.below(usize::try_from(*bytes).unwrap()));
        }
        let mut log = real(&temp);
        let (mut came, mut lost) = (Vec::new(), 0);
        while let Some(oldest) = log.oldest().unwrap() {
            assert!(oldest.messages.iter().all(is_whole));
            let ids = oldest
                .messages
                .iter()
                .map(|one| one.message.id.parse::<u32>());
            came.extend(ids.map(Result::unwrap));
            // The last message of all cannot be told from a write that was cut off.
            lost += oldest.damaged + u64::from(oldest.cut_off_bytes > 0);
            log.remove(oldest.number, oldest.damaged > 0).unwrap();
        }
        assert!(came.is_sorted() && came.iter().all(|id| put.contains(id)));
        assert!((1..=5).contains(&lost), "seed {seed}: {lost}");
        assert_eq!(came.len() as u64 + lost, put.len() as u64, "seed {seed}");
        assert!(!log.apart.is_empty() || lost == 1, "damaged files are kept");
    }
}

#[test]
fn a_file_that_is_gone_is_counted_and_the_rest_comes() {
    let temp = tempfile::tempdir().unwrap();
    let put = filled(&temp).len() as u64;
    let gone = real(&temp).sealed[1].clone();
    std::fs::remove_file(temp.path().join(gone.name.to_string())).unwrap();
    let mut log = real(&temp);
    let (mut came, mut lost) = (0, 0);
    while let Some(oldest) = log.oldest().unwrap() {
        came += oldest.messages.len() as u64;
        lost += oldest.damaged;
        log.remove(oldest.number, oldest.damaged > 0).unwrap();
    }
    assert_eq!((came, lost), (put - gone.messages, gone.messages));
}

#[test]
fn damaged_files_are_kept_apart_up_to_a_bound() {
    let temp = tempfile::tempdir().unwrap();
    let mut log = real(&temp);
    for id in 0..20 {
        log.append(&[outgoing(id, 10)], now()).unwrap();
        log.sync().unwrap();
        let oldest = log.oldest().unwrap().unwrap();
        log.remove(oldest.number, true).unwrap();
    }
    let files = log.disk.list().unwrap();
    let damaged = files.iter().filter(|(name, _)| name.ends_with(".damaged"));
    assert_eq!(damaged.count(), DAMAGED_FILES_MAX);
    drop(log);
    let log = real(&temp);
    assert_eq!(log.apart.len(), DAMAGED_FILES_MAX);
    assert_eq!(
        log.waiting().oldest,
        None,
        "what is set apart is not drained"
    );
    assert!(log.waiting().bytes > 0, "but it takes room");
}

#[test]
fn files_of_a_later_version_are_not_touched() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("0000000001-0.v2.spool"), "?").unwrap();
    let folder = Folder::open(temp.path(), "spool.folder").unwrap();
    let refused = Log::open(folder, 1 << 30).err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
}

#[test]
fn a_full_log_refuses_and_takes_again_once_it_is_drained() {
    let mut log = Log::open(SimulatedDisk::new(0), 2 * RECORD_BYTES_MAX).unwrap();
    let large = || [outgoing(1, MESSAGE_BYTES_MAX)];
    for _ in 0..2 {
        assert!(log.has_room());
        log.append(&large(), now()).unwrap();
        log.sync().unwrap();
    }
    assert!(!log.has_room());
    let refused = log.append(&large(), now()).unwrap_err();
    assert!(matches!(refused, AppendError::Full));
    let oldest = log.oldest().unwrap().unwrap();
    log.remove(oldest.number, false).unwrap();
    assert!(log.has_room());
    log.append(&large(), now()).unwrap();
}
