//! Dead letters that are replayed: taken up although they were seen, for whom they are meant, once.

use std::sync::Arc;

use super::*;
use crate::config::{DestinationConfig, DestinationContent, DestinationKind};
use crate::demand::Demand;

/// A world whose destinations are `a` and `b`, which want records, and `plain`, which wants events as they are.
fn world() -> World {
    let mut world = World::new();
    let records = DestinationConfig::new(DestinationKind::Queue);
    let plain = DestinationConfig {
        content: DestinationContent::Event,
        ..records.clone()
    };
    let destinations = [("a", records.clone()), ("b", records), ("plain", plain)];
    let destinations = destinations.map(|(name, config)| (name.to_owned(), config));
    let demand = Demand::new(&BTreeMap::from(destinations), []);
    let plans = Plans::new(&BTreeMap::new()).with_demand(demand);
    world.engine = Engine::new(plans, 7);
    for id in ["1", "2"] {
        world.record(id, 5, &[("email", "x")]);
    }
    world
}

fn replay(of: &str, audience: Audience, event: Event) -> Event {
    let mut hasher = IdentityHasher::new("test");
    hasher.field(of);
    Event {
        replay: Some(Arc::new(Replay {
            of: hasher.finish(),
            at: at(1_000),
            audience,
        })),
        ..event
    }
}

fn to(destination: &str, event: Event) -> Event {
    let audience = Audience::Destination(destination.to_owned());
    replay(destination, audience, event)
}

/// For whom each message is: `*` for all.
fn meant_for(messages: &[EnrichedEvent]) -> Vec<String> {
    let only = |message: &EnrichedEvent| {
        let events = &message.data.events;
        let first = events[0].only().unwrap_or("*").to_owned();
        assert!(
            events
                .iter()
                .all(|event| event.only().unwrap_or("*") == first)
        );
        first
    };
    messages.iter().map(only).collect()
}

#[test]
fn a_replay_passes_the_duplicate_check_once_and_reads_the_record_afresh() {
    let mut world = world();
    let event = changed("1", 1, "x");
    world.deliver(vec![event.clone()]);
    world.settle();
    world.record("1", 50, &[("email", "newer")]);
    let replayed = to("a", event.clone());
    world.deliver(vec![replayed.clone()]);
    world.settle();
    assert_eq!(world.messages.len(), 2);
    assert_eq!(world.messages[1].id, world.messages[0].id);
    assert!(world.messages[1].data.version > world.messages[0].data.version);
    let email = &world.messages[1].data.record.as_ref().unwrap().properties["email"];
    assert_eq!(*email, PropertyValue::Text("newer".to_owned()));
    assert_eq!(world.plain.len(), 1, "it is for a, which wants records");
    // The same letter once more, and the event itself.
    world.deliver(vec![replayed]);
    world.deliver(vec![event]);
    world.settle();
    assert_eq!(world.messages.len(), 2);
    assert_eq!(
        (world.ending("delivered"), world.ending("duplicate")),
        (2, 2)
    );
    assert_eq!(world.acked, [1, 2, 3, 4]);
}

#[test]
fn what_was_replayed_is_remembered_by_the_next_engine() {
    let mut world = world();
    let event = to("a", changed("1", 1, "x"));
    world.deliver(vec![event.clone()]);
    world.settle();
    let notes = std::mem::take(&mut world.notes);
    let mut next = self::world();
    notes.into_iter().for_each(|note| next.recall(note));
    next.deliver(vec![event]);
    next.settle();
    assert_eq!((next.messages.len(), next.ending("duplicate")), (0, 1));
}

#[test]
fn copies_for_one_destination_join_no_message_for_others() {
    let mut world = world();
    world.model.latency = Duration::from_secs(1);
    // The first is read; what comes meanwhile waits in the record's lane.
    world.deliver(vec![changed("1", 1, "x")]);
    let events = [
        to("a", changed("1", 2, "a")),
        to("a", changed("1", 3, "a")),
        to("b", changed("1", 2, "a")),
        changed("1", 4, "x"),
        replay("all", Audience::Enriched, changed("1", 2, "a")),
    ];
    for event in events {
        world.deliver(vec![event]);
    }
    world.settle();
    assert_eq!(meant_for(&world.messages), ["*", "a", "b", "*"]);
    let counts: Vec<_> = world
        .messages
        .iter()
        .map(|message| message.data.events.len())
        .collect();
    assert_eq!(counts, [1, 2, 1, 2]);
    let versions: Vec<_> = world
        .messages
        .iter()
        .map(|message| &message.data.version)
        .collect();
    assert!(
        versions.is_sorted_by(|one, next| one < next),
        "{versions:?}"
    );
    assert_eq!(world.ending("delivered"), 6);
    assert_eq!(world.plain.len(), 2, "no replay here is of a plain event");
    assert_eq!(world.acked.len(), 6);
}

