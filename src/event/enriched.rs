//! What consumers receive: one record's state with the events that led to it, as a CloudEvent.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use super::{
    Attachment, Conversation, Event, EventId, IdentityHasher, Millis, ObjectId, ObjectSchema,
    ObjectTypeId, OwnerId, PortalId, RoutingKey, Version,
};

/// The content type of an encoded [`EnrichedEvent`]: CloudEvents' structured JSON.
pub const ENRICHED_CONTENT_TYPE: &str = "application/cloudevents+json";

/// One record's state and the events that led to it, as a CloudEvent of specification version 1.0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnrichedEvent {
    /// `1.0`.
    #[schemars(extend("const" = "1.0"))]
    pub specversion: String,
    /// A hash of the ids it carries, its subject and its type: the same for a repeat.
    pub id: EventId,
    /// `hubspot/<portal_id>`.
    #[schemars(regex(pattern = "^hubspot/"))]
    pub source: String,
    /// `<object_type>/<object_id>`.
    pub subject: String,
    /// `crm.<object_type>.enriched.v1`, or for a tombstone `….deleted.v1`, `….privacy_deleted.v1` or
    /// `….merged.v1` (the record was merged into another).
    #[schemars(regex(pattern = r"^crm\..+\.(enriched|deleted|privacy_deleted|merged)\.v1$"))]
    pub r#type: String,
    /// The newest `occurred_at` of the events.
    pub time: Millis,
    /// `application/json`.
    #[schemars(extend("const" = "application/json"))]
    pub datacontenttype: String,
    /// The record and what led to it.
    pub data: EnrichedData,
}

/// One record's state, and the events that led to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnrichedData {
    /// The account.
    pub portal_id: PortalId,
    /// The readable name of the type: the singular of a standard type, else the type's id.
    pub object_type: String,
    /// The type's id.
    pub object_type_id: ObjectTypeId,
    /// What the portal calls a type of its own; absent for HubSpot's types, and when its schemas may not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_schema: Option<ObjectSchema>,
    /// The record, unique within portal and type.
    pub object_id: ObjectId,
    /// What the portal's other systems know the record by: the value of the property that the configuration names,
    /// as text. Absent when none is named, or it is empty, or the record was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// Which of two states of this record is newer: compare as text.
    pub version: Version,
    /// The events merged into this message, in the order they came; 1 to 100.
    #[schemars(length(min = 1, max = 100))]
    pub events: Vec<Event>,
    /// The record as read; `null` in a tombstone, or when there was nothing to read.
    pub record: Option<Record>,
    /// The record's properties that no other record of its type shares, by internal name: e-mail, domain, and
    /// what is defined as unique. Empty ones are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identifiers: BTreeMap<String, PropertyValue>,
    /// What properties that `events` changed held before the first of these changes, where the configuration asks
    /// for it; `null` for what was empty or never set. One whose earlier value HubSpot does not tell is left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub previous_values: BTreeMap<String, PropertyValue>,
    /// Owners by the property that names them (`hubspot_owner_id`).
    #[serde(default)]
    pub owners: BTreeMap<String, Owner>,
    /// Owners by the property that lists several of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub owner_lists: BTreeMap<String, Vec<Owner>>,
    /// Associated records by the readable name of their type; a custom type goes by the name that the configuration has
    /// for it. A type that was asked for and has none is an empty list.
    #[serde(default)]
    pub associations: BTreeMap<String, Vec<Association>>,
    /// The pipeline and stage the record stands in, for types that have pipelines.
    pub pipeline: Option<Pipeline>,
    /// The files attached to the record, in its order; absent unless they are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<Attachment>>,
    /// The thread of a conversation; absent unless threads are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// Set when the record is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
    /// How complete this message is.
    pub enrichment: Enrichment,
}

