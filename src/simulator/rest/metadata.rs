//! What describes the data: property definitions, pipelines, schemas, the account.

use serde_json::{Value, json};

use super::errors::not_found;
use super::{Call, Handled, Reply, no_route};
use crate::event::Millis;
use crate::simulator::definitions::{self, Definition};
use crate::simulator::types::{self, CAR, DEAL, TICKET, TypeId};

/// A pipeline: id, label, and stages with id, label and the value of their one kind of metadata.
type Pipeline = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str, &'static str)],
);

/// Stages with their `probability`; 0 and 1 are closed.
const DEAL_PIPELINES: &[Pipeline] = &[
    (
        "default",
        "Sales Pipeline",
        &[
            ("appointmentscheduled", "Appointment Scheduled", "0.2"),
            ("qualifiedtobuy", "Qualified To Buy", "0.4"),
            ("presentationscheduled", "Presentation Scheduled", "0.6"),
            ("decisionmakerboughtin", "Decision Maker Bought-In", "0.8"),
            ("contractsent", "Contract Sent", "0.9"),
            ("closedwon", "Closed Won", "1.0"),
            ("closedlost", "Closed Lost", "0.0"),
        ],
    ),
    (
        "renewals",
        "Renewals",
        &[
            ("renewal_open", "Open", "0.5"),
            ("renewal_won", "Renewed", "1.0"),
            ("renewal_lost", "Cancelled", "0.0"),
        ],
    ),
];
/// Stages with their `ticketState`.
const TICKET_PIPELINES: &[Pipeline] = &[(
    "0",
    "Support Pipeline",
    &[
        ("1", "New", "OPEN"),
        ("2", "Waiting on contact", "OPEN"),
        ("3", "Waiting on us", "OPEN"),
        ("4", "Closed", "CLOSED"),
    ],
)];

/// `/crm/v3/properties/{type}[/{name}]`
pub(crate) fn properties(call: &Call<'_>, path: &[&str]) -> Handled {
    let ("GET", [object_type, rest @ ..]) = (call.method, path) else {
        return Err(no_route());
    };
    let object_type = call.object_type(object_type)?.id;
    let all = definitions::of(object_type);
    // Nothing is archived; sensitive ones are a list of their own, and none is highly sensitive.
    let level = call.query.get("dataSensitivity").map(String::as_str);
    let level = level.unwrap_or("non_sensitive");
    if let "sensitive" | "highly_sensitive" = level {
        call.need_scope(&types::of(object_type).scope_of(level))?;
    }
    let level_of = |one: &Definition| {
        if one.sensitive {
            "sensitive"
        } else {
            "non_sensitive"
        }
    };
    let wanted = |one: &&Definition| !call.flag("archived") && level_of(one) == level;
    let show = |one: &Definition| property(object_type, one, call.state.created_at);
    match rest {
        [] => Ok(Reply::ok(
            json!({"results": all.values().filter(wanted).map(show).collect::<Vec<_>>()}),
        )),
        [name] => {
            let found = all.get(name).filter(wanted).map(show);
            found
                .map(Reply::ok)
                .ok_or_else(|| not_found("resource not found"))
        }
        _ => Err(no_route()),
    }
}

