//! A setting that must never be seen: client secrets, access tokens, the broker's URL.

use std::fmt;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A secret as the configuration names it: the text itself, `env:NAME` or `file:PATH`.
///
/// It prints and serialises as `[redacted]` (or as the reference, which is no secret), and its memory is
/// wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// `env:NAME`, but there is no such variable.
    #[error("the environment variable {0} is not set")]
    NoVariable(String),
    /// `file:PATH`, but it cannot be read.
    #[error("the file {path} cannot be read: {source}")]
    NoFile {
        /// The path as configured.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
}

impl Secret {
    /// A secret given as the configuration would give it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The secret itself: the text, the variable's value or the file's content, without white space at its ends.
    ///
    /// Reads the environment or the file at every call, so that a file may change while we run.
    ///
    /// # Errors
    /// Every variant of [`SecretError`].
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        let text = self.0.expose_secret();
        let resolved = if let Some(name) = text.strip_prefix("env:") {
            #[expect(clippy::disallowed_methods, reason = "this is the one place")]
            std::env::var(name).map_err(|_| SecretError::NoVariable(name.to_owned()))?
        } else if let Some(path) = text.strip_prefix("file:") {
            std::fs::read_to_string(Path::new(path)).map_err(|source| SecretError::NoFile {
                path: path.to_owned(),
                source,
            })?
        } else {
            text.to_owned()
        };
        match resolved.trim() {
            "" => Err(SecretError::Empty),
            trimmed => Ok(SecretString::from(trimmed)),
        }
    }

    /// Whether [`Self::resolve`] may answer differently next time.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.0.expose_secret().starts_with("file:")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.expose_secret();
        let is_reference = text.starts_with("env:") || text.starts_with("file:");
        f.write_str(if is_reference { text } else { "[redacted]" })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
