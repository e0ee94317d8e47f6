//! Property definitions, as a real portal has them: HubSpot's own and a few of the portal's.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::types::{self, CAR, CONTACT, TypeId};
use crate::event::Millis;

/// A property of an object type.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub(crate) name: &'static str,
    pub(crate) value_type: &'static str,
    pub(crate) field_type: &'static str,
    /// Internal value and label.
    pub(crate) options: Vec<(&'static str, &'static str)>,
    pub(crate) calculated: bool,
    pub(crate) hidden: bool,
    pub(crate) unique: bool,
    pub(crate) custom: bool,
    pub(crate) sensitive: bool,
    pub(crate) owner: bool,
}

/// Why a value was refused: HubSpot's code and message.
pub(crate) type Invalid = (&'static str, String);

impl Definition {
    /// `lifecycle_stage` → `Lifecycle Stage`.
    pub(crate) fn label(&self) -> String {
        let words = self.name.trim_start_matches("hs_").split('_');
        let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
        words
            .filter(|word| !word.is_empty())
            .map(capital)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The value as HubSpot stores it: dates and times in ISO form.
    ///
    /// # Errors
    /// [`Invalid`] when the value is not of the type, or not among the options.
    pub(crate) fn normalize(&self, value: &str) -> Result<String, Invalid> {
        if self.calculated {
            return Err((
                "READ_ONLY_VALUE",
                format!(
                    "\"{}\" is a read only property; its value cannot be set.",
                    self.name
                ),
            ));
        }
        if value.is_empty() {
            return Ok(String::new());
        }
        match self.value_type {
            "number" if value.parse::<f64>().is_err() => {
                Err(("INVALID_DOUBLE", format!("{value} was not a valid number.")))
            }
            "bool" if !matches!(value, "true" | "false") => Err((
                "INVALID_OPTION",
                format!("{value} was not one of the allowed options: [true, false]"),
            )),
            "datetime" => parse_time(value)
                .map(|at| at.to_string())
                .ok_or_else(|| invalid_date(value)),
            "date" => normalize_date(value).ok_or_else(|| invalid_date(value)),
            "enumeration" if !self.options.is_empty() => self.check_options(value),
            _ => Ok(value.to_owned()),
        }
    }

    /// The value as a notification has it: dates and times as milliseconds, sensitive ones hidden.
    pub(crate) fn in_notification(&self, value: &str) -> String {
        let date = if self.value_type == "date" {
            format!("{value}T00:00:00Z")
        } else {
            value.to_owned()
        };
        match self.value_type {
            _ if self.sensitive && !value.is_empty() => "REDACTED".to_owned(),
            "date" | "datetime" => {
                Millis::parse(&date).map_or_else(String::new, |at| at.as_i64().to_string())
            }
            _ => value.to_owned(),
        }
    }

    fn check_options(&self, value: &str) -> Result<String, Invalid> {
        let allowed = |part: &str| self.options.iter().any(|(internal, _)| *internal == part);
        let valid = if self.field_type == "checkbox" {
            value.split(';').all(allowed)
        } else {
            allowed(value)
        };
        let message = || {
            format!(
                "{value} was not one of the allowed options: {:?}",
                self.options
            )
        };
        if valid {
            Ok(value.to_owned())
        } else {
            Err(("INVALID_OPTION", message()))
        }
    }
}

/// The property that holds the time of the last change: contacts have a name of their own for it.
pub(crate) fn last_modified(object_type: TypeId) -> &'static str {
    if object_type == CONTACT {
        "lastmodifieddate"
    } else {
        "hs_lastmodifieddate"
    }
}

/// All definitions of a type, by name.
pub(crate) fn of(object_type: TypeId) -> &'static BTreeMap<&'static str, Definition> {
    static ALL: OnceLock<BTreeMap<TypeId, BTreeMap<&'static str, Definition>>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        types::OBJECT_TYPES
            .iter()
            .map(|known| (known.id, build(known.id)))
            .collect()
    });
    all.get(&object_type)
        .expect("every type of the table has definitions")
}

/// Milliseconds or RFC 3339.
fn parse_time(value: &str) -> Option<Millis> {
    value
        .parse()
        .ok()
        .and_then(Millis::new)
        .or_else(|| Millis::parse(value))
}

/// Milliseconds (of a midnight, UTC) or `YYYY-MM-DD`.
fn normalize_date(value: &str) -> Option<String> {
    let at = value
        .parse()
        .ok()
        .and_then(Millis::new)
        .or_else(|| Millis::parse(&format!("{value}T00:00:00Z")))?;
    Some(at.to_string()[..10].to_owned())
}

fn invalid_date(value: &str) -> Invalid {
    ("INVALID_DATE", format!("{value} was not a valid date."))
}

fn build(object_type: TypeId) -> BTreeMap<&'static str, Definition> {
    let common = if object_type == CONTACT {
        COMMON.replace("hs_lastmodifieddate", "lastmodifieddate")
    } else {
        COMMON.to_owned()
    };
    let common: &'static str = common.leak();
    let own = own(object_type);
    common
        .lines()
        .chain(own.lines())
        .filter(|line| !line.is_empty())
        .map(parse)
        .map(|one| (one.name, one))
        .collect()
}

