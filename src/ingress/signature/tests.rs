//! The published test vectors, and the traps around them.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Vector {
    name: String,
    version: String,
    secret: String,
    method: String,
    uri: Option<String>,
    request_uri: Option<String>,
    body: String,
    timestamp: Option<String>,
    signature: String,
}

impl Vector {
    fn verifies(&self, body: &[u8]) -> bool {
        let key = Key::new(&self.secret);
        // What the request line has, where it differs from what HubSpot signs.
        let uri = self.request_uri.as_ref().or(self.uri.as_ref());
        let text = SignedText {
            method: &self.method,
            uri: uri.map_or("", String::as_str),
            body,
            timestamp: self.timestamp.as_deref().unwrap_or(""),
        };
        let hex = || hex::decode(&self.signature).unwrap().try_into().unwrap();
        match self.version.as_str() {
            "v1" => key.verify_v1(body, &hex()),
            "v2" => key.verify_v2(text, &hex()),
            "v3" => key.verify_v3(text, &base64(&self.signature)),
            version => panic!("{version}"),
        }
    }
}

fn base64(text: &str) -> Signature {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(text).unwrap().try_into().unwrap()
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("../../../tests/vectors/signatures.json")).unwrap()
}

#[test]
fn every_vector_verifies_and_the_undecoded_one_does_not() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 11);
    for vector in vectors {
        let good = !vector.name.ends_with("must-fail");
        assert_eq!(
            vector.verifies(vector.body.as_bytes()),
            good,
            "{}",
            vector.name
        );
    }
}

#[test]
fn the_twelve_escapes_are_decoded_once_and_nothing_else() {
    assert_eq!(
        decode_uri("%3A%2F%3F%40%21%24%27%28%29%2A%2C%3B"),
        ":/?@!$'()*,;"
    );
    for kept in [
        "%20%26%3D%2B%23%25%C3%AB",
        "%3a%2f%2a",
        "%253A",
        "%",
        "%3",
        "%%",
        "plain",
        "",
    ] {
        assert_eq!(decode_uri(kept), kept);
    }
    assert_eq!(decode_uri("%%3Aé%3"), "%:é%3");
}

#[test]
fn bodies_are_signed_as_they_came_and_not_as_json_would_rewrite_them() {
    for (raw, rewritten) in [
        (r#"[{"a":"\u00eb"}]"#, r#"[{"a":"ë"}]"#),
        (r#"[{"a":"\/"}]"#, r#"[{"a":"/"}]"#),
        (r#"[{"a":1.0}]"#, r#"[{"a":1}]"#),
        (r#"[{"a": 1}]"#, r#"[{"a":1}]"#),
    ] {
        let text = |body: &'static str| SignedText {
            method: "POST",
            uri: "https://relay.example.com/p",
            body: body.as_bytes(),
            timestamp: "1760000001000",
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(b"secret").unwrap();
        mac.update(format!("POSThttps://relay.example.com/p{raw}1760000001000").as_bytes());
        let signature = mac.finalize().into_bytes().into();
        assert!(Key::new("secret").verify_v3(text(raw), &signature));
        assert!(!Key::new("secret").verify_v3(text(rewritten), &signature));
    }
}

proptest! {
    #[test]
    fn flipping_any_bits_of_any_byte_breaks_every_signature(at: prop::sample::Index, flip in 1u8..) {
        for vector in vectors().into_iter().filter(|vector| !vector.body.is_empty()) {
            let mut body = vector.body.clone().into_bytes();
            let at = at.index(body.len());
            body[at] ^= flip;
            prop_assert!(!vector.verifies(&body), "{}", vector.name);
        }
    }

    #[test]
    fn decoding_never_panics_and_never_lengthens(uri in "(%[0-9A-Fa-f]{0,2}|\\PC){0,40}") {
        prop_assert!(decode_uri(&uri).len() <= uri.len());
    }
}
