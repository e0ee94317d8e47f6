//! What a message says of a record beyond its values, and what it costs to know.

use super::*;
use crate::config::{PortalConfig, Secret, SensitivityLevel};

const HOUR: Duration = Duration::from_secs(3_600);

fn contacts(config: EnrichConfig) -> World {
    World::with_config(&[("contact", config)])
}

fn property_changed(id: &str, occurred_ms: i64, name: &str, value: Option<&str>) -> Event {
    event(
        PORTAL,
        id,
        occurred_ms,
        ObjectChange::PropertyChanged {
            property_name: name.into(),
            property_value: value.map(str::to_owned),
            is_sensitive: false,
        },
    )
}

/// What contact 1 held, the newest first, as (when, text).
fn set_history(world: &mut World, id: &str, name: &str, values: &[(i64, &str)]) {
    let past = values.iter().map(|&(since, text)| PastValue {
        text: text.to_owned(),
        since: at(since),
    });
    let record = world.model.records.get_mut(id).unwrap();
    record.history.insert(name.to_owned(), past.collect());
}

fn associated(id: &str, to: &str, of: (&str, u64), occurred_ms: i64) -> Event {
    let mut made = event(PORTAL, id, occurred_ms, ObjectChange::Created);
    let edge = AssociationEvent {
        edge_id: None,
        from_object_type_id: ObjectTypeId::from_name("contact"),
        from_object_id: id.into(),
        to_object_type_id: ObjectTypeId::from_name("company"),
        to_object_id: to.into(),
        association_type: None,
        association_category: Some(of.0.to_owned()),
        association_type_id: Some(of.1),
        label: None,
        is_primary: false,
        change: AssociationChange::Added,
    };
    let mut hasher = IdentityHasher::new("test");
    hasher.field(&format!("{edge:?}/{occurred_ms}"));
    made.id = hasher.finish();
    made.body = EventBody::Association(edge);
    made
}

fn labels_of(message: &EnrichedEvent) -> Vec<Option<String>> {
    let label = |event: &Event| match &event.body {
        EventBody::Association(edge) => edge.label.clone(),
        other => panic!("{other:?}"),
    };
    message.data.events.iter().map(label).collect()
}

/// The reads of records so far: how many each, and with the history of what.
fn reads(world: &World) -> Vec<(usize, Vec<String>)> {
    let read = |(_, call): &(Millis, Call)| match call {
        Call::ReadRecords {
            ids,
            properties_with_history,
            ..
        } => Some((ids.len(), properties_with_history.clone())),
        _ => None,
    };
    world.calls.iter().filter_map(read).collect()
}

#[test]
fn previous_values_cost_d_over_50_reads_with_the_history_of_what_changed() {
    let mut world = contacts(EnrichConfig {
        previous_values: true,
        ..EnrichConfig::default()
    });
    for id in 0..120 {
        let id = id.to_string();
        world.record(&id, 5, &[("email", "new")]);
        set_history(&mut world, &id, "email", &[(5, "new"), (1, "old")]);
    }
    world.deliver(
        (0..120)
            .map(|id| changed(&id.to_string(), 5, "new"))
            .collect(),
    );
    world.settle();
    let history = vec!["email".to_owned()];
    assert_eq!(
        reads(&world),
        [(50, history.clone()), (50, history.clone()), (20, history)]
    );
    assert_eq!(world.messages.len(), 120);
    let old = PropertyValue::Text("old".into());
    assert!(
        world
            .messages
            .iter()
            .all(|message| message.data.previous_values["email"] == old)
    );
}

#[test]
fn nothing_is_read_of_the_past_unless_it_is_asked_for() {
    let mut world = World::new();
    world.record("1", 5, &[("email", "new")]);
    set_history(&mut world, "1", "email", &[(5, "new"), (1, "old")]);
    world.deliver(vec![changed("1", 5, "new")]);
    world.settle();
    assert_eq!(reads(&world), [(1, Vec::new())]);
    assert!(world.only_message().data.previous_values.is_empty());
}

