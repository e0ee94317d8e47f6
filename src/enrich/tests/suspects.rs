//! Events that may have killed their worker.

use super::ledger::{account, counted};
use super::*;
use crate::enrich::suspects::TRIES_MAX;

/// Tells the engine to try an event alone, as delivery `tag`.
fn suspect(world: &mut World, tag: u64, event: &Event) {
    let lot = lot_of(world, tag, event);
    world.tell(lot);
}

/// A lot of one event, which was delivered as `tag`.
fn lot_of(world: &mut World, tag: u64, event: &Event) -> Input {
    let events = vec![event.clone()];
    world
        .unsettled
        .insert(tag, (Source::Intake, tag, events.clone()));
    Input::Suspects(vec![(DeliveryId(tag), events)])
}

/// What comes after the worker died: it knows what was noted.
fn next(world: World) -> World {
    let mut next = counted(world.notes.len() as u64 + 2);
    for note in &world.notes {
        next.engine.restore(note.clone());
    }
    next.now = world.now;
    next.record("1", 100, &[]);
    next.notes = world.notes;
    next
}

#[test]
fn that_a_suspect_is_tried_is_noted_before_anything_is_asked_for_it() {
    let mut world = counted(1);
    world.record("1", 100, &[]);
    let event = changed("1", 1, "x");
    let lot = lot_of(&mut world, 1, &event);
    let outputs = world.engine.handle(world.now, lot);
    let [Output::Note { id, note }] = &outputs[..] else {
        panic!("a note and nothing else: {outputs:?}");
    };
    let tried = Entry::Tried {
        event: event.id.digest(),
        times: 1,
    };
    assert_eq!(note.entries, [tried]);
    assert!(!world.engine.is_idle());
    world.tell(Input::Noted(*id));
    world.settle();
    assert_eq!(world.messages.len(), 1);
    assert_eq!(world.acked, [1]);
    assert_eq!(world.engine.tries(&event), 0, "it has ended");
    assert!(world.engine.is_idle());
}

#[test]
fn an_event_that_was_tried_too_often_becomes_a_dead_letter_and_is_not_asked_for() {
    let event = changed("1", 1, "x");
    let mut world = counted(1);
    for tries in 0..TRIES_MAX {
        assert_eq!(world.engine.tries(&event), tries);
        suspect(&mut world, 10 + u64::from(tries), &event);
        assert!(world.letters.is_empty());
        world = next(world);
    }
    suspect(&mut world, 20, &event);
    world.settle();
    assert!(world.calls.is_empty());
    let letter = &world.letters[0];
    assert_eq!(letter.routing_key(), "enrich.killed_worker");
    assert_eq!(letter.events, std::slice::from_ref(&event));
    assert_eq!(world.acked, [20]);
    let account = account(&world);
    assert_eq!((account.ended, account.open), (1, 0));
    assert!(
        account
            .destinations
            .values()
            .all(|endings| endings.dead == 1)
    );
    // Its repeat is known.
    suspect(&mut world, 21, &event);
    world.settle();
    assert_eq!((world.letters.len(), world.acked.len()), (1, 2));
}

#[test]
fn a_suspect_whose_session_was_lost_comes_again() {
    let mut world = counted(1);
    world.record("1", 100, &[]);
    let event = changed("1", 1, "x");
    let lot = lot_of(&mut world, 1, &event);
    let outputs = world.engine.handle(world.now, lot);
    world.tell(Input::Lost);
    for output in outputs {
        if let Output::Note { id, note } = output {
            world.notes.push(note);
            world.tell(Input::Noted(id));
        }
    }
    world.settle();
    assert!(world.messages.is_empty() && world.acked.is_empty());
    suspect(&mut world, 2, &event);
    world.settle();
    assert_eq!((world.messages.len(), &world.acked[..]), (1, &[2][..]));
}

#[test]
fn a_session_that_broke_is_no_evidence_though_the_notes_are_read_again() {
    let mut world = counted(1);
    world.record("1", 100, &[]);
    world.confirm = false;
    let event = changed("1", 1, "x");
    for tag in 1..=2 * u64::from(TRIES_MAX) {
        suspect(&mut world, tag, &event);
        world.run_for(Duration::from_secs(2));
        assert_eq!(world.engine.tries(&event), 1);
        world.tell(Input::Lost);
        for note in world.notes.clone() {
            world.engine.restore(note);
        }
        assert_eq!(world.engine.tries(&event), 0);
    }
    assert!(world.letters.is_empty());
}

#[test]
fn a_suspect_that_cannot_be_asked_for_is_set_aside_and_not_blamed() {
    let mut world = counted(1);
    let broken = crate::hubspot::call::CallError::Unauthorized;
    world.model.broken.insert(PORTAL.to_owned(), broken);
    let event = changed("1", 1, "x");
    for tag in 1..6 {
        suspect(&mut world, tag, &event);
        world.run_for(Duration::from_secs(120));
        assert!(world.letters.is_empty());
        assert_eq!(world.engine.tries(&event), 0);
    }
    assert!(world.set_aside >= 5);
}

#[test]
fn of_a_lot_that_is_tried_only_what_does_not_end_is_blamed() {
    let mut world = counted(1);
    world.record("1", 100, &[]);
    let done = changed("1", 1, "x");
    suspect(&mut world, 1, &done);
    world.settle();
    let broken = crate::hubspot::call::CallError::Unauthorized;
    world.model.broken.insert(PORTAL.to_owned(), broken);
    let (one, other) = (changed("1", 2, "y"), changed("1", 3, "z"));
    let lot = vec![
        (DeliveryId(2), vec![done.clone(), one.clone()]),
        (DeliveryId(3), vec![other.clone()]),
    ];
    for (delivery, events) in &lot {
        let tag = delivery.0;
        world
            .unsettled
            .insert(tag, (Source::Intake, tag, events.clone()));
    }
    world.tell(Input::Suspects(lot));
    let tries = |world: &World, event| world.engine.tries(event);
    let all = [&done, &one, &other].map(|event| tries(&world, event));
    assert_eq!(all, [0, 1, 1]);
    assert!(!world.engine.is_idle());
    // The portal gets nowhere: that is no fault of theirs.
    world.run_for(Duration::from_secs(120));
    let all = [&done, &one, &other].map(|event| tries(&world, event));
    assert_eq!(all, [0, 0, 0]);
    assert!(world.set_aside >= 2 && world.engine.is_idle());
}

#[test]
fn an_event_of_an_erased_record_is_no_dead_letter_however_often_it_was_tried() {
    let event = changed("1", 1, "x");
    let mut world = counted(1);
    for tries in 0..TRIES_MAX {
        suspect(&mut world, 10 + u64::from(tries), &event);
        world = next(world);
    }
    world.deliver(vec![super::demand::deleted(
        "1",
        2,
        ObjectChange::PrivacyDeleted,
    )]);
    world.settle();
    suspect(&mut world, 20, &event);
    world.settle();
    assert!(world.letters.is_empty());
    assert_eq!(world.ending("purged"), 1);
    assert!(world.acked.contains(&20));
}
