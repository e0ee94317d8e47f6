//! A privacy deletion is final: for what waits, what is under way, what comes late, and what was merged before.

use super::*;

fn erased(id: &str, occurred_ms: i64) -> Event {
    event(PORTAL, id, occurred_ms, ObjectChange::PrivacyDeleted)
}

fn digest(id: &str) -> RecordDigest {
    let contact = ObjectTypeId::from_name("contact");
    RecordDigest::of(&PORTAL.into(), &contact, &id.into())
}

fn ids_of(erasure: &Erasure) -> (&str, BTreeSet<RecordDigest>) {
    let merged = erasure.merged.iter().copied().collect();
    (erasure.object_id.as_str(), merged)
}

/// Whether any message holds a value of a property.
fn has_values(world: &World) -> bool {
    world.messages.iter().any(|message| {
        let data = &message.data;
        let tells = |event: &Event| event.kind() == "property_changed";
        data.record.is_some() || data.events.iter().any(tells)
    })
}

#[test]
fn the_dead_letters_are_searched_when_what_was_under_way_is_among_them() {
    let mut world = World::new();
    world.record("1", 5, &[]);
    world.model.refuses = ["1".to_owned()].into();
    world.confirm = false;
    world.deliver(vec![changed("1", 1, "a@b.c")]);
    world.settle();
    assert_eq!(world.letters.len(), 1, "it is on its way, not confirmed");
    world.deliver(vec![erased("1", 2)]);
    world.settle();
    assert!(world.searches.is_empty());
    world.confirm_all();
    world.settle();
    let (letters, erasure) = &world.searches[0];
    assert_eq!(*letters, 1);
    assert_eq!(ids_of(erasure), ("1", BTreeSet::new()));
    assert_eq!(world.searches.len(), 1);
    assert_eq!(
        world.only_message().r#type,
        "crm.contact.privacy_deleted.v1"
    );
    assert_eq!((world.ending("dead"), world.ending("delivered")), (1, 1));
    assert_eq!(world.acked.len(), 2);
}

#[test]
fn a_privacy_deletion_is_acknowledged_when_the_search_is_sure_and_asks_again_after_a_loss() {
    let mut world = World::new();
    world.confirm = false;
    world.deliver(vec![erased("1", 2)]);
    world.settle();
    assert_eq!((world.searches.len(), world.messages.len()), (1, 0));
    assert!(world.acked.is_empty());
    world.tell(Input::Lost);
    world.deliver(vec![erased("1", 2)]);
    world.confirm_all();
    world.settle();
    assert_eq!(world.searches.len(), 2);
    assert_eq!(world.acked, [2]);
    assert!(world.engine.is_idle());
}

#[test]
fn what_was_merged_into_an_erased_record_is_erased_with_it() {
    let mut world = World::new();
    world.record("4", 100, &[("email", "a@b.c")]);
    world.deliver(vec![merged("3", &["1", "2"], 2), merged("4", &["3"], 3)]);
    world.settle();
    world.model.records.clear();
    world.messages.clear();
    world.deliver(vec![erased("4", 200)]);
    world.settle();
    let merged = ["1", "2", "3"].map(digest).into();
    assert_eq!(ids_of(&world.searches[0].1), ("4", merged));
    let (calls, notes) = (world.calls.len(), world.notes.clone());
    let late = |world: &mut World| {
        world.deliver(
            ["1", "2", "3", "4"]
                .map(|id| changed(id, 90, "late"))
                .into(),
        );
        world.settle();
        assert_eq!(world.ending("purged"), 4);
        assert!(!has_values(world));
    };
    late(&mut world);
    assert_eq!(world.calls.len(), calls, "nothing was asked");

    let mut after = World::new();
    for note in notes {
        after.recall(Note::decode(&note.encode()).unwrap());
    }
    late(&mut after);
    assert!(after.calls.is_empty());
}

