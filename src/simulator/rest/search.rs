//! `POST …/{type}/search`: filters, one sort, paging. Archived records never appear.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::errors::validation;
use super::read::{Shown, visible};
use super::{Call, Handled, Reply, page, text_of};
use crate::event::Millis;
use crate::simulator::record::Record;
use crate::simulator::types::{self, TypeId};

const PAGE_DEFAULT: usize = 10;
const PAGE_MAX: usize = 200;
/// Results a query can reach.
const DEPTH_MAX: usize = 10_000;
const GROUPS_MAX: usize = 5;
const FILTERS_PER_GROUP_MAX: usize = 6;
const FILTERS_MAX: usize = 18;
const BODY_MAX: usize = 3_000;

pub(crate) fn search(call: &Call<'_>, object_type: TypeId) -> Handled {
    check(&call.body)?;
    let (limit, after) = (
        number(&call.body, "limit", PAGE_DEFAULT)?,
        number(&call.body, "after", 0)?,
    );
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(validation(&format!(
            "limit must be between 1 and {PAGE_MAX}"
        )));
    }
    if after + limit > DEPTH_MAX {
        return Err(validation(
            "The maximum number of results a query can page through is 10000",
        ));
    }
    let all = call
        .state
        .of_type(object_type, 0)
        .filter(|record| visible(record, call.as_of, false));
    let mut found = Vec::new();
    for record in all {
        if matches_query(call, record) && matches_groups(call, record)? {
            found.push(record);
        }
    }
    sort(&mut found, &call.body, call.as_of);
    let names = call
        .body
        .get("properties")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let shown = Shown::new(object_type, names.filter_map(text_of).collect(), Vec::new());
    let results: Vec<Value> = found
        .iter()
        .skip(after)
        .take(limit)
        .map(|record| shown.render(record, call.as_of))
        .collect();
    let next = after + results.len();
    let mut body = page(results, (next < found.len()).then(|| next.to_string()));
    body["total"] = json!(found.len());
    Ok(Reply::ok(body))
}

fn check(body: &Value) -> Result<(), Reply> {
    if body.to_string().len() > BODY_MAX {
        return Err(validation(
            "The request body is too long: at most 3000 characters",
        ));
    }
    let groups = body
        .get("filterGroups")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let sizes: Vec<usize> = groups.iter().map(|group| filters(group).len()).collect();
    if groups.len() > GROUPS_MAX
        || sizes.iter().any(|size| *size > FILTERS_PER_GROUP_MAX)
        || sizes.iter().sum::<usize>() > FILTERS_MAX
    {
        return Err(validation(
            "Too many filters: at most 5 groups of at most 6 filters, 18 in total",
        ));
    }
    Ok(())
}

/// `query` looks for the text in any value.
fn matches_query(call: &Call<'_>, record: &Record) -> bool {
    let Some(query) = call
        .body
        .get("query")
        .and_then(Value::as_str)
        .filter(|query| !query.is_empty())
    else {
        return true;
    };
    let query = query.to_lowercase();
    record.names().any(|name| {
        record
            .value(name, call.as_of)
            .is_some_and(|value| value.to_lowercase().contains(&query))
    })
}

/// Groups are alternatives; all filters of a group must match.
fn matches_groups(call: &Call<'_>, record: &Record) -> Result<bool, Reply> {
    let groups = call
        .body
        .get("filterGroups")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut matched = groups.is_empty();
    for group in groups {
        let mut all = true;
        for filter in filters(group) {
            all &= matches(call, record, filter)?;
        }
        matched |= all;
    }
    Ok(matched)
}

fn matches(call: &Call<'_>, record: &Record, filter: &Value) -> Result<bool, Reply> {
    let text = |name: &str| filter.get(name).and_then(text_of).unwrap_or_default();
    let (name, operator, wanted) = (text("propertyName"), text("operator"), text("value"));
    if let Some(to) = name.strip_prefix("associations.") {
        let to = types::resolve(to, call.state.portal_id)
            .ok_or_else(|| validation("unknown association type in filter"))?;
        let ids = call
            .state
            .associated((record.object_type, record.id), to.id);
        return Ok(ids.iter().any(|(id, _)| id.to_string() == wanted) == (operator != "NEQ"));
    }
    let held = record.value(&name, call.as_of);
    let values = filter
        .get("values")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(text_of)
        .collect::<Vec<_>>();
    let compare = |other: &str| held.as_ref().map(|held| order(held, other));
    let one_of = || {
        held.as_ref()
            .is_some_and(|held| values.iter().any(|value| order(held, value).is_eq()))
    };
    let has_token = || {
        held.as_ref().is_some_and(|held| {
            held.to_lowercase()
                .contains(wanted.to_lowercase().trim_matches('*'))
        })
    };
    Ok(match operator.as_str() {
        "EQ" => compare(&wanted).is_some_and(Ordering::is_eq),
        "NEQ" => !compare(&wanted).is_some_and(Ordering::is_eq),
        "LT" => compare(&wanted).is_some_and(Ordering::is_lt),
        "LTE" => compare(&wanted).is_some_and(Ordering::is_le),
        "GT" => compare(&wanted).is_some_and(Ordering::is_gt),
        "GTE" => compare(&wanted).is_some_and(Ordering::is_ge),
        "BETWEEN" => {
            compare(&wanted).is_some_and(Ordering::is_ge)
                && compare(&text("highValue")).is_some_and(Ordering::is_le)
        }
        "IN" => one_of(),
        "NOT_IN" => !one_of(),
        "HAS_PROPERTY" => held.is_some(),
        "NOT_HAS_PROPERTY" => held.is_none(),
        "CONTAINS_TOKEN" => has_token(),
        "NOT_CONTAINS_TOKEN" => !has_token(),
        other => return Err(validation(&format!("{other} is not a valid operator"))),
    })
}

/// Times by time (searches may give milliseconds), numbers by number, text without regard to case.
fn order(held: &str, wanted: &str) -> Ordering {
    let time = |text: &str| {
        text.parse()
            .ok()
            .and_then(Millis::new)
            .or_else(|| Millis::parse(text))
    };
    if let (Some(held), Some(wanted)) = (Millis::parse(held), time(wanted)) {
        return held.cmp(&wanted);
    }
    if let (Ok(held), Ok(wanted)) = (held.parse::<f64>(), wanted.parse::<f64>()) {
        return held.total_cmp(&wanted);
    }
    held.to_lowercase().cmp(&wanted.to_lowercase())
}

/// `sorts` holds names, or objects with a direction; without one the order is by id.
fn sort(found: &mut [&Record], body: &Value, as_of: Millis) {
    let Some(first) = body.pointer("/sorts/0") else {
        return;
    };
    let name = first
        .as_str()
        .or_else(|| first["propertyName"].as_str())
        .unwrap_or_default();
    let descending = first["direction"] == "DESCENDING" || name.starts_with('-');
    let name = name.trim_start_matches('-');
    let value = |record: &Record| record.value(name, as_of).unwrap_or_default();
    found.sort_by(|a, b| {
        if descending {
            order(&value(b), &value(a))
        } else {
            order(&value(a), &value(b))
        }
    });
}

fn filters(group: &Value) -> &[Value] {
    group
        .get("filters")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn number(body: &Value, name: &str, default: usize) -> Result<usize, Reply> {
    let Some(value) = body.get(name).filter(|value| !value.is_null()) else {
        return Ok(default);
    };
    let number = text_of(value)
        .filter(|text| !text.is_empty())
        .map_or(Some(default), |text| text.parse().ok());
    number.ok_or_else(|| validation(&format!("{name} is not a number")))
}
