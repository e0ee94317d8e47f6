//! What is asked for, and what a replay makes of it.

use serde_json::json;

use super::kept::{Content, Filter, Kept};
use super::plan::{Pieces, Terms, plan};
use crate::bus::{Message, Outgoing, Target, partition_of};
use crate::event::{
    Audience, BATCH_KIND, Batch, DEAD_LETTER_KIND, DeadLetter, DeadLetterReason, EnrichedData,
    EnrichedEvent, Enrichment, EnrichmentStatus, Event, Millis, ObjectTypeId, REPLAY_KIND, Stage,
    Version,
};
use crate::normalize::normalize;

const PARTITIONS: u16 = 16;

fn at(ms: i64) -> Millis {
    Millis::new(1_763_892_000_000 + ms).unwrap()
}

fn notification(portal: u64, id: u64) -> String {
    json!({
        "eventId": id, "subscriptionId": 77, "portalId": portal, "appId": 5, "attemptNumber": 0,
        "occurredAt": at(0).as_i64(), "subscriptionType": "contact.propertyChange",
        "objectId": id, "propertyName": "firstname", "propertyValue": "x", "changeSource": "CRM_UI",
    })
    .to_string()
}

fn event(portal: u64, id: u64) -> Event {
    normalize(&notification(portal, id), at(1)).unwrap()
}

fn letter(stage: Stage, reason: DeadLetterReason) -> DeadLetter {
    DeadLetter::new(stage, reason, "why".into(), at(1_000))
}

fn refused() -> DeadLetter {
    let letter = letter(Stage::Enrich, DeadLetterReason::RefusedByHubspot);
    letter.with_events(vec![event(8241, 1), event(8241, 2)])
}

fn enriched(events: Vec<Event>) -> EnrichedEvent {
    EnrichedEvent::new(EnrichedData {
        events,
        portal_id: "8241".into(),
        object_type: "contact".to_owned(),
        object_type_id: ObjectTypeId::from_name("contact"),
        object_schema: None,
        object_id: "1".into(),
        external_id: None,
        version: Version::of_read(at(0), at(1)),
        record: None,
        identifiers: Default::default(),
        previous_values: Default::default(),
        owners: Default::default(),
        owner_lists: Default::default(),
        associations: Default::default(),
        attachments: None,
        conversation: None,
        pipeline: None,
        tombstone: None,
        enrichment: Enrichment {
            status: EnrichmentStatus::Complete,
            fetched_at: None,
            problems: Vec::new(),
        },
    })
}

fn full(destination: &str) -> DeadLetter {
    letter(Stage::FanOut, DeadLetterReason::DestinationFull)
        .with_enriched_event(destination, enriched(vec![event(8241, 1)]))
}

fn kept(letter: &DeadLetter) -> Kept {
    Kept::read(&Outgoing::dead_letter(letter).message)
}

fn message(kind: &str, body: Vec<u8>) -> Message {
    Message {
        id: "theirs".to_owned(),
        content_type: "application/json".to_owned(),
        kind: kind.to_owned(),
        headers: Vec::new(),
        body: body.into(),
    }
}

fn terms() -> Terms {
    Terms {
        now: at(5_000),
        partitions: PARTITIONS,
        destinations: ["billing".to_owned()].into(),
    }
}

/// The batches of a plan, each with its `type`; all of them go to their portal's partition.
fn replayed(kept: &Kept) -> Vec<(String, Batch)> {
    let plan = plan(kept, &terms()).unwrap();
    let read = |outgoing: Outgoing| {
        let batch = Batch::decode(&outgoing.message.body).unwrap();
        let partition = partition_of(batch.portal_id(), PARTITIONS);
        assert_eq!(outgoing.target, Target::Partition(partition));
        (outgoing.message.kind, batch)
    };
    plan.outgoing.into_iter().map(read).collect()
}

fn why_it_stays(kept: &Kept) -> String {
    plan(kept, &terms()).unwrap_err().to_string()
}

