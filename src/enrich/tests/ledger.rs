//! What the notes tell of how events ended.

use super::demand::deleted;
use super::*;
use crate::audit::{Account, Books};
use crate::config::{DestinationConfig, DestinationKind};
use crate::demand::Demand;
use crate::hubspot::call::CallError;

/// A world with two destinations of records, which both get everything, and an engine that has this seed.
pub(super) fn counted(engine: u64) -> World {
    let mut world = World::new();
    let all = DestinationConfig::new(DestinationKind::Queue);
    let destinations = ["first", "second"].map(|name| (name.to_owned(), all.clone()));
    let demand = Demand::new(&destinations.into(), []);
    world.engine = Engine::new(Plans::default().with_demand(demand), engine);
    world
}

/// What the notes add up to.
pub(super) fn account(world: &World) -> Account {
    let mut books = Books::new(Millis::default());
    for note in &world.notes {
        books.read(Note::decode(&note.encode()).unwrap());
    }
    let (mut accounts, findings) = books.close();
    assert!(findings.is_empty(), "{findings:?}");
    accounts.remove(&PORTAL.into()).unwrap_or_default()
}

#[test]
fn every_event_is_counted_once_for_each_destination() {
    let mut world = counted(1);
    world.record("1", 100, &[]);
    world.record("2", 100, &[]);
    world.deliver(vec![
        changed("1", 1, "x"),
        changed("1", 2, "y"),
        created("2", 3),
    ]);
    world.deliver(vec![changed("1", 1, "x")]);
    world.deliver(vec![deleted("2", 200, ObjectChange::PrivacyDeleted)]);
    world.deliver(vec![changed("2", 201, "late")]);
    world.settle();
    let account = account(&world);
    assert_eq!((account.ended, account.open), (5, 0));
    assert_eq!(account.duplicates, 1);
    for endings in account.destinations.values() {
        assert_eq!(endings.sum(), 5);
        assert_eq!(endings.delivered + endings.merged, 3 - endings.purged + 2);
        assert_eq!((endings.dead, endings.unwanted), (0, 0));
    }
    assert_eq!(account.destinations.len(), 2);
}

#[test]
fn what_waits_is_told_once_and_the_next_engine_does_not_tell_it_again() {
    let mut world = counted(1);
    world.record("1", 100, &[]);
    let broken = CallError::Unauthorized;
    world.model.broken.insert(PORTAL.to_owned(), broken);
    let events = vec![created("1", 0), changed("1", 1, "x")];
    world.deliver(events.clone());
    world.run_for(Duration::from_secs(600));
    let arrived = |world: &World| -> usize {
        let tallies = world.notes.iter().flat_map(|note| &note.tallies);
        tallies.map(|tally| tally.arrived.len()).sum()
    };
    assert_eq!(arrived(&world), 2);
    assert_eq!(account(&world).open, 2);
    let mut next = counted(2);
    for note in &world.notes {
        next.engine.restore(note.clone());
    }
    next.now = world.now;
    next.record("1", 100, &[]);
    next.notes = world.notes;
    next.deliver(events);
    next.settle();
    assert_eq!(arrived(&next), 2);
    let account = account(&next);
    assert_eq!((account.ended, account.open), (2, 0));
}

#[test]
fn what_is_left_out_of_the_backlog_ends_as_purged_before_its_delivery_is_acknowledged() {
    let mut world = counted(1);
    world.deliver(vec![deleted("1", 1, ObjectChange::PrivacyDeleted)]);
    world.settle();
    let acked = world.acked.len();
    let late = changed("1", 2, "late");
    assert!(world.engine.may_be_dropped(&late));
    world
        .unsettled
        .insert(99, (Source::Intake, 99, vec![late.clone()]));
    let outputs = world.engine.handle(
        world.now,
        Input::PutAside {
            delivery: DeliveryId(99),
            purged: vec![late],
        },
    );
    assert!(!outputs.iter().any(|one| matches!(one, Output::Ack(_))));
    world.settle();
    assert_eq!(world.acked.len(), acked + 1);
    let account = account(&world);
    assert_eq!(account.ended, 2);
    assert_eq!(account.destinations["second"].purged, 1);
}

/// Bytes of all notes, and how many of these are the ledger's.
fn bytes(notes: &[Note]) -> (usize, usize) {
    let whole = |note: &Note| note.encode().len();
    let rest = |note: &Note| {
        let (destinations, tallies) = (Vec::new(), Vec::new());
        let note = Note {
            destinations,
            tallies,
            ..note.clone()
        };
        whole(&note)
    };
    let all: usize = notes.iter().map(whole).sum();
    (all, all - notes.iter().map(rest).sum::<usize>())
}

/// Before there was a ledger, that an event ended took 18 bytes.
#[test]
fn the_ledger_takes_few_bytes_of_a_note() {
    let mut idle = counted(1);
    for n in 0..20 {
        let id = n.to_string();
        idle.record(&id, 100, &[]);
        idle.deliver(vec![changed(&id, n, "x")]);
        idle.settle();
    }
    let (_, single) = bytes(&idle.notes);
    // A few notes of many events, as under load.
    let mut busy = counted(1);
    for n in 0..1_000 {
        busy.record(&n.to_string(), 100, &[]);
    }
    for chunk in 0..10 {
        let events = (chunk * 100..(chunk + 1) * 100).map(|n| changed(&n.to_string(), n, "x"));
        busy.deliver(events.collect());
    }
    busy.settle();
    let tallies = busy.notes.iter().flat_map(|note| &note.tallies);
    let (ended, arrived) = tallies.fold((0, 0), |(ended, arrived), tally| {
        (ended + tally.ended.len(), arrived + tally.arrived.len())
    });
    let (_, many) = bytes(&busy.notes);
    // A portal that waits.
    let mut waiting = counted(1);
    let broken = CallError::Unauthorized;
    waiting.model.broken.insert(PORTAL.to_owned(), broken);
    waiting.deliver((0..100).map(|n| created(&n.to_string(), n)).collect());
    waiting.run_for(Duration::from_secs(5));
    let (_, arrival) = bytes(&waiting.notes);
    assert_eq!(ended, 1_000);
    assert!(single / 20 <= 70, "{single}");
    assert!(
        many <= 16 * (ended + arrived) + 70 * busy.notes.len(),
        "{many}"
    );
    assert!(arrival <= 16 * 100 + 70, "{arrival}");
}