#[test]
fn a_plain_event_goes_to_its_destination_again_and_no_record_is_read_for_it() {
    let mut world = world();
    let event = changed("1", 1, "x");
    world.deliver(vec![to("plain", event.clone())]);
    world.settle();
    assert_eq!((world.plain.len(), world.calls.len()), (1, 0));
    assert_eq!(world.plain[0].id, event.id);
    assert_eq!(world.plain[0].only(), Some("plain"));
    world.deliver(vec![replay("all", Audience::Everybody, event)]);
    world.settle();
    assert_eq!((world.plain.len(), world.messages.len()), (2, 1));
}

#[test]
fn a_replay_to_a_destination_that_wants_nothing_of_it_any_more_ends_unwanted() {
    let mut world = world();
    world.deliver(vec![to("gone", changed("1", 1, "x"))]);
    world.settle();
    assert_eq!((world.ending("unwanted"), world.calls.len()), (1, 0));
}

#[test]
fn a_replay_that_hubspot_refuses_is_a_letter_of_its_destination_again() {
    let mut world = world();
    world.model.refuses = ["1".to_owned()].into();
    world.deliver(vec![to("a", changed("1", 1, "x"))]);
    world.settle();
    assert_eq!(world.letters[0].destination.as_deref(), Some("a"));
    assert_eq!((world.ending("dead"), &world.acked[..]), (1, &[1][..]));
}

#[test]
fn a_replay_of_an_erased_record_ends_purged() {
    for audience in [Audience::Everybody, Audience::Destination("a".to_owned())] {
        let mut world = world();
        world.deliver(vec![event(PORTAL, "1", 9, ObjectChange::PrivacyDeleted)]);
        world.settle();
        let (messages, plain) = (world.messages.len(), world.plain.len());
        world.deliver(vec![replay("it", audience, changed("1", 1, "x"))]);
        world.settle();
        assert_eq!(world.ending("purged"), 1);
        assert_eq!((world.messages.len(), world.plain.len()), (messages, plain));
        assert!(world.calls.is_empty());
    }
}

#[test]
fn a_tombstone_is_told_again_unless_the_record_is_back() {
    let mut world = world();
    let deletion = event(PORTAL, "1", 10, ObjectChange::Deleted);
    world.deliver(vec![deletion.clone()]);
    world.settle();
    world.deliver(vec![to("a", deletion.clone())]);
    world.settle();
    let is_tombstone = |message: &EnrichedEvent| message.data.tombstone.is_some();
    assert!(world.messages.iter().all(is_tombstone));
    assert_eq!(meant_for(&world.messages), ["*", "a"]);
    assert!(world.messages[1].data.version > world.messages[0].data.version);
    world.record("1", 50, &[]);
    world.deliver(vec![event(PORTAL, "1", 50, ObjectChange::Restored)]);
    world.settle();
    world.deliver(vec![to("b", deletion)]);
    world.settle();
    assert_eq!(meant_for(&world.messages), ["*", "a", "*", "b"]);
    assert!(!is_tombstone(&world.messages[3]), "it is read instead");
}

#[test]
fn a_lost_session_loses_no_replay() {
    let mut world = world();
    world.confirm = false;
    let event = to("a", changed("1", 1, "x"));
    world.deliver(vec![event.clone(), to("plain", changed("2", 1, "x"))]);
    world.settle();
    world.tell(Input::Lost);
    // Both are on their way: their repeats end with them.
    world.deliver(vec![event, to("plain", changed("2", 1, "x"))]);
    world.confirm_all();
    world.settle();
    assert_eq!((world.messages.len(), world.plain.len()), (1, 1));
    assert_eq!(world.acked, [2]);
}

#[test]
fn replays_do_not_count_as_events_that_wait_since_they_were_received() {
    let mut world = world();
    world.model.latency = Duration::from_secs(10);
    world.deliver(vec![to("a", changed("1", 1, "x"))]);
    let waiting = world.engine.stats(world.now).oldest_received_at;
    assert_eq!(waiting, Some(at(1_000)));
}

#[test]
fn an_incident_s_replay_leaves_live_changes_the_way() {
    let mut world = world();
    world.model.max = 10;
    for n in 0..3_000 {
        let id = format!("9{n}");
        world.record(&id, 5, &[]);
        world.deliver(vec![to("a", changed(&id, 1, "x"))]);
    }
    world.run_for(Duration::from_secs(3));
    let sent = world.messages.len();
    assert!(sent < 3_000, "{sent} are a poor test");
    world.record("1", 60, &[]);
    let begun = world.now;
    world.deliver(vec![changed("1", 60, "x")]);
    world.run_for(Duration::from_secs(3));
    let took = world.published_at["1"].since(begun);
    assert!(took < Duration::from_secs(2), "{took:?}");
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.ending("delivered"), 3_001);
}
