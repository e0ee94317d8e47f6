//! One element of the JSON array that HubSpot posts, as it stands on the wire.
//!
//! Tolerant on purpose: every field may be absent or `null`, ids come as numbers or as strings, the type is called
//! `subscriptionType` on the wire and `eventType` in HubSpot's reference, and fields we do not know are
//! passed over. What a type needs is for [`crate::normalize`] to say.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::value::RawValue;

/// A notification. Ids are text in HubSpot's own digits; empty text counts as absent.
///
/// It has no `Debug`, since it holds people's data.
///
/// # Source
/// HubSpot, "Webhooks API", the fields of a notification, and public captures where the two differ.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Notification<'a> {
    /// HubSpot's number for it, "not guaranteed to be unique".
    #[serde(borrow, deserialize_with = "text")]
    pub event_id: Option<Cow<'a, str>>,
    /// The subscription that matched.
    #[serde(borrow, deserialize_with = "text")]
    pub subscription_id: Option<Cow<'a, str>>,
    /// The account.
    #[serde(borrow, deserialize_with = "text")]
    pub portal_id: Option<Cow<'a, str>>,
    /// The app whose subscription matched.
    #[serde(borrow, deserialize_with = "text")]
    pub app_id: Option<Cow<'a, str>>,
    /// Milliseconds since the Unix epoch.
    #[serde(borrow, deserialize_with = "text")]
    pub occurred_at: Option<Cow<'a, str>>,
    /// `contact.creation`, `object.propertyChange`, … See [`Self::type_name`].
    #[serde(borrow, deserialize_with = "text")]
    pub subscription_type: Option<Cow<'a, str>>,
    /// What HubSpot's reference calls `subscriptionType`.
    #[serde(borrow, deserialize_with = "text")]
    pub event_type: Option<Cow<'a, str>>,
    /// 0 at the first attempt.
    #[serde(borrow, deserialize_with = "text")]
    pub attempt_number: Option<Cow<'a, str>>,
    /// The record, or the thread of a `conversation.*`. Absent on `*.associationChange`.
    #[serde(borrow, deserialize_with = "text")]
    pub object_id: Option<Cow<'a, str>>,
    /// `0-1`; the generic `object.*` family only.
    #[serde(borrow, deserialize_with = "text")]
    pub object_type_id: Option<Cow<'a, str>>,
    /// `CRM_UI`, `IMPORT`, … an open set.
    #[serde(borrow, deserialize_with = "text")]
    pub change_source: Option<Cow<'a, str>>,
    /// `userId:123`, an app's id or an internal name.
    #[serde(borrow, deserialize_with = "text")]
    pub source_id: Option<Cow<'a, str>>,
    /// `CREATED`, `DELETED`, `NEW_MESSAGE`, and `NEW` from the Test button.
    #[serde(borrow, deserialize_with = "text")]
    pub change_flag: Option<Cow<'a, str>>,
    /// Internal name.
    #[serde(borrow, deserialize_with = "text")]
    pub property_name: Option<Cow<'a, str>>,
    /// Any JSON value. See [`Self::property_value_text`].
    #[serde(borrow)]
    pub property_value: Option<&'a RawValue>,
    /// Whether the value was replaced by `REDACTED`.
    pub is_sensitive: Option<bool>,
    /// A message of a thread.
    #[serde(borrow, deserialize_with = "text")]
    pub message_id: Option<Cow<'a, str>>,
    /// `MESSAGE`, `COMMENT`, `WELCOME_MESSAGE`, … an open set.
    #[serde(borrow, deserialize_with = "text")]
    pub message_type: Option<Cow<'a, str>>,
    /// The merge's winner as the user chose it.
    #[serde(borrow, deserialize_with = "text")]
    pub primary_object_id: Option<Cow<'a, str>>,
    /// The records merged into the winner.
    #[serde(borrow)]
    pub merged_object_ids: Option<Vec<Text<'a>>>,
    /// The record that the merge made, if it made one.
    #[serde(borrow, deserialize_with = "text")]
    pub new_object_id: Option<Cow<'a, str>>,
    /// How many properties the merge carried over.
    #[serde(borrow, deserialize_with = "text")]
    pub number_of_properties_moved: Option<Cow<'a, str>>,
    /// `CONTACT_TO_COMPANY`, … an open set.
    #[serde(borrow, deserialize_with = "text")]
    pub association_type: Option<Cow<'a, str>>,
    /// `HUBSPOT_DEFINED`, …
    #[serde(borrow, deserialize_with = "text")]
    pub association_category: Option<Cow<'a, str>>,
    /// The type id within its category, in the direction from → to.
    #[serde(borrow, deserialize_with = "text")]
    pub association_type_id: Option<Cow<'a, str>>,
    /// The record the edge starts from.
    #[serde(borrow, deserialize_with = "text")]
    pub from_object_id: Option<Cow<'a, str>>,
    /// Its type; the generic family only.
    #[serde(borrow, deserialize_with = "text")]
    pub from_object_type_id: Option<Cow<'a, str>>,
    /// The record the edge leads to.
    #[serde(borrow, deserialize_with = "text")]
    pub to_object_id: Option<Cow<'a, str>>,
    /// Its type; the generic family only.
    #[serde(borrow, deserialize_with = "text")]
    pub to_object_type_id: Option<Cow<'a, str>>,
    /// `true`: the edge is gone.
    pub association_removed: Option<bool>,
    /// Whether it is about the primary edge.
    pub is_primary_association: Option<bool>,
}