/// `name type fieldType flags options`, see [`COMMON`].
fn parse(line: &'static str) -> Definition {
    let mut parts = line.splitn(5, ' ');
    let mut next = || parts.next().unwrap_or_default();
    let (name, value_type, field_type, flags, options) = (next(), next(), next(), next(), next());
    let flag = |letter| flags.contains(letter);
    Definition {
        name,
        value_type,
        field_type,
        options: options
            .split(';')
            .filter_map(|option| option.split_once('='))
            .collect(),
        calculated: flag('c'),
        hidden: flag('h'),
        unique: flag('u'),
        custom: flag('m'),
        sensitive: flag('s'),
        owner: flag('o'),
    }
}

fn own(object_type: TypeId) -> &'static str {
    match object_type {
        types::CONTACT => CONTACTS,
        types::COMPANY => COMPANIES,
        types::DEAL => DEALS,
        types::TICKET => TICKETS,
        types::PRODUCT => PRODUCTS,
        types::LINE_ITEM => LINE_ITEMS,
        types::NOTE => NOTES,
        types::CALL => CALLS,
        types::EMAIL => EMAILS,
        types::MEETING => MEETINGS,
        types::TASK => TASKS,
        types::COMMUNICATION => COMMUNICATIONS,
        types::POSTAL_MAIL => POSTAL_MAIL,
        CAR => CARS,
        other => others(other),
    }
}

/// The lines of a type that has few.
fn others(object_type: TypeId) -> &'static str {
    let plural = types::of(object_type).plural;
    let own = OTHERS.lines().filter_map(|line| line.split_once(' '));
    let own = own.filter(|(of, _)| *of == plural);
    let lines: String = own.map(|(_, line)| format!("{line}\n")).collect();
    assert!(!lines.is_empty(), "{plural} has no definitions");
    lines.leak()
}

/// What every type has. Flags: `c` calculated or set by HubSpot, `h` hidden, `u` unique, `m` the portal's own, `s` sensitive,
/// `o` holds an owner, `-` none. Options: `value=Label;…`.
const COMMON: &str = include_str!("definitions/common.txt");
const CONTACTS: &str = include_str!("definitions/contacts.txt");
const COMPANIES: &str = include_str!("definitions/companies.txt");
const DEALS: &str = include_str!("definitions/deals.txt");
const TICKETS: &str = include_str!("definitions/tickets.txt");
const PRODUCTS: &str = include_str!("definitions/products.txt");
const LINE_ITEMS: &str = include_str!("definitions/line_items.txt");
const NOTES: &str = "hs_note_body string html -\n";
const CALLS: &str = include_str!("definitions/calls.txt");
const EMAILS: &str = include_str!("definitions/emails.txt");
const MEETINGS: &str = include_str!("definitions/meetings.txt");
const TASKS: &str = include_str!("definitions/tasks.txt");
const COMMUNICATIONS: &str = "hs_communication_body string textarea -\nhs_communication_channel_type enumeration select - LINKEDIN_MESSAGE=LinkedIn Message;SMS=SMS;WHATS_APP=WhatsApp\nhs_communication_logged_from enumeration select - CRM=CRM\n";
const POSTAL_MAIL: &str = "hs_postal_mail_body string html -\n";
/// Types with few properties, each line begun by the type.
const OTHERS: &str = include_str!("definitions/others.txt");
const CARS: &str = "plate string text um\nmodel string text m\nyear number number m\nelectric bool booleancheckbox m true=Yes;false=No\nservice_owner enumeration select mo\ncondition enumeration select m new=New;used=Used\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_types_have_about_sixty_properties_and_the_defaults() {
        for object_type in [types::CONTACT, types::COMPANY, types::DEAL, types::TICKET] {
            let definitions = of(object_type);
            assert!(
                (55..=80).contains(&definitions.len()),
                "{object_type}: {}",
                definitions.len()
            );
            for name in [
                "hs_object_id",
                "createdate",
                last_modified(object_type),
                "hubspot_owner_id",
            ] {
                assert!(definitions.contains_key(name), "{object_type} {name}");
            }
        }
    }

    #[test]
    fn every_definition_is_well_formed() {
        const TYPES: [&str; 8] = [
            "string",
            "number",
            "date",
            "datetime",
            "enumeration",
            "bool",
            "phone_number",
            "json",
        ];
        for definition in types::OBJECT_TYPES
            .iter()
            .flat_map(|known| of(known.id).values())
        {
            assert!(
                TYPES.contains(&definition.value_type),
                "{}",
                definition.name
            );
            assert!(
                !definition.field_type.is_empty() && !definition.label().is_empty(),
                "{}",
                definition.name
            );
            let enumerated =
                matches!(definition.value_type, "enumeration" | "bool") && !definition.owner;
            assert_eq!(
                enumerated,
                !definition.options.is_empty(),
                "{}",
                definition.name
            );
        }
    }

    #[test]
    fn dates_are_iso_in_records_and_milliseconds_in_notifications() {
        let date = &of(types::DEAL)["closedate"];
        assert_eq!(
            date.normalize("1752559200000").unwrap(),
            "2025-07-15T06:00:00.000Z"
        );
        assert_eq!(
            date.in_notification("2025-07-15T06:00:00.000Z"),
            "1752559200000"
        );
        let birthday = &of(types::CONTACT)["birthday"];
        assert_eq!(birthday.normalize("2001-02-03").unwrap(), "2001-02-03");
        assert_eq!(birthday.in_notification("2001-02-03"), "981158400000");
        assert_eq!(
            birthday.normalize("tomorrow").unwrap_err().0,
            "INVALID_DATE"
        );
    }
}
