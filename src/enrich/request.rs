//! A call under way, with the jobs that wait for it.

use crate::event::{CONVERSATION, ObjectId, ObjectTypeId, OwnerId};
use crate::hubspot::call::{AssociationInput, Call, LimitClass, Sensitivity};

use super::batch_max::{BatchKind, SplitId};
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
        /// The refused batch that it is a half of.
        half_of: Option<SplitId>,
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
        /// The refused batch that it is a half of.
        half_of: Option<SplitId>,
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
    /// The custom objects of the portal.
    Schemas,
    /// What a file is.
    File(String),
    /// A URL to fetch a file by.
    SignFile(String),
    /// A thread.
    Thread { id: ObjectId, job: JobId },
    /// A message of a thread.
    Message {
        thread_id: ObjectId,
        id: String,
        job: JobId,
    },
    /// Who acts in threads.
    Actors(Vec<String>),
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
                | Self::Schemas
                | Self::File(_)
                | Self::SignFile(_)
                | Self::Actors(_)
        )
    }

    /// The scope that HubSpot's documentation names for it, for when HubSpot forbids it and does not say.
    pub fn documented_scope(&self) -> Option<&'static str> {
        let of = match self {
            Self::Records { object_type_id, .. } | Self::Single { object_type_id, .. } => {
                object_type_id
            }
            Self::Associations { to, .. } => to,
            Self::Definitions(of, _) | Self::Pipelines(of) => of,
            Self::Labels { to, .. } => to,
            Self::OwnerPage { .. } | Self::Owner { .. } => return Some("crm.objects.owners.read"),
            Self::Schemas => return Some("crm.schemas.custom.read"),
            Self::File(_) | Self::SignFile(_) => return Some("files"),
            Self::Thread { .. } | Self::Message { .. } | Self::Actors(_) => {
                return Some("conversations.read");
            }
        };
        of.read_scopes().first().copied()
    }

    /// The records and threads it asks for, each with its job; `None` when it asks for something else.
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
            Self::Thread { id, job } => Some(vec![(thread_key(id), *job)]),
            _ => None,
        }
    }

    /// Whether it asks for what properties held before.
    pub fn has_history(&self) -> bool {
        matches!(self, Self::Records { with_history, .. } if !with_history.is_empty())
    }

    /// Two halves, as those of `id`; `None` when it names a single thing.
    pub fn split(&self, id: SplitId) -> Option<(Self, Self)> {
        let (mut first, mut second) = (self.clone(), self.clone());
        match (&mut first, &mut second) {
            (
                Self::Records {
                    ids, half_of: one, ..
                },
                Self::Records {
                    ids: rest,
                    half_of: other,
                    ..
                },
            ) if ids.len() > 1 => {
                *rest = ids.split_off(ids.len() / 2);
                (*one, *other) = (Some(id), Some(id));
            }
            (
                Self::Associations {
                    inputs,
                    half_of: one,
                    ..
                },
                Self::Associations {
                    inputs: rest,
                    half_of: other,
                    ..
                },
            ) if inputs.len() > 1 => {
                *rest = inputs.split_off(inputs.len() / 2);
                (*one, *other) = (Some(id), Some(id));
            }
            (Self::Actors(ids), Self::Actors(rest)) if ids.len() > 1 => {
                *rest = ids.split_off(ids.len() / 2);
            }
            _ => return None,
        }
        Some((first, second))
    }

    /// The refused batch that it is a half of.
    pub fn half_of(&self) -> Option<SplitId> {
        match self {
            Self::Records { half_of, .. } | Self::Associations { half_of, .. } => *half_of,
            _ => None,
        }
    }

    /// What it reads a batch of, and how many; `None` when it is no batch.
    pub fn batch(&self) -> Option<(BatchKind, usize)> {
        match self {
            Self::Records { ids, .. } => Some((BatchKind::Records, ids.len())),
            Self::Associations { inputs, .. } => Some((BatchKind::Associations, inputs.len())),
            _ => None,
        }
    }

    /// What goes on the wire.
    pub fn to_call(&self) -> Call {
        match self.clone() {
            Self::Records {
                object_type_id,
                ids,
                properties,
                with_history,
                ..
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
            Self::Associations {
                from, to, inputs, ..
            } => Call::ReadAssociations {
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
            Self::Schemas => Call::ListSchemas,
            Self::File(id) => Call::ReadFile { id },
            Self::SignFile(id) => Call::SignFile { id },
            Self::Thread { id, .. } => Call::ReadThread { id },
            Self::Message { thread_id, id, .. } => Call::ReadMessage { thread_id, id },
            Self::Actors(ids) => Call::ReadActors { ids },
        }
    }
}

/// What names a thread among records.
pub fn thread_key(id: &ObjectId) -> Key {
    (ObjectTypeId::from_name(CONVERSATION), id.clone())
}
