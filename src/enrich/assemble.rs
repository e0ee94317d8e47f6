//! Puts a message together from what was read. Pure.

use std::collections::BTreeMap;

use crate::demand::Parts;
use crate::event::{
    Association, AssociationLabel, EnrichedData, EnrichedEvent, Enrichment, EnrichmentPart,
    EnrichmentProblem, EnrichmentStatus, Event, EventBody, ObjectId, ObjectTypeId, Owner, OwnerId,
    Pipeline, PipelineStage, PortalId, ProblemReason, PropertyValue, Record, Tombstone, Version,
};
use crate::hubspot::call::{PipelineDefinition, RecordRead};

use super::cache::{Cached, OwnerLookup, Problem, Shared};
use super::conversations;
use super::job::{AssociationsRead, Key, PagesState, Reading, RecordOutcome};
use super::plan::{OWNER_PROPERTIES, Plans, pipeline_properties};
use super::{history, identifiers, typed};

/// A message without anything read: a tombstone, a conversation, an unknown event.
pub fn unread(
    portal_id: &PortalId,
    key: &Key,
    version: Version,
    mut events: Vec<Event>,
    tombstone: Option<Tombstone>,
    shared: &Shared,
) -> EnrichedEvent {
    explain(&mut events, key, shared);
    EnrichedEvent::new(EnrichedData {
        tombstone,
        object_schema: shared.schemas.of(&key.0).cloned(),
        ..bare(portal_id, key, version, events, EnrichmentStatus::NotRead)
    })
}

/// A message with what was read of its record, as far as `parts` go.
///
/// # Panics
/// When the record's read has not ended.
pub fn read(
    (portal_id, key): (&PortalId, &Key),
    version: Version,
    mut events: Vec<Event>,
    reading: Reading,
    parts: Parts,
    shared: &Shared,
    plans: &Plans,
) -> EnrichedEvent {
    explain(&mut events, key, shared);
    let stale = reading.stale;
    let fetched_at = reading.completed_at;
    let outcome = reading
        .record
        .expect("a message is assembled after its record's read");
    let mut problems = reading.problems;
    let object_schema = shared.schemas.of(&key.0).cloned();
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
            problems.extend(label_problems(&events, shared));
            let status = match (stale, problems.is_empty()) {
                (true, _) => EnrichmentStatus::Stale,
                (false, true) => EnrichmentStatus::Complete,
                (false, false) => EnrichmentStatus::Partial,
            };
            let schema = shared.schemas.of(&key.0);
            let plan = plans.of(&key.0, schema);
            let definitions = shared.definitions_of(&key.0);
            let previous_values = if plan.previous_values {
                history::previous_values(&record, &events, definitions)
            } else {
                BTreeMap::new()
            };
            let external_id = plans.external_id(portal_id, &key.0, schema);
            let external_id = external_id.and_then(|name| record.properties.get(name).cloned());
            let (owners, owner_lists) = if parts.owners {
                owners(&key.0, &record, shared)
            } else {
                Default::default()
            };
            let typed = typed::record(&record, definitions, &events);
            EnrichedData {
                external_id,
                identifiers: identifiers::of(&key.0, &typed, definitions),
                previous_values,
                owners,
                owner_lists,
                associations: associations(reading.associations),
                attachments: reading.attachments,
                pipeline: pipeline(&key.0, &record, shared).filter(|_| parts.pipeline),
                record: Some(Record {
                    raw: plan.raw.then_some(record.properties),
                    ..typed
                }),
                ..bare(portal_id, key, version, events, status)
            }
        }
        RecordOutcome::Thread(thread) => {
            let (conversation, missing) =
                conversations::assemble(*thread, &reading.messages, &events, &shared.actors);
            problems.extend(missing);
            let status = if problems.is_empty() {
                EnrichmentStatus::Complete
            } else {
                EnrichmentStatus::Partial
            };
            EnrichedData {
                conversation: Some(conversation),
                ..bare(portal_id, key, version, events, status)
            }
        }
    };
    EnrichedEvent::new(EnrichedData {
        object_schema,
        enrichment: Enrichment {
            fetched_at,
            problems,
            ..data.enrichment
        },
        ..data
    })
}

/// The owners that one property names.
pub enum OwnerIds {
    One(OwnerId),
    Several(Vec<OwnerId>),
}

impl OwnerIds {
    /// All of them.
    pub fn as_slice(&self) -> &[OwnerId] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Several(ids) => ids,
        }
    }
}

/// The owners that a record names, by property: its owner, and whatever is defined to hold ids of owners. A multiple
/// selection is a list even when it names one.
pub fn owner_ids(
    record: &RecordRead,
    object_type_id: &ObjectTypeId,
    shared: &Shared,
) -> BTreeMap<String, OwnerIds> {
    let definitions = shared.definitions_of(object_type_id);
    let defined = definitions
        .into_iter()
        .flat_map(typed::Definitions::iter)
        .filter(|definition| definition.references_owners())
        .map(|definition| {
            (
                definition.name.as_str(),
                definition.field_type == "checkbox",
            )
        });
    let always = OWNER_PROPERTIES.map(|name| (name, false));
    let ids = |(name, is_list): (&str, bool)| {
        let text = record.properties.get(name)?;
        let mut ids: Vec<OwnerId> = text
            .split(';')
            .filter(|id| is_owner_id(id))
            .map(Into::into)
            .collect();
        let ids = match ids.len() {
            0 => return None,
            1 if !is_list => OwnerIds::One(ids.remove(0)),
            _ => OwnerIds::Several(ids),
        };
        Some((name.to_owned(), ids))
    };
    always.into_iter().chain(defined).filter_map(ids).collect()
}

