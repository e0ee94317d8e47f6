//! What each destination gets of an event: the events it asked for, its view of the record, its format.

use super::*;
use crate::config::{DestinationContent, DestinationFormat, DestinationPart};
use crate::event::{Audience, PlainEvent, PropertyValue, Record, Replay};

fn with_record(events: Vec<Event>) -> EnrichedEvent {
    let text = |text: &str| PropertyValue::Text(text.to_owned());
    let record = Record {
        properties: BTreeMap::from([
            ("email".to_owned(), text("a@b.c")),
            ("stage".to_owned(), text("lead")),
        ]),
        raw: None,
        labels: BTreeMap::new(),
        references: BTreeMap::new(),
        calculated: Vec::new(),
        read_only: Vec::new(),
        sensitive: Vec::new(),
        created_at: None,
        updated_at: None,
        archived: false,
    };
    let data = EnrichedData {
        record: Some(record),
        ..enriched(events).data
    };
    EnrichedEvent::new(data)
}

fn renamed(property: &str, event: Event) -> Event {
    let EventBody::Object(mut object) = event.body else {
        unreachable!("a change of a contact")
    };
    if let ObjectChange::PropertyChanged { property_name, .. } = &mut object.change {
        property.clone_into(property_name);
    }
    Event {
        body: EventBody::Object(object),
        ..event
    }
}

#[tokio::test]
async fn destinations_that_get_the_same_share_one_encoding() {
    let bus = ScriptedBus::failing(&[]);
    let lean = DestinationConfig {
        parts: Some(vec![DestinationPart::Record]),
        ..queue("#")
    };
    let binary = DestinationConfig {
        format: DestinationFormat::Binary,
        ..queue("#")
    };
    let all = [
        ("a", queue("#")),
        ("b", queue("*.contact.#")),
        ("lean", lean.clone()),
        ("lean_too", lean),
        ("binary", binary),
    ];
    let fan_out = fan_out(&bus, &all);
    let event = with_record(vec![change("1", "x")]);
    let results = fan_out.deliver_enriched(vec![event]).await;
    assert_eq!(results, [delivered(5, 0)]);
    let body = |target: &str| bus.confirmed(target)[0].body.as_ptr();
    assert_eq!(body("a"), body("b"));
    assert_eq!(body("a"), body("topic"));
    assert_eq!(body("lean"), body("lean_too"));
    assert_ne!(body("a"), body("lean"));
    assert_ne!(body("a"), body("binary"));
}

#[tokio::test]
async fn it_is_told_which_events_each_copy_lists() {
    let bus = ScriptedBus::failing(&[]);
    let customers = DestinationConfig {
        values: BTreeMap::from([("stage".to_owned(), vec!["customer".to_owned()])]),
        ..queue("#")
    };
    let phones = DestinationConfig {
        changed: Some(vec!["phone".to_owned()]),
        ..queue("#")
    };
    let fan_out = fan_out(&bus, &[("customers", customers), ("phones", phones)]);
    let (mail, phone) = (change("1", "x"), renamed("phone", change("2", "x")));
    let events = [
        with_record(vec![mail, phone.clone()]),
        with_record(vec![change("3", "x")]),
    ];
    let events = events.map(|event| Outbound::Enriched(Box::new(event)));
    let results = fan_out.deliver(events.into()).await;
    let some = CopyEnded {
        destination: 1,
        listed: vec![phone.id.clone()],
        is_dead: false,
    };
    assert_eq!(results, [Ok(vec![some]), Ok(Vec::new())]);
    let copy: EnrichedEvent = serde_json::from_slice(&bus.confirmed("phones")[0].body).unwrap();
    assert_eq!(copy.data.events, [phone]);
    assert!(bus.confirmed("customers").is_empty());
}

