//! Object types: the one table of names and ids, used wherever a type is named.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The id of an object type: `0-1` for contacts, `2-1234567` for a custom object.
///
/// A type that HubSpot named in a way we do not know keeps that name as its id: HubSpot's API takes
/// names and ids interchangeably, and so do we.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct ObjectTypeId(Arc<str>);

impl ObjectTypeId {
    /// The type that `name` stands for: an id, or the singular or plural of a standard type, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let known = STANDARD_OBJECT_TYPES.iter().find(|standard| {
            standard.id == name
                || standard.singular.eq_ignore_ascii_case(name)
                || standard.plural.eq_ignore_ascii_case(name)
        });
        Self(known.map_or(name, |standard| standard.id).into())
    }

    /// The id as HubSpot writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name used in subjects, event types and routing keys: the singular, else the id itself.
    #[must_use]
    pub fn name(&self) -> &str {
        self.standard()
            .map_or(&self.0, |standard| standard.singular)
    }

    /// The name used in API paths: the plural, else the id itself.
    #[must_use]
    pub fn api_name(&self) -> &str {
        self.standard().map_or(&self.0, |standard| standard.plural)
    }

    /// This type's row of [`STANDARD_OBJECT_TYPES`]; `None` for custom and unknown types.
    #[must_use]
    pub fn standard(&self) -> Option<&'static StandardObjectType> {
        STANDARD_OBJECT_TYPES
            .iter()
            .find(|standard| standard.id == &*self.0)
    }
}

impl fmt::Display for ObjectTypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectTypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectTypeId({})", self.0)
    }
}

/// One of HubSpot's own object types.
#[derive(Debug, PartialEq, Eq)]
pub struct StandardObjectType {
    /// `objectTypeId`.
    pub id: &'static str,
    /// The name in API paths.
    pub plural: &'static str,
    /// The name in webhooks and associations.
    pub singular: &'static str,
}

const fn standard(
    id: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> StandardObjectType {
    StandardObjectType {
        id,
        plural,
        singular,
    }
}

/// HubSpot's own object types, by id, plural and singular.
///
/// # Source
/// HubSpot, "Understanding the CRM APIs" (object type ids), and its published OpenAPI files. One page of
/// HubSpot's prints 0-4 for notes; every other source says 0-46, which stands here.
pub const STANDARD_OBJECT_TYPES: &[StandardObjectType] = &[
    standard("0-1", "contacts", "contact"),
    standard("0-2", "companies", "company"),
    standard("0-3", "deals", "deal"),
    standard("0-5", "tickets", "ticket"),
    standard("0-7", "products", "product"),
    standard("0-8", "line_items", "line_item"),
    standard("0-14", "quotes", "quote"),
    standard("0-18", "communications", "communication"),
    standard("0-19", "feedback_submissions", "feedback_submission"),
    standard("0-27", "tasks", "task"),
    standard("0-46", "notes", "note"),
    standard("0-47", "meetings", "meeting_event"),
    standard("0-48", "calls", "call"),
    standard("0-49", "emails", "email"),
    standard("0-53", "invoices", "invoice"),
    standard("0-54", "marketing_events", "marketing_event"),
    standard("0-69", "subscriptions", "subscription"),
    standard("0-72", "deal_splits", "deal_split"),
    standard("0-74", "goal_targets", "goal_target"),
    standard("0-84", "discounts", "discount"),
    standard("0-85", "fees", "fee"),
    standard("0-86", "taxes", "tax"),
    standard("0-101", "commerce_payments", "commerce_payment"),
    standard("0-115", "users", "user"),
    standard("0-116", "postal_mail", "postal_mail"),
    standard("0-123", "orders", "order"),
    standard("0-136", "leads", "lead"),
    standard("0-142", "carts", "cart"),
    standard("0-162", "services", "service"),
    standard("0-410", "courses", "course"),
    standard("0-420", "listings", "listing"),
    standard("0-421", "appointments", "appointment"),
    standard("0-970", "projects", "project"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_found_by_id_singular_and_plural_in_any_case() {
        for name in ["0-8", "line_item", "line_items", "LINE_ITEM"] {
            let id = ObjectTypeId::from_name(name);
            assert_eq!(
                (id.as_str(), id.name(), id.api_name()),
                ("0-8", "line_item", "line_items")
            );
        }
    }

    #[test]
    fn an_unknown_type_keeps_its_name() {
        for name in ["2-1234567", "p8241_car", "hologram"] {
            let id = ObjectTypeId::from_name(name);
            assert_eq!((id.as_str(), id.name(), id.api_name()), (name, name, name));
        }
    }

    #[test]
    fn no_name_stands_for_two_types() {
        for (row, one) in STANDARD_OBJECT_TYPES.iter().enumerate() {
            for other in &STANDARD_OBJECT_TYPES[row + 1..] {
                assert_ne!(one.id, other.id);
                assert_ne!(one.singular, other.singular);
                assert_ne!(one.plural, other.plural);
            }
        }
    }
}
