//! Every form that HubSpot is known to send, and what must never happen with any other.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::event::{EventBody, ObjectChange, ObjectId};

fn received() -> Millis {
    Millis::new(1_790_000_000_000).unwrap()
}

fn read(element: &Value) -> Result<Event, NormalizeError> {
    normalize(&element.to_string(), received())
}

/// A notification of `subscription_type` with `fields` beside the common ones.
fn notification(subscription_type: &str, fields: Value) -> Value {
    let mut element = json!({
        "eventId": 1, "subscriptionId": 2, "portalId": 3, "appId": 4, "occurredAt": 1_751_360_059_094_i64,
        "subscriptionType": subscription_type, "attemptNumber": 0, "changeSource": "CRM_UI",
    });
    let fields = fields.as_object().unwrap().clone();
    element.as_object_mut().unwrap().extend(fields);
    element
}

fn without(element: &Value, key: &str) -> Value {
    let mut element = element.clone();
    element.as_object_mut().unwrap().remove(key);
    element
}

fn with(element: &Value, key: &str, value: Value) -> Value {
    let mut element = element.clone();
    element[key] = value;
    element
}

fn samples() -> Vec<Value> {
    serde_json::from_str(include_str!("../../tests/vectors/notifications.json")).unwrap()
}

#[test]
fn every_sample_becomes_the_event_in_the_snapshot() {
    let events: Vec<Event> = samples().iter().map(|s| read(s).unwrap()).collect();
    insta::assert_json_snapshot!(events);
}

#[test]
fn every_subscription_type_of_hubspots_list_is_known() {
    let mut types = 0;
    for family in [
        "contact",
        "company",
        "deal",
        "ticket",
        "line_item",
        "product",
        "object",
        "conversation",
    ] {
        let changes: &[&str] = match family {
            "contact" => &[
                "creation",
                "deletion",
                "merge",
                "restore",
                "propertyChange",
                "associationChange",
                "privacyDeletion",
            ],
            "product" => &["creation", "deletion", "merge", "restore", "propertyChange"],
            "conversation" => &[
                "creation",
                "deletion",
                "propertyChange",
                "newMessage",
                "privacyDeletion",
            ],
            _ => &[
                "creation",
                "deletion",
                "merge",
                "restore",
                "propertyChange",
                "associationChange",
            ],
        };
        for change in changes {
            types += 1;
            let subscription_type = format!("{family}.{change}");
            let event = read(&notification(&subscription_type, json!({
                "objectId": 5, "objectTypeId": if family == "object" { json!("0-3") } else { Value::Null },
                "propertyName": "p", "fromObjectId": 6, "toObjectId": 7, "associationRemoved": true,
                "associationType": "LINE_ITEM_TO_DEAL",
            })))
            .unwrap();
            assert_ne!(event.kind(), "unknown", "{subscription_type}");
            let expected = match (family, *change) {
                (_, "associationChange") => "line_item",
                ("object", _) => "deal",
                _ => family,
            };
            assert_eq!(
                event.subject().object_type_id.name(),
                expected,
                "{subscription_type}"
            );
        }
    }
    assert_eq!(
        types, 47,
        "all 48 but event.completed, whose payload is not documented"
    );
}

