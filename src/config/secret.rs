//! A setting that must never be seen: client secrets, access tokens, the broker's URL.

use std::fmt;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

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
        // What is read is wiped, too: a file has white space around the secret, or a copy is made of it.
        let resolved = Zeroizing::new(if let Some(name) = text.strip_prefix("env:") {
            #[expect(clippy::disallowed_methods, reason = "this is the one place")]
            std::env::var(name).map_err(|_| SecretError::NoVariable(name.to_owned()))?
        } else if let Some(path) = text.strip_prefix("file:") {
            std::fs::read_to_string(Path::new(path)).map_err(|source| SecretError::NoFile {
                path: path.to_owned(),
                source,
            })?
        } else {
            text.to_owned()
        });
        match resolved.trim() {
            "" => Err(SecretError::Empty),
            trimmed => Ok(SecretString::from(trimmed)),
        }
    }

    /// For a secret that is a URL: what may be shown of it, which is everything but password and query. A
    /// reference is shown as it is; what is no URL, not at all.
    #[must_use]
    pub fn redacted_url(&self) -> String {
        let text = self.0.expose_secret();
        match reqwest::Url::parse(text) {
            Ok(url) if !self.is_reference() && url.has_host() => redacted(&url),
            _ => self.to_string(),
        }
    }

    /// Whether [`Self::resolve`] may answer differently next time.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.0.expose_secret().starts_with("file:")
    }

    /// The text as configured, be it the secret or a reference.
    #[must_use]
    pub fn text(&self) -> &SecretString {
        &self.0
    }

    /// Whether it says where the secret is, and is none itself.
    #[must_use]
    pub fn is_reference(&self) -> bool {
        let text = self.0.expose_secret();
        text.starts_with("env:") || text.starts_with("file:")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_reference() {
            self.0.expose_secret()
        } else {
            "[redacted]"
        })
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

fn redacted(url: &reqwest::Url) -> String {
    let user = match (url.username(), url.password()) {
        ("", None) => String::new(),
        (user, None) => format!("{user}@"),
        (user, Some(_)) => format!("{user}:[redacted]@"),
    };
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let host = url.host_str().unwrap_or_default();
    format!("{}://{user}{host}{port}{}", url.scheme(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_and_a_reference_does() {
        let literal = Secret::new("hunter2");
        assert_eq!(format!("{literal} {literal:?}"), "[redacted] [redacted]");
        assert_eq!(serde_json::to_string(&literal).unwrap(), "\"[redacted]\"");
        assert_eq!(
            Secret::new("env:HUBSPOT_TOKEN").to_string(),
            "env:HUBSPOT_TOKEN"
        );
    }

    #[test]
    fn a_url_is_shown_without_its_password_and_query() {
        for (url, shown) in [
            (
                "amqp://guest:hunter2@127.0.0.1:5672/%2f?x=hunter2",
                "amqp://guest:[redacted]@127.0.0.1:5672/%2f",
            ),
            (
                "amqps://rabbit.example.com/relay",
                "amqps://rabbit.example.com/relay",
            ),
            ("env:BROKER_URL", "env:BROKER_URL"),
            ("hunter2", "[redacted]"),
            ("hunter2:hunter2", "[redacted]"),
        ] {
            assert_eq!(Secret::new(url).redacted_url(), shown);
        }
    }

    #[test]
    fn a_file_is_read_afresh_and_trimmed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let secret = Secret::new(format!("file:{}", path.display()));
        assert!(matches!(secret.resolve(), Err(SecretError::NoFile { .. })));
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(secret.resolve().unwrap().expose_secret(), "one");
        std::fs::write(&path, " two ").unwrap();
        assert_eq!(secret.resolve().unwrap().expose_secret(), "two");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(secret.resolve(), Err(SecretError::Empty)));
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let error = Secret::new("env:CRM_RELAY_NO_SUCH").resolve().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable CRM_RELAY_NO_SUCH is not set"
        );
    }
}