/// Whether one of the portal's pipelines is the record's, with its stage.
pub fn knows_stage(
    record: &RecordRead,
    object_type_id: &ObjectTypeId,
    pipelines: &[PipelineDefinition],
) -> bool {
    let (pipeline_name, stage_name) = pipeline_properties(object_type_id);
    let is = |name: &str, id: &String| record.properties.get(name) == Some(id);
    let pipeline = pipelines.iter().find(|one| is(pipeline_name, &one.id));
    pipeline.is_some_and(|pipeline| {
        let mut stages = pipeline.stages.iter();
        !record.properties.contains_key(stage_name) || stages.any(|stage| is(stage_name, &stage.id))
    })
}

/// What names the record's pipeline and stage among all of the portal's.
pub fn stage_name(record: &RecordRead, object_type_id: &ObjectTypeId) -> String {
    let (pipeline, stage) = pipeline_properties(object_type_id);
    let id = |name: &str| record.properties.get(name).map_or("", String::as_str);
    format!("{object_type_id}/{}/{}", id(pipeline), id(stage))
}

/// Whether a record stands in a pipeline.
pub fn stands_in_pipeline(record: &RecordRead, object_type_id: &ObjectTypeId) -> bool {
    let (pipeline, _) = pipeline_properties(object_type_id);
    record.properties.contains_key(pipeline)
}

/// Owner ids are numbers.
fn is_owner_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Gives the events typed values and labels, as far as these are known.
fn explain(events: &mut [Event], key: &Key, shared: &Shared) {
    typed::type_events(events, shared.definitions_of(&key.0));
    for event in events {
        if let EventBody::Association(edge) = &mut event.body {
            edge.label = shared.label_of(edge).map(str::to_owned);
        }
    }
}

/// Labels of the events' associations that may not be read.
fn label_problems(events: &[Event], shared: &Shared) -> Vec<EnrichmentProblem> {
    let mut problems = Vec::new();
    for event in events {
        let EventBody::Association(edge) = &event.body else {
            continue;
        };
        let pair = (
            edge.from_object_type_id.clone(),
            edge.to_object_type_id.clone(),
        );
        let labels = shared.labels.get(&pair).filter(|_| edge.needs_label());
        if let Some(Err(problem)) = labels.and_then(Cached::get) {
            let problem = EnrichmentProblem {
                part: EnrichmentPart::Associations,
                reason: problem.reason,
                object_type: Some(pair.1.name().to_owned()),
                missing_scopes: problem.missing_scopes.clone(),
            };
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    problems
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
        object_schema: None,
        object_id: key.1.clone(),
        external_id: None,
        version,
        events,
        record: None,
        identifiers: BTreeMap::new(),
        previous_values: BTreeMap::new(),
        owners: BTreeMap::new(),
        owner_lists: BTreeMap::new(),
        associations: BTreeMap::new(),
        pipeline: None,
        attachments: None,
        conversation: None,
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

/// Associations to a type that are not there, or not all.
pub fn associations_problem(
    to: &ObjectTypeId,
    reason: ProblemReason,
    missing_scopes: &[String],
) -> EnrichmentProblem {
    EnrichmentProblem {
        object_type: Some(to.name().to_owned()),
        ..problem(
            EnrichmentPart::Associations,
            reason,
            missing_scopes.to_vec(),
        )
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
        BTreeMap::new()
    };
    let wanted = [
        (EnrichmentPart::Definitions, true),
        (EnrichmentPart::Schema, object_type_id.is_custom()),
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
    if owner_ids.values().flat_map(OwnerIds::as_slice).any(absent) {
        problems.push(problem(
            EnrichmentPart::Owners,
            ProblemReason::NotFound,
            Vec::new(),
        ));
    }
    problems
}

/// Owners, and lists of owners, by property.
fn owners(
    object_type_id: &ObjectTypeId,
    record: &RecordRead,
    shared: &Shared,
) -> (BTreeMap<String, Owner>, BTreeMap<String, Vec<Owner>>) {
    let owner = |id: OwnerId| match shared.owners.find(&id) {
        OwnerLookup::Known(owner) => owner.clone(),
        OwnerLookup::Absent | OwnerLookup::Unknown => unread_owner(id),
    };
    let (mut owners, mut lists) = (BTreeMap::new(), BTreeMap::new());
    for (name, ids) in owner_ids(record, object_type_id, shared) {
        match ids {
            OwnerIds::One(id) => _ = owners.insert(name, owner(id)),
            OwnerIds::Several(ids) => _ = lists.insert(name, ids.into_iter().map(owner).collect()),
        }
    }
    (owners, lists)
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
        display_order: definition.and_then(|definition| definition.display_order),
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
        display_order: definition.and_then(|definition| definition.display_order),
        closed: definition.and_then(|definition| definition.closed),
        probability: definition
            .and_then(|definition| definition.probability.as_deref())
            .map(PropertyValue::number),
        ticket_state: definition.and_then(|definition| definition.ticket_state.clone()),
    }
}
