//! What changed properties held before, from HubSpot's property history.

use std::collections::BTreeMap;

use crate::event::{Event, EventBody, Millis, ObjectChange, ObjectEvent, PropertyValue};
use crate::hubspot::call::{PastValue, RecordRead};

use super::typed::{self, Definitions};

/// A history of fewer values is taken to be whole: before it there was no value. HubSpot drops the oldest ones, but its
/// specification does not say how many it keeps, and nothing in a history says that it was cut. 20 is the least that
/// is heard of.
pub const HISTORY_KEPT_MIN: usize = 20;

/// The values that the properties which `events` changed had before, by name: of each the newest value from before
/// the first of these changes, `null` when it was empty or never set.
///
/// Left out is what cannot be told: HubSpot sent no history of the property, or one that may have been cut after
/// the first of the changes.
pub fn previous_values(
    record: &RecordRead,
    events: &[Event],
    definitions: Option<&Definitions>,
) -> BTreeMap<String, PropertyValue> {
    first_changes(events)
        .into_iter()
        .filter_map(|(name, first)| {
            let definition = definitions.and_then(|definitions| definitions.get(name));
            let is_new =
                |past: &PastValue| typed::same_value(definition, first.value, Some(&past.text));
            let text = before(record.history.get(name)?, first.at, is_new)?;
            Some((name.to_owned(), typed::value(definition, text)))
        })
        .collect()
}

/// The first change of a property.
struct FirstChange<'e> {
    at: Millis,
    value: Option<&'e str>,
}

/// The value that held before the change at `at`, from `history` with the newest first.
fn before(history: &[PastValue], at: Millis, is_new: impl Fn(&PastValue) -> bool) -> Option<&str> {
    let older_than = |at: Millis| history.iter().position(|past| past.since < at);
    let is_dated_alike = history.iter().any(|past| past.since == at);
    let found = match older_than(at) {
        // HubSpot dates a value and the notification of it alike. Should it date the value earlier, it is not what
        // was before itself.
        Some(older) if !is_dated_alike && is_new(&history[older]) => history.get(older + 1),
        Some(older) => history.get(older),
        None => None,
    };
    match found {
        Some(past) => Some(&past.text),
        None if history.is_empty() || history.len() >= HISTORY_KEPT_MIN => None,
        None => Some(""),
    }
}

fn first_changes(events: &[Event]) -> BTreeMap<&str, FirstChange<'_>> {
    let mut first: BTreeMap<&str, FirstChange<'_>> = BTreeMap::new();
    for event in events {
        let EventBody::Object(ObjectEvent {
            change:
                ObjectChange::PropertyChanged {
                    property_name,
                    property_value,
                    ..
                },
            ..
        }) = &event.body
        else {
            continue;
        };
        let at = event.occurred_at;
        if first
            .get(&**property_name)
            .is_none_or(|first| at < first.at)
        {
            let value = property_value.as_deref();
            first.insert(property_name, FirstChange { at, value });
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    /// A history, the newest first, as (when, text).
    fn history(values: &[(i64, &str)]) -> Vec<PastValue> {
        let past = |&(since, text): &(i64, &str)| PastValue {
            text: text.to_owned(),
            since: at(since),
        };
        values.iter().map(past).collect()
    }

    fn previous<'h>(history: &'h [PastValue], at_ms: i64, new: &str) -> Option<&'h str> {
        before(history, at(at_ms), |past| past.text == new)
    }

    #[test]
    fn what_was_before_is_the_newest_older_value() {
        let stages = history(&[(30, "won"), (20, "offer"), (10, "new")]);
        assert_eq!(previous(&stages, 30, "won"), Some("offer"));
        assert_eq!(
            previous(&stages, 20, "offer"),
            Some("new"),
            "whatever came after"
        );
        assert_eq!(previous(&stages, 10, "new"), Some(""), "it was never set");
    }

    #[test]
    fn a_cleared_value_counts_and_so_does_one_that_comes_back() {
        let flips = history(&[(30, "a"), (20, ""), (10, "a")]);
        assert_eq!(previous(&flips, 30, "a"), Some(""));
        assert_eq!(previous(&flips, 20, ""), Some("a"));
    }

    #[test]
    fn a_value_that_is_dated_before_its_notification_is_not_before_itself() {
        let late = history(&[(30, "won"), (20, "offer")]);
        assert_eq!(previous(&late, 31, "won"), Some("offer"));
        assert_eq!(previous(&late[1..], 21, "offer"), Some(""));
    }

    #[test]
    fn of_changes_at_one_millisecond_what_was_before_them_all_is_told() {
        let burst = history(&[(30, "c"), (30, "b"), (10, "a")]);
        assert_eq!(previous(&burst, 30, "b"), Some("a"));
        assert_eq!(previous(&burst, 30, "c"), Some("a"));
    }

    #[test]
    fn a_read_that_is_older_than_the_change_tells_what_was_before_it() {
        let stale = history(&[(20, "offer"), (10, "new")]);
        assert_eq!(previous(&stale, 30, "won"), Some("offer"));
    }

    #[test]
    fn what_a_cut_or_absent_history_does_not_tell_is_not_guessed_at() {
        let kept: Vec<(i64, &str)> = (0..20).map(|n| (100 - n, "x")).collect();
        assert_eq!(previous(&history(&kept), 81, "x"), None);
        assert_eq!(previous(&history(&kept[1..]), 81, "x"), Some(""));
        assert_eq!(previous(&[], 30, "x"), None);
    }
}
