//! The identity of an event: everything by which HubSpot tells two notifications apart, and nothing else.
//!
//! `attemptNumber` never counts, since it differs between repeats of one notification; nor does the form of
//! an id (number or string), the name of the type's key, or when the notification came.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::event::{EventId, IdentityHasher};
use crate::hubspot::notification::Notification;

use super::NormalizeError;

/// The keys that [`known_fields`] covers, and the one that never counts.
const HASHED_KEYS: &[&str] = &[
    "portalId",
    "appId",
    "subscriptionId",
    "eventId",
    "subscriptionType",
    "eventType",
    "occurredAt",
    "objectId",
    "objectTypeId",
    "propertyName",
    "propertyValue",
    "changeFlag",
    "messageId",
    "primaryObjectId",
    "newObjectId",
    "mergedObjectIds",
    "fromObjectId",
    "fromObjectTypeId",
    "toObjectId",
    "toObjectTypeId",
    "associationType",
    "associationCategory",
    "associationTypeId",
    "associationRemoved",
    "isPrimaryAssociation",
    "attemptNumber",
];

/// The id of an event of a known type.
pub(super) fn of(notification: &Notification<'_>) -> EventId {
    known_fields(notification).finish()
}

/// The id of an event of an unknown type: what tells two of them apart may be any field, so every other
/// key counts too, with its JSON text, in the order of the keys.
///
/// # Errors
/// [`NormalizeError::Unreadable`] when the element is no JSON object.
pub(super) fn of_unknown(
    notification: &Notification<'_>,
    element: &str,
) -> Result<EventId, NormalizeError> {
    let fields: BTreeMap<Key<'_>, &RawValue> = serde_json::from_str(element)
        .map_err(|error| NormalizeError::unreadable(element, &error))?;
    let mut hasher = known_fields(notification);
    let others = fields
        .iter()
        .filter(|(key, _)| !HASHED_KEYS.contains(&&*key.0));
    for (key, value) in others {
        hasher.field(&key.0);
        hasher.field(value.get());
    }
    Ok(hasher.finish())
}

/// A key of a JSON object, borrowed where it has no escapes.
#[derive(PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The fixed part. Its order is for ever: another one would make every repeat in flight look new.
fn known_fields(notification: &Notification<'_>) -> IdentityHasher {
    let n = notification;
    let mut hasher = IdentityHasher::new("event");
    let texts = [
        &n.portal_id,
        &n.app_id,
        &n.subscription_id,
        &n.event_id,
        &n.occurred_at,
        &n.object_id,
        &n.object_type_id,
        &n.property_name,
        &n.change_flag,
        &n.message_id,
        &n.primary_object_id,
        &n.new_object_id,
        &n.from_object_id,
        &n.from_object_type_id,
        &n.to_object_id,
        &n.to_object_type_id,
        &n.association_type,
        &n.association_category,
        &n.association_type_id,
    ];
    hasher.optional(n.type_name());
    texts
        .iter()
        .for_each(|text| hasher.optional(text.as_deref()));
    hasher.optional(n.property_value_text().as_deref());
    hasher.optional(n.association_removed.map(as_text));
    hasher.optional(n.is_primary_association.map(as_text));
    let merged = n.merged_object_ids.as_deref();
    hasher.optional(merged.map(|ids| ids.len().to_string()).as_deref());
    for id in merged.into_iter().flatten() {
        hasher.field(&id.0);
    }
    hasher
}

fn as_text(flag: bool) -> &'static str {
    if flag { "true" } else { "false" }
}