/// `/crm/v3/pipelines/{type}[/{id}[/stages[/{id}]]]`
pub(crate) fn pipelines(call: &Call<'_>, path: &[&str]) -> Handled {
    let ("GET", [object_type, rest @ ..]) = (call.method, path) else {
        return Err(no_route());
    };
    let object_type = call.object_type(object_type)?.id;
    let all = pipelines_of(object_type, call.state.created_at);
    let results = |list: Value| Ok(Reply::ok(json!({"results": list})));
    match rest {
        [] => results(json!(all)),
        [id] => Ok(Reply::ok(by_id(&all, id)?)),
        [id, "stages"] => results(by_id(&all, id)?["stages"].clone()),
        [id, "stages", stage] => {
            let pipeline = by_id(&all, id)?;
            let stages = pipeline["stages"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            Ok(Reply::ok(by_id(stages, stage)?))
        }
        _ => Err(no_route()),
    }
}

/// `/crm/v3/schemas[/{type}]`
pub(crate) fn schemas(call: &Call<'_>, path: &[&str]) -> Handled {
    call.need_scope("crm.schemas.custom.read")?;
    match (call.method, path) {
        ("GET", []) if call.flag("archived") => Ok(Reply::ok(json!({"results": []}))),
        ("GET", []) => Ok(Reply::ok(json!({"results": [car_schema(call)]}))),
        ("GET", [object_type]) if call.object_type(object_type)?.id == CAR => {
            Ok(Reply::ok(car_schema(call)))
        }
        ("GET", [_]) => Err(not_found("resource not found")),
        _ => Err(no_route()),
    }
}

/// `/account-info/v3/details`
pub(crate) fn account(call: &Call<'_>) -> Reply {
    Reply::ok(json!({
        "portalId": call.state.portal_id, "accountType": "STANDARD", "timeZone": "UTC", "companyCurrency": "EUR",
        "additionalCurrencies": ["USD"], "utcOffset": "+00:00", "utcOffsetMilliseconds": 0,
        "uiDomain": "app.hubspot.com", "dataHostingLocation": "na1",
    }))
}

fn property(object_type: TypeId, one: &Definition, created_at: Millis) -> Value {
    let option = |(order, (value, label)): (usize, &(&str, &str))| json!({"label": label, "value": value, "displayOrder": order, "hidden": false});
    let mut body = json!({
        "name": one.name, "label": one.label(), "type": one.value_type, "fieldType": one.field_type,
        "groupName": format!("{}information", types::of(object_type).singular), "description": "",
        "options": one.options.iter().enumerate().map(option).collect::<Vec<_>>(),
        "displayOrder": -1, "calculated": one.calculated, "externalOptions": one.owner, "hasUniqueValue": one.unique,
        "hidden": one.hidden, "hubspotDefined": !one.custom, "formField": !one.calculated && !one.hidden, "archived": false,
        "dataSensitivity": if one.sensitive { "sensitive" } else { "non_sensitive" },
        "modificationMetadata": {"archivable": one.custom, "readOnlyDefinition": !one.custom, "readOnlyValue": one.calculated, "readOnlyOptions": !one.custom},
        "createdAt": created_at, "updatedAt": created_at,
    });
    if one.owner {
        body["referencedObjectType"] = json!("OWNER");
    }
    if one.field_type == "calculation_equation" {
        body["calculationFormula"] = json!("0");
    }
    body
}

fn pipelines_of(object_type: TypeId, created_at: Millis) -> Vec<Value> {
    let all = match object_type {
        DEAL => DEAL_PIPELINES,
        TICKET => TICKET_PIPELINES,
        _ => &[],
    };
    let pipeline = |(order, (id, label, stages)): (usize, &Pipeline)| {
        let stages = stages
            .iter()
            .enumerate()
            .map(|(order, stage)| render_stage(order, *stage, created_at));
        json!({"id": id, "label": label, "displayOrder": order, "archived": false, "createdAt": created_at, "updatedAt": created_at,
            "stages": stages.collect::<Vec<_>>()})
    };
    all.iter().enumerate().map(pipeline).collect()
}

fn render_stage(order: usize, (id, label, value): (&str, &str, &str), created_at: Millis) -> Value {
    let metadata = if value.starts_with(['O', 'C']) {
        json!({"ticketState": value, "isClosed": (value == "CLOSED").to_string()})
    } else {
        json!({"probability": value, "isClosed": matches!(value, "0.0" | "1.0").to_string()})
    };
    json!({"id": id, "label": label, "displayOrder": order, "archived": false, "metadata": metadata,
        "writePermissions": "CRM_PERMISSIONS_ENFORCEMENT", "createdAt": created_at, "updatedAt": created_at})
}

fn by_id(list: &[Value], id: &str) -> Result<Value, Reply> {
    list.iter()
        .find(|one| one["id"] == id)
        .cloned()
        .ok_or_else(|| not_found("resource not found"))
}

fn car_schema(call: &Call<'_>) -> Value {
    let at = call.state.created_at;
    let properties: Vec<Value> = definitions::of(CAR)
        .values()
        .map(|one| property(CAR, one, at))
        .collect();
    let definitions = [
        ("101", CAR, types::CONTACT, "car_to_contact"),
        ("102", types::CONTACT, CAR, "contact_to_car"),
    ];
    let associations = definitions.map(|(id, from, to, name)| json!({"id": id, "fromObjectTypeId": from, "toObjectTypeId": to, "name": name}));
    json!({
        "id": "1234567", "objectTypeId": CAR, "name": "car", "fullyQualifiedName": format!("p{}_car", call.state.portal_id),
        "labels": {"singular": "Car", "plural": "Cars"}, "primaryDisplayProperty": "plate", "secondaryDisplayProperties": ["model"],
        "requiredProperties": ["plate"], "searchableProperties": ["plate", "model"], "properties": properties,
        "associations": associations, "allowsSensitiveProperties": false, "archived": false, "createdAt": at, "updatedAt": at,
    })
}
