//! Writes of records. They lead to notifications with `changeSource` `INTEGRATION`, as an app's own writes do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::associations::edge_types;
use super::errors::{not_found, validation};
use super::read::{Shown, find};
use super::{Call, Handled, Reply, batch, id_of, no_route, text_of};
use crate::simulator::change::{Change, EdgeTypes, Key};
use crate::simulator::state::far_future;
use crate::simulator::types::{self, CONTACT, Category, TypeId};

/// Records per batch write.
const WRITE_MAX: usize = 100;

pub(crate) fn create(call: &mut Call<'_>, object_type: TypeId) -> Handled {
    let input = call.body.clone();
    Ok(Reply::with(201, create_one(call, object_type, &input)?))
}

pub(crate) fn batch_create(call: &mut Call<'_>, object_type: TypeId) -> Handled {
    let mut results = Vec::new();
    for input in call.inputs(WRITE_MAX)? {
        results.push(create_one(call, object_type, &input)?);
    }
    Ok(batch(201, results, Vec::new(), call.now))
}

pub(crate) fn update(call: &mut Call<'_>, object_type: TypeId, id: &str) -> Handled {
    let by = call.query.get("idProperty").cloned();
    let input = call.body.clone();
    let id = locate(call, object_type, id, by.as_deref(), true)?;
    Ok(Reply::ok(update_one(call, object_type, id, &input)?))
}

/// `POST …/batch/update`: repeated ids are refused; merged-away ids are dropped without an error.
pub(crate) fn batch_update(call: &mut Call<'_>, object_type: TypeId) -> Handled {
    let inputs = call.inputs(WRITE_MAX)?;
    let mut seen = BTreeSet::new();
    if !inputs
        .iter()
        .all(|input| seen.insert(input.get("id").and_then(text_of)))
    {
        return Err(validation("Duplicate IDs found in batch input"));
    }
    let mut results = Vec::new();
    for input in inputs {
        let id = input.get("id").and_then(text_of).unwrap_or_default();
        let by = input.get("idProperty").and_then(Value::as_str);
        if let Ok(id) = locate(call, object_type, &id, by, false) {
            results.push(update_one(call, object_type, id, &input)?);
        }
    }
    Ok(batch(200, results, Vec::new(), call.now))
}

/// `DELETE …/{id}`: 204 also for a record that is gone.
pub(crate) fn archive(call: &mut Call<'_>, object_type: TypeId, id: &str) -> Handled {
    let id = id.parse().map_err(|_| not_found("resource not found"))?;
    match call.apply(Change::Archive {
        key: (object_type, id),
    }) {
        Err(reply) if reply.status != 404 => Err(reply),
        _ => Ok(Reply::no_content()),
    }
}

pub(crate) fn batch_archive(call: &mut Call<'_>, object_type: TypeId) -> Handled {
    for input in call.inputs(WRITE_MAX)? {
        let id = input.get("id").and_then(text_of).unwrap_or_default();
        archive(call, object_type, &id)?;
    }
    Ok(Reply::no_content())
}

pub(crate) fn merge(call: &mut Call<'_>, object_type: TypeId) -> Handled {
    let id = |name: &str| {
        call.body
            .get(name)
            .ok_or_else(|| validation(&format!("Some required fields were not set: [{name}]")))
            .and_then(id_of)
    };
    let (primary, other) = (id("primaryObjectId")?, id("objectIdToMerge")?);
    let applied = call.apply(Change::Merge {
        object_type,
        primary,
        other,
    })?;
    Ok(Reply::ok(show(call, object_type, applied.id, Vec::new())))
}

pub(crate) fn gdpr_delete(call: &mut Call<'_>, object_type: TypeId) -> Handled {
    if object_type != CONTACT {
        return Err(no_route());
    }
    let id = call
        .body
        .get("objectId")
        .and_then(text_of)
        .ok_or_else(|| validation("Some required fields were not set: [objectId]"))?;
    let by = call
        .body
        .get("idProperty")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let id = locate(call, object_type, &id, by.as_deref(), true)?;
    call.apply(Change::GdprDelete { id })?;
    Ok(Reply::no_content())
}

fn create_one(call: &mut Call<'_>, object_type: TypeId, input: &Value) -> Result<Value, Reply> {
    let properties = properties(input)?;
    let names = properties.keys().cloned().collect();
    let edges = input
        .get("associations")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    // All of it is checked before the record is made.
    let edges: Vec<(Key, EdgeTypes)> = edges
        .iter()
        .map(|one| edge(call, object_type, one))
        .collect::<Result<_, _>>()?;
    let id = call
        .apply(Change::Create {
            object_type,
            properties,
        })?
        .id;
    for (to, types) in edges {
        call.apply(Change::Associate {
            from: (object_type, id),
            to,
            types,
        })?;
    }
    Ok(show(call, object_type, id, names))
}

/// What a new record is to be associated with. The other type follows from the association type, as in HubSpot's API.
fn edge(call: &Call<'_>, from: TypeId, edge: &Value) -> Result<(Key, EdgeTypes), Reply> {
    let to = edge
        .pointer("/to/id")
        .ok_or_else(|| validation("Some required fields were not set: [to]"))
        .and_then(id_of)?;
    let types = edge_types(edge.get("types").unwrap_or(&Value::Null))?;
    let known = |kind: &(Category, u32), to| {
        types::associations(from, to)
            .iter()
            .any(|one| (one.category, one.number) == *kind)
    };
    let fits = |to: &TypeId| types.iter().all(|kind| known(kind, *to));
    let to_type = types::OBJECT_TYPES.iter().map(|known| known.id).find(fits);
    let to_type =
        to_type.ok_or_else(|| validation("One or more association types are not valid"))?;
    let record = call
        .state
        .record((to_type, to))
        .filter(|record| record.archived_at(far_future()).is_none());
    record
        .map(|_| ((to_type, to), types))
        .ok_or_else(|| not_found("resource not found"))
}

fn update_one(
    call: &mut Call<'_>,
    object_type: TypeId,
    id: u64,
    input: &Value,
) -> Result<Value, Reply> {
    let properties = properties(input)?;
    let names = properties.keys().cloned().collect();
    let id = call
        .apply(Change::Update {
            key: (object_type, id),
            properties,
        })?
        .id;
    Ok(show(call, object_type, id, names))
}

fn locate(
    call: &Call<'_>,
    object_type: TypeId,
    id: &str,
    by: Option<&str>,
    follow: bool,
) -> Result<u64, Reply> {
    let record = find(call, object_type, id, by, follow)?;
    record
        .map(|record| record.id)
        .ok_or_else(|| not_found("resource not found"))
}

fn show(call: &Call<'_>, object_type: TypeId, id: u64, names: Vec<String>) -> Value {
    let record = call.state.record((object_type, id));
    record.map_or(Value::Null, |record| {
        Shown::new(object_type, names, Vec::new()).render(record, call.now.max(call.as_of))
    })
}

fn properties(input: &Value) -> Result<BTreeMap<String, String>, Reply> {
    let invalid = || validation("Invalid input JSON: properties must be a map of strings");
    let Some(properties) = input
        .get("properties")
        .filter(|properties| **properties != json!(null))
    else {
        return Ok(BTreeMap::new());
    };
    let pair = |(name, value): (&String, &Value)| text_of(value).map(|value| (name.clone(), value));
    properties
        .as_object()
        .and_then(|map| map.iter().map(pair).collect())
        .ok_or_else(invalid)
}
