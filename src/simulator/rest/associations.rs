//! Associations: v4 and dated, by batch and of one record, and their labels.
//!
//! `toObjectId` is a number, as in live replies and HubSpot's own samples, though the specification says string.

use serde_json::{Value, json};

use super::errors::validation;
use super::{Call, Handled, Reply, batch, id_of, no_route, page};
use crate::simulator::change::{Change, EdgeTypes, Key};
use crate::simulator::types::{self, Category, ObjectType, TypeId};

/// Records per batch read.
const READ_MAX: usize = 1_000;
/// Edges per batch write.
const WRITE_MAX: usize = 2_000;
/// Edges per page of one record.
const PAGE_MAX: usize = 500;

/// `…/associations/{from}/{to}/…`
pub(crate) fn handle(call: &mut Call<'_>, path: &[&str]) -> Handled {
    let [from, to, rest @ ..] = path else {
        return Err(no_route());
    };
    let (from, to) = (call.object_type(from)?, call.object_type(to)?);
    match (call.method, rest) {
        ("GET", ["labels"]) => Ok(Reply::ok(json!({"results": definitions(from.id, to.id)}))),
        ("POST", ["batch", "read"]) => batch_read(call, from, to),
        ("POST", ["batch", "create"]) => batch_create(call, from.id, to.id),
        ("POST", ["batch", "associate", "default"]) => batch_default(call, from.id, to.id),
        ("POST", ["batch", "archive"]) => batch_archive(call, from.id, to.id),
        ("POST", ["batch", "labels", "archive"]) => batch_labels_archive(call, from.id, to.id),
        _ => Err(no_route()),
    }
}

/// `…/objects/{type}/{id}/associations/…`
pub(crate) fn of_record(call: &mut Call<'_>, (from, id): (&str, &str), rest: &[&str]) -> Handled {
    let from = (call.object_type(from)?.id, parse(id)?);
    match (call.method, rest) {
        ("GET", [to]) => list(call, from, to),
        ("PUT", ["default", to, to_id]) => {
            let to = (call.object_type(to)?.id, parse(to_id)?);
            call.apply(Change::Associate {
                from,
                to,
                types: EdgeTypes::new(),
            })?;
            Ok(batch(200, default_results(from, to), Vec::new(), call.now))
        }
        ("PUT", [to, to_id]) => {
            let to = (call.object_type(to)?.id, parse(to_id)?);
            let types = edge_types(&call.body)?;
            Ok(Reply::with(201, associate(call, from, to, types)?))
        }
        ("DELETE", [to, to_id]) => {
            let to = (call.object_type(to)?.id, parse(to_id)?);
            call.apply(Change::Disassociate {
                from,
                to,
                types: EdgeTypes::new(),
            })?;
            Ok(Reply::no_content())
        }
        _ => Err(no_route()),
    }
}

/// The types of an edge as replies show them.
pub(crate) fn labels(from: TypeId, to: TypeId, kinds: &EdgeTypes) -> Vec<Value> {
    let all = types::associations(from, to);
    let held = all
        .iter()
        .filter(|one| kinds.contains(&(one.category, one.number)));
    held.map(|one| json!({"category": one.category, "typeId": one.number, "label": one.label}))
        .collect()
}

/// `[{associationCategory, associationTypeId}]`.
pub(crate) fn edge_types(list: &Value) -> Result<EdgeTypes, Reply> {
    let invalid = || {
        validation(
            "Invalid input JSON: expected a list of associationCategory and associationTypeId",
        )
    };
    let one = |item: &Value| {
        let category: Category =
            serde_json::from_value(item.get("associationCategory")?.clone()).ok()?;
        Some((
            category,
            u32::try_from(item.get("associationTypeId")?.as_u64()?).ok()?,
        ))
    };
    let types: EdgeTypes = list
        .as_array()
        .and_then(|list| list.iter().map(one).collect())
        .ok_or_else(invalid)?;
    if types.is_empty() {
        Err(invalid())
    } else {
        Ok(types)
    }
}

fn definitions(from: TypeId, to: TypeId) -> Vec<Value> {
    let all = types::associations(from, to).into_iter();
    all.map(|one| json!({"category": one.category, "typeId": one.number, "label": one.label}))
        .collect()
}

fn list(call: &Call<'_>, from: Key, to: &str) -> Handled {
    let to = call.object_type(to)?.id;
    if call
        .state
        .record(from)
        .is_none_or(|record| record.archived_at(call.as_of).is_some())
    {
        return Err(super::errors::not_found("resource not found"));
    }
    let (results, after) = edges(
        call,
        from,
        to,
        call.after()?,
        call.limit(PAGE_MAX, PAGE_MAX)?,
    );
    Ok(Reply::ok(page(results, after)))
}

/// One page of a record's edges to a type. `after` is the id the page begins with.
fn edges(
    call: &Call<'_>,
    from: Key,
    to: TypeId,
    after: Option<u64>,
    limit: usize,
) -> (Vec<Value>, Option<String>) {
    let all = call.state.associated(from, to);
    let mut rest = all
        .into_iter()
        .skip_while(|(id, _)| after.is_some_and(|after| *id < after));
    let show = |(id, kinds): (u64, &EdgeTypes)| json!({"toObjectId": id, "associationTypes": labels(from.0, to, kinds)});
    let results = rest.by_ref().take(limit).map(show).collect();
    (results, rest.next().map(|(id, _)| id.to_string()))
}

