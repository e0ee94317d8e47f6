//! The token endpoint, in every family of paths: access tokens that end, for refresh tokens that end with the
//! installation.
//!
//! Source: HubSpot's OpenAPI files `oauth-v1`, `oauth-v3`, `oauth-2026-03` and `oauth-2026-09` for requests and replies; live
//! replies for refusals. `authorization_code` is not simulated: who has a code has sent a person to HubSpot.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::options::OAuthOptions;
use super::portal::{Portal, Shared};
use super::rest::{Reply, errors, is_version};

/// The most access tokens of an installation that are remembered.
const ACCESS_TOKENS_MAX: usize = 1_000;

/// An app as one portal has it installed.
pub(crate) struct Installation {
    portal_id: u64,
    options: OAuthOptions,
    /// `None` when the app is not installed any more.
    pub(crate) refresh_token: Option<String>,
    /// Until when each is good.
    access_tokens: BTreeMap<String, Instant>,
    /// Made so far, of either kind.
    serial: u64,
    pub(crate) given: u64,
    pub(crate) refused: u64,
}

/// Whose a token is.
pub(crate) enum Found<'s> {
    /// It reads this portal.
    Portal(&'s Portal),
    /// It did once.
    Expired,
    /// Nobody's.
    Nothing,
}

impl Installation {
    pub(crate) fn new(portal_id: u64, options: OAuthOptions) -> Self {
        Self {
            portal_id,
            refresh_token: Some(options.refresh_token.clone()),
            options,
            access_tokens: BTreeMap::new(),
            serial: 0,
            given: 0,
            refused: 0,
        }
    }

    pub(crate) fn uninstall(&mut self) {
        self.refresh_token = None;
        self.expire();
    }

    pub(crate) fn reinstall(&mut self) -> String {
        let refresh_token = self.next("na1-refresh");
        self.refresh_token = Some(refresh_token.clone());
        refresh_token
    }

    pub(crate) fn expire(&mut self) {
        let now = Instant::now();
        self.access_tokens
            .values_mut()
            .for_each(|until| *until = now);
    }

    fn give(&mut self) -> Reply {
        self.given += 1;
        if self.access_tokens.len() >= ACCESS_TOKENS_MAX {
            self.access_tokens.clear();
        }
        let access_token = self.next("CJaccess");
        let until = Instant::now() + self.options.life;
        self.access_tokens.insert(access_token.clone(), until);
        if self.options.rotates {
            self.reinstall();
        }
        Reply::ok(json!({
            "token_type": "bearer",
            "access_token": access_token,
            "refresh_token": self.refresh_token,
            "expires_in": self.options.life.max(Duration::from_secs(1)).as_secs(),
            "hub_id": self.options.hub_id.unwrap_or(self.portal_id),
            "user_id": 75_500_001,
            "scopes": ["oauth"],
            "token_use": "access_token",
        }))
    }

    fn next(&mut self, kind: &str) -> String {
        self.serial += 1;
        format!("{kind}-{}-{:04}", self.portal_id, self.serial)
    }

    fn is_client(&self, form: &BTreeMap<String, String>) -> Result<(), Reply> {
        let value = |key: &str| form.get(key).map_or("", String::as_str);
        if value("client_id") != self.options.client_id {
            return Err(bad_client_id());
        }
        let secrets = &self.options.client_secrets;
        if !secrets
            .iter()
            .any(|secret| secret == value("client_secret"))
        {
            let message = "missing or invalid client secret";
            return Err(refusal("BAD_CLIENT_SECRET", "invalid_client", message));
        }
        Ok(())
    }
}

/// Whether a path is the token endpoint's.
pub(crate) fn is_token_endpoint(path: &str) -> bool {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["oauth", version, "token"] => matches!(*version, "v1" | "v3") || is_version(version),
        _ => false,
    }
}

/// Answers a request to the token endpoint.
pub(crate) fn token(shared: &Shared, method: &str, form: &BTreeMap<String, String>) -> Reply {
    let value = |key: &str| form.get(key).map(String::as_str);
    if method != "POST" {
        return errors::error(405, "METHOD_NOT_ALLOWED", "Method Not Allowed");
    }
    if value("grant_type") != Some("refresh_token") {
        let message = "missing or unknown grant type";
        return refusal("BAD_GRANT_TYPE", "unsupported_grant_type", message);
    }
    let mut client = Err(bad_client_id());
    for portal in &shared.portals {
        let mut data = portal.lock();
        let Some(one) = data.installation.as_mut() else {
            continue;
        };
        let is_client = one.is_client(form);
        if value("refresh_token").is_some_and(|token| Some(token) == one.refresh_token.as_deref()) {
            return match is_client {
                Ok(()) => one.give(),
                Err(refusal) => {
                    one.refused += 1;
                    refusal
                }
            };
        }
        if is_client.is_ok() {
            one.refused +=
                u64::from(value("refresh_token").is_some_and(|token| one.was_its(token)));
            client = Ok(());
        }
    }
    client.map_or_else(|refusal| refusal, |()| bad_refresh_token())
}

impl Installation {
    /// Whether a token that is not good any more was this installation's.
    fn was_its(&self, token: &str) -> bool {
        let made = format!("na1-refresh-{}-", self.portal_id);
        token == self.options.refresh_token || token.starts_with(&made)
    }
}

/// Whose an access token is.
pub(crate) fn find<'s>(shared: &'s Shared, token: &str) -> Found<'s> {
    let now = Instant::now();
    for portal in &shared.portals {
        if portal.access_token == token {
            return Found::Portal(portal);
        }
        let data = portal.lock();
        let installation = data.installation.as_ref();
        match installation.and_then(|one| one.access_tokens.get(token)) {
            Some(until) if now < *until => return Found::Portal(portal),
            Some(_) => return Found::Expired,
            None => {}
        }
    }
    Found::Nothing
}

fn bad_client_id() -> Reply {
    refusal(
        "BAD_CLIENT_ID",
        "invalid_client",
        "missing or unknown client id",
    )
}

fn bad_refresh_token() -> Reply {
    let message = "refresh token is invalid, expired or revoked";
    refusal("BAD_REFRESH_TOKEN", "invalid_grant", message)
}

fn refusal(status: &str, error: &str, message: &str) -> Reply {
    let body: Value = json!({
        "status": status,
        "error": error,
        "error_description": message,
        "message": message,
    });
    Reply::with(400, body)
}
