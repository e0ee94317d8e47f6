//! Reads of records: one, a page, a batch.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::errors::{not_found, validation};
use super::{Call, Handled, Reply, batch, page, text_of};
use crate::event::Millis;
use crate::simulator::definitions;
use crate::simulator::record::Record;
use crate::simulator::types::{self, TypeId};

/// Records per batch read and per page; half of it with history.
const READ_MAX: usize = 100;
const READ_WITH_HISTORY_MAX: usize = 50;
const PAGE_DEFAULT: usize = 10;

/// Which values a reply shows.
pub(crate) struct Shown {
    properties: BTreeSet<String>,
    with_history: BTreeSet<String>,
}

impl Shown {
    /// Those asked for that exist (unknown names are ignored), and the defaults.
    pub(crate) fn new(
        object_type: TypeId,
        properties: Vec<String>,
        with_history: Vec<String>,
    ) -> Self {
        let exists = |name: &String| definitions::of(object_type).contains_key(name.as_str());
        let defaults = [
            "createdate",
            "hs_object_id",
            definitions::last_modified(object_type),
        ];
        let with_history: BTreeSet<String> = with_history.into_iter().filter(exists).collect();
        let asked = properties
            .into_iter()
            .filter(exists)
            .chain(with_history.iter().cloned());
        Self {
            properties: asked.chain(defaults.map(str::to_owned)).collect(),
            with_history,
        }
    }

    /// What a single read or a page shows.
    fn of_query(call: &Call<'_>, object_type: TypeId) -> Self {
        Self::new(
            object_type,
            call.readable(object_type, call.list("properties")),
            call.readable(object_type, call.list("propertiesWithHistory")),
        )
    }

    /// The record as the API shows it.
    pub(crate) fn render(&self, record: &Record, as_of: Millis) -> Value {
        let values = self
            .properties
            .iter()
            .map(|name| (name.clone(), json!(record.value(name, as_of))));
        let mut body = json!({
            "id": record.id.to_string(),
            "properties": values.collect::<Map<String, Value>>(),
            "createdAt": record.created_at,
            "updatedAt": record.updated_at(as_of),
            "archived": record.archived_at(as_of).is_some(),
        });
        if let Some(at) = record.archived_at(as_of) {
            body["archivedAt"] = json!(at);
        }
        if !self.with_history.is_empty() {
            let histories = self
                .with_history
                .iter()
                .map(|name| (name.clone(), history(record, name, as_of)));
            body["propertiesWithHistory"] = Value::Object(histories.collect());
        }
        body
    }

    fn page_max(&self) -> usize {
        if self.with_history.is_empty() {
            READ_MAX
        } else {
            READ_WITH_HISTORY_MAX
        }
    }
}

/// `GET …/{type}/{id}`: a merged-away id leads to the survivor.
pub(crate) fn single(call: &Call<'_>, object_type: TypeId, id: &str) -> Handled {
    let shown = Shown::of_query(call, object_type);
    let by = call.query.get("idProperty").map(String::as_str);
    let record = find(call, object_type, id, by, true)?;
    let record = record.filter(|record| visible(record, call.as_of, call.flag("archived")));
    let record = record.ok_or_else(|| not_found("resource not found"))?;
    let mut body = shown.render(record, call.as_of);
    add_associations(call, record, &mut body)?;
    Ok(Reply::ok(body))
}

/// `GET …/{type}`: a page by id.
pub(crate) fn list(call: &Call<'_>, object_type: TypeId) -> Handled {
    let shown = Shown::of_query(call, object_type);
    let limit = call.limit(PAGE_DEFAULT, shown.page_max())?;
    let archived = call.flag("archived");
    let all = call.state.of_type(object_type, call.after()?.unwrap_or(0));
    let mut found = all.filter(|record| visible(record, call.as_of, archived));
    let mut results = Vec::new();
    for record in found.by_ref().take(limit) {
        let mut body = shown.render(record, call.as_of);
        add_associations(call, record, &mut body)?;
        results.push(body);
    }
    let after = found.next().map(|record| record.id.to_string());
    Ok(Reply::ok(page(results, after)))
}