#[test]
fn each_part_of_a_filter_narrows_it() {
    let kept = kept(&full("billing"));
    let all = || Filter::default();
    assert!(all().is_empty() && all().matches(&kept));
    let matching = [
        Filter {
            ids: vec!["x".into(), kept.id.clone()],
            ..all()
        },
        Filter {
            stage: Some(Stage::FanOut),
            ..all()
        },
        Filter {
            reason: Some("destination_full".into()),
            ..all()
        },
        Filter {
            portal_id: Some("8241".into()),
            ..all()
        },
        Filter {
            object_type: Some("contacts".into()),
            ..all()
        },
        Filter {
            object_type: Some("0-1".into()),
            ..all()
        },
        Filter {
            destination: Some("billing".into()),
            ..all()
        },
        Filter {
            since: Some(at(1_000)),
            ..all()
        },
        Filter {
            until: Some(at(1_001)),
            ..all()
        },
    ];
    let others = [
        Filter {
            ids: vec!["x".into()],
            ..all()
        },
        Filter {
            stage: Some(Stage::Enrich),
            ..all()
        },
        Filter {
            reason: Some("too_large".into()),
            ..all()
        },
        Filter {
            portal_id: Some("77".into()),
            ..all()
        },
        Filter {
            object_type: Some("deal".into()),
            ..all()
        },
        Filter {
            destination: Some("other".into()),
            ..all()
        },
        Filter {
            since: Some(at(1_001)),
            ..all()
        },
        Filter {
            until: Some(at(1_000)),
            ..all()
        },
    ];
    for filter in matching {
        assert!(!filter.is_empty() && filter.matches(&kept), "{filter:?}");
        for other in &others {
            let both = Filter {
                stage: other.stage.or(filter.stage),
                ..filter.clone()
            };
            assert!(other.stage.is_none() || !both.matches(&kept), "{both:?}");
        }
    }
    for filter in others {
        assert!(!filter.matches(&kept), "{filter:?}");
    }
    let reason = Some("no_such_reason".to_owned());
    let hint = Filter { reason, ..all() }.check().unwrap_err();
    assert!(hint.contains("destination_full"), "{hint}");
}

#[test]
fn every_reason_of_ours_can_be_asked_for() {
    for reason in DeadLetterReason::ALL {
        let asked = Filter {
            reason: Some(reason.as_str().to_owned()),
            ..Filter::default()
        };
        assert_eq!(asked.check(), Ok(()), "{reason:?}");
    }
}

#[test]
fn what_is_none_of_ours_is_told_and_stays() {
    let foreign = Kept::read(&message("theirs", b"{\"a\":1}".to_vec()));
    assert_eq!(foreign.content, Content::Foreign);
    assert_eq!((foreign.stage(), foreign.reason()), (None, "foreign"));
    assert!(
        !Filter {
            since: Some(at(0)),
            ..Filter::default()
        }
        .matches(&foreign)
    );
    assert!(why_it_stays(&foreign).contains("no letter of ours"));
    // One of a later version, which this one cannot read.
    let later = Kept::read(&message(
        DEAD_LETTER_KIND,
        b"{\"stage\":\"later\"}".to_vec(),
    ));
    assert_eq!(later.content, Content::Foreign);
}

