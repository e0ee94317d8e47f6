//! What nobody wants is not read, and what is wanted plain waits for no read. Calls are counted.

use super::*;
use crate::config::{DestinationConfig, DestinationKind};
use crate::demand::Demand;

/// A world of contacts with companies, whose destinations are these.
pub(super) fn world(destinations: &[&str]) -> World {
    let mut world = World::new();
    let named = destinations.iter().enumerate();
    let destinations = named.map(|(n, toml)| {
        let toml = format!("kind = 'queue'\n{toml}");
        let config: DestinationConfig = toml::from_str(&toml).unwrap();
        assert_eq!(config.kind, DestinationKind::Queue);
        (n.to_string(), config)
    });
    let enrich = EnrichConfig {
        properties: Some(vec!["city".into()]),
        associations: Some(vec!["company".into()]),
        ..EnrichConfig::default()
    };
    let plans = Plans::new(&BTreeMap::from([("contact".to_owned(), enrich)]));
    let demand = Demand::new(&destinations.collect(), []);
    world.engine = Engine::new(plans.with_demand(demand), 7);
    let properties = [
        ("email", "x"),
        ("hubspot_owner_id", "1"),
        ("hs_pipeline", "p"),
    ];
    for id in ["1", "2"] {
        world.record(id, 5, &properties);
    }
    world
}

pub(super) fn deleted(id: &str, occurred_ms: i64, change: ObjectChange) -> Event {
    event(PORTAL, id, occurred_ms, change)
}

#[test]
fn what_nobody_wants_ends_unwanted_without_a_call() {
    let mut world = world(&["match = ['*.deal.#']", "portals = ['7']"]);
    world.deliver(vec![
        changed("1", 1, "x"),
        created("2", 1),
        deleted("1", 2, ObjectChange::Deleted),
    ]);
    world.settle();
    assert_eq!((world.calls.len(), world.messages.len()), (0, 0));
    assert_eq!(world.ending("unwanted"), 3);
    assert_eq!(world.acked, [1]);
    world.deliver(vec![changed("1", 1, "x")]);
    world.settle();
    assert_eq!(world.ending("duplicate"), 1);
}

#[test]
fn of_a_batch_only_what_is_wanted_is_read_and_listed() {
    let mut world = world(&["changed = ['email']\nchange_sources = ['!IMPORT']"]);
    world.deliver(vec![
        imported("1", 1),
        changed("1", 2, "x"),
        imported("2", 1),
    ]);
    world.settle();
    assert_eq!(world.only_message().data.events.len(), 1);
    let read: Vec<_> = world
        .calls
        .iter()
        .filter_map(|(_, call)| match call {
            Call::ReadRecords { ids, .. } => Some(ids.len()),
            _ => None,
        })
        .collect();
    assert_eq!(read, [1]);
    assert_eq!(
        (world.ending("delivered"), world.ending("unwanted")),
        (1, 2)
    );
}

#[test]
fn parts_that_nobody_wants_are_not_read() {
    for (parts, associations, owners, pipelines) in [
        ("parts = ['record']", 0, 0, 0),
        ("parts = ['owners']", 0, 3, 0),
        ("parts = ['record', 'associations']", 1, 0, 0),
        ("parts = ['pipeline']", 0, 0, 1),
        ("", 1, 3, 1),
    ] {
        // The second destination wants everything, but of other events.
        let mut world = world(&[parts, "changed = ['phone']\nmatch = ['#.phone']"]);
        world.deliver(vec![changed("1", 1, "x")]);
        world.settle();
        let calls = ["associations_batch_read", "owners", "pipelines"];
        let calls = calls.map(|endpoint| world.calls_to(endpoint));
        assert_eq!(calls, [associations, owners, pipelines], "{parts}");
        let data = &world.only_message().data;
        assert_eq!(data.enrichment.status, EnrichmentStatus::Complete);
        assert_eq!(data.owners.is_empty(), owners == 0, "{parts}");
        assert_eq!(data.pipeline.is_none(), pipelines == 0, "{parts}");
    }
}

