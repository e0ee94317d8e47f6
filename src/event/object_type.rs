//! Object types: the one table of names and ids, used wherever a type is named.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PortalId;

/// The id of an object type: `0-1` for contacts, `2-1234567` for a custom object.
///
/// A type that HubSpot named in a way we do not know keeps that name as its id: HubSpot's API takes
/// names and ids interchangeably, and so do we.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct ObjectTypeId(Arc<str>);

/// What the ids of custom objects begin with.
const CUSTOM_PREFIX: &str = "2-";
/// The scope that reads records of custom objects.
const CUSTOM_SCOPES: &[&str] = &["crm.objects.custom.read"];

impl ObjectTypeId {
    /// The type that `name` stands for: an id, or the singular or plural of a standard type, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let known = STANDARD_OBJECT_TYPES.iter().find(|standard| {
            standard
                .names()
                .any(|known| known.eq_ignore_ascii_case(name))
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

    /// Whether it is the id of a portal's own type: `2-1234567`. The same type has another id in every portal.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        let number = self.0.strip_prefix(CUSTOM_PREFIX);
        number.is_some_and(is_digits)
    }

    /// The name of a custom object, where this is one and not an id: see [`CustomName`].
    #[must_use]
    pub fn custom_name(&self) -> Option<CustomName<'_>> {
        if self.standard().is_some() {
            return None;
        }
        let (portal, name) = self.0.strip_prefix('p')?.split_once('_')?;
        match (portal, name) {
            (_, "") => None,
            ("", name) => Some(CustomName { portal: None, name }),
            (portal, name) => is_digits(portal).then_some(CustomName {
                portal: Some(portal),
                name,
            }),
        }
    }

    /// The scopes of which any one reads records of this type; empty when no source tells.
    #[must_use]
    pub fn read_scopes(&self) -> &'static [&'static str] {
        match self.standard() {
            Some(standard) => standard.read_scopes,
            None if self.is_custom() || self.custom_name().is_some() => CUSTOM_SCOPES,
            None => &[],
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A custom object by name: `p8241_car` in full, which is of one portal, or `p_car`, which is each portal's own.
///
/// # Source
/// HubSpot, "Custom objects": both stand for the type id, in paths too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CustomName<'a> {
    /// The portal, in the full name.
    pub portal: Option<&'a str>,
    /// The schema's name.
    pub name: &'a str,
}

impl CustomName<'_> {
    /// Whether it is the full name of another portal's than `portal_id`.
    #[must_use]
    pub fn is_elsewhere(&self, portal_id: &PortalId) -> bool {
        self.portal
            .is_some_and(|portal| portal != portal_id.as_str())
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
    /// `objectTypeId`; for a type whose id no source tells, its name in API paths.
    pub id: &'static str,
    /// The name in API paths.
    pub plural: &'static str,
    /// The name in webhooks and associations.
    pub singular: &'static str,
    /// Another name of the same, where HubSpot uses one.
    pub alias: Option<&'static str>,
    /// The scopes of which any one reads its records, the one HubSpot's documentation names first. Empty when no
    /// source tells.
    pub read_scopes: &'static [&'static str],
}

impl StandardObjectType {
    /// Id, plural, singular and alias.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let names = [Some(self.id), Some(self.plural), Some(self.singular)];
        names.into_iter().chain([self.alias]).flatten()
    }

    /// Whether it is something that people did (a call, a note, …), which is about the records it is attached to.
    #[must_use]
    pub fn is_engagement(&self) -> bool {
        ENGAGEMENTS.contains(&self.id)
    }
}

/// Calls, e-mails, meetings, notes, tasks, communications and postal mail.
const ENGAGEMENTS: [&str; 7] = ["0-18", "0-27", "0-46", "0-47", "0-48", "0-49", "0-116"];

const fn standard(
    id: &'static str,
    plural: &'static str,
    singular: &'static str,
    read_scopes: &'static [&'static str],
) -> StandardObjectType {
    StandardObjectType {
        id,
        plural,
        singular,
        alias: None,
        read_scopes,
    }
}

impl StandardObjectType {
    const fn or(self, alias: &'static str) -> Self {
        Self {
            alias: Some(alias),
            ..self
        }
    }
}

const CONTACTS: &[&str] = &["crm.objects.contacts.read"];
const LINE_ITEMS: &[&str] = &["crm.objects.line_items.read", "e-commerce"];