/// A record's properties and dates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Values by internal name, typed by the portal's own property definitions. Empty ones are left out, but for those
    /// that an event of this message cleared: they are `null`.
    pub properties: BTreeMap<String, PropertyValue>,
    /// HubSpot's own texts, by internal name, where the configuration asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<BTreeMap<String, String>>,
    /// Labels of the enumeration values among them, by internal name; a list for multiple selection.
    #[serde(default)]
    pub labels: BTreeMap<String, PropertyValue>,
    /// The types of the records whose ids some properties hold, by the property's internal name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, String>,
    /// The names among `properties` of what HubSpot computes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calculated: Vec<String>,
    /// The names among `properties` of what only HubSpot may set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_only: Vec<String>,
    /// The names among `properties` of what the portal marks as sensitive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sensitive: Vec<String>,
    /// When the record was made.
    pub created_at: Option<Millis>,
    /// When the record last changed, as of the read.
    pub updated_at: Option<Millis>,
    /// Whether it lies in the recycle bin.
    pub archived: bool,
}

/// A property's value, as its definition types it.
#[derive(Clone, Debug, PartialEq)]
pub enum PropertyValue {
    /// Empty: HubSpot's `""`, `null` and absence mean the same.
    Null,
    /// `bool` properties.
    Bool(bool),
    /// `number` properties: a JSON number with HubSpot's own digits. See [`PropertyValue::number`].
    Number(String),
    /// All else: text, dates (`2026-11-23`), times (RFC 3339), single selections (internal value).
    Text(String),
    /// Multiple selections: internal values.
    List(Vec<String>),
    /// `json` properties: an object, or a list that is not of texts alone, as JSON on one line. See
    /// [`PropertyValue::json`].
    Json(String),
}

/// An owner: a user or queue that records are assigned to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// The owner's id, as on the record. Not the user's id.
    pub id: OwnerId,
    /// E-mail address. `null` for queues and for an owner that could not be read.
    pub email: Option<String>,
    /// First and last name, joined by a space.
    pub name: Option<String>,
    /// The user behind it, deactivated or not; `null` for queues.
    pub user_id: Option<String>,
    /// `PERSON` or `QUEUE`; `null` for an owner that could not be read.
    pub r#type: Option<String>,
    /// Whether the user was deactivated.
    pub archived: bool,
    /// The teams it belongs to.
    pub teams: Vec<Team>,
}

/// A team of an owner's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Team {
    /// The team's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it is the owner's primary team.
    pub primary: bool,
}

/// One associated record with all labels of the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Association {
    /// The record at the other end.
    pub id: ObjectId,
    /// Whether it is the primary one of its type.
    pub primary: bool,
    /// The labels people see, without duplicates.
    pub labels: Vec<String>,
    /// The association types behind them.
    pub types: Vec<AssociationLabel>,
}

/// One association type of an edge: the pair of category and id, in the direction from this record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AssociationLabel {
    /// `HUBSPOT_DEFINED`, `USER_DEFINED`, `INTEGRATOR_DEFINED`, … an open set.
    pub category: String,
    /// The id within the category.
    pub type_id: u64,
    /// What people see; `null` for the unlabelled type.
    pub label: Option<String>,
}

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pipeline {
    /// The pipeline's id.
    pub id: String,
    /// Its name; `null` when the id is not among the portal's pipelines.
    pub label: Option<String>,
    /// Its place among the portal's pipelines of this type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_order: Option<i64>,
    /// The stage the record is in.
    pub stage: Option<Stage>,
}

/// A stage of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PipelineStage")]
pub struct Stage {
    /// The stage's id.
    pub id: String,
    /// Its name; `null` when the id is not among the pipeline's stages.
    pub label: Option<String>,
    /// Its place among the pipeline's stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_order: Option<i64>,
    /// Whether a record in it counts as closed (deals: `isClosed`, tickets: `ticketState`).
    pub closed: Option<bool>,
    /// Deals only: the chance of winning, 0 to 1, in HubSpot's own digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<PropertyValue>,
    /// Tickets only: `OPEN` or `CLOSED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_state: Option<String>,
}

/// Why a record is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tombstone {
    /// What happened to it.
    pub reason: TombstoneReason,
    /// The record that took it in, where it was merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<ObjectId>,
}