/// `POST …/{type}/batch/read`: in no particular order; one error entry lists all that are missing.
pub(crate) fn batch_read(call: &mut Call<'_>, object_type: TypeId) -> Handled {
    let shown = Shown::new(
        object_type,
        call.readable(object_type, strings(call, "properties")?),
        call.readable(object_type, strings(call, "propertiesWithHistory")?),
    );
    let inputs = call.inputs_to_read(shown.page_max())?;
    let by = call.body.get("idProperty").and_then(Value::as_str);
    let archived = call.flag("archived");
    let (mut results, mut missing, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for input in &inputs {
        let id = input
            .get("id")
            .and_then(text_of)
            .ok_or_else(|| validation("Some required fields were not set: [id]"))?;
        let found = find(
            call,
            object_type,
            &id,
            by,
            call.dials.batch_read_follows_merges,
        )?;
        match found.filter(|record| visible(record, call.as_of, archived)) {
            Some(record) if seen.insert(record.id) => {
                results.push(shown.render(record, call.as_of))
            }
            Some(_) => {}
            None => missing.push(id),
        }
    }
    let errors = if missing.is_empty() {
        Vec::new()
    } else {
        vec![missing_error(object_type, &missing)]
    };
    call.dice.shuffle(&mut results);
    Ok(batch(200, results, errors, call.now))
}

/// The record that `id` names, by id or by a unique property.
pub(crate) fn find<'c>(
    call: &'c Call<'_>,
    object_type: TypeId,
    id: &str,
    by: Option<&str>,
    follow: bool,
) -> Result<Option<&'c Record>, Reply> {
    let Some(by) = by.filter(|by| *by != "hs_object_id") else {
        let Ok(id) = id.parse() else {
            return Ok(None);
        };
        let id = if follow {
            call.state.survivor((object_type, id))
        } else {
            id
        };
        return Ok(call.state.record((object_type, id)));
    };
    match definitions::of(object_type).get(by) {
        Some(definition) if definition.unique => Ok(call.state.by_unique(object_type, by, id)),
        _ => Err(validation(&format!(
            "The property '{by}' is not a unique identifier property"
        ))),
    }
}

/// Whether a read at `as_of` may show the record, among the archived or the others.
pub(crate) fn visible(record: &Record, as_of: Millis, archived: bool) -> bool {
    record.exists_since <= as_of && record.archived_at(as_of).is_some() == archived
}

fn history(record: &Record, name: &str, as_of: Millis) -> Value {
    let values = record.history(name, as_of).into_iter().map(|value| {
        let mut one =
            json!({"value": value.text, "timestamp": value.at, "sourceType": value.source.kind});
        if let Some(id) = &value.source.id {
            one["sourceId"] = json!(id);
        }
        if let Some(user) = value
            .source
            .id
            .as_ref()
            .and_then(|id| id.strip_prefix("userId:")?.parse::<u32>().ok())
        {
            one["updatedByUserId"] = json!(user);
        }
        one
    });
    values.collect()
}

/// `associations` of the query: the first page of each type asked for.
fn add_associations(call: &Call<'_>, record: &Record, body: &mut Value) -> Result<(), Reply> {
    let mut all = Map::new();
    for name in call.list("associations") {
        let to = call.object_type(&name)?;
        let from = types::of(record.object_type).singular;
        let mut results = Vec::new();
        for (id, kinds) in call
            .state
            .associated((record.object_type, record.id), to.id)
        {
            for label in super::associations::labels(record.object_type, to.id, kinds) {
                let suffix = label["label"].as_str().map_or_else(String::new, |label| {
                    format!("_{}", label.to_lowercase().replace(' ', "_"))
                });
                results.push(json!({"id": id.to_string(), "type": format!("{from}_to_{}{suffix}", to.singular)}));
            }
        }
        if !results.is_empty() {
            all.insert(to.plural.replace('_', " "), json!({"results": results}));
        }
    }
    if !all.is_empty() {
        body["associations"] = Value::Object(all);
    }
    Ok(())
}

fn missing_error(object_type: TypeId, ids: &[String]) -> Value {
    let name = types::of(object_type).singular.to_uppercase();
    let message = format!(
        "Could not get some {name} objects, they may be deleted or not exist. Check that ids are valid."
    );
    json!({"status": "error", "category": "OBJECT_NOT_FOUND", "message": message, "context": {"ids": ids}})
}

/// A list of strings of the body; absent is empty, as calls without `propertiesWithHistory` work.
fn strings(call: &Call<'_>, name: &str) -> Result<Vec<String>, Reply> {
    let Some(list) = call.body.get(name).filter(|list| !list.is_null()) else {
        return Ok(Vec::new());
    };
    let items = list.as_array().map(|items| {
        items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<_>>()
    });
    items.flatten().ok_or_else(|| {
        validation(&format!(
            "Invalid input JSON: {name} must be a list of strings"
        ))
    })
}