#[test]
fn the_properties_read_are_those_that_somebody_asks_for() {
    for (destinations, expected) in [
        (vec!["properties = ['phone']"], vec!["phone"]),
        (vec!["properties = ['no_such']"], vec![]),
        (
            vec!["parts = ['owners']\nwhere = { phone = ['x'] }"],
            vec!["phone"],
        ),
        (vec![""], vec!["city"]),
        (
            vec!["", "properties = ['phone']", "content = 'event'"],
            vec!["city", "phone"],
        ),
        (
            vec!["", "match = ['*.deal.#']\nproperties = ['phone']"],
            vec!["city"],
        ),
    ] {
        let mut world = world(&destinations);
        world.model.definitions = ["city", "phone"]
            .map(|name| definition(name, "string", None))
            .into();
        world.deliver(vec![created("1", 1)]);
        world.settle();
        let asked = world.calls.iter().find_map(|(_, call)| match call {
            Call::ReadRecords { properties, .. } => Some(properties.clone()),
            _ => None,
        });
        // Owners and identifiers are found by these, and come with the same call.
        let mut asked = asked.unwrap();
        asked.retain(|name| !["email", "hubspot_owner_id", "second_owner"].contains(&&**name));
        assert_eq!(asked, expected, "{destinations:?}");
    }
}

#[test]
fn what_is_wanted_plain_alone_goes_out_in_order_without_a_call() {
    let mut world = world(&["content = 'event'"]);
    let events: Vec<_> = (0..1_250).map(|n| changed("1", 1_250 - n, "x")).collect();
    let late = changed("2", 1, "y");
    world.confirm = false;
    world.deliver(events.clone());
    world.deliver(vec![late.clone()]);
    assert_eq!(
        world.plain,
        events[..500],
        "the rest waits for their confirms"
    );
    assert!(world.acked.is_empty());
    world.confirm_all();
    world.settle();
    assert_eq!(world.plain[..1_250], events);
    assert_eq!(world.plain[1_250..], [late]);
    assert_eq!((world.calls.len(), world.messages.len()), (0, 0));
    assert_eq!(world.ending("delivered"), 1_251);
    assert_eq!(world.acked, [1, 2]);
    assert!(world.engine.is_idle());
}

#[test]
fn what_is_wanted_both_ways_goes_out_both_ways_and_ends_once() {
    let mut world = world(&["content = 'event'", ""]);
    let event = changed("1", 1, "x");
    let delivery = world.deliver(vec![event.clone()]);
    let once = vec![event.clone()];
    assert_eq!(world.plain, once, "before anything is read");
    assert!(world.messages.is_empty());
    world.settle();
    assert_eq!(world.only_message().data.events[0].id, event.id);
    assert_eq!(
        (world.ending("delivered"), world.acked.as_slice()),
        (1, &[delivery][..])
    );
    world.deliver(vec![event]);
    world.settle();
    assert_eq!((world.plain.len(), world.messages.len()), (1, 1));
    assert_eq!(world.ending("duplicate"), 1);
}

#[test]
fn plain_events_do_not_wait_for_a_portal_that_cannot_be_asked() {
    let mut world = world(&["content = 'event'", "match = ['*.contact.created']"]);
    world
        .model
        .broken
        .insert(PORTAL.into(), CallError::Unauthorized);
    world.deliver(vec![created("1", 1)]);
    world.run_for(Duration::from_secs(5));
    assert!(world.set_aside > 0, "the portal is paused");
    // One that HubSpot would be asked about, and one that it would not.
    let (both, plain) = (created("2", 2), changed("2", 3, "x"));
    world.deliver(vec![both.clone(), plain.clone()]);
    assert_eq!(world.plain[1..], [both, plain]);
    let after = changed("1", 4, "x");
    let delivery = world.deliver(vec![after.clone()]);
    assert_eq!(world.plain[3..], [after]);
    world.run_for(Duration::from_secs(3));
    assert!(
        world.acked.contains(&delivery),
        "nothing of it waits for HubSpot"
    );

    world.model.broken.clear();
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.plain.len(), 4, "each went out once");
    assert_eq!(world.messages.len(), 2);
    assert_eq!(
        (world.ending("delivered"), world.ending("duplicate")),
        (4, 0)
    );
    assert_eq!(world.acked.len(), 3);
    assert!(world.engine.is_idle());
}

