//! Object types and association types of a simulated portal: HubSpot's tables, and one custom object.

use std::fmt;

use serde::{Serialize, Serializer};

/// An object type id, `0-1` or `2-1234567`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct TypeId(pub(crate) u32, pub(crate) u32);

pub(crate) const CONTACT: TypeId = TypeId(0, 1);
pub(crate) const COMPANY: TypeId = TypeId(0, 2);
pub(crate) const DEAL: TypeId = TypeId(0, 3);
pub(crate) const TICKET: TypeId = TypeId(0, 5);
pub(crate) const PRODUCT: TypeId = TypeId(0, 7);
pub(crate) const LINE_ITEM: TypeId = TypeId(0, 8);
pub(crate) const COMMUNICATION: TypeId = TypeId(0, 18);
pub(crate) const TASK: TypeId = TypeId(0, 27);
pub(crate) const NOTE: TypeId = TypeId(0, 46);
pub(crate) const MEETING: TypeId = TypeId(0, 47);
pub(crate) const CALL: TypeId = TypeId(0, 48);
pub(crate) const EMAIL: TypeId = TypeId(0, 49);
pub(crate) const POSTAL_MAIL: TypeId = TypeId(0, 116);
/// The custom object `car`.
pub(crate) const CAR: TypeId = TypeId(2, 1_234_567);

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl Serialize for TypeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An object type of the portal.
#[derive(Debug)]
pub(crate) struct ObjectType {
    pub(crate) id: TypeId,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    /// The scope that reads it.
    pub(crate) scope: &'static str,
}

impl ObjectType {
    /// The scope that reads its properties of a level of sensitivity.
    pub(crate) fn scope_of(&self, level: &str) -> String {
        let object = self.scope.strip_suffix(".read");
        object.map_or_else(
            || format!("{}.{level}.v2", self.scope),
            |object| format!("{object}.{level}.read.v2"),
        )
    }
}

const fn object_type(
    id: TypeId,
    plural: &'static str,
    singular: &'static str,
    scope: &'static str,
) -> ObjectType {
    ObjectType {
        id,
        plural,
        singular,
        scope,
    }
}

const CONTACTS_READ: &str = "crm.objects.contacts.read";
const LINE_ITEMS_READ: &str = "crm.objects.line_items.read";

/// Every type the simulator holds. HubSpot publishes no id of contracts, of the partner objects and of quote templates:
/// those are the simulator's own. Deal splits are left out, since HubSpot documents neither a read by their own id nor
/// notifications of them.
#[rustfmt::skip]
pub(crate) static OBJECT_TYPES: [ObjectType; 37] = [
    object_type(CONTACT, "contacts", "contact", CONTACTS_READ),
    object_type(COMPANY, "companies", "company", "crm.objects.companies.read"),
    object_type(DEAL, "deals", "deal", "crm.objects.deals.read"),
    object_type(TICKET, "tickets", "ticket", "tickets"),
    object_type(PRODUCT, "products", "product", "crm.objects.products.read"),
    object_type(LINE_ITEM, "line_items", "line_item", LINE_ITEMS_READ),
    object_type(TypeId(0, 14), "quotes", "quote", "crm.objects.quotes.read"),
    object_type(COMMUNICATION, "communications", "communication", CONTACTS_READ),
    object_type(TypeId(0, 19), "feedback_submissions", "feedback_submission", CONTACTS_READ),
    object_type(TASK, "tasks", "task", CONTACTS_READ),
    object_type(NOTE, "notes", "note", CONTACTS_READ),
    object_type(MEETING, "meetings", "meeting_event", CONTACTS_READ),
    object_type(CALL, "calls", "call", CONTACTS_READ),
    object_type(EMAIL, "emails", "email", CONTACTS_READ),
    object_type(TypeId(0, 53), "invoices", "invoice", "crm.objects.invoices.read"),
    object_type(TypeId(0, 54), "marketing_events", "marketing_event", "crm.objects.marketing_events.read"),
    object_type(TypeId(0, 69), "subscriptions", "subscription", "crm.objects.subscriptions.read"),
    object_type(TypeId(0, 74), "goal_targets", "goal_target", "crm.objects.goals.read"),
    object_type(TypeId(0, 84), "discounts", "discount", LINE_ITEMS_READ),
    object_type(TypeId(0, 85), "fees", "fee", LINE_ITEMS_READ),
    object_type(TypeId(0, 86), "taxes", "tax", LINE_ITEMS_READ),
    object_type(TypeId(0, 101), "commerce_payments", "commerce_payment", "crm.objects.commercepayments.read"),
    object_type(TypeId(0, 115), "users", "user", "crm.objects.users.read"),
    object_type(POSTAL_MAIL, "postal_mail", "postal_mail", CONTACTS_READ),
    object_type(TypeId(0, 123), "orders", "order", "crm.objects.orders.read"),
    object_type(TypeId(0, 136), "leads", "lead", "crm.objects.leads.read"),
    object_type(TypeId(0, 142), "carts", "cart", "crm.objects.carts.read"),
    object_type(TypeId(0, 162), "services", "service", "crm.objects.services.read"),
    object_type(TypeId(0, 410), "courses", "course", "crm.objects.courses.read"),
    object_type(TypeId(0, 420), "listings", "listing", "crm.objects.listings.read"),
    object_type(TypeId(0, 421), "appointments", "appointment", "crm.objects.appointments.read"),
    object_type(TypeId(0, 970), "projects", "project", "crm.objects.projects.read"),
    object_type(TypeId(0, 99_001), "contracts", "contract", "crm.objects.contracts.read"),
    object_type(TypeId(0, 99_002), "partner_clients", "partner_client", "crm.objects.partner-clients.read"),
    object_type(TypeId(0, 99_003), "partner_services", "partner_service", "crm.objects.partner-services.read"),
    object_type(TypeId(0, 99_004), "quote_template", "quote_template", "crm.objects.quotes.read"),
    object_type(CAR, "cars", "car", "crm.objects.custom.read"),
];

