//! The client against a server made by hand: what goes out, byte by byte, and what becomes of every reply.

mod hostile;
mod hosts;
mod server;

use base64::Engine as _;
use tokio::net::TcpListener;

use self::server::{Deed, Server};
use super::*;
use crate::config::Secret;
use crate::event::{Millis, ObjectTypeId, OwnerId};
use crate::hubspot::call::RateLimitPolicy;

const RECORDS: &str = r#"{"status":"COMPLETE","results":[{"id":"123","properties":{"email":"ann@example.com"},"createdAt":"2026-01-02T03:04:05.678Z","updatedAt":"2026-01-02T03:04:06.000Z","archived":false}],"completedAt":"2026-01-02T03:04:07.010Z"}"#;
fn client_of(server: &Server, timeout: Duration) -> HubSpot {
    client(&format!("http://{}", server.address), timeout)
}

fn client(base_url: &str, timeout: Duration) -> HubSpot {
    let options = HubSpotOptions {
        base_url: base_url.to_owned(),
        api_version: "2026-09".parse().unwrap(),
        timeout,
        tls: ClientTlsConfig::default(),
    };
    let source = TokenSource::Given("pat-na1-secret".to_owned().into());
    HubSpot::new(&options, tokens(&options, source), Arc::new(Metrics::new())).unwrap()
}

fn tokens(options: &HubSpotOptions, source: TokenSource) -> Arc<Tokens> {
    let tokens = Tokens::new(options, Arc::new(Metrics::new())).unwrap();
    let settings = PortalSettings {
        credential: Credential::AccessToken(source),
        paused: false,
    };
    tokens.set(&portal(), settings).unwrap();
    Arc::new(tokens)
}

fn portal() -> PortalId {
    PortalId::from("8241")
}

fn contacts() -> ObjectTypeId {
    ObjectTypeId::from_name("contact")
}

fn read_records() -> Call {
    Call::ReadRecords {
        object_type_id: contacts(),
        ids: vec!["123".into(), "999".into()],
        properties: vec!["email".into()],
        properties_with_history: vec![],
    }
}

fn read_record() -> Call {
    Call::ReadRecord {
        object_type_id: contacts(),
        id: "123".into(),
        properties: vec![],
    }
}

fn read_owner() -> Call {
    Call::ReadOwner {
        id: OwnerId::from("7"),
        archived: false,
    }
}

fn reply(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let mut reply =
        format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n").into_bytes();
    reply.extend_from_slice(body);
    reply
}

/// Makes `call` of a server that does `deed`; the answer, the request as sent, and the client.
async fn ask(call: &Call, deed: Deed) -> (Answered, String, HubSpot) {
    let server = Server::start(deed).await;
    let client = client_of(&server, Duration::from_secs(20));
    let answered = client.call(&portal(), call).await;
    let request = server.request.await.unwrap().unwrap();
    (answered, request, client)
}

async fn error_of(call: &Call, reply: Vec<u8>) -> CallError {
    ask(call, Deed::Reply(reply)).await.0.result.unwrap_err()
}

fn counted(client: &HubSpot, endpoint: &str, status: &str) -> u64 {
    let labels = [endpoint, status];
    client
        .metrics
        .hubspot_calls_total
        .with_label_values(&labels)
        .get()
}

#[tokio::test]
async fn a_batch_read_is_one_signed_post_and_its_reply_is_counted() {
    let limits = "x-hubspot-ratelimit-max: 190\r\nX-HubSpot-RateLimit-Remaining: 188\r\nX-HubSpot-RateLimit-Interval-Milliseconds: 10000\r\nX-HubSpot-RateLimit-Daily: 650000\r\nX-HubSpot-RateLimit-Daily-Remaining: 649999\r\n";
    let (answered, request, client) =
        ask(&read_records(), Deed::Reply(reply(207, limits, RECORDS))).await;

    let Answer::Records {
        records,
        completed_at,
    } = answered.result.unwrap()
    else {
        panic!("records were sent")
    };
    assert_eq!(records[0].properties["email"], "ann@example.com");
    assert_eq!(completed_at.to_string(), "2026-01-02T03:04:07.010Z");
    let expected = RateLimits {
        max: Some(190),
        remaining: Some(188),
        interval: Some(Duration::from_secs(10)),
        daily_max: Some(650_000),
        daily_remaining: Some(649_999),
    };
    assert_eq!(answered.limits, expected);

    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    for line in [
        "post /crm/objects/2026-09/0-1/batch/read?archived=false http/1.1",
        "authorization: bearer pat-na1-secret",
        "accept: application/json",
        "accept-encoding: gzip",
        "content-type: application/json",
        &format!("user-agent: crm-relay/{}", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(head.lines().any(|sent| sent == line), "{line} in {head}");
    }
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body["inputs"],
        serde_json::json!([{"id": "123"}, {"id": "999"}])
    );

    assert_eq!(counted(&client, "objects_batch_read", "2xx"), 1);
    assert_eq!(
        client
            .metrics
            .hubspot_records_per_read
            .get_sample_sum()
            .round(),
        2.0
    );
    let durations = &client.metrics.hubspot_call_duration_seconds;
    let timed = durations.with_label_values(&["objects_batch_read"]);
    assert_eq!(timed.get_sample_count(), 1);
}