#[test]
fn an_engine_that_takes_over_sends_no_plain_half_again() {
    let mut world = world(&["content = 'event'", ""]);
    world
        .model
        .broken
        .insert(PORTAL.into(), CallError::Unauthorized);
    world.deliver(vec![changed("1", 1, "x")]);
    world.run_for(Duration::from_secs(5));
    let notes = std::mem::take(&mut world.notes);
    let mut next = self::world(&["content = 'event'", ""]);
    for note in notes {
        next.recall(note);
    }
    next.deliver(vec![changed("1", 1, "x")]);
    next.settle();
    assert_eq!((next.plain.len(), next.messages.len()), (0, 1));
}

#[test]
fn after_a_loss_plain_events_are_neither_lost_nor_sent_twice() {
    let mut world = world(&["content = 'event'", ""]);
    let events: Vec<_> = (0..750).map(|n| changed("1", n, "x")).collect();
    world.confirm = false;
    world.deliver(events.clone());
    assert_eq!(world.plain.len(), 500);
    world.tell(Input::Lost);
    world.deliver(events.clone());
    assert_eq!(world.plain.len(), 500, "these are on their way");
    world.confirm_all();
    world.settle();
    assert_eq!(world.plain, events);
    assert_eq!(world.acked, [2]);
    assert_eq!(world.ending("delivered"), 750);
    assert!(world.engine.is_idle());
}

#[test]
fn after_a_loss_the_half_that_went_out_does_not_go_out_again() {
    let mut world = world(&["content = 'event'", ""]);
    // These keep the next ones waiting.
    let first: Vec<_> = (0..500).map(|n| changed("1", n, "x")).collect();
    world.confirm = false;
    world.deliver(first.clone());
    let gone = deleted("2", 1_000, ObjectChange::Deleted);
    world.deliver(vec![gone.clone()]);
    let is_tombstone = |message: &EnrichedEvent| message.data.tombstone.is_some();
    assert!(world.messages.iter().any(is_tombstone));
    let (publish, outcome) = world.unconfirmed.pop().unwrap();
    world.tell(Input::Published { publish, outcome });
    world.tell(Input::Lost);
    world.deliver(first.clone());
    world.deliver(vec![gone.clone()]);
    world.confirm_all();
    world.settle();
    let tombstones = world.messages.iter().filter(|one| is_tombstone(one));
    assert_eq!(tombstones.count(), 1);
    assert_eq!(world.plain, [first, vec![gone]].concat());
    assert!(world.engine.is_idle());
}

#[test]
fn an_erased_record_is_not_told_of_plain_either() {
    let mut world = world(&["content = 'event'"]);
    world.confirm = false;
    world.deliver(vec![created("2", 1)]);
    world.deliver(vec![changed("1", 2, "x"), changed("2", 3, "x")]);
    let erasure = deleted("1", 4, ObjectChange::PrivacyDeleted);
    world.deliver(vec![erasure.clone()]);
    world.confirm_all();
    world.deliver(vec![changed("1", 5, "late")]);
    world.settle();
    assert_eq!(
        world.plain,
        [created("2", 1), changed("2", 3, "x"), erasure]
    );
    assert_eq!(world.ending("purged"), 2);
    assert_eq!(world.acked.len(), 4);
}

#[test]
fn a_merge_or_an_erasure_that_nobody_wants_is_heeded() {
    let mut world = world(&["changed = ['email']\nmatch = ['*.contact.property_changed.#']"]);
    world.deliver(vec![merged("2", &["1"], 1)]);
    world.deliver(vec![changed("1", 2, "x")]);
    world.settle();
    assert_eq!(world.only_message().subject, "contact/2");
    world.deliver(vec![deleted("2", 3, ObjectChange::PrivacyDeleted)]);
    world.deliver(vec![changed("2", 4, "x")]);
    world.settle();
    assert_eq!(world.messages.len(), 1);
    assert_eq!((world.ending("unwanted"), world.ending("purged")), (2, 1));
}

