//! A request before and after its signature was verified.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::config::SignatureVersion;
use crate::event::Millis;

use super::headers::Claim;
use super::signature::SignedText;
use super::{Keyring, MatchedKey, SignatureError, SignatureHeaders};

/// How far the signed timestamp may lie from our clock, on either side.
///
/// # Source
/// HubSpot, "Validating requests": reject what is older than 5 minutes. The bound on the future is ours.
pub const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// The most elements read from one array. HubSpot sends at most 100.
pub const ELEMENTS_MAX: usize = 10_000;

/// A request with a signature, in the state `S`.
///
/// Its `Debug` leaves out the body, which is people's data.
#[derive(Clone)]
pub struct SignedRequest<S> {
    body: Bytes,
    state: S,
}

/// The signature was not looked at: there is no way to the body.
#[derive(Clone)]
pub struct Unverified {
    method: String,
    uris: Vec<String>,
    claim: Claim,
}

impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unverified")
    }
}

/// The signature is good.
#[derive(Clone, Debug)]
pub struct Verified {
    matched: MatchedKey,
}

/// A signed body that is no array of notifications. The text never quotes the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnArray {
    /// Not JSON, or JSON of another kind.
    #[error("the signed body is no JSON array; does a workflow or card use the webhook URL?")]
    OtherJson,
    /// More than [`ELEMENTS_MAX`] elements.
    #[error("the signed array has more than {ELEMENTS_MAX} elements")]
    TooMany,
}

impl SignedRequest<Unverified> {
    /// A request as it came.
    ///
    /// `method` is in upper case; `uris` are what HubSpot may have signed ([`super::PublicUrls::signed_uris`]);
    /// `body` is the raw body.
    #[must_use]
    pub fn new(method: &str, uris: Vec<String>, headers: SignatureHeaders, body: Bytes) -> Self {
        let state = Unverified {
            method: method.to_owned(),
            uris,
            claim: headers.0,
        };
        Self { body, state }
    }

    /// Checks the signature against every secret that enables its version.
    ///
    /// v3 is checked for its time first, then for its text. A v1 or v2 header that does not say which of the
    /// two it is may be either; both are of the same strength.
    ///
    /// # Errors
    /// [`SignatureError::TimestampNotANumber`], [`SignatureError::Stale`], [`SignatureError::FromTheFuture`],
    /// [`SignatureError::UnknownUrl`], [`SignatureError::NotEnabled`] and [`SignatureError::Mismatch`].
    ///
    /// # Source
    /// HubSpot, "Validating requests".
    pub fn verify(
        self,
        keyring: &Keyring,
        now: Millis,
    ) -> Result<SignedRequest<Verified>, SignatureError> {
        let matched = self.matched(keyring, now)?;
        Ok(SignedRequest {
            body: self.body,
            state: Verified { matched },
        })
    }

    fn matched(&self, keyring: &Keyring, now: Millis) -> Result<MatchedKey, SignatureError> {
        if self.state.uris.is_empty() {
            return Err(SignatureError::UnknownUrl);
        }
        match &self.state.claim {
            Claim::V3 {
                signature,
                timestamp,
            } => {
                check_age(timestamp, now)?;
                keyring.find(&[SignatureVersion::V3], |key, _| {
                    self.any_text(timestamp, |text| key.verify_v3(text, signature))
                })
            }
            Claim::V1OrV2 { signature, version } => {
                let either = &[SignatureVersion::V1, SignatureVersion::V2][..];
                let versions = version.as_ref().map_or(either, std::slice::from_ref);
                keyring.find(versions, |key, version| match version {
                    SignatureVersion::V1 => key.verify_v1(&self.body, signature),
                    _ => self.any_text("", |text| key.verify_v2(text, signature)),
                })
            }
        }
    }

    /// Whether `verifies` holds for one of the URIs.
    fn any_text(&self, timestamp: &str, verifies: impl Fn(SignedText<'_>) -> bool) -> bool {
        self.state.uris.iter().any(|uri| {
            verifies(SignedText {
                method: &self.state.method,
                uri,
                body: &self.body,
                timestamp,
            })
        })
    }
}

impl SignedRequest<Verified> {
    /// The body, byte for byte as it was signed.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Which secret signed it.
    #[must_use]
    pub fn matched(&self) -> &MatchedKey {
        &self.state.matched
    }

    /// The elements of the array, each as its raw JSON, none of them read yet.
    ///
    /// # Errors
    /// Every variant of [`NotAnArray`].
    pub fn notifications(&self) -> Result<Vec<&RawValue>, NotAnArray> {
        let elements: Vec<&RawValue> =
            serde_json::from_slice(&self.body).map_err(|_| NotAnArray::OtherJson)?;
        if elements.len() > ELEMENTS_MAX {
            return Err(NotAnArray::TooMany);
        }
        Ok(elements)
    }
}

impl<S: fmt::Debug> fmt::Debug for SignedRequest<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedRequest")
            .field("body_bytes", &self.body.len())
            .field("state", &self.state)
            .finish()
    }
}

/// Whether `timestamp` is a number and lies within [`MAX_AGE`] of `now`.
fn check_age(timestamp: &str, now: Millis) -> Result<(), SignatureError> {
    let digits = !timestamp.is_empty() && timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let signed_at = digits.then(|| timestamp.parse().ok().and_then(Millis::new));
    let signed_at = signed_at
        .flatten()
        .ok_or(SignatureError::TimestampNotANumber)?;
    if now.since(signed_at) > MAX_AGE {
        return Err(SignatureError::Stale);
    }
    if signed_at.since(now) > MAX_AGE {
        return Err(SignatureError::FromTheFuture);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
