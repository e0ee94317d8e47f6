//! HubSpot's token endpoint: one refresh token in, one access token out, or the reason why not.
//!
//! # Source
//! HubSpot's OpenAPI files `oauth-v3` and `oauth-2026-09`. They do not describe refusals: the words read here
//! (`BAD_REFRESH_TOKEN`, `BAD_CLIENT_ID`, `BAD_CLIENT_SECRET`) are those of live replies, beside RFC 6749's.

use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::credential::{OAuthApp, TokenError};
use crate::event::PortalId;
use crate::hubspot::call::CallError;
use crate::hubspot::client::errors::{self, ErrorBody};
use crate::hubspot::client::version::ApiVersion;
use crate::hubspot::client::{ERROR_BYTES_MAX, is_success, limits, read_body, transport};

/// Requests to the token endpoint under way at once, of all portals together.
const REFRESHES_MAX: usize = 16;
/// Lives outside of these are taken for the nearer one.
const LIFE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));

/// The token endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    http: reqwest::Client,
    url: Url,
    permits: Semaphore,
}

/// What HubSpot gives for a refresh token.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) access_token: SecretString,
    /// How long it can be used, by HubSpot's word.
    pub(super) life: Duration,
    /// A refresh token to use from now on, in place of the one that was used.
    pub(super) refresh_token: Option<SecretString>,
}

/// Why there is no access token. Where it is [`RefreshError::is_permanent`], somebody has to act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// `BAD_REFRESH_TOKEN`, or `invalid_grant`.
    #[error(
        "HubSpot refuses the refresh token ({status}): the app was uninstalled or its access revoked; reinstall the app in portal {portal_id} and put the new refresh_token"
    )]
    BadRefreshToken {
        /// The portal.
        portal_id: PortalId,
        /// The status.
        status: u16,
    },
    /// Client id or secret are wrong.
    #[error("HubSpot refuses the client_id or the client_secrets of app.{app} ({status})")]
    WrongClient {
        /// The app's name.
        app: String,
        /// The status.
        status: u16,
    },
    /// The token is of another portal.
    #[error(
        "the refresh token of portal {portal_id} is one of portal {hub_id}, and is not used; put the one that portal {portal_id} gave"
    )]
    Foreign {
        /// The portal it is configured for.
        portal_id: PortalId,
        /// The portal it is of.
        hub_id: String,
    },
    /// Another refusal.
    #[error("HubSpot's token endpoint refuses the request ({status}{})", .word.as_deref().map(|word| format!(", {word}")).unwrap_or_default())]
    Refused {
        /// The status.
        status: u16,
        /// HubSpot's word for it.
        word: Option<String>,
    },
    /// An access token that HubSpot has just given is refused by its API.
    #[error("HubSpot refuses the access token that it has just given")]
    AccessRefused,
    /// The refresh token or a client secret cannot be had.
    #[error("{0}")]
    Secret(String),
    /// Nothing that waiting does not mend.
    #[error("no access token could be had: {0}")]
    Later(CallError),
}

impl RefreshError {
    /// Whether trying again is of no use before somebody has acted.
    pub(super) fn is_permanent(&self) -> bool {
        !matches!(self, Self::Later(_))
    }

    /// The word in metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::BadRefreshToken { .. } => "bad_refresh_token",
            Self::WrongClient { .. } => "wrong_client",
            Self::Foreign { .. } => "foreign_portal",
            Self::Refused { .. } | Self::AccessRefused | Self::Secret(_) => "refused",
            Self::Later(_) => "failed",
        }
    }
}

/// The fields of a reply that are of use. Older versions leave `hub_id` out.
#[derive(Deserialize)]
struct GrantBody {
    access_token: SecretString,
    expires_in: u64,
    #[serde(default)]
    refresh_token: Option<SecretString>,
    #[serde(default)]
    hub_id: Value,
}

