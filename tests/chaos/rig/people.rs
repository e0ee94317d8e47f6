//! What people do to contacts: they come, change, are associated with companies, merged, deleted, and erased for privacy.
//!
//! Each notification of it has a number, which is its `eventId`. A change writes it into the record, so that the values of
//! a record only ever grow, and a state tells by itself how old it is.

use std::collections::HashSet;
use std::sync::Arc;

use crm_relay::event::Millis;
use crm_relay::simulator::Control;
use serde_json::{Value, json};

use super::dice::Dice;
use super::ledger::Ledger;

/// The property that changes.
pub const PROPERTY: &str = "credit_limit";
const FIRST_PORTAL: u64 = 82_410;
/// Contacts of a portal, and companies that they are associated with.
const CONTACTS: usize = 40;
const COMPANIES: usize = 10;
/// Of a thousand changes; the others write the property.
const CREATIONS: u64 = 16;
const DELETIONS: u64 = 5;
const MERGES: u64 = 5;
const ERASURES: u64 = 3;
const ASSOCIATIONS: u64 = 20;

/// The id of a portal by its place.
pub fn portal_id(portal: u8) -> u64 {
    FIRST_PORTAL + u64::from(portal)
}

/// What HubSpot tells of a contact.
#[derive(Clone, Copy)]
pub struct Notification {
    pub number: u64,
    contact: u64,
    /// Never later than the record's own time.
    occurred_at: i64,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Changed,
    Created,
    Deleted,
    /// For privacy. A deletion is told as well, before or after.
    Erased,
    /// These became the contact.
    Merged {
        primary: u64,
        other: u64,
    },
    /// Told from each end.
    Associated {
        company: u64,
        removed: bool,
        by: End,
    },
}

/// What [`Notification`]s tell of, for a person.
pub const KINDS: [&str; 6] = [
    "a change",
    "a creation",
    "a deletion",
    "a privacy deletion",
    "a merge",
    "an association",
];

impl Kind {
    /// Its place among [`KINDS`].
    fn place(self) -> u8 {
        match self {
            Self::Changed => 0,
            Self::Created => 1,
            Self::Deleted => 2,
            Self::Erased => 3,
            Self::Merged { .. } => 4,
            Self::Associated { .. } => 5,
        }
    }
}

#[derive(Clone, Copy)]
enum End {
    Contact,
    Company,
}

/// The people of a portal.
pub struct People {
    portal: u8,
    hubspot: Control,
    ledger: Arc<Ledger>,
    contacts: Vec<Contact>,
    companies: Vec<u64>,
}

struct Contact {
    id: u64,
    /// Its companies, as far as people here made it theirs.
    companies: HashSet<u64>,
    /// What was told of it, and of those that were merged into it.
    numbers: Vec<u64>,
}

impl People {
    /// The contacts that a portal begins with have a lower value than any number.
    pub fn new(portal: u8, hubspot: Control, ledger: Arc<Ledger>) -> Self {
        let ids = |object_type, most| {
            let mut ids = hubspot.ids(portal_id(portal), object_type).unwrap();
            ids.truncate(most);
            ids
        };
        let (contacts, companies) = (ids("contacts", CONTACTS), ids("companies", COMPANIES));
        let people = Self {
            portal,
            contacts: contacts.into_iter().map(Contact::new).collect(),
            companies,
            hubspot,
            ledger,
        };
        for contact in &people.contacts {
            people.set(contact.id, 0);
        }
        people
    }

    /// One change, and what HubSpot tells of it: of some two notifications, where there is room for so many.
    pub fn change(&mut self, dice: &mut Dice, room: usize) -> Vec<Notification> {
        let at = dice.below(self.contacts.len() as u64) as usize;
        let roll = dice.below(1_000);
        let mut share = 0;
        let mut is_turn_of = |permille| {
            share += permille;
            roll < share
        };
        if is_turn_of(CREATIONS) || self.contacts.len() < CONTACTS / 2 {
            vec![self.create()]
        } else if is_turn_of(DELETIONS) {
            vec![self.delete(at)]
        } else if is_turn_of(MERGES) {
            vec![self.merge(at)]
        } else if is_turn_of(ERASURES) && room > 1 {
            self.erase(at, dice).to_vec()
        } else if is_turn_of(ASSOCIATIONS) && room > 1 {
            self.associate(at, dice).to_vec()
        } else {
            vec![self.write(at)]
        }
    }

    fn notification(&self, contact: u64, kind: Kind) -> Notification {
        Notification {
            number: self.ledger.make(self.portal, kind.place()),
            contact,
            occurred_at: Millis::now().as_i64(),
            kind,
        }
    }

    fn portal_id(&self) -> u64 {
        portal_id(self.portal)
    }

    fn set(&self, contact: u64, number: u64) {
        let number = number.to_string();
        let properties = [(PROPERTY, number.as_str())];
        let portal = self.portal_id();
        let set = self
            .hubspot
            .update(portal, "contacts", contact, &properties);
        set.unwrap();
    }

    fn write(&mut self, at: usize) -> Notification {
        let told = self.notification(self.contacts[at].id, Kind::Changed);
        self.set(told.contact, told.number);
        self.contacts[at].numbers.push(told.number);
        told
    }

    fn create(&mut self) -> Notification {
        let mut told = self.notification(0, Kind::Created);
        let number = told.number.to_string();
        let properties = [(PROPERTY, number.as_str())];
        let portal = self.portal_id();
        let created = self.hubspot.create(portal, "contacts", &properties);
        told.contact = created.unwrap();
        let mut contact = Contact::new(told.contact);
        contact.numbers.push(told.number);
        self.contacts.push(contact);
        told
    }