#[test]
fn merged_changes_tell_what_was_before_the_first_of_them() {
    let mut world = contacts(EnrichConfig {
        previous_values: true,
        ..EnrichConfig::default()
    });
    world.model.definitions = vec![
        definition("size", "number", None),
        definition("city", "string", None),
    ];
    world.record("1", 9, &[("size", "3"), ("email", "x")]);
    set_history(
        &mut world,
        "1",
        "size",
        &[(9, "3"), (7, "2.50"), (1, "1.50")],
    );
    set_history(&mut world, "1", "city", &[(8, "")]);
    world.deliver(vec![
        property_changed("1", 9, "size", Some("3")),
        property_changed("1", 7, "size", Some("2.50")),
        property_changed("1", 8, "city", None),
        property_changed("1", 8, "email", Some("x")),
    ]);
    world.settle();
    let data = &world.only_message().data;
    let expected = [
        ("city".to_owned(), PropertyValue::Null),
        ("size".to_owned(), PropertyValue::Number("1.50".into())),
    ];
    assert_eq!(data.previous_values, expected.into(), "no history, no word");
    let values: Vec<_> = data
        .events
        .iter()
        .map(|event| event.value.clone())
        .collect();
    let number = |digits: &str| Some(PropertyValue::Number(digits.into()));
    let text = Some(PropertyValue::Text("x".into()));
    assert_eq!(values, [number("3"), number("2.50"), None, text]);
    assert_eq!(
        data.record.as_ref().unwrap().properties["city"],
        PropertyValue::Null
    );
}

#[test]
fn histories_that_are_too_large_are_asked_for_in_halves() {
    let mut world = contacts(EnrichConfig {
        previous_values: true,
        ..EnrichConfig::default()
    });
    for id in ["1", "2", "3", "4"] {
        world.record(id, 5, &[("email", "x")]);
    }
    let too_large = CallError::Unreadable {
        reason: "it is too large".into(),
    };
    world.model.faults = [("objects_batch_read", too_large)].into();
    world.deliver(["1", "2", "3", "4"].map(|id| changed(id, 5, "x")).to_vec());
    world.settle();
    let sizes: Vec<_> = reads(&world).into_iter().map(|(ids, _)| ids).collect();
    assert_eq!(sizes, [4, 2, 2]);
    assert_eq!(world.acked, [1]);
}

#[test]
fn identifiers_owners_and_the_external_id_are_read_though_the_plan_names_neither() {
    let mut world = contacts(EnrichConfig {
        properties: Some(vec!["city".into()]),
        external_id: Some("customer_number".into()),
        ..EnrichConfig::default()
    });
    let unique = PropertyDefinition {
        has_unique_value: true,
        ..definition("badge", "number", None)
    };
    world.model.definitions = vec![
        unique,
        definition("customer_number", "number", None),
        definition("city", "string", None),
        definition("fax", "string", None),
    ];
    let values = [
        ("email", "a@b.c"),
        ("badge", "7"),
        ("customer_number", "0042"),
    ];
    world.record("1", 5, &values);
    world.deliver(vec![created("1", 5)]);
    world.settle();
    let asked = world.calls.iter().find_map(|(_, call)| match call {
        Call::ReadRecords { properties, .. } => Some(properties.clone()),
        _ => None,
    });
    assert_eq!(
        asked.unwrap(),
        [
            "badge",
            "city",
            "customer_number",
            "email",
            "hubspot_owner_id",
            "second_owner"
        ]
    );
    let message = world.only_message();
    assert_eq!(message.subject, "contact/1");
    assert_eq!(message.data.external_id.as_deref(), Some("0042"));
    let identifiers = [
        ("badge".to_owned(), PropertyValue::Number("7".into())),
        ("email".to_owned(), PropertyValue::Text("a@b.c".into())),
    ];
    assert_eq!(message.data.identifiers, identifiers.into());
}