impl Endpoint {
    /// The endpoint of `version` under `base`.
    pub(super) fn new(http: reqwest::Client, base: &Url, version: ApiVersion) -> Self {
        let mut url = base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            segments.extend(["oauth", &version.to_string(), "token"]);
        }
        Self {
            http,
            url,
            permits: Semaphore::new(REFRESHES_MAX),
        }
    }

    /// Asks for an access token, by each client secret in turn until one is right.
    pub(super) async fn refresh(
        &self,
        portal_id: &PortalId,
        app: &OAuthApp,
        refresh_token: &SecretString,
    ) -> Result<Grant, RefreshError> {
        let _permit = self.permits.acquire().await;
        let mut refused = RefreshError::Secret(format!("app.{} has no client secret", app.name));
        for (index, secret) in app.client_secrets.iter().enumerate() {
            let secret = secret.resolve().map_err(|error| {
                RefreshError::Secret(format!("app.{}.client_secrets[{index}]: {error}", app.name))
            })?;
            let form = [
                ("grant_type", "refresh_token"),
                ("client_id", &app.client_id),
                ("client_secret", secret.expose_secret()),
                ("refresh_token", refresh_token.expose_secret()),
            ];
            match self.ask(portal_id, app, &form).await {
                Err(error @ RefreshError::WrongClient { .. }) => refused = error,
                result => return result,
            }
        }
        Err(refused)
    }

    async fn ask(
        &self,
        portal_id: &PortalId,
        app: &OAuthApp,
        form: &[(&str, &str)],
    ) -> Result<Grant, RefreshError> {
        let sent = self.http.post(self.url.clone()).form(form).send().await;
        let mut response = sent.map_err(|error| RefreshError::Later(transport(&error)))?;
        let status = response.status().as_u16();
        let body = read_body(&mut response, ERROR_BYTES_MAX).await;
        if is_success(status) {
            // It holds tokens.
            let body = Zeroizing::new(body.map_err(RefreshError::Later)?);
            granted(portal_id, &body)
        } else {
            // The status tells enough, whatever became of the body.
            let body = body.unwrap_or_default();
            let retry_after = limits::retry_after(response.headers());
            Err(refusal(portal_id, app, status, &body, retry_after))
        }
    }
}

/// A reply as if it had come; for fuzzing.
#[cfg(fuzzing)]
pub(in super::super) fn read_grant(
    portal_id: &PortalId,
    status: u16,
    body: &[u8],
) -> Result<(), RefreshError> {
    let app = OAuthApp {
        name: "main".to_owned(),
        client_id: "id".to_owned(),
        client_secrets: Vec::new(),
    };
    if is_success(status) {
        granted(portal_id, body).map(|_| ())
    } else {
        Err(refusal(portal_id, &app, status, body, None))
    }
}

