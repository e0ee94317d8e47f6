//! Records: the batch read and the single read.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{BatchReply, id, parse, text, time, unreadable};
use crate::event::{Millis, ObjectId};
use crate::hubspot::call::{Answer, CallError, PastValue, RecordRead};

/// `SimplePublicObject`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRecord<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    properties: Option<BTreeMap<String, &'a RawValue>>,
    #[serde(borrow)]
    properties_with_history: Option<BTreeMap<String, Option<Vec<WirePastValue<'a>>>>>,
    #[serde(borrow)]
    created_at: Option<&'a RawValue>,
    #[serde(borrow)]
    updated_at: Option<&'a RawValue>,
    archived: Option<bool>,
}

/// `ValueWithTimestamp`.
#[derive(Deserialize)]
struct WirePastValue<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
}

/// `BatchResponseSimplePublicObject`, with and without errors.
pub(super) fn batch(status: u16, body: &[u8]) -> Result<Answer, CallError> {
    let mut reply: BatchReply<WireRecord<'_>> = parse(body)?;
    reply.check(status)?;
    let completed_at = reply
        .completed_at
        .as_ref()
        .and_then(Value::as_str)
        .and_then(Millis::parse)
        .ok_or_else(|| unreadable("completedAt is no time"))?;
    let records = reply.results.into_iter().map(read);
    Ok(Answer::Records {
        records: records.collect::<Result<_, _>>()?,
        completed_at,
    })
}

/// A single record's body, or none for a 404; `date` is the reply's.
///
/// # Errors
/// [`CallError::Unreadable`], also when there is no date to order the read by.
pub(in super::super) fn record(
    body: Option<&[u8]>,
    date: Option<Millis>,
) -> Result<Answer, CallError> {
    let record = body.map(|body| parse(body).and_then(read)).transpose()?;
    let completed_at = date.ok_or_else(|| unreadable("its Date header is missing or no date"))?;
    Ok(Answer::Record {
        record,
        completed_at,
    })
}

fn read(record: WireRecord<'_>) -> Result<RecordRead, CallError> {
    let properties = record.properties.unwrap_or_default();
    let histories = record.properties_with_history.unwrap_or_default();
    Ok(RecordRead {
        id: ObjectId::from(id(record.id, "a record's id")?),
        properties: properties
            .into_iter()
            .filter_map(|(name, value)| Some((name, text(Some(value))?)))
            .collect(),
        history: histories
            .into_iter()
            .filter_map(|(name, values)| Some((name, history(values?)?)))
            .collect(),
        created_at: time(record.created_at),
        updated_at: time(record.updated_at),
        archived: record.archived.unwrap_or(false),
    })
}