#[test]
fn a_portals_external_id_goes_before_its_types() {
    let type_wide = EnrichConfig {
        external_id: Some("customer_number".into()),
        ..EnrichConfig::default()
    };
    let own = PortalConfig {
        access_token: Some(Secret::new("x")),
        external_id: [("contacts".to_owned(), "badge".to_owned())].into(),
        ..PortalConfig::default()
    };
    let plans = Plans::new(&[("0-1".to_owned(), type_wide)].into())
        .with_portals(&[("8241".to_owned(), own)].into());
    let (contact, deal) = (
        ObjectTypeId::from_name("contact"),
        ObjectTypeId::from_name("deal"),
    );
    assert_eq!(
        plans.external_id(&"8241".into(), &contact, None),
        Some("badge")
    );
    assert_eq!(
        plans.external_id(&"1".into(), &contact, None),
        Some("customer_number")
    );
    assert_eq!(plans.external_id(&"8241".into(), &deal, None), None);
}

#[test]
fn what_the_definitions_say_of_values_is_listed() {
    let mut world = contacts(EnrichConfig {
        properties: Some(vec!["*".into()]),
        raw: true,
        ..EnrichConfig::default()
    });
    let marked = |name: &str, calculated, read_only| PropertyDefinition {
        calculated,
        read_only,
        ..definition(name, "number", None)
    };
    world.model.definitions = vec![
        marked("score", true, true),
        marked("locked", false, true),
        marked("unset", true, true),
        definition("company_id", "number", Some("COMPANY")),
        definition("settings", "json", None),
    ];
    let values = [
        ("score", "1.0"),
        ("locked", "2"),
        ("company_id", "9001"),
        ("settings", "{ \"a\": 1.50 }"),
    ];
    world.record("1", 5, &values);
    world.deliver(vec![created("1", 5)]);
    world.settle();
    let record = world.only_message().data.record.as_ref().unwrap();
    assert_eq!(record.calculated, ["score"]);
    assert_eq!(record.read_only, ["locked", "score"]);
    assert_eq!(
        record.references,
        [("company_id".to_owned(), "company".to_owned())].into()
    );
    assert_eq!(
        record.properties["company_id"],
        PropertyValue::Text("9001".into())
    );
    assert_eq!(
        record.properties["settings"],
        PropertyValue::Json("{\"a\":1.50}".into())
    );
    assert_eq!(record.raw.as_ref().unwrap()["settings"], "{ \"a\": 1.50 }");
    assert!(record.sensitive.is_empty());
}

#[test]
fn sensitive_properties_are_read_when_asked_for_and_marked_and_a_missing_scope_is_told() {
    let secret = |name: &str, sensitivity| PropertyDefinition {
        sensitivity,
        ..definition(name, "string", None)
    };
    let definitions = vec![
        secret("passport", Sensitivity::Sensitive),
        secret("diagnosis", Sensitivity::HighlySensitive),
    ];
    let levels = vec![
        SensitivityLevel::HighlySensitive,
        SensitivityLevel::Sensitive,
    ];
    for (sensitivity, forbidden, asked, calls) in [
        (Vec::new(), None, vec![], 1),
        (levels.clone(), None, vec!["diagnosis", "passport"], 3),
        (
            levels,
            Some(Sensitivity::HighlySensitive),
            vec!["passport"],
            3,
        ),
    ] {
        let mut world = contacts(EnrichConfig {
            properties: Some(vec!["*".into()]),
            sensitivity,
            ..EnrichConfig::default()
        });
        world.model.definitions = definitions.clone();
        world.model.forbidden_level = forbidden;
        let values: Vec<_> = asked.iter().map(|name| (*name, "P1")).collect();
        world.record("1", 5, &values);
        world.deliver(vec![created("1", 5)]);
        world.settle();
        assert_eq!(world.calls_to("properties"), calls);
        let data = &world.only_message().data;
        assert_eq!(data.record.as_ref().unwrap().sensitive, asked);
        let scopes: Vec<_> = data
            .enrichment
            .problems
            .iter()
            .flat_map(|problem| &problem.missing_scopes)
            .collect();
        let missing: Vec<_> = forbidden.iter().map(|level| level.as_str()).collect();
        assert_eq!(scopes, missing);
    }
}

