//! HubSpot's texts as typed values, by the portal's own property definitions. Pure functions, no I/O.
//!
//! HubSpot sends every value as text, and not the same text everywhere: a date is epoch milliseconds in a
//! notification and ISO 8601 in an API reply. Here each becomes one form, by the property's `type` and not its
//! `fieldType` (many a `datetime` has the field type `date`). A value that its type cannot explain stays the
//! text that came: it is never dropped and never guessed at.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::event::{
    Event, EventBody, Millis, ObjectChange, ObjectEvent, ObjectTypeId, PropertyValue, Record,
};
use crate::hubspot::call::{PropertyDefinition, RecordRead, Sensitivity};

use super::cache::Problem;

/// What HubSpot writes into a notification instead of a sensitive value.
const REDACTED: &str = "REDACTED";
/// A UTC day; `date` values are midnights.
const DAY_MS: i64 = 86_400_000;
/// The length of `2026-11-23`.
const DATE_BYTES: usize = 10;

/// The property definitions of one object type, in the order of their internal names. Portals hold the same ones in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definitions {
    all: Box<[Arc<PropertyDefinition>]>,
    /// Why some of those that were asked for are missing.
    problem: Option<Problem>,
}

impl Definitions {
    /// The definition of a property; `None` when the portal had none of that name when they were read.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&PropertyDefinition> {
        let found = self.all.binary_search_by(|one| one.name.as_str().cmp(name));
        Some(&self.all[found.ok()?])
    }

    /// All definitions, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &PropertyDefinition> {
        self.all.iter().map(Arc::as_ref)
    }

    /// The same, of which some may not be read.
    pub(super) fn lacking(self, problem: Option<Problem>) -> Self {
        Self { problem, ..self }
    }

    /// Why some of those that were asked for are missing.
    pub(super) fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }
}

impl FromIterator<Arc<PropertyDefinition>> for Definitions {
    fn from_iter<I: IntoIterator<Item = Arc<PropertyDefinition>>>(definitions: I) -> Self {
        let mut all: Vec<_> = definitions.into_iter().collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all.dedup_by(|one, other| one.name == other.name);
        Self {
            all: all.into(),
            problem: None,
        }
    }
}

/// A record with its values typed and its selections labelled.
///
/// Without definitions, or without one for a property, a value is text. Labels are given for enumerations
/// that define options (those of owners do not); a value that is no option, such as one that was removed since,
/// is its own label, so that the labels of a list stand beside its values one to one.
///
/// Of empty properties those that `events` changed are [`PropertyValue::Null`], and the others left out. What the
/// definitions say of a property is listed for those that have a value.
#[must_use]
pub fn record(read: &RecordRead, definitions: Option<&Definitions>, events: &[Event]) -> Record {
    let definition = |name: &str| definitions.and_then(|definitions| definitions.get(name));
    let mut properties: BTreeMap<String, PropertyValue> = read
        .properties
        .iter()
        .map(|(name, text)| (name.clone(), value(definition(name), text)))
        .collect();
    let marked = |is: fn(&PropertyDefinition) -> bool| -> Vec<String> {
        let names = properties.keys();
        let marked = names.filter(|name| definition(name).is_some_and(is));
        marked.cloned().collect()
    };
    let calculated = marked(|definition| definition.calculated);
    let read_only = marked(|definition| definition.read_only);
    let mut sensitive = marked(|definition| definition.sensitivity != Sensitivity::NonSensitive);
    let references = properties
        .keys()
        .filter_map(|name| Some((name.clone(), reference(definition(name)?)?)))
        .collect();
    for (name, change) in changes(events) {
        if change.is_sensitive
            && properties.contains_key(name)
            && !sensitive.iter().any(|known| known == name)
        {
            sensitive.push(name.to_owned());
        }
        // What has no definition was not asked for.
        let was_read = definitions.is_none() || definition(name).is_some();
        let is_cleared = was_read && change.value.is_none() && !properties.contains_key(name);
        if is_cleared {
            properties.insert(name.to_owned(), PropertyValue::Null);
        }
    }
    sensitive.sort();
    let labels = properties
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), label(definition(name)?, value)?)))
        .collect();
    Record {
        properties,
        raw: None,
        labels,
        references,
        calculated,
        read_only,
        sensitive,
        created_at: read.created_at,
        updated_at: read.updated_at,
        archived: read.archived,
    }
}

