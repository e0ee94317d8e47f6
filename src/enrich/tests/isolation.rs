//! Nobody waits for a neighbour: portals on one partition, whose window is all they share.

use super::*;

const NEIGHBOUR: &str = "666";

/// Its name, how many events the neighbour has, and what makes it so.
type Trouble = (&'static str, usize, fn(&mut World));

/// Delivers changes of `count` contacts of the neighbour, 100 at a time.
fn deliver_neighbours(world: &mut World, count: usize, make: fn(&str, i64) -> Event) {
    let ids: Vec<_> = (0..count).map(|n| format!("neighbour{n}")).collect();
    for id in &ids {
        world.record(id, 0, &[("email", "a@example.com")]);
    }
    for chunk in ids.chunks(100) {
        let events = chunk.iter().map(|id| event_of(NEIGHBOUR, make(id, 0)));
        world.deliver(events.collect());
    }
}

fn good_neighbour(world: &mut World) {
    let latency = world.model.latency;
    world.model.neighbours = [(NEIGHBOUR.to_owned(), latency)].into();
}

/// The world with its neighbour mended, until everything of it is out.
fn all_goes_out(world: &mut World, events: usize) {
    world.model.broken.clear();
    good_neighbour(world);
    world.token_changed = true;
    world.run_for(Duration::from_secs(4 * 3_600));
    assert!(world.intake.is_empty() && world.backlog.is_empty() && world.engine.is_idle());
    assert_eq!(world.ending("delivered"), events);
    assert_eq!(world.acked.len(), world.deliveries as usize);
}

#[test]
fn no_trouble_of_a_neighbour_is_felt() {
    let mut alone = lean_world(190);
    let alone = live_latencies(&mut alone, 100, Duration::from_millis(700));
    let troubles: [Trouble; 6] = [
        ("imports", 60_000, good_neighbour),
        ("is revoked", 30_000, |_| {}),
        ("is slow", 30_000, |world| {
            let latency = Duration::from_secs(25);
            world.model.neighbours = [(NEIGHBOUR.to_owned(), latency)].into();
        }),
        ("is limited", 30_000, |world| {
            let error = CallError::RateLimited {
                policy: RateLimitPolicy::TenSecondly,
                retry_after: Some(Duration::from_secs(10)),
            };
            world.model.broken = [(NEIGHBOUR.to_owned(), error)].into();
        }),
        ("fails", 30_000, |world| {
            let error = CallError::Unavailable { status: 503 };
            world.model.broken = [(NEIGHBOUR.to_owned(), error)].into();
        }),
        ("is out of calls for the day", 30_000, |world| {
            let error = CallError::RateLimited {
                policy: RateLimitPolicy::Daily,
                retry_after: None,
            };
            world.model.broken = [(NEIGHBOUR.to_owned(), error)].into();
        }),
    ];
    for (what, events, arrange) in troubles {
        for make in [created, imported] {
            let mut world = lean_world(190);
            arrange(&mut world);
            deliver_neighbours(&mut world, events, make);
            let beside = live_latencies(&mut world, 100, Duration::from_millis(700));
            let (p99, p99_alone) = (beside[98], alone[98]);
            assert!(
                p99 * 10 <= p99_alone * 11,
                "{what}: {p99:?}, alone {p99_alone:?}"
            );
            assert_eq!(world.model.over_limit, 0, "{what}");
            all_goes_out(&mut world, events + 100);
        }
    }
}

#[test]
fn many_revoked_portals_leave_room() {
    let mut world = lean_world(190);
    for n in 0..1_000 {
        for id in 0..3 {
            let event = event_of(&format!("revoked{n}"), created(&format!("{n}-{id}"), 0));
            world.deliver(vec![event]);
        }
    }
    world.run_for(Duration::from_secs(300));
    let latencies = live_latencies(&mut world, 100, Duration::from_millis(700));
    assert!(latencies[98] <= world.model.latency, "{:?}", latencies[98]);
}

#[test]
fn what_was_set_aside_comes_back_and_goes_out_once() {
    let mut world = lean_world(190);
    deliver_neighbours(&mut world, 30_000, created);
    world.run_for(Duration::from_secs(600));
    assert!(world.backlog.len() > 50 && world.intake.is_empty());
    assert!(world.letters.is_empty() && world.messages.is_empty());
    all_goes_out(&mut world, 30_000);
    let sent: usize = world.messages.iter().map(|m| m.data.events.len()).sum();
    assert_eq!(sent, 30_000, "none twice");
}

#[test]
fn nothing_stays_unsettled_until_the_broker_takes_it_back() {
    let mut world = lean_world(190);
    deliver_neighbours(&mut world, 1_000, created);
    let mut since: BTreeMap<u64, Millis> = BTreeMap::new();
    for _ in 0..240 {
        world.run_for(Duration::from_secs(30));
        let now = world.now;
        since.retain(|tag, _| world.unsettled.contains_key(tag));
        for tag in world.unsettled.keys() {
            let at = since.entry(*tag).or_insert(now);
            assert!(now.since(*at) <= Duration::from_secs(660), "{tag}");
        }
    }
}

#[test]
fn a_repeat_of_what_was_set_aside_is_one_event() {
    let mut world = lean_world(190);
    deliver_neighbours(&mut world, 30_000, created);
    world.run_for(Duration::from_secs(200));
    deliver_neighbours(&mut world, 30_000, created);
    all_goes_out(&mut world, 30_000);
    assert_eq!(world.ending("duplicate"), 30_000);
}

#[test]
fn what_waits_for_a_portal_that_cannot_be_asked_does_not_count_as_waiting_here() {
    let mut world = lean_world(190);
    world.deliver(vec![event_of("revoked", created("1", 0))]);
    world.run_for(Duration::from_secs(10));
    let stats = world.engine.stats(world.now);
    assert_eq!((stats.waiting_events, stats.portals_paused), (1, 1));
    assert_eq!(stats.oldest_received_at, None);
    world.confirm = false;
    world.deliver(vec![created("1", 9_000)]);
    world.run_for(Duration::from_secs(10));
    let stats = world.engine.stats(world.now);
    assert!(stats.oldest_received_at.is_some(), "this one is ours");
}

/// A destination that confirms nothing: a disk that is full, a pipe that nobody reads.
#[test]
fn what_no_destination_takes_does_not_pile_up() {
    let wishes: [&[&str]; 3] = [&[""], &["content = 'event'"], &["content = 'event'", ""]];
    for (wishes, loses) in wishes
        .into_iter()
        .flat_map(|one| [(one, false), (one, true)])
    {
        let mut world = super::demand::world(wishes);
        world.confirm = false;
        for n in 0..5_000 {
            let id = n.to_string();
            world.record(&id, 0, &[]);
            world.deliver(vec![created(&id, 0)]);
        }
        for _ in 0..12 {
            world.run_for(Duration::from_secs(70));
            if loses {
                let (intake, backlog) = (world.intake.clone(), world.backlog.clone());
                let unsettled = std::mem::take(&mut world.unsettled);
                world.tell(Input::Lost);
                world.backlog = backlog;
                world.intake = intake;
                let unsettled = unsettled.into_values();
                world
                    .intake
                    .extend(unsettled.map(|(_, delivery, events)| (delivery, events)));
                world.tell(Input::Tick);
            }
        }
        let most = 1_000 + WINDOW + 1_000;
        let sent = world.messages.len() + world.plain.len();
        assert!(sent <= most, "{wishes:?}, {loses}: {sent}");
        let waiting = world.engine.stats(world.now).waiting_events;
        assert!(
            waiting <= most + 2 * WINDOW,
            "{wishes:?}, {loses}: {waiting}"
        );
        world.confirm_all();
        world.run_for(Duration::from_secs(3_600));
        assert_eq!(world.ending("delivered"), 5_000, "{wishes:?}, {loses}");
    }
}
