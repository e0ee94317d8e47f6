//! Fills a portal with invented people and companies, the same from the same seed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::change::{Change, EdgeTypes, Key};
use super::definitions;
use super::files::File;
use super::inbox::ThreadChange;
use super::record::Source;
use super::state::{Owner, State};
use super::types::{
    self, CALL, CAR, COMMUNICATION, COMPANY, CONTACT, Category, DEAL, EMAIL, LINE_ITEM, MEETING,
    NOTE, POSTAL_MAIL, PRODUCT, TASK, TICKET, TypeId,
};
use super::words;
use crate::event::Millis;

/// How long before the start the seeded data was made.
const AGE_MS: i64 = 30 * 86_400_000;
const OWNERS_ACTIVE: usize = 6;
const ACTIVITIES: [TypeId; 7] = [NOTE, CALL, EMAIL, MEETING, TASK, COMMUNICATION, POSTAL_MAIL];

/// Owners, and records in proportion to `contacts`; with no contacts only the owners.
pub(crate) fn fill(state: &mut State, contacts: usize, now: Millis) {
    let now = Millis::new(now.as_i64() - AGE_MS).unwrap_or(now);
    state.created_at = now;
    state.owners = owners(state, now);
    let mut seeder = Seeder { state, now };
    seeder.records(contacts);
}

/// Values for a new record of a type; `serial` keeps unique values apart.
pub(crate) fn properties(
    state: &mut State,
    object_type: TypeId,
    serial: usize,
) -> BTreeMap<String, String> {
    let owner = owner(state);
    let attached: Vec<String> = match object_type {
        NOTE => [("offer", "pdf"), ("photo", "png")]
            .map(|(name, extension)| attach(state, format!("{name}-{serial}"), extension))
            .to_vec(),
        _ => Vec::new(),
    };
    let random = &mut state.random;
    let (first, last) = (
        *random.pick(&words::FIRST_NAMES),
        *random.pick(&words::LAST_NAMES),
    );
    let company = format!(
        "{} {}",
        random.pick(&words::LAST_NAMES),
        random.pick(&words::TRADES)
    );
    let amount = format!("{}.{:02}", 100 + random.below(90_000), random.below(100));
    let day = format!(
        "2026-{:02}-{:02}",
        1 + random.below(12),
        1 + random.below(28)
    );
    let values: Vec<(&str, String)> = match object_type {
        CONTACT => {
            let email = format!(
                "{}.{}{serial}@example.com",
                first.to_lowercase(),
                last.to_lowercase()
            );
            let stage = *random.pick(&["subscriber", "lead", "opportunity", "customer"]);
            vec![
                ("email", email),
                ("firstname", first.into()),
                ("lastname", last.into()),
                ("lifecyclestage", stage.into()),
                ("phone", format!("+4930{:07}", random.below(10_000_000))),
                ("jobtitle", (*random.pick(&words::JOBS)).into()),
                ("city", (*random.pick(&words::CITIES)).into()),
                ("birthday", format!("19{}", &day[2..])),
                ("preferred_channels", "email;phone".into()),
                ("newsletter", "true".into()),
                ("customer_number", format!("C-{serial:06}")),
                ("account_manager", owner.clone()),
            ]
        }
        COMPANY => vec![
            ("name", company.clone()),
            (
                "domain",
                format!(
                    "{}{serial}.example",
                    company.split(' ').next().unwrap_or_default().to_lowercase()
                ),
            ),
            ("city", (*random.pick(&words::CITIES)).into()),
            ("numberofemployees", random.below(5_000).to_string()),
            ("industry", "MACHINERY".into()),
            ("account_number", format!("A-{serial:06}")),
        ],
        DEAL => vec![
            ("dealname", format!("{company}: order {serial}")),
            ("amount", amount),
            ("pipeline", "default".into()),
            ("dealstage", (*random.pick(&words::DEAL_STAGES)).into()),
            ("closedate", format!("{day}T12:00:00.000Z")),
            ("delivery_date", day),
        ],
        TICKET => vec![
            (
                "subject",
                format!("{} {serial}", random.pick(&words::COMPLAINTS)),
            ),
            ("hs_pipeline", "0".into()),
            ("hs_pipeline_stage", (1 + random.below(4)).to_string()),
            ("hs_ticket_priority", "MEDIUM".into()),
        ],
        PRODUCT | LINE_ITEM => vec![
            ("name", format!("{} {serial}", random.pick(&words::GOODS))),
            ("price", amount),
        ],
        NOTE => vec![
            ("hs_note_body", "<p>Called back.</p>".into()),
            ("hs_attachment_ids", attached.join(";")),
        ],
        CALL => vec![
            ("hs_call_title", "Follow-up".into()),
            ("hs_call_duration", "120000".into()),
            ("hs_call_direction", "OUTBOUND".into()),
        ],
        EMAIL => vec![
            ("hs_email_subject", "Your order".into()),
            ("hs_email_status", "SENT".into()),
            ("hs_email_html", "<p>Hello</p>".into()),
        ],
        MEETING => vec![
            ("hs_meeting_title", "Review".into()),
            ("hs_meeting_start_time", format!("{day}T09:00:00.000Z")),
        ],
        TASK => vec![
            ("hs_task_subject", "Send the offer".into()),
            ("hs_task_status", "NOT_STARTED".into()),
        ],
        COMMUNICATION => vec![
            ("hs_communication_body", "On my way".into()),
            ("hs_communication_channel_type", "SMS".into()),
        ],
        POSTAL_MAIL => vec![("hs_postal_mail_body", "Catalogue".into())],
        CAR => vec![
            ("plate", format!("B-SI {serial}")),
            ("model", "Hatchback".into()),
            ("year", (2000 + random.below(26)).to_string()),
        ],
        other => others(other, serial),
    };
    let values = values.into_iter().chain([("hubspot_owner_id", owner)]);
    values
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// A new private file's id.
fn attach(state: &mut State, name: String, extension: &str) -> String {
    let created_at = state.created_at;
    let file = File {
        name,
        extension: extension.to_owned(),
        access: "PRIVATE".to_owned(),
        size: 20_480 + u64::from(state.random.next_u32() % 900_000),
        created_at,
    };
    state.files.add(file).to_string()
}

/// A text, and a number or time, where the type has them.
fn others(object_type: TypeId, serial: usize) -> Vec<(&'static str, String)> {
    let name = types::of(object_type).singular;
    let own = definitions::of(object_type).values();
    let own = own.filter(|one| one.name.starts_with("hs_") && !one.calculated && !one.hidden);
    own.filter_map(|one| {
        let value = match one.value_type {
            "string" if one.name != "hs_attachment_ids" => format!("{name} {serial}"),
            "number" => serial.to_string(),
            "datetime" if one.name != "hs_timestamp" => "2026-11-23T09:00:00.000Z".to_owned(),
            "enumeration" => one.options.first()?.0.to_owned(),
            _ => return None,
        };
        Some((one.name, value))
    })
    .collect()
}

/// An active owner's id.
pub(crate) fn owner(state: &mut State) -> String {
    let index = state.random.below(OWNERS_ACTIVE);
    state
        .owners
        .get(index)
        .map_or_else(String::new, |owner| owner.id.to_string())
}

struct Seeder<'a> {
    state: &'a mut State,
    now: Millis,
}