#[tokio::test]
async fn in_binary_mode_the_attributes_are_headers_and_the_body_is_the_data() {
    let bus = ScriptedBus::failing(&[]);
    let binary = DestinationConfig {
        format: DestinationFormat::Binary,
        ..queue("#")
    };
    let fan_out = fan_out(&bus, &[("binary", binary)]);
    let event = with_record(vec![change("1", "x")]);
    fan_out.deliver_enriched(vec![event.clone()]).await;
    let message = &bus.confirmed("binary")[0];
    assert_eq!(message.content_type, "application/json");
    assert_eq!(message.body, serde_json::to_vec(&event.data).unwrap());
    let headers: HashMap<_, _> = message.headers.iter().cloned().collect();
    let mut whole = serde_json::to_value(&event).unwrap();
    let attributes = whole.as_object_mut().unwrap();
    attributes.remove("data");
    attributes.remove("datacontenttype");
    assert_eq!(headers.len(), attributes.len());
    for (name, value) in attributes {
        let header = &headers[format!("ce-{name}").as_str()];
        assert_eq!(header, value.as_str().unwrap(), "{name}");
    }
}

#[tokio::test]
async fn a_plain_event_goes_to_those_who_want_it_plain_and_an_enriched_one_does_not() {
    let bus = ScriptedBus::failing(&[("full", &[PublishError::Rejected])]);
    let plain = |pattern| DestinationConfig {
        content: DestinationContent::Event,
        ..queue(pattern)
    };
    let all = [
        ("enriched", queue("#")),
        ("plain", plain("#")),
        ("full", plain("#")),
        ("deals", plain("*.deal.#")),
    ];
    let topics = BusConfig {
        events_topic: Some(vec!["#".parse().unwrap()]),
        ..BusConfig::default()
    };
    let fan_out = fan_out_with(topics, &bus, &all);
    let event = change("1", "x");
    let both = vec![
        Outbound::Plain(Box::new(event.clone())),
        Outbound::Enriched(Box::new(enriched(vec![event.clone()]))),
    ];
    let results = fan_out.deliver(both).await.into_iter();
    let results = results.map(|result| result.map(|copies| counts(&copies)));
    assert!(results.eq([delivered(1, 1), delivered(1, 0)]));
    for (target, copies) in [
        ("enriched", 1),
        ("plain", 1),
        ("full", 0),
        ("deals", 0),
        ("topic", 1),
        ("events", 1),
    ] {
        assert_eq!(bus.confirmed(target).len(), copies, "{target}");
    }
    let message = &bus.confirmed("plain")[0];
    assert_eq!(message.id, event.id.to_string());
    assert_eq!(message.kind, "crm.contact.event.property_changed.v1");
    let read: PlainEvent = serde_json::from_slice(&message.body).unwrap();
    assert_eq!((&read.data, read.subject.as_str()), (&event, "contact/512"));
    let letter = &bus.letters()[0];
    assert_eq!(letter.destination.as_deref(), Some("full"));
    assert_eq!(
        (&letter.events, &letter.enriched_event),
        (&vec![event], &None)
    );
}

#[tokio::test]
async fn a_dead_letter_holds_the_copy_as_its_destination_would_have_got_it() {
    let bus = ScriptedBus::failing(&[("lean", &[PublishError::Rejected])]);
    let lean = DestinationConfig {
        properties: Some(vec!["stage".to_owned()]),
        ..queue("#")
    };
    let fan_out = fan_out(&bus, &[("lean", lean)]);
    fan_out
        .deliver_enriched(vec![with_record(vec![change("1", "x")])])
        .await;
    let letter = &bus.letters()[0];
    let copy = letter.enriched_event.as_ref().unwrap();
    let record = copy.data.record.as_ref().unwrap();
    assert_eq!(record.properties.keys().collect::<Vec<_>>(), ["stage"]);
}

