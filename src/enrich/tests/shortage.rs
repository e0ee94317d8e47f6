//! When calls are short: who goes first, and how much of what HubSpot allows is used.

use super::*;
use crate::enrich::budget::TAKE_OVER_DELAY;

/// Another engine in the place of one that died at that moment, on the same HubSpot: it knows what was noted, and gets what was
/// not acknowledged.
fn taken_over(mut world: World, max: u32) -> World {
    let mut next = lean_world(max);
    (next.now, next.model) = (world.now, world.model);
    for note in world.notes.drain(..) {
        next.recall(note);
    }
    for (_, _, events) in world.unsettled.into_values() {
        next.deliver(events);
    }
    next
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whoever_takes_over_from_one_that_used_all_is_not_refused(
        max in 10_u32..60,
        died_ms in 500_u64..30_000,
        noticed_ms in 0_u64..300,
    ) {
        let mut world = lean_world(max);
        deliver_many(&mut world, "live", max as usize * 500, created);
        world.run_for(Duration::from_millis(died_ms));
        world.now = world.now.after(Duration::from_millis(noticed_ms));
        let mut next = taken_over(world, max);
        next.run_for(Duration::from_secs(30));
        prop_assert!(!next.calls.is_empty());
        prop_assert_eq!(next.model.over_limit, 0);
    }
}

#[test]
fn whoever_comes_to_an_idle_partition_calls_at_once_and_after_others_waits_a_moment() {
    let first_call = |noted: Option<i64>, waited: Duration| {
        let mut world = lean_world(190);
        world.now = at(100_000);
        if let Some(ms) = noted {
            world.engine.restore(Note {
                engine: 1,
                number: 0,
                at: at(ms),
                entries: Vec::new(),
                destinations: Vec::new(),
                tallies: Vec::new(),
            });
        }
        world.record("1", 0, &[("email", "x")]);
        let since = world.now;
        world.now = since.after(waited);
        world.deliver(vec![changed("1", 100_000, "x")]);
        world.settle();
        world.calls[0].0.since(since.after(waited))
    };
    let at_once = Duration::ZERO;
    assert_eq!(first_call(None, at_once), at_once);
    assert_eq!(first_call(Some(80_000), at_once), at_once);
    assert_eq!(first_call(Some(95_000), at_once), TAKE_OVER_DELAY);
    let waited = Duration::from_secs(5);
    assert_eq!(first_call(None, waited), TAKE_OVER_DELAY);
}

#[test]
fn a_live_change_does_not_wait_for_an_import() {
    let mut idle = lean_world(190);
    let alone = live_latencies(&mut idle, 50, Duration::from_millis(700));
    let mut busy = lean_world(190);
    deliver_many(&mut busy, "import", 20_000, imported);
    let beside = live_latencies(&mut busy, 50, Duration::from_millis(700));
    let worst = *beside.last().unwrap();
    assert!(
        worst <= 3 * busy.model.latency,
        "{worst:?}; alone {alone:?}"
    );
    assert_eq!(busy.model.over_limit, 0);
    assert_eq!(busy.ending("delivered"), 20_050, "the import went on");
}

#[test]
fn live_changes_of_many_types_go_at_once_beside_an_import() {
    let mut world = lean_world(190);
    let changes = |world: &mut World, round: &str| {
        let now = i64::try_from(world.now.since(at(0)).as_millis()).unwrap();
        for of in ["0-2", "0-3", "0-5", "0-7", "0-8", "0-46", "0-47", "0-48"] {
            let id = format!("{of}{round}");
            world.record(&id, now, &[("email", "x")]);
            let mut event = changed(&id, now, "x");
            if let EventBody::Object(object) = &mut event.body {
                object.object_type_id = ObjectTypeId::from_name(of);
            }
            world.deliver(vec![event]);
        }
    };
    changes(&mut world, "definitions are read");
    world.settle();
    deliver_many(&mut world, "import", 20_000, imported);
    world.run_for(Duration::from_secs(5));
    let from = world.now;
    changes(&mut world, "now");
    world.settle();
    let now = world
        .published_at
        .iter()
        .filter(|(id, _)| id.ends_with("now"));
    let worst = now.map(|(_, at)| at.since(from)).max().unwrap();
    assert!(worst <= 2 * world.model.latency, "{worst:?}");
}

