//! OAuth portals against a token endpoint made by hand: how often it is asked, and what becomes of its answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::config::{ClientTlsConfig, Secret};

/// How long the endpoint takes.
const LATENCY: Duration = Duration::from_millis(30);

/// A token endpoint. `answers` has a status and a body for each request, the last for all that follow.
struct Server {
    options: HubSpotOptions,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answers: Vec<(u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4_096];
                let mut length = 0;
                while !String::from_utf8_lossy(&request[..length]).contains("refresh_token=") {
                    length += stream.read(&mut request[length..]).await.unwrap();
                }
                let form = String::from_utf8_lossy(&request[..length]).into_owned();
                let at = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(form);
                    (seen.len() - 1).min(answers.len() - 1)
                };
                tokio::time::sleep(LATENCY).await;
                let (status, body) = &answers[at];
                let reply = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                // A caller that went away is no failure of the server's.
                let _ = stream.write_all(reply.as_bytes()).await;
            }
        });
        let options = HubSpotOptions {
            base_url: format!("http://{address}"),
            api_version: "2026-09".parse().unwrap(),
            timeout: Duration::from_secs(20),
            tls: ClientTlsConfig::default(),
        };
        Self { options, asked }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// A portal with the refresh token `na1-one`.
    fn tokens(&self, secrets: &[&str], keep: Option<Keep>) -> Arc<Tokens> {
        let tokens = Tokens::new(&self.options, Arc::new(Metrics::new())).unwrap();
        let settings = settings("na1-one", secrets, keep);
        tokens.set(&portal(), settings).unwrap();
        Arc::new(tokens)
    }
}

fn settings(token: &str, secrets: &[&str], keep: Option<Keep>) -> PortalSettings {
    let app = OAuthApp {
        name: "main".to_owned(),
        client_id: "id".to_owned(),
        client_secrets: secrets.iter().map(|secret| Secret::new(*secret)).collect(),
    };
    PortalSettings {
        credential: Credential::RefreshToken {
            token: TokenSource::Given(token.to_owned().into()),
            app: Arc::new(app),
            keep,
        },
        paused: false,
    }
}

fn portal() -> PortalId {
    PortalId::from("8241")
}

fn grant(access_token: &str, refresh_token: &str) -> (u16, String) {
    let body = format!(
        r#"{{"access_token":"{access_token}","refresh_token":"{refresh_token}","expires_in":1800,"hub_id":8241,"token_type":"bearer"}}"#
    );
    (200, body)
}

fn bad_refresh_token() -> (u16, String) {
    let body = r#"{"status":"BAD_REFRESH_TOKEN","error":"invalid_grant"}"#;
    (400, body.to_owned())
}

