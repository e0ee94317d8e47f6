//! What the calls of the admin port have in common: who may make them, and how they are answered.
//!
//! Every call carries `Authorization: Bearer` with `admin.token`; where that is not configured nobody is answered.
//! Errors are `{"error": …}`.

use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::{Secret, SecretError};

/// The largest body.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 10;

/// Lets in who knows `admin.token`. The default lets nobody in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    token: Option<SecretString>,
}

/// An answer that is no success.
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

/// What a call is answered.
pub(crate) type Answer = Result<HttpResponse, Refusal>;

impl Gate {
    /// Lets in who knows `token`.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn new(token: Option<&Secret>) -> Result<Self, SecretError> {
        let token = token.map(Secret::resolve).transpose()?;
        Ok(Self { token })
    }

    /// Whether a request may be answered.
    ///
    /// # Errors
    /// What it is answered otherwise.
    pub(crate) fn check(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let token = self
            .token
            .as_ref()
            .ok_or_else(|| missing("nobody is answered here before admin.token is configured"))?;
        let header = request.headers().get(AUTHORIZATION);
        let given = header.and_then(|header| header.as_bytes().strip_prefix(b"Bearer "));
        // Digests are of one length, whatever was given.
        let digest = |bytes: &[u8]| Sha256::digest(bytes);
        let expected = digest(token.expose_secret().as_bytes());
        if bool::from(digest(given.unwrap_or_default()).ct_eq(&expected)) {
            return Ok(());
        }
        let hint = "send Authorization: Bearer with admin.token";
        Err(Refusal(StatusCode::UNAUTHORIZED, hint.to_owned()))
    }
}

/// The answer that `work` comes to.
pub(crate) async fn answer(work: impl Future<Output = Answer>) -> HttpResponse {
    let Refusal(status, error) = match work.await {
        Ok(response) => return response,
        Err(refusal) => refusal,
    };
    let mut response = HttpResponse::build(status);
    if status == StatusCode::UNAUTHORIZED {
        response.insert_header((WWW_AUTHENTICATE, "Bearer"));
    }
    response.json(json!({"error": error}))
}

/// The body. serde's own words are left out, since they may quote a token.
pub(crate) fn parse<T: DeserializeOwned>(
    body: Result<Bytes, actix_web::Error>,
    wants: &str,
) -> Result<T, Refusal> {
    let body = body.map_err(|_| {
        let hint = format!("the body did not come, or is larger than {BODY_BYTES_MAX} bytes");
        Refusal(StatusCode::PAYLOAD_TOO_LARGE, hint)
    })?;
    serde_json::from_slice(&body)
        .map_err(|_| bad(&format!("the body must be a JSON object with {wants}")))
}

pub(crate) fn bad(hint: &str) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, hint.to_owned())
}

pub(crate) fn missing(hint: &str) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, hint.to_owned())
}
