//! Signs requests as HubSpot does.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;

/// `X-HubSpot-Signature-v3` of a POST to `url` at `timestamp`, in ms.
pub fn v3(secret: &str, url: &str, body: &[u8], timestamp: &str) -> String {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret.as_bytes()).unwrap();
    for part in [b"POST", url.as_bytes(), body, timestamp.as_bytes()] {
        mac.update(part);
    }
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}
