//! A call under way, with the jobs that wait for it.

use crate::event::{ObjectId, ObjectTypeId, OwnerId};
use crate::hubspot::call::{AssociationInput, Call, LimitClass, Sensitivity};

use super::job::{JobId, Key};

/// What is asked of HubSpot, and for which jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The records of jobs, in one call.
    Records {
        object_type_id: ObjectTypeId,
        ids: Vec<(ObjectId, JobId)>,
        properties: Vec<String>,
        /// Those of them to read with what they held before.
        with_history: Vec<String>,
    },
    /// Whether an id leads to another record.
    Single {
        object_type_id: ObjectTypeId,
        id: ObjectId,
        job: JobId,
    },
    /// A page of associations of each of several records.
    Associations {
        from: ObjectTypeId,
        to: ObjectTypeId,
        inputs: Vec<(AssociationInput, JobId)>,
    },
    /// The definitions of a type, of one level of sensitivity.
    Definitions(ObjectTypeId, Sensitivity),
    /// The pipelines of a type.
    Pipelines(ObjectTypeId),
    /// The association types from one type to another.
    Labels {
        from: ObjectTypeId,
        to: ObjectTypeId,
    },
    /// A page of owners.
    OwnerPage {
        archived: bool,
        after: Option<String>,
    },
    /// An owner who is not on the list.
    Owner { id: OwnerId, archived: bool },
}

/// Requests that can travel together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    Records(ObjectTypeId),
    Associations(ObjectTypeId, ObjectTypeId),
}

impl Request {
    /// The limit it counts against.
    pub fn limit_class(&self) -> LimitClass {
        match self {
            Self::Associations { .. } | Self::Labels { .. } => LimitClass::Associations,
            _ => LimitClass::Burst,
        }
    }

    /// The group it was taken from.
    pub fn group(&self) -> Option<Group> {
        match self {
            Self::Records { object_type_id, .. } => Some(Group::Records(object_type_id.clone())),
            Self::Associations { from, to, .. } => {
                Some(Group::Associations(from.clone(), to.clone()))
            }
            _ => None,
        }
    }

    /// Whether its answer serves the whole portal, not single jobs.
    pub fn is_shared(&self) -> bool {
        matches!(
            self,
            Self::Definitions(..)
                | Self::Pipelines(_)
                | Self::Labels { .. }
                | Self::OwnerPage { .. }
                | Self::Owner { .. }
        )
    }

    /// The records it asks for, each with its job; `None` when it asks for something else.
    pub fn records(&self) -> Option<Vec<(Key, JobId)>> {
        match self {
            Self::Records {
                object_type_id,
                ids,
                ..
            } => {
                let record =
                    |(id, job): &(ObjectId, JobId)| ((object_type_id.clone(), id.clone()), *job);
                Some(ids.iter().map(record).collect())
            }
            Self::Single {
                object_type_id,
                id,
                job,
            } => Some(vec![((object_type_id.clone(), id.clone()), *job)]),
            _ => None,
        }
    }

    /// Whether it asks for what properties held before.
    pub fn has_history(&self) -> bool {
        matches!(self, Self::Records { with_history, .. } if !with_history.is_empty())
    }

    /// Two halves, or `None` when it names a single thing.
    pub fn split(&self) -> Option<(Self, Self)> {
        let mut first = self.clone();
        let second = match &mut first {
            Self::Records {
                object_type_id,
                ids,
                properties,
                with_history,
            } if ids.len() > 1 => Self::Records {
                object_type_id: object_type_id.clone(),
                ids: ids.split_off(ids.len() / 2),
                properties: properties.clone(),
                with_history: with_history.clone(),
            },
            Self::Associations { from, to, inputs } if inputs.len() > 1 => Self::Associations {
                from: from.clone(),
                to: to.clone(),
                inputs: inputs.split_off(inputs.len() / 2),
            },
            _ => return None,
        };
        Some((first, second))
    }

    /// What goes on the wire.
    pub fn to_call(&self) -> Call {
        match self.clone() {
            Self::Records {
                object_type_id,
                ids,
                properties,
                with_history,
            } => Call::ReadRecords {
                object_type_id,
                ids: ids.into_iter().map(|(id, _)| id).collect(),
                properties,
                properties_with_history: with_history,
            },
            Self::Single {
                object_type_id, id, ..
            } => Call::ReadRecord {
                object_type_id,
                id,
                properties: Vec::new(),
            },
            Self::Associations { from, to, inputs } => Call::ReadAssociations {
                from,
                to,
                inputs: inputs.into_iter().map(|(input, _)| input).collect(),
            },
            Self::Definitions(object_type_id, sensitivity) => Call::ListProperties {
                object_type_id,
                sensitivity,
            },
            Self::Labels { from, to } => Call::ListAssociationLabels { from, to },
            Self::Pipelines(object_type_id) => Call::ListPipelines { object_type_id },
            Self::OwnerPage { archived, after } => Call::ListOwners { archived, after },
            Self::Owner { id, archived } => Call::ReadOwner { id, archived },
        }
    }
}