async fn advance(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Waits for a renewal that nobody waits for.
async fn until(reached: impl Fn() -> bool) {
    for _ in 0..200 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain");
}

#[tokio::test]
async fn a_hundred_calls_at_once_ask_for_one_token_by_the_documented_form() {
    let server = Server::start(vec![grant("CJ-1", "na1-one")]).await;
    let tokens = server.tokens(&["hush"], None);
    let portal = portal();
    let calls = (0..100).map(|_| tokens.authorization(&portal));
    let calls = futures_util::future::join_all(calls).await;
    assert!(
        calls
            .iter()
            .all(|call| call.as_ref().unwrap() == "Bearer CJ-1")
    );
    assert_eq!(server.asked(), 1);
    let asked = server.asked.lock().unwrap()[0].clone();
    assert!(
        asked.starts_with("POST /oauth/2026-09/token HTTP/1.1"),
        "{asked}"
    );
    let form = "grant_type=refresh_token&client_id=id&client_secret=hush&refresh_token=na1-one";
    assert!(asked.ends_with(form), "{asked}");
    assert!(
        asked
            .to_lowercase()
            .contains("content-type: application/x-www-form-urlencoded")
    );
    assert_eq!(tokens.status(&portal).unwrap().state, State::Ready);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_calls_go_on_with_the_old_one() {
    let server = Server::start(vec![grant("CJ-1", "na1-one"), grant("CJ-2", "na1-one")]).await;
    let tokens = server.tokens(&["hush"], None);
    let header = async || tokens.authorization(&portal()).await.unwrap();
    assert_eq!(header().await, "Bearer CJ-1");
    advance(Duration::from_secs(1_300)).await;
    assert_eq!(header().await, "Bearer CJ-1");
    assert_eq!(server.asked(), 1, "five twelfths of an hour are early");
    advance(Duration::from_secs(300)).await;
    for _ in 0..20 {
        assert_eq!(header().await, "Bearer CJ-1", "it still works");
    }
    until(|| server.asked() == 2).await;
    let mut tries = 0;
    while header().await != "Bearer CJ-2" {
        tries += 1;
        assert!(tries < 400, "the answer does not come");
        tokio::time::sleep(LATENCY / 5).await;
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_portal_that_is_not_asked_costs_nothing_and_its_next_call_waits_for_a_token() {
    let server = Server::start(vec![grant("CJ-1", "na1-one"), grant("CJ-2", "na1-one")]).await;
    let tokens = server.tokens(&["hush"], None);
    tokens.authorization(&portal()).await.unwrap();
    advance(Duration::from_secs(7_200)).await;
    tokio::time::sleep(LATENCY).await;
    assert_eq!(server.asked(), 1);
    assert_eq!(
        tokens.authorization(&portal()).await.unwrap(),
        "Bearer CJ-2"
    );
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_and_a_fresh_one_that_is_refused_is_not() {
    let server = Server::start(vec![grant("CJ-1", "na1-one"), grant("CJ-2", "na1-one")]).await;
    let tokens = server.tokens(&["hush"], None);
    let first = tokens.authorization(&portal()).await.unwrap();
    advance(Duration::from_secs(60)).await;
    for _ in 0..10 {
        tokens.answered(&portal(), &first, true);
    }
    let id = portal();
    let refreshes = (0..10).map(|_| tokens.refresh(&id));
    assert_eq!(futures_util::future::join_all(refreshes).await, [true; 10]);
    assert_eq!(server.asked(), 2);
    tokens.answered(&portal(), &first, true);
    let second = tokens.authorization(&portal()).await.unwrap();
    assert_eq!(
        second, "Bearer CJ-2",
        "a late 401 says nothing of the new one"
    );

    tokens.answered(&portal(), &second, true);
    assert!(!tokens.refresh(&portal()).await);
    assert_eq!(tokens.status(&portal()).unwrap().state, State::Refused);
    for _ in 0..5 {
        let refused = tokens.authorization(&portal()).await.unwrap_err();
        assert!(matches!(refused, CallError::Parked(_)), "{refused}");
    }
    assert_eq!(server.asked(), 2, "no storm");
}

#[tokio::test]
async fn a_bad_refresh_token_parks_the_portal_until_another_is_put() {
    let server = Server::start(vec![
        bad_refresh_token(),
        bad_refresh_token(),
        grant("CJ-1", "na1-two"),
    ])
    .await;
    let tokens = server.tokens(&["hush"], None);
    let changed = tokens.watch();
    for _ in 0..10 {
        let error = tokens.authorization(&portal()).await.unwrap_err();
        let CallError::Parked(reason) = error else {
            panic!("{error}");
        };
        assert!(
            reason.contains("reinstall the app in portal 8241"),
            "{reason}"
        );
    }
    assert_eq!(server.asked(), 1, "it is asked rarely");
    assert_eq!(tokens.status(&portal()).unwrap().state, State::Parked);
    advance(Duration::from_secs(16 * 60)).await;
    tokens.authorization(&portal()).await.unwrap_err();
    assert_eq!(server.asked(), 2, "though now and then");
    assert!(
        !tokens
            .set(&portal(), settings("na1-one", &["hush"], None))
            .unwrap()
    );
    tokens.authorization(&portal()).await.unwrap_err();
    assert_eq!(server.asked(), 2, "the same is nothing new");

    tokens
        .set(&portal(), settings("na1-two", &["hush"], None))
        .unwrap();
    assert_eq!(changed.next().await, portal());
    assert_eq!(tokens.status(&portal()).unwrap().state, State::Ready);
    assert_eq!(
        tokens.authorization(&portal()).await.unwrap(),
        "Bearer CJ-1"
    );
    assert!(server.asked.lock().unwrap()[2].ends_with("na1-two"));
}

#[tokio::test]
async fn while_the_endpoint_is_ill_it_is_asked_ever_more_rarely() {
    for (status, expected) in [
        (503, CallError::Unavailable { status: 503 }),
        (429, CallError::Unavailable { status: 429 }),
    ] {
        let server = Server::start(vec![(status, String::new())]).await;
        let tokens = server.tokens(&["hush"], None);
        for second in 0..120 {
            for _ in 0..10 {
                let error = tokens.authorization(&portal()).await.unwrap_err();
                assert_eq!(error, expected, "{second}");
            }
            advance(Duration::from_secs(1)).await;
        }
        let asked = server.asked();
        assert!((5..=14).contains(&asked), "{asked} times in two minutes");
        assert_eq!(tokens.status(&portal()).unwrap().state, State::Ready);
    }
}

#[tokio::test]
async fn a_renewal_that_fails_leaves_the_token_and_is_not_repeated_by_every_call() {
    let server = Server::start(vec![grant("CJ-1", "na1-one"), (503, String::new())]).await;
    let tokens = server.tokens(&["hush"], None);
    tokens.authorization(&portal()).await.unwrap();
    advance(Duration::from_secs(1_600)).await;
    for _ in 0..10 {
        assert_eq!(
            tokens.authorization(&portal()).await.unwrap(),
            "Bearer CJ-1"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn while_a_client_secret_is_rotated_the_right_one_is_found() {
    let wrong = (400, r#"{"status":"BAD_CLIENT_SECRET"}"#.to_owned());
    let server = Server::start(vec![wrong.clone(), grant("CJ-1", "na1-one")]).await;
    let tokens = server.tokens(&["old", "new"], None);
    assert_eq!(
        tokens.authorization(&portal()).await.unwrap(),
        "Bearer CJ-1"
    );
    assert_eq!(server.asked(), 2);

    let server = Server::start(vec![wrong]).await;
    let tokens = server.tokens(&["old", "new"], None);
    let error = tokens
        .authorization(&portal())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("app.main"), "{error}");
    assert_eq!(
        server.asked(),
        2,
        "a wrong client is not asked for by every call"
    );
    tokens.authorization(&portal()).await.unwrap_err();
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn another_refresh_token_is_kept_used_and_survives_a_change_of_the_rest() {
    let answers = vec![grant("CJ-1", "na1-two"), grant("CJ-2", "na1-two")];
    let server = Server::start(answers).await;
    let kept = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&kept);
    let keep = Keep::by(move |portal_id, token| {
        use secrecy::ExposeSecret as _;
        assert_eq!(portal_id, &portal());
        assert_eq!(token.used.expose_secret(), "na1-one");
        assert_eq!(token.given.expose_secret(), "na1-two");
        count.fetch_add(1, Ordering::Relaxed);
        Err("the disk is full".to_owned())
    });
    let tokens = server.tokens(&["hush"], Some(keep.clone()));
    tokens.authorization(&portal()).await.unwrap();
    assert_eq!(kept.load(Ordering::Relaxed), 1);

    // The file still has the old one, or has the new one by now: neither is a change of token.
    for token in ["na1-one", "na1-two"] {
        let again = settings(token, &["hush"], Some(keep.clone()));
        assert!(!tokens.set(&portal(), again).unwrap());
        assert_eq!(
            tokens.authorization(&portal()).await.unwrap(),
            "Bearer CJ-1"
        );
    }
    advance(Duration::from_secs(7_200)).await;
    assert_eq!(
        tokens.authorization(&portal()).await.unwrap(),
        "Bearer CJ-2"
    );
    assert!(server.asked.lock().unwrap()[1].ends_with("na1-two"));
    assert_eq!(kept.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_call_that_is_given_up_does_not_lose_the_answer() {
    let server = Server::start(vec![grant("CJ-1", "na1-one")]).await;
    let tokens = server.tokens(&["hush"], None);
    let given_up = tokio::time::timeout(LATENCY / 3, tokens.authorization(&portal())).await;
    assert!(given_up.is_err());
    tokio::time::sleep(LATENCY * 3).await;
    assert_eq!(
        tokens.authorization(&portal()).await.unwrap(),
        "Bearer CJ-1"
    );
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_paused_or_unknown_portal_sends_nothing() {
    let server = Server::start(vec![grant("CJ-1", "na1-one")]).await;
    let tokens = server.tokens(&["hush"], None);
    let changed = tokens.watch();
    let paused = PortalSettings {
        paused: true,
        ..settings("na1-one", &["hush"], None)
    };
    assert!(tokens.set(&portal(), paused).unwrap());
    assert_eq!(
        tokens.authorization(&portal()).await,
        Err(CallError::Paused)
    );
    assert_eq!(tokens.status(&portal()).unwrap().state, State::Paused);
    assert_eq!(changed.next().await, portal());
    tokens.remove(&portal());
    assert_eq!(
        tokens.authorization(&portal()).await,
        Err(CallError::NoToken)
    );
    assert_eq!(changed.next().await, portal());
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn who_waits_for_a_token_that_is_refused_tries_the_one_that_was_put_meanwhile() {
    let server = Server::start(vec![bad_refresh_token(), grant("CJ-1", "na1-two")]).await;
    let tokens = server.tokens(&["hush"], None);
    let waiting = tokio::spawn({
        let tokens = Arc::clone(&tokens);
        async move { tokens.authorization(&portal()).await }
    });
    until(|| server.asked() == 1).await;
    tokens
        .set(&portal(), settings("na1-two", &["hush"], None))
        .unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), "Bearer CJ-1");
}
