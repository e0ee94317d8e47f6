//! Filters and projections, case by case.

use std::collections::BTreeMap;

use super::*;
use crate::config::{DestinationKind, DestinationPart, Secret};
use crate::event::*;

fn destination(toml: &str) -> DestinationConfig {
    toml::from_str(&format!("kind = 'queue'\n{toml}")).unwrap()
}

fn wish(toml: &str) -> Wish {
    Wish::of_destination(&destination(toml))
}

fn event(body: EventBody) -> Event {
    let mut hasher = IdentityHasher::new("test");
    hasher.field(&format!("{body:?}"));
    Event {
        id: hasher.finish(),
        portal_id: "8241".into(),
        app_id: None,
        subscription_id: None,
        subscription_type: "test".into(),
        hubspot_event_id: None,
        occurred_at: Millis::new(1_763_892_000_123).unwrap(),
        received_at: Millis::new(1_763_892_000_456).unwrap(),
        attempt_number: 0,
        change_source: Some("CRM_UI".into()),
        source_id: None,
        value: None,
        replay: None,
        body,
    }
}

fn of_contact(change: ObjectChange) -> Event {
    event(EventBody::Object(ObjectEvent {
        object_type_id: ObjectTypeId::from_name("contact"),
        object_id: "512".into(),
        change,
    }))
}

fn changed(property: &str) -> Event {
    of_contact(ObjectChange::PropertyChanged {
        property_name: property.into(),
        property_value: Some("x".into()),
        is_sensitive: false,
    })
}

fn merged() -> Event {
    of_contact(ObjectChange::Merged {
        merged_object_ids: vec!["1".into()],
        primary_object_id: None,
        new_object_id: None,
        number_of_properties_moved: None,
    })
}

fn made_by(source: Option<&str>, event: Event) -> Event {
    Event {
        change_source: source.map(str::to_owned),
        ..event
    }
}

fn wants(wish: &Wish, event: &Event) -> bool {
    wish.events.wants(event, &[event.routing_key()])
}

#[test]
fn events_pass_by_routing_key_portal_property_and_source() {
    let mail = changed("email");
    let edge = event(EventBody::Association(AssociationEvent {
        from_object_type_id: ObjectTypeId::from_name("deal"),
        from_object_id: "1".into(),
        to_object_type_id: ObjectTypeId::from_name("company"),
        to_object_id: "2".into(),
        association_type: None,
        association_category: None,
        association_type_id: None,
        is_primary: false,
        edge_id: None,
        label: None,
        change: AssociationChange::Added,
    }));
    let status = event(EventBody::Conversation(ConversationEvent {
        thread_id: "9".into(),
        change: ConversationChange::PropertyChanged {
            property_name: "status".into(),
            property_value: None,
        },
    }));
    let import = made_by(Some("IMPORT"), mail.clone());
    let unsaid = made_by(None, mail.clone());
    for (toml, event, expected) in [
        ("", &mail, true),
        ("match = ['*.contacts.#']", &mail, true),
        ("match = ['*.0-1.#']", &mail, true),
        ("match = ['*.deals.#']", &mail, false),
        (
            "match = ['*.deal.association_added.companies']",
            &edge,
            true,
        ),
        ("portals = ['8241', '7']", &mail, true),
        ("portals = ['7']", &mail, false),
        ("changed = ['amount', 'email']", &mail, true),
        ("changed = ['amount']", &mail, false),
        ("changed = ['amount']", &edge, true),
        ("changed = ['amount']", &status, false),
        ("changed = ['status']", &status, true),
        (
            "changed = ['amount']\nwhere = { email = ['a'] }",
            &mail,
            true,
        ),
        ("change_sources = ['CRM_UI', 'API']", &mail, true),
        ("change_sources = ['API']", &mail, false),
        ("change_sources = ['!IMPORT']", &mail, true),
        ("change_sources = ['!IMPORT', '!API']", &import, false),
        ("change_sources = ['CRM_UI']", &unsaid, false),
        ("change_sources = ['!CRM_UI']", &unsaid, true),
        ("match = ['*.deal.#']\nportals = ['8241']", &mail, false),
    ] {
        let passes = wants(&wish(toml), event);
        assert_eq!(passes, expected, "{toml}: {}", event.routing_key());
    }
}