#[test]
fn live_changes_beyond_the_limit_do_not_starve_an_import() {
    let mut world = lean_world(20);
    deliver_many(&mut world, "import", 2_000, imported);
    deliver_many(&mut world, "live", 40_000, created);
    world.run_for(Duration::from_secs(60));
    let imports = world
        .published_at
        .keys()
        .filter(|id| id.starts_with("import"));
    // 120 calls of 100 records in a minute, of which a tenth is for the import.
    let imports = imports.count();
    assert!((900..=1_300).contains(&imports), "{imports}");
}

#[test]
fn a_live_change_of_an_imported_record_brings_it_forward() {
    let mut world = lean_world(20);
    deliver_many(&mut world, "import", 20_000, imported);
    world.run_for(Duration::from_secs(15));
    world.record("import19999", 15_000, &[("email", "x")]);
    let from = world.now;
    world.deliver(vec![changed("import19999", 15_000, "x")]);
    world.run_for(Duration::from_secs(2));
    let took = world.published_at["import19999"].since(from);
    assert!(took <= Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_backlog_uses_95_percent_of_what_is_allowed_and_not_one_call_more() {
    for make in [created, imported] {
        let mut world = lean_world(190);
        deliver_many(&mut world, "c", 150_000, make);
        world.run_for(Duration::from_secs(60));
        let read = world.calls_to("objects_batch_read");
        let allowed = 190 * 6;
        assert!(read * 100 >= allowed * 95, "{read} of {allowed}");
        assert_eq!(world.model.over_limit, 0);
    }
}

#[test]
fn calls_keep_an_even_pace_once_the_burst_is_spent() {
    let mut world = lean_world(190);
    deliver_many(&mut world, "c", 150_000, created);
    world.run_for(Duration::from_secs(60));
    let steady = world.calls.iter().map(|(at, _)| *at);
    let steady: Vec<_> = steady.filter(|call| *call >= at(20_000)).collect();
    let longest = steady.windows(2).map(|two| two[1].since(two[0])).max();
    assert!(
        longest.unwrap() <= Duration::from_millis(150),
        "{longest:?}"
    );
}

#[test]
fn a_share_of_the_limit_is_kept_to() {
    let mut world = lean_world(190);
    world.engine = Engine::new(Plans::default(), 7).with_budget_share(Share::new(0.5).unwrap());
    deliver_many(&mut world, "c", 150_000, created);
    world.run_for(Duration::from_secs(60));
    let calls = world.calls.len();
    assert!((95 * 57 / 10..=95 * 6 + 1).contains(&calls), "{calls}");
}

/// Somebody else makes them by then, who does not know of ours.
#[test]
fn without_a_session_no_call_is_made() {
    let mut world = World::new();
    world.record("1", 5, &[("hubspot_owner_id", "1")]);
    let event = changed("1", 1, "x");
    world.deliver(vec![event.clone()]);
    while world.calls_to("owners") == 0 {
        world.run_for(world.model.latency);
    }
    let (before, ended) = (world.calls.len(), world.ending("delivered"));
    assert_eq!(ended, 0, "there is another page of owners");
    world.tell(Input::Lost);
    world.run_for(Duration::from_secs(60));
    world.tell(Input::Tick);
    assert_eq!(world.calls.len(), before);
    world.deliver(vec![event]);
    world.settle();
    assert_eq!(world.ending("delivered"), 1);
    assert!(world.calls.len() > before && world.engine.is_idle());
}