#[tokio::test]
async fn a_merged_record_answers_under_the_survivors_id_and_by_the_replys_date() {
    let body =
        r#"{"id":"700","properties":{},"updatedAt":"2026-01-02T03:04:06.000Z","archived":false}"#;
    let date = "Date: Mon, 23 Nov 2026 10:00:00 GMT\r\n";
    let (answered, request, _) = ask(&read_record(), Deed::Reply(reply(200, date, body))).await;
    let Answer::Record {
        record,
        completed_at,
    } = answered.result.unwrap()
    else {
        panic!("a record was sent")
    };
    assert_eq!(record.unwrap().id.as_str(), "700");
    assert_eq!(Some(completed_at), Millis::parse("2026-11-23T10:00:00Z"));
    assert!(request.starts_with("GET /crm/objects/2026-09/0-1/123?archived=false HTTP/1.1\r\n"));

    let error = error_of(&read_record(), reply(200, "", body)).await;
    assert!(matches!(error, CallError::Unreadable { .. }), "{error}");
}

#[tokio::test]
async fn a_404_is_an_answer_only_where_hubspot_says_there_is_no_such_record() {
    let date = "Date: Mon, 23 Nov 2026 10:00:00 GMT\r\n";
    let body = r#"{"status":"error","message":"resource not found","correlationId":"c"}"#;
    let (answered, ..) = ask(&read_record(), Deed::Reply(reply(404, date, body))).await;
    let none = Answer::Record {
        record: None,
        completed_at: Millis::parse("2026-11-23T10:00:00Z").unwrap(),
    };
    assert_eq!(answered.result, Ok(none));
    let (answered, ..) = ask(&read_owner(), Deed::Reply(reply(404, "", body))).await;
    assert_eq!(answered.result, Ok(Answer::Owner(None)));

    let refused = CallError::Refused {
        status: 404,
        category: None,
    };
    let html = "<html><title>Error 404 Not Found</title></html>";
    assert_eq!(
        error_of(&read_record(), reply(404, date, html)).await,
        refused
    );
    assert_eq!(
        error_of(&read_records(), reply(404, date, body)).await,
        refused
    );
}