#[test]
fn the_end_of_a_record_passes_whatever_changed_and_whoever_changed_it() {
    let narrow = "changed = ['amount']\nchange_sources = ['CRM_UI']";
    for change in [ObjectChange::Deleted, ObjectChange::PrivacyDeleted] {
        let deletion = made_by(Some("IMPORT"), of_contact(change));
        assert!(wants(&wish(narrow), &deletion));
        assert!(!wants(&wish("match = ['*.deal.#']"), &deletion));
        assert!(!wants(&wish("portals = ['7']"), &deletion));
    }
    assert!(wants(&wish(narrow), &made_by(None, merged())));
    let restored = made_by(Some("IMPORT"), of_contact(ObjectChange::Restored));
    assert!(!wants(&wish(narrow), &restored));
}

fn record(properties: &[(&str, PropertyValue)]) -> Record {
    let named = properties.iter();
    Record {
        properties: named
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        labels: BTreeMap::from([
            ("stage".to_owned(), PropertyValue::Text("Stage".into())),
            ("topics".to_owned(), PropertyValue::List(vec!["A".into()])),
        ]),
        raw: None,
        references: BTreeMap::new(),
        calculated: vec!["score".to_owned()],
        read_only: Vec::new(),
        sensitive: Vec::new(),
        created_at: None,
        updated_at: None,
        archived: false,
    }
}

fn text(text: &str) -> PropertyValue {
    PropertyValue::Text(text.into())
}

#[test]
fn a_record_passes_by_the_text_of_its_values() {
    let record = record(&[
        ("stage", text("customer")),
        ("amount", PropertyValue::Number("12.50".into())),
        ("vip", PropertyValue::Bool(true)),
        ("topics", PropertyValue::List(vec!["a".into(), "b".into()])),
        ("none", PropertyValue::List(Vec::new())),
        ("phone", PropertyValue::Null),
    ]);
    for (toml, expected) in [
        ("where = { stage = ['lead', 'customer'] }", true),
        ("where = { stage = ['lead'] }", false),
        ("where = { stage = ['Customer'] }", false),
        ("where = { amount = ['12.50'] }", true),
        ("where = { amount = ['12.5'] }", false),
        ("where = { vip = ['true'] }", true),
        ("where = { topics = ['b'] }", true),
        ("where = { topics = ['c'] }", false),
        ("where = { phone = [''] }", true),
        ("where = { phone = ['1'] }", false),
        ("where = { none = [''] }", true),
        ("where = { unknown = [''] }", true),
        ("where = { unknown = ['x'] }", false),
        ("where = { stage = ['customer'], vip = ['true'] }", true),
        ("where = { stage = ['customer'], vip = ['false'] }", false),
    ] {
        let other_change = changed("email");
        let judgement = wish(toml)
            .values
            .judge(Some(&record), std::iter::once(&other_change));
        assert_eq!(judgement == Judgement::Matches, expected, "{toml}");
        assert_ne!(judgement, Judgement::MayHaveLeft, "{toml}");
    }
}

