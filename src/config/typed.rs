//! From the tree to types: a serde deserializer that remembers which setting it was at, and never repeats a
//! secret's value in an error (serde's own messages would).

use std::collections::btree_map;
use std::fmt;
use std::vec;

use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer as _,
    MapAccess, SeqAccess, Unexpected, Visitor,
};

use super::load::{KeyError, KeyErrorKind};
use super::overlay;
use super::tree::{Node, Origin, Value};

/// Makes a `T` of `root`.
///
/// # Errors
/// The first setting that has the wrong form, is unknown or is missing.
pub(super) fn from_tree<T: DeserializeOwned>(root: Node) -> Result<T, KeyError> {
    let place = Place::of(&root);
    T::deserialize(root).map_err(|error| error.at(&place).into_key_error())
}

/// A serde error, and the setting it is about once that is known.
#[derive(Debug)]
pub(super) struct Error {
    what: What,
    place: Option<Box<Place>>,
}

#[derive(Debug)]
enum What {
    /// Another form was expected.
    Form { wants: String },
    /// The form was right, the content was not.
    Content(String),
    /// `name` is none of the `known` keys.
    UnknownKey {
        name: String,
        known: Vec<&'static str>,
    },
    /// A key that has no default.
    Missing(&'static str),
}

/// A setting, as an error describes it.
#[derive(Clone, Debug)]
struct Place {
    key: String,
    name: String,
    origin: Origin,
    form: String,
}

impl Place {
    fn of(node: &Node) -> Self {
        Self {
            key: node.key.clone(),
            name: node.name().to_owned(),
            origin: node.origin.clone(),
            form: node.form(),
        }
    }
}

impl Error {
    fn new(what: What) -> Self {
        Self { what, place: None }
    }

    /// The innermost setting counts.
    fn at(mut self, place: &Place) -> Self {
        self.place.get_or_insert_with(|| Box::new(place.clone()));
        self
    }

    fn into_key_error(self) -> KeyError {
        let place = *self.place.expect("the outermost caller gives a place");
        let form = form_of(&place.name);
        let kind = match self.what {
            What::Form { wants } => KeyErrorKind::Form {
                found: place.form,
                wants: form.map_or(wants, str::to_owned),
            },
            What::Content(message) => match form {
                Some(wants) => KeyErrorKind::Form {
                    found: place.form,
                    wants: wants.to_owned(),
                },
                None => KeyErrorKind::Other(message),
            },
            What::UnknownKey { name, known } => KeyErrorKind::Unknown { name, known },
            What::Missing(name) => KeyErrorKind::Missing {
                wants: form_of(name).map(str::to_owned),
                name,
            },
        };
        KeyError {
            key: place.key,
            origin: place.origin,
            kind,
        }
    }
}

/// The form a setting wants, in words, by the last part of its key; `None` where serde's own words do.
fn form_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "listen" => "an address with a port, such as 127.0.0.1:8080",
        "public_url" => "a URL, or a list of URLs",
        "client_secrets" => "a list of texts, each env:NAME, file:PATH or the secret itself",
        "access_token" | "refresh_token" | "token" => {
            "a text: env:NAME, file:PATH or the token itself"
        }
        "key" => "a text: env:NAME, file:PATH or the private key itself, in PEM",
        "keys" => "a list of texts, each env:NAME, file:PATH or the key itself",
        "url" => {
            "a text: env:NAME, file:PATH or the broker's URL, amqp://user:password@host:5672/vhost"
        }
        "publish_timeout" | "timeout" | "grace" | "delay" => {
            "a duration with its unit, such as 500ms, 3s or 1m"
        }
        "body_size_max" | "max_length_bytes" | "bytes_max" => {
            "a size, such as 8 MiB, or a number of bytes"
        }
        "partitions" => "a whole number from 1 to 1024",
        "prefetch" => "a whole number from 1 to 65535",
        "portals" => "a list of texts, each a portal's id, such as [\"8241\"]",
        "kind" => "`queue` or `ndjson`",
        "attachments" => "`metadata` or `signed_urls`",
        _ => return None,
    })
}

/// serde's words for what it expects, in ours.
fn wants(expected: &str) -> String {
    match expected {
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u64" | "usize" => "a whole number".to_owned(),
        "a string" | "path string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a map" => "a table".to_owned(),
        _ if expected.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting has the wrong form")
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Content(message.to_string()))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::Form {
            wants: wants(&expected.to_string()),
        })
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        let quoted: Vec<_> = expected.iter().map(|name| format!("`{name}`")).collect();
        Self::new(What::Form {
            wants: format!("one of {}", quoted.join(", ")),
        })
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey {
            name: field.to_owned(),
            known: expected.to_vec(),
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::Missing(field))
    }
}

impl Node {
    /// Hands the value over as it was written.
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Text(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(truth) => visitor.visit_bool(truth),
            Value::Datetime => Err(de::Error::invalid_type(
                Unexpected::Other("a date"),
                &visitor,
            )),
            Value::List(items) => visitor.visit_seq(Items(items.into_iter())),
            Value::Table(entries) => visitor.visit_map(Entries {
                rest: entries.into_iter(),
                value: None,
            }),
        }
    }

    /// The text of a variable, which may stand for something else; a file says what it means.
    fn variable_text(&self) -> Option<&str> {
        match (&self.origin, &self.value) {
            (Origin::Variable(_), Value::Text(text)) => Some(text.trim()),
            _ => None,
        }
    }

    fn visit_number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.variable_text().and_then(|text| text.parse().ok()) {
            Some(number) => visitor.visit_i64(number),
            None => self.visit(visitor),
        }
    }
}

macro_rules! numbers {
    ($($method:ident)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.visit_number(visitor)
        }
    )+};
}

impl<'de> Deserializer<'de> for Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.variable_text().and_then(|text| text.parse().ok()) {
            Some(truth) => visitor.visit_bool(truth),
            None => self.visit(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Some(text) = self.variable_text() else {
            return self.visit(visitor);
        };
        match overlay::list(&self.key, &self.origin, text) {
            Ok(items) => visitor.visit_seq(Items(items.into_iter())),
            Err(found) => {
                let mut place = Place::of(&self);
                place.form = found;
                let error: Error = de::Error::invalid_type(Unexpected::Seq, &visitor);
                Err(error.at(&place))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Text(text) => visitor.visit_enum(text.into_deserializer()),
            _ => Err(de::Error::invalid_type(Unexpected::Enum, &"a text")),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    serde::forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

/// A list being read.
struct Items(vec::IntoIter<Node>);

impl<'de> SeqAccess<'de> for Items {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0.next().map(|node| read(seed, node)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

/// A table being read.
struct Entries {
    rest: btree_map::IntoIter<String, Node>,
    value: Option<Node>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((name, node)) = self.rest.next() else {
            return Ok(None);
        };
        let place = Place::of(&node);
        self.value = Some(node);
        let name: StringDeserializer<Error> = name.into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|error| error.at(&place))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let node = self.value.take().expect("serde asks for the key first");
        read(seed, node)
    }
}

fn read<'de, T: DeserializeSeed<'de>>(seed: T, node: Node) -> Result<T::Value, Error> {
    let place = Place::of(&node);
    seed.deserialize(node).map_err(|error| error.at(&place))
}
