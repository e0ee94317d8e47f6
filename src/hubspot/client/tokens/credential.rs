//! What a portal is configured with, as plain data: a token of either kind, and where it is.

use std::fmt;
use std::sync::Arc;

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::{Secret, SecretError};
use crate::event::PortalId;

/// A portal as it is configured.
#[derive(Clone, Debug)]
pub struct PortalSettings {
    /// What its calls are authorized by.
    pub credential: Credential,
    /// Whether no call is made for it.
    pub paused: bool,
}

/// What a portal's calls are authorized by.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A private app's access token or a service key, sent as it is.
    AccessToken(TokenSource),
    /// A refresh token, for which HubSpot gives access tokens.
    RefreshToken {
        /// The token.
        token: TokenSource,
        /// The app it is of.
        app: Arc<OAuthApp>,
        /// Where another refresh token goes that HubSpot gives in its place; `None`: it is kept in memory.
        keep: Option<Keep>,
    },
}

/// An app that portals install by OAuth.
#[derive(Debug)]
pub struct OAuthApp {
    /// Its name in the configuration.
    pub name: String,
    /// HubSpot's id of it.
    pub client_id: String,
    /// One, or several while a secret is rotated.
    pub client_secrets: Vec<Secret>,
}

/// Where a token is.
#[derive(Clone)]
pub enum TokenSource {
    /// Here.
    Given(SecretString),
    /// Where the configuration says; read again whenever another one is wanted.
    Named(Secret),
}

/// Writes a refresh token down in place of another. It may block.
#[derive(Clone)]
pub struct Keep(Arc<KeepFn>);

type KeepFn = dyn Fn(&PortalId, NewToken<'_>) -> Result<(), String> + Send + Sync;

/// A refresh token that HubSpot gave in place of another.
#[derive(Clone, Copy)]
pub struct NewToken<'t> {
    /// The one that was used.
    pub used: &'t SecretString,
    /// The one that came for it.
    pub given: &'t SecretString,
}

/// Why a token cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It has characters that no token has, such as a line break.
    #[error("it has characters that cannot be sent; give it without quotes, on one line")]
    Characters,
}

impl TokenSource {
    /// The token, read now.
    ///
    /// # Errors
    /// Every variant of [`TokenError`].
    pub fn resolve(&self) -> Result<SecretString, TokenError> {
        let token = match self {
            Self::Given(token) => token.clone(),
            Self::Named(secret) => secret.resolve()?,
        };
        let text = token.expose_secret();
        if text.is_empty() {
            return Err(SecretError::Empty.into());
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Characters);
        }
        Ok(token)
    }

    /// Whether it may be another one next time.
    pub(super) fn may_change(&self) -> bool {
        matches!(self, Self::Named(secret) if secret.is_file())
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Given(one), Self::Given(other)) => one.expose_secret() == other.expose_secret(),
            (Self::Named(one), Self::Named(other)) => {
                one.text().expose_secret() == other.text().expose_secret()
            }
            _ => false,
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("[redacted]"),
            Self::Named(secret) => fmt::Debug::fmt(secret, f),
        }
    }
}

impl OAuthApp {
    pub(super) fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.client_id == other.client_id
    }
}

impl Keep {
    /// Keeps tokens by `keep`, which says in words what went wrong.
    pub fn by(
        keep: impl Fn(&PortalId, NewToken<'_>) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(keep))
    }

    pub(super) fn keep(&self, portal_id: &PortalId, token: NewToken<'_>) -> Result<(), String> {
        (self.0)(portal_id, token)
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keep")
    }
}

/// What a call is authorized by: an access token that can be sent. It is wiped when the last that holds it lets go, which
/// a header's memory would not be.
#[derive(Clone)]
pub(in crate::hubspot::client) struct Bearer(Arc<SecretString>);

impl Bearer {
    pub(super) fn new(token: &SecretString) -> Result<Self, TokenError> {
        header(token)?;
        Ok(Self(Arc::new(token.clone())))
    }

    /// The header of one request, marked sensitive, so that no `Debug` shows it.
    pub(in crate::hubspot::client) fn header(&self) -> HeaderValue {
        header(&self.0).expect("it could be sent when this was made")
    }
}

fn header(token: &SecretString) -> Result<HeaderValue, TokenError> {
    let mut header = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
        .map_err(|_| TokenError::Characters)?;
    header.set_sensitive(true);
    Ok(header)
}

impl PartialEq for Bearer {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// For tests, which know what they gave.
#[cfg(test)]
impl PartialEq<&str> for Bearer {
    fn eq(&self, header: &&str) -> bool {
        self == *header
    }
}

/// For tests, which know what they gave.
#[cfg(test)]
impl PartialEq<str> for Bearer {
    fn eq(&self, header: &str) -> bool {
        header.strip_prefix("Bearer ") == Some(self.0.expose_secret())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_cannot_be_sent_is_refused_without_being_shown() {
        for token in ["two\nlines", "with space", "\u{e9}", ""] {
            let source = TokenSource::Given(token.to_owned().into());
            let error = source.resolve().unwrap_err().to_string();
            assert!(
                !error.contains("lines") && !error.contains('\u{e9}'),
                "{error}"
            );
            assert_eq!(format!("{source:?}"), "[redacted]");
        }
        let nowhere = TokenSource::Named(Secret::new("file:/nowhere/at/all"));
        assert!(matches!(nowhere.resolve(), Err(TokenError::Secret(_))));
    }

    #[test]
    fn a_token_is_sent_as_a_bearer_and_never_printed() {
        let bearer = Bearer::new(&"pat-na1-secret".to_owned().into()).unwrap();
        assert_eq!(bearer.header(), "Bearer pat-na1-secret");
        assert!(!format!("{bearer:?} {:?}", bearer.header()).contains("secret"));
    }
}