#[test]
fn a_merge_that_nobody_wants_erases_too_when_its_record_is_erased() {
    let mut world = world(&[
        "match = ['*.contact.property_changed.#']",
        "match = ['*.contact.property_changed.#']\ncontent = 'event'",
    ]);
    world.deliver(vec![deleted("2", 3, ObjectChange::PrivacyDeleted)]);
    world.settle();
    world.confirm = false;
    // These keep the last one waiting.
    let others: Vec<_> = (0..100).map(|n| changed("9", n, "x")).collect();
    world.deliver(others);
    world.deliver(vec![changed("1", 1, "x")]);
    world.deliver(vec![merged("2", &["1"], 2)]);
    world.confirm_all();
    world.settle();
    let is_of = |event: &Event| event.subject().object_id.as_str() == "1";
    assert!(!world.plain.iter().any(is_of), "it went out as it is");
    let tells = |message: &EnrichedEvent| message.data.events.iter().any(is_of);
    assert!(
        !world.messages.iter().any(tells),
        "it went out with a record"
    );
    let (_, erasure) = world.searches.last().unwrap();
    assert_eq!((erasure.object_id.as_str(), erasure.merged.len()), ("2", 1));
    assert_eq!(world.acked.len(), 4);
    assert!(world.engine.is_idle());
}

/// The copies of an event, all of them refused by their destinations.
fn nobody_has(event: &Event) -> Published {
    let Published::Copies(mut copies) = everybody_has(std::slice::from_ref(event)) else {
        unreachable!()
    };
    copies.iter_mut().for_each(|copy| copy.is_dead = true);
    Published::Copies(copies)
}

/// Also when it was taken in the end: a dead letter may stand since an earlier try, whose confirm was lost.
#[test]
fn what_was_on_its_way_of_an_erased_record_is_searched_for_when_its_end_is_known() {
    let moment = Duration::from_secs(3);
    let event = changed("1", 1, "x");
    // The merge, whose tombstone waits behind it, is delivered as well.
    let outcomes = [
        ("dead", 1, nobody_has(&event)),
        ("delivered", 2, everybody_has(std::slice::from_ref(&event))),
    ];
    for (ending, count, outcome) in outcomes {
        let mut world = world(&["content = 'event'", ""]);
        world.confirm = false;
        world.deliver(vec![event.clone()]);
        world.run_for(moment);
        assert_eq!((world.plain.len(), world.messages.len()), (1, 1));
        let sent = std::mem::take(&mut world.unconfirmed);
        world.deliver(vec![deleted("2", 3, ObjectChange::PrivacyDeleted)]);
        world.deliver(vec![merged("2", &["1"], 2)]);
        world.confirm_all();
        world.run_for(moment);
        let before = world.searches.len();
        world.confirm = false;
        for (publish, _) in sent {
            let outcome = outcome.clone();
            world.tell(Input::Published { publish, outcome });
        }
        world.run_for(moment);
        let searched = world.searches[before..].iter();
        let ids: Vec<_> = searched.map(|(_, one)| one.object_id.as_str()).collect();
        assert_eq!(ids, ["1", "1"], "for the plain copy, and for the other");
        assert_eq!(world.ending(ending), 0, "not before the search is sure");
        world.confirm_all();
        world.run_for(moment);
        assert_eq!(world.ending(ending), count);
        assert_eq!(world.acked.len(), 3);
        assert_eq!(world.searches.len(), before + 2);
        assert!(world.engine.is_idle());
    }
}

