//! What a notification is about: its subscription type decides.

use serde_json::Value;

use crate::event::{
    ConversationChange, ConversationEvent, EventBody, ObjectChange, ObjectEvent, ObjectId,
    ObjectTypeId, UnknownEvent,
};
use crate::hubspot::notification::Notification;

use super::field::{number, owned, required};
use super::{NormalizeError, association};

/// The body of the event, by `subscription_type`, as `<family>.<change>`.
///
/// # Source
/// HubSpot, "Webhooks API", the 48 subscription types; each has its line here or in `change_of`.
pub(super) fn of(
    notification: &Notification<'_>,
    subscription_type: &str,
    element: &str,
) -> Result<EventBody, NormalizeError> {
    let Some((family, change)) = subscription_type.rsplit_once('.') else {
        return unknown(notification, element);
    };
    match (family, change) {
        ("conversation", _) => conversation(notification, change, element),
        (_, "associationChange") => match association::of(notification)? {
            Some(edge) => Ok(EventBody::Association(edge)),
            None => unknown(notification, element),
        },
        _ => match object_type(notification, family, change)? {
            Some(object_type_id) => object(notification, object_type_id, change, element),
            None => unknown(notification, element),
        },
    }
}

/// Whether the body is of a kind this version does not know.
pub(super) fn is_unknown(body: &EventBody) -> bool {
    match body {
        EventBody::Object(object) => matches!(object.change, ObjectChange::Unknown { .. }),
        EventBody::Conversation(thread) => {
            matches!(thread.change, ConversationChange::Unknown { .. })
        }
        EventBody::Association(_) => false,
        EventBody::Unknown(_) => true,
    }
}

/// The record's type: `objectTypeId`, else the one the family stands for; `None` when neither tells.
///
/// # Errors
/// A known change of the generic family must say `objectTypeId`.
fn object_type(
    notification: &Notification<'_>,
    family: &str,
    change: &str,
) -> Result<Option<ObjectTypeId>, NormalizeError> {
    if let Some(id) = notification.object_type_id.as_deref() {
        return Ok(Some(ObjectTypeId::from_name(id)));
    }
    if family == "object" && is_known(change) {
        return Err(NormalizeError::Missing("objectTypeId"));
    }
    let by_family = ObjectTypeId::from_name(family);
    Ok(by_family.standard().is_some().then_some(by_family))
}

fn is_known(change: &str) -> bool {
    matches!(
        change,
        "creation" | "deletion" | "privacyDeletion" | "restore" | "merge" | "propertyChange"
    )
}

fn object(
    notification: &Notification<'_>,
    object_type_id: ObjectTypeId,
    change: &str,
    element: &str,
) -> Result<EventBody, NormalizeError> {
    let object_id = match change {
        "merge" => Some(required("objectId", survivor(notification))?),
        _ if is_known(change) => Some(required("objectId", object_id(notification))?),
        _ => object_id(notification),
    };
    let Some(object_id) = object_id else {
        return unknown(notification, element);
    };
    let change = match change {
        "creation" => ObjectChange::Created,
        "deletion" => ObjectChange::Deleted,
        "privacyDeletion" => ObjectChange::PrivacyDeleted,
        "restore" => ObjectChange::Restored,
        "merge" => merged(notification, &object_id),
        "propertyChange" => ObjectChange::PropertyChanged {
            property_name: property_name(notification)?,
            property_value: property_value(notification),
            is_sensitive: notification.is_sensitive.unwrap_or(false),
        },
        _ => ObjectChange::Unknown { raw: raw(element)? },
    };
    Ok(EventBody::Object(ObjectEvent {
        object_type_id,
        object_id,
        change,
    }))
}

fn conversation(
    notification: &Notification<'_>,
    change: &str,
    element: &str,
) -> Result<EventBody, NormalizeError> {
    let known = matches!(
        change,
        "creation" | "deletion" | "privacyDeletion" | "propertyChange" | "newMessage"
    );
    let thread_id = match object_id(notification) {
        Some(id) => id,
        None if known => return Err(NormalizeError::Missing("objectId")),
        None => return unknown(notification, element),
    };
    let change = match change {
        "creation" => ConversationChange::Created,
        "deletion" => ConversationChange::Deleted,
        "privacyDeletion" => ConversationChange::PrivacyDeleted,
        "newMessage" => ConversationChange::NewMessage {
            message_id: owned(&notification.message_id),
            message_type: owned(&notification.message_type),
        },
        "propertyChange" => ConversationChange::PropertyChanged {
            property_name: property_name(notification)?,
            property_value: property_value(notification),
        },
        _ => ConversationChange::Unknown { raw: raw(element)? },
    };
    Ok(EventBody::Conversation(ConversationEvent {
        thread_id,
        change,
    }))
}

fn unknown(notification: &Notification<'_>, element: &str) -> Result<EventBody, NormalizeError> {
    Ok(EventBody::Unknown(UnknownEvent {
        object_id: object_id(notification),
        raw: raw(element)?,
    }))
}

/// The record that a merge leaves: the one it made, else the one the user chose, else the one it names.
///
/// # Source
/// HubSpot, "Webhooks API": since January 2025 a merge of contacts or companies makes a record with an id of its own.
fn survivor(notification: &Notification<'_>) -> Option<ObjectId> {
    let id = notification.new_object_id.as_deref();
    id.or(notification.primary_object_id.as_deref())
        .or(notification.object_id.as_deref())
        .map(ObjectId::from)
}

/// Every id but the survivor's: HubSpot does not settle whether the primary is among the merged ones, so
/// all that are named are taken, each once.
fn merged(notification: &Notification<'_>, survivor: &ObjectId) -> ObjectChange {
    let listed = notification.merged_object_ids.iter().flatten();
    let named = [notification.primary_object_id.as_deref()]
        .into_iter()
        .chain(listed.map(|id| Some(&*id.0)))
        .chain([notification.object_id.as_deref()]);
    let mut seen = std::collections::HashSet::from([survivor.as_str()]);
    let merged_object_ids = named
        .flatten()
        .filter(|id| !id.is_empty() && seen.insert(id))
        .map(ObjectId::from)
        .collect();
    ObjectChange::Merged {
        merged_object_ids,
        primary_object_id: notification.primary_object_id.as_deref().map(Into::into),
        new_object_id: notification.new_object_id.as_deref().map(Into::into),
        number_of_properties_moved: notification
            .number_of_properties_moved
            .as_deref()
            .and_then(number),
    }
}

fn object_id(notification: &Notification<'_>) -> Option<ObjectId> {
    notification.object_id.as_deref().map(Into::into)
}

fn property_name(notification: &Notification<'_>) -> Result<String, NormalizeError> {
    required("propertyName", owned(&notification.property_name))
}

/// The new value; cleared (`""` or `null`) is `None`.
fn property_value(notification: &Notification<'_>) -> Option<String> {
    let text = notification.property_value_text()?;
    (!text.is_empty()).then(|| text.into_owned())
}

/// The element as a JSON value.
fn raw(element: &str) -> Result<Value, NormalizeError> {
    serde_json::from_str(element).map_err(|error| NormalizeError::unreadable(element, &error))
}
