//! Puts a message together from what was read. Pure.

use std::collections::BTreeMap;

use crate::demand::Parts;
use crate::event::{
    Association, AssociationLabel, EnrichedData, EnrichedEvent, Enrichment, EnrichmentPart,
    EnrichmentProblem, EnrichmentStatus, Event, ObjectId, ObjectTypeId, Owner, OwnerId, Pipeline,
    PipelineStage, PortalId, ProblemReason, PropertyValue, Tombstone, Version,
};
use crate::hubspot::call::{PipelineDefinition, RecordRead};

use super::cache::{OwnerLookup, Problem, Shared};
use super::job::{AssociationsRead, Key, PagesState, Reading, RecordOutcome};
use super::plan::{OWNER_PROPERTIES, pipeline_properties};
use super::typed;

/// A message without anything read: a tombstone, a conversation, an unknown event.
pub fn unread(
    portal_id: &PortalId,
    key: &Key,
    version: Version,
    events: Vec<Event>,
    tombstone: Option<Tombstone>,
) -> EnrichedEvent {
    EnrichedEvent::new(EnrichedData {
        tombstone,
        ..bare(portal_id, key, version, events, EnrichmentStatus::NotRead)
    })
}

/// A message with what was read of its record, as far as `parts` go.
///
/// # Panics
/// When the record's read has not ended.
pub fn read(
    portal_id: &PortalId,
    key: &Key,
    version: Version,
    events: Vec<Event>,
    reading: Reading,
    parts: Parts,
    shared: &Shared,
) -> EnrichedEvent {
    let stale = reading.stale;
    let fetched_at = reading.completed_at;
    let outcome = reading
        .record
        .expect("a message is assembled after its record's read");
    let mut problems = reading.problems;
    let data = match outcome {
        RecordOutcome::Missing => bare(portal_id, key, version, events, EnrichmentStatus::Missing),
        RecordOutcome::Forbidden(scopes) => {
            problems.push(problem(
                EnrichmentPart::Record,
                ProblemReason::Forbidden,
                scopes,
            ));
            bare(portal_id, key, version, events, EnrichmentStatus::Forbidden)
        }
        RecordOutcome::Found(record) => {
            problems.extend(shared_problems(&key.0, &record, parts, shared));
            let status = match (stale, problems.is_empty()) {
                (true, _) => EnrichmentStatus::Stale,
                (false, true) => EnrichmentStatus::Complete,
                (false, false) => EnrichmentStatus::Partial,
            };
            EnrichedData {
                owners: if parts.owners {
                    owners(&key.0, &record, shared)
                } else {
                    BTreeMap::new()
                },
                associations: associations(reading.associations),
                pipeline: pipeline(&key.0, &record, shared).filter(|_| parts.pipeline),
                record: Some(typed::record(&record, shared.definitions_of(&key.0))),
                ..bare(portal_id, key, version, events, status)
            }
        }
    };
    EnrichedEvent::new(EnrichedData {
        enrichment: Enrichment {
            fetched_at,
            problems,
            ..data.enrichment
        },
        ..data
    })
}

/// The owner ids that a record names, by property.
pub fn owner_ids(
    record: &RecordRead,
    object_type_id: &ObjectTypeId,
    shared: &Shared,
) -> Vec<(String, OwnerId)> {
    let custom = shared
        .definitions_of(object_type_id)
        .into_iter()
        .flat_map(typed::Definitions::iter)
        .filter(|definition| definition.referenced_object_type.as_deref() == Some("OWNER"))
        .map(|definition| definition.name.as_str());
    let mut ids: BTreeMap<&str, OwnerId> = BTreeMap::new();
    for name in OWNER_PROPERTIES.into_iter().chain(custom) {
        if let Some(id) = record.properties.get(name).filter(|id| is_owner_id(id)) {
            ids.insert(name, id.as_str().into());
        }
    }
    ids.into_iter()
        .map(|(name, id)| (name.to_owned(), id))
        .collect()
}

/// Whether a record stands in a pipeline.
pub fn stands_in_pipeline(record: &RecordRead, object_type_id: &ObjectTypeId) -> bool {
    let (pipeline, _) = pipeline_properties(object_type_id);
    record.properties.contains_key(pipeline)
}

/// Owner ids are numbers; a list of owners in one property is left as text.
fn is_owner_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn bare(
    portal_id: &PortalId,
    key: &Key,
    version: Version,
    events: Vec<Event>,
    status: EnrichmentStatus,
) -> EnrichedData {
    EnrichedData {
        portal_id: portal_id.clone(),
        object_type: key.0.name().to_owned(),
        object_type_id: key.0.clone(),
        object_id: key.1.clone(),
        version,
        events,
        record: None,
        owners: BTreeMap::new(),
        associations: BTreeMap::new(),
        pipeline: None,
        tombstone: None,
        enrichment: Enrichment {
            status,
            fetched_at: None,
            problems: Vec::new(),
        },
    }
}

