//! Limits, refusals, faults, latency and late reads.

use std::collections::BTreeSet;
use std::time::Duration;

use crm_relay::simulator::{
    Dials, Fault, Faults, Latency, Limits, PortalOptions, RandomFault, SimulatorOptions,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::desk::{Desk, PORTAL, read, strings};

#[tokio::test]
async fn the_call_beyond_the_limit_is_refused_and_counted() {
    let limits = Limits {
        burst: 3,
        search: 1,
        ..Limits::default()
    };
    let portals = vec![PortalOptions {
        limits,
        ..PortalOptions::default()
    }];
    let desk = Desk::with(SimulatorOptions {
        portals,
        ..SimulatorOptions::default()
    })
    .await;
    for left in ["2", "1", "0"] {
        let response = desk
            .send(Method::GET, "/crm/v3/owners", None)
            .await
            .unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(
            (
                response.status().as_u16(),
                header("x-hubspot-ratelimit-remaining").as_str()
            ),
            (200, left)
        );
        assert_eq!(
            (
                header("x-hubspot-ratelimit-max"),
                header("x-hubspot-ratelimit-interval-milliseconds")
            ),
            ("3".into(), "10000".into())
        );
    }
    let (status, refused) = desk.get("/crm/v3/owners").await;
    assert_eq!(
        (status, &refused["policyName"], &refused["errorType"]),
        (429, &json!("TEN_SECONDLY_ROLLING"), &json!("RATE_LIMIT"))
    );
    assert_eq!(
        desk.post("/crm/v3/objects/deals/search", json!({})).await.0,
        200
    );
    // The second within a second.
    let search = async || desk.post("/crm/v3/objects/deals/search", json!({})).await;
    let (mut status, mut refused) = search().await;
    for _ in 1..20 {
        if status != 200 {
            break;
        }
        (status, refused) = search().await;
    }
    assert_eq!((status, refused.get("policyName")), (429, None));
    let body = json!({"inputs": strings(&[1])});
    assert_eq!(
        desk.post("/crm/v4/associations/deals/contacts/batch/read", body)
            .await
            .0,
        207
    );
    assert_eq!(desk.control.counters(PORTAL).unwrap().rate_limited, 2);
}

#[tokio::test]
async fn a_batch_larger_than_the_dial_says_is_refused_as_a_whole() {
    let desk = Desk::start().await;
    desk.control.set_dials(Dials {
        batch_read_max: 2,
        ..Dials::default()
    });
    for path in [
        "/crm/v3/objects/contacts/batch/read",
        "/crm/v4/associations/deals/contacts/batch/read",
    ] {
        let body = |ids: &[u64]| json!({"inputs": strings(ids), "properties": []});
        let (status, error) = desk.post(path, body(&[1, 2, 3])).await;
        assert_eq!(
            (status, &error["category"]),
            (400, &json!("VALIDATION_ERROR"))
        );
        assert_eq!(desk.post(path, body(&[1, 2])).await.0 / 100, 2, "{path}");
    }
}

#[tokio::test]
async fn bad_tokens_and_missing_scopes_are_told_apart() {
    let desk = Desk::start().await;
    let url = format!("{}/crm/v3/owners", desk.simulator.base_url());
    let (status, error) = read(
        desk.client
            .get(url)
            .bearer_auth("wrong")
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        (status, &error["category"]),
        (401, &json!("INVALID_AUTHENTICATION"))
    );
    desk.control.set_revoked(PORTAL, true).unwrap();
    assert_eq!(
        desk.get("/crm/v3/owners").await.1["category"],
        "EXPIRED_AUTHENTICATION"
    );
    desk.control.set_revoked(PORTAL, false).unwrap();
    desk.control
        .set_missing_scopes(
            PORTAL,
            BTreeSet::from(["crm.objects.deals.read".to_owned()]),
        )
        .unwrap();
    let (status, error) = desk.get("/crm/v3/objects/deals").await;
    assert_eq!(
        (status, &error["context"]["requiredGranularScopes"]),
        (403, &json!(["crm.objects.deals.read"]))
    );
    assert_eq!(desk.get("/crm/v3/objects/contacts").await.0, 200);
}

#[tokio::test]
async fn faults_strike_as_told() {
    let desk = Desk::start().await;
    for (fault, status) in [(429, 429), (423, 423), (477, 477), (503, 503)] {
        desk.control.fail_next(Fault::Status(fault), "owners");
        assert_eq!(desk.get("/crm/v3/owners").await.0, status);
    }
    desk.control.fail_next(Fault::Reset, "");
    assert!(
        desk.send(Method::GET, "/crm/v3/owners", None)
            .await
            .is_err()
    );
    desk.control.fail_next(Fault::HalfBody, "");
    let half = desk
        .send(Method::GET, "/crm/v3/owners", None)
        .await
        .unwrap();
    assert!(half.bytes().await.is_err());
    desk.control.fail_next(Fault::Garbage, "");
    assert_eq!(desk.get("/crm/v3/owners").await, (200, Value::Null));
    let always = RandomFault {
        fault: Fault::Status(502),
        probability: 1.0,
        path: "owners".to_owned(),
    };
    desk.control.set_faults(Faults {
        random: vec![always],
        ..Faults::default()
    });
    assert_eq!(desk.get("/crm/v3/owners").await.0, 502);
    assert_eq!(desk.get("/crm/v3/objects/deals").await.0, 200);
    assert_eq!(desk.control.counters(PORTAL).unwrap().rate_limited, 0);
}

#[tokio::test]
async fn a_hanging_call_ends_with_the_callers_patience_and_latency_is_kept() {
    let desk = Desk::start().await;
    desk.control.fail_next(Fault::Hang, "");
    let url = format!("{}/crm/v3/owners", desk.simulator.base_url());
    let call = desk
        .client
        .get(url)
        .bearer_auth("pat-na1-simulator-8241")
        .timeout(Duration::from_secs(1))
        .send();
    assert!(call.await.unwrap_err().is_timeout());
    let slow = Duration::from_millis(60);
    desk.control.set_latency(Latency {
        min: slow,
        max: slow,
    });
    let start = std::time::Instant::now();
    assert_eq!(desk.get("/crm/v3/owners").await.0, 200);
    assert!(start.elapsed() >= slow);
    desk.simulator.stop().await;
}

#[tokio::test]
async fn a_stale_read_shows_what_was_and_misses_what_is_new() {
    let desk = Desk::start().await;
    let contact = desk.ids("contacts")[0];
    let before = desk
        .control
        .record(PORTAL, "contacts", contact)
        .unwrap()
        .unwrap()["properties"]["city"]
        .clone();
    desk.control
        .update(PORTAL, "contacts", contact, &[("city", "Atlantis")])
        .unwrap();
    let new = desk.control.create(PORTAL, "contacts", &[]).unwrap();
    let path = format!("/crm/v3/objects/contacts/{contact}?properties=city");
    desk.control.set_dials(Dials {
        stale_reads: Duration::from_secs(60),
        ..Dials::default()
    });
    assert_eq!(desk.get(&path).await.1["properties"]["city"], before);
    assert_eq!(
        desk.get(&format!("/crm/v3/objects/contacts/{new}")).await.0,
        404
    );
    desk.control.set_dials(Dials::default());
    assert_eq!(desk.get(&path).await.1["properties"]["city"], "Atlantis");
    assert_eq!(
        desk.get(&format!("/crm/v3/objects/contacts/{new}")).await.0,
        200
    );
}