/// What made a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TombstoneReason {
    /// It lies in the recycle bin and may be restored.
    Deleted,
    /// It is gone for good on its subject's request: drop what you hold of it.
    PrivacyDeleted,
    /// Another record took it in.
    Merged,
}

/// How complete a message is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enrichment {
    /// The sum of it.
    pub status: EnrichmentStatus,
    /// When HubSpot finished the read, by its clock; `null` when nothing was read.
    pub fetched_at: Option<Millis>,
    /// What is missing and why; empty when complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<EnrichmentProblem>,
}

/// The sum of an enrichment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnrichmentStatus {
    /// Everything that was asked for is here.
    Complete,
    /// The record is here; `problems` lists what is not.
    Partial,
    /// HubSpot answered, again and again, with a state older than the events.
    Stale,
    /// HubSpot has no such record: deleted meanwhile, or it never was (the Test button's).
    Missing,
    /// We may not read the record; `problems` names the scope.
    Forbidden,
    /// Nothing to read: a tombstone, an unknown event, a conversation unless threads are asked for.
    NotRead,
}

impl EnrichmentStatus {
    /// The word in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Stale => "stale",
            Self::Missing => "missing",
            Self::Forbidden => "forbidden",
            Self::NotRead => "not_read",
        }
    }
}

/// One part that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnrichmentProblem {
    /// Which part.
    pub part: EnrichmentPart,
    /// Why.
    pub reason: ProblemReason,
    /// The type at the other end, where the part is associations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_type: Option<String>,
    /// The scopes the token lacks, where the reason is that it is forbidden: as HubSpot says, or else the one that its
    /// documentation names for the part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_scopes: Vec<String>,
}

/// A part of an enriched event that has a read of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnrichmentPart {
    /// The record itself.
    Record,
    /// Property definitions: without them values are untyped text.
    Definitions,
    /// Associated records.
    Associations,
    /// Owners.
    Owners,
    /// Pipelines and stages.
    Pipeline,
    /// The schema of a custom object.
    Schema,
    /// Attached files.
    Attachments,
    /// Messages of a thread.
    Messages,
    /// Who wrote them.
    Actors,
}

/// Why a part is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemReason {
    /// The token lacks a scope.
    Forbidden,
    /// HubSpot refused the request for another reason.
    Refused,
    /// HubSpot does not have it.
    NotFound,
    /// There is more than the bound allows.
    Truncated,
}

impl EnrichedEvent {
    /// The most events one message lists.
    pub const EVENTS_MAX: usize = 100;

    /// Wraps `data` in its envelope.
    ///
    /// # Panics
    /// When `data.events` is empty: every message is led to by an event.
    #[must_use]
    pub fn new(data: EnrichedData) -> Self {
        let time = data.events.iter().map(|event| event.occurred_at).max();
        let suffix = match data.tombstone.as_ref().map(|tombstone| tombstone.reason) {
            None => "enriched",
            Some(TombstoneReason::Deleted) => "deleted",
            Some(TombstoneReason::PrivacyDeleted) => "privacy_deleted",
            Some(TombstoneReason::Merged) => "merged",
        };
        let subject = format!("{}/{}", data.object_type, data.object_id);
        let event_type = format!("crm.{}.{suffix}.v1", data.object_type);
        let mut hasher = IdentityHasher::new("enriched");
        hasher.field(data.portal_id.as_str());
        hasher.field(&subject);
        hasher.field(&event_type);
        for event in &data.events {
            hasher.field(event.id.as_str());
        }
        Self {
            specversion: "1.0".to_owned(),
            id: hasher.finish(),
            source: format!("hubspot/{}", data.portal_id),
            subject,
            r#type: event_type,
            time: time.expect("an enriched event lists at least one event"),
            datacontenttype: "application/json".to_owned(),
            data,
        }
    }