#[test]
fn the_survivor_of_a_merge_is_the_new_record_else_the_primary_else_the_named_one() {
    let merge = |fields| match read(&notification("contact.merge", fields)).unwrap().body {
        EventBody::Object(object) => match object.change {
            ObjectChange::Merged {
                merged_object_ids, ..
            } => (
                object.object_id.to_string(),
                merged_object_ids
                    .iter()
                    .map(ObjectId::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            change => panic!("{change:?}"),
        },
        body => panic!("{body:?}"),
    };
    for (fields, survivor, merged) in [
        (
            json!({"objectId": 5, "primaryObjectId": "5", "mergedObjectIds": [6], "newObjectId": 7}),
            "7",
            "5,6",
        ),
        (
            json!({"objectId": 9, "primaryObjectId": 2, "mergedObjectIds": ["3", 4, 3], "newObjectId": "9"}),
            "9",
            "2,3,4",
        ),
        (
            json!({"objectId": 8, "primaryObjectId": 2, "mergedObjectIds": [3]}),
            "2",
            "3,8",
        ),
        (
            json!({"objectId": 8, "mergedObjectIds": [8, 3, ""]}),
            "8",
            "3",
        ),
        (json!({"objectId": 8}), "8", ""),
    ] {
        assert_eq!(merge(fields), (survivor.to_owned(), merged.to_owned()));
    }
}

#[test]
fn a_cleared_property_has_no_value_however_it_is_written() {
    for value in [json!(""), Value::Null] {
        let fields = json!({"objectId": 5, "propertyName": "p", "propertyValue": value});
        let event = read(&notification("contact.propertyChange", fields)).unwrap();
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["property_value"], Value::Null);
    }
}

#[test]
fn what_hubspot_did_not_send_before_goes_through_as_unknown_with_its_raw_form() {
    for (subscription_type, fields, entity, subject) in [
        (
            "contact.sneezed",
            json!({"objectId": 5}),
            "object",
            "contact/5",
        ),
        (
            "object.sneezed",
            json!({"objectId": 5, "objectTypeId": "2-77"}),
            "object",
            "2-77/5",
        ),
        (
            "hologram.sneezed",
            json!({"objectId": 5, "objectTypeId": "0-1"}),
            "object",
            "contact/5",
        ),
        (
            "conversation.sneezed",
            json!({"objectId": 5}),
            "conversation",
            "conversation/5",
        ),
        (
            "hologram.creation",
            json!({"objectId": 5}),
            "unknown",
            "unknown/5",
        ),
        (
            "event.completed",
            json!({"objectId": 5, "eventTypeName": "e"}),
            "unknown",
            "unknown/5",
        ),
        ("nodots", json!({"objectId": 5}), "unknown", "unknown/5"),
        (
            "contact.associationChange",
            json!({"objectId": 5, "fromObjectId": 5, "toObjectId": 6,
            "associationRemoved": false, "associationType": "CONTACT_TO_HOLOGRAM"}),
            "unknown",
            "unknown/5",
        ),
    ] {
        let element = notification(subscription_type, fields);
        let event = read(&element).unwrap();
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["entity"], entity, "{subscription_type}");
        assert_eq!(json["raw"], element, "{subscription_type}");
        let key = event.subject();
        assert_eq!(
            format!("{}/{}", key.object_type_id.name(), key.object_id),
            subject
        );
    }
    let nameless = read(&notification("contact.sneezed", json!({}))).unwrap();
    assert!(matches!(nameless.body, EventBody::Unknown(_)));
}

#[test]
fn a_required_field_that_is_absent_is_named() {
    let contact = notification(
        "contact.propertyChange",
        json!({"objectId": 5, "propertyName": "p"}),
    );
    let generic = notification(
        "object.creation",
        json!({"objectId": 5, "objectTypeId": "0-1"}),
    );
    let edge = notification(
        "contact.associationChange",
        json!({"fromObjectId": 5, "toObjectId": 6,
        "associationRemoved": false, "associationType": "CONTACT_TO_DEAL"}),
    );
    let thread = notification("conversation.newMessage", json!({"objectId": 5}));
    let merge = notification("contact.merge", json!({"objectId": 5}));
    for (element, fields) in [
        (
            contact,
            &[
                "portalId",
                "occurredAt",
                "subscriptionType",
                "objectId",
                "propertyName",
            ][..],
        ),
        (generic, &["objectId", "objectTypeId"]),
        (
            edge,
            &[
                "fromObjectId",
                "toObjectId",
                "associationRemoved",
                "associationType",
            ],
        ),
        (thread, &["objectId"]),
        (merge, &["objectId"]),
    ] {
        assert!(read(&element).is_ok());
        for field in fields {
            assert_eq!(
                read(&without(&element, field)),
                Err(NormalizeError::Missing(field))
            );
        }
    }
}

#[test]
fn a_time_out_of_range_is_an_error_and_no_panic() {
    let element = notification("contact.creation", json!({"objectId": 5}));
    for time in [
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!("soon"),
        json!("12:00"),
    ] {
        let read = read(&with(&element, "occurredAt", time));
        assert_eq!(read, Err(NormalizeError::NotATime("occurredAt")));
    }
}

