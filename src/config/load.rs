//! Reading the configuration: a file, the environment over it, and errors that say where to look and what to
//! write instead.

use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::tree::{Node, Origin};
use super::validate::{Problem, Role};
use super::{Config, PortalConfig, overlay, typed};

/// Why there is no configuration to run with. No variant tells the value of a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read; name another with --config or CRM_RELAY_CONFIG", path.display())]
    NoFile {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not TOML: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where in it, counting from 1.
        line: usize,
        /// TOML's own words.
        message: String,
    },
    /// A setting is unknown, missing or of the wrong form.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An environment variable of ours is not UTF-8.
    #[error("the environment variable {0} is not UTF-8; set it again, as text")]
    NotText(String),
    /// Every setting has its form, but they do not make a configuration that can run.
    #[error("the configuration cannot {role}:{}", bullets(problems))]
    Invalid {
        /// What was to run.
        role: Role,
        /// Everything that is wrong, not only the first.
        problems: Vec<Problem>,
    },
}

/// What is wrong with one setting: its key, where it was set, what was found (in form) and what to write.
#[derive(Debug)]
pub struct KeyError {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) kind: KeyErrorKind,
}

#[derive(Debug)]
pub(super) enum KeyErrorKind {
    /// It should look otherwise.
    Form { found: String, wants: String },
    /// There is no such key.
    Unknown {
        name: String,
        known: Vec<&'static str>,
    },
    /// It must be set.
    Missing {
        name: &'static str,
        wants: Option<String>,
    },
    /// Anything else.
    Other(String),
}

impl KeyError {
    /// An error about `node` that `origin` caused.
    pub(super) fn other(node: &Node, origin: &Origin, message: impl Into<String>) -> Self {
        Self {
            key: node.key.clone(),
            origin: origin.clone(),
            kind: KeyErrorKind::Other(message.into()),
        }
    }

    /// The dotted path of the setting, such as `receiver.listen`.
    #[must_use]
    pub fn key(&self) -> String {
        match &self.kind {
            KeyErrorKind::Missing { name, .. } => super::tree::child_key(&self.key, name),
            _ => self.key.clone(),
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key();
        let key = if key.is_empty() {
            "the configuration"
        } else {
            &key
        };
        write!(f, "{key} ({}): {}", self.origin, self.kind)
    }
}

impl std::error::Error for KeyError {}

impl fmt::Display for KeyErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form { found, wants } => write!(f, "found {found}; write {wants}"),
            Self::Unknown { name, known } => {
                f.write_str("there is no such key; ")?;
                if let Some(closest) = closest(name, known) {
                    write!(f, "did you mean `{closest}`? ")?;
                }
                write!(f, "the keys here are {}", known.join(", "))
            }
            Self::Missing { wants, .. } => {
                f.write_str("it is missing")?;
                wants
                    .as_ref()
                    .map_or(Ok(()), |wants| write!(f, "; write {wants}"))
            }
            Self::Other(message) => f.write_str(message),
        }
    }
}

/// Reads the file at `path` (none: all defaults) and lays the process's environment over it.
///
/// The settings have their forms but are not yet known to make sense together: see [`Config::check`].
///
/// # Errors
/// Every variant of [`ConfigError`] but [`ConfigError::Invalid`].
pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    load_with(path, environment()?)
}

/// [`load`], with `variables` (name and value) as the environment.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    path: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let root = match path {
        Some(path) => read(path)?,
        None => Node::empty(String::new(), Origin::Default),
    };
    overlaid(root, variables)
}

/// [`load_with`], where the file at `path` holds `text`.
///
/// # Errors
/// As [`load`].
pub fn load_text(
    path: &Path,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    overlaid(parse(path, text)?, variables)
}

fn overlaid(
    mut root: Node,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    overlay::apply(&mut root, variables)?;
    Ok(typed::from_tree(root)?)
}

/// The keys of a `[portal.<id>]` as a file of their own has them: `text`, which was read at `path`.
///
/// # Errors
/// [`ConfigError::Syntax`] and [`ConfigError::Key`].
pub fn portal_of(path: &Path, text: &str) -> Result<PortalConfig, ConfigError> {
    Ok(typed::from_tree(parse(path, text)?)?)
}

fn read(path: &Path) -> Result<Node, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::NoFile {
        path: path.to_owned(),
        source,
    })?;
    // It may hold secrets.
    parse(path, &Zeroizing::new(text))
}

fn parse(path: &Path, text: &str) -> Result<Node, ConfigError> {
    Node::parse(path, text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: error.line,
        message: error.message,
    })
}

/// The variables that are ours. Others may hold anything, and do not concern us.
fn environment() -> Result<Vec<(String, String)>, ConfigError> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(overlay::PREFIX))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(ConfigError::NotText(name)),
        })
        .collect()
}

/// The known key that `name` is a misspelling of, if any is near enough.
fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let distances = known.iter().map(|key| (distance(name, key), *key));
    let (distance, key) = distances.min()?;
    (distance <= 1 + name.len() / 4).then_some(key)
}

/// Levenshtein's distance, row by row.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, c) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, d) in other.iter().enumerate() {
            let substituted = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[other.len()]
}

fn bullets(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  - {problem}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_its_neighbour_and_a_foreign_one_does_not() {
        let known = ["listen", "public_url", "body_size_max"];
        assert_eq!(closest("lisen", &known), Some("listen"));
        assert_eq!(closest("public_urls", &known), Some("public_url"));
        assert_eq!(closest("colour", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
