//! What happened, in one line each.

use std::fmt::Write as _;

use crm_relay::enrich::{Input, Output};
use crm_relay::event::{EnrichedEvent, Event};
use crm_relay::hubspot::call::{Answer, Answered, AssociationInput, Call, RecordRead};

pub fn input(input: &Input) -> String {
    match input {
        Input::Batch {
            delivery,
            events,
            from,
        } => {
            format!(
                "delivery {} from {from:?}: {}",
                delivery.0,
                list(events.iter().map(event))
            )
        }
        Input::Answered { call, answered } => {
            format!("call {} answered: {}", call.0, answer(answered))
        }
        Input::Published { publish, .. } => format!("publish {} confirmed", publish.0),
        other => format!("{other:?}"),
    }
}

pub fn output(output: &Output) -> String {
    match output {
        Output::Call {
            call_id,
            portal_id,
            call,
        } => format!("call {} of {portal_id}: {}", call_id.0, asked(call)),
        Output::Publish { publish, event } => format!("publish {}: {}", publish.0, message(event)),
        Output::PublishPlain {
            publish,
            event: plain,
        } => format!("publish plain {}: {}", publish.0, event(plain)),
        Output::Bury { publish, letter } => {
            format!(
                "bury {}: {:?} {}",
                publish.0,
                letter.reason,
                list(letter.events.iter().map(event))
            )
        }
        Output::Note { id, note } => format!("note {}: {} entries", id.0, note.entries.len()),
        other => format!("{other:?}"),
    }
}

/// An event, by the beginning of its id.
pub fn event(event: &Event) -> String {
    let key = event.subject();
    let id = &event.id.as_str()[..6];
    format!(
        "{id} {} {}/{} at {}",
        event.kind(),
        key.object_type_id.name(),
        key.object_id,
        event.occurred_at.as_i64() % 10_000_000
    )
}

fn message(message: &EnrichedEvent) -> String {
    let data = &message.data;
    let status = data.enrichment.status.as_str();
    let gone = data.tombstone.as_ref().map(|tombstone| tombstone.reason);
    let updated = data
        .record
        .as_ref()
        .and_then(|record| record.updated_at)
        .map(|at| at.as_i64() % 10_000_000);
    let events = list(data.events.iter().map(event));
    format!(
        "{} {} {status} {gone:?} {updated:?} {} {events}",
        data.portal_id, message.subject, data.version
    )
}

fn asked(call: &Call) -> String {
    let names = match call {
        Call::ReadRecords {
            object_type_id,
            ids,
            ..
        } => format!("{} {ids:?}", object_type_id.name()),
        Call::ReadAssociations { inputs, .. } => {
            let ids: Vec<_> = inputs
                .iter()
                .map(|AssociationInput { id, after }| (id, after))
                .collect();
            format!("{ids:?}")
        }
        other => format!("{other:?}"),
    };
    format!("{} {names}", call.endpoint())
}

fn answer(answered: &Answered) -> String {
    match &answered.result {
        Ok(Answer::Records {
            records,
            completed_at,
        }) => {
            format!(
                "{} at {}",
                list(records.iter().map(record)),
                completed_at.as_i64() % 10_000_000
            )
        }
        Ok(Answer::Record { record: found, .. }) => format!("{:?}", found.as_ref().map(record)),
        Ok(other) => format!("{other:?}").chars().take(80).collect(),
        Err(error) => format!("{error}"),
    }
}

fn record(record: &RecordRead) -> String {
    format!(
        "{} {:?} of {:?}",
        record.id,
        record.properties.get("email"),
        record.updated_at.map(|at| at.as_i64() % 10_000_000)
    )
}

/// The first few of many.
fn list(items: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 6;
    let mut text = String::new();
    let mut count = 0;
    for item in items {
        count += 1;
        if count <= SHOWN {
            let _ = write!(text, "[{item}] ");
        }
    }
    if count > SHOWN {
        let _ = write!(text, "… {count} in all");
    }
    text
}