/// The type that a path or body names: by id, plural, singular, or a custom object's full or short name.
pub(crate) fn resolve(name: &str, portal_id: u64) -> Option<&'static ObjectType> {
    let custom = name == "p_car" || name == format!("p{portal_id}_car");
    OBJECT_TYPES.iter().find(|known| match known.id {
        CAR => custom || name == "2-1234567",
        id => {
            known.plural.eq_ignore_ascii_case(name)
                || known.singular.eq_ignore_ascii_case(name)
                || id.to_string() == name
        }
    })
}

/// The entry of a type the simulator holds.
pub(crate) fn of(id: TypeId) -> &'static ObjectType {
    OBJECT_TYPES
        .iter()
        .find(|known| known.id == id)
        .expect("a TypeId is made by resolve or a constant")
}

/// Who defined an association type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(clippy::enum_variant_names, reason = "HubSpot's words")]
pub(crate) enum Category {
    HubspotDefined,
    UserDefined,
}

/// An association type, in one direction. A type is the pair of category and number.
#[derive(Debug)]
pub(crate) struct AssociationType {
    pub(crate) category: Category,
    pub(crate) number: u32,
    pub(crate) label: Option<&'static str>,
    /// The number of the same association seen from the other side.
    pub(crate) inverse: u32,
    pub(crate) rank: Rank,
}

/// What an association type does beyond linking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rank {
    /// The unlabelled one every association of the pair has.
    Default,
    /// The one company a record mainly belongs to.
    Primary,
    /// A label.
    Label,
}

type Row = (
    TypeId,
    TypeId,
    u32,
    u32,
    Rank,
    Category,
    Option<&'static str>,
    Option<&'static str>,
);

const fn plain(from: TypeId, to: TypeId, number: u32, inverse: u32) -> Row {
    (
        from,
        to,
        number,
        inverse,
        Rank::Default,
        Category::HubspotDefined,
        None,
        None,
    )
}
const fn primary(from: TypeId, to: TypeId, number: u32, inverse: u32) -> Row {
    (
        from,
        to,
        number,
        inverse,
        Rank::Primary,
        Category::HubspotDefined,
        Some("Primary"),
        Some("Primary"),
    )
}
const fn label(
    from: TypeId,
    to: TypeId,
    number: u32,
    inverse: u32,
    label: &'static str,
    back: &'static str,
) -> Row {
    (
        from,
        to,
        number,
        inverse,
        Rank::Label,
        Category::UserDefined,
        Some(label),
        Some(back),
    )
}