/// HubSpot's own object types, by id, plural and singular, and what reads them.
///
/// - One page of HubSpot's prints 0-4 for notes; every other source says 0-46, which stands here.
/// - 0-72 is from one source; HubSpot documents no read of deal splits by their own ids.
/// - Marketing events (0-54) have an API of their own beside this one; it reads one at a time and knows no property
///   definitions, so they are read as the other types are.
/// - Reading what an e-mail says needs `sales-email-read` too.
/// - The ids of the last four are in no source. When HubSpot tells of one, it comes under that id.
///
/// # Source
/// HubSpot, "Understanding the CRM APIs" (object type ids), and its published OpenAPI files (scopes).
#[rustfmt::skip]
pub const STANDARD_OBJECT_TYPES: &[StandardObjectType] = &[
    standard("0-1", "contacts", "contact", CONTACTS),
    standard("0-2", "companies", "company", &["crm.objects.companies.read"]),
    standard("0-3", "deals", "deal", &["crm.objects.deals.read"]),
    standard("0-5", "tickets", "ticket", &["tickets"]),
    standard("0-7", "products", "product", &["crm.objects.products.read", "e-commerce"]),
    standard("0-8", "line_items", "line_item", LINE_ITEMS),
    standard("0-14", "quotes", "quote", &["crm.objects.quotes.read", "e-commerce"]),
    standard("0-18", "communications", "communication", CONTACTS),
    standard("0-19", "feedback_submissions", "feedback_submission", CONTACTS),
    standard("0-27", "tasks", "task", &["crm.objects.contacts.read", "crm.objects.tasks.read"]),
    standard("0-46", "notes", "note", &["crm.objects.contacts.read", "crm.objects.notes.read"]),
    standard("0-47", "meetings", "meeting_event", &["crm.objects.contacts.read", "crm.objects.meetings.read"]).or("meeting"),
    standard("0-48", "calls", "call", &["crm.objects.contacts.read", "crm.objects.calls.read"]),
    standard("0-49", "emails", "email", &["crm.objects.contacts.read", "crm.objects.emails.read"]),
    standard("0-53", "invoices", "invoice", &["crm.objects.invoices.read"]),
    standard("0-54", "marketing_events", "marketing_event", &["crm.objects.marketing_events.read"]),
    standard("0-69", "subscriptions", "subscription", &["crm.objects.subscriptions.read"]),
    standard("0-72", "deal_splits", "deal_split", &["crm.dealsplits.read_write"]),
    standard("0-74", "goal_targets", "goal_target", &["crm.objects.goals.read"]),
    standard("0-84", "discounts", "discount", LINE_ITEMS),
    standard("0-85", "fees", "fee", LINE_ITEMS),
    standard("0-86", "taxes", "tax", LINE_ITEMS),
    standard("0-101", "commerce_payments", "commerce_payment", &["crm.objects.commercepayments.read"]),
    standard("0-115", "users", "user", &["crm.objects.users.read"]),
    standard("0-116", "postal_mail", "postal_mail", CONTACTS),
    standard("0-123", "orders", "order", &["crm.objects.orders.read"]),
    standard("0-136", "leads", "lead", &["crm.objects.leads.read"]),
    standard("0-142", "carts", "cart", &["crm.objects.carts.read"]),
    standard("0-162", "services", "service", &["crm.objects.services.read"]),
    standard("0-410", "courses", "course", &["crm.objects.courses.read"]),
    standard("0-420", "listings", "listing", &["crm.objects.listings.read"]),
    standard("0-421", "appointments", "appointment", &["crm.objects.appointments.read"]),
    standard("0-970", "projects", "project", &["crm.objects.projects.read"]),
    standard("contracts", "contracts", "contract", &["crm.objects.contracts.read"]),
    standard("partner_clients", "partner_clients", "partner_client", &["crm.objects.partner-clients.read"]),
    standard("partner_services", "partner_services", "partner_service", &["crm.objects.partner-services.read"]),
    standard("quote_template", "quote_template", "quote_template", &[]).or("quote_templates"),
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
                let shared = one
                    .names()
                    .find(|name| other.names().any(|theirs| theirs == *name));
                assert_eq!(shared, None, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn every_type_is_found_by_each_of_its_names() {
        for standard in STANDARD_OBJECT_TYPES {
            for name in standard.names() {
                let found = ObjectTypeId::from_name(&name.to_uppercase());
                assert_eq!(found.standard(), Some(standard), "{name}");
            }
        }
        assert_eq!(ObjectTypeId::from_name("meeting").as_str(), "0-47");
    }

    /// The ids that HubSpot publishes, written out: a row that gets lost is missed here.
    #[test]
    fn every_published_id_has_its_name() {
        let published = "0-1 contact 0-2 company 0-3 deal 0-5 ticket 0-7 product 0-8 line_item 0-14 quote \
            0-18 communication 0-19 feedback_submission 0-27 task 0-46 note 0-47 meeting_event 0-48 call 0-49 email \
            0-53 invoice 0-54 marketing_event 0-69 subscription 0-72 deal_split 0-74 goal_target 0-84 discount \
            0-85 fee 0-86 tax 0-101 commerce_payment 0-115 user 0-116 postal_mail 0-123 order 0-136 lead 0-142 cart \
            0-162 service 0-410 course 0-420 listing 0-421 appointment 0-970 project";
        let words: Vec<&str> = published.split_whitespace().collect();
        for pair in words.chunks(2) {
            assert_eq!(ObjectTypeId::from_name(pair[0]).name(), pair[1]);
        }
        assert_eq!(words.len() / 2 + 4, STANDARD_OBJECT_TYPES.len());
    }

    #[test]
    fn a_custom_object_is_told_from_what_only_looks_like_one() {
        let id = ObjectTypeId::from_name;
        let name = |portal, name| Some(CustomName { portal, name });
        assert!(id("2-1234567").is_custom());
        assert_eq!(id("p8241_car").custom_name(), name(Some("8241"), "car"));
        assert_eq!(id("p_race_car").custom_name(), name(None, "race_car"));
        for other in [
            "0-1",
            "2-",
            "2-x",
            "postal_mail",
            "partner_clients",
            "p_",
            "p",
            "px_car",
            "hologram",
        ] {
            let other = id(other);
            assert!(
                !other.is_custom() && other.custom_name().is_none(),
                "{other}"
            );
        }
    }

    #[test]
    fn a_type_names_the_scope_that_reads_it() {
        let first = |name| ObjectTypeId::from_name(name).read_scopes().first().copied();
        assert_eq!(first("ticket"), Some("tickets"));
        assert_eq!(first("2-7"), Some("crm.objects.custom.read"));
        assert_eq!(first("p_car"), Some("crm.objects.custom.read"));
        assert_eq!(first("hologram"), None);
    }
}
