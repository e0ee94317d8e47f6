//! One change in a portal, typed.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AppId, EdgeId, EventId, Millis, ObjectId, ObjectTypeId, PortalId, PropertyValue, RecordKey,
    Replay, RoutingKey, SubscriptionId,
};

/// One change that HubSpot told us of.
///
/// In JSON it is one flat object: these fields, `entity` (`object`, `association`, `conversation` or
/// `unknown`), that entity's fields, and `kind`. More kinds may come; take one that you do not know as `unknown`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// What a repeat of this event is recognised by.
    pub id: EventId,
    /// The account it happened in.
    pub portal_id: PortalId,
    /// The app whose subscription matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<AppId>,
    /// The subscription that matched. One change seen by two subscriptions is two events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<SubscriptionId>,
    /// HubSpot's type, as received: `contact.propertyChange`, `object.creation`.
    pub subscription_type: String,
    /// HubSpot's own number, "not guaranteed to be unique": for support cases, not for deduplication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hubspot_event_id: Option<String>,
    /// When it happened, by HubSpot's clock.
    pub occurred_at: Millis,
    /// When this relay received it, by its own clock.
    pub received_at: Millis,
    /// How many times HubSpot had tried before: 0 is the first attempt.
    #[serde(default)]
    pub attempt_number: u32,
    /// What made the change: `CRM_UI`, `IMPORT`, `API`, … an open set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_source: Option<String>,
    /// Who made the change: `userId:123`, an app's id, or an internal name of HubSpot's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// The new value of a changed property, typed by the portal's definitions as the record is: beside
    /// `property_value`, in enriched events, once the definitions are known. Absent for what was cleared or hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<PropertyValue>,
    /// Set while it is replayed. It stands in the envelope of the batch, and in nothing that a consumer gets.
    #[serde(skip)]
    pub replay: Option<Arc<Replay>>,
    /// What changed.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "entity", rename_all = "snake_case")]
pub enum EventBody {
    /// A record.
    Object(ObjectEvent),
    /// An edge between two records.
    Association(AssociationEvent),
    /// A thread of the conversations inbox.
    Conversation(ConversationEvent),
    /// Something HubSpot did not send when this was written, and that names no record.
    Unknown(UnknownEvent),
}

/// A change of one record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectEvent {
    /// The record's type, by id.
    pub object_type_id: ObjectTypeId,
    /// The record; for a merge the one that survives.
    pub object_id: ObjectId,
    /// What happened to it.
    #[serde(flatten)]
    pub change: ObjectChange,
}

/// What happened to a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ObjectChange {
    /// It was made.
    Created,
    /// It went to the recycle bin.
    Deleted,
    /// It was deleted for good on its subject's request.
    PrivacyDeleted,
    /// It came back from the recycle bin.
    Restored,
    /// It took in other records.
    Merged {
        /// Every id that now leads to the survivor, without the survivor's own.
        merged_object_ids: Vec<ObjectId>,
        /// The record the user chose to keep. Since 2025 contacts and companies get a new id instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        primary_object_id: Option<ObjectId>,
        /// The record the merge made, where it made one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new_object_id: Option<ObjectId>,
        /// How many properties were carried over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number_of_properties_moved: Option<u64>,
    },
    /// One of its properties has a new value.
    PropertyChanged {
        /// The property's internal name.
        property_name: String,
        /// The value as the notification had it (dates in milliseconds); `null` when cleared.
        property_value: Option<String>,
        /// Whether HubSpot marks the property as sensitive; the value is then `REDACTED`.
        #[serde(default)]
        is_sensitive: bool,
    },
    /// A subscription type this version does not know, on a record it can name.
    Unknown {
        /// The notification as it came.
        raw: Value,
    },
}

/// A change of one edge between two records, as seen from the `from` side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AssociationEvent {
    /// The same in what HubSpot tells from the other end, and when the edge is removed. Absent in events of earlier
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_id: Option<EdgeId>,
    /// Type of the record the edge starts from.
    pub from_object_type_id: ObjectTypeId,
    /// The record the edge starts from.
    pub from_object_id: ObjectId,
    /// Type of the record the edge leads to.
    pub to_object_type_id: ObjectTypeId,
    /// The record the edge leads to.
    pub to_object_id: ObjectId,
    /// HubSpot's name for the pair: `CONTACT_TO_COMPANY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub association_type: Option<String>,
    /// `HUBSPOT_DEFINED`, `USER_DEFINED`, … A type is the pair of category and type id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub association_category: Option<String>,
    /// The type id within its category, in the direction from → to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub association_type_id: Option<u64>,
    /// What people see, from the portal's labels: in enriched events, for types that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Whether it is about the primary edge. Making an edge primary is two changes: this one and the plain one.
    #[serde(default)]
    pub is_primary: bool,
    /// Added or removed.
    #[serde(rename = "kind")]
    pub change: AssociationChange,
}

/// What happened to an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AssociationChange {
    /// The edge is there now.
    #[serde(rename = "association_added")]
    Added,
    /// The edge is gone.
    #[serde(rename = "association_removed")]
    Removed,
}

