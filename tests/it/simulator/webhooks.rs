//! What changes lead to: signed batches, retries, duplicates; and the control API that makes and counts them.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use crm_relay::simulator::{Dials, Subscriptions, WebhookOptions};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::desk::{Desk, PORTAL, SECRET, SETTLED, Target, keys, read};

#[tokio::test]
async fn a_request_carries_both_signatures_over_its_raw_body() {
    let (desk, target) = (Desk::start().await, Target::start(Vec::new()).await);
    let webhook = WebhookOptions {
        signed_url: Some("https://relay.example.com/in?tenant=a%3Ab".to_owned()),
        ..target.webhook()
    };
    desk.simulator.set_webhook(webhook);
    desk.control
        .create(PORTAL, "contacts", &[("firstname", "Zoë")])
        .unwrap();
    assert!(desk.control.settled(SETTLED).await);
    let posted = &target.posted()[0];
    let mut v3 = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    v3.update(b"POSThttps://relay.example.com/in?tenant=a:b");
    v3.update(&posted.body);
    v3.update(posted.headers["x-hubspot-request-timestamp"].as_bytes());
    let v3 = base64::engine::general_purpose::STANDARD.encode(v3.finalize().into_bytes());
    assert_eq!(posted.headers["x-hubspot-signature-v3"], v3);
    let v1 = Sha256::new()
        .chain_update(SECRET)
        .chain_update(&posted.body)
        .finalize();
    assert_eq!(posted.headers["x-hubspot-signature"], hex::encode(v1));
    assert_eq!(posted.headers["x-hubspot-signature-version"], "v1");
}

#[tokio::test]
async fn notifications_have_the_keys_of_the_captures() {
    let (desk, target) = (Desk::start().await, Target::start(Vec::new()).await);
    desk.simulator.set_webhook(WebhookOptions {
        subscriptions: Subscriptions::all(),
        ..target.webhook()
    });
    let (a, b) = (desk.ids("contacts")[0], desk.ids("contacts")[1]);
    let company = desk.control.create(PORTAL, "companies", &[]).unwrap();
    desk.control
        .update(PORTAL, "contacts", a, &[("birthday", "2001-02-03")])
        .unwrap();
    desk.control
        .associate(PORTAL, ("contacts", a), ("companies", company), &[])
        .unwrap();
    desk.control.merge(PORTAL, "contacts", a, b).unwrap();
    desk.control.archive(PORTAL, "companies", company).unwrap();
    desk.control
        .gdpr_delete(PORTAL, desk.ids("contacts")[0])
        .unwrap();
    assert!(desk.control.settled(SETTLED).await);
    let all = target.notifications();
    let head = [
        "appId",
        "attemptNumber",
        "changeSource",
        "eventId",
        "occurredAt",
        "portalId",
        "sourceId",
        "subscriptionId",
        "subscriptionType",
    ];
    for (kind, own) in [
        ("company.creation", &["changeFlag", "objectId"][..]),
        (
            "object.creation",
            &["changeFlag", "objectId", "objectTypeId"],
        ),
        (
            "object.deletion",
            &["changeFlag", "objectId", "objectTypeId"],
        ),
        (
            "contact.propertyChange",
            &["objectId", "propertyName", "propertyValue"],
        ),
        (
            "object.propertyChange",
            &[
                "isSensitive",
                "objectId",
                "objectTypeId",
                "propertyName",
                "propertyValue",
            ],
        ),
        (
            "object.merge",
            &[
                "mergedObjectIds",
                "newObjectId",
                "numberOfPropertiesMoved",
                "objectId",
                "objectTypeId",
                "primaryObjectId",
            ],
        ),
        (
            "contact.associationChange",
            &[
                "associationRemoved",
                "associationType",
                "fromObjectId",
                "isPrimaryAssociation",
                "toObjectId",
            ],
        ),
        (
            "object.associationChange",
            &[
                "associationCategory",
                "associationRemoved",
                "associationType",
                "associationTypeId",
                "fromObjectId",
                "fromObjectTypeId",
                "isPrimaryAssociation",
                "toObjectId",
                "toObjectTypeId",
            ],
        ),
        ("contact.privacyDeletion", &["objectId"]),
    ] {
        let one = all
            .iter()
            .find(|one| one["subscriptionType"] == kind)
            .unwrap_or_else(|| panic!("no {kind}"));
        assert_eq!(
            keys(one),
            head.iter().chain(own).copied().collect(),
            "{kind}"
        );
        assert!(one["eventId"].as_u64().unwrap() <= u64::from(u32::MAX));
    }
    let birthday = all
        .iter()
        .find(|one| one["propertyName"] == "birthday")
        .unwrap();
    assert_eq!(birthday["propertyValue"], "981158400000");
    let sides: BTreeSet<&str> = all
        .iter()
        .filter_map(|one| one["associationType"].as_str())
        .collect();
    assert_eq!(
        sides,
        BTreeSet::from(["CONTACT_TO_COMPANY", "COMPANY_TO_CONTACT"])
    );
    let merge = all
        .iter()
        .find(|one| one["subscriptionType"] == "object.merge")
        .unwrap();
    assert_eq!(
        (
            &merge["objectId"],
            &merge["primaryObjectId"],
            &merge["mergedObjectIds"]
        ),
        (&merge["newObjectId"], &json!(a), &json!([b]))
    );
}

