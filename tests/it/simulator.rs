//! The simulator answers, limits and notifies as HubSpot does: checked from outside, over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use crm_relay::simulator::{
    Control, Dials, Fault, Faults, Latency, Limits, PortalOptions, RandomFault, Simulator,
    SimulatorOptions, Subscriptions, WebhookOptions,
};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PORTAL: u64 = 8241;
const SECRET: &str = "the-client-secret";
const SETTLED: Duration = Duration::from_secs(20);

/// A simulator with a client that has its token.
struct Desk {
    simulator: Simulator,
    control: Control,
    client: reqwest::Client,
}

impl Desk {
    async fn start() -> Self {
        Self::with(SimulatorOptions::default()).await
    }

    async fn with(options: SimulatorOptions) -> Self {
        let simulator = Simulator::start(options).await.unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        Self {
            control: simulator.control(),
            simulator,
            client,
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> reqwest::Result<Response> {
        let request = self
            .client
            .request(method, format!("{}{path}", self.simulator.base_url()));
        let request = request.bearer_auth("pat-na1-simulator-8241");
        match body {
            Some(body) => request.json(&body).send().await,
            None => request.send().await,
        }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        read(self.send(Method::GET, path, None).await.unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        read(self.send(Method::POST, path, Some(body)).await.unwrap()).await
    }

    fn ids(&self, object_type: &str) -> Vec<u64> {
        self.control.ids(PORTAL, object_type).unwrap()
    }
}

async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// One request that a target got.
#[derive(Clone)]
struct Posted {
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Posted {
    fn notifications(&self) -> Vec<Value> {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A target for webhooks that answers with the statuses it was given, then with 204.
struct Target {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Target {
    async fn start(statuses: Vec<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let posted = Arc::new(Mutex::new(Vec::new()));
        let statuses = Arc::new(Mutex::new(statuses.into_iter()));
        let all = Arc::clone(&posted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, Arc::clone(&all), Arc::clone(&statuses)));
            }
        });
        Self { address, posted }
    }

    fn url(&self) -> String {
        format!("http://{}/hubspot/webhook?tenant=a%3Ab", self.address)
    }

    fn webhook(&self) -> WebhookOptions {
        let fast = Duration::from_millis(5);
        WebhookOptions {
            retry_delay_min: fast,
            retry_delay_max: 4 * fast,
            ..WebhookOptions::new(self.url(), SECRET)
        }
    }

    fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap().clone()
    }

    fn notifications(&self) -> Vec<Value> {
        self.posted()
            .iter()
            .flat_map(Posted::notifications)
            .collect()
    }
}

/// Reads one request after another and closes at the first that is not whole.
async fn take(
    mut stream: TcpStream,
    posted: Arc<Mutex<Vec<Posted>>>,
    statuses: Arc<Mutex<std::vec::IntoIter<u16>>>,
) {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let pairs = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        let headers: BTreeMap<String, String> = pairs
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers["content-length"].parse().unwrap();
        while bytes.len() < end + length {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body = bytes[end..end + length].to_vec();
        bytes.drain(..end + length);
        posted.lock().unwrap().push(Posted { headers, body });
        let status = statuses.lock().unwrap().next().unwrap_or(204);
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

fn strings(ids: &[u64]) -> Vec<Value> {
    ids.iter().map(|id| json!({"id": id.to_string()})).collect()
}

#[tokio::test]
async fn a_batch_read_finds_some_and_lists_the_missing_in_one_error() {
    let desk = Desk::start().await;
    let found = desk.ids("contacts")[..3].to_vec();
    let mut inputs = strings(&found);
    inputs.extend(strings(&[998, 999]));
    let body = json!({"inputs": inputs, "properties": ["email", "fax", "no_such_property"]});
    for path in [
        "/crm/v3/objects/contacts/batch/read",
        "/crm/objects/2026-09/0-1/batch/read",
    ] {
        let (status, reply) = desk.post(path, body.clone()).await;
        assert_eq!(status, 207);
        assert_eq!(reply["status"], "COMPLETE");
        assert_eq!(reply["numErrors"], 1);
        assert_eq!(reply["errors"][0]["category"], "OBJECT_NOT_FOUND");
        assert_eq!(reply["errors"][0]["context"]["ids"], json!(["998", "999"]));
        let ids: BTreeSet<String> = reply["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids, found.iter().map(u64::to_string).collect());
        let record = &reply["results"][0];
        assert_eq!(
            keys(record),
            BTreeSet::from(["archived", "createdAt", "id", "properties", "updatedAt"])
        );
        assert_eq!(
            keys(&record["properties"]),
            BTreeSet::from([
                "createdate",
                "email",
                "fax",
                "hs_object_id",
                "lastmodifieddate"
            ])
        );
        assert_eq!(record["properties"]["fax"], Value::Null);
        assert_eq!(
            record["updatedAt"],
            record["properties"]["lastmodifieddate"]
        );
    }
    desk.simulator.stop().await;
}

#[tokio::test]
async fn a_batch_holds_a_hundred_records_or_fifty_with_history() {
    let desk = Desk::start().await;
    let inputs = |count: u64| strings(&(1..=count).collect::<Vec<_>>());
    for (count, history, expected) in [
        (100, json!([]), 207),
        (101, json!([]), 400),
        (50, json!(["email"]), 207),
        (51, json!(["email"]), 400),
    ] {
        let body =
            json!({"inputs": inputs(count), "properties": [], "propertiesWithHistory": history});
        let (status, reply) = desk.post("/crm/v3/objects/contacts/batch/read", body).await;
        assert_eq!(status, expected, "{count}");
        if status == 400 {
            assert_eq!(reply["category"], "VALIDATION_ERROR");
            assert!(reply["correlationId"].is_string() && reply["message"].is_string());
        }
    }
}

#[tokio::test]
async fn pages_follow_one_another_to_the_end_of_the_list() {
    let desk = Desk::start().await;
    let (mut seen, mut after) = (Vec::new(), String::new());
    for _ in 0..20 {
        let (status, page) = desk
            .get(&format!("/crm/objects/2026-03/contacts?limit=20{after}"))
            .await;
        assert_eq!(status, 200);
        seen.extend(
            page["results"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["id"].as_str().unwrap().parse::<u64>().unwrap()),
        );
        match page["paging"]["next"]["after"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, desk.ids("contacts"));
    assert_eq!(desk.get("/crm/v3/objects/contacts?limit=101").await.0, 400);
}

#[tokio::test]
async fn associations_come_with_labels_and_a_record_without_any_is_an_error_entry() {
    let desk = Desk::start().await;
    let contact = desk.ids("contacts")[0];
    let lonely = desk.control.create(PORTAL, "contacts", &[]).unwrap();
    let body = json!({"inputs": strings(&[contact, lonely])});
    for path in [
        "/crm/v4/associations/contacts/companies/batch/read",
        "/crm/associations/2026-09/0-1/0-2/batch/read",
    ] {
        let (status, reply) = desk.post(path, body.clone()).await;
        assert_eq!(status, 207);
        assert_eq!(reply["results"][0]["from"]["id"], contact.to_string());
        let to = reply["results"][0]["to"].as_array().unwrap();
        assert!(to.iter().all(|one| one["toObjectId"].is_u64()));
        let primary = json!([{"category": "HUBSPOT_DEFINED", "typeId": 279, "label": null}, {"category": "HUBSPOT_DEFINED", "typeId": 1, "label": "Primary"}]);
        assert!(to.iter().any(|one| one["associationTypes"] == primary));
        let error = &reply["errors"][0];
        assert_eq!(
            error["subCategory"],
            "crm.associations.NO_ASSOCIATIONS_FOUND"
        );
        assert_eq!(
            error["context"]["fromObjectId"],
            json!([lonely.to_string()])
        );
    }
    let (status, one) = desk
        .get(&format!(
            "/crm/v4/objects/contacts/{contact}/associations/companies"
        ))
        .await;
    assert_eq!(
        (status, one["results"].as_array().unwrap().is_empty()),
        (200, false)
    );
}

#[tokio::test]
async fn associations_of_one_record_are_paged_per_record() {
    let desk = Desk::start().await;
    let company = desk.control.create(PORTAL, "companies", &[]).unwrap();
    for id in desk.control.import(PORTAL, "contacts", 501).unwrap() {
        desk.control
            .associate(PORTAL, ("companies", company), ("contacts", id), &[])
            .unwrap();
    }
    let path = "/crm/associations/2026-09/companies/contacts/batch/read";
    let (status, first) = desk
        .post(path, json!({"inputs": strings(&[company])}))
        .await;
    assert_eq!(
        (status, first["results"][0]["to"].as_array().unwrap().len()),
        (200, 500)
    );
    let after = first["results"][0]["paging"]["next"]["after"]
        .as_str()
        .unwrap();
    let (_, rest) = desk
        .post(
            path,
            json!({"inputs": [{"id": company.to_string(), "after": after}]}),
        )
        .await;
    assert_eq!(rest["results"][0]["to"].as_array().unwrap().len(), 1);
    assert!(rest["results"][0].get("paging").is_none());
}

#[tokio::test]
async fn owners_are_people_and_queues_and_deactivated_ones_are_listed_apart() {
    let desk = Desk::start().await;
    let (_, active) = desk.get("/crm/v3/owners?limit=500").await;
    let (_, archived) = desk.get("/crm/owners/2026-09?archived=true").await;
    let kinds: BTreeSet<&str> = active["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, BTreeSet::from(["PERSON", "QUEUE"]));
    let gone = &archived["results"][0];
    assert_eq!(
        (gone["archived"].clone(), gone["userId"].clone()),
        (json!(true), Value::Null)
    );
    assert!(gone["userIdIncludingInactive"].is_u64());
    let id = gone["id"].as_str().unwrap();
    assert_eq!(desk.get(&format!("/crm/v3/owners/{id}")).await.0, 404);
    assert_eq!(
        desk.get(&format!("/crm/v3/owners/{id}?archived=true"))
            .await
            .0,
        200
    );
    let user = active["results"][0]["userId"].as_u64().unwrap();
    assert_eq!(
        desk.get(&format!("/crm/v3/owners/{user}?idProperty=userId"))
            .await
            .1["id"],
        active["results"][0]["id"]
    );
}

#[tokio::test]
async fn descriptions_are_served_by_both_families() {
    let desk = Desk::start().await;
    for (old, new) in [
        ("/crm/v3/properties/contacts", "/crm/properties/2026-09/0-1"),
        (
            "/crm/v3/properties/deals/amount",
            "/crm/properties/2026-03/0-3/amount",
        ),
        ("/crm/v3/pipelines/deals", "/crm/pipelines/2026-09/0-3"),
        ("/crm/v3/schemas", "/crm-object-schemas/2026-09/schemas"),
        (
            "/crm/v4/associations/contacts/companies/labels",
            "/crm/associations/2026-09/0-1/0-2/labels",
        ),
        ("/account-info/v3/details", "/account-info/2026-03/details"),
    ] {
        let (old, new) = (desk.get(old).await, desk.get(new).await);
        assert_eq!(old.0, 200);
        assert_eq!(old, new);
    }
    let (_, owner) = desk
        .get("/crm/v3/properties/contacts/hubspot_owner_id")
        .await;
    assert_eq!(
        (
            &owner["referencedObjectType"],
            &owner["options"],
            &owner["externalOptions"]
        ),
        (&json!("OWNER"), &json!([]), &json!(true))
    );
}

#[tokio::test]
async fn a_search_filters_pages_and_says_nothing_of_limits() {
    let desk = Desk::start().await;
    for name in ["one", "two", "three"] {
        desk.control
            .create(PORTAL, "deals", &[("dealname", name), ("amount", "424242")])
            .unwrap();
    }
    let filter =
        json!([{"filters": [{"propertyName": "amount", "operator": "EQ", "value": "424242"}]}]);
    let body = json!({"filterGroups": filter, "sorts": ["dealname"], "properties": ["dealname"], "limit": 2});
    let response = desk
        .send(Method::POST, "/crm/v3/objects/deals/search", Some(body))
        .await
        .unwrap();
    assert!(
        response
            .headers()
            .keys()
            .all(|name| !name.as_str().contains("ratelimit"))
    );
    let (_, found) = read(response).await;
    assert_eq!(
        (&found["total"], &found["paging"]["next"]["after"]),
        (&json!(3), &json!("2"))
    );
    assert_eq!(found["results"][0]["properties"]["dealname"], "one");
}

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
    let (status, refused) = desk.post("/crm/v3/objects/deals/search", json!({})).await;
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
        .timeout(Duration::from_millis(100))
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

#[tokio::test]
async fn contacts_merge_into_a_third_record_and_deals_into_the_primary() {
    let desk = Desk::start().await;
    let (a, b) = (desk.ids("contacts")[0], desk.ids("contacts")[1]);
    let body = json!({"primaryObjectId": a.to_string(), "objectIdToMerge": b.to_string()});
    let (status, merged) = desk.post("/crm/v3/objects/contacts/merge", body).await;
    let new = merged["id"].as_str().unwrap().to_owned();
    assert!(status == 200 && new != a.to_string() && new != b.to_string());
    for old in [a, b] {
        assert_eq!(
            desk.get(&format!("/crm/v3/objects/contacts/{old}")).await.1["id"],
            new.as_str()
        );
    }
    let body = json!({"inputs": strings(&[a])});
    assert_eq!(
        desk.post("/crm/v3/objects/contacts/batch/read", body.clone())
            .await
            .0,
        207
    );
    desk.control.set_dials(Dials {
        batch_read_follows_merges: true,
        ..Dials::default()
    });
    assert_eq!(
        desk.post("/crm/v3/objects/contacts/batch/read", body)
            .await
            .1["results"][0]["id"],
        new.as_str()
    );
    let (a, b) = (desk.ids("deals")[0], desk.ids("deals")[1]);
    assert_eq!(desk.control.merge(PORTAL, "deals", a, b).unwrap(), a);
    assert_eq!(
        desk.get(&format!("/crm/objects/2026-09/deals/{b}")).await.1["id"],
        a.to_string()
    );
}

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
    assert!(target.posted().is_empty());
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
async fn a_new_primary_company_replaces_the_old_one() {
    let desk = Desk::start().await;
    let contact = desk.ids("contacts")[0];
    let company = desk.control.create(PORTAL, "companies", &[]).unwrap();
    let path = format!("/crm/v4/objects/contacts/{contact}/associations/companies");
    let body = json!([{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 1}]);
    let put = desk
        .send(Method::PUT, &format!("{path}/{company}"), Some(body))
        .await
        .unwrap();
    assert_eq!(
        read(put).await,
        (
            201,
            json!({"fromObjectTypeId": "0-1", "fromObjectId": contact.to_string(), "toObjectTypeId": "0-2",
        "toObjectId": company.to_string(), "labels": ["Primary"]})
        )
    );
    let (_, all) = desk.get(&path).await;
    let is_primary = |one: &&Value| {
        one["associationTypes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|kind| kind["typeId"] == 1)
    };
    let primary: Vec<&Value> = all["results"]
        .as_array()
        .unwrap()
        .iter()
        .filter(is_primary)
        .map(|one| &one["toObjectId"])
        .collect();
    assert_eq!(primary, [&json!(company)]);
    assert_eq!(
        desk.send(Method::DELETE, &format!("{path}/{company}"), None)
            .await
            .unwrap()
            .status(),
        204
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
