//! Merges of merges, and reads that meet an id that was merged away.

use super::*;

/// The events of the messages about a record.
fn told(world: &World, subject: &str) -> BTreeSet<EventId> {
    let about = world.messages.iter().filter(|m| m.subject == subject);
    let events = about.flat_map(|message| &message.data.events);
    events.map(|event| event.id.clone()).collect()
}

fn merged_into(world: &World, subject: &str) -> Vec<String> {
    let about = world.messages.iter().filter(|m| m.subject == subject);
    let tombstones = about.filter_map(|message| message.data.tombstone.as_ref());
    let into = tombstones.filter_map(|tombstone| tombstone.merged_into.as_ref());
    into.map(ToString::to_string).collect()
}

#[test]
fn what_waits_for_any_id_of_a_chain_goes_to_its_end_whichever_merge_is_told_first() {
    let first = merged("2", &["1"], 10);
    let second = merged("3", &["2"], 20);
    for (merges, into) in [
        ([first.clone(), second.clone()], "2"),
        ([second, first], "3"),
    ] {
        let mut world = World::new();
        world.record("3", 100, &[("email", "x")]);
        world.model.merged = [("1", "3"), ("2", "3")]
            .map(|(old, new)| (old.to_owned(), new.to_owned()))
            .into();
        let waiting = ["1", "2", "3"].map(|id| changed(id, 5, "x"));
        // Definitions are read first: all three wait until then.
        world.deliver(waiting.to_vec());
        world.deliver(merges.to_vec());
        let late = ["1", "2"].map(|id| changed(id, 6, "late"));
        world.deliver(late.to_vec());
        world.settle();
        let of_3 = told(&world, "contact/3");
        for event in waiting.iter().chain(&late) {
            assert!(of_3.contains(&event.id), "{:?}", event.subject());
        }
        let last = |subject| merged_into(&world, subject).pop();
        assert_eq!(last("contact/1").as_deref(), Some(into));
        assert_eq!(last("contact/2").as_deref(), Some("3"));
        let records = world.messages.iter().filter(|m| m.data.record.is_some());
        assert!(records.clone().count() > 0);
        assert!(records.clone().all(|m| m.subject == "contact/3"));
        assert_eq!(world.acked.len(), 3);
        assert!(world.engine.is_idle());
    }
}

#[test]
fn a_chain_that_nobody_told_of_is_followed_by_asking() {
    let mut world = World::new();
    world.record("3", 100, &[]);
    world.model.merged.insert("1".into(), "2".into());
    world.deliver(vec![merged("3", &["2"], 10)]);
    world.settle();
    world.model.merged.insert("1".into(), "3".into());
    let event = changed("1", 5, "x");
    world.deliver(vec![event.clone()]);
    world.settle();
    assert!(told(&world, "contact/3").contains(&event.id));
    assert_eq!(world.acked.len(), 2);
}

#[test]
fn an_id_whose_associations_are_refused_does_not_fail_the_others() {
    let mut world = World::new();
    for id in ["1", "3", "9"] {
        world.record(id, 100, &[]);
        world.model.associated.insert(id.into(), vec!["77".into()]);
    }
    // Merged away without our being told: not among the records, refused among the associations.
    world.model.merged.insert("2".into(), "9".into());
    world.model.refuses_edges = ["2".to_owned()].into();
    world.deliver(["1", "2", "3"].map(|id| changed(id, 5, "x")).into());
    world.settle();
    assert!(world.letters.is_empty());
    for subject in ["contact/1", "contact/3", "contact/9"] {
        let message = world.messages.iter().find(|m| m.subject == subject);
        let data = &message.unwrap_or_else(|| panic!("{subject}")).data;
        assert_eq!(data.enrichment.status, EnrichmentStatus::Complete);
        assert_eq!(data.associations["company"].len(), 1, "{subject}");
    }
    assert_eq!(world.acked, [1]);
}

#[test]
fn an_id_without_associations_says_so_and_the_others_keep_theirs() {
    let mut world = World::new();
    world.record("1", 100, &[]);
    world.record("2", 100, &[]);
    world.model.associated.insert("1".into(), vec!["77".into()]);
    world.deliver(vec![changed("1", 5, "x"), changed("2", 5, "x")]);
    world.settle();
    let count = |subject: &str| {
        let message = world.messages.iter().find(|m| m.subject == subject);
        message.unwrap().data.associations["company"].len()
    };
    assert_eq!((count("contact/1"), count("contact/2")), (1, 0));
}

#[test]
fn that_a_merged_away_id_is_deleted_is_no_news_of_the_survivor() {
    let mut world = World::new();
    world.record("2", 5, &[("email", "a@b.c")]);
    world.deliver(vec![merged("2", &["1"], 5)]);
    world.settle();
    let told = world.messages.len();
    world.deliver(vec![event(PORTAL, "1", 9_000, ObjectChange::Deleted)]);
    world.settle();
    let [message] = &world.messages[told..] else {
        panic!("{:?}", world.messages)
    };
    assert_eq!(message.subject, "contact/2");
    assert!(message.data.tombstone.is_none() && message.data.record.is_some());
}
