//! HubSpot's CRM API, pure: a request and a portal's state in, a reply out.
//!
//! Sources: HubSpot's OpenAPI files (v3, v4, 2026-03, 2026-09) and published live observations where the two differ.
//! Both path families lead to the same handlers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::change::{Applied, Change, Fact};
use super::limits::Bucket;
use super::options::Dials;
use super::random::Random;
use super::record::Source;
use super::state::State;
use super::types::{self, ObjectType};
use crate::event::Millis;

pub(crate) mod associations;
pub(crate) mod conversations;
pub(crate) mod errors;
pub(crate) mod files;
pub(crate) mod metadata;
pub(crate) mod objects;
pub(crate) mod owners;
pub(crate) mod read;
pub(crate) mod search;
pub(crate) mod write;

use errors::{not_found, validation};

/// The longest request target; beyond it 414. HubSpot documents no number; 5,116 characters were seen to work.
pub(crate) const URI_MAX: usize = 8_000;

/// A reply: a status and a JSON body; none for 204.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Option<Value>,
}

impl Reply {
    pub(crate) fn ok(body: Value) -> Self {
        Self::with(200, body)
    }

    pub(crate) fn with(status: u16, body: Value) -> Self {
        Self {
            status,
            body: Some(body),
        }
    }

    pub(crate) fn no_content() -> Self {
        Self {
            status: 204,
            body: None,
        }
    }
}

/// `Err` is a reply too: the one that ends the handler.
pub(crate) type Handled = Result<Reply, Reply>;

/// A call being answered.
pub(crate) struct Call<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) dice: &'a mut Random,
    /// Whether the path is of the dated family.
    pub(crate) dated: bool,
    pub(crate) method: &'a str,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) body: Value,
    pub(crate) now: Millis,
    /// The time whose state reads show.
    pub(crate) as_of: Millis,
    pub(crate) dials: Dials,
    pub(crate) missing_scopes: &'a std::collections::BTreeSet<String>,
    /// Who writes: the app of the token.
    pub(crate) source: Source,
    /// What writes led to.
    pub(crate) facts: Vec<Fact>,
}

/// What a path leads to, whichever family it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route<'p> {
    area: Area,
    rest: Vec<&'p str>,
}

/// Whether a path names its version by a date.
pub(crate) fn is_dated(path: &str) -> bool {
    path.split('/').any(dated)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Area {
    Objects,
    Associations,
    Owners,
    Properties,
    Pipelines,
    Schemas,
    Files,
    Conversations,
    Account,
}

impl<'p> Route<'p> {
    /// `None` for a path HubSpot's API (as far as it is simulated) does not have.
    pub(crate) fn parse(path: &'p str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (area, skipped) = match segments.as_slice() {
            ["crm", "v3" | "v4", "objects", ..] => (Area::Objects, 3),
            ["crm", "v4", "associations", ..] => (Area::Associations, 3),
            ["crm", "v3", "owners", ..] => (Area::Owners, 3),
            ["crm", "v3", "properties", ..] => (Area::Properties, 3),
            ["crm", "v3", "pipelines", ..] => (Area::Pipelines, 3),
            ["crm", "v3", "schemas", ..] => (Area::Schemas, 3),
            ["crm-object-schemas", version, "schemas", ..]
                if dated(version) || *version == "v3" =>
            {
                (Area::Schemas, 3)
            }
            ["files", version, "files", ..] if dated(version) || *version == "v3" => {
                (Area::Files, 3)
            }
            ["conversations", "v3", "conversations", ..] => (Area::Conversations, 3),
            ["conversations", "conversations", version, ..] if dated(version) => {
                (Area::Conversations, 3)
            }
            ["account-info", version, "details"] if dated(version) || *version == "v3" => {
                (Area::Account, 3)
            }
            ["crm", "objects", version, ..] if dated(version) || *version == "v3" => {
                (Area::Objects, 3)
            }
            ["crm", "associations", version, ..] if dated(version) || *version == "v4" => {
                (Area::Associations, 3)
            }
            ["crm", "owners", version, ..] if dated(version) => (Area::Owners, 3),
            ["crm", "properties", version, ..] if dated(version) => (Area::Properties, 3),
            ["crm", "pipelines", version, ..] if dated(version) => (Area::Pipelines, 3),
            _ => return None,
        };
        Some(Self {
            area,
            rest: segments[skipped..].to_vec(),
        })
    }

    /// The limit it counts against. Of the association API, batches, labels and definitions are exempt from the
    /// app's ten seconds; a single association is not.
    pub(crate) fn bucket(&self) -> Bucket {
        match (self.area, self.rest.as_slice()) {
            (Area::Associations, _) => Bucket::Associations,
            (Area::Objects, [_, "search"]) => Bucket::Search,
            _ => Bucket::Burst,
        }
    }

    /// The word under which calls are counted.
    pub(crate) fn endpoint(&self) -> &'static str {
        match (self.area, self.rest.as_slice()) {
            (Area::Objects, [_, "search"]) => "search",
            (Area::Objects, [_, "batch", "read"]) => "objects_batch_read",
            (Area::Objects, [_, "batch", _]) => "objects_batch_write",
            (Area::Objects, [_, "merge" | "gdpr-delete"]) => "object_write",
            (Area::Objects, [_, _, "associations", ..]) => "object_associations",
            (Area::Objects, [_]) => "objects",
            (Area::Objects, _) => "object",
            (Area::Associations, [_, _, "labels"]) => "association_labels",
            (Area::Associations, [_, _, "batch", "read"]) => "associations_batch_read",
            (Area::Associations, _) => "associations_batch_write",
            (Area::Owners, []) => "owners",
            (Area::Owners, _) => "owner",
            (Area::Properties, [_]) => "properties",
            (Area::Properties, _) => "property",
            (Area::Pipelines, _) => "pipelines",
            (Area::Schemas, _) => "schemas",
            (Area::Files, [_, "signed-url"]) => "file_signed_url",
            (Area::Files, _) => "file",
            (Area::Conversations, ["actors", ..]) => "conversation_actors",
            (Area::Conversations, [_, _, "messages", ..]) => "conversation_message",
            (Area::Conversations, _) => "conversation_thread",
            (Area::Account, _) => "account",
        }
    }

    /// Answers the call.
    pub(crate) fn handle(&self, call: &mut Call<'_>) -> Reply {
        let handled = match self.area {
            Area::Objects => objects::handle(call, &self.rest),
            Area::Associations => associations::handle(call, &self.rest),
            Area::Owners => owners::handle(call, &self.rest),
            Area::Properties => metadata::properties(call, &self.rest),
            Area::Pipelines => metadata::pipelines(call, &self.rest),
            Area::Schemas => metadata::schemas(call, &self.rest),
            Area::Files => files::handle(call, &self.rest),
            Area::Conversations => conversations::handle(call, &self.rest),
            Area::Account => Ok(metadata::account(call)),
        };
        handled.unwrap_or_else(|reply| reply)
    }
}

