//! Where each [`Call`] goes: HubSpot's paths in both families, in one table, and each call's query and body.
//!
//! Record ids and type names come from outside, so every path segment is percent-encoded, and one that would
//! change the path all the same (empty, `.`, `..`) makes no request.

use reqwest::{Method, Url};
use serde_json::{Value, json};

use super::version::ApiVersion;
use crate::event::ObjectTypeId;
use crate::hubspot::call::{AssociationInput, Call, Sensitivity};

/// The longest URL we send. HubSpot answers 414 somewhere above 5,116 bytes of query.
pub(super) const URL_BYTES_MAX: usize = 5_000;
/// Owners in one page: HubSpot's documented default. Its maximum is undocumented.
const OWNERS_PER_PAGE: &str = "100";

/// The part of HubSpot's API that a call goes to.
#[derive(Clone, Copy)]
enum Resource {
    Objects,
    Associations,
    Owners,
    Properties,
    Pipelines,
    Schemas,
    Files,
    Conversations,
}

impl Resource {
    /// The resource's old path, and the one that the date follows.
    ///
    /// # Source
    /// HubSpot's OpenAPI files for v3 (associations: v4) and their dated twins. That of conversations begins with
    /// 2026-09; files read by id are in those of v3 and 2026-03.
    fn paths(self) -> (&'static str, &'static str) {
        match self {
            Self::Objects => ("crm/v3/objects", "crm/objects"),
            Self::Associations => ("crm/v4/associations", "crm/associations"),
            Self::Owners => ("crm/v3/owners", "crm/owners"),
            Self::Properties => ("crm/v3/properties", "crm/properties"),
            Self::Pipelines => ("crm/v3/pipelines", "crm/pipelines"),
            Self::Schemas => ("crm-object-schemas/v3", "crm-object-schemas"),
            Self::Files => ("files/v3", "files"),
            Self::Conversations => (
                "conversations/v3/conversations",
                "conversations/conversations",
            ),
        }
    }
}

/// One HTTP request, but for its headers.
#[derive(Debug)]
pub(super) struct WireRequest {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) body: Option<Value>,
}

/// The request that asks `call` of the API under `base`.
///
/// `None` when an id or a type in it cannot stand in a path. Types go by their id, since HubSpot takes the id
/// of every type, and knows some types in paths by nothing else.
pub(super) fn request(base: &Url, version: ApiVersion, call: &Call) -> Option<WireRequest> {
    let (resource, segments) = target(call);
    let mut url = resource_url(base, version, resource, &segments)?;
    let (method, body) = match body(call) {
        Some(body) => (Method::POST, Some(body)),
        None => (Method::GET, None),
    };
    add_query(&mut url, call);
    Some(WireRequest { method, url, body })
}

fn target(call: &Call) -> (Resource, Vec<&str>) {
    match call {
        Call::ReadRecords { object_type_id, .. } => (
            Resource::Objects,
            vec![object_type_id.as_str(), "batch", "read"],
        ),
        Call::ReadRecord {
            object_type_id, id, ..
        } => (
            Resource::Objects,
            vec![object_type_id.as_str(), id.as_str()],
        ),
        Call::ReadAssociations { from, to, .. } => (
            Resource::Associations,
            vec![from.as_str(), to.as_str(), "batch", "read"],
        ),
        Call::ListOwners { .. } => (Resource::Owners, vec![]),
        Call::ReadOwner { id, .. } => (Resource::Owners, vec![id.as_str()]),
        Call::ListProperties { object_type_id, .. } => (Resource::Properties, one(object_type_id)),
        Call::ListAssociationLabels { from, to } => (
            Resource::Associations,
            vec![from.as_str(), to.as_str(), "labels"],
        ),
        Call::ListPipelines { object_type_id } => (Resource::Pipelines, one(object_type_id)),
        Call::ListSchemas => (Resource::Schemas, vec!["schemas"]),
        Call::ReadFile { id } => (Resource::Files, vec!["files", id]),
        Call::SignFile { id } => (Resource::Files, vec!["files", id, "signed-url"]),
        Call::ReadThread { id } => (Resource::Conversations, vec!["threads", id.as_str()]),
        Call::ReadMessage { thread_id, id } => (
            Resource::Conversations,
            vec!["threads", thread_id.as_str(), "messages", id],
        ),
        Call::ReadActors { .. } => (Resource::Conversations, vec!["actors", "batch", "read"]),
    }
}