/// A record without associations is an entry in `errors`, and the reply a 207.
fn batch_read(call: &Call<'_>, from: &ObjectType, to: &ObjectType) -> Handled {
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for input in call.inputs_to_read(READ_MAX)? {
        let id = id_of(input.get("id").unwrap_or(&Value::Null))?;
        let after = input
            .get("after")
            .filter(|after| !after.is_null())
            .map(id_of)
            .transpose()?;
        let (edges, next) = edges(call, (from.id, id), to.id, after, PAGE_MAX);
        if edges.is_empty() {
            errors.push(none_associated(from, to, id));
            continue;
        }
        let mut result = json!({"from": {"id": id.to_string()}, "to": edges});
        if let Some(after) = next {
            result["paging"] = json!({"next": {"link": format!("?after={after}"), "after": after}});
        }
        results.push(result);
    }
    Ok(batch(200, results, errors, call.now))
}

fn batch_create(call: &mut Call<'_>, from: TypeId, to: TypeId) -> Handled {
    let mut results = Vec::new();
    for input in call.inputs(WRITE_MAX)? {
        let (a, b) = ends(&input)?;
        let types = edge_types(input.get("types").unwrap_or(&Value::Null))?;
        results.push(associate(call, (from, a), (to, b), types)?);
    }
    Ok(batch(201, results, Vec::new(), call.now))
}

fn batch_default(call: &mut Call<'_>, from: TypeId, to: TypeId) -> Handled {
    let mut results = Vec::new();
    for input in call.inputs(WRITE_MAX)? {
        let (a, b) = ends(&input)?;
        call.apply(Change::Associate {
            from: (from, a),
            to: (to, b),
            types: EdgeTypes::new(),
        })?;
        results.extend(default_results((from, a), (to, b)));
    }
    Ok(batch(200, results, Vec::new(), call.now))
}

fn batch_archive(call: &mut Call<'_>, from: TypeId, to: TypeId) -> Handled {
    for input in call.inputs(WRITE_MAX)? {
        let a = id_of(input.pointer("/from/id").unwrap_or(&Value::Null))?;
        for end in input
            .get("to")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let b = id_of(end.get("id").unwrap_or(&Value::Null))?;
            call.apply(Change::Disassociate {
                from: (from, a),
                to: (to, b),
                types: EdgeTypes::new(),
            })?;
        }
    }
    Ok(done(call))
}

fn batch_labels_archive(call: &mut Call<'_>, from: TypeId, to: TypeId) -> Handled {
    for input in call.inputs(WRITE_MAX)? {
        let (a, b) = ends(&input)?;
        let types = edge_types(input.get("types").unwrap_or(&Value::Null))?;
        call.apply(Change::Disassociate {
            from: (from, a),
            to: (to, b),
            types,
        })?;
    }
    Ok(done(call))
}

fn associate(call: &mut Call<'_>, from: Key, to: Key, types: EdgeTypes) -> Result<Value, Reply> {
    let all = types::associations(from.0, to.0);
    let chosen = all
        .iter()
        .filter(|one| types.contains(&(one.category, one.number)));
    let labels: Vec<&str> = chosen.filter_map(|one| one.label).collect();
    call.apply(Change::Associate { from, to, types })?;
    Ok(
        json!({"fromObjectTypeId": from.0, "fromObjectId": from.1.to_string(),
        "toObjectTypeId": to.0, "toObjectId": to.1.to_string(), "labels": labels}),
    )
}

/// The old family says nothing; the dated one answers a batch without results.
fn done(call: &Call<'_>) -> Reply {
    if call.dated {
        batch(200, Vec::new(), Vec::new(), call.now)
    } else {
        Reply::no_content()
    }
}

fn default_results(from: Key, to: Key) -> Vec<Value> {
    let one = |from: Key, to: Key| {
        let spec = types::associations(from.0, to.0).into_iter().next();
        let spec = spec.map(
            |spec| json!({"associationCategory": spec.category, "associationTypeId": spec.number}),
        );
        json!({"from": {"id": from.1.to_string()}, "to": {"id": to.1.to_string()}, "associationSpec": spec})
    };
    vec![one(from, to), one(to, from)]
}

fn ends(input: &Value) -> Result<(u64, u64), Reply> {
    let id = |pointer| id_of(input.pointer(pointer).unwrap_or(&Value::Null));
    Ok((id("/from/id")?, id("/to/id")?))
}

fn parse(id: &str) -> Result<u64, Reply> {
    id.parse()
        .map_err(|_| validation(&format!("Invalid id: {id}")))
}

fn none_associated(from: &ObjectType, to: &ObjectType, id: u64) -> Value {
    json!({"status": "error", "category": "OBJECT_NOT_FOUND", "subCategory": "crm.associations.NO_ASSOCIATIONS_FOUND",
        "message": format!("No {} is associated with {} {id}.", to.singular, from.singular),
        "context": {"fromObjectId": [id.to_string()], "fromObjectType": [from.singular], "toObjectType": [to.singular]}})
}