#[tokio::test]
async fn a_refused_batch_is_sent_again_with_a_higher_attempt_and_a_fresh_signature() {
    let (desk, target) = (Desk::start().await, Target::start(vec![503, 401]).await);
    desk.simulator.set_webhook(target.webhook());
    desk.control
        .create(PORTAL, "contacts", &[("firstname", "Ada")])
        .unwrap();
    assert!(desk.control.settled(SETTLED).await);
    let posted = target.posted();
    let attempts: Vec<Value> = posted
        .iter()
        .map(|one| one.notifications()[0]["attemptNumber"].clone())
        .collect();
    assert_eq!(attempts, [json!(0), json!(1), json!(2)]);
    let signatures: BTreeSet<&String> = posted
        .iter()
        .map(|one| &one.headers["x-hubspot-signature-v3"])
        .collect();
    assert_eq!(signatures.len(), 3);
    let acknowledged = desk.control.acknowledged(PORTAL).unwrap();
    assert!(acknowledged.len() == 2 && acknowledged.iter().all(|one| one.attempt == 2));
    let counts = desk.control.counters(PORTAL).unwrap().notifications;
    assert_eq!(
        (counts.made, counts.sent, counts.failed, counts.acknowledged),
        (2, 6, 4, 2)
    );
}

#[tokio::test]
async fn a_batch_is_dropped_after_its_last_retry() {
    let (desk, target) = (Desk::start().await, Target::start(vec![500; 3]).await);
    desk.simulator.set_webhook(WebhookOptions {
        retries_max: 2,
        ..target.webhook()
    });
    desk.control.create(PORTAL, "contacts", &[]).unwrap();
    assert!(desk.control.settled(SETTLED).await);
    assert_eq!(target.posted().len(), 3);
    assert_eq!(desk.control.dropped(PORTAL).unwrap(), [0]);
}

#[tokio::test]
async fn an_import_comes_in_full_batches_and_nothing_is_lost_or_made_up() {
    let (desk, target) = (Desk::start().await, Target::start(Vec::new()).await);
    desk.control.pause();
    desk.simulator.set_webhook(target.webhook());
    let ids = desk.control.import(PORTAL, "contacts", 60).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(target.posted().is_empty(), "it is paused");
    desk.control.resume();
    assert!(desk.control.settled(SETTLED).await);
    let counts = desk.control.counters(PORTAL).unwrap().notifications;
    let all = target.notifications();
    assert_eq!(all.len() as u64, counts.made);
    assert!(all.iter().all(|one| one["changeSource"] == "IMPORT"));
    let created = all
        .iter()
        .filter(|one| one["subscriptionType"] == "object.creation")
        .map(|one| one["objectId"].as_u64().unwrap());
    assert_eq!(created.collect::<BTreeSet<_>>(), ids.into_iter().collect());
    assert_eq!(
        target
            .posted()
            .iter()
            .map(|one| one.notifications().len())
            .max(),
        Some(100)
    );
}

#[tokio::test]
async fn duplicates_repeat_a_notification_unchanged() {
    let (desk, target) = (Desk::start().await, Target::start(Vec::new()).await);
    desk.simulator.set_webhook(target.webhook());
    desk.control.set_dials(Dials {
        duplicates: 1.0,
        reordering: 1.0,
        ..Dials::default()
    });
    desk.control.create(PORTAL, "contacts", &[]).unwrap();
    assert!(desk.control.settled(SETTLED).await);
    let all = target.notifications();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0], all[1]);
}

#[tokio::test]
async fn the_test_button_names_a_record_that_does_not_exist() {
    let (desk, target) = (Desk::start().await, Target::start(Vec::new()).await);
    desk.simulator.set_webhook(target.webhook());
    desk.control
        .test_button(PORTAL, "contact.propertyChange")
        .unwrap();
    assert!(desk.control.settled(SETTLED).await);
    let one = &target.notifications()[0];
    assert_eq!(
        (
            &one["eventId"],
            &one["objectId"],
            &one["changeFlag"],
            &one["propertyValue"]
        ),
        (
            &json!(100),
            &json!(123),
            &json!("NEW"),
            &json!("sample-value")
        )
    );
    assert_eq!(desk.get("/crm/v3/objects/contacts/123").await.0, 404);
}