    /// The routing keys of each of its events, in order. Those of a custom object have its names in place of its id
    /// too, in full and as `p_<name>`, so that one pattern fits every portal.
    #[must_use]
    pub fn routing_keys(&self) -> Vec<Vec<RoutingKey>> {
        let schema = self.data.object_schema.iter();
        let names: Vec<String> = schema.flat_map(ObjectSchema::names).collect();
        let keys = |event: &Event| {
            let by_name = names.iter().map(|name| event.routing_key_as(name));
            std::iter::once(event.routing_key())
                .chain(by_name)
                .collect()
        };
        self.data.events.iter().map(keys).collect()
    }

    /// The JSON, of type [`ENRICHED_CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("enriched events have string keys and valid numbers")
    }
}

impl PropertyValue {
    /// A number in HubSpot's own digits, where these are a JSON number too; otherwise text.
    ///
    /// No float in between: `12.50` stays `12.50`.
    #[must_use]
    pub fn number(digits: &str) -> Self {
        let is_number = matches!(digits.as_bytes().first(), Some(b'-' | b'0'..=b'9'))
            && serde_json::from_str::<&RawValue>(digits).is_ok_and(|raw| raw.get() == digits);
        if is_number {
            Self::Number(digits.to_owned())
        } else {
            Self::Text(digits.to_owned())
        }
    }

    /// The value that a JSON text stands for; what is no JSON stays text.
    #[must_use]
    pub fn json(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|_| Self::Text(text.to_owned()))
    }
}

impl Serialize for PropertyValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(json) | Self::Json(json) => serde_json::from_str::<&RawValue>(json)
                .map_err(serde::ser::Error::custom)?
                .serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(values) => values.serialize(serializer),
        }
    }
}

impl JsonSchema for PropertyValue {
    fn schema_name() -> Cow<'static, str> {
        "PropertyValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A property's value, as its definition in the portal types it.",
            "oneOf": [
                {"type": "null", "description": "Empty."},
                {"type": "boolean", "description": "`bool` properties."},
                {"type": "number", "description": "`number` properties, in HubSpot's own digits."},
                {"type": "string", "description": "All else: text, dates (`2026-11-23`), times (RFC 3339), single \
                                                   selections (internal value)."},
                {"type": "array", "items": {}, "description": "Multiple selections: internal values, all of them texts. Or a list \
                                                               that a `json` property holds."},
                {"type": "object", "additionalProperties": true, "description": "`json` properties."}
            ]
        })
    }
}

impl<'de> Deserialize<'de> for PropertyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        let parse_error = |error: serde_json::Error| de::Error::custom(error);
        match text.as_bytes()[0] {
            b'n' => Ok(Self::Null),
            b't' | b'f' => Ok(Self::Bool(text == "true")),
            b'"' => serde_json::from_str(text)
                .map(Self::Text)
                .map_err(parse_error),
            b'[' => Ok(serde_json::from_str(text)
                .map_or_else(|_| Self::Json(on_one_line(text)), Self::List)),
            b'{' => Ok(Self::Json(on_one_line(text))),
            _ => Ok(Self::Number(text.to_owned())),
        }
    }
}

