use super::*;
use crate::event::{DeadLetterReason, Millis, ObjectChange, ObjectEvent, Stage, UnknownEvent};

fn erased() -> Erased {
    let mut erased = Erased::default();
    let portal_id: PortalId = "8241".into();
    let contact = ObjectTypeId::from_name("contact");
    let merged = RecordDigest::of(&portal_id, &contact, &"100".into());
    erased.add(Erasure {
        portal_id,
        object_type_id: contact,
        object_id: "512".into(),
        merged: vec![merged],
    });
    erased
}

fn letter() -> DeadLetter {
    let at = Millis::new(1_763_892_000_000).unwrap();
    let reason = DeadLetterReason::RefusedByHubspot;
    DeadLetter::new(Stage::Enrich, reason, "why".into(), at)
}

fn raw(json: &str) -> DeadLetter {
    letter().with_raw(json.as_bytes())
}

fn event(id: &str, change: ObjectChange) -> Event {
    let body = EventBody::Object(ObjectEvent {
        object_type_id: ObjectTypeId::from_name("contact"),
        object_id: id.into(),
        change,
    });
    of_body(id, body)
}

fn of_body(id: &str, body: EventBody) -> Event {
    let mut hasher = IdentityHasher::new("test");
    hasher.field(&format!("{id} {body:?}"));
    Event {
        id: hasher.finish(),
        portal_id: "8241".into(),
        app_id: None,
        subscription_id: None,
        subscription_type: "test".into(),
        hubspot_event_id: None,
        occurred_at: Millis::default(),
        received_at: Millis::default(),
        attempt_number: 0,
        change_source: None,
        source_id: None,
        value: None,
        replay: None,
        body,
    }
}

fn ids(events: &[Event]) -> Vec<EventId> {
    events.iter().map(|event| event.id.clone()).collect()
}

#[test]
fn a_letter_loses_the_events_of_the_record_and_of_those_merged_into_it_alone() {
    let neighbour = event("513", ObjectChange::Created);
    let deletion = event("512", ObjectChange::PrivacyDeleted);
    let events = vec![
        event("512", ObjectChange::Created),
        neighbour.clone(),
        event("100", ObjectChange::Restored),
        deletion.clone(),
    ];
    let whole = letter().with_events(events);
    let Searched::Cut(left, gone) = erased().search(&whole) else {
        panic!("it is cut");
    };
    assert_eq!((ids(&left.events), gone), (ids(&[neighbour, deletion]), 2));
    assert_eq!(left.failed_at, whole.failed_at);
    assert_eq!(left.routing_key(), whole.routing_key());
    let about_it = letter().with_events(vec![event("512", ObjectChange::Created)]);
    assert_eq!(erased().search(&about_it), Searched::Gone);
    let others = letter().with_events(vec![event("513", ObjectChange::Created)]);
    assert_eq!(erased().search(&others), Searched::Untouched);
}

#[test]
fn a_batch_loses_the_events_of_the_record_alone() {
    let neighbour = event("513", ObjectChange::Created);
    let batch = Batch::new(vec![event("512", ObjectChange::Created), neighbour.clone()]).unwrap();
    let left = Batch::new(vec![neighbour]).unwrap();
    assert_eq!(erased().search_batch(&left), Searched::Untouched);
    assert_eq!(erased().search_batch(&batch), Searched::Cut(left, 1));
}

#[test]
fn raw_content_goes_when_it_names_the_record_and_no_other_portal_or_type() {
    for json in [
        r#"{"objectId":512,"subscriptionType":"contact.propertyChange","portalId":8241}"#,
        r#"{"objectId":"512","propertyValue":"ada"}"#,
        r#"{"objectId":512,"objectTypeId":"0-1"}"#,
        r#"{"objectId":512,"subscriptionType":"object.propertyChange","portalId":"8241"}"#,
        r#"{"origin":{"portalId":8241},"object":{"objectId":512,"objectType":"CONTACT"}}"#,
        r#"{"properties":{"hs_object_id":"512","email":"ada@example.com"}}"#,
        r#"{"fromObjectId":512,"toObjectId":9,"portalId":8241}"#,
        // A record merged into it: its hash is known, so all three must be there.
        r#"{"objectId":100,"subscriptionType":"contact.creation","portalId":8241}"#,
    ] {
        assert_eq!(erased().search(&raw(json)), Searched::Gone, "{json}");
    }
    for json in [
        r#"{"objectId":513}"#,
        r#"{"objectId":5120}"#,
        r#"{"objectId":512,"portalId":8242}"#,
        r#"{"objectId":512,"subscriptionType":"company.propertyChange"}"#,
        r#"{"objectId":512,"objectTypeId":"2-77"}"#,
        r#"{"origin":{"portalId":8242},"object":{"objectId":512}}"#,
        r#"{"propertyValue":"512"}"#,
        r#"{"objectId":100}"#,
        "512",
        "objectId 512, and no JSON",
    ] {
        assert_eq!(erased().search(&raw(json)), Searched::Untouched, "{json}");
    }
}

#[test]
fn what_is_base64_is_read_and_a_part_is_not() {
    let mut json = raw(r#"{"objectId":512}"#);
    json.raw = Some(RawContent::Base64(BASE64.encode(r#"{"objectId":512}"#)));
    assert_eq!(erased().search(&json), Searched::Gone);
    json.part = Some(crate::event::Part {
        number: 1,
        of: 2,
        whole: None,
    });
    assert_eq!(erased().search(&json), Searched::Untouched);
}

#[test]
fn an_unknown_event_is_about_what_its_raw_form_names() {
    let unknown = |raw: &str| {
        let raw = serde_json::from_str(raw).unwrap();
        let object_id = Some("512".into());
        of_body("u", EventBody::Unknown(UnknownEvent { object_id, raw }))
    };
    let named = letter().with_events(vec![unknown(r#"{"objectId":512}"#)]);
    assert_eq!(erased().search(&named), Searched::Gone);
    let typed = letter().with_events(vec![unknown(r#"{"objectId":512,"objectTypeId":"0-2"}"#)]);
    assert_eq!(erased().search(&typed), Searched::Untouched);
}