/// A change of one thread of the conversations inbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConversationEvent {
    /// The thread.
    pub thread_id: ObjectId,
    /// What happened to it.
    #[serde(flatten)]
    pub change: ConversationChange,
}

/// What happened to a thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConversationChange {
    /// It was begun.
    Created,
    /// It was archived or soft-deleted.
    Deleted,
    /// It was deleted for good.
    PrivacyDeleted,
    /// A message came or went out.
    NewMessage {
        /// The message.
        message_id: Option<String>,
        /// `MESSAGE`, `COMMENT`, `WELCOME_MESSAGE`, … an open set.
        message_type: Option<String>,
    },
    /// `assignedTo`, `status` or `isArchived` has a new value.
    PropertyChanged {
        /// The property's name.
        property_name: String,
        /// The new value; `null` when cleared.
        property_value: Option<String>,
    },
    /// A conversation type this version does not know.
    Unknown {
        /// The notification as it came.
        raw: Value,
    },
}

/// A notification that names no record, or none that we understand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename = "unknown")]
pub struct UnknownEvent {
    /// Its `objectId`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_id: Option<ObjectId>,
    /// The notification as it came.
    pub raw: Value,
}

/// The type name under which threads stand in subjects and routing keys.
pub const CONVERSATION: &str = "conversation";
/// The type name under which events stand that name no record.
const UNKNOWN: &str = "unknown";

impl Event {
    /// Every [`kind`](Self::kind).
    pub const KINDS: [&str; 10] = [
        "created",
        "deleted",
        "privacy_deleted",
        "restored",
        "merged",
        "property_changed",
        "association_added",
        "association_removed",
        "new_message",
        UNKNOWN,
    ];

    /// What the event is about: the record (for an association its `from` side, for a merge the
    /// survivor), the thread, or for an unknown event its own id.
    #[must_use]
    pub fn subject(&self) -> RecordKey {
        let (object_type_id, object_id) = match &self.body {
            EventBody::Object(object) => (object.object_type_id.clone(), object.object_id.clone()),
            EventBody::Association(edge) => (
                edge.from_object_type_id.clone(),
                edge.from_object_id.clone(),
            ),
            EventBody::Conversation(conversation) => (
                ObjectTypeId::from_name(CONVERSATION),
                conversation.thread_id.clone(),
            ),
            EventBody::Unknown(unknown) => (
                ObjectTypeId::from_name(UNKNOWN),
                unknown
                    .object_id
                    .clone()
                    .unwrap_or_else(|| self.id.as_str().into()),
            ),
        };
        RecordKey {
            portal_id: self.portal_id.clone(),
            object_type_id,
            object_id,
        }
    }

    /// The kind of change, as it stands in JSON and routing keys.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.body {
            EventBody::Object(object) => match object.change {
                ObjectChange::Created => "created",
                ObjectChange::Deleted => "deleted",
                ObjectChange::PrivacyDeleted => "privacy_deleted",
                ObjectChange::Restored => "restored",
                ObjectChange::Merged { .. } => "merged",
                ObjectChange::PropertyChanged { .. } => "property_changed",
                ObjectChange::Unknown { .. } => UNKNOWN,
            },
            EventBody::Association(edge) => match edge.change {
                AssociationChange::Added => "association_added",
                AssociationChange::Removed => "association_removed",
            },
            EventBody::Conversation(conversation) => match conversation.change {
                ConversationChange::Created => "created",
                ConversationChange::Deleted => "deleted",
                ConversationChange::PrivacyDeleted => "privacy_deleted",
                ConversationChange::NewMessage { .. } => "new_message",
                ConversationChange::PropertyChanged { .. } => "property_changed",
                ConversationChange::Unknown { .. } => UNKNOWN,
            },
            EventBody::Unknown(_) => UNKNOWN,
        }
    }

    /// Whether it erases a record or a thread for good.
    #[must_use]
    pub fn is_privacy_deletion(&self) -> bool {
        matches!(
            &self.body,
            EventBody::Object(ObjectEvent {
                change: ObjectChange::PrivacyDeleted,
                ..
            }) | EventBody::Conversation(ConversationEvent {
                change: ConversationChange::PrivacyDeleted,
                ..
            })
        )
    }

    /// The key it is routed by: `<portal>.<object_type>.<kind>[.<detail>]`, where the detail is the name
    /// of the changed property or the type at the other end of the edge.
    #[must_use]
    pub fn routing_key(&self) -> RoutingKey {
        self.routing_key_as(self.subject().object_type_id.name())
    }

    /// The same, with another name for the type of its subject.
    #[must_use]
    pub fn routing_key_as(&self, object_type: &str) -> RoutingKey {
        let detail = match &self.body {
            EventBody::Object(ObjectEvent {
                change: ObjectChange::PropertyChanged { property_name, .. },
                ..
            }) => Some(property_name.as_str()),
            EventBody::Conversation(ConversationEvent {
                change: ConversationChange::PropertyChanged { property_name, .. },
                ..
            }) => Some(property_name.as_str()),
            EventBody::Association(edge) => Some(edge.to_object_type_id.name()),
            _ => None,
        };
        RoutingKey::new(&self.portal_id, object_type, self.kind(), detail)
    }
}
