//! The settings as they were written, before they have types: each with its key and where it came from, so
//! that an error can point there.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The last parts of keys whose values may appear in an error. Any other may hold a secret, put there on
/// purpose or by mistake.
const SHOWN_KEYS: &[&str] = &[
    "listen",
    "body_size_max",
    "requests_max",
    "prefetch",
    "signatures",
    "prefix",
    "partitions",
    "publish_timeout",
    "timeout",
    "kind",
    "max_length_bytes",
    "format",
    "grace",
    "delay",
];
/// Longer texts are not shown either.
const SHOWN_CHARS_MAX: usize = 24;

/// One setting, or a table or list of them.
#[derive(Clone)]
pub(super) struct Node {
    /// Its dotted path: `app.main.client_secrets[0]`.
    pub key: String,
    /// Where it was set.
    pub origin: Origin,
    /// What it was set to.
    pub value: Value,
}

/// What a setting was set to.
#[derive(Clone)]
pub(super) enum Value {
    /// A text. From the environment it may stand for a number, a truth value or a list.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// TOML's dates and times, which no setting wants.
    Datetime,
    /// A list.
    List(Vec<Node>),
    /// A table.
    Table(BTreeMap<String, Node>),
}

/// Where a setting was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nowhere: a default.
    Default,
    /// In a file, at a line that counts from 1.
    File(Arc<Path>, usize),
    /// In an environment variable.
    Variable(Arc<str>),
}

/// A file that is not TOML: the line, counting from 1, and TOML's own words, which quote nothing of the file.
pub(super) struct SyntaxError {
    pub line: usize,
    pub message: String,
}

impl Node {
    /// A table without entries, as if an empty file had been read.
    pub(super) fn empty(key: String, origin: Origin) -> Self {
        Self {
            key,
            origin,
            value: Value::Table(BTreeMap::new()),
        }
    }

    /// The settings of the file at `path`, whose content is `text`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, SyntaxError> {
        let document = DeTable::parse(text).map_err(|error| SyntaxError {
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        let source = Source {
            path: path.into(),
            text,
        };
        Ok(Self {
            key: String::new(),
            origin: source.origin(0),
            value: source.table("", document.into_inner()),
        })
    }

    /// What was written, without ever telling a secret: its form, and the value only where it is short and
    /// its key is one of [`SHOWN_KEYS`].
    pub(super) fn form(&self) -> String {
        match &self.value {
            Value::Text(text) if text.is_empty() => "an empty text".to_owned(),
            Value::Text(text) if self.is_shown(text) => format!("the text `{text}`"),
            Value::Text(text) => format!("a text of {} characters", text.chars().count()),
            Value::Integer(_) | Value::Float(_) if !self.may_show() => "a number".to_owned(),
            Value::Integer(number) => format!("the number {number}"),
            Value::Float(number) => format!("the number {number}"),
            Value::Boolean(truth) => format!("`{truth}`"),
            Value::Datetime => "a date or time".to_owned(),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Table(_) => "a table".to_owned(),
        }
    }

    /// The last part of the key, without an index.
    pub(super) fn name(&self) -> &str {
        let last = self.key.rsplit('.').next().unwrap_or_default();
        last.split('[').next().unwrap_or_default()
    }

    fn may_show(&self) -> bool {
        SHOWN_KEYS.contains(&self.name())
    }

    fn is_shown(&self, text: &str) -> bool {
        self.may_show()
            && text.chars().count() <= SHOWN_CHARS_MAX
            && !text.contains(char::is_control)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// The dotted path of the entry `name` below `parent`.
pub(super) fn child_key(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}

/// A file being turned into a tree.
struct Source<'t> {
    path: Arc<Path>,
    text: &'t str,
}

impl Source<'_> {
    fn origin(&self, offset: usize) -> Origin {
        Origin::File(Arc::clone(&self.path), line_of(self.text, offset))
    }

    fn table(&self, parent: &str, table: DeTable<'_>) -> Value {
        let entries = table.into_iter().map(|(name, value)| {
            let origin = self.origin(name.span().start);
            let name = name.into_inner().into_owned();
            let node = self.node(child_key(parent, &name), origin, value.into_inner());
            (name, node)
        });
        Value::Table(entries.collect())
    }

    fn list<'a>(
        &self,
        parent: &str,
        items: impl IntoIterator<Item = Spanned<DeValue<'a>>>,
    ) -> Value {
        let nodes = items.into_iter().enumerate().map(|(index, item)| {
            let origin = self.origin(item.span().start);
            self.node(format!("{parent}[{index}]"), origin, item.into_inner())
        });
        Value::List(nodes.collect())
    }

    fn node(&self, key: String, origin: Origin, value: DeValue<'_>) -> Node {
        let value = match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => integer(number.as_str(), number.radix()),
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(truth) => Value::Boolean(truth),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(items) => self.list(&key, items),
            DeValue::Table(table) => self.table(&key, table),
        };
        Node { key, origin, value }
    }
}

/// A number too large for 64 bits becomes a float, which no setting of ours takes.
fn integer(digits: &str, radix: u32) -> Value {
    i64::from_str_radix(digits, radix).map_or(Value::Float(f64::INFINITY), Value::Integer)
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}