impl Seeder<'_> {
    fn records(&mut self, contacts: usize) {
        let people = self.many(CONTACT, contacts);
        let companies = self.many(COMPANY, contacts.div_ceil(3));
        let deals = self.many(DEAL, contacts.div_ceil(2));
        let tickets = self.many(TICKET, contacts.div_ceil(4));
        let items = self.many(LINE_ITEM, contacts.div_ceil(2));
        let cars = self.many(CAR, contacts.div_ceil(10));
        self.many(PRODUCT, contacts.div_ceil(10));
        self.employ(&people, &companies);
        self.link(&deals, &people, 0);
        self.link(&deals, &companies, 5);
        self.link(&tickets, &people, 0);
        self.link(&deals, &items, 0);
        self.link(&cars, &people, 0);
        for other in types::OBJECT_TYPES.iter().map(|known| known.id) {
            if self.state.of_type(other, 0).next().is_none() && !ACTIVITIES.contains(&other) {
                self.many(other, contacts.div_ceil(20));
            }
        }
        for activity in ACTIVITIES {
            let activities = self.many(activity, contacts.div_ceil(10));
            self.link(&activities, &people, 0);
        }
        for person in people.iter().step_by(20) {
            self.talk(*person, tickets.first().copied());
        }
    }

    /// A thread with a message of a contact's.
    fn talk(&mut self, person: Key, ticket: Option<Key>) {
        let (inbox, ticket) = (&mut self.state.inbox, ticket.map(|ticket| ticket.1));
        let thread = inbox.begin(Some(person.1), ticket, self.now);
        let text = "Where is my order?".to_owned();
        inbox.change(thread, ThreadChange::Say { text }, self.now);
    }

    fn many(&mut self, object_type: TypeId, count: usize) -> Vec<Key> {
        let make = |serial: usize| {
            let properties = properties(self.state, object_type, serial);
            self.now = self.now.after(Duration::from_millis(137));
            let change = Change::Create {
                object_type,
                properties,
            };
            let applied = self
                .state
                .apply(change, &source(), self.now)
                .expect("seeded values are valid");
            (object_type, applied.id)
        };
        (1..=count).map(make).collect()
    }

    /// Everybody works somewhere, mainly; some have a second company with a label.
    fn employ(&mut self, people: &[Key], companies: &[Key]) {
        for (index, person) in people.iter().enumerate() {
            self.associate(
                *person,
                companies[index % companies.len()],
                &[(Category::HubspotDefined, 1)],
            );
            if index % 5 == 0 && companies.len() > 1 {
                self.associate(
                    *person,
                    companies[(index + 1) % companies.len()],
                    &[(Category::UserDefined, 28)],
                );
            }
        }
    }

    /// Associates each of `from` with one of `to`; `number` 0 is the unlabelled type.
    fn link(&mut self, from: &[Key], to: &[Key], number: u32) {
        for (index, from) in from.iter().enumerate() {
            let types = [(Category::HubspotDefined, number)];
            self.associate(
                *from,
                to[index % to.len()],
                if number == 0 { &[] } else { &types },
            );
        }
    }

    fn associate(&mut self, from: Key, to: Key, types: &[(Category, u32)]) {
        let change = Change::Associate {
            from,
            to,
            types: types.iter().copied().collect::<EdgeTypes>(),
        };
        self.state
            .apply(change, &source(), self.now)
            .expect("seeded associations are valid");
    }
}

