//! Routing keys and the patterns that match them, by AMQP's rules for topic exchanges.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Event, ObjectTypeId, PortalId};

/// `<portal>.<object_type>.<kind>[.<detail>]`, at most [`RoutingKey::MAX_BYTES`] long.
///
/// Each part is one word of AMQP's: whatever is not a letter, a digit, `_` or `-` becomes `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoutingKey(String);

impl RoutingKey {
    /// AMQP's limit on a routing key, a short string.
    pub const MAX_BYTES: usize = 255;

    /// Joins the parts. What goes over [`Self::MAX_BYTES`] is cut off at the end.
    #[must_use]
    pub fn new(portal_id: &PortalId, object_type: &str, kind: &str, detail: Option<&str>) -> Self {
        let mut key = String::with_capacity(64);
        for part in [
            Some(portal_id.as_str()),
            Some(object_type),
            Some(kind),
            detail,
        ]
        .into_iter()
        .flatten()
        {
            if !key.is_empty() {
                key.push('.');
            }
            key.extend(part.chars().map(|c| match c {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => c,
                _ => '_',
            }));
        }
        key.truncate(Self::MAX_BYTES);
        Self(key)
    }

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoutingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A binding pattern of AMQP's topic exchanges: words separated by dots, where `*` stands for exactly
/// one word and `#` for any number of words, none included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyPattern(Vec<Box<str>>);

/// Why a text is no [`KeyPattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyPatternError {
    /// Nothing between two dots, or nothing at all.
    #[error(
        "it has an empty word; write a name, `*` for one word or `#` for any number of words between the dots"
    )]
    EmptyWord,
    /// `con*` is a literal to AMQP, never a prefix match.
    #[error("`{0}` mixes a wildcard with text; `*` and `#` stand for whole words")]
    PartialWildcard(String),
    /// Longer than a routing key can be.
    #[error(
        "it is longer than {} bytes, so no routing key can match it",
        RoutingKey::MAX_BYTES
    )]
    TooLong,
}

impl KeyPattern {
    /// Whether `key` matches.
    #[must_use]
    pub fn matches(&self, key: &RoutingKey) -> bool {
        let words: Vec<Option<&str>> = key.0.split('.').map(Some).collect();
        matches(&self.0, &words)
    }

    /// Whether some key of the object type of this [name](ObjectTypeId::name) matches.
    #[must_use]
    pub fn may_match_type(&self, type_name: &str) -> bool {
        let key = [None, Some(type_name), None, None];
        matches(&self.0, &key) || matches(&self.0, &key[..3])
    }

    /// The words that are names of custom objects: `p_car`, `p8241_car`.
    pub fn custom_names(&self) -> impl Iterator<Item = &str> {
        let words = self.0.iter().map(|word| &**word);
        words.filter(|word| ObjectTypeId::from_name(word).custom_name().is_some())
    }

    /// The same pattern with object types as keys have them: `*.contacts.#` and `*.0-1.#` become `*.contact.#`.
    ///
    /// A word stands for a type where keys have one: the second word, the one before a kind of change and the one after
    /// an association's. After a `#` at the beginning only the last two are known.
    #[must_use]
    pub fn with_type_names(&self) -> Self {
        let word = |place: usize| self.0.get(place).map(|word| &**word);
        let is_type = |place: usize| {
            let before = place.checked_sub(1).and_then(word);
            (place == 1 && before != Some("#"))
                || word(place + 1).is_some_and(|next| Event::KINDS.contains(&next))
                || before.is_some_and(|kind| kind.starts_with("association_"))
        };
        let words = self.0.iter().enumerate();
        let named = words.map(|(place, word)| match is_type(place) {
            true => ObjectTypeId::from_name(word).name().into(),
            false => word.clone(),
        });
        Self(named.collect())
    }
}