/// The values of a property, the newest first whatever order they came in; `None` when one has no time, since
/// what came before what cannot be told then.
fn history(values: Vec<WirePastValue<'_>>) -> Option<Vec<PastValue>> {
    let past = |value: WirePastValue<'_>| {
        Some(PastValue {
            text: text(value.value).unwrap_or_default(),
            since: time(value.timestamp)?,
        })
    };
    let mut history: Vec<_> = values.into_iter().map(past).collect::<Option<_>>()?;
    // Stable: of two at one millisecond the one that HubSpot names first is the newer.
    history.sort_by_key(|value| std::cmp::Reverse(value.since));
    Some(history)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REPLY: &str = r#"{"status":"COMPLETE","results":[{"id":"123","properties":{"createdate":"2026-01-02T03:04:05.678Z","email":"a@example.com","empty":"","nothing":null,"hs_object_id":"123","score":12.50,"flag":true},"createdAt":"2026-01-02T03:04:05.678Z","updatedAt":"2026-01-02T03:04:06.000Z","archived":false,"url":"https://app.hubspot.com/x"}],"numErrors":1,"errors":[{"status":"error","category":"OBJECT_NOT_FOUND","message":"Could not get some CONTACT objects, they may be deleted or not exist. Check that ids are valid.","context":{"ids":["999"]}}],"startedAt":"2026-01-02T03:04:07.000Z","completedAt":"2026-01-02T03:04:07.010Z"}"#;

    fn records(body: &str) -> Result<(Vec<RecordRead>, Millis), CallError> {
        match batch(207, body.as_bytes())? {
            Answer::Records {
                records,
                completed_at,
            } => Ok((records, completed_at)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn found_records_are_read_and_missing_ones_left_out() {
        let (records, completed_at) = records(REPLY).unwrap();
        let values = [
            ("createdate", "2026-01-02T03:04:05.678Z"),
            ("email", "a@example.com"),
            ("flag", "true"),
            ("hs_object_id", "123"),
            ("score", "12.50"),
        ];
        let expected = RecordRead {
            id: "123".into(),
            properties: values
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            history: BTreeMap::new(),
            created_at: Millis::parse("2026-01-02T03:04:05.678Z"),
            updated_at: Millis::parse("2026-01-02T03:04:06Z"),
            archived: false,
        };
        assert_eq!(records, [expected]);
        assert_eq!(
            Some(completed_at),
            Millis::parse("2026-01-02T03:04:07.010Z")
        );
    }

    #[test]
    fn a_history_has_the_newest_value_first_and_none_that_cannot_be_dated() {
        let (records, _) = records(
            r#"{"results":[{"id":"1","properties":{},"propertiesWithHistory":{
                "stage":[{"value":"a","timestamp":"2026-01-01T00:00:00Z","sourceType":"API"},
                         {"value":"","timestamp":"2026-01-03T00:00:00Z","sourceType":"CRM_UI","updatedByUserId":7},
                         {"value":null,"timestamp":"2026-01-02T00:00:00.5Z","sourceType":"API"}],
                "never":[],
                "undated":[{"value":"x","timestamp":"soon","sourceType":"API"}]}}],
                "completedAt":"2026-01-02T03:04:07Z"}"#,
        )
        .unwrap();
        let history = &records[0].history;
        let texts: Vec<_> = history["stage"].iter().map(|value| &*value.text).collect();
        assert_eq!(texts, ["", "", "a"]);
        assert_eq!(
            Some(history["stage"][1].since),
            Millis::parse("2026-01-02T00:00:00.500Z")
        );
        assert!(history["never"].is_empty() && !history.contains_key("undated"));
    }

    #[test]
    fn ids_may_be_numbers_and_dates_may_be_absent() {
        let (records, _) = records(
            r#"{"results":[{"id":9007199254740993}],"completedAt":"2026-01-02T03:04:07Z"}"#,
        )
        .unwrap();
        assert_eq!(records[0].id.as_str(), "9007199254740993");
        assert_eq!((records[0].created_at, records[0].updated_at), (None, None));
    }

    #[test]
    fn half_an_emoji_does_not_spoil_the_batch() {
        let (records, _) = records(r#"{"results":[{"id":"1","properties":{"name":"a\ud83d b\n"}}],"completedAt":"2026-01-02T03:04:07Z"}"#).unwrap();
        assert_eq!(
            records[0].properties["name"],
            "a\u{fffd}\u{fffd}\u{fffd} b\n"
        );
    }

    #[test]
    fn what_is_not_a_finished_batch_is_unreadable_and_not_quoted() {
        let time = r#""completedAt":"2026-01-02T03:04:07Z""#;
        for body in [
            String::new(),
            "error code: ann@example.com".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            r#"{"results":[]}"#.to_owned(),
            r#"{"results":[],"completedAt":"ann@example.com"}"#.to_owned(),
            r#"{"results":[],"completedAt":1763892000000}"#.to_owned(),
            format!(r#"{{"status":"PENDING","results":[],{time}}}"#),
            format!(r#"{{"results":"ann@example.com",{time}}}"#),
            format!(r#"{{"results":[{{"properties":{{}}}}],{time}}}"#),
            format!(r#"{{"results":[{{"id":null}}],{time}}}"#),
            format!(r#"{{"results":[{{"id":""}}],{time}}}"#),
            format!(r#"{{"results":[{{"id":1.5}}],{time}}}"#),
            format!(r#"{{"results":[{{"id":{{}}}}],{time}}}"#),
            REPLY[..REPLY.len() / 2].to_owned(),
        ] {
            let error = records(&body).unwrap_err();
            assert!(
                matches!(error, CallError::Unreadable { .. }),
                "{body}: {error}"
            );
            assert!(!error.to_string().contains("example"), "{error}");
        }
    }

    #[test]
    fn another_error_never_passes_for_missing() {
        let body = REPLY.replace("OBJECT_NOT_FOUND", "INTERNAL_ERROR");
        let category = Some("INTERNAL_ERROR".to_owned());
        assert_eq!(
            records(&body).unwrap_err(),
            CallError::Refused {
                status: 207,
                category
            }
        );
    }

    #[test]
    fn a_single_read_is_dated_by_its_header() {
        let date = Millis::parse("2026-01-02T03:04:07Z");
        let body = br#"{"id":"7","properties":{},"archived":true}"#;
        let Answer::Record {
            record: Some(read),
            completed_at,
        } = record(Some(body), date).unwrap()
        else {
            panic!("a record was sent")
        };
        assert_eq!(
            (read.id.as_str(), read.archived, Some(completed_at)),
            ("7", true, date)
        );
        for body in [None, Some(&body[..])] {
            assert!(matches!(
                record(body, None),
                Err(CallError::Unreadable { .. })
            ));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = batch(207, &body);
            let _ = record(Some(&body), None);
        }

        #[test]
        fn no_change_of_a_reply_makes_it_panic(at in 0..REPLY.len(), byte: u8, cut in 0..REPLY.len()) {
            let mut body = REPLY.as_bytes().to_vec();
            body[at] = byte;
            let _ = batch(200, &body);
            let _ = batch(200, &body[cut..]);
            let _ = batch(200, &body[..cut]);
        }
    }
}