#[test]
fn names_that_nobody_defines_cost_a_bounded_number_of_calls() {
    let mut world = lean_world(190);
    world.record("1", 5, &[("email", "x")]);
    for second in 0..1_800 {
        let name = format!("unknown_{second}");
        let now = second * 1_000;
        world.deliver(vec![
            property_changed("1", now, &name, Some("x")),
            property_changed("1", now, "always_the_same", Some(&second.to_string())),
        ]);
        world.run_for(Duration::from_secs(1));
    }
    let calls = world.calls_to("properties");
    assert!((25..=31).contains(&calls), "one a minute: {calls}");

    let mut world = lean_world(190);
    world.record("1", 5, &[("email", "x")]);
    for minute in 0..59 {
        let value = minute.to_string();
        world.deliver(vec![property_changed(
            "1",
            minute * 60_000,
            "ghost",
            Some(&value),
        )]);
        world.run_for(Duration::from_secs(60));
    }
    assert_eq!(
        world.calls_to("properties"),
        2,
        "the same name is looked for once"
    );
}

#[test]
fn a_property_that_is_new_is_typed_in_the_message_that_tells_of_it() {
    let mut world = lean_world(190);
    world.record("1", 5, &[("email", "x")]);
    world.deliver(vec![created("1", 5)]);
    world.run_for(Duration::from_secs(90));
    world.model.definitions = vec![definition("size", "number", None)];
    world.record("1", 90_000, &[("size", "7")]);
    world.deliver(vec![property_changed("1", 90_000, "size", Some("7"))]);
    world.settle();
    let record = world.messages[1].data.record.as_ref().unwrap();
    assert_eq!(record.properties["size"], PropertyValue::Number("7".into()));
}