    fn delete(&mut self, at: usize) -> Notification {
        let contact = self.contacts.swap_remove(at).id;
        let told = self.notification(contact, Kind::Deleted);
        let portal = self.portal_id();
        self.ledger.end_associations(portal, contact);
        self.hubspot.archive(portal, "contacts", contact).unwrap();
        told
    }

    /// With the contact that came last. Both become a third.
    fn merge(&mut self, at: usize) -> Notification {
        let last = self.contacts.len() - 1;
        if at == last {
            return self.write(at);
        }
        let (other, primary) = (
            self.contacts.swap_remove(last),
            self.contacts.swap_remove(at),
        );
        let merged = Kind::Merged {
            primary: primary.id,
            other: other.id,
        };
        let mut told = self.notification(0, merged);
        self.set(primary.id, told.number);
        let portal = self.portal_id();
        for gone in [primary.id, other.id] {
            self.ledger.end_associations(portal, gone);
            self.ledger.merged_away(portal, gone, told.number);
        }
        let merged = self.hubspot.merge(portal, "contacts", primary.id, other.id);
        told.contact = merged.unwrap();
        let mut survivor = Contact::new(told.contact);
        survivor.numbers = [primary.numbers, other.numbers, vec![told.number]].concat();
        self.contacts.push(survivor);
        told
    }

    fn erase(&mut self, at: usize, dice: &mut Dice) -> [Notification; 2] {
        let contact = self.contacts.swap_remove(at);
        let erased = self.notification(contact.id, Kind::Erased);
        let deleted = self.notification(contact.id, Kind::Deleted);
        // The erasure itself comes out.
        self.ledger.erased(&contact.numbers);
        self.ledger.erased(&[deleted.number]);
        let portal = self.portal_id();
        self.ledger.end_associations(portal, contact.id);
        self.hubspot.gdpr_delete(portal, contact.id).unwrap();
        match dice.chance(500) {
            true => [erased, deleted],
            false => [deleted, erased],
        }
    }

    fn associate(&mut self, at: usize, dice: &mut Dice) -> [Notification; 2] {
        let company = *dice.pick(&self.companies).expect("companies");
        let portal = self.portal_id();
        let contact = &mut self.contacts[at];
        let removed = contact.companies.remove(&company);
        if !removed {
            contact.companies.insert(company);
        }
        let id = contact.id;
        let told = [End::Contact, End::Company].map(|by| {
            let associated = Kind::Associated {
                company,
                removed,
                by,
            };
            self.notification(id, associated)
        });
        self.contacts[at].numbers.push(told[0].number);
        // From now on nobody takes an older state for the newest.
        self.ledger
            .associated((portal, id, company), told[0].number, !removed);
        let (contact, company) = (("contacts", id), ("companies", company));
        let done = match removed {
            true => self.hubspot.disassociate(portal, contact, company, &[]),
            false => self.hubspot.associate(portal, contact, company, &[]),
        };
        done.unwrap();
        told
    }
}

impl Contact {
    fn new(id: u64) -> Self {
        Self {
            id,
            companies: HashSet::new(),
            numbers: Vec::new(),
        }
    }
}

impl Notification {
    /// As HubSpot sends it.
    pub fn body(&self, portal: u8, attempt: u32) -> Value {
        let (subscription_type, more) = self.of_kind();
        let mut body = json!({
            "eventId": self.number,
            "subscriptionId": 3_900_002,
            "portalId": portal_id(portal),
            "appId": 15_000_001,
            "occurredAt": self.occurred_at,
            "subscriptionType": subscription_type,
            "attemptNumber": attempt,
            "changeSource": "CRM_UI",
            "sourceId": "userId:75500001",
        });
        let fields = body.as_object_mut().expect("an object");
        fields.extend(more.as_object().cloned().unwrap_or_default());
        body
    }

    fn of_kind(&self) -> (&'static str, Value) {
        let id = self.contact;
        match self.kind {
            Kind::Changed => (
                "object.propertyChange",
                json!({
                    "objectId": id, "objectTypeId": "0-1", "propertyName": PROPERTY,
                    "propertyValue": self.number.to_string(), "isSensitive": false,
                }),
            ),
            Kind::Created => (
                "object.creation",
                json!({"objectId": id, "objectTypeId": "0-1", "changeFlag": "CREATED"}),
            ),
            Kind::Deleted => (
                "object.deletion",
                json!({"objectId": id, "objectTypeId": "0-1", "changeFlag": "DELETED"}),
            ),
            Kind::Erased => ("contact.privacyDeletion", json!({"objectId": id})),
            Kind::Merged { primary, other } => (
                "object.merge",
                json!({
                    "objectId": id, "objectTypeId": "0-1", "newObjectId": id, "primaryObjectId": primary,
                    "mergedObjectIds": [other], "numberOfPropertiesMoved": 0,
                }),
            ),
            Kind::Associated {
                company,
                removed,
                by,
            } => {
                let (contact, company) = (("0-1", "CONTACT", id), ("0-2", "COMPANY", company));
                let (from, to, type_id) = match by {
                    End::Contact => (contact, company, 279),
                    End::Company => (company, contact, 280),
                };
                let body = json!({
                    "associationType": format!("{}_TO_{}", from.1, to.1),
                    "associationCategory": "HUBSPOT_DEFINED", "associationTypeId": type_id,
                    "fromObjectTypeId": from.0, "toObjectTypeId": to.0,
                    "fromObjectId": from.2, "toObjectId": to.2,
                    "associationRemoved": removed, "isPrimaryAssociation": false,
                });
                ("object.associationChange", body)
            }
        }
    }
}