fn enriched(events: Vec<Event>, record: Option<Record>) -> EnrichedEvent {
    let at = Millis::new(1_763_892_000_123).unwrap();
    let problem = |part| EnrichmentProblem {
        part,
        reason: ProblemReason::Refused,
        object_type: None,
        missing_scopes: Vec::new(),
    };
    EnrichedEvent::new(EnrichedData {
        portal_id: "8241".into(),
        object_type: "contact".into(),
        object_type_id: ObjectTypeId::from_name("contact"),
        object_schema: None,
        object_id: "512".into(),
        external_id: None,
        version: Version::of_read(at, at),
        events,
        record,
        owners: BTreeMap::from([(
            "hubspot_owner_id".to_owned(),
            Owner {
                id: "77".into(),
                email: None,
                name: None,
                user_id: None,
                r#type: None,
                archived: false,
                teams: Vec::new(),
            },
        )]),
        associations: BTreeMap::from([("company".to_owned(), Vec::new())]),
        pipeline: Some(Pipeline {
            id: "p".into(),
            label: None,
            display_order: None,
            stage: None,
        }),
        identifiers: BTreeMap::new(),
        previous_values: BTreeMap::new(),
        owner_lists: BTreeMap::new(),
        attachments: None,
        conversation: None,
        tombstone: None,
        enrichment: Enrichment {
            status: EnrichmentStatus::Partial,
            fetched_at: Some(at),
            problems: vec![
                problem(EnrichmentPart::Owners),
                problem(EnrichmentPart::Associations),
            ],
        },
    })
}

/// The copy for a destination.
fn copy(toml: &str, event: &EnrichedEvent) -> Option<EnrichedEvent> {
    let keys = event.routing_keys();
    let wish = wish(toml);
    let selection = wish.select(&event.data, &keys)?;
    Some(selection.copy_of(event).into_owned())
}

fn two_values() -> Record {
    record(&[("stage", text("customer")), ("email", text("a@b.c"))])
}

#[test]
fn a_copy_lists_the_events_that_passed_and_its_id_is_theirs() {
    let (mail, stage) = (changed("email"), changed("stage"));
    let both = enriched(vec![mail.clone(), stage.clone()], Some(two_values()));
    let alone = enriched(vec![stage.clone()], Some(two_values()));
    let whole = copy("", &both).unwrap();
    assert_eq!(whole, both);
    let part = copy("changed = ['stage']", &both).unwrap();
    assert_eq!(
        part, alone,
        "as if the other event had never waited with it"
    );
    assert_ne!(part.id, whole.id);
    assert_eq!(part.data.version, whole.data.version);
    assert_eq!(copy("changed = ['phone']", &both), None);
    assert_eq!(copy("content = 'event'", &both), None);
}

#[test]
fn a_copy_has_the_parts_and_properties_asked_for_and_no_problems_of_others() {
    let event = enriched(vec![changed("email")], Some(two_values()));
    let part = copy(
        "parts = ['record', 'owners']\nproperties = ['stage', 'x']",
        &event,
    )
    .unwrap();
    let record = part.data.record.as_ref().unwrap();
    assert_eq!(record.properties.keys().collect::<Vec<_>>(), ["stage"]);
    assert_eq!(record.labels.keys().collect::<Vec<_>>(), ["stage"]);
    assert_eq!(part.data.owners.len(), 1);
    assert!(part.data.associations.is_empty() && part.data.pipeline.is_none());
    assert_eq!(part.data.enrichment.status, EnrichmentStatus::Partial);
    assert_eq!(part.data.enrichment.problems.len(), 1);
    assert_eq!(part.id, event.id, "it is the same event, seen otherwise");

    let part = copy("parts = ['pipeline']", &event).unwrap();
    assert!(part.data.record.is_none() && part.data.pipeline.is_some());
    assert_eq!(part.data.enrichment.status, EnrichmentStatus::Complete);
    assert!(part.data.enrichment.problems.is_empty());
}

#[test]
fn a_record_that_may_have_just_left_is_shown_once_more_and_no_more_than_that() {
    let toml = "where = { stage = ['lead'] }\nproperties = ['email']";
    let not_it = enriched(vec![changed("email")], Some(two_values()));
    assert_eq!(copy(toml, &not_it), None);
    for event in [changed("stage"), merged()] {
        let left = enriched(vec![event, changed("email")], Some(two_values()));
        let left = copy(toml, &left).unwrap().data;
        let record = left.record.unwrap();
        assert_eq!(
            record.properties,
            BTreeMap::from([("stage".to_owned(), text("customer"))])
        );
        assert!(left.owners.is_empty() && left.associations.is_empty());
        assert!(left.pipeline.is_none());
    }
    let toml = "where = { stage = ['lead'] }\nparts = ['owners']";
    let left = enriched(vec![changed("stage")], Some(two_values()));
    assert!(copy(toml, &left).unwrap().data.record.is_none());
}