fn one(object_type_id: &ObjectTypeId) -> Vec<&str> {
    vec![object_type_id.as_str()]
}

fn resource_url(
    base: &Url,
    version: ApiVersion,
    resource: Resource,
    segments: &[&str],
) -> Option<Url> {
    // The URL parser drops dot segments: `contacts/..` would list what it should read.
    if segments
        .iter()
        .any(|segment| matches!(*segment, "" | "." | ".."))
    {
        return None;
    }
    let (numbered, dated) = resource.paths();
    let mut url = base.clone();
    let mut path = url.path_segments_mut().ok()?;
    path.pop_if_empty();
    match version {
        ApiVersion::V3 => path.extend(numbered.split('/')),
        ApiVersion::Dated { .. } => path.extend(dated.split('/')).push(&version.to_string()),
    };
    path.extend(segments);
    drop(path);
    Some(url)
}

fn add_query(url: &mut Url, call: &Call) {
    match call {
        Call::ReadRecords { .. } => {
            url.query_pairs_mut().append_pair("archived", "false");
        }
        Call::ReadRecord { properties, .. } => {
            url.query_pairs_mut().append_pair("archived", "false");
            add_properties(url, properties);
        }
        Call::ListOwners { archived, after } => {
            let mut query = url.query_pairs_mut();
            query.append_pair("limit", OWNERS_PER_PAGE);
            query.append_pair("archived", flag(*archived));
            if let Some(after) = after {
                query.append_pair("after", after);
            }
        }
        Call::ReadOwner { archived, .. } => {
            url.query_pairs_mut()
                .append_pair("archived", flag(*archived));
        }
        Call::ListSchemas => {
            // The properties of all types together are many, and are read by type anyway.
            url.query_pairs_mut()
                .append_pair("archived", "false")
                .append_pair("includePropertyDefinitions", "false")
                .append_pair("includeAssociationDefinitions", "false");
        }
        Call::ReadThread { .. } => {
            // Else the ticket is left out.
            url.query_pairs_mut().append_pair("association", "TICKET");
        }
        Call::ListProperties { sensitivity, .. } => {
            // The default goes without saying.
            if *sensitivity != Sensitivity::NonSensitive {
                let level = sensitivity.as_str();
                url.query_pairs_mut().append_pair("dataSensitivity", level);
            }
        }
        Call::ReadAssociations { .. }
        | Call::ListPipelines { .. }
        | Call::ListAssociationLabels { .. }
        | Call::ReadFile { .. }
        | Call::SignFile { .. }
        | Call::ReadMessage { .. }
        | Call::ReadActors { .. } => {}
    }
}

/// Asks for all of `properties`, or for none where the URL would become longer than [`URL_BYTES_MAX`]: a
/// record with a part of what was asked for could not be told from one whose other values are empty.
fn add_properties(url: &mut Url, properties: &[String]) {
    if properties.is_empty() {
        return;
    }
    let mut with_properties = url.clone();
    with_properties
        .query_pairs_mut()
        .append_pair("properties", &properties.join(","));
    if with_properties.as_str().len() <= URL_BYTES_MAX {
        *url = with_properties;
    }
}

fn flag(flag: bool) -> &'static str {
    if flag { "true" } else { "false" }
}

fn body(call: &Call) -> Option<Value> {
    match call {
        Call::ReadRecords {
            ids,
            properties,
            properties_with_history,
            ..
        } => Some(json!({
            "inputs": ids.iter().map(|id| json!({"id": id})).collect::<Vec<_>>(),
            "properties": properties,
            "propertiesWithHistory": properties_with_history,
        })),
        Call::ReadAssociations { inputs, .. } => Some(json!({
            "inputs": inputs.iter().map(association_input).collect::<Vec<_>>(),
        })),
        Call::ReadActors { ids } => Some(json!({"inputs": ids})),
        _ => None,
    }
}

