//! A request before anybody knows whose it is: whatever stands in line, headers and body, it is verified or refused, and
//! what is verified was signed with the secret.
//!
//! The input is lines: path and query, method, then the values of the four headers; the rest is the body.
#![no_main]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use crm_relay::config::{AppConfig, Secret, SignatureVersion};
use crm_relay::event::Millis;
use crm_relay::ingress::{
    Keyring, PublicUrls, SIGNATURE, SIGNATURE_V3, SIGNATURE_VERSION, SignatureHeaders,
    SignedRequest, TIMESTAMP, Unverified,
};
use libfuzzer_sys::fuzz_target;

const HEADERS: [&str; 4] = [SIGNATURE, SIGNATURE_VERSION, SIGNATURE_V3, TIMESTAMP];
/// When the fuzzer's requests arrive.
const NOW: i64 = 1_795_428_000_123;

struct Receiver {
    urls: PublicUrls,
    keyring: Keyring,
    /// Another secret, by which nothing that the first signed may pass.
    stranger: Keyring,
}

fn keyring(secret: &str) -> Keyring {
    use SignatureVersion::{V1, V2, V3};
    let app = AppConfig {
        client_id: None,
        client_secrets: vec![Secret::new(secret)],
        signatures: vec![V1, V2, V3],
    };
    Keyring::new(&BTreeMap::from([("app".to_owned(), app)])).unwrap()
}

fn receiver() -> &'static Receiver {
    static RECEIVER: OnceLock<Receiver> = OnceLock::new();
    RECEIVER.get_or_init(|| Receiver {
        urls: PublicUrls::new(&[
            "https://relay.example.com/webhooks/hubspot".to_owned(),
            "https://relay.example.com/with%20space?a=b&c=%2F".to_owned(),
        ])
        .unwrap(),
        keyring: keyring("crm-relay-fuzz-secret"),
        stranger: keyring("another-secret"),
    })
}

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(7, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (target, method) = (next(), next());
    let values: [&[u8]; 4] = std::array::from_fn(|_| next());
    let body = next();
    let (Ok(target), Ok(method)) = (std::str::from_utf8(target), std::str::from_utf8(method)) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for (name, value) in HEADERS.into_iter().zip(values) {
        if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_bytes(value)) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let receiver = receiver();
    let _ = receiver.urls.answers(path);
    let uris = receiver.urls.signed_uris(path, query);
    let Ok(claim) = SignatureHeaders::read(&headers) else {
        return;
    };
    let request = SignedRequest::<Unverified>::new(method, uris, claim, body.to_vec().into());
    let now = Millis::new(NOW).unwrap();
    let for_stranger = request.clone().verify(&receiver.stranger, now);
    if let Ok(verified) = request.verify(&receiver.keyring, now) {
        assert!(for_stranger.is_err(), "it passes by any secret");
        let _ = verified.notifications().map(|elements| elements.len());
    }
});