#[test]
fn what_cannot_be_judged_by_values_passes() {
    let toml = "where = { stage = ['lead'] }";
    let mut gone = enriched(vec![of_contact(ObjectChange::Deleted)], None);
    gone.data.tombstone = Some(Tombstone {
        reason: TombstoneReason::Deleted,
        merged_into: None,
    });
    assert!(copy(toml, &gone).is_some());
    assert!(copy(toml, &enriched(vec![changed("email")], None)).is_some());
}

fn demand(tomls: &[&str]) -> Demand {
    let named = tomls.iter().enumerate();
    let destinations = named.map(|(n, toml)| (n.to_string(), destination(toml)));
    Demand::new(&destinations.collect(), [])
}

#[test]
fn the_demand_is_what_any_destination_asks_for() {
    let demand = demand(&[
        "match = ['*.contact.#']\nparts = ['record']\nproperties = ['email']",
        "changed = ['stage']\nparts = ['owners', 'pipeline']\nwhere = { score = ['1'] }",
        "match = ['*.deal.#']",
        "content = 'event'\nchanged = ['phone']",
    ]);
    let parts = |parts: &[DestinationPart]| {
        Some(Parts {
            record: parts.contains(&DestinationPart::Record),
            owners: parts.contains(&DestinationPart::Owners),
            associations: parts.contains(&DestinationPart::Associations),
            pipeline: parts.contains(&DestinationPart::Pipeline),
            attachments: false,
        })
    };
    use DestinationPart::{Owners, Pipeline, Record};
    for (event, plain, expected) in [
        (changed("email"), false, parts(&[Record])),
        (changed("stage"), false, parts(&[Record, Owners, Pipeline])),
        (changed("phone"), true, parts(&[Record])),
        (
            Event {
                body: EventBody::Object(ObjectEvent {
                    object_type_id: ObjectTypeId::from_name("ticket"),
                    object_id: "1".into(),
                    change: ObjectChange::PropertyChanged {
                        property_name: "email".into(),
                        property_value: None,
                        is_sensitive: false,
                    },
                }),
                ..changed("email")
            },
            false,
            None,
        ),
    ] {
        let wanted = demand.wants(&event);
        let expected = Wanted {
            plain,
            parts: expected,
        };
        assert_eq!(wanted, expected, "{}", event.routing_key());
    }
    let of_contacts = demand.properties(&ObjectTypeId::from_name("contact"));
    assert!(!of_contacts.all);
    assert_eq!(of_contacts.named, BTreeSet::from(["email", "score"]));
    assert!(demand.properties(&ObjectTypeId::from_name("deal")).all);
}

#[test]
fn topic_exchanges_ask_for_what_is_configured_and_only_with_a_broker() {
    let mut config = Config::default();
    let wants = |config: &Config| Demand::of(config).wants(&changed("email"));
    let nothing = Wanted::default();
    assert_eq!(wants(&config), nothing, "no broker, no destination");
    config.bus.url = Some(Secret::new("amqp://localhost"));
    let enriched = Wanted {
        parts: Some(Parts::ALL),
        ..nothing
    };
    assert_eq!(wants(&config), enriched, "whoever listens at crm.enriched");
    config.bus.enriched_topic = Some(vec!["*.deals.#".parse().unwrap()]);
    assert_eq!(wants(&config), nothing);
    config.bus.events_topic = Some(vec!["*.contacts.#".parse().unwrap()]);
    let plain = Wanted {
        plain: true,
        ..nothing
    };
    assert_eq!(wants(&config), plain);
    assert_eq!(config.destination.len(), 0);
    let kind = DestinationKind::Queue;
    config
        .destination
        .insert("all".to_owned(), DestinationConfig::new(kind));
    assert_eq!(wants(&config).parts, Some(Parts::ALL));
}