/// Linear in pattern × key: `reached[i]` tells whether the pattern so far can end before word `i`. A word that is
/// not known may be any.
fn matches(pattern: &[Box<str>], words: &[Option<&str>]) -> bool {
    let mut reached = vec![false; words.len() + 1];
    reached[0] = true;
    for part in pattern {
        if &**part == "#" {
            let first = reached.iter().position(|&r| r).unwrap_or(reached.len());
            reached[first..].fill(true);
        } else {
            for i in (0..words.len()).rev() {
                let fits = |word: &str| &**part == "*" || &**part == word;
                reached[i + 1] = reached[i] && words[i].is_none_or(fits);
            }
            reached[0] = false;
        }
    }
    reached[words.len()]
}

impl FromStr for KeyPattern {
    type Err = KeyPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > RoutingKey::MAX_BYTES {
            return Err(KeyPatternError::TooLong);
        }
        text.split('.')
            .map(|word| match word {
                "" => Err(KeyPatternError::EmptyWord),
                "*" | "#" => Ok(word.into()),
                _ if word.contains(['*', '#']) => {
                    Err(KeyPatternError::PartialWildcard(word.to_owned()))
                }
                _ => Ok(word.into()),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl TryFrom<String> for KeyPattern {
    type Error = KeyPatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<KeyPattern> for String {
    fn from(pattern: KeyPattern) -> Self {
        pattern.0.join(".")
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(detail: Option<&str>) -> RoutingKey {
        RoutingKey::new(&"8241".into(), "contact", "property_changed", detail)
    }

    #[test]
    fn parts_are_single_words() {
        assert_eq!(
            key(Some("a.b c")).as_str(),
            "8241.contact.property_changed.a_b_c"
        );
        assert_eq!(key(None).as_str(), "8241.contact.property_changed");
        assert_eq!(
            key(Some(&"x".repeat(400))).as_str().len(),
            RoutingKey::MAX_BYTES
        );
    }

    #[test]
    fn patterns_match_by_amqps_rules() {
        for (pattern, expected) in [
            ("#", true),
            ("*.contact.#", true),
            ("8241.contact.property_changed.email", true),
            ("8241.contact.property_changed.email.#", true),
            ("#.email", true),
            ("#.contact.#.email.#", true),
            ("*.*.*.*", true),
            ("*.*.*", false),
            ("*.*.*.*.*", false),
            ("8241", false),
            ("*.deal.#", false),
            ("#.phone", false),
            ("#.#", true),
        ] {
            let pattern: KeyPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&key(Some("email"))), expected, "{pattern}");
        }
    }

    #[test]
    fn a_type_may_be_named_by_plural_and_id_where_a_key_has_one() {
        for (pattern, expected) in [
            ("*.contacts.#", "*.contact.#"),
            ("8241.0-1.#", "8241.contact.#"),
            ("*.2-1234567.#", "*.2-1234567.#"),
            (
                "*.DEALS.property_changed.deals",
                "*.deal.property_changed.deals",
            ),
            (
                "*.0-3.association_added.companies",
                "*.deal.association_added.company",
            ),
            ("#.tickets.created", "#.ticket.created"),
            ("#.contacts", "#.contacts"),
            ("*.*.property_changed.emails", "*.*.property_changed.emails"),
            ("#", "#"),
        ] {
            let pattern: KeyPattern = pattern.parse().unwrap();
            assert_eq!(pattern.with_type_names().to_string(), expected, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_knows_the_types_it_can_match() {
        for (pattern, contact, deal) in [
            ("#", true, true),
            ("*.contact.#", true, false),
            ("#.deal.#", true, true),
            ("*.deal.created", false, true),
            ("#.email", true, true),
            ("8241", false, false),
            ("*.*.property_changed.amount", true, true),
        ] {
            let pattern: KeyPattern = pattern.parse().unwrap();
            assert_eq!(pattern.may_match_type("contact"), contact, "{pattern}");
            assert_eq!(pattern.may_match_type("deal"), deal, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_amqp_would_take_literally_is_refused() {
        assert_eq!(
            "a..b".parse::<KeyPattern>(),
            Err(KeyPatternError::EmptyWord)
        );
        assert_eq!("".parse::<KeyPattern>(), Err(KeyPatternError::EmptyWord));
        assert_eq!(
            "con*.#".parse::<KeyPattern>(),
            Err(KeyPatternError::PartialWildcard("con*".into()))
        );
    }
}
