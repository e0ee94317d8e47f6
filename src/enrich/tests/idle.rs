//! Portals that have nothing to do: what they cost, and what is kept of them.

use super::*;
use crate::enrich::portals::IDLE_KEEP;

/// Lets the engine look around, as its shell does each second.
fn tick_after(world: &mut World, duration: Duration) {
    world.run_for(duration);
    world.tell(Input::Tick);
}

#[test]
fn an_idle_portal_is_dropped_and_what_must_not_be_forgotten_is_kept() {
    let mut world = World::new();
    world.record("1", 5, &[("email", "x")]);
    world.deliver(vec![changed("1", 1, "x")]);
    tick_after(&mut world, IDLE_KEEP / 2);
    assert_eq!(world.engine.portals.len(), 1);
    tick_after(&mut world, IDLE_KEEP);
    assert_eq!(world.engine.portals.len(), 0);
    world.deliver(vec![changed("1", 1, "x")]);
    assert_eq!(world.ending("duplicate"), 1);
    assert_eq!(world.engine.portals.len(), 0, "a repeat needs no portal");
    world.deliver(vec![changed("1", 0, "late")]);
    world.settle();
    let versions: Vec<_> = world.messages.iter().map(|m| &m.data.version).collect();
    assert!(versions.len() == 2 && versions[0] < versions[1]);
    assert_eq!(world.calls_to("properties"), 2, "read anew");
}

#[test]
fn a_portal_that_was_dropped_starts_with_one_call() {
    let mut world = World::new();
    deliver_many(&mut world, "a", 1_000, created);
    world.settle();
    tick_after(&mut world, 2 * IDLE_KEEP);
    assert_eq!(world.engine.portals.len(), 0);
    let before = world.calls.len();
    deliver_many(&mut world, "b", 1_000, created);
    assert_eq!(world.calls.len(), before + 1, "one alone");
    world.settle();
    assert_eq!(world.messages.len(), 2_000);
}

#[test]
fn a_portal_in_use_is_not_dropped() {
    let mut world = World::new();
    world.record("1", 5, &[]);
    for n in 0..30 {
        world.deliver(vec![changed("1", n, "")]);
        tick_after(&mut world, IDLE_KEEP / 10);
    }
    assert_eq!(world.calls_to("properties"), 1);
}

#[test]
fn a_portal_of_which_a_call_is_under_way_is_not_dropped() {
    let mut world = World::new();
    world.model.latency = 3 * IDLE_KEEP;
    world.deliver(vec![changed("1", 1, "")]);
    world.tell(Input::Lost);
    tick_after(&mut world, 2 * IDLE_KEEP);
    assert_eq!(world.engine.portals.len(), 1, "its call may still count");
    tick_after(&mut world, 4 * IDLE_KEEP);
    assert_eq!(world.engine.portals.len(), 0);
}

#[test]
fn a_portal_whose_token_is_refused_is_not_dropped() {
    let mut world = World::new();
    world.deliver(vec![event_of("revoked", changed("1", 1, ""))]);
    world.settle();
    world.tell(Input::Lost);
    tick_after(&mut world, 3 * IDLE_KEEP);
    assert_eq!(world.engine.stats(world.now).portals_paused, 1);
}

#[test]
fn what_happens_all_the_time_looks_at_busy_portals_alone() {
    let mut world = World::new();
    world.record("1", 5, &[]);
    for portal in 0..500 {
        let portal = portal.to_string();
        let latency = world.model.latency;
        world.model.neighbours.insert(portal.clone(), latency);
        world.deliver(vec![event_of(&portal, changed("1", 1, ""))]);
    }
    assert_eq!(
        world.engine.portals.busy().len(),
        200,
        "as many as are taken up"
    );
    world.settle();
    assert_eq!(world.engine.portals.len(), 500);
    assert!(world.engine.portals.busy().is_empty());
    assert!(world.engine.is_idle() && world.messages.len() == 500);
}