/// The events with the typed value beside each text of a changed property, where its definition is known.
pub fn type_events(events: &mut [Event], definitions: Option<&Definitions>) {
    for event in events {
        let EventBody::Object(ObjectEvent {
            change:
                ObjectChange::PropertyChanged {
                    property_name,
                    property_value: Some(text),
                    ..
                },
            ..
        }) = &event.body
        else {
            continue;
        };
        let definition = definitions.and_then(|definitions| definitions.get(property_name));
        event.value = definition
            .filter(|_| text != REDACTED)
            .map(|definition| value(Some(definition), text));
    }
}

/// What an event says of a changed property.
struct Change<'e> {
    value: Option<&'e str>,
    is_sensitive: bool,
}

fn changes(events: &[Event]) -> impl Iterator<Item = (&str, Change<'_>)> {
    events.iter().filter_map(|event| match &event.body {
        EventBody::Object(ObjectEvent {
            change:
                ObjectChange::PropertyChanged {
                    property_name,
                    property_value,
                    is_sensitive,
                },
            ..
        }) => Some((
            property_name.as_str(),
            Change {
                value: property_value.as_deref(),
                is_sensitive: *is_sensitive,
            },
        )),
        _ => None,
    })
}

/// The readable name of the type whose ids a property holds. Owners have a place of their own in messages.
fn reference(definition: &PropertyDefinition) -> Option<String> {
    let name = definition.referenced_object_type.as_deref()?;
    let is_owner = definition.references_owners();
    (!is_owner).then(|| ObjectTypeId::from_name(name).name().to_owned())
}

/// One value, typed.
///
/// A JSON number with HubSpot's own digits, a boolean, `2026-11-23` for a `date`, RFC 3339 with milliseconds
/// in UTC for a `datetime`, a list for a multiple selection, the value itself for `json`, else the text as it came. Ids
/// of other records and of owners are text, whatever their type. An empty text is [`PropertyValue::Null`].
#[must_use]
pub fn value(definition: Option<&PropertyDefinition>, text: &str) -> PropertyValue {
    if text.is_empty() {
        return PropertyValue::Null;
    }
    match definition.map_or(Kind::Text, kind) {
        Kind::Number => PropertyValue::number(text),
        Kind::Bool => bool_value(text),
        Kind::Date => PropertyValue::Text(date(text).unwrap_or_else(|| text.to_owned())),
        Kind::DateTime => PropertyValue::Text(date_time(text)),
        Kind::MultipleSelection => PropertyValue::List(selected(text).map(str::to_owned).collect()),
        Kind::Json => PropertyValue::json(text),
        Kind::Text => PropertyValue::Text(text.to_owned()),
    }
}

/// Whether a notification's value and an API reply's mean the same.
///
/// Empty, `null` and absent are the same. A `REDACTED` notification tells nothing, and so contradicts nothing.
/// Numbers compare by size (`12.50` is `12.5`), times by instant, multiple selections regardless of order.
/// Without a definition, epoch milliseconds still equal the time they stand for.
#[must_use]
pub fn same_value(
    definition: Option<&PropertyDefinition>,
    webhook_value: Option<&str>,
    api_value: Option<&str>,
) -> bool {
    let (webhook, api) = (webhook_value.unwrap_or(""), api_value.unwrap_or(""));
    if webhook == api || webhook == REDACTED || api == REDACTED {
        return true;
    }
    if webhook.is_empty() || api.is_empty() {
        return false;
    }
    match definition.map(kind) {
        Some(Kind::Number) => same_number(webhook, api),
        Some(Kind::Date) => same_some(date(webhook), date(api)),
        Some(Kind::MultipleSelection) => {
            selected(webhook).collect::<BTreeSet<_>>() == selected(api).collect::<BTreeSet<_>>()
        }
        Some(Kind::Bool) => false,
        Some(Kind::DateTime | Kind::Json | Kind::Text) | None => {
            same_some(instant(webhook), instant(api))
        }
    }
}

