//! What a request claims by its signature headers, and why a claim is refused.

use actix_web::http::header::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::config::SignatureVersion;

use super::signature::Signature;

/// The header of v1 and v2: 64 hex digits.
pub const SIGNATURE: &str = "x-hubspot-signature";
/// Which of the two [`SIGNATURE`] is: `v1` or `v2`.
pub const SIGNATURE_VERSION: &str = "x-hubspot-signature-version";
/// The header of v3: padded standard base64 of 32 bytes.
pub const SIGNATURE_V3: &str = "x-hubspot-signature-v3";
/// When the request was signed: milliseconds since the Unix epoch, in decimal. Part of what v3 signs.
pub const TIMESTAMP: &str = "x-hubspot-request-timestamp";

/// What a request claims. A request that carries v3 claims v3 and nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct SignatureHeaders(pub(super) Claim);

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Claim {
    V3 {
        signature: Signature,
        timestamp: String,
    },
    /// `version` is `None` when the request does not say which of the two it is.
    V1OrV2 {
        signature: Signature,
        version: Option<SignatureVersion>,
    },
}

/// Why a request is not taken for HubSpot's. None of them quotes what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SignatureError {
    /// No signature header at all.
    #[error("the request has no signature header")]
    Missing,
    /// A signature header comes more than once.
    #[error("a signature header comes more than once")]
    Duplicated,
    /// A signature is not 64 hex digits (v1, v2) or base64 of 32 bytes (v3).
    #[error("the signature header cannot be decoded")]
    Malformed,
    /// `X-HubSpot-Signature-Version` is neither `v1` nor `v2`.
    #[error("the signature version is neither v1 nor v2")]
    UnknownVersion,
    /// v3 without `X-HubSpot-Request-Timestamp`.
    #[error("the request has a v3 signature but no timestamp")]
    TimestampMissing,
    /// The timestamp has something else than digits, or is beyond the year 9999.
    #[error("the request timestamp is not a number of milliseconds")]
    TimestampNotANumber,
    /// Signed more than [`super::MAX_AGE`] ago.
    #[error("the request timestamp is too old; check the clocks")]
    Stale,
    /// Signed more than [`super::MAX_AGE`] from now.
    #[error("the request timestamp lies in the future; check the clocks")]
    FromTheFuture,
    /// No app of the configuration takes this version.
    #[error("no app enables this signature version; see app.<name>.signatures")]
    NotEnabled,
    /// The path is ours, but its query is not that of a configured URL.
    #[error("the query is not that of receiver.public_url")]
    UnknownUrl,
    /// The bytes, the URL or the secret differ.
    #[error(
        "the signature matches no secret; check app.<name>.client_secrets and receiver.public_url"
    )]
    Mismatch,
}

impl SignatureError {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Duplicated => "duplicated",
            Self::Malformed => "malformed",
            Self::UnknownVersion => "unknown_version",
            Self::TimestampMissing => "timestamp_missing",
            Self::TimestampNotANumber => "timestamp_not_a_number",
            Self::Stale => "stale",
            Self::FromTheFuture => "from_the_future",
            Self::NotEnabled => "not_enabled",
            Self::UnknownUrl => "unknown_url",
            Self::Mismatch => "mismatch",
        }
    }
}

impl SignatureHeaders {
    /// Reads the four headers.
    ///
    /// A v3 header, even an empty one, makes it a v3 claim: a weaker signature beside it is not looked at.
    ///
    /// # Errors
    /// [`SignatureError::Missing`], [`SignatureError::Duplicated`], [`SignatureError::Malformed`],
    /// [`SignatureError::UnknownVersion`], [`SignatureError::TimestampMissing`] and
    /// [`SignatureError::TimestampNotANumber`] (for what is no text).
    pub fn read(headers: &HeaderMap) -> Result<Self, SignatureError> {
        let old = single(headers, SIGNATURE)?;
        let version = single(headers, SIGNATURE_VERSION)?;
        let v3 = single(headers, SIGNATURE_V3)?;
        let timestamp = single(headers, TIMESTAMP)?;
        match (v3, old) {
            (Some(v3), _) => claim_v3(v3, timestamp),
            (None, Some(old)) => claim_v1_or_v2(old, version),
            (None, None) => Err(SignatureError::Missing),
        }
        .map(Self)
    }
}

/// The value of a header that may come at most once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, SignatureError> {
    let mut values = headers.get_all(name);
    let first = values.next();
    match values.next() {
        Some(_) => Err(SignatureError::Duplicated),
        None => Ok(first.map(|value| value.as_bytes())),
    }
}

fn claim_v3(signature: &[u8], timestamp: Option<&[u8]>) -> Result<Claim, SignatureError> {
    let signature = BASE64.decode(signature).ok().and_then(whole);
    let timestamp = timestamp.ok_or(SignatureError::TimestampMissing)?;
    let timestamp =
        std::str::from_utf8(timestamp).map_err(|_| SignatureError::TimestampNotANumber)?;
    Ok(Claim::V3 {
        signature: signature.ok_or(SignatureError::Malformed)?,
        timestamp: timestamp.to_owned(),
    })
}

fn claim_v1_or_v2(signature: &[u8], version: Option<&[u8]>) -> Result<Claim, SignatureError> {
    let signature = hex::decode(signature).ok().and_then(whole);
    let version = match version {
        None => None,
        Some(b"v1") => Some(SignatureVersion::V1),
        Some(b"v2") => Some(SignatureVersion::V2),
        Some(_) => return Err(SignatureError::UnknownVersion),
    };
    Ok(Claim::V1OrV2 {
        signature: signature.ok_or(SignatureError::Malformed)?,
        version,
    })
}

fn whole(bytes: Vec<u8>) -> Option<Signature> {
    bytes.try_into().ok()
}
