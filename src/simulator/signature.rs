//! Signs requests as HubSpot does. Written on its own, from HubSpot's "Validating requests": the receiver's check is
//! tested against this, so the two share no code.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// v1: SHA-256 of client secret and body, lower-case hex.
pub(crate) fn v1(secret: &str, body: &[u8]) -> String {
    let hash = Sha256::new().chain_update(secret).chain_update(body);
    hex::encode(hash.finalize())
}

/// v2: SHA-256 of client secret, method, URI and body, lower-case hex.
pub(crate) fn v2(secret: &str, uri: &str, body: &[u8]) -> String {
    let hash = Sha256::new()
        .chain_update(secret)
        .chain_update("POST")
        .chain_update(uri);
    hex::encode(hash.chain_update(body).finalize())
}

/// v3: HMAC-SHA-256 of method, URI, body and timestamp, base64. `timestamp` is milliseconds since the epoch.
pub(crate) fn v3(secret: &str, uri: &str, body: &[u8], timestamp: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(b"POST");
    mac.update(decode(uri).as_bytes());
    mac.update(body);
    mac.update(timestamp.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// The sequences HubSpot decodes in the URI before it signs, and no others.
const DECODED: [(&str, &str); 12] = [
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

/// One pass from left to right, so that what was decoded is not decoded again.
fn decode(uri: &str) -> String {
    let mut decoded = String::with_capacity(uri.len());
    let mut rest = uri;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = DECODED.iter().find(|(code, _)| rest.starts_with(code));
        let (text, width) = known.map_or(("%", 1), |(code, text)| (*text, code.len()));
        decoded.push_str(text);
        rest = &rest[width..];
    }
    decoded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"{\"example_field\":\"example_value\"}";
    const URI: &str = "https://www.example.com/webhook_uri";
    const SECRET: &str = "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy";

    #[test]
    fn signatures_equal_hubspots_examples() {
        let v1_body = br#"[{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,"subscriptionType":"contact.creation","attemptNumber":0,"objectId":123,"changeSource":"CRM","changeFlag":"NEW","appId":54321}]"#;
        assert_eq!(
            v1(SECRET, v1_body),
            "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de"
        );
        assert_eq!(
            v2(SECRET, URI, BODY),
            "9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900"
        );
        let v3_body = b"{'example_field':'example_value'}";
        assert_eq!(
            v3(SECRET, URI, v3_body, "1693657560000"),
            "K36dawei4A+QBNolUOqo7s91KQDWQ5MXZ/QufNYuk/Y="
        );
    }

    #[test]
    fn v3_signs_the_decoded_uri() {
        let uri = "https://example.com/api/hubspot/webhooks?src=hs%3Aapp%2Fv3&x=%28a%29";
        let signature = v3(
            "autopilot-test-client-secret-0001",
            uri,
            b"[]",
            "1790000004000",
        );
        assert_eq!(signature, "G8ddQlikFQ0ScZOZn+MHQ0E3WCV7vOJTzKlvrkvbvuk=");
        assert_eq!(decode("a%253A%20%3a%"), "a%253A%20%3a%");
    }
}