/// What a property's type makes of its texts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Bool,
    Date,
    DateTime,
    MultipleSelection,
    Json,
    Text,
}

fn kind(definition: &PropertyDefinition) -> Kind {
    let references = definition.referenced_object_type.is_some();
    match (
        definition.value_type.as_str(),
        definition.field_type.as_str(),
    ) {
        ("number", _) if references => Kind::Text,
        ("number", _) => Kind::Number,
        ("bool", _) => Kind::Bool,
        ("date", _) => Kind::Date,
        ("datetime", _) => Kind::DateTime,
        ("enumeration", "checkbox") => Kind::MultipleSelection,
        ("json", _) => Kind::Json,
        _ => Kind::Text,
    }
}

fn bool_value(text: &str) -> PropertyValue {
    match text {
        "true" => PropertyValue::Bool(true),
        "false" => PropertyValue::Bool(false),
        other => PropertyValue::Text(other.to_owned()),
    }
}

fn date_time(text: &str) -> String {
    instant(text).map_or_else(|| text.to_owned(), |instant| instant.to_string())
}

/// The day that `text` names: `2026-11-23`, or the instant of its midnight in UTC, in any form.
fn date(text: &str) -> Option<String> {
    if text.len() == DATE_BYTES && text.parse::<jiff::civil::Date>().is_ok() {
        return Some(text.to_owned());
    }
    let midnight = instant(text).filter(|instant| instant.as_i64().rem_euclid(DAY_MS) == 0)?;
    let mut text = midnight.to_string();
    text.truncate(DATE_BYTES);
    Some(text)
}

/// The instant that `text` names, as epoch milliseconds or in RFC 3339.
fn instant(text: &str) -> Option<Millis> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Millis::new(text.parse().ok()?);
    }
    Millis::parse(text)
}

/// The selected values; HubSpot may write a separator before the first.
fn selected(text: &str) -> impl Iterator<Item = &str> {
    text.split(';').filter(|value| !value.is_empty())
}

fn label(definition: &PropertyDefinition, value: &PropertyValue) -> Option<PropertyValue> {
    if definition.value_type != "enumeration" || definition.options.is_empty() {
        return None;
    }
    let of = |value: &String| definition.options.get(value).unwrap_or(value).clone();
    match value {
        PropertyValue::Text(value) => Some(PropertyValue::Text(of(value))),
        PropertyValue::List(values) => Some(PropertyValue::List(values.iter().map(of).collect())),
        PropertyValue::Null
        | PropertyValue::Bool(_)
        | PropertyValue::Number(_)
        | PropertyValue::Json(_) => None,
    }
}

fn same_some<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.is_some() && one == other
}

fn same_number(one: &str, other: &str) -> bool {
    match (plain_decimal(one), plain_decimal(other)) {
        (Some(one), Some(other)) => one == other,
        // With an exponent (`1.0E7`), as far as a float can tell.
        _ => same_some(finite(one), finite(other)),
    }
}