#[test]
fn a_summary_holds_no_value() {
    let unreadable = letter(Stage::Normalize, DeadLetterReason::Unreadable)
        .with_raw(br#"{"portalId":8241,"propertyValue":"secret"}"#);
    for letter in [refused(), full("billing"), unreadable] {
        let kept = kept(&letter);
        let summary = serde_json::to_string(&kept.summary()).unwrap();
        assert!(
            !summary.contains("secret") && !summary.contains("\"x\""),
            "{summary}"
        );
        assert_eq!(kept.portal_id(), Some("8241".into()));
        let shown = Outgoing::dead_letter(&letter).message;
        assert_eq!(
            kept.whole(&shown)["letter"],
            serde_json::to_value(&letter).unwrap()
        );
    }
}

#[test]
fn events_that_hubspot_refused_go_to_all_that_want_them_enriched_and_keep_their_ids() {
    let letter = refused();
    let batches = replayed(&kept(&letter));
    let [(kind, batch)] = &batches[..] else {
        panic!("{batches:?}")
    };
    assert_eq!(kind, REPLAY_KIND);
    let ids = |events: &[Event]| {
        events
            .iter()
            .map(|event| event.id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(batch.events()), ids(&letter.events));
    let replay = batch.replay().unwrap();
    assert_eq!(replay.audience, Audience::Enriched);
    assert_eq!((replay.at, &replay.of), (at(5_000), &letter.failure_id()));
    // Whoever replays the same letter again is recognised; the same failure at another time is another.
    let again = replayed(&kept(&letter));
    assert_eq!(
        again[0].1.events()[0].known_as(),
        batch.events()[0].known_as()
    );
    assert_ne!(*batch.events()[0].known_as(), letter.events[0].id);
    let later = DeadLetter {
        failed_at: at(2_000),
        ..letter
    };
    let later = replayed(&kept(&later));
    assert_ne!(
        later[0].1.events()[0].known_as(),
        batch.events()[0].known_as()
    );
}

#[test]
fn a_copy_goes_to_its_destination_alone_as_long_as_there_is_one() {
    let plain = letter(Stage::FanOut, DeadLetterReason::DestinationFull)
        .with_plain_event("billing", event(8241, 3));
    // A replay to one destination that HubSpot refused.
    let refused = DeadLetter {
        destination: Some("billing".into()),
        ..refused()
    };
    for letter in [full("billing"), plain, refused] {
        let batches = replayed(&kept(&letter));
        let replay = batches[0].1.replay().unwrap();
        assert_eq!(replay.audience, Audience::Destination("billing".into()));
    }
    assert!(why_it_stays(&kept(&full("gone"))).contains("no destination gone"));
}

#[test]
fn what_the_definitions_made_of_a_value_is_not_replayed() {
    let mut typed = event(8241, 1);
    typed.value = Some(crate::event::PropertyValue::Bool(true));
    let letter = letter(Stage::FanOut, DeadLetterReason::DestinationFull)
        .with_enriched_event("billing", enriched(vec![typed]));
    assert_eq!(replayed(&kept(&letter))[0].1.events()[0].value, None);
}

#[test]
fn raw_content_is_read_by_the_version_that_runs_now() {
    let raw =
        |stage, bytes: &[u8]| kept(&letter(stage, DeadLetterReason::Unreadable).with_raw(bytes));
    let one = notification(8241, 1);
    let batches = replayed(&raw(Stage::Normalize, one.as_bytes()));
    let expected = normalize(&one, at(1_000)).unwrap();
    assert_eq!(
        batches[0].0, BATCH_KIND,
        "it is no replay: nobody has seen it"
    );
    assert_eq!(batches[0].1.events(), [expected]);

    let body = format!(
        "[{},{},{}]",
        notification(8241, 1),
        notification(77, 2),
        notification(8241, 3)
    );
    let batches = replayed(&raw(Stage::Ingress, body.as_bytes()));
    let counts: Vec<_> = batches
        .iter()
        .map(|(_, batch)| batch.events().len())
        .collect();
    assert_eq!(counts, [2, 1], "a batch for each portal");

    let batch = Batch::new(vec![event(8241, 1)]).unwrap();
    let batches = replayed(&raw(Stage::Consume, &batch.encode()));
    assert_eq!(batches[0].1, batch);

    for (stage, bytes) in [
        (Stage::Normalize, &b"{\"portalId\":8241}"[..]),
        (Stage::Normalize, b"\xff"),
        (Stage::Ingress, b"{\"objectId\":1}"),
        (Stage::Ingress, b"[{\"portalId\":8241}]"),
        (Stage::Ingress, b"[]"),
        (Stage::Consume, b"[]"),
    ] {
        assert!(!why_it_stays(&raw(stage, bytes)).is_empty());
    }
}

#[test]
fn a_batch_that_came_too_often_goes_back_as_it_was() {
    let events = vec![event(8241, 1), event(8241, 2)];
    for batch in [Batch::new(events.clone()).unwrap(), {
        let batches = replayed(&kept(&refused()));
        batches[0].1.clone()
    }] {
        let kept = Kept::read(&message(BATCH_KIND, batch.encode()));
        assert_eq!(
            (kept.stage(), kept.reason()),
            (Some(Stage::Consume), "delivery_limit")
        );
        assert_eq!(kept.at(), Some(at(1)));
        assert_eq!(replayed(&kept)[0].1, batch);
    }
}

#[test]
fn pieces_are_joined_when_all_are_there() {
    let bytes_max = 1_500;
    let mut long = event(8241, 1);
    long.source_id = Some("\u{1}".repeat(bytes_max));
    let whole =
        letter(Stage::FanOut, DeadLetterReason::TooLarge).with_plain_event("billing", long.clone());
    let mut letters = whole.fitting(bytes_max);
    assert!(letters.len() > 2);
    letters.reverse();
    let other = letter(Stage::Normalize, DeadLetterReason::Unreadable)
        .with_raw(&vec![0xff; 3 * bytes_max])
        .fitting(bytes_max);
    let mut pieces = Pieces::default();
    assert!(pieces.take(90, &other[0]).unwrap().is_none());
    // A crash left the first twice.
    assert!(pieces.take(91, &letters[0]).unwrap().is_none());
    let mut joined = None;
    for (place, letter) in letters.iter().enumerate() {
        assert!(joined.is_none(), "not before the last");
        joined = pieces.take(place, letter).unwrap();
    }
    let (mut places, kept) = joined.unwrap();
    places.sort();
    let expected: Vec<_> = (0..letters.len()).chain([91]).collect();
    assert_eq!(places, expected);
    let batches = replayed(&kept);
    assert_eq!(batches[0].1.events()[0].source_id, long.source_id);
    assert_eq!(batches[0].1.events()[0].only(), Some("billing"));
    let rest: Vec<_> = pieces.rest().collect();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].0, 90);
    assert!(rest[0].1.to_string().contains("1 of"), "{}", rest[0].1);
}