#[tokio::test]
async fn writes_by_the_api_are_told_as_an_integrations() {
    let (desk, target) = (Desk::start().await, Target::start(Vec::new()).await);
    desk.simulator.set_webhook(target.webhook());
    let (status, made) = desk
        .post(
            "/crm/objects/2026-09/contacts",
            json!({"properties": {"email": "new@example.com"}}),
        )
        .await;
    assert_eq!(status, 201);
    let (status, taken) = desk
        .post(
            "/crm/v3/objects/contacts",
            json!({"properties": {"email": "new@example.com"}}),
        )
        .await;
    assert_eq!((status, &taken["category"]), (409, &json!("CONFLICT")));
    let (status, invalid) = desk
        .post(
            "/crm/v3/objects/contacts",
            json!({"properties": {"nonsense": "1"}}),
        )
        .await;
    assert_eq!(
        (status, &invalid["errors"][0]["code"]),
        (400, &json!("PROPERTY_DOESNT_EXIST"))
    );
    let path = format!("/crm/v3/objects/contacts/{}", made["id"].as_str().unwrap());
    let patched = desk
        .send(
            Method::PATCH,
            &path,
            Some(json!({"properties": {"email": ""}})),
        )
        .await
        .unwrap();
    assert_eq!(read(patched).await.1["properties"]["email"], Value::Null);
    assert_eq!(
        desk.send(Method::DELETE, &path, None)
            .await
            .unwrap()
            .status(),
        204
    );
    assert_eq!(desk.get(&path).await.0, 404);
    assert_eq!(
        desk.get(&format!("{path}?archived=true")).await.1["archived"],
        true
    );
    assert!(desk.control.settled(SETTLED).await);
    let all = target.notifications();
    assert_eq!(all.len(), 4, "creation, two values, deletion");
    assert!(
        all.iter()
            .all(|one| one["changeSource"] == "INTEGRATION" && one["sourceId"] == "15000001")
    );
}

#[tokio::test]
async fn the_control_api_does_what_the_handle_does() {
    let (desk, target) = (Desk::start().await, Target::start(Vec::new()).await);
    let webhook = json!({"target_url": target.url(), "client_secret": SECRET});
    let put = desk
        .send(Method::PUT, "/simulator/webhook", Some(webhook))
        .await
        .unwrap();
    assert_eq!(put.status(), 204);
    let (status, made) = desk
        .post(
            "/simulator/portals/8241/contacts",
            json!({"properties": {"firstname": "Ada"}, "change_source": "FORM"}),
        )
        .await;
    assert_eq!(status, 201);
    assert_eq!(desk.get("/simulator/settled").await, (200, json!(true)));
    let record = desk
        .get(&format!("/simulator/portals/8241/contacts/{}", made["id"]))
        .await
        .1;
    assert_eq!(record["properties"]["firstname"], "Ada");
    let (_, acknowledged) = desk.get("/simulator/portals/8241/acknowledged").await;
    assert_eq!(acknowledged[0]["notification"]["changeSource"], "FORM");
    assert_eq!(
        desk.get("/simulator/portals/8241/counters").await.1["notifications"]["acknowledged"],
        2
    );
    assert_eq!(desk.get("/simulator/portals/1/counters").await.0, 404);
    let dials = desk
        .send(
            Method::PUT,
            "/simulator/dials",
            Some(json!({"late_by": "250ms", "late": 0.5})),
        )
        .await
        .unwrap();
    assert_eq!(dials.status(), 204);
    assert_eq!(
        desk.send(Method::PUT, "/simulator/dials", Some(json!({"lat": 0.5})))
            .await
            .unwrap()
            .status(),
        400
    );
}

#[tokio::test]
async fn traffic_makes_notifications_until_it_is_turned_off() {
    let (desk, target) = (Desk::start().await, Target::start(Vec::new()).await);
    desk.simulator.set_webhook(target.webhook());
    let mut acknowledged = 0;
    desk.control.set_traffic(2_000.0);
    for _ in 0..1_000 {
        acknowledged = desk
            .control
            .counters(PORTAL)
            .unwrap()
            .notifications
            .acknowledged;
        if acknowledged >= 500 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(acknowledged >= 500, "{acknowledged}");
    desk.control.set_traffic(0.0);
    assert!(desk.control.settled(SETTLED).await);
}
