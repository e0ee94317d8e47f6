//! Only the configured host is called, whatever a reply says.

use std::time::Duration;

use tokio::net::TcpListener;

use super::server::Deed;
use super::*;

/// How long a call to somewhere else would have had time to come.
const A_WHILE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn no_url_in_a_reply_is_ever_called() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/stolen", trap.local_addr().unwrap());
    let paging = format!(r#""paging":{{"next":{{"after":"2","link":"{url}"}}}}"#);
    let file = format!(r#"{{"id":"7","name":"a","url":"{url}","access":"PUBLIC_INDEXABLE"}}"#);
    let owners = Call::ListOwners {
        archived: false,
        after: None,
    };
    let (read, sign) = (
        Call::ReadFile { id: "7".into() },
        Call::SignFile { id: "7".into() },
    );
    for (call, reply) in [
        (
            owners,
            reply(200, "", format!(r#"{{"results":[],{paging}}}"#)),
        ),
        (read, reply(200, "", file)),
        (
            sign,
            reply(
                200,
                "",
                format!(r#"{{"url":"{url}","expiresAt":"2026-11-23T10:00:00Z"}}"#),
            ),
        ),
        (
            read_record(),
            reply(302, &format!("Location: {url}\r\n"), ""),
        ),
        (
            read_record(),
            reply(307, &format!("Location: {url}\r\n"), ""),
        ),
        (
            read_record(),
            reply(
                401,
                &format!("Location: {url}\r\nRefresh: 0; url={url}\r\nLink: <{url}>; rel=next\r\n"),
                "{}",
            ),
        ),
    ] {
        // That they are answers shows that the URLs were read, where there is a field for them.
        let (answered, ..) = ask(&call, Deed::Reply(reply)).await;
        if let Ok(Answer::Owners { after, .. }) = &answered.result {
            assert_eq!(after.as_deref(), Some("2"));
        }
    }
    let called = tokio::time::timeout(A_WHILE, trap.accept()).await;
    assert!(called.is_err(), "somebody was called");
}

#[tokio::test]
async fn a_page_that_looks_like_a_url_is_asked_of_the_configured_host() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = trap.local_addr().unwrap();
    for after in [
        format!("http://{at}/"),
        format!("@{at}/"),
        format!("//{at}/?x#y"),
    ] {
        let owners = Call::ListOwners {
            archived: false,
            after: Some(after),
        };
        let (_, request, _) = ask(&owners, Deed::Reply(reply(200, "", r#"{"results":[]}"#))).await;
        let line = request.lines().next().unwrap();
        assert!(line.starts_with("GET /crm/owners/"), "{line}");
        assert!(!line.contains("//") && !line.contains('@'), "{line}");
    }
    let called = tokio::time::timeout(A_WHILE, trap.accept()).await;
    assert!(called.is_err(), "somebody was called");
}
