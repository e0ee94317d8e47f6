//! How the calls of the admin port are answered. Who may make them, [`crate::access`] tells. Errors are `{"error": …}`.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::WWW_AUTHENTICATE;
use actix_web::web::Bytes;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::access::Refused;

/// The largest body.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 10;

/// An answer that is no success.
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

/// What a call is answered.
pub(crate) type Answer = Result<HttpResponse, Refusal>;

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self(refused.status(), refused.to_string())
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