/// The search that waited behind it went with the session, and whoever came then did not know of it.
#[test]
fn what_is_on_its_way_when_the_session_breaks_is_searched_for_if_it_was_erased() {
    let moment = Duration::from_secs(3);
    for erased_by_us in [true, false] {
        let mut world = world(&["content = 'event'", ""]);
        let (event, erasure) = (
            changed("1", 1, "x"),
            deleted("1", 3, ObjectChange::PrivacyDeleted),
        );
        world.confirm = false;
        world.deliver(vec![event.clone()]);
        world.run_for(moment);
        let sent = std::mem::take(&mut world.unconfirmed);
        assert_eq!(sent.len(), 2, "plain, and enriched");
        if erased_by_us {
            world.deliver(vec![erasure.clone()]);
        }
        world.tell(Input::Lost);
        let mut other = World::new();
        other.deliver(vec![erasure]);
        other.settle();
        for note in other.notes {
            world.recall(note);
        }
        for (publish, _) in sent {
            let outcome = nobody_has(&event);
            world.tell(Input::Published { publish, outcome });
        }
        world.run_for(moment);
        assert_eq!(world.searches.len(), 2, "by us: {erased_by_us}");
        world.confirm_all();
        world.run_for(moment);
        assert!(world.engine.is_idle());
    }
}

#[test]
fn what_is_on_its_way_plain_is_not_left_out_of_the_backlog_though_its_record_is_erased() {
    let mut world = world(&["content = 'event'", ""]);
    let broken = CallError::Unauthorized;
    world.model.broken.insert(PORTAL.to_owned(), broken);
    world.confirm = false;
    let event = changed("1", 1, "x");
    world.deliver(vec![event.clone()]);
    world.run_for(Duration::from_secs(10));
    assert_eq!((world.plain.len(), world.backlog.len()), (1, 0));
    world.deliver(vec![deleted("1", 3, ObjectChange::PrivacyDeleted)]);
    world.run_for(Duration::from_secs(1));
    assert!(
        !world.engine.may_be_dropped(&event),
        "it counts by what comes of that"
    );
    assert!(world.engine.may_be_dropped(&changed("1", 2, "y")));
}

#[test]
fn a_deletion_does_not_wait_behind_a_merge_that_nobody_wants() {
    let mut world = world(&["match = ['*.contact.deleted', '*.contact.property_changed.#']"]);
    world.deliver(vec![changed("2", 1, "x")]);
    world.settle();
    world.deliver(vec![changed("2", 2, "x")]);
    world.deliver(vec![changed("1", 20, "x")]);
    world.deliver(vec![deleted("1", 10, ObjectChange::Deleted)]);
    world.deliver(vec![merged("2", &["1"], 25)]);
    world.run_for(Duration::from_secs(3));
    let deleted = |m: &&EnrichedEvent| m.r#type == "crm.contact.deleted.v1";
    assert_eq!(world.messages.iter().filter(deleted).count(), 1);
    assert!(world.engine.is_idle());
}

#[test]
fn a_plain_copy_of_an_id_that_was_merged_before_is_searched_for_by_that_id() {
    let mut world = world(&["content = 'event'"]);
    world.deliver(vec![merged("2", &["1"], 1)]);
    world.settle();
    world.confirm = false;
    let event = changed("1", 2, "x");
    world.deliver(vec![event.clone()]);
    let (publish, _) = world.unconfirmed.pop().unwrap();
    world.deliver(vec![deleted("2", 3, ObjectChange::PrivacyDeleted)]);
    let before = world.searches.len();
    let outcome = nobody_has(&event);
    world.tell(Input::Published { publish, outcome });
    let (_, erasure) = &world.searches[before];
    assert_eq!(erasure.object_id.as_str(), "1");
    let own = RecordDigest::of(&PORTAL.into(), &erasure.object_type_id, &"1".into());
    assert_eq!(erasure.merged, [own]);
}

#[test]
fn events_that_no_copy_lists_end_unwanted() {
    let mut world = world(&["", "where = { email = ['y'] }"]);
    world.confirm = false;
    world.deliver(vec![changed("1", 1, "x"), created("1", 2)]);
    world.settle();
    let (publish, _) = world.unconfirmed.pop().unwrap();
    let outcome = everybody_has(&[changed("1", 1, "x")]);
    world.tell(Input::Published { publish, outcome });
    assert_eq!(
        (world.ending("delivered"), world.ending("unwanted")),
        (1, 1)
    );
}