#[test]
fn a_merge_that_is_told_after_the_erasure_erases_too() {
    let mut world = World::new();
    world.record("1", 100, &[("email", "a@b.c")]);
    world.deliver(vec![changed("1", 1, "a@b.c")]);
    world.deliver(vec![erased("3", 3)]);
    world.deliver(vec![merged("3", &["1"], 2), changed("1", 2, "late")]);
    world.settle();
    assert!(!has_values(&world), "the read under way was cancelled");
    let searched: Vec<_> = world.searches.iter().map(|one| ids_of(&one.1)).collect();
    let with_old = [digest("1")].into();
    assert_eq!(searched, [("3", BTreeSet::new()), ("3", with_old)]);
    let told: BTreeSet<_> = world.messages.iter().map(|m| m.r#type.as_str()).collect();
    let expected = ["crm.contact.merged.v1", "crm.contact.privacy_deleted.v1"];
    assert_eq!(told, expected.into());
    assert_eq!(world.acked.len(), 3);
}

#[test]
fn an_erasure_is_told_though_a_late_merge_or_a_second_one_erases_again_before() {
    let (late, second) = (merged("1", &["2"], 4), erased("1", 6));
    for (again, subject) in [(late, "contact/2"), (second, "contact/1")] {
        let mut world = World::new();
        world.confirm = false;
        world.deliver(vec![erased("1", 5)]);
        world.settle();
        assert_eq!((world.searches.len(), world.messages.len()), (1, 0));
        world.deliver(vec![again.clone()]);
        world.settle();
        world.confirm = true;
        world.confirm_all();
        world.settle();
        let told = world.messages.iter();
        let told: BTreeSet<_> = told
            .map(|message| (&*message.subject, &message.data.events[0].id))
            .collect();
        let first = ("contact/1", &erased("1", 5).id);
        assert_eq!(told, [first, (subject, &again.id)].into());
        assert!(world.searches.len() >= 2);
        assert!(world.engine.is_idle());
    }
}

#[test]
fn an_id_that_turns_out_to_lead_to_an_erased_record_is_searched_for() {
    let mut world = World::new();
    world.record("3", 100, &[("email", "a@b.c")]);
    world.model.merged.insert("1".into(), "3".into());
    world.deliver(vec![erased("3", 1)]);
    world.deliver(vec![changed("1", 1, "x"), changed("1", 2, "y")]);
    world.settle();
    assert!(!has_values(&world));
    let last = &world.searches.last().unwrap().1;
    assert_eq!(ids_of(last), ("3", [digest("1")].into()));
    assert_eq!(world.acked.len(), 2);
}

#[test]
fn an_erased_record_leads_nowhere() {
    let mut world = World::new();
    world.record("3", 100, &[("email", "b@b.c")]);
    world.deliver(vec![erased("1", 1)]);
    world.deliver(vec![merged("3", &["1"], 2), changed("1", 3, "late")]);
    world.settle();
    assert_eq!(world.ending("purged"), 1);
    let about_1 = changed("1", 3, "late").id;
    let mut told = world.messages.iter().flat_map(|m| &m.data.events);
    assert!(told.all(|event| event.id != about_1));
}

#[test]
fn a_portal_that_cannot_be_asked_erases_all_the_same() {
    let mut world = World::new();
    let theirs = |event| event_of("666", event);
    let deletion = theirs(erased("1", 5));
    let waiting = theirs(changed("1", 1, "a@b.c"));
    let neighbour = theirs(changed("2", 1, "b@b.c"));
    world.deliver(vec![waiting.clone(), neighbour.clone()]);
    world.run_for(Duration::from_secs(10));
    assert!(world.set_aside > 0);
    assert!(!world.engine.may_be_dropped(&waiting));
    world.deliver(vec![deletion.clone()]);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.searches.len(), 1, "{:?}", world.searches);
    assert_eq!(
        world.only_message().r#type,
        "crm.contact.privacy_deleted.v1"
    );
    assert!(world.engine.may_be_dropped(&waiting));
    assert!(world.engine.may_be_dropped(&deletion), "it has ended");
    assert!(!world.engine.may_be_dropped(&neighbour));
    assert!(!world.engine.may_be_dropped(&theirs(erased("1", 6))));
}

/// It may have been confirmed just before a crash: whoever takes over must count it once, not leave it out.
#[test]
fn what_is_on_its_way_of_an_erased_record_is_not_left_out_of_the_backlog() {
    let mut world = World::new();
    world.record("1", 5, &[("email", "a@b.c")]);
    world.confirm = false;
    let change = changed("1", 1, "a@b.c");
    world.deliver(vec![change.clone()]);
    world.settle();
    world.deliver(vec![erased("1", 6)]);
    world.settle();
    assert!(world.engine.may_be_dropped(&changed("1", 2, "late")));
    assert!(!world.engine.may_be_dropped(&change), "it is on its way");
    world.confirm = true;
    world.confirm_all();
    world.settle();
    assert!(world.engine.may_be_dropped(&change), "it has ended");
}

/// It was set aside, or an engine that died had it: what that left among the dead letters nobody else searches for.
#[test]
fn an_event_of_an_erased_record_that_had_come_before_has_the_dead_letters_searched_when_it_comes_again()
 {
    let mut before = World::new();
    before.confirm = false;
    before.record("1", 5, &[("email", "a@b.c")]);
    let event = changed("1", 1, "a@b.c");
    before.deliver(vec![event.clone()]);
    before.settle();
    let mut world = World::new();
    for note in before.notes {
        world.recall(note);
    }
    world.deliver(vec![erased("1", 6)]);
    world.settle();
    assert_eq!(world.searches.len(), 1);
    world.deliver(vec![event, changed("1", 2, "late")]);
    world.settle();
    assert_eq!(
        world.searches.len(),
        2,
        "not for what comes for the first time"
    );
    assert_eq!(ids_of(&world.searches[1].1).0, "1");
    assert_eq!(world.ending("purged"), 2);
    assert_eq!(world.acked.len(), 2);
}
