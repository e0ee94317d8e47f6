//! The three versions of HubSpot's request signature, over the raw bytes of a request.
//!
//! | version | signed text, joined with nothing between | function |
//! |---|---|---|
//! | v1 | secret, body | SHA-256, hex |
//! | v2 | secret, method, URI, body | SHA-256, hex |
//! | v3 | method, decoded URI, body, timestamp | HMAC-SHA-256 keyed by the secret, base64 |
//!
//! # Source
//! HubSpot, "Validating requests".

use std::borrow::Cow;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A signature, decoded. Every version has 32 bytes.
pub(super) type Signature = [u8; 32];

/// What is signed besides the secret.
#[derive(Clone, Copy)]
pub(super) struct SignedText<'a> {
    /// In upper case: `POST`.
    pub(super) method: &'a str,
    /// The whole public URL, escapes as they came.
    pub(super) uri: &'a str,
    /// As it came.
    pub(super) body: &'a [u8],
    /// The timestamp header as it came; only v3 signs it.
    pub(super) timestamp: &'a str,
}

/// One client secret, ready to check with: keyed once, cloned for each check.
#[derive(Clone)]
pub(super) struct Key {
    mac: Hmac<Sha256>,
    prefixed: Sha256,
}

impl Key {
    pub(super) fn new(secret: &str) -> Self {
        Self {
            mac: Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length"),
            prefixed: Sha256::new_with_prefix(secret.as_bytes()),
        }
    }

    /// Whether `signature` is the v1 signature of `body`. Takes constant time.
    pub(super) fn verify_v1(&self, body: &[u8], signature: &Signature) -> bool {
        let digest = self.prefixed.clone().chain_update(body).finalize();
        digest.as_slice().ct_eq(signature).into()
    }

    /// Whether `signature` is the v2 signature of `text`. Takes constant time.
    pub(super) fn verify_v2(&self, text: SignedText<'_>, signature: &Signature) -> bool {
        let hasher = self.prefixed.clone();
        let hasher = hasher.chain_update(text.method).chain_update(text.uri);
        let digest = hasher.chain_update(text.body).finalize();
        digest.as_slice().ct_eq(signature).into()
    }

    /// Whether `signature` is the v3 signature of `text`. Takes constant time.
    pub(super) fn verify_v3(&self, text: SignedText<'_>, signature: &Signature) -> bool {
        let mut mac = self.mac.clone();
        mac.update(text.method.as_bytes());
        mac.update(decode_uri(text.uri).as_bytes());
        mac.update(text.body);
        mac.update(text.timestamp.as_bytes());
        mac.verify_slice(signature).is_ok()
    }
}

/// The escapes that HubSpot decodes in the URI before it signs v3, and what they stand for.
const DECODED: &[(&str, &str)] = &[
    ("%3A", ":"),
    ("%2F", "/"),
    ("%3F", "?"),
    ("%40", "@"),
    ("%21", "!"),
    ("%24", "$"),
    ("%27", "'"),
    ("%28", "("),
    ("%29", ")"),
    ("%2A", "*"),
    ("%2C", ","),
    ("%3B", ";"),
];

/// The URI in the form that v3 signs: the twelve listed escapes decoded, once, from left to right.
///
/// Everything else stays, `%20` and `%25` included. So do lower-case escapes (`%3a`): HubSpot lists
/// upper-case ones only, and accepting a second form would accept a text that HubSpot did not sign.
pub(super) fn decode_uri(uri: &str) -> Cow<'_, str> {
    if !uri.contains('%') {
        return Cow::Borrowed(uri);
    }
    let mut decoded = String::with_capacity(uri.len());
    let mut rest = uri;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        let escape = DECODED.iter().find(|(escape, _)| rest.starts_with(escape));
        let (taken, text) = escape.map_or((1, "%"), |(escape, text)| (escape.len(), *text));
        decoded.push_str(text);
        rest = &rest[taken..];
    }
    decoded.push_str(rest);
    Cow::Owned(decoded)
}

#[cfg(test)]
pub(super) mod tests;
