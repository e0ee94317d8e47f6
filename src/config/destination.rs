//! `[destination.<name>]`: a downstream consumer, what it asks for, and how it gets that.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::event::KeyPattern;

/// `[destination.<name>]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationConfig {
    /// How it is delivered to.
    pub kind: DestinationKind,
    /// It gets what one of these patterns matches; they may name object types by singular, plural or id. Default
    /// `["#"]`, everything.
    #[serde(rename = "match", default = "match_everything")]
    pub patterns: Vec<KeyPattern>,
    /// Portals by id. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portals: Option<Vec<String>>,
    /// Of changes of properties only those of these; whatever is no such change passes. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Vec<String>>,
    /// What made the change, as in `changeSource`: a list of those that pass (`CRM_UI`), or each with a `!` (`!IMPORT`) of
    /// those that do not. Deletions and merges always pass. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_sources: Option<Vec<String>>,
    /// By property the values that pass, as the text of the record's typed value; `""` is empty. Tombstones pass, and so
    /// do records that could not be read. Default any.
    #[serde(rename = "where", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Vec<String>>,
    /// What it gets. Default `enriched`.
    #[serde(default)]
    pub content: DestinationContent,
    /// `enriched` only: the parts that it gets. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<DestinationPart>>,
    /// `enriched` only: the properties of the record that it gets; they are read even where `[enrich.*]` does not
    /// name them. Default all that are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<Vec<String>>,
    /// How its messages are written. Default `structured`.
    #[serde(default)]
    pub format: DestinationFormat,
    /// `ndjson` only: the file to append to, or `-` for stdout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// `queue` only: the most bytes the queue may hold; beyond, copies become dead letters. Fixed once the
    /// queue exists (lower it by a policy). Default `1 GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length_bytes: Option<ByteSize>,
}

impl DestinationConfig {
    /// One of `kind` that gets everything. An NDJSON destination needs a path beside.
    #[must_use]
    pub fn new(kind: DestinationKind) -> Self {
        Self {
            kind,
            patterns: match_everything(),
            portals: None,
            changed: None,
            change_sources: None,
            values: BTreeMap::new(),
            content: DestinationContent::default(),
            parts: None,
            properties: None,
            format: DestinationFormat::default(),
            path: None,
            max_length_bytes: None,
        }
    }
}

/// How a destination is delivered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationKind {
    /// A durable queue of its own on RabbitMQ, `crm.destination.<name>`.
    Queue,
    /// Lines of JSON, to a file or stdout.
    Ndjson,
}

/// What a destination gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationContent {
    /// The state of a record, with the events that led to it.
    #[default]
    Enriched,
    /// Each event as it is, without its record. Nothing is read from HubSpot for it.
    Event,
}

/// A part of an enriched event that a destination may do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationPart {
    /// The record's properties, labels and dates.
    Record,
    /// Its owners.
    Owners,
    /// Its associations.
    Associations,
    /// The pipeline and stage it stands in.
    Pipeline,
    /// The files attached to it.
    Attachments,
}

/// How a message is written: the content modes of CloudEvents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationFormat {
    /// The body is the whole CloudEvent in JSON.
    #[default]
    Structured,
    /// The body is the CloudEvent's data; its attributes are headers.
    Binary,
}

fn match_everything() -> Vec<KeyPattern> {
    vec!["#".parse().expect("# is a pattern")]
}
