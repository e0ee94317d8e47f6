//! Access tokens of portals: resolved at the start, and read again when HubSpot refuses one that a file holds.
//!
//! A token is kept as the header it is sent in, marked sensitive, so that no `Debug` shows it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use reqwest::header::HeaderValue;
use secrecy::ExposeSecret as _;

use crate::config::{PortalConfig, Secret, SecretError};
use crate::event::PortalId;

/// The access token of every configured portal.
pub struct Tokens(HashMap<PortalId, Token>);

/// Why the configured tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The secret cannot be had.
    #[error("portal.{portal}.access_token: {source}")]
    Secret {
        /// The portal's key in the configuration.
        portal: String,
        /// Why.
        source: SecretError,
    },
    /// The secret has characters that no access token has, such as a line break.
    #[error(
        "portal.{portal}.access_token has characters that cannot be sent; give it without quotes, on one line"
    )]
    Characters {
        /// The portal's key in the configuration.
        portal: String,
    },
}

struct Token {
    portal: String,
    secret: Secret,
    /// Held for a moment only, never over a call.
    state: Mutex<State>,
}

struct State {
    authorization: HeaderValue,
    /// Whether HubSpot refused exactly this token since it was read.
    refused: bool,
}

impl Tokens {
    /// Resolves the tokens of all `portals`, keyed by portal id.
    ///
    /// # Errors
    /// [`TokenError`] for the first portal whose token cannot be had or sent.
    pub fn new(portals: &BTreeMap<String, PortalConfig>) -> Result<Self, TokenError> {
        let token = |(portal, config): (&String, &PortalConfig)| {
            Token::new(portal, &config.access_token)
                .map(|token| (PortalId::from(portal.as_str()), token))
        };
        portals
            .iter()
            .map(token)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The `Authorization` header of a portal's calls; `None` when the portal is not configured.
    pub(super) fn authorization(&self, portal_id: &PortalId) -> Option<HeaderValue> {
        let token = self.0.get(portal_id)?;
        Some(token.state().authorization.clone())
    }

    /// Notes that HubSpot refused a call that carried `authorization`.
    pub(super) fn refused(&self, portal_id: &PortalId, authorization: &HeaderValue) {
        if let Some(token) = self.0.get(portal_id) {
            let mut state = token.state();
            // A call that was under way while the token changed says nothing of the new one.
            state.refused |= state.authorization == *authorization;
        }
    }

    /// Reads a `file:` token again. True if the token now held is not the one HubSpot refused.
    pub(super) fn refresh(&self, portal_id: &PortalId) -> bool {
        self.0.get(portal_id).is_some_and(Token::refresh)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens of {} portals", self.0.len())
    }
}

impl Token {
    fn new(portal: &str, secret: &Secret) -> Result<Self, TokenError> {
        let state = State {
            authorization: authorization(portal, secret)?,
            refused: false,
        };
        Ok(Self {
            portal: portal.to_owned(),
            secret: secret.clone(),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is whole between any two statements, so a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self) -> bool {
        let mut state = self.state();
        if self.secret.is_file() {
            match authorization(&self.portal, &self.secret) {
                Ok(authorization) if authorization != state.authorization => {
                    *state = State {
                        authorization,
                        refused: false,
                    };
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(portal.id = %self.portal, %error, "the access token cannot be read again; the last one stays");
                }
            }
        }
        !state.refused
    }
}

fn authorization(portal: &str, secret: &Secret) -> Result<HeaderValue, TokenError> {
    let token = secret.resolve().map_err(|source| TokenError::Secret {
        portal: portal.to_owned(),
        source,
    })?;
    let is_sendable = |byte: u8| byte.is_ascii_graphic();
    let characters = || TokenError::Characters {
        portal: portal.to_owned(),
    };
    if !token.expose_secret().bytes().all(is_sendable) {
        return Err(characters());
    }
    let mut header = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
        .map_err(|_| characters())?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(token: &str) -> Result<Tokens, TokenError> {
        let config = PortalConfig {
            access_token: Secret::new(token),
            external_id: std::collections::BTreeMap::new(),
        };
        Tokens::new(&BTreeMap::from([("8241".to_owned(), config)]))
    }

    fn portal() -> PortalId {
        PortalId::from("8241")
    }

    #[test]
    fn a_token_is_sent_as_a_bearer_and_never_printed() {
        let tokens = tokens("pat-na1-secret").unwrap();
        let header = tokens.authorization(&portal()).unwrap();
        assert_eq!(header, "Bearer pat-na1-secret");
        assert!(!format!("{header:?} {tokens:?}").contains("secret"));
        assert!(tokens.authorization(&PortalId::from("1")).is_none());
    }

    #[test]
    fn a_token_that_cannot_be_sent_is_refused_at_the_start_by_name() {
        for token in [
            "two\nlines",
            "with space",
            "\u{e9}",
            "",
            "file:/nowhere/at/all",
        ] {
            let error = tokens(token).unwrap_err().to_string();
            assert!(error.starts_with("portal.8241.access_token"), "{error}");
            assert!(
                !error.contains("lines") && !error.contains('\u{e9}'),
                "{error}"
            );
        }
    }

    #[test]
    fn a_refused_token_is_new_again_only_when_its_file_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "old\n").unwrap();
        let tokens = tokens(&format!("file:{}", path.display())).unwrap();

        let old = tokens.authorization(&portal()).unwrap();
        tokens.refused(&portal(), &old);
        assert!(!tokens.refresh(&portal()), "the file still holds it");

        std::fs::write(&path, "new\n").unwrap();
        assert!(tokens.refresh(&portal()));
        assert_eq!(tokens.authorization(&portal()).unwrap(), "Bearer new");

        tokens.refused(&portal(), &old);
        assert!(tokens.refresh(&portal()), "only the old one was refused");

        std::fs::remove_file(&path).unwrap();
        assert!(tokens.refresh(&portal()), "the last one read stays");
        tokens.refused(&portal(), &tokens.authorization(&portal()).unwrap());
        assert!(!tokens.refresh(&portal()));
    }

    #[test]
    fn a_token_from_the_configuration_never_changes() {
        let tokens = tokens("pat").unwrap();
        tokens.refused(&portal(), &tokens.authorization(&portal()).unwrap());
        assert!(!tokens.refresh(&portal()));
        assert!(!tokens.refresh(&PortalId::from("1")));
    }
}
