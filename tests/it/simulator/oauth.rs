//! The token endpoint, against HubSpot's specification and its live refusals.

use std::time::Duration;

use crm_relay::simulator::{OAuthOptions, PortalOptions, SimulatorOptions};
use serde_json::Value;

use super::desk::{Desk, PORTAL};

const LIFE: Duration = Duration::from_secs(2);

async fn desk() -> Desk {
    let oauth = OAuthOptions {
        life: LIFE,
        ..OAuthOptions::new("the-client-id", "hush", "na1-one")
    };
    let portal = PortalOptions {
        oauth: Some(oauth),
        ..PortalOptions::new(PORTAL)
    };
    Desk::with(SimulatorOptions {
        portals: vec![portal],
        ..SimulatorOptions::default()
    })
    .await
}

/// The reply to a form, whose fields are given as they travel.
async fn ask(desk: &Desk, path: &str, form: &str) -> (u16, Value) {
    let request = desk
        .client
        .post(format!("{}{path}", desk.simulator.base_url()))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(form.to_owned());
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// The status and the category of a read that carries `token`.
async fn read(desk: &Desk, token: &str) -> (u16, Value) {
    let url = format!("{}/crm/v3/owners", desk.simulator.base_url());
    let answer = desk
        .client
        .get(url)
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    (status, body["category"].clone())
}

fn form(client_id: &str, client_secret: &str, refresh_token: &str) -> String {
    format!(
        "grant_type=refresh_token&client_id={client_id}&client_secret={client_secret}&refresh_token={refresh_token}"
    )
}

#[tokio::test]
async fn every_family_gives_access_tokens_that_read_one_portal_and_end() {
    let desk = desk().await;
    let good = form("the-client-id", "hush", "na1-one");
    for path in [
        "/oauth/v1/token",
        "/oauth/v3/token",
        "/oauth/2026-03/token",
        "/oauth/2026-09/token",
    ] {
        let (status, reply) = ask(&desk, path, &good).await;
        assert_eq!(status, 200, "{path}: {reply}");
        assert_eq!(reply["token_type"], "bearer");
        assert_eq!(reply["expires_in"], 2);
        assert_eq!(reply["refresh_token"], "na1-one");
        assert_eq!(reply["hub_id"], PORTAL);
        let token = reply["access_token"].as_str().unwrap();
        assert_eq!(read(&desk, token).await.0, 200);
    }
    let counters = desk.control.counters(PORTAL).unwrap();
    assert_eq!((counters.refreshes, counters.refreshes_refused), (4, 0));

    let (_, reply) = ask(&desk, "/oauth/v3/token", &good).await;
    let token = reply["access_token"].as_str().unwrap();
    tokio::time::sleep(LIFE).await;
    assert_eq!(
        read(&desk, token).await,
        (401, "EXPIRED_AUTHENTICATION".into())
    );
    assert_eq!(
        read(&desk, "CJnobody").await,
        (401, "INVALID_AUTHENTICATION".into())
    );
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let desk = desk().await;
    for (form, status, error) in [
        (
            form("the-client-id", "hush", "na1-two"),
            "BAD_REFRESH_TOKEN",
            "invalid_grant",
        ),
        (
            form("another-id", "hush", "na1-one"),
            "BAD_CLIENT_ID",
            "invalid_client",
        ),
        (
            form("the-client-id", "loud", "na1-one"),
            "BAD_CLIENT_SECRET",
            "invalid_client",
        ),
        (
            "grant_type=password".to_owned(),
            "BAD_GRANT_TYPE",
            "unsupported_grant_type",
        ),
    ] {
        let (code, reply) = ask(&desk, "/oauth/2026-09/token", &form).await;
        assert_eq!(code, 400, "{reply}");
        assert_eq!(
            (&reply["status"], &reply["error"]),
            (&status.into(), &error.into())
        );
    }
}

#[tokio::test]
async fn uninstalling_ends_every_token_and_installing_gives_another() {
    let desk = desk().await;
    let (_, reply) = ask(
        &desk,
        "/oauth/v3/token",
        &form("the-client-id", "hush", "na1-one"),
    )
    .await;
    let token = reply["access_token"].as_str().unwrap();
    desk.control.uninstall(PORTAL).unwrap();
    assert_eq!(read(&desk, token).await.0, 401);
    let (status, _) = ask(
        &desk,
        "/oauth/v3/token",
        &form("the-client-id", "hush", "na1-one"),
    )
    .await;
    assert_eq!(status, 400);
    assert_eq!(desk.control.counters(PORTAL).unwrap().refreshes_refused, 1);
    let another = desk.control.reinstall(PORTAL).unwrap();
    let (status, _) = ask(
        &desk,
        "/oauth/v3/token",
        &form("the-client-id", "hush", &another),
    )
    .await;
    assert_eq!(status, 200);
}
