//! Which requests are taken for HubSpot's.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::config::{AppConfig, Secret};
use crate::ingress::{PublicUrls, SIGNATURE, SIGNATURE_V3, SIGNATURE_VERSION, TIMESTAMP};

const NOW: i64 = 1_760_000_000_000;
const BODY: &str = r#"[{"portalId":3}]"#;
const URL: &str = "https://relay.example.com:8443/hubspot/webhook";

fn now() -> Millis {
    Millis::new(NOW).unwrap()
}

fn v3(secret: &str, uri: &str, timestamp: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("POST{uri}{BODY}{timestamp}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}

fn v1(secret: &str) -> String {
    hex::encode(Sha256::digest(format!("{secret}{BODY}")))
}

fn v2(secret: &str) -> String {
    hex::encode(Sha256::digest(format!("{secret}POST{URL}{BODY}")))
}

fn app(secrets: &[&str], signatures: &[SignatureVersion]) -> AppConfig {
    AppConfig {
        client_id: None,
        client_secrets: secrets.iter().map(|&secret| Secret::new(secret)).collect(),
        signatures: signatures.to_vec(),
    }
}

fn keyring(apps: &[(&str, AppConfig)]) -> Keyring {
    let apps = apps
        .iter()
        .map(|(name, app)| ((*name).to_owned(), app.clone()));
    Keyring::new(&apps.collect()).unwrap()
}

fn v3_keyring() -> Keyring {
    keyring(&[("crm", app(&["secret"], &[SignatureVersion::V3]))])
}

fn every_version() -> Keyring {
    use SignatureVersion::{V1, V2, V3};
    keyring(&[("crm", app(&["secret"], &[V1, V2, V3]))])
}

fn request_to(
    query: Option<&str>,
    headers: &[(&str, &str)],
) -> Result<SignedRequest<Unverified>, SignatureError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    let urls = PublicUrls::new(&[URL.to_owned()]).unwrap();
    let uris = urls.signed_uris("/hubspot/webhook", query);
    let headers = SignatureHeaders::read(&map)?;
    Ok(SignedRequest::new("POST", uris, headers, BODY.into()))
}

fn verify(keyring: &Keyring, headers: &[(&str, &str)]) -> Result<MatchedKey, SignatureError> {
    let verified = request_to(None, headers)?.verify(keyring, now())?;
    Ok(verified.matched().clone())
}

fn verify_at(timestamp: &str) -> Result<MatchedKey, SignatureError> {
    let signature = v3("secret", URL, timestamp);
    let headers = [(SIGNATURE_V3, &*signature), (TIMESTAMP, timestamp)];
    verify(&v3_keyring(), &headers)
}

#[test]
fn a_timestamp_within_five_minutes_on_either_side_is_taken() {
    let edge = 300_000;
    for timestamp in [NOW, NOW - edge, NOW + edge] {
        assert!(verify_at(&timestamp.to_string()).is_ok(), "{timestamp}");
    }
    assert_eq!(
        verify_at(&(NOW - edge - 1).to_string()),
        Err(SignatureError::Stale)
    );
    assert_eq!(
        verify_at(&(NOW + edge + 1).to_string()),
        Err(SignatureError::FromTheFuture)
    );
}

#[test]
fn a_timestamp_that_is_no_number_is_refused_however_well_it_is_signed() {
    for timestamp in [
        "",
        "NaN",
        "1760000000000.0",
        "+1760000000000",
        "-1",
        "1.76e12",
        "1760000000000x",
        "99999999999999999999",
        "9999999999999999",
    ] {
        assert_eq!(
            verify_at(timestamp),
            Err(SignatureError::TimestampNotANumber),
            "{timestamp}"
        );
    }
}

#[test]
fn scheme_host_port_query_and_trailing_slash_are_signed() {
    let timestamp = NOW.to_string();
    for uri in [
        "http://relay.example.com:8443/hubspot/webhook",
        "https://relay.example.com/hubspot/webhook",
        "https://other.example.com:8443/hubspot/webhook",
        "https://relay.example.com:8443/hubspot/webhook/",
        "https://relay.example.com:8443/hubspot/webhook?a=1",
    ] {
        let signature = v3("secret", uri, &timestamp);
        let headers = [(SIGNATURE_V3, &*signature), (TIMESTAMP, &*timestamp)];
        assert_eq!(
            verify(&v3_keyring(), &headers),
            Err(SignatureError::Mismatch),
            "{uri}"
        );
    }
}

#[test]
fn the_query_is_signed_as_the_request_line_has_it_after_decoding() {
    let timestamp = NOW.to_string();
    let verify = |query, signed: &str| {
        let signature = v3("secret", &format!("{URL}{signed}"), &timestamp);
        let headers = [(SIGNATURE_V3, &*signature), (TIMESTAMP, &*timestamp)];
        let request = request_to(Some(query), &headers).unwrap();
        request.verify(&v3_keyring(), now()).is_ok()
    };
    assert!(verify("b=%28x%29&a=%20%3a", "?b=(x)&a=%20%3a"));
    assert!(!verify("b=%28x%29", "?b=%28x%29"));
    assert!(!verify("a=1&b=2", "?b=2&a=1"));
}

#[test]
fn a_rotated_secret_and_another_app_are_found_and_named() {
    let keyring = keyring(&[
        ("billing", app(&["b"], &[SignatureVersion::V3])),
        ("crm", app(&["new", "old"], &[SignatureVersion::V3])),
    ]);
    let timestamp = NOW.to_string();
    for (secret, app, secret_index) in [("b", "billing", 0), ("new", "crm", 0), ("old", "crm", 1)] {
        let signature = v3(secret, URL, &timestamp);
        let headers = [(SIGNATURE_V3, &*signature), (TIMESTAMP, &*timestamp)];
        let matched = verify(&keyring, &headers).unwrap();
        assert_eq!((&*matched.app, matched.secret_index), (app, secret_index));
    }
}

#[test]
fn a_wrong_v3_is_not_saved_by_a_right_v1() {
    let timestamp = NOW.to_string();
    let right_v1 = v1("secret");
    let wrong_v3 = v3("other", URL, &timestamp);
    for signature in [&*wrong_v3, "", "!"] {
        let headers = [
            (SIGNATURE, &*right_v1),
            (SIGNATURE_VERSION, "v1"),
            (SIGNATURE_V3, signature),
            (TIMESTAMP, &*timestamp),
        ];
        let refusal = verify(&every_version(), &headers).unwrap_err();
        let expected = if signature == wrong_v3 {
            SignatureError::Mismatch
        } else {
            SignatureError::Malformed
        };
        assert_eq!(refusal, expected);
    }
}

#[test]
fn v1_and_v2_pass_only_where_an_app_enables_them() {
    for (signature, version) in [(v1("secret"), "v1"), (v2("secret"), "v2")] {
        let headers = [(SIGNATURE, &*signature), (SIGNATURE_VERSION, version)];
        assert!(verify(&every_version(), &headers).is_ok(), "{version}");
        assert_eq!(
            verify(&v3_keyring(), &headers),
            Err(SignatureError::NotEnabled)
        );
        assert!(verify(&every_version(), &headers[..1]).is_ok(), "{version}");
    }
    let crossed = [(SIGNATURE, &*v1("secret")), (SIGNATURE_VERSION, "v2")];
    assert_eq!(
        verify(&every_version(), &crossed),
        Err(SignatureError::Mismatch)
    );
}

#[test]
fn an_app_without_v3_never_verifies_v3() {
    let only_v1 = keyring(&[("crm", app(&["secret"], &[SignatureVersion::V1]))]);
    let timestamp = NOW.to_string();
    let signature = v3("secret", URL, &timestamp);
    let headers = [(SIGNATURE_V3, &*signature), (TIMESTAMP, &*timestamp)];
    assert_eq!(verify(&only_v1, &headers), Err(SignatureError::NotEnabled));
    let both = keyring(&[
        ("crm", app(&["secret"], &[SignatureVersion::V1])),
        ("other", app(&["other"], &[SignatureVersion::V3])),
    ]);
    assert_eq!(verify(&both, &headers), Err(SignatureError::Mismatch));
}

#[test]
fn headers_that_are_missing_doubled_or_undecodable_are_refused_by_name() {
    let timestamp = NOW.to_string();
    let v3 = v3("secret", URL, &timestamp);
    let v1 = v1("secret");
    let short = &v1[..62];
    let cases: [(&[(&str, &str)], SignatureError); 10] = [
        (&[], SignatureError::Missing),
        (&[(TIMESTAMP, &timestamp)], SignatureError::Missing),
        (&[(SIGNATURE_V3, &v3)], SignatureError::TimestampMissing),
        (
            &[
                (SIGNATURE_V3, &v3),
                (SIGNATURE_V3, &v3),
                (TIMESTAMP, &timestamp),
            ],
            SignatureError::Duplicated,
        ),
        (
            &[
                (SIGNATURE_V3, &v3),
                (TIMESTAMP, &timestamp),
                (TIMESTAMP, &timestamp),
            ],
            SignatureError::Duplicated,
        ),
        (
            &[(SIGNATURE_V3, &v3[..40]), (TIMESTAMP, &timestamp)],
            SignatureError::Malformed,
        ),
        (
            &[
                (SIGNATURE_V3, v3.trim_end_matches('=')),
                (TIMESTAMP, &timestamp),
            ],
            SignatureError::Malformed,
        ),
        (&[(SIGNATURE, short)], SignatureError::Malformed),
        (&[(SIGNATURE, "xyz")], SignatureError::Malformed),
        (
            &[(SIGNATURE, &v1), (SIGNATURE_VERSION, "v4")],
            SignatureError::UnknownVersion,
        ),
    ];
    for (headers, expected) in cases {
        assert_eq!(verify(&every_version(), headers), Err(expected));
    }
}

#[test]
fn a_query_that_no_configured_url_has_is_refused() {
    let urls = PublicUrls::new(&[format!("{URL}?k=1")]).unwrap();
    let mut map = HeaderMap::new();
    map.insert(
        HeaderName::from_static(SIGNATURE),
        HeaderValue::from_str(&v1("secret")).unwrap(),
    );
    let headers = SignatureHeaders::read(&map).unwrap();
    let uris = urls.signed_uris("/hubspot/webhook", None);
    let request = SignedRequest::new("POST", uris, headers, BODY.into());
    assert_eq!(
        request.verify(&every_version(), now()).unwrap_err(),
        SignatureError::UnknownUrl
    );
}

#[test]
fn only_an_array_has_notifications() {
    let verified = |body: Bytes| {
        let signature = hex::encode(Sha256::digest([b"secret", &body[..]].concat()));
        let mut map = HeaderMap::new();
        map.insert(
            HeaderName::from_static(SIGNATURE),
            HeaderValue::from_str(&signature).unwrap(),
        );
        let headers = SignatureHeaders::read(&map).unwrap();
        let request = SignedRequest::new("POST", vec![URL.to_owned()], headers, body);
        request.verify(&every_version(), now()).unwrap()
    };
    let array = verified(r#" [ {"a": 1} , [2], "\ud800" ] "#.into());
    let elements: Vec<_> = array.notifications().unwrap();
    let elements: Vec<_> = elements.iter().map(|element| element.get()).collect();
    assert_eq!(elements, [r#"{"a": 1}"#, "[2]", r#""\ud800""#]);
    assert!(verified("[]".into()).notifications().unwrap().is_empty());
    for body in ["", "{}", "null", "[1", "[1]x", "\u{feff}[]"] {
        let refusal = verified(body.into()).notifications().unwrap_err();
        assert_eq!(refusal, NotAnArray::OtherJson, "{body}");
    }
    let many = format!("[{}0]", "0,".repeat(ELEMENTS_MAX));
    let refusal = verified(many.into()).notifications().unwrap_err();
    assert_eq!(refusal, NotAnArray::TooMany);
}

#[test]
fn debug_output_has_neither_body_nor_signature() {
    let request = request_to(None, &[(SIGNATURE, &v1("secret"))]).unwrap();
    let text = format!("{request:?}");
    assert!(
        !text.contains("portalId") && !text.contains(&v1("secret")),
        "{text}"
    );
}