/// Valid JSON without the white space between its parts, so that it fits a line.
fn on_one_line(json: &str) -> String {
    let (mut in_text, mut escaped) = (false, false);
    let keeps = |char: &char| {
        let keep = in_text || !char.is_ascii_whitespace();
        in_text ^= *char == '"' && !escaped;
        escaped = in_text && *char == '\\' && !escaped;
        keep
    };
    json.chars().filter(keeps).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_keep_hubspots_digits() {
        for digits in [
            "12.50",
            "0",
            "-3",
            "1e3",
            "123456789012345678901234567890.10",
        ] {
            let value = PropertyValue::number(digits);
            assert_eq!(value, PropertyValue::Number(digits.into()));
            assert_eq!(serde_json::to_string(&value).unwrap(), digits);
            assert_eq!(
                serde_json::from_str::<PropertyValue>(digits).unwrap(),
                value
            );
        }
    }

    #[test]
    fn what_is_no_json_number_stays_text() {
        for digits in [
            "", "abc", "1,5", "+1", ".5", "007", "NaN", " 1", "1 ", "null", "\"1\"",
        ] {
            assert_eq!(
                PropertyValue::number(digits),
                PropertyValue::Text(digits.into())
            );
        }
    }

    #[test]
    fn the_readmes_sample_is_a_message() {
        let readme = include_str!("../../README.md");
        let mut blocks = readme.split("```json\n").skip(1);
        let block = blocks.find(|block| block.contains("specversion")).unwrap();
        let text = block.split("```").next().unwrap();
        let sample: EnrichedEvent = serde_json::from_str(text).unwrap();
        let shown: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            serde_json::to_value(&sample).unwrap(),
            shown,
            "every field is one of ours"
        );
        assert_eq!(
            EnrichedEvent::new(sample.data.clone()),
            sample,
            "the envelope follows"
        );
    }

    #[test]
    fn what_an_earlier_version_wrote_is_read_and_what_it_read_is_written() {
        let data = json!({
            "portal_id": "1", "object_type": "contact", "object_type_id": "0-1", "object_id": "2",
            "version": "000000000000001-000000000000001", "events": [], "record":
                {"properties": {"a": "b"}, "created_at": null, "updated_at": null, "archived": false},
            "pipeline": {"id": "p", "label": null, "stage": {"id": "s", "label": null, "closed": null}},
            "enrichment": {"status": "complete", "fetched_at": null}
        });
        let read: EnrichedData = serde_json::from_value(data.clone()).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        for (key, value) in data.as_object().unwrap() {
            if key != "record" {
                assert_eq!(
                    &written[key], value,
                    "nothing is added where there is nothing to say"
                );
            }
        }
        assert_eq!(
            written["record"]["properties"],
            data["record"]["properties"]
        );
    }

    #[test]
    fn a_typed_value_of_an_event_keeps_its_digits_through_every_nesting() {
        let event = json!({
            "id": "1", "portal_id": "1", "subscription_type": "object.propertyChange",
            "occurred_at": "2026-11-23T10:00:00.123Z", "received_at": "2026-11-23T10:00:00.123Z",
            "entity": "object", "object_type_id": "0-1", "object_id": "2",
            "kind": "property_changed", "property_name": "size", "property_value": "12.50"
        });
        let mut event: Event = serde_json::from_value(event).unwrap();
        event.value = Some(PropertyValue::number("12.50"));
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.contains(r#""value":12.50,"#), "{text}");
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }

    #[test]
    fn json_is_embedded_on_one_line_with_its_own_digits() {
        for (text, written) in [
            (
                "{\n \"a b\": [1.50, \"x \\\" y\\\\\" ]\n}",
                r#"{"a b":[1.50,"x \" y\\"]}"#,
            ),
            ("[ 1, 2.0 ]", "[1,2.0]"),
            ("[\"a\", \"b\"]", r#"["a","b"]"#),
            ("12.50", "12.50"),
            (" true ", "true"),
            ("null", "null"),
            ("\"a\"", "\"a\""),
            ("{broken", "\"{broken\""),
        ] {
            let value = PropertyValue::json(text);
            let json = serde_json::to_string(&value).unwrap();
            assert_eq!(json, written);
            assert_eq!(serde_json::from_str::<PropertyValue>(&json).unwrap(), value);
        }
    }

    #[test]
    fn a_status_has_one_word_everywhere() {
        for status in [
            EnrichmentStatus::Complete,
            EnrichmentStatus::Partial,
            EnrichmentStatus::Stale,
            EnrichmentStatus::Missing,
            EnrichmentStatus::Forbidden,
            EnrichmentStatus::NotRead,
        ] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }

    #[test]
    fn values_survive_a_round_trip() {
        for value in [
            PropertyValue::Null,
            PropertyValue::Bool(true),
            PropertyValue::Text("Zoë \"☕\"\n".into()),
            PropertyValue::List(vec!["a".into(), "b".into()]),
        ] {
            let json = serde_json::to_string(&value).unwrap();
            assert_eq!(serde_json::from_str::<PropertyValue>(&json).unwrap(), value);
        }
    }
}