fn association_input(input: &AssociationInput) -> Value {
    match &input.after {
        Some(after) => json!({"id": input.id, "after": after}),
        None => json!({"id": input.id}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::OwnerId;

    const DATED: ApiVersion = ApiVersion::Dated {
        year: 2026,
        month: 9,
    };

    fn base() -> Url {
        Url::parse("https://api.hubapi.com").unwrap()
    }

    fn contacts() -> ObjectTypeId {
        ObjectTypeId::from_name("contact")
    }

    fn url_of(version: ApiVersion, call: &Call) -> String {
        let url = request(&base(), version, call).unwrap().url;
        url.as_str()
            .strip_prefix("https://api.hubapi.com")
            .unwrap()
            .to_owned()
    }

    fn read_record(id: &str, properties: &[&str]) -> Call {
        Call::ReadRecord {
            object_type_id: contacts(),
            id: id.into(),
            properties: properties.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn every_call_has_its_path_in_both_families() {
        let to = ObjectTypeId::from_name("2-77");
        let labels = Call::ListAssociationLabels {
            from: contacts(),
            to: to.clone(),
        };
        let calls = [
            (
                labels,
                "/crm/v4/associations/0-1/2-77/labels",
                "/crm/associations/2026-09/0-1/2-77/labels",
            ),
            (
                Call::ReadRecords {
                    object_type_id: contacts(),
                    ids: vec!["1".into()],
                    properties: vec![],
                    properties_with_history: vec![],
                },
                "/crm/v3/objects/0-1/batch/read?archived=false",
                "/crm/objects/2026-09/0-1/batch/read?archived=false",
            ),
            (
                read_record("512", &["email", "phone"]),
                "/crm/v3/objects/0-1/512?archived=false&properties=email%2Cphone",
                "/crm/objects/2026-09/0-1/512?archived=false&properties=email%2Cphone",
            ),
            (
                Call::ReadAssociations {
                    from: contacts(),
                    to,
                    inputs: vec![],
                },
                "/crm/v4/associations/0-1/2-77/batch/read",
                "/crm/associations/2026-09/0-1/2-77/batch/read",
            ),
            (
                Call::ListOwners {
                    archived: true,
                    after: Some("a b&c=".into()),
                },
                "/crm/v3/owners?limit=100&archived=true&after=a+b%26c%3D",
                "/crm/owners/2026-09?limit=100&archived=true&after=a+b%26c%3D",
            ),
            (
                Call::ReadOwner {
                    id: OwnerId::from("7"),
                    archived: false,
                },
                "/crm/v3/owners/7?archived=false",
                "/crm/owners/2026-09/7?archived=false",
            ),
            (
                Call::ListProperties {
                    object_type_id: contacts(),
                    sensitivity: Sensitivity::NonSensitive,
                },
                "/crm/v3/properties/0-1",
                "/crm/properties/2026-09/0-1",
            ),
            (
                Call::ListProperties {
                    object_type_id: contacts(),
                    sensitivity: Sensitivity::HighlySensitive,
                },
                "/crm/v3/properties/0-1?dataSensitivity=highly_sensitive",
                "/crm/properties/2026-09/0-1?dataSensitivity=highly_sensitive",
            ),
            (
                Call::ListPipelines {
                    object_type_id: contacts(),
                },
                "/crm/v3/pipelines/0-1",
                "/crm/pipelines/2026-09/0-1",
            ),
            (
                Call::ListSchemas,
                "/crm-object-schemas/v3/schemas?archived=false&includePropertyDefinitions=false&includeAssociationDefinitions=false",
                "/crm-object-schemas/2026-09/schemas?archived=false&includePropertyDefinitions=false&includeAssociationDefinitions=false",
            ),
            (
                Call::ReadFile { id: "7".into() },
                "/files/v3/files/7",
                "/files/2026-09/files/7",
            ),
            (
                Call::SignFile { id: "7".into() },
                "/files/v3/files/7/signed-url",
                "/files/2026-09/files/7/signed-url",
            ),
            (
                Call::ReadThread { id: "5".into() },
                "/conversations/v3/conversations/threads/5?association=TICKET",
                "/conversations/conversations/2026-09/threads/5?association=TICKET",
            ),
            (
                Call::ReadMessage {
                    thread_id: "5".into(),
                    id: "9b/38".into(),
                },
                "/conversations/v3/conversations/threads/5/messages/9b%2F38",
                "/conversations/conversations/2026-09/threads/5/messages/9b%2F38",
            ),
            (
                Call::ReadActors {
                    ids: vec!["A-1".into()],
                },
                "/conversations/v3/conversations/actors/batch/read",
                "/conversations/conversations/2026-09/actors/batch/read",
            ),
        ];
        for (call, numbered, dated) in calls {
            assert_eq!(url_of(ApiVersion::V3, &call), numbered);
            assert_eq!(url_of(DATED, &call), dated);
        }
    }

    #[test]
    fn an_id_cannot_leave_its_path_segment() {
        assert_eq!(
            url_of(
                ApiVersion::V3,
                &read_record("../owners?x=1#y%2e z/\u{e9}", &[])
            ),
            "/crm/v3/objects/0-1/..%2Fowners%3Fx=1%23y%252e%20z%2F%C3%A9?archived=false"
        );
        for id in ["", ".", ".."] {
            assert!(
                request(&base(), ApiVersion::V3, &read_record(id, &[])).is_none(),
                "{id}"
            );
        }
    }

    #[test]
    fn an_encoded_dot_segment_stays_a_segment() {
        assert_eq!(
            url_of(ApiVersion::V3, &read_record("%2e%2e", &[])),
            "/crm/v3/objects/0-1/%252e%252e?archived=false"
        );
    }

    #[test]
    fn a_base_url_keeps_its_own_path() {
        let base = Url::parse("http://127.0.0.1:9/hubspot/").unwrap();
        let request = request(&base, DATED, &read_record("5", &[])).unwrap();
        assert_eq!(
            request.url.as_str(),
            "http://127.0.0.1:9/hubspot/crm/objects/2026-09/0-1/5?archived=false"
        );
    }

    #[test]
    fn properties_that_do_not_fit_the_url_are_all_left_out() {
        let names: Vec<String> = (0..600)
            .map(|number| format!("property_{number}"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(
            url_of(DATED, &read_record("5", &names)),
            "/crm/objects/2026-09/0-1/5?archived=false"
        );
        assert!(url_of(DATED, &read_record("5", &names[..100])).contains("property_99"));
    }

    #[test]
    fn a_batch_read_names_its_inputs_and_properties() {
        let call = Call::ReadRecords {
            object_type_id: contacts(),
            ids: vec!["1".into(), "2".into()],
            properties: vec!["email".into()],
            properties_with_history: vec!["phone".into()],
        };
        let request = request(&base(), DATED, &call).unwrap();
        assert_eq!(request.method, Method::POST);
        assert_eq!(
            request.body.unwrap(),
            json!({"inputs": [{"id": "1"}, {"id": "2"}], "properties": ["email"], "propertiesWithHistory": ["phone"]})
        );
    }

    #[test]
    fn an_association_page_is_asked_for_per_record() {
        let inputs = vec![
            AssociationInput {
                id: "1".into(),
                after: None,
            },
            AssociationInput {
                id: "2".into(),
                after: Some("789".into()),
            },
        ];
        let call = Call::ReadAssociations {
            from: contacts(),
            to: contacts(),
            inputs,
        };
        assert_eq!(
            request(&base(), DATED, &call).unwrap().body.unwrap(),
            json!({"inputs": [{"id": "1"}, {"id": "2", "after": "789"}]})
        );
    }

    #[test]
    fn actors_are_named_as_they_are() {
        let call = Call::ReadActors {
            ids: vec!["A-1".into(), "E-ada@example.com".into()],
        };
        let request = request(&base(), DATED, &call).unwrap();
        assert_eq!(request.method, Method::POST);
        assert_eq!(
            request.body.unwrap(),
            json!({"inputs": ["A-1", "E-ada@example.com"]})
        );
    }
}
