//! HubSpot's ids. Strings past the wire, each with a type of its own so that two cannot be swapped.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{IdentityHasher, ObjectTypeId};

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        #[schemars(inline)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text, in HubSpot's own digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<T: Into<Arc<str>>> From<T> for $name {
            fn from(id: T) -> Self {
                Self(id.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

string_id! {
    /// One HubSpot account.
    PortalId
}

string_id! {
    /// The id of a record, unique only within its portal and object type.
    ObjectId
}

string_id! {
    /// The id of an owner, as `hubspot_owner_id` holds it. Not a user id.
    OwnerId
}

string_id! {
    /// An association between two records, from whichever end it is told of. See
    /// [`AssociationEvent::edge_of`](super::AssociationEvent::edge_of).
    EdgeId
}

string_id! {
    /// The app whose subscription sent a notification.
    AppId
}

string_id! {
    /// The subscription of the app that matched.
    SubscriptionId
}

/// What names a record: its portal, its object type's id and its own id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    /// The account.
    pub portal_id: PortalId,
    /// The object type, by id (`0-1`).
    pub object_type_id: ObjectTypeId,
    /// The record.
    pub object_id: ObjectId,
}

impl RecordKey {
    /// The hash by which we remember the record.
    #[must_use]
    pub fn digest(&self) -> RecordDigest {
        RecordDigest::of(&self.portal_id, &self.object_type_id, &self.object_id)
    }
}

/// A hash of portal, type and id: what is left of a record where its id must not stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordDigest([u8; 16]);

impl RecordDigest {
    /// That of a record.
    #[must_use]
    pub fn of(portal_id: &PortalId, object_type_id: &ObjectTypeId, object_id: &ObjectId) -> Self {
        let mut hasher = IdentityHasher::new("record");
        hasher.field(portal_id.as_str());
        hasher.field(object_type_id.as_str());
        hasher.field(object_id.as_str());
        Self(hasher.digest())
    }
}
