//! What events cost in calls.

use super::*;

/// The types at the other end, as many as are configured.
const PAIRS: [&str; 3] = ["company", "deal", "ticket"];

fn world_with_pairs(pairs: usize) -> World {
    World::with_config(&[(
        "contact",
        EnrichConfig {
            properties: Some(vec!["*".into()]),
            associations: Some(PAIRS[..pairs].iter().map(|to| (*to).to_owned()).collect()),
            ..EnrichConfig::default()
        },
    )])
}

/// Makes `records` contacts with owners, and delivers `events` changes of them, 100 at a time.
fn deliver_changes(world: &mut World, records: usize, events: usize) {
    for id in 0..records {
        let owner = (1 + id % 3).to_string();
        world.record(
            &id.to_string(),
            5,
            &[("email", "x"), ("hubspot_owner_id", &owner)],
        );
    }
    let events: Vec<_> = (0..events)
        .map(|n| changed(&(n % records).to_string(), i64::try_from(n).unwrap(), "x"))
        .collect();
    for chunk in events.chunks(100) {
        world.deliver(chunk.to_vec());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn n_waiting_events_of_d_records_cost_d_over_100_reads_and_d_over_1000_for_each_pair(
        records in 1_usize..3_000,
        repeats in 1_usize..4,
        pairs in 0_usize..=3,
    ) {
        let mut world = world_with_pairs(pairs);
        deliver_changes(&mut world, records, records * repeats);
        world.settle();
        prop_assert_eq!(world.ending("delivered"), records * repeats);
        prop_assert_eq!(world.messages.len(), records);
        prop_assert_eq!(world.calls_to("objects_batch_read"), records.div_ceil(100));
        prop_assert_eq!(world.calls_to("associations_batch_read"), pairs * records.div_ceil(1_000));
        prop_assert_eq!(world.calls_to("properties"), 1);
        prop_assert_eq!(world.calls_to("owners"), 3, "its pages, once");
        prop_assert_eq!(world.calls_to("owner"), 0);
        prop_assert_eq!(world.model.over_limit, 0);
    }
}

#[test]
fn an_event_of_an_idle_portal_is_one_round_trip_with_its_associations_beside_it() {
    let mut world = world_with_pairs(3);
    deliver_changes(&mut world, 1, 1);
    world.settle();
    let before = world.calls.len();
    world.deliver(vec![changed("0", 500, "x")]);
    let at_once: Vec<_> = world.calls[before..]
        .iter()
        .map(|(_, call)| call.endpoint())
        .collect();
    assert_eq!(at_once.len(), 4, "{at_once:?}");
    assert_eq!(at_once[0], "objects_batch_read");
    world.run_for(world.model.latency);
    assert_eq!((world.messages.len(), world.calls.len()), (2, before + 4));
}

#[test]
fn what_names_no_record_to_read_costs_nothing() {
    let mut world = world_with_pairs(3);
    let mut conversation = changed("77", 1, "OPEN");
    conversation.body = EventBody::Conversation(ConversationEvent {
        thread_id: "77".into(),
        change: ConversationChange::Created,
    });
    world.deliver(vec![
        event(PORTAL, "1", 1, ObjectChange::Deleted),
        event(PORTAL, "2", 1, ObjectChange::PrivacyDeleted),
        conversation,
    ]);
    world.settle();
    assert_eq!((world.messages.len(), world.calls.len()), (3, 0));
}

#[test]
fn associations_gather_while_a_backlog_is_read_but_not_for_long() {
    // Ten calls in ten seconds: a batch of records a second.
    let mut world = world_with_pairs(1);
    world.model.max = 10;
    deliver_many(&mut world, "c", 2_000, created);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.messages.len(), 2_000);
    let associations = world.calls_to("associations_batch_read");
    assert!((5..=12).contains(&associations), "{associations}");
    let mut published: Vec<_> = world.published_at.values().copied().collect();
    published.sort();
    assert!(published[0] <= at(4_000), "{:?}", published[0]);
}

#[test]
fn a_live_change_does_not_wait_for_the_associations_of_an_import() {
    let mut world = World::new();
    deliver_many(&mut world, "import", 20_000, imported);
    world.run_for(Duration::from_secs(5));
    let latencies = live_latencies(&mut world, 20, Duration::from_millis(700));
    let worst = *latencies.last().unwrap();
    assert!(worst <= 3 * world.model.latency, "{worst:?}");
    let (records, associations) = (
        world.calls_to("objects_batch_read"),
        world.calls_to("associations_batch_read"),
    );
    assert!(associations * 4 < records, "{associations} of {records}");
}

#[test]
fn a_smaller_batch_that_hubspot_takes_is_learnt_from_its_refusals() {
    let mut world = world_with_pairs(1);
    world.model.batch_max = 30;
    deliver_changes(&mut world, 100, 100);
    world.settle();
    // 100 is refused, so are 50 and 50; 25 is taken.
    assert_eq!(world.calls_to("objects_batch_read"), 3 + 4);
    assert_eq!(world.calls_to("associations_batch_read"), 3 + 4);
    let before = world.calls.len();
    for id in 1_000..1_100 {
        let id = id.to_string();
        world.record(&id, 5, &[("email", "x")]);
    }
    world.deliver(
        (1_000..1_100)
            .map(|id| changed(&id.to_string(), 1, "x"))
            .collect(),
    );
    world.settle();
    let later = &world.calls[before..];
    let reads = later
        .iter()
        .filter(|(_, call)| call.endpoint() == "objects_batch_read");
    assert_eq!(reads.count(), 4, "none is refused");
    let associations = later
        .iter()
        .filter(|(_, call)| call.endpoint() == "associations_batch_read");
    assert_eq!(associations.count(), 4);
    assert_eq!(world.messages.len(), 200);
    assert!(world.letters.is_empty());
}

#[test]
fn a_record_at_fault_does_not_make_later_batches_smaller() {
    let mut world = world_with_pairs(0);
    world.model.refuses = ["7".to_owned()].into();
    deliver_changes(&mut world, 100, 100);
    world.settle();
    assert_eq!(world.letters.len(), 1);
    let before = world.calls_to("objects_batch_read");
    deliver_many(&mut world, "later", 100, created);
    world.settle();
    assert_eq!(world.calls_to("objects_batch_read"), before + 1);
}
