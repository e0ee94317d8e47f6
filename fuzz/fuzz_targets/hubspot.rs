//! A reply of HubSpot's, or of whoever stands in its place: to every call there is, it is an answer or an error, and no
//! error quotes it.
//!
//! The input is a line with the status and, behind a space each, headers as `name:value`; the rest is the body.
#![no_main]

use crm_relay::event::{ObjectTypeId, OwnerId};
use crm_relay::hubspot::call::{AssociationInput, Call, Sensitivity};
use crm_relay::hubspot::client::{grant_of, reply_of};
use libfuzzer_sys::fuzz_target;

/// No error is longer, whatever the reply was.
const ERROR_BYTES_MAX: usize = 16 << 10;

fn calls() -> Vec<Call> {
    let (contact, company) = (ObjectTypeId::from_name("0-1"), ObjectTypeId::from_name("0-2"));
    vec![
        Call::ReadRecords {
            object_type_id: contact.clone(),
            ids: vec!["1".into(), "2".into()],
            properties: vec!["email".to_owned()],
            properties_with_history: vec!["email".to_owned()],
        },
        Call::ReadRecord {
            object_type_id: contact.clone(),
            id: "1".into(),
            properties: Vec::new(),
        },
        Call::ReadAssociations {
            from: contact.clone(),
            to: company.clone(),
            inputs: vec![AssociationInput {
                id: "1".into(),
                after: None,
            }],
        },
        Call::ListOwners {
            archived: false,
            after: None,
        },
        Call::ReadOwner {
            id: OwnerId::from("1"),
            archived: false,
        },
        Call::ListProperties {
            object_type_id: contact.clone(),
            sensitivity: Sensitivity::NonSensitive,
        },
        Call::ListPipelines {
            object_type_id: contact.clone(),
        },
        Call::ListSchemas,
        Call::ReadFile {
            id: "1".to_owned(),
        },
        Call::SignFile {
            id: "1".to_owned(),
        },
        Call::ReadThread { id: "1".into() },
        Call::ReadMessage {
            thread_id: "1".into(),
            id: "1".to_owned(),
        },
        Call::ReadActors {
            ids: vec!["A-1".to_owned()],
        },
        Call::ListAssociationLabels {
            from: contact,
            to: company,
        },
    ]
}

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let head = parts.next().unwrap_or_default();
    let body = parts.next().unwrap_or_default();
    let mut words = head.split(|byte| *byte == b' ');
    let status = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    let headers: Vec<(&[u8], &[u8])> = words
        .filter_map(|word| {
            let colon = word.iter().position(|byte| *byte == b':')?;
            Some((&word[..colon], &word[colon + 1..]))
        })
        .collect();
    for call in calls() {
        let answered = reply_of(&call, status.unwrap_or(200), &headers, body);
        if let Err(error) = answered.result {
            assert!(format!("{error} {error:?}").len() < ERROR_BYTES_MAX, "it is quoted");
        }
    }
    if let Err(error) = grant_of(status.unwrap_or(200), body) {
        assert!(error.len() < ERROR_BYTES_MAX, "it is quoted");
    }
});
