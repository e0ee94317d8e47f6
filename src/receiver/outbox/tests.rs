//! Every notification ends in a message, whatever its size.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::*;
use crate::bus::{Target, partition_of};
use crate::event::{BATCH_CONTENT_TYPE, BATCH_KIND, RawContent};

const PARTITIONS: u16 = 16;

fn now() -> Millis {
    Millis::new(1_760_000_000_000).unwrap()
}

fn element(portal: u32, record: usize, value: &str) -> Box<RawValue> {
    let json = format!(
        r#"{{"portalId":{portal},"occurredAt":1,"subscriptionType":"contact.propertyChange","objectId":{record},"propertyName":"p","propertyValue":"{value}"}}"#
    );
    RawValue::from_string(json).unwrap()
}

fn outbox(elements: &[Box<RawValue>], message_bytes_max: usize) -> Outbox {
    let elements: Vec<&RawValue> = elements.iter().map(|element| &**element).collect();
    let limits = Limits {
        partitions: PARTITIONS,
        message_bytes_max,
    };
    let outbox = Outbox::within(limits, &elements, now());
    for outgoing in &outbox.outgoing {
        assert!(outgoing.message.body.len() <= message_bytes_max);
    }
    outbox
}

fn records(outgoing: &Outgoing) -> Vec<String> {
    let batch = Batch::decode(&outgoing.message.body).unwrap();
    let events = batch.events().iter();
    events
        .map(|event| event.subject().object_id.to_string())
        .collect()
}

fn letter(outgoing: &Outgoing) -> DeadLetter {
    serde_json::from_slice(&outgoing.message.body).unwrap()
}

#[test]
fn each_portal_gets_one_batch_in_order_on_its_partition() {
    let elements = [
        element(2, 1, "a"),
        element(1, 2, "a"),
        element(2, 3, "a"),
        element(1, 4, "a"),
    ];
    let outbox = outbox(&elements, MESSAGE_BYTES_MAX);
    assert_eq!(outbox.portals, 2);
    assert_eq!(outbox.kinds, ["property_changed"; 4]);
    let [two, one] = &outbox.outgoing[..] else {
        panic!("{:?}", outbox.outgoing.len())
    };
    assert_eq!(
        (records(two), records(one)),
        (vec!["1".into(), "3".into()], vec!["2".into(), "4".into()])
    );
    for (outgoing, portal) in [(two, "2"), (one, "1")] {
        let partition = partition_of(&portal.into(), PARTITIONS);
        assert_eq!(outgoing.target, Target::Partition(partition));
        assert_eq!(outgoing.message.content_type, BATCH_CONTENT_TYPE);
        assert_eq!(outgoing.message.kind, BATCH_KIND);
    }
}

#[test]
fn a_batch_too_large_is_split_in_order_and_loses_nothing() {
    let elements: Vec<_> = (0..37).map(|record| element(1, record, "value")).collect();
    let outbox = outbox(&elements, 4_000);
    assert!(outbox.outgoing.len() > 4 && outbox.dead.is_empty());
    let all: Vec<String> = outbox.outgoing.iter().flat_map(records).collect();
    let expected: Vec<String> = (0..37).map(|record| record.to_string()).collect();
    assert_eq!(all, expected);
    let mut ids: Vec<_> = outbox.outgoing.iter().map(|o| &o.message.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), outbox.outgoing.len());
}

#[test]
fn an_event_that_fits_no_batch_becomes_a_dead_letter_that_holds_it() {
    let whole = outbox(&[element(1, 1, &"v".repeat(1_000))], MESSAGE_BYTES_MAX);
    // A byte less than its batch, which has more around the event than a dead letter has.
    let size = whole.outgoing[0].message.body.len();
    let small = [element(1, 1, &"v".repeat(1_000)), element(1, 2, "v")];
    let outbox = outbox(&small, size - 1);
    let dead: Vec<_> = outbox
        .outgoing
        .iter()
        .filter(|o| matches!(o.target, Target::DeadLetters(_)))
        .collect();
    assert_eq!(
        outbox.dead,
        [(Stage::Normalize, DeadLetterReason::TooLarge)]
    );
    assert_eq!(
        dead[0].target,
        Target::DeadLetters("normalize.too_large".into())
    );
    let letter = letter(dead[0]);
    assert_eq!(
        (letter.events.len(), letter.portal_id),
        (1, Some("1".into()))
    );
    assert_eq!(records(&outbox.outgoing[1]), ["2"]);
}

#[test]
fn a_dead_letter_too_large_goes_out_in_parts_that_make_the_whole() {
    let value = "v".repeat(9_000);
    let outbox = outbox(&[element(1, 1, &value)], 2_000);
    assert_eq!(outbox.dead.len(), 1);
    assert!(outbox.outgoing.len() > 5);
    let mut content = Vec::new();
    let mut ids = std::collections::HashSet::new();
    for outgoing in &outbox.outgoing {
        assert!(ids.insert(&outgoing.message.id));
        let letter = letter(outgoing);
        assert_eq!(letter.portal_id, Some("1".into()));
        let Some(RawContent::Base64(part)) = letter.raw else {
            panic!("{:?}", letter.raw)
        };
        content.extend(BASE64.decode(part).unwrap());
    }
    let events: Vec<Event> = serde_json::from_slice(&content).unwrap();
    let json = serde_json::to_value(&events[0]).unwrap();
    assert_eq!(json["property_value"], value);
}

#[test]
fn what_cannot_be_read_becomes_a_dead_letter_with_its_raw_text_and_stops_nothing() {
    let unreadable = RawValue::from_string(r#"{"portalId": 1, "half": "\ud800"}"#.into()).unwrap();
    let outbox = outbox(&[unreadable.clone(), element(1, 2, "v")], MESSAGE_BYTES_MAX);
    assert_eq!((outbox.unreadable, outbox.kinds.len()), (1, 1));
    assert_eq!(
        outbox.dead,
        [(Stage::Normalize, DeadLetterReason::Unreadable)]
    );
    let letter = letter(&outbox.outgoing[0]);
    assert_eq!(letter.raw, Some(RawContent::Text(unreadable.get().into())));
    assert_eq!(letter.detail, "the notification has no subscriptionType");
    assert_eq!(records(&outbox.outgoing[1]), ["2"]);
}

#[test]
fn a_body_that_outgrows_a_message_as_json_is_kept_in_parts() {
    // Control characters take six bytes each in JSON.
    let body = vec![1_u8; MESSAGE_BYTES_MAX - 1];
    let outbox = Outbox::of_other_body(&body, NotAnArray::OtherJson, now());
    let mut content = Vec::new();
    for outgoing in &outbox.outgoing {
        assert!(outgoing.message.body.len() <= MESSAGE_BYTES_MAX);
        let Some(RawContent::Base64(part)) = letter(outgoing).raw else {
            panic!("a part is base64")
        };
        content.extend(BASE64.decode(part).unwrap());
    }
    assert!(content == body);
}
