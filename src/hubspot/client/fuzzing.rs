//! What fuzzing gets hold of: replies as if they had come over the wire.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::tokens::read_grant;
use super::{Answered, Call, Reply, answered};

/// What a reply to `call` amounts to. Headers that are none are left out.
#[must_use]
pub fn reply_of(call: &Call, status: u16, headers: &[(&[u8], &[u8])], body: &[u8]) -> Answered {
    let headers = headers.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name).ok()?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    });
    let reply = Reply {
        status,
        headers: HeaderMap::from_iter(headers),
        body: Ok(body.to_vec()),
    };
    answered(call, Ok(reply))
}

/// What a reply of the token endpoint amounts to: an access token, or the reason why there is none.
///
/// # Errors
/// The reason.
pub fn grant_of(status: u16, body: &[u8]) -> Result<(), String> {
    read_grant(&"8241".into(), status, body).map_err(|error| format!("{error} {error:?}"))
}