fn problem(
    part: EnrichmentPart,
    reason: ProblemReason,
    missing_scopes: Vec<String>,
) -> EnrichmentProblem {
    EnrichmentProblem {
        part,
        reason,
        object_type: None,
        missing_scopes,
    }
}

/// What this record lacks because a shared part may not be read, or does not have it.
fn shared_problems(
    object_type_id: &ObjectTypeId,
    record: &RecordRead,
    parts: Parts,
    shared: &Shared,
) -> Vec<EnrichmentProblem> {
    let owner_ids = if parts.owners {
        owner_ids(record, object_type_id, shared)
    } else {
        Vec::new()
    };
    let wanted = [
        (EnrichmentPart::Definitions, true),
        (EnrichmentPart::Owners, !owner_ids.is_empty()),
        (
            EnrichmentPart::Pipeline,
            parts.pipeline && stands_in_pipeline(record, object_type_id),
        ),
    ];
    let mut problems: Vec<_> = wanted
        .into_iter()
        .filter(|(_, wanted)| *wanted)
        .filter_map(|(part, _)| Some((part, shared.problem_of(part, object_type_id)?.clone())))
        .map(
            |(
                part,
                Problem {
                    reason,
                    missing_scopes,
                },
            )| problem(part, reason, missing_scopes),
        )
        .collect();
    let absent = |id: &OwnerId| matches!(shared.owners.find(id), OwnerLookup::Absent);
    if owner_ids.iter().any(|(_, id)| absent(id)) {
        problems.push(problem(
            EnrichmentPart::Owners,
            ProblemReason::NotFound,
            Vec::new(),
        ));
    }
    problems
}

fn owners(
    object_type_id: &ObjectTypeId,
    record: &RecordRead,
    shared: &Shared,
) -> BTreeMap<String, Owner> {
    owner_ids(record, object_type_id, shared)
        .into_iter()
        .map(|(name, id)| {
            let owner = match shared.owners.find(&id) {
                OwnerLookup::Known(owner) => owner.clone(),
                OwnerLookup::Absent | OwnerLookup::Unknown => unread_owner(id),
            };
            (name, owner)
        })
        .collect()
}

fn unread_owner(id: OwnerId) -> Owner {
    Owner {
        id,
        email: None,
        name: None,
        user_id: None,
        r#type: None,
        archived: false,
        teams: Vec::new(),
    }
}

fn associations(
    read: BTreeMap<ObjectTypeId, AssociationsRead>,
) -> BTreeMap<String, Vec<Association>> {
    read.into_iter()
        .filter(|(_, read)| read.state == PagesState::Done)
        .map(|(to, read)| {
            (
                to.name().to_owned(),
                read.to.into_iter().map(association).collect(),
            )
        })
        .collect()
}

/// HubSpot marks the primary edge by a type of its own whose label is `Primary`; it is no label of people's.
fn association((id, types): (ObjectId, Vec<AssociationLabel>)) -> Association {
    let is_primary = |of: &AssociationLabel| {
        of.category == "HUBSPOT_DEFINED"
            && of
                .label
                .as_deref()
                .is_some_and(|label| label.starts_with("Primary"))
    };
    let mut labels: Vec<String> = Vec::new();
    for label in types
        .iter()
        .filter(|of| !is_primary(of))
        .filter_map(|of| of.label.as_ref())
    {
        if !labels.contains(label) {
            labels.push(label.clone());
        }
    }
    Association {
        id,
        primary: types.iter().any(is_primary),
        labels,
        types,
    }
}

fn pipeline(
    object_type_id: &ObjectTypeId,
    record: &RecordRead,
    shared: &Shared,
) -> Option<Pipeline> {
    let (pipeline_name, stage_name) = pipeline_properties(object_type_id);
    let pipeline_id = record.properties.get(pipeline_name)?;
    let known = shared
        .pipelines
        .get(object_type_id)
        .and_then(|cached| cached.get()?.as_ref().ok());
    let definition = known.and_then(|all| all.iter().find(|one| one.id == *pipeline_id));
    Some(Pipeline {
        id: pipeline_id.clone(),
        label: definition.map(|definition| definition.label.clone()),
        stage: record
            .properties
            .get(stage_name)
            .map(|id| stage(id, definition)),
    })
}

fn stage(id: &str, pipeline: Option<&PipelineDefinition>) -> PipelineStage {
    let definition = pipeline.and_then(|all| all.stages.iter().find(|stage| stage.id == id));
    PipelineStage {
        id: id.to_owned(),
        label: definition.map(|definition| definition.label.clone()),
        closed: definition.and_then(|definition| definition.closed),
        probability: definition
            .and_then(|definition| definition.probability.as_deref())
            .map(PropertyValue::number),
    }
}