#[tokio::test]
async fn every_refusal_becomes_its_error_and_is_counted_by_class() {
    let wait = "Retry-After: 7\r\n";
    let retry_after = Some(Duration::from_secs(7));
    let scopes = r#"{"category":"MISSING_SCOPES","errors":[{"context":{"requiredGranularScopes":["crm.objects.contacts.read"]}}]}"#;
    let limited = |policy, retry_after| CallError::RateLimited {
        policy,
        retry_after,
    };
    let locked = |status| CallError::Locked {
        status,
        retry_after,
    };
    let forbidden = CallError::Forbidden {
        missing_scopes: vec!["crm.objects.contacts.read".to_owned()],
    };
    let refused = CallError::Refused {
        status: 400,
        category: Some("VALIDATION_ERROR".to_owned()),
    };
    let cases = [
        (reply(401, "", "{}"), CallError::Unauthorized, "4xx"),
        (reply(403, "", scopes), forbidden, "4xx"),
        (
            reply(400, "", r#"{"category":"VALIDATION_ERROR"}"#),
            refused,
            "4xx",
        ),
        (reply(423, wait, ""), locked(423), "4xx"),
        (reply(477, wait, "{}"), locked(477), "4xx"),
        (
            reply(429, "", "error code: 1015"),
            limited(RateLimitPolicy::TenSecondly, None),
            "429",
        ),
        (
            reply(429, wait, r#"{"policyName":"DAILY"}"#),
            limited(RateLimitPolicy::Daily, retry_after),
            "429",
        ),
        (
            reply(503, wait, "<html>"),
            CallError::Unavailable { status: 503 },
            "5xx",
        ),
        (
            reply(524, "", ""),
            CallError::Unavailable { status: 524 },
            "5xx",
        ),
    ];
    for (bytes, expected, class) in cases {
        let (answered, _, client) = ask(&read_records(), Deed::Reply(bytes)).await;
        assert_eq!(answered.result, Err(expected));
        assert_eq!(counted(&client, "objects_batch_read", class), 1);
    }
}

#[tokio::test]
async fn a_refusal_keeps_its_limits_and_its_meaning_though_its_body_breaks_off() {
    let bytes =
        b"HTTP/1.1 429 X\r\nx-hubspot-ratelimit-remaining: 0\r\ncontent-length: 900\r\n\r\n{\"pol";
    let (answered, ..) = ask(&read_records(), Deed::Reply(bytes.to_vec())).await;
    let expected = CallError::RateLimited {
        policy: RateLimitPolicy::TenSecondly,
        retry_after: None,
    };
    assert_eq!(answered.result, Err(expected));
    assert_eq!(answered.limits.remaining, Some(0));
}

#[tokio::test]
async fn a_refusal_whose_meaning_breaks_off_is_a_lost_connection() {
    let bytes = b"HTTP/1.1 404 X\r\ncontent-length: 900\r\n\r\n{\"category\":\"OBJECT_N";
    let (answered, ..) = ask(&read_records(), Deed::Reply(bytes.to_vec())).await;
    assert_eq!(answered.result, Err(CallError::Disconnected));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let error = error_of(
        &read_records(),
        reply(302, "Location: http://127.0.0.1:1/\r\n", ""),
    )
    .await;
    let expected = CallError::Refused {
        status: 302,
        category: None,
    };
    assert_eq!(error, expected);
}

#[tokio::test]
async fn half_a_body_and_no_reply_at_all_are_a_lost_connection() {
    let half = reply(200, "", RECORDS);
    for bytes in [half[..half.len() / 2 + 40].to_vec(), Vec::new()] {
        let (answered, _, client) = ask(&read_records(), Deed::Reply(bytes)).await;
        assert_eq!(answered.result, Err(CallError::Disconnected));
        assert_eq!(counted(&client, "objects_batch_read", "failed"), 1);
    }
}

#[tokio::test]
async fn nobody_listening_is_a_lost_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = client(&format!("http://{address}"), Duration::from_secs(20));
    let answered = client.call(&portal(), &read_records()).await;
    assert_eq!(answered.result, Err(CallError::Disconnected));
}

#[tokio::test]
async fn the_deadline_covers_the_headers_and_the_body() {
    let half = reply(200, "", RECORDS);
    for bytes in [Vec::new(), half[..half.len() - 10].to_vec()] {
        let server = Server::start(Deed::Hang(bytes)).await;
        let client = client_of(&server, Duration::from_millis(300));
        let answered = client.call(&portal(), &read_records()).await;
        assert_eq!(answered.result, Err(CallError::TimedOut));
    }
}

#[tokio::test]
async fn garbage_is_unreadable_and_not_quoted() {
    for body in ["ann@example.com", "", "{\"results\":\"ann@example.com\"}"] {
        let error = error_of(&read_records(), reply(200, "", body)).await;
        assert!(matches!(error, CallError::Unreadable { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("example"), "{error}");
    }
    let error = error_of(&read_records(), reply(202, "", RECORDS)).await;
    assert!(matches!(error, CallError::Unreadable { .. }), "{error}");
}

#[tokio::test]
async fn a_compressed_reply_is_read_and_bounded_by_its_real_size() {
    let zeros = gzip(GZIPPED_ZEROS);
    let encoded = "Content-Encoding: gzip\r\n";
    let (answered, ..) = ask(
        &read_records(),
        Deed::Reply(reply(200, encoded, gzip(GZIPPED_RECORDS))),
    )
    .await;
    assert!(answered.result.is_ok(), "{answered:?}");

    let server = Server::start(Deed::Reply(reply(200, encoded, &zeros))).await;
    let mut client = client_of(&server, Duration::from_secs(20));
    client.reply_bytes_max = 99_999;
    assert!(zeros.len() < 1_000, "it is small on the wire");
    let result = client.call(&portal(), &read_records()).await.result;
    let error = result.unwrap_err().to_string();
    assert!(error.contains("larger than 99999 bytes"), "{error}");
}

#[tokio::test]
async fn a_reply_at_the_bound_is_read_and_one_byte_more_is_not() {
    for (bound, is_read) in [(RECORDS.len(), true), (RECORDS.len() - 1, false)] {
        let server = Server::start(Deed::Reply(reply(200, "", RECORDS))).await;
        let mut client = client_of(&server, Duration::from_secs(20));
        client.reply_bytes_max = bound;
        let answered = client.call(&portal(), &read_records()).await;
        assert_eq!(answered.result.is_ok(), is_read, "{:?}", answered.result);
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_not_sent() {
    let client = client("http://127.0.0.1:1", Duration::from_secs(20));
    let stranger = PortalId::from("1");
    let answered = client.call(&stranger, &read_records()).await;
    assert_eq!(answered.result, Err(CallError::NoToken));

    let call = Call::ReadRecord {
        object_type_id: contacts(),
        id: "..".into(),
        properties: vec![],
    };
    let refused = CallError::Refused {
        status: 400,
        category: Some("CRM_RELAY_UNWRITABLE".to_owned()),
    };
    assert_eq!(client.call(&portal(), &call).await.result, Err(refused));
    for status in ["2xx", "4xx", "failed"] {
        assert_eq!(counted(&client, "object", status), 0);
    }
}

#[tokio::test]
async fn a_token_is_refreshed_from_its_file_after_a_401() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "old").unwrap();
    let source = TokenSource::Named(Secret::new(format!("file:{}", path.display())));
    let server = Server::start(Deed::Reply(reply(401, "", "{}"))).await;
    let options = HubSpotOptions {
        base_url: format!("http://{}", server.address),
        api_version: ApiVersion::V3,
        timeout: Duration::from_secs(20),
        tls: ClientTlsConfig::default(),
    };
    let tokens = tokens(&options, source);
    let client = HubSpot::new(&options, tokens, Arc::new(Metrics::new())).unwrap();

    let answered = client.call(&portal(), &read_records()).await;
    assert_eq!(answered.result, Err(CallError::Unauthorized));
    assert!(!client.refresh_token(&portal()).await);
    std::fs::write(&path, "new").unwrap();
    assert!(client.refresh_token(&portal()).await);
    let request = server.request.await.unwrap().unwrap();
    assert!(request.starts_with("POST /crm/v3/objects/0-1/batch/read?"));
    assert!(request.to_ascii_lowercase().contains("bearer old"));
}

#[test]
fn options_that_cannot_work_are_refused_without_showing_a_password() {
    let options = |base_url: &str, timeout| HubSpotOptions {
        base_url: base_url.to_owned(),
        api_version: ApiVersion::V3,
        timeout: Duration::from_secs(timeout),
        tls: ClientTlsConfig::default(),
    };
    let error = |options| {
        Tokens::new(&options, Arc::new(Metrics::new()))
            .unwrap_err()
            .to_string()
    };
    for base_url in [
        "",
        "api.hubapi.com",
        "ftp://api.hubapi.com",
        "https://user:hunter2@api.hubapi.com",
        "https://api.hubapi.com/?x=hunter2",
        "https://api.hubapi.com/#x",
        "data:text/plain,x",
    ] {
        let error = error(options(base_url, 30));
        assert!(
            error.starts_with("hubspot.base_url") && !error.contains("hunter2"),
            "{error}"
        );
    }
    assert!(error(options("https://api.hubapi.com", 0)).starts_with("hubspot.timeout"));
}

fn gzip(base64: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD
        .decode(base64)
        .unwrap()
}

/// [`RECORDS`], compressed.
const GZIPPED_RECORDS: &str = "H4sIAAAAAAACA32OTQ6CMBCF7zJraIaiYFhpDDuNLlhpXExgjE0KNG0xJoS7OxxAt+97fzOESHEKUMHxcr6e6qaGBDyHyUYR7zOYTlimc5GdHx37aFjIDNyTscJoGPb8od5ZVu3Yw5JA65kid4coWKMuUsxS1A3mFW4q3Kqi3N2kb3LdH1uhEHG1kW9f5s3y40k28PKQgXGd+50tFWaSXb7qBQ/A3wAAAA==";
/// 100,000 zero bytes, compressed.
const GZIPPED_ZEROS: &str = "H4sIAAAAAAACA+3BMQEAAADCoPVPbQ0PoAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIBXA32VEdSghgEA";
