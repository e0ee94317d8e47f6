//! An access token that does not end: a private app's, or a service key. It is read again when HubSpot refuses one
//! that a file holds.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::State;
use super::credential::{Bearer, TokenError, TokenSource};
use super::oauth::REFUSAL_STANDS;
use crate::event::PortalId;

/// One portal's access token.
pub(super) struct Fixed {
    source: TokenSource,
    /// Held for a moment only, never over a call.
    held: Mutex<Held>,
}

struct Held {
    authorization: Bearer,
    /// When HubSpot last refused exactly this token, if it did not take it since.
    refused_at: Option<Instant>,
}

impl Fixed {
    pub(super) fn new(source: TokenSource) -> Result<Self, TokenError> {
        let held = Held {
            authorization: Bearer::new(&source.resolve()?)?,
            refused_at: None,
        };
        Ok(Self {
            source,
            held: Mutex::new(held),
        })
    }

    /// Whether the portal is still configured with the same.
    pub(super) fn is(&self, source: &TokenSource) -> bool {
        self.source.is(source)
    }

    /// Forgets that it was refused: somebody has acted.
    pub(super) fn retry(&self) {
        self.held().refused_at = None;
    }

    pub(super) fn authorization(&self) -> Bearer {
        self.held().authorization.clone()
    }

    /// Notes whether HubSpot took a call that carried `authorization`.
    pub(super) fn answered(&self, authorization: &Bearer, unauthorized: bool) {
        let mut held = self.held();
        // A call that was under way while the token changed says nothing of the new one.
        if held.authorization == *authorization {
            held.refused_at = unauthorized.then(Instant::now);
        }
    }

    /// Reads a `file:` token again. True if the token now held is not the one HubSpot refused.
    pub(super) fn refresh(&self, portal_id: &PortalId) -> bool {
        let mut held = self.held();
        if self.source.may_change() {
            match self.source.resolve().and_then(|token| Bearer::new(&token)) {
                Ok(authorization) if authorization != held.authorization => {
                    *held = Held {
                        authorization,
                        refused_at: None,
                    };
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(portal.id = %portal_id, %error, "the access token cannot be read again; the last one stays");
                }
            }
        }
        let is_good = held.refused_at.is_none();
        if !is_good {
            tracing::error!(
                portal.id = %portal_id,
                "HubSpot refuses the portal's access token; its events are kept and it is tried again every 5 minutes: \
                 give it a valid one, in [portal.<id>] or in its file of portals.folder"
            );
        }
        is_good
    }

    pub(super) fn state(&self) -> State {
        match self.held().refused_at {
            Some(at) if at.elapsed() < REFUSAL_STANDS => State::Refused,
            _ => State::Ready,
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // What it holds is whole between any two statements, so a panic elsewhere leaves it usable.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_refused_token_is_new_again_only_when_its_file_changed() {
        let portal_id = PortalId::from("8241");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "old\n").unwrap();
        let secret = Secret::new(format!("file:{}", path.display()));
        let token = Fixed::new(TokenSource::Named(secret)).unwrap();

        let old = token.authorization();
        token.answered(&old, true);
        assert_eq!(token.state(), State::Refused);
        assert!(!token.refresh(&portal_id), "the file still holds it");

        std::fs::write(&path, "new\n").unwrap();
        assert!(token.refresh(&portal_id));
        assert_eq!(token.authorization(), "Bearer new");

        token.answered(&old, true);
        assert!(token.refresh(&portal_id), "only the old one was refused");

        std::fs::remove_file(&path).unwrap();
        assert!(token.refresh(&portal_id), "the last one read stays");
        token.answered(&token.authorization(), true);
        assert!(!token.refresh(&portal_id));
        token.answered(&token.authorization(), false);
        assert_eq!(token.state(), State::Ready, "HubSpot takes it again");
    }

    #[test]
    fn a_token_from_the_configuration_never_changes() {
        let token = Fixed::new(TokenSource::Given("pat".to_owned().into())).unwrap();
        token.answered(&token.authorization(), true);
        assert!(!token.refresh(&PortalId::from("8241")));
    }
}
