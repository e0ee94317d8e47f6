//! Records, associations and descriptions have HubSpot's shapes, in both path families.

use std::collections::BTreeSet;

use crm_relay::simulator::Dials;
use reqwest::Method;
use serde_json::{Value, json};

use super::desk::{Desk, PORTAL, keys, read, strings};

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
async fn a_history_has_every_value_with_its_time_and_source_the_newest_first() {
    let desk = Desk::start().await;
    let id = desk
        .control
        .create(PORTAL, "contacts", &[("city", "Graz")])
        .unwrap();
    for city in ["Lyon", ""] {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        let user = desk.control.by("CRM_UI", Some("userId:75500001"));
        user.update(PORTAL, "contacts", id, &[("city", city)])
            .unwrap();
    }
    let body = json!({"inputs": strings(&[id]), "properties": [], "propertiesWithHistory": ["city", "fax"]});
    for path in [
        "/crm/v3/objects/contacts/batch/read",
        "/crm/objects/2026-09/0-1/batch/read",
    ] {
        let (_, reply) = desk.post(path, body.clone()).await;
        let record = &reply["results"][0];
        assert_eq!(record["propertiesWithHistory"]["fax"], json!([]));
        let history = record["propertiesWithHistory"]["city"].as_array().unwrap();
        let values: Vec<_> = history.iter().map(|one| &one["value"]).collect();
        assert_eq!(values, ["", "Lyon", "Graz"]);
        let times = history.iter().map(|one| one["timestamp"].as_str().unwrap());
        assert!(times.rev().is_sorted());
        assert_eq!(history[0]["timestamp"], record["updatedAt"]);
        assert_eq!(
            keys(&history[0]),
            BTreeSet::from([
                "sourceId",
                "sourceType",
                "timestamp",
                "updatedByUserId",
                "value"
            ])
        );
        assert_eq!(history[0]["updatedByUserId"], 75_500_001);
    }
}

#[tokio::test]
async fn sensitive_properties_are_listed_apart_and_take_a_scope() {
    let desk = Desk::start().await;
    let path = "/crm/properties/2026-09/contacts";
    let names = async |query: &str| -> (u16, Vec<String>) {
        let (status, list) = desk.get(&format!("{path}{query}")).await;
        let results = list["results"].as_array().cloned().unwrap_or_default();
        let name = |one: &Value| one["name"].as_str().unwrap().to_owned();
        (status, results.iter().map(name).collect())
    };
    let passport = "passport_number".to_owned();
    assert!(!names("").await.1.contains(&passport));
    assert_eq!(names("?dataSensitivity=sensitive").await.1, [passport]);
    assert!(
        names("?dataSensitivity=highly_sensitive")
            .await
            .1
            .is_empty()
    );

    let id = desk
        .control
        .create(PORTAL, "contacts", &[("passport_number", "P1")])
        .unwrap();
    let body = json!({"inputs": strings(&[id]), "properties": ["passport_number"]});
    let value = async || {
        let read = "/crm/v3/objects/contacts/batch/read";
        let (_, reply) = desk.post(read, body.clone()).await;
        reply["results"][0]["properties"]["passport_number"].clone()
    };
    assert_eq!(value().await, "P1");
    desk.control
        .set_missing_scopes(
            PORTAL,
            ["crm.objects.contacts.sensitive.read.v2".to_owned()].into(),
        )
        .unwrap();
    assert_eq!(names("?dataSensitivity=sensitive").await.0, 403);
    assert_eq!(value().await, Value::Null);
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