fn source() -> Source {
    Source {
        kind: "CRM_UI".to_owned(),
        id: Some("userId:75500001".to_owned()),
    }
}

/// Six active users, a deactivated one, and a queue.
fn owners(state: &mut State, now: Millis) -> Vec<Owner> {
    let mut all = Vec::new();
    for index in 0..u64::try_from(OWNERS_ACTIVE).expect("small") + 2 {
        let (first, last) = (
            *state.random.pick(&words::FIRST_NAMES),
            *state.random.pick(&words::LAST_NAMES),
        );
        let queue = index == 7;
        let (first, last) = if queue {
            ("", "Support queue")
        } else {
            (first, last)
        };
        all.push(Owner {
            id: 1_180_001 + index * 13,
            user_id: (!queue).then_some(75_500_001 + index),
            email: if queue {
                String::new()
            } else {
                format!(
                    "{}.{}@seller.example",
                    first.to_lowercase(),
                    last.to_lowercase()
                )
            },
            first_name: first.to_owned(),
            last_name: last.to_owned(),
            archived: index == 6,
            created_at: now,
            teams: if index % 2 == 0 {
                vec![(378_001, "Sales", true), (378_002, "Partners", false)]
            } else {
                Vec::new()
            },
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded(seed: u64) -> State {
        let now = Millis::new(1_800_000_000_000).unwrap();
        let mut state = State::new(8241, seed, now);
        fill(&mut state, 20, now);
        state
    }

    #[test]
    fn a_seed_makes_the_same_portal_again() {
        let show = |state: &State| {
            let all = types::OBJECT_TYPES
                .iter()
                .flat_map(|known| state.of_type(known.id, 0));
            all.map(|record| format!("{record:?}")).collect::<String>()
        };
        assert_eq!(show(&seeded(1)), show(&seeded(1)));
        assert_ne!(show(&seeded(1)), show(&seeded(2)));
    }

    #[test]
    fn every_type_has_records_and_every_contact_a_primary_company() {
        let state = seeded(1);
        for known in &types::OBJECT_TYPES {
            assert!(
                state.of_type(known.id, 0).next().is_some(),
                "{}",
                known.plural
            );
        }
        for contact in state.of_type(CONTACT, 0) {
            let companies = state.associated((CONTACT, contact.id), COMPANY);
            let primary = companies
                .iter()
                .filter(|(_, types)| types.contains(&(Category::HubspotDefined, 1)));
            assert_eq!(primary.count(), 1);
        }
    }
}