/// A text, or a whole number in its own digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'a> Notification<'a> {
    /// Reads one element of the array.
    ///
    /// # Errors
    /// When it is no JSON object, or a field has a type that it never has. The error's text may quote
    /// values: show its category and place, never itself.
    pub fn from_json(element: &'a str) -> Result<Self, serde_json::Error> {
        if !element.trim_start().starts_with('{') {
            // A derived struct would read an array too, by position.
            return Err(de::Error::custom("expected an object"));
        }
        serde_json::from_str(element)
    }

    /// The type: `subscriptionType`, else `eventType`.
    #[must_use]
    pub fn type_name(&self) -> Option<&str> {
        self.subscription_type
            .as_deref()
            .or(self.event_type.as_deref())
    }

    /// The property's value as text; `None` when absent or `null`.
    ///
    /// A string gives its content, anything else its JSON, digit for digit. HubSpot cuts long texts by UTF-16
    /// units, so half of a pair may end a string: it becomes U+FFFD instead of an error.
    #[must_use]
    pub fn property_value_text(&self) -> Option<Cow<'a, str>> {
        let json = self.property_value?.get();
        let text = serde_json::from_str::<LossyString<'a>>(json);
        Some(text.map_or(Cow::Borrowed(json), |text| text.0))
    }
}

/// Reads a text or a whole number; `null` and `""` are `None`.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    let text = Option::<Text<'de>>::deserialize(deserializer)?;
    Ok(text.map(|text| text.0).filter(|text| !text.is_empty()))
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

/// Above this a JSON number read as a float may have lost its last digits.
const EXACT_FLOAT_MAX: f64 = 9_007_199_254_740_992.0;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a whole number")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(number.to_string()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        if number.fract() == 0.0 && number.abs() <= EXACT_FLOAT_MAX {
            Ok(Cow::Owned(format!("{number:.0}")))
        } else {
            Err(E::custom("expected a whole number"))
        }
    }
}

/// A JSON string whose unpaired surrogates are replaced.
struct LossyString<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for LossyString<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `serde_json` lets unpaired surrogates through when it is asked for bytes.
        deserializer.deserialize_bytes(LossyVisitor).map(Self)
    }
}

struct LossyVisitor;

impl<'de> Visitor<'de> for LossyVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(String::from_utf8_lossy(bytes))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(String::from_utf8_lossy(bytes).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Notification<'_> {
        Notification::from_json(json).unwrap()
    }

    #[test]
    fn an_id_is_the_same_as_number_and_as_string() {
        for json in [
            r#"{"objectId":347160000001}"#,
            r#"{"objectId":"347160000001"}"#,
            r#"{"objectId":347160000001.0}"#,
        ] {
            assert_eq!(read(json).object_id.as_deref(), Some("347160000001"));
        }
        assert_eq!(
            read(r#"{"objectId":18446744073709551615}"#)
                .object_id
                .as_deref(),
            Some("18446744073709551615")
        );
    }

    #[test]
    fn absent_null_and_empty_ids_are_none() {
        for json in ["{}", r#"{"objectId":null}"#, r#"{"objectId":""}"#] {
            assert_eq!(read(json).object_id, None);
        }
    }

    #[test]
    fn an_id_that_is_neither_text_nor_a_whole_number_is_refused() {
        for json in [
            r#"{"objectId":1.5}"#,
            r#"{"objectId":18446744073709551616}"#,
            r#"{"objectId":true}"#,
            r#"{"objectId":{}}"#,
        ] {
            assert!(Notification::from_json(json).is_err(), "{json}");
        }
    }

    #[test]
    fn only_an_object_is_a_notification() {
        for json in ["[]", "[1,2]", "1", "null", "\"{}\"", "", "{"] {
            assert!(Notification::from_json(json).is_err(), "{json}");
        }
    }

    #[test]
    fn the_type_is_read_by_either_name_and_the_wire_name_wins() {
        assert_eq!(read(r#"{"eventType":"a.b"}"#).type_name(), Some("a.b"));
        let both = read(r#"{"eventType":"a.b","subscriptionType":"c.d"}"#);
        assert_eq!(both.type_name(), Some("c.d"));
        assert_eq!(read("{}").type_name(), None);
    }

    #[test]
    fn a_property_value_of_any_json_type_becomes_text() {
        for (json, text) in [
            (r#""a\u00eb\/""#, Some("aë/")),
            (r#""""#, Some("")),
            ("1.0", Some("1.0")),
            ("12345678901234567890.10", Some("12345678901234567890.10")),
            ("true", Some("true")),
            ("null", None),
            ("[1, 2]", Some("[1, 2]")),
        ] {
            let element = format!(r#"{{"propertyValue":{json}}}"#);
            assert_eq!(read(&element).property_value_text().as_deref(), text);
        }
        assert_eq!(read("{}").property_value_text(), None);
    }

    #[test]
    fn half_of_a_surrogate_pair_does_not_make_a_value_unreadable() {
        let notification = read(r#"{"propertyValue":"cut \ud83d"}"#);
        let text = notification.property_value_text().unwrap();
        assert!(
            text.starts_with("cut ") && text.ends_with('\u{fffd}'),
            "{text}"
        );
    }
}