#[test]
fn errors_never_quote_the_notification() {
    for element in [
        r#"{"portalId":{"secret":1}}"#,
        r#"{"isSensitive":"secret"}"#,
        r#""secret""#,
        r#"{"secret"#,
        r#"{"mergedObjectIds":"secret"}"#,
        r#"{"portalId":1,"portalId":"secret"}"#,
        r#"{"subscriptionType":"secret.creation"}"#,
    ] {
        let error = normalize(element, received()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
    }
}

#[test]
fn a_repeat_has_the_same_id() {
    let mut elements = samples();
    elements.push(notification(
        "contact.sneezed",
        json!({"objectId": 5, "x": {"attemptNumber": 1}}),
    ));
    for element in elements {
        let id = read(&element).unwrap().id;
        let type_name = element
            .get("subscriptionType")
            .or(element.get("eventType"))
            .unwrap();
        let renamed = without(&without(&element, "subscriptionType"), "eventType");
        let mut as_strings = element.clone();
        for key in [
            "eventId",
            "subscriptionId",
            "portalId",
            "appId",
            "occurredAt",
            "objectId",
            "newObjectId",
        ] {
            if let Some(number) = element.get(key) {
                as_strings[key] = number.to_string().into();
            }
        }
        for repeat in [
            with(&element, "attemptNumber", json!(9)),
            with(&element, "attemptNumber", json!("9")),
            without(&element, "attemptNumber"),
            with(&renamed, "eventType", type_name.clone()),
            as_strings,
        ] {
            assert_eq!(read(&repeat).unwrap().id, id, "{repeat}");
        }
        let later = Millis::new(1).unwrap();
        assert_eq!(normalize(&element.to_string(), later).unwrap().id, id);
    }
}

#[test]
fn everything_that_tells_notifications_apart_makes_another_id() {
    let full = notification(
        "object.associationChange",
        json!({
            "objectId": 5, "objectTypeId": "0-1", "propertyName": "p", "propertyValue": "v", "changeFlag": "f",
            "messageId": "m", "primaryObjectId": 6, "newObjectId": 7, "mergedObjectIds": [8, 9],
            "fromObjectId": 10, "fromObjectTypeId": "0-1", "toObjectId": 11, "toObjectTypeId": "0-2",
            "associationType": "a", "associationCategory": "c", "associationTypeId": 12,
            "associationRemoved": false, "isPrimaryAssociation": false,
        }),
    );
    let mut ids = vec![read(&full).unwrap().id];
    for (key, other) in [
        ("portalId", json!(99)),
        ("appId", json!(99)),
        ("subscriptionId", json!(99)),
        ("eventId", json!(99)),
        ("subscriptionType", json!("contact.associationChange")),
        ("occurredAt", json!(99)),
        ("objectId", json!(99)),
        ("objectTypeId", json!("0-3")),
        ("propertyName", json!("q")),
        ("propertyValue", json!("w")),
        ("propertyValue", json!("")),
        ("propertyValue", Value::Null),
        ("changeFlag", json!("g")),
        ("messageId", json!("n")),
        ("primaryObjectId", json!(99)),
        ("newObjectId", json!(99)),
        ("mergedObjectIds", json!([9, 8])),
        ("mergedObjectIds", json!([89])),
        ("mergedObjectIds", json!([])),
        ("fromObjectId", json!(99)),
        ("fromObjectTypeId", json!("0-3")),
        ("toObjectId", json!(99)),
        ("toObjectTypeId", json!("0-3")),
        ("associationType", json!("b")),
        ("associationCategory", json!("d")),
        ("associationTypeId", json!(99)),
        ("associationRemoved", json!(true)),
        ("isPrimaryAssociation", json!(true)),
    ] {
        ids.push(read(&with(&full, key, other)).unwrap().id);
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn unknown_types_are_told_apart_by_any_field() {
    let id = |fields| read(&notification("contact.sneezed", fields)).unwrap().id;
    let base = id(json!({"objectId": 5, "x": 1}));
    assert_ne!(base, id(json!({"objectId": 5, "x": 2})));
    assert_ne!(base, id(json!({"objectId": 5, "y": 1})));
    assert_ne!(base, id(json!({"objectId": 5, "x": 1, "y": 1})));
    assert_eq!(base, id(json!({"x": 1, "objectId": 5})));
}

/// JSON of any shape, with HubSpot's keys and values more likely than chance would have them.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Quarters, which every reader of JSON reads to the same number.
        any::<f64>()
            .prop_filter("JSON has finite numbers", |n| n.is_finite())
            .prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        prop::sample::select(vec![
            "contact.merge",
            "object.propertyChange",
            "a.associationChange",
            "conversation.x",
            "."
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 32, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any_key(), inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    let keys = vec![
        "objectId",
        "objectTypeId",
        "mergedObjectIds",
        "propertyValue",
        "propertyName",
        "fromObjectId",
        "toObjectId",
        "associationRemoved",
        "associationType",
        "attemptNumber",
        "occurredAt",
    ];
    prop_oneof![
        prop::sample::select(keys).prop_map(str::to_owned),
        "\\PC{0,8}"
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(element in "\\PC*") {
        let _ = normalize(&element, received());
    }

    #[test]
    fn no_json_makes_it_panic(fields in prop::collection::vec((any_key(), any_json()), 0..12), kind in "(contact|object|conversation|event|x)\\.(merge|creation|propertyChange|associationChange|x)") {
        let mut element = notification(&kind, json!({}));
        element.as_object_mut().unwrap().extend(fields);
        let first = read(&element);
        prop_assert_eq!(&first, &read(&element));
        if let Ok(event) = first {
            let batch = crate::event::Batch::new(vec![event]).unwrap();
            prop_assert_eq!(crate::event::Batch::decode(&batch.encode()).unwrap(), batch);
        }
    }
}