/// Sign, whole part and fraction, without zeros that say nothing; `None` when there is more to it.
fn plain_decimal(text: &str) -> Option<(bool, Cow<'_, str>, Cow<'_, str>)> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let (whole, fraction) = (
        whole.trim_start_matches('0'),
        fraction.trim_end_matches('0'),
    );
    let is_zero = whole.is_empty() && fraction.is_empty();
    Some((negative && !is_zero, whole.into(), fraction.into()))
}

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn definition(value_type: &str, field_type: &str) -> PropertyDefinition {
        PropertyDefinition {
            name: "it".into(),
            value_type: value_type.into(),
            field_type: field_type.into(),
            ..PropertyDefinition::default()
        }
    }

    fn with_options(field_type: &str) -> PropertyDefinition {
        let pair = |value: &str, label: &str| (value.to_owned(), label.to_owned());
        PropertyDefinition {
            options: [pair("a", "Apple"), pair("b", "Bean")].into(),
            ..definition("enumeration", field_type)
        }
    }

    fn text(text: &str) -> PropertyValue {
        PropertyValue::Text(text.to_owned())
    }

    fn list(values: &[&str]) -> PropertyValue {
        PropertyValue::List(values.iter().map(|&value| value.to_owned()).collect())
    }

    fn typed(value_type: &str, field_type: &str, text: &str) -> PropertyValue {
        value(Some(&definition(value_type, field_type)), text)
    }

    #[test]
    fn numbers_and_booleans_are_typed_and_the_rest_of_them_stays_text() {
        assert_eq!(
            typed("number", "number", "12.50"),
            PropertyValue::Number("12.50".into())
        );
        assert_eq!(typed("number", "number", "n/a"), text("n/a"));
        assert_eq!(
            typed("bool", "booleancheckbox", "true"),
            PropertyValue::Bool(true)
        );
        assert_eq!(
            typed("bool", "booleancheckbox", "false"),
            PropertyValue::Bool(false)
        );
        assert_eq!(typed("bool", "booleancheckbox", "maybe"), text("maybe"));
    }

    #[test]
    fn a_date_is_a_day_however_it_was_written() {
        for written in [
            "2026-11-23",
            "1795392000000",
            "2026-11-23T00:00:00Z",
            "2026-11-23T01:00:00.000+01:00",
        ] {
            assert_eq!(
                typed("date", "date", written),
                text("2026-11-23"),
                "{written}"
            );
        }
        assert_eq!(typed("date", "date", "-86400000"), text("1969-12-31"));
        for no_day in [
            "2026-13-01",
            "20261123",
            "1795392000001",
            "2026-11-23T10:00:00Z",
            "soon",
            "-",
            "99999999999999999999",
        ] {
            assert_eq!(typed("date", "date", no_day), text(no_day));
        }
    }

    #[test]
    fn a_datetime_is_rfc_3339_in_utc_whatever_its_field_type() {
        for written in [
            "2026-11-23T10:00:00.123Z",
            "1795428000123",
            "2026-11-23T11:00:00.123456+01:00",
        ] {
            assert_eq!(
                typed("datetime", "date", written),
                text("2026-11-23T10:00:00.123Z"),
                "{written}"
            );
        }
        for no_time in ["tomorrow", "2026-11-23", "2026-11-23T25:00:00Z"] {
            assert_eq!(typed("datetime", "date", no_time), text(no_time));
        }
    }

    #[test]
    fn a_multiple_selection_is_a_list_without_empties() {
        assert_eq!(
            typed("enumeration", "checkbox", ";a;;b c;"),
            list(&["a", "b c"])
        );
        assert_eq!(typed("enumeration", "checkbox", "a"), list(&["a"]));
        assert_eq!(typed("enumeration", "select", "a;b"), text("a;b"));
    }

    #[test]
    fn what_is_unknown_is_text_and_empty_is_null() {
        assert_eq!(value(None, "12"), text("12"));
        assert_eq!(typed("hologram", "beam", "12"), text("12"));
        assert_eq!(
            typed("phone_number", "phonenumber", "+49 30"),
            text("+49 30")
        );
        assert_eq!(typed("number", "number", ""), PropertyValue::Null);
    }

    #[test]
    fn a_record_is_typed_and_labelled_by_its_definitions() {
        let named = |name: &str, definition| PropertyDefinition {
            name: name.into(),
            ..definition
        };
        let definitions: Definitions = [
            named("many", with_options("checkbox")),
            named("one", with_options("select")),
            named("gone", with_options("radio")),
            named("owner", definition("enumeration", "select")),
            named("size", definition("number", "number")),
        ]
        .into_iter()
        .map(Arc::new)
        .collect();
        let values = [
            ("many", "b;x;a"),
            ("one", "a"),
            ("gone", "z"),
            ("owner", "77"),
            ("size", "3"),
            ("new", "n"),
        ];
        let read = RecordRead {
            id: "1".into(),
            properties: values
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            history: BTreeMap::new(),
            created_at: Millis::new(1),
            updated_at: Millis::new(2),
            archived: true,
        };
        let record_of = |definitions| record(&read, definitions, &[]);

        let typed = record_of(Some(&definitions));
        assert_eq!(typed.properties["many"], list(&["b", "x", "a"]));
        assert_eq!(typed.properties["size"], PropertyValue::Number("3".into()));
        assert_eq!(typed.properties["new"], text("n"));
        let labels = [
            ("gone", text("z")),
            ("many", list(&["Bean", "x", "Apple"])),
            ("one", text("Apple")),
        ];
        assert_eq!(
            typed.labels,
            labels.map(|(name, label)| (name.to_owned(), label)).into()
        );
        assert_eq!(
            (typed.created_at, typed.updated_at, typed.archived),
            (Millis::new(1), Millis::new(2), true)
        );

        let untyped = record_of(None);
        assert!(untyped.labels.is_empty());
        assert_eq!(untyped.properties["size"], text("3"));
        assert_eq!(definitions.iter().count(), 5);
        assert!(definitions.get("new").is_none());
    }

    #[test]
    fn the_same_value_is_known_in_both_dialects() {
        let same = |value_type: &str, field_type: &str, webhook: &str, api: &str| {
            same_value(
                Some(&definition(value_type, field_type)),
                Some(webhook),
                Some(api),
            )
        };
        assert!(same("date", "date", "1795392000000", "2026-11-23"));
        assert!(!same("date", "date", "1795392000000", "2026-11-24"));
        assert!(!same("date", "date", "soon", "later"));
        assert!(same(
            "datetime",
            "date",
            "1795428000123",
            "2026-11-23T10:00:00.123Z"
        ));
        assert!(!same(
            "datetime",
            "date",
            "1795428000124",
            "2026-11-23T10:00:00.123Z"
        ));
        assert!(same("number", "number", "12.50", "12.5"));
        assert!(same("number", "number", "007", "7.0"));
        assert!(same("number", "number", "-0", "0"));
        assert!(same("number", "number", "1.0E7", "10000000"));
        assert!(!same(
            "number",
            "number",
            "9007199254740993",
            "9007199254740992"
        ));
        assert!(!same("number", "number", "-1", "1"));
        assert!(!same("number", "number", "NaN", "n/a"));
        assert!(same("enumeration", "checkbox", ";a;b", "b;a"));
        assert!(!same("enumeration", "checkbox", "a", "a;b"));
        assert!(!same("enumeration", "select", "a;b", "b;a"));
        assert!(!same("bool", "booleancheckbox", "true", "false"));
        assert!(!same("string", "text", "a", "A"));
    }

    #[test]
    fn values_compare_without_a_definition_and_without_a_value() {
        assert!(same_value(None, Some(""), None));
        assert!(same_value(None, None, None));
        assert!(!same_value(None, Some("a"), None));
        assert!(!same_value(None, None, Some("a")));
        assert!(same_value(None, Some("REDACTED"), Some("anything")));
        assert!(same_value(None, Some("REDACTED"), None));
        assert!(same_value(
            None,
            Some("1795428000000"),
            Some("2026-11-23T10:00:00Z")
        ));
        assert!(!same_value(None, Some("1"), Some("2")));
        assert!(!same_value(None, Some("a"), Some("b")));
    }

    proptest! {
        #[test]
        fn no_text_makes_typing_panic_and_each_equals_itself(text in ".{0,40}|-?[0-9]{0,25}", kind in 0..6usize) {
            let (value_type, field_type) = [
                ("number", "number"), ("bool", "booleancheckbox"), ("date", "date"),
                ("datetime", "date"), ("enumeration", "checkbox"), ("string", "text"),
            ][kind];
            let definition = definition(value_type, field_type);
            let _ = value(Some(&definition), &text);
            prop_assert!(same_value(Some(&definition), Some(&text), Some(&text)));
        }

        #[test]
        fn a_typed_time_means_the_same_as_its_milliseconds(ms in -60_000_000_000_000..250_000_000_000_000_i64) {
            let definition = definition("datetime", "date");
            let millis = ms.to_string();
            let PropertyValue::Text(iso) = value(Some(&definition), &millis) else {
                panic!("a time is text")
            };
            prop_assert!(same_value(Some(&definition), Some(&millis), Some(&iso)));
        }
    }
}
