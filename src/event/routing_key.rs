//! Routing keys and the patterns that match them, by AMQP's rules for topic exchanges.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::PortalId;

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
        let words: Vec<&str> = key.0.split('.').collect();
        matches(&self.0, &words)
    }
}

/// Linear in pattern × key: `reached[i]` tells whether the pattern so far can end before word `i`.
fn matches(pattern: &[Box<str>], words: &[&str]) -> bool {
    let mut reached = vec![false; words.len() + 1];
    reached[0] = true;
    for part in pattern {
        if &**part == "#" {
            let first = reached.iter().position(|&r| r).unwrap_or(reached.len());
            reached[first..].fill(true);
        } else {
            for i in (0..words.len()).rev() {
                reached[i + 1] = reached[i] && (&**part == "*" || &**part == words[i]);
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