/// HubSpot's ids ("Associate records", association type ids), each pair once; then the portal's own labels, one
/// of which shares its number with one of HubSpot's.
const ROWS: [Row; 49] = [
    plain(CONTACT, COMPANY, 279, 280),
    primary(CONTACT, COMPANY, 1, 2),
    plain(DEAL, CONTACT, 3, 4),
    plain(DEAL, COMPANY, 341, 342),
    primary(DEAL, COMPANY, 5, 6),
    plain(CONTACT, TICKET, 15, 16),
    plain(COMPANY, TICKET, 340, 339),
    primary(COMPANY, TICKET, 25, 26),
    plain(DEAL, TICKET, 27, 28),
    plain(DEAL, LINE_ITEM, 19, 20),
    plain(CONTACT, CONTACT, 449, 449),
    plain(COMPANY, COMPANY, 450, 450),
    plain(DEAL, DEAL, 451, 451),
    plain(TICKET, TICKET, 452, 452),
    (
        COMPANY,
        COMPANY,
        13,
        14,
        Rank::Label,
        Category::HubspotDefined,
        Some("Child Company"),
        Some("Parent Company"),
    ),
    plain(CONTACT, NOTE, 201, 202),
    plain(COMPANY, NOTE, 189, 190),
    plain(DEAL, NOTE, 213, 214),
    plain(TICKET, NOTE, 227, 228),
    plain(CONTACT, CALL, 193, 194),
    plain(COMPANY, CALL, 181, 182),
    plain(DEAL, CALL, 205, 206),
    plain(TICKET, CALL, 219, 220),
    plain(CONTACT, EMAIL, 197, 198),
    plain(COMPANY, EMAIL, 185, 186),
    plain(DEAL, EMAIL, 209, 210),
    plain(TICKET, EMAIL, 223, 224),
    plain(CONTACT, MEETING, 199, 200),
    plain(COMPANY, MEETING, 187, 188),
    plain(DEAL, MEETING, 211, 212),
    plain(TICKET, MEETING, 225, 226),
    plain(CONTACT, TASK, 203, 204),
    plain(COMPANY, TASK, 191, 192),
    plain(DEAL, TASK, 215, 216),
    plain(TICKET, TASK, 229, 230),
    plain(CONTACT, COMMUNICATION, 82, 81),
    plain(COMPANY, COMMUNICATION, 88, 87),
    plain(DEAL, COMMUNICATION, 86, 85),
    plain(TICKET, COMMUNICATION, 84, 83),
    plain(CONTACT, POSTAL_MAIL, 454, 453),
    plain(COMPANY, POSTAL_MAIL, 460, 459),
    plain(DEAL, POSTAL_MAIL, 458, 457),
    label(
        CONTACT,
        COMPANY,
        28,
        29,
        "Billing contact",
        "Billed company",
    ),
    label(CONTACT, COMPANY, 30, 31, "Employee", "Employer"),
    label(DEAL, CONTACT, 32, 33, "Decision maker", "Decides on"),
    label(DEAL, CONTACT, 34, 35, "Champion", "Champions"),
    (
        CAR,
        CONTACT,
        101,
        102,
        Rank::Default,
        Category::UserDefined,
        None,
        None,
    ),
    (
        CAR,
        COMPANY,
        103,
        104,
        Rank::Default,
        Category::UserDefined,
        None,
        None,
    ),
    label(CAR, CONTACT, 105, 106, "Driver", "Drives"),
];

/// All association types from `from` to `to`, the unlabelled one first.
pub(crate) fn associations(from: TypeId, to: TypeId) -> Vec<AssociationType> {
    let mut found = Vec::new();
    for (a, b, number, inverse, rank, category, label, back) in ROWS {
        if (a, b) == (from, to) {
            found.push(AssociationType {
                category,
                number,
                label,
                inverse,
                rank,
            });
        }
        let mirrored = (b, a) == (from, to) && number != inverse;
        if mirrored {
            found.push(AssociationType {
                category,
                number: inverse,
                label: back,
                inverse: number,
                rank,
            });
        }
    }
    found.sort_by_key(|found| found.rank != Rank::Default);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_answers_to_every_name_it_has() {
        for name in ["contacts", "contact", "CONTACT", "0-1"] {
            assert_eq!(resolve(name, 8241).unwrap().id, CONTACT);
        }
        for name in ["2-1234567", "p8241_car", "p_car"] {
            assert_eq!(resolve(name, 8241).unwrap().id, CAR);
        }
        assert!(resolve("p1_car", 8241).is_none() && resolve("car", 8241).is_none());
    }

    #[test]
    fn each_association_type_has_its_inverse() {
        for (from, to) in ROWS.iter().map(|row| (row.0, row.1)) {
            for there in associations(from, to) {
                let back = associations(to, from);
                assert!(
                    back.iter()
                        .any(|back| back.number == there.inverse && back.inverse == there.number)
                );
            }
        }
    }

    #[test]
    fn a_pair_has_one_unlabelled_type_first() {
        let numbers: Vec<u32> = associations(COMPANY, CONTACT)
            .iter()
            .map(|found| found.number)
            .collect();
        assert_eq!(numbers, [280, 2, 29, 31]);
    }
}
