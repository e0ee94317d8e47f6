//! Whether a read contains the change that led to it.
//!
//! HubSpot's API may answer, for a moment, with a state older than the change it just told us of. The read
//! is then repeated, a bounded number of times, and the message says so when that did not help.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::{Event, EventBody, Millis, ObjectChange, ObjectEvent};
use crate::hubspot::call::RecordRead;

use super::typed::{self, Definitions};

/// How often a stale read is repeated.
pub const REREADS_MAX: u32 = 3;
/// How long after its creation a missing record counts as not there yet.
pub const CREATION_GRACE: Duration = Duration::from_secs(30);

/// How long to wait before reading again, for the `rereads`th time (0 is the first).
#[must_use]
pub fn reread_delay(rereads: u32) -> Duration {
    Duration::from_millis(500) * 2_u32.saturating_pow(rereads.min(REREADS_MAX))
}

/// Whether `record`, asked for properties that include those its events changed, is older than `events`:
/// a property event is newer than the record's `updatedAt`, and the value is another one.
///
/// Of several events of one property only the newest counts; of several at the same millisecond any
/// of their values will do, since HubSpot does not tell which came last.
#[must_use]
pub fn is_stale(record: &RecordRead, events: &[Event], definitions: Option<&Definitions>) -> bool {
    let Some(updated_at) = record.updated_at else {
        return false;
    };
    newest_changes(events)
        .into_iter()
        .any(|(name, (at, values))| {
            let definition = definitions.and_then(|definitions| definitions.get(name));
            let was_asked_for = definitions.is_none() || definition.is_some();
            let read = record.properties.get(name).map(String::as_str);
            was_asked_for
                && at > updated_at
                && !values
                    .iter()
                    .any(|value| typed::same_value(definition, *value, read))
        })
}

/// Whether a record that HubSpot does not find at `completed_at` was created so shortly before that it
/// may still appear.
#[must_use]
pub fn may_still_appear(events: &[Event], completed_at: Millis) -> bool {
    events.iter().any(|event| {
        event.kind() == "created" && completed_at.since(event.occurred_at) < CREATION_GRACE
    })
}

/// The newest time and the values at that time, by property.
fn newest_changes(events: &[Event]) -> BTreeMap<&str, (Millis, Vec<Option<&str>>)> {
    let mut newest: BTreeMap<&str, (Millis, Vec<Option<&str>>)> = BTreeMap::new();
    for event in events {
        let EventBody::Object(ObjectEvent {
            change:
                ObjectChange::PropertyChanged {
                    property_name,
                    property_value,
                    ..
                },
            ..
        }) = &event.body
        else {
            continue;
        };
        let (at, values) = newest.entry(property_name).or_default();
        if event.occurred_at > *at {
            *at = event.occurred_at;
            values.clear();
        }
        if event.occurred_at == *at {
            values.push(property_value.as_deref());
        }
    }
    newest
}
