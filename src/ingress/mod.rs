//! From a request off the wire to notifications that HubSpot really sent.
//!
//! Nothing here parses a body before its signature is verified: [`SignedRequest<Unverified>`] has one way
//! out, [`SignedRequest::verify`], and only [`SignedRequest<Verified>`] offers the body.
//!
//! - [`Keyring`]: the secrets of all apps, keyed once at start;
//! - [`PublicUrls`]: the URLs that HubSpot signs, from the configuration and never from `Host` or `X-Forwarded-*`;
//! - [`SignatureHeaders`]: what a request claims;
//! - `signature`: the three versions of HubSpot's signature, as pure functions over raw bytes.

mod headers;
mod keyring;
mod public_url;
mod request;
mod signature;

pub use headers::{
    SIGNATURE, SIGNATURE_V3, SIGNATURE_VERSION, SignatureError, SignatureHeaders, TIMESTAMP,
};
pub use keyring::{Keyring, KeyringError, MatchedKey};
pub use public_url::{PublicUrlError, PublicUrls};
pub use request::{ELEMENTS_MAX, MAX_AGE, NotAnArray, SignedRequest, Unverified, Verified};