#[tokio::test]
async fn nothing_goes_to_a_topic_exchange_that_is_switched_off() {
    let bus = ScriptedBus::failing(&[]);
    let topics = BusConfig {
        enriched_topic: Some(Vec::new()),
        ..BusConfig::default()
    };
    let fan_out = fan_out_with(topics, &bus, &[("a", queue("#"))]);
    fan_out
        .deliver_enriched(vec![enriched(vec![change("1", "x")])])
        .await;
    assert!(bus.confirmed("topic").is_empty());
}

/// What a dead letter of `destination` makes of an event when it is replayed.
fn replayed(destination: &str, event: Event) -> Event {
    let replay = Replay {
        of: event.id.clone(),
        at: event.received_at,
        audience: Audience::Destination(destination.to_owned()),
    };
    Event {
        replay: Some(Arc::new(replay)),
        ..event
    }
}

#[tokio::test]
async fn a_replayed_copy_goes_to_its_destination_alone_and_looks_like_any_other() {
    let plain = DestinationConfig {
        content: DestinationContent::Event,
        ..queue("#")
    };
    let bus = ScriptedBus::failing(&[("b", &[PublishError::Unavailable])]);
    let all = [
        ("a", queue("#")),
        ("b", queue("#")),
        ("p", plain.clone()),
        ("q", plain),
    ];
    let fan_out = fan_out(&bus, &all);
    let event = change("1", "x");
    let bare = enriched(vec![event.clone()]);
    let copy = enriched(vec![replayed("b", event.clone())]);
    assert_eq!(copy.id, bare.id);
    // The same event to all, in trouble as well: neither takes the other for its repeat.
    let first = fan_out
        .deliver_enriched(vec![copy.clone(), bare.clone()])
        .await;
    assert_eq!(first, [Err(FanOutFailure::Retry), delivered(2, 0)]);
    assert_eq!(
        fan_out.deliver_enriched(vec![copy]).await,
        [delivered(1, 0)]
    );
    let confirmed = ["a", "b", "topic"].map(|name| bus.confirmed(name).len());
    assert_eq!(confirmed, [1, 2, 1]);
    let [one, other] = &bus.confirmed("b")[..] else {
        unreachable!()
    };
    assert_eq!(one, other);
    let outbound = Outbound::Plain(Box::new(replayed("q", event)));
    let copies = fan_out.deliver(vec![outbound]).await;
    assert_eq!(counts(copies[0].as_ref().unwrap()), (1, 0));
    let confirmed = ["p", "q"].map(|name| bus.confirmed(name).len());
    assert_eq!(confirmed, [0, 1]);
    let lateness = &fan_out.metrics.fan_out_lateness_seconds;
    assert_eq!(
        lateness.get_sample_count(),
        1,
        "of the one that was no replay"
    );
}

#[tokio::test]
async fn the_messages_of_a_replayed_merge_are_not_taken_for_one_another() {
    let bus = ScriptedBus::failing(&[("b", &[PublishError::Unavailable])]);
    let fan_out = fan_out(&bus, &[("a", queue("#")), ("b", queue("#"))]);
    let event = change("1", "x");
    let replay = Replay {
        of: event.id.clone(),
        at: event.received_at,
        audience: Audience::Enriched,
    };
    let event = Event {
        replay: Some(Arc::new(replay)),
        ..event
    };
    let of = |id: &str| {
        let data = EnrichedData {
            object_id: id.into(),
            ..enriched(vec![event.clone()]).data
        };
        EnrichedEvent::new(data)
    };
    let first = fan_out.deliver_enriched(vec![of("1")]).await;
    assert_eq!(first, [Err(FanOutFailure::Retry)]);
    let other = fan_out.deliver_enriched(vec![of("2")]).await;
    assert_eq!(other, [delivered(2, 0)]);
    let again = fan_out.deliver_enriched(vec![of("1")]).await;
    assert_eq!(again, [delivered(2, 0)]);
    let confirmed = ["a", "b"].map(|name| bus.confirmed(name).len());
    assert_eq!(confirmed, [2, 2]);
}