fn granted(portal_id: &PortalId, body: &[u8]) -> Result<Grant, RefreshError> {
    // serde's own words might quote the reply.
    let unreadable = || {
        let reason = "it is no reply of a token endpoint".to_owned();
        RefreshError::Later(CallError::Unreadable { reason })
    };
    let body: GrantBody = serde_json::from_slice(body).map_err(|_| unreadable())?;
    let hub_id = match &body.hub_id {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    match hub_id {
        Some(hub_id) if hub_id != portal_id.as_str() => Err(RefreshError::Foreign {
            portal_id: portal_id.clone(),
            hub_id: hub_id
                .chars()
                .filter(char::is_ascii_digit)
                .take(20)
                .collect(),
        }),
        _ => Ok(Grant {
            access_token: body.access_token,
            life: Duration::from_secs(body.expires_in).clamp(LIFE.0, LIFE.1),
            refresh_token: body.refresh_token,
        }),
    }
}

/// What a status and body of the token endpoint mean. A 429 of its is no limit of the portal's: it is waited out
/// like an outage.
fn refusal(
    portal_id: &PortalId,
    app: &OAuthApp,
    status: u16,
    body: &[u8],
    retry_after: Option<Duration>,
) -> RefreshError {
    let body = ErrorBody::parse(body);
    let is = |word: &str| body.words().any(|found| found == word);
    match status {
        _ if is("BAD_REFRESH_TOKEN") || is("invalid_grant") => RefreshError::BadRefreshToken {
            portal_id: portal_id.clone(),
            status,
        },
        _ if status == 401
            || is("BAD_CLIENT_ID")
            || is("BAD_CLIENT_SECRET")
            || is("invalid_client") =>
        {
            RefreshError::WrongClient {
                app: app.name.clone(),
                status,
            }
        }
        429 => RefreshError::Later(CallError::Unavailable { status }),
        408 | 423 | 477 | 500..=599 => {
            RefreshError::Later(errors::of_status(status, &body, retry_after))
        }
        _ => RefreshError::Refused {
            status,
            word: body.words().next(),
        },
    }
}

impl From<TokenError> for RefreshError {
    fn from(error: TokenError) -> Self {
        Self::Secret(format!("the refresh token cannot be had: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientTlsConfig;
    use crate::hubspot::client::{HubSpotOptions, http_client};

    fn app() -> OAuthApp {
        OAuthApp {
            name: "main".to_owned(),
            client_id: "id".to_owned(),
            client_secrets: vec![],
        }
    }

    fn refused(status: u16, body: &str) -> RefreshError {
        refusal(&"8241".into(), &app(), status, body.as_bytes(), None)
    }

    #[test]
    fn every_refusal_has_its_kind() {
        let bad = r#"{"status":"BAD_REFRESH_TOKEN","error":"invalid_grant","error_description":"refresh token is invalid, expired or revoked","message":"na1-secret"}"#;
        for (status, body, outcome) in [
            (400, bad, "bad_refresh_token"),
            (400, r#"{"error":"invalid_grant"}"#, "bad_refresh_token"),
            (400, r#"{"status":"BAD_CLIENT_ID"}"#, "wrong_client"),
            (400, r#"{"status":"BAD_CLIENT_SECRET"}"#, "wrong_client"),
            (400, r#"{"error":"invalid_client"}"#, "wrong_client"),
            (401, "<html>", "wrong_client"),
            (400, r#"{"status":"BAD_GRANT_TYPE"}"#, "refused"),
            (404, "", "refused"),
            (429, "error code: 1015", "failed"),
            (503, "", "failed"),
        ] {
            let error = refused(status, body);
            assert_eq!(error.outcome(), outcome, "{status} {body}");
            assert_eq!(error.is_permanent(), outcome != "failed", "{status} {body}");
            assert!(!error.to_string().contains("na1-secret"), "{error}");
        }
        assert!(refused(400, bad).to_string().contains("portal 8241"));
        assert!(refused(401, "").to_string().contains("app.main"));
    }

    #[test]
    fn a_token_of_another_portal_is_refused_by_both_names() {
        let body = |hub_id: &str| {
            format!(r#"{{"access_token":"CJ-secret","expires_in":1800,"hub_id":{hub_id}}}"#)
        };
        for own in ["8241", "\"8241\"", "null"] {
            let grant = granted(&"8241".into(), body(own).as_bytes()).unwrap();
            assert_eq!(grant.life, Duration::from_secs(1_800));
            assert!(!format!("{grant:?}").contains("secret"));
        }
        let error = granted(&"8241".into(), body("8242").as_bytes()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("8241") && error.contains("8242"), "{error}");
    }

    #[test]
    fn a_reply_that_is_none_is_tried_again_and_not_quoted() {
        for body in [
            "",
            "<html>na1-secret",
            r#"{"access_token":"na1-secret"}"#,
            r#"{"access_token":"na1-secret","expires_in":-1}"#,
        ] {
            let error = granted(&"8241".into(), body.as_bytes()).unwrap_err();
            assert!(!error.is_permanent());
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_path_follows_the_family() {
        for (version, path) in [
            ("v3", "/oauth/v3/token"),
            ("2026-09", "/oauth/2026-09/token"),
        ] {
            let base = Url::parse("https://api.hubapi.com").unwrap();
            let options = HubSpotOptions {
                base_url: base.to_string(),
                api_version: version.parse().unwrap(),
                timeout: Duration::from_secs(1),
                tls: ClientTlsConfig::default(),
            };
            let http = http_client(&base, &options).unwrap();
            let endpoint = Endpoint::new(http, &base, version.parse().unwrap());
            assert_eq!(endpoint.url.path(), path);
        }
    }
}