impl Call<'_> {
    /// The type a path names, if the token may read it.
    pub(crate) fn object_type(&self, name: &str) -> Result<&'static ObjectType, Reply> {
        let unknown = || validation(&format!("Unable to infer object type from: {name}"));
        let found = types::resolve(name, self.state.portal_id).ok_or_else(unknown)?;
        self.need_scope(found.scope)?;
        Ok(found)
    }

    pub(crate) fn need_scope(&self, scope: &str) -> Result<(), Reply> {
        if self.missing_scopes.contains(scope) {
            Err(errors::missing_scope(scope))
        } else {
            Ok(())
        }
    }

    /// Those of `names` whose values the token may read: of the others none is shown.
    pub(crate) fn readable(&self, object_type: types::TypeId, names: Vec<String>) -> Vec<String> {
        let scope = types::of(object_type).scope_of("sensitive");
        let hidden = self.missing_scopes.contains(&scope);
        let definitions = crate::simulator::definitions::of(object_type);
        let is_sensitive = |name: &String| {
            let definition = definitions.get(name.as_str());
            definition.is_some_and(|definition| definition.sensitive)
        };
        let names = names.into_iter();
        names
            .filter(|name| !(hidden && is_sensitive(name)))
            .collect()
    }

    /// Makes a change for the caller.
    pub(crate) fn apply(&mut self, change: Change) -> Result<Applied, Reply> {
        let object_type = errors::object_type(&change);
        let applied = self.state.apply(change, &self.source, self.now);
        let mut applied = applied.map_err(|error| errors::of_change(&error, object_type))?;
        self.facts.append(&mut applied.facts);
        Ok(applied)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| value == "true")
    }

    /// A comma list of the query.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let text = self.query.get(name).map_or("", String::as_str);
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// `limit` of the query, from 1 to `max`.
    pub(crate) fn limit(&self, default: usize, max: usize) -> Result<usize, Reply> {
        let Some(text) = self.query.get("limit") else {
            return Ok(default);
        };
        let limit = text.parse().ok().filter(|limit| (1..=max).contains(limit));
        limit.ok_or_else(|| validation(&format!("limit must be between 1 and {max}, got {text}")))
    }

    /// `after` of the query, as a number.
    pub(crate) fn after(&self) -> Result<Option<u64>, Reply> {
        let parse = |text: &String| text.parse().map_err(|_| validation("Invalid paging token"));
        self.query.get("after").map(parse).transpose()
    }

    /// `inputs` of a batch read: at most as many as documented, or fewer where a dial says so.
    pub(crate) fn inputs_to_read(&self, documented_max: usize) -> Result<Vec<Value>, Reply> {
        match self.dials.batch_read_max {
            0 => self.inputs(documented_max),
            max => self.inputs(max.min(documented_max)),
        }
    }

    /// `inputs` of the body, from 1 to `max`.
    pub(crate) fn inputs(&self, max: usize) -> Result<Vec<Value>, Reply> {
        let inputs = self.body.get("inputs").and_then(Value::as_array);
        let inputs =
            inputs.ok_or_else(|| validation("Invalid input JSON: inputs must be a list"))?;
        if inputs.len() > max {
            return Err(validation(&format!(
                "The maximum number of inputs supported in a batch request is {max}. Received {}.",
                inputs.len()
            )));
        }
        Ok(inputs.clone())
    }
}