#[test]
fn owners_are_known_as_they_are_now_and_in_lists() {
    let mut world = lean_world(190);
    world.model.definitions = vec![PropertyDefinition {
        field_type: "checkbox".into(),
        ..definition("helpers", "enumeration", Some("OWNER"))
    }];
    world.record("1", 5, &[("hubspot_owner_id", "1"), ("helpers", ";2;3")]);
    world.deliver(vec![created("1", 5)]);
    world.settle();
    world.model.owners_domain = "example.org";
    world.run_for(HOUR);
    world.record(
        "1",
        3_700_000,
        &[("hubspot_owner_id", "1"), ("helpers", "2")],
    );
    world.deliver(vec![changed("1", 3_700_000, "")]);
    world.settle();
    let emails = |message: &EnrichedEvent| {
        let data = &message.data;
        let listed = &data.owner_lists["helpers"];
        let all = listed.iter().chain([&data.owners["hubspot_owner_id"]]);
        all.map(|owner| owner.email.clone().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        emails(&world.messages[0]),
        ["2@example.com", "3@example.com", "1@example.com"]
    );
    assert_eq!(
        emails(&world.messages[1]),
        ["2@example.org", "1@example.org"]
    );
    assert_eq!(world.messages[1].data.owners.len(), 1);
}

#[test]
fn labels_of_edges_are_read_once_a_pair_and_only_when_one_is_needed() {
    let mut world = lean_world(190);
    world.record("1", 5, &[]);
    let label = |category: &str, type_id, label: Option<&str>| AssociationLabel {
        category: category.to_owned(),
        type_id,
        label: label.map(str::to_owned),
    };
    world.model.labels = vec![
        label("HUBSPOT_DEFINED", 28, Some("of another category")),
        label("USER_DEFINED", 28, Some("Employer")),
    ];
    world.deliver(vec![associated("1", "9", ("HUBSPOT_DEFINED", 279), 1)]);
    world.settle();
    assert_eq!(world.calls_to("association_labels"), 0);
    for occurred_ms in 2..6 {
        world.deliver(vec![
            associated("1", "9", ("USER_DEFINED", 28), occurred_ms),
            associated("1", "9", ("HUBSPOT_DEFINED", 1), occurred_ms),
        ]);
        world.settle();
    }
    assert_eq!(world.calls_to("association_labels"), 1);
    let employer = Some("Employer".to_owned());
    assert_eq!(labels_of(&world.messages[0]), [None]);
    assert!(
        world.messages[1..]
            .iter()
            .all(|m| labels_of(m) == [employer.clone(), None])
    );

    for minute in 10..30 {
        let ms = minute * 60_000;
        world.deliver(vec![associated("1", "9", ("USER_DEFINED", 77), ms)]);
        world.run_for(Duration::from_secs(60));
    }
    assert_eq!(
        world.calls_to("association_labels"),
        2,
        "a type nobody lists"
    );
}

#[test]
fn labels_that_may_not_be_read_leave_the_rest() {
    let mut world = lean_world(190);
    world.record("1", 5, &[("email", "x")]);
    let forbidden = CallError::Forbidden {
        missing_scopes: vec!["a.scope".to_owned()],
    };
    world.model.faults = [("association_labels", forbidden)].into();
    world.deliver(vec![associated("1", "9", ("USER_DEFINED", 28), 1)]);
    world.settle();
    let data = &world.only_message().data;
    assert_eq!(data.enrichment.status, EnrichmentStatus::Partial);
    assert_eq!(
        data.enrichment.problems[0].part,
        EnrichmentPart::Associations
    );
    assert_eq!(data.enrichment.problems[0].missing_scopes, ["a.scope"]);
    assert_eq!(labels_of(world.only_message()), [None]);
}

fn pipeline(stages: &[&str]) -> PipelineDefinition {
    let stage = |(order, id): (usize, &&str)| StageDefinition {
        id: (*id).to_owned(),
        label: format!("Stage {id}"),
        display_order: i64::try_from(order).ok(),
        closed: Some(false),
        probability: None,
        ticket_state: Some("OPEN".to_owned()),
    };
    PipelineDefinition {
        id: "0".to_owned(),
        label: "Support".to_owned(),
        display_order: Some(3),
        stages: stages.iter().enumerate().map(stage).collect(),
    }
}

#[test]
fn a_stage_that_is_new_is_looked_up_and_one_that_is_gone_is_not_looked_for_again() {
    let mut world = lean_world(190);
    world.model.definitions = ["hs_pipeline", "hs_pipeline_stage"]
        .map(|name| definition(name, "enumeration", None))
        .to_vec();
    world.model.pipelines = vec![pipeline(&["1"])];
    let move_to = |world: &mut World, stage: &str, seconds: i64| {
        let ms = seconds * 1_000;
        world.record(
            "1",
            ms,
            &[("hs_pipeline", "0"), ("hs_pipeline_stage", stage)],
        );
        world.deliver(vec![property_changed(
            "1",
            ms,
            "hs_pipeline_stage",
            Some(stage),
        )]);
        world.run_for(Duration::from_secs(100));
    };
    move_to(&mut world, "1", 0);
    world.model.pipelines = vec![pipeline(&["1", "2"])];
    move_to(&mut world, "2", 100);
    assert_eq!(world.calls_to("pipelines"), 2);
    for round in 2..6 {
        move_to(&mut world, "gone", round * 100);
        move_to(&mut world, "1", round * 100 + 50);
    }
    assert_eq!(world.calls_to("pipelines"), 3);
    let shown = world.messages[1].data.pipeline.as_ref().unwrap();
    let stage = shown.stage.as_ref().unwrap();
    assert_eq!(
        (shown.display_order, stage.display_order),
        (Some(3), Some(1))
    );
    assert_eq!(stage.label.as_deref(), Some("Stage 2"));
    assert_eq!(stage.ticket_state.as_deref(), Some("OPEN"));
}

#[test]
fn associations_are_read_to_the_end_or_said_to_be_cut() {
    for (count, cut) in [(40, false), (41, true)] {
        let mut world = World::new();
        world.record("1", 5, &[]);
        let ids = (0..count).map(|id: i32| id.to_string()).collect();
        world.model.associated.insert("1".into(), ids);
        world.deliver(vec![created("1", 5)]);
        world.settle();
        let data = &world.only_message().data;
        assert_eq!(data.associations["company"].len(), 40, "20 pages of two");
        let reasons: Vec<_> = data
            .enrichment
            .problems
            .iter()
            .map(|one| one.reason)
            .collect();
        let expected = if cut {
            vec![ProblemReason::Truncated]
        } else {
            Vec::new()
        };
        assert_eq!(reasons, expected);
    }
}
