//! Files that are attached to an engagement.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Millis;

/// A file attached to a record: what it is, not what it holds.
///
/// # Source
/// HubSpot, "Files API", `File`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attachment {
    /// The file.
    pub id: String,
    /// Its name, without the extension.
    pub name: Option<String>,
    /// `pdf`, `png`, …
    pub extension: Option<String>,
    /// `IMG`, `DOCUMENT`, `AUDIO`, `MOVIE`, `OTHER`: an open set.
    pub r#type: Option<String>,
    /// In bytes.
    pub size: Option<u64>,
    /// Who may fetch it: `PUBLIC_INDEXABLE`, `PRIVATE`, `HIDDEN_PRIVATE`, …
    pub access: Option<String>,
    /// Where anybody can fetch it; files that are not public have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where it can be fetched for a while, for a file that is not public; only on request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_url: Option<SignedUrl>,
}

/// A URL that whoever has it can fetch a private file by, until it expires. Its text is a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedUrl {
    /// The URL.
    pub url: String,
    /// When it ends to work.
    pub expires_at: Option<Millis>,
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedUrl")
            .field("url", &"[redacted]")
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

impl Attachment {
    /// Whether anybody may fetch it, by its plain URL.
    #[must_use]
    pub fn is_public(&self) -> bool {
        let access = self.access.as_deref();
        access.is_some_and(|access| access.starts_with("PUBLIC_"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_url_does_not_show() {
        let signed = SignedUrl {
            url: "https://files.example/secret".to_owned(),
            expires_at: Millis::new(0),
        };
        assert!(!format!("{signed:?}").contains("secret"));
        assert!(serde_json::to_string(&signed).unwrap().contains("secret"));
    }
}