/// A batch reply: 200, or 207 with errors.
pub(crate) fn batch(status: u16, results: Vec<Value>, errors: Vec<Value>, now: Millis) -> Reply {
    let mut body =
        json!({"status": "COMPLETE", "results": results, "startedAt": now, "completedAt": now});
    if errors.is_empty() {
        return Reply::with(status, body);
    }
    body["numErrors"] = json!(errors.len());
    body["errors"] = Value::Array(errors);
    Reply::with(207, body)
}

/// `paging.next.after`, absent at the end. The `link` is of the old family, as live replies had it.
pub(crate) fn page(results: Vec<Value>, after: Option<String>) -> Value {
    let mut body = json!({"results": results});
    if let Some(after) = after {
        body["paging"] = json!({"next": {"link": format!("?after={after}"), "after": after}});
    }
    body
}

/// An id of a body or path: HubSpot takes strings, and numbers where people send them.
pub(crate) fn id_of(value: &Value) -> Result<u64, Reply> {
    let text = text_of(value).unwrap_or_default();
    text.parse()
        .map_err(|_| validation(&format!("Invalid id: {text}")))
}

/// A string, or a number or boolean as one.
pub(crate) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null => Some(String::new()),
        _ => None,
    }
}

pub(crate) fn no_route() -> Reply {
    not_found("resource not found")
}

/// Whether a segment of a path is a dated version, `2026-09` say.
pub(crate) fn is_version(segment: &str) -> bool {
    dated(segment)
}

fn dated(version: &str) -> bool {
    let version = version.strip_suffix("-beta").unwrap_or(version).as_bytes();
    let digits = |range: std::ops::Range<usize>| version[range].iter().all(u8::is_ascii_digit);
    version.len() == 7 && version[4] == b'-' && digits(0..4) && digits(5..7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_lead_to_the_same_place() {
        for (old, new) in [
            (
                "/crm/v3/objects/contacts/batch/read",
                "/crm/objects/2026-09/contacts/batch/read",
            ),
            (
                "/crm/v4/objects/deals/1/associations/contacts",
                "/crm/objects/2026-03/deals/1/associations/contacts",
            ),
            (
                "/crm/v4/associations/deals/contacts/batch/read",
                "/crm/associations/2026-09/deals/contacts/batch/read",
            ),
            ("/crm/v3/owners/7", "/crm/owners/2026-09/7"),
            (
                "/crm/v3/properties/0-1/email",
                "/crm/properties/2027-03-beta/0-1/email",
            ),
            ("/crm/v3/pipelines/deals", "/crm/pipelines/2026-09/deals"),
            ("/crm/v3/schemas", "/crm-object-schemas/2026-09/schemas"),
            (
                "/files/v3/files/7/signed-url",
                "/files/2026-03/files/7/signed-url",
            ),
            (
                "/conversations/v3/conversations/threads/5",
                "/conversations/conversations/2026-09/threads/5",
            ),
        ] {
            assert_eq!(Route::parse(old), Route::parse(new), "{old}");
            assert!(Route::parse(old).is_some());
        }
        assert_eq!(Route::parse("/crm/objects/2026-9/contacts"), None);
        assert_eq!(Route::parse("/crm/v1/contacts"), None);
    }

    #[test]
    fn association_batches_and_searches_have_limits_of_their_own() {
        let bucket = |path| Route::parse(path).unwrap().bucket();
        assert_eq!(
            bucket("/crm/v4/associations/a/b/batch/read"),
            Bucket::Associations
        );
        assert_eq!(
            bucket("/crm/v4/objects/deals/1/associations/contacts"),
            Bucket::Burst
        );
        assert_eq!(bucket("/crm/v3/objects/deals/search"), Bucket::Search);
        assert_eq!(bucket("/crm/v3/objects/deals/batch/read"), Bucket::Burst);
    }
}
