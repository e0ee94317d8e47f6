//! What we ask of HubSpot's CRM API, and what we learn from its answers. Plain data: the engine decides on
//! these, [`super::client`] puts them on the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::{
    Actor, AssociationLabel, Attachment, Millis, ObjectId, ObjectSchema, ObjectTypeId, Owner,
    OwnerId, SignedUrl, Thread, ThreadMessage,
};

/// The most records one [`Call::ReadRecords`] may name.
pub const READ_RECORDS_MAX: usize = 100;
/// The most records one [`Call::ReadRecords`] may name when it asks for property history.
pub const READ_RECORDS_WITH_HISTORY_MAX: usize = 50;
/// The most records one [`Call::ReadAssociations`] may name.
pub const READ_ASSOCIATIONS_MAX: usize = 1_000;

/// The most actors one [`Call::ReadActors`] may name. HubSpot documents no limit; this is that of its other batches.
pub const READ_ACTORS_MAX: usize = 100;

/// One request to HubSpot's API, on behalf of one portal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `POST …/{type}/batch/read`: up to [`READ_RECORDS_MAX`] records of one type.
    ReadRecords {
        /// Their type.
        object_type_id: ObjectTypeId,
        /// Which ones, each once.
        ids: Vec<ObjectId>,
        /// The properties to read, by internal name.
        properties: Vec<String>,
        /// The properties to read with history; halves the batch when not empty.
        properties_with_history: Vec<String>,
    },
    /// `GET …/{type}/{id}`: one record. An id that was merged away leads to the survivor.
    ///
    /// Use it to learn whether an id leads to a record, and to which; then read that one by
    /// [`Call::ReadRecords`]. The properties travel in the URL, whose length is limited: where they do not all
    /// fit, none is asked for, and the record comes with HubSpot's default properties alone.
    ReadRecord {
        /// Its type.
        object_type_id: ObjectTypeId,
        /// Which one.
        id: ObjectId,
        /// The properties to read, by internal name.
        properties: Vec<String>,
    },
    /// `POST …/associations/{from}/{to}/batch/read`: one page of the associations of each record.
    ReadAssociations {
        /// Type of the records.
        from: ObjectTypeId,
        /// Type at the other end.
        to: ObjectTypeId,
        /// The records, each with the page to read.
        inputs: Vec<AssociationInput>,
    },
    /// `GET …/owners`: one page of the portal's owners.
    ListOwners {
        /// Deactivated users instead of active ones.
        archived: bool,
        /// The page, from [`Answer::Owners`]; `None` for the first.
        after: Option<String>,
    },
    /// `GET …/owners/{id}`.
    ReadOwner {
        /// Which one.
        id: OwnerId,
        /// Whether to look among deactivated users.
        archived: bool,
    },
    /// `GET …/properties/{type}`: all property definitions of a type, of one level of sensitivity.
    ListProperties {
        /// The type.
        object_type_id: ObjectTypeId,
        /// Which of them.
        sensitivity: Sensitivity,
    },
    /// `GET …/pipelines/{type}`: all pipelines of a type with their stages.
    ListPipelines {
        /// The type.
        object_type_id: ObjectTypeId,
    },
    /// `GET …/schemas`: all custom objects of the portal.
    ListSchemas,
    /// `GET …/files/{id}`: what a file is.
    ReadFile {
        /// Which one.
        id: String,
    },
    /// `GET …/files/{id}/signed-url`: a URL by which a private file can be fetched for a while, as long as HubSpot chooses.
    SignFile {
        /// Which one.
        id: String,
    },
    /// `GET …/threads/{id}`: a thread of the conversations inbox.
    ReadThread {
        /// Which one.
        id: ObjectId,
    },
    /// `GET …/threads/{id}/messages/{id}`.
    ReadMessage {
        /// The thread.
        thread_id: ObjectId,
        /// The message.
        id: String,
    },
    /// `POST …/actors/batch/read`: who acts in threads.
    ReadActors {
        /// Which ones, each once; at most [`READ_ACTORS_MAX`].
        ids: Vec<String>,
    },
    /// `GET …/associations/{from}/{to}/labels`: all association types of a pair of types, in one direction.
    ListAssociationLabels {
        /// Type of the records that the associations start from.
        from: ObjectTypeId,
        /// Type at the other end.
        to: ObjectTypeId,
    },
}

/// How sensitive a property's values are. HubSpot lists the definitions of each level by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sensitivity {
    /// What every token with the type's scope may read.
    #[default]
    NonSensitive,
    /// What takes a scope of its own; notifications hide its values.
    Sensitive,
    /// What takes another one, and never comes in notifications.
    HighlySensitive,
}

impl Sensitivity {
    /// HubSpot's word, `dataSensitivity`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NonSensitive => "non_sensitive",
            Self::Sensitive => "sensitive",
            Self::HighlySensitive => "highly_sensitive",
        }
    }
}

/// One record of a [`Call::ReadAssociations`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AssociationInput {
    /// The record.
    pub id: ObjectId,
    /// The page, from [`AssociationPage::after`]; `None` for the first.
    pub after: Option<String>,
}

/// The limit of HubSpot's that a call counts against. Each has a budget of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitClass {
    /// The ten-secondly limit of the app (and the daily one).
    Burst,
    /// The association API's own ten-secondly limit.
    Associations,
}

impl Call {
    /// The limit this call counts against.
    #[must_use]
    pub fn limit_class(&self) -> LimitClass {
        match self {
            Self::ReadAssociations { .. } | Self::ListAssociationLabels { .. } => {
                LimitClass::Associations
            }
            _ => LimitClass::Burst,
        }
    }

    /// The word in metrics and logs.
    #[must_use]
    pub fn endpoint(&self) -> &'static str {
        match self {
            Self::ReadRecords { .. } => "objects_batch_read",
            Self::ReadRecord { .. } => "object",
            Self::ReadAssociations { .. } => "associations_batch_read",
            Self::ListOwners { .. } => "owners",
            Self::ReadOwner { .. } => "owner",
            Self::ListProperties { .. } => "properties",
            Self::ListPipelines { .. } => "pipelines",
            Self::ListSchemas => "schemas",
            Self::ReadFile { .. } => "file",
            Self::SignFile { .. } => "file_signed_url",
            Self::ReadThread { .. } => "conversation_thread",
            Self::ReadMessage { .. } => "conversation_message",
            Self::ReadActors { .. } => "conversation_actors",
            Self::ListAssociationLabels { .. } => "association_labels",
        }
    }
}

/// What came back from one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The answer.
    pub result: Result<Answer, CallError>,
    /// What the reply's headers said of the limits.
    pub limits: RateLimits,
}

/// A successful answer, one variant for each [`Call`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Call::ReadRecords`]. A record that was asked for and is not here is missing; one may be here
    /// under an id that was not asked for.
    Records {
        /// What was found.
        records: Vec<RecordRead>,
        /// `completedAt`, by HubSpot's clock.
        completed_at: Millis,
    },
    /// To [`Call::ReadRecord`]: `None` when there is no such record. Its id may differ from the one asked for.
    Record {
        /// The record. Its properties may be HubSpot's default ones alone, see [`Call::ReadRecord`].
        record: Option<RecordRead>,
        /// The reply's `Date` header, since this reply has no `completedAt`.
        completed_at: Millis,
    },
    /// To [`Call::ReadAssociations`]: records that have none are left out, which is not an error.
    Associations(Vec<AssociationPage>),
    /// To [`Call::ListOwners`].
    Owners {
        /// One page.
        owners: Vec<Owner>,
        /// The next page, if there is one.
        after: Option<String>,
    },
    /// To [`Call::ReadOwner`]: `None` when there is no such owner.
    Owner(Option<Owner>),
    /// To [`Call::ListProperties`].
    Properties(Vec<PropertyDefinition>),
    /// To [`Call::ListPipelines`].
    Pipelines(Vec<PipelineDefinition>),
    /// To [`Call::ListSchemas`]: by the type's id.
    Schemas(BTreeMap<ObjectTypeId, ObjectSchema>),
    /// To [`Call::ReadFile`]: `None` when there is no such file.
    File(Option<Box<Attachment>>),
    /// To [`Call::SignFile`]: `None` when there is no such file.
    SignedUrl(Option<SignedUrl>),
    /// To [`Call::ReadThread`]: `None` when there is no such thread.
    Thread {
        /// The thread.
        thread: Option<Box<Thread>>,
        /// The reply's `Date` header, since this reply has no `completedAt`.
        completed_at: Millis,
    },
    /// To [`Call::ReadMessage`]: `None` when the thread has no such message.
    Message(Option<Box<ThreadMessage>>),
    /// To [`Call::ReadActors`]: those that HubSpot knows.
    Actors(Vec<Actor>),
    /// To [`Call::ListAssociationLabels`].
    AssociationLabels(Vec<AssociationLabel>),
}

/// A record as HubSpot holds it: every value a string, or absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRead {
    /// The record.
    pub id: ObjectId,
    /// Values by internal name; empty and `null` ones are left out.
    pub properties: BTreeMap<String, String>,
    /// The values that properties had, the newest first, of those that were asked for with history.
    pub history: BTreeMap<String, Vec<PastValue>>,
    /// `createdAt`.
    pub created_at: Option<Millis>,
    /// `updatedAt`.
    pub updated_at: Option<Millis>,
    /// Whether it lies in the recycle bin.
    pub archived: bool,
}

/// A value that a property had from a time on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastValue {
    /// HubSpot's text; empty when the property was cleared.
    pub text: String,
    /// Since when.
    pub since: Millis,
}

/// One page of one record's associations to one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssociationPage {
    /// The record.
    pub from: ObjectId,
    /// The records at the other end, each with all types of the edge.
    pub to: Vec<(ObjectId, Vec<AssociationLabel>)>,
    /// The next page of this record, if there is one.
    pub after: Option<String>,
}

/// What a property is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PropertyDefinition {
    /// Internal name.
    pub name: String,
    /// `string`, `number`, `date`, `datetime`, `enumeration`, `bool`, `phone_number`, … an open set.
    pub value_type: String,
    /// `checkbox` marks a multiple selection.
    pub field_type: String,
    /// Labels of an enumeration, by internal value.
    pub options: BTreeMap<String, String>,
    /// The type whose ids it holds: `OWNER`, `COMPANY`, `SEQUENCE`, … an open set.
    pub referenced_object_type: Option<String>,
    /// Whether no two records share a value.
    pub has_unique_value: bool,
    /// HubSpot's own, not the portal's.
    pub hubspot_defined: bool,
    /// Hidden from users.
    pub hidden: bool,
    /// Computed by HubSpot.
    pub calculated: bool,
    /// Whether nobody but HubSpot may set a value.
    pub read_only: bool,
    /// How sensitive its values are.
    pub sensitivity: Sensitivity,
}

impl PropertyDefinition {
    /// Whether its values are ids of owners.
    #[must_use]
    pub fn references_owners(&self) -> bool {
        self.referenced_object_type.as_deref() == Some("OWNER")
    }
}

/// A pipeline and its stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineDefinition {
    /// The pipeline.
    pub id: String,
    /// Its name.
    pub label: String,
    /// Its place among the type's pipelines.
    pub display_order: Option<i64>,
    /// Its stages.
    pub stages: Vec<StageDefinition>,
}

/// A stage of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageDefinition {
    /// The stage.
    pub id: String,
    /// Its name.
    pub label: String,
    /// Its place among the pipeline's stages.
    pub display_order: Option<i64>,
    /// Deals' `isClosed`, or tickets' `ticketState` = `CLOSED`.
    pub closed: Option<bool>,
    /// Deals' `probability`, in HubSpot's own digits.
    pub probability: Option<String>,
    /// Tickets' `ticketState`: `OPEN`, `CLOSED`.
    pub ticket_state: Option<String>,
}

/// What a reply's headers said of the limits. Absent headers are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// `X-HubSpot-RateLimit-Max`: calls allowed in the window.
    pub max: Option<u32>,
    /// `X-HubSpot-RateLimit-Remaining`: calls left in it.
    pub remaining: Option<u32>,
    /// `X-HubSpot-RateLimit-Interval-Milliseconds`: the window.
    pub interval: Option<Duration>,
    /// `X-HubSpot-RateLimit-Daily`.
    pub daily_max: Option<u32>,
    /// `X-HubSpot-RateLimit-Daily-Remaining`.
    pub daily_remaining: Option<u32>,
}

/// Why a call brought no answer. The variants are what the engine tells apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// 401: the token is bad, expired or revoked.
    #[error("HubSpot refuses the access token (401)")]
    Unauthorized,
    /// The configuration has no token for the portal.
    #[error(
        "no access token is configured for this portal; add [portal.<id>], or a file to portals.folder"
    )]
    NoToken,
    /// The portal is paused by its own setting: no call was made.
    #[error("the portal is paused")]
    Paused,
    /// There is no access token to be had until somebody acts: no call was made.
    #[error("{0}")]
    Parked(
        /// Why, and what to do.
        String,
    ),
    /// 403: the token lacks a scope, or the account the tier.
    #[error("HubSpot forbids the read (403); missing scopes: {}", .missing_scopes.join(", "))]
    Forbidden {
        /// `context.requiredGranularScopes`, if HubSpot named them.
        missing_scopes: Vec<String>,
    },
    /// 429.
    #[error("HubSpot's rate limit {policy:?} is reached (429)")]
    RateLimited {
        /// Which limit.
        policy: RateLimitPolicy,
        /// `Retry-After`, if HubSpot sent one.
        retry_after: Option<Duration>,
    },
    /// 423: locked for a high-volume sync; 477: the portal moves to another region.
    #[error("HubSpot asks to wait ({status})")]
    Locked {
        /// 423 or 477.
        status: u16,
        /// `Retry-After`, if HubSpot sent one.
        retry_after: Option<Duration>,
    },
    /// 5xx.
    #[error("HubSpot is unavailable ({status})")]
    Unavailable {
        /// The status.
        status: u16,
    },
    /// No answer within the deadline.
    #[error("HubSpot did not answer in time")]
    TimedOut,
    /// No connection, or it broke.
    #[error("the connection to HubSpot failed")]
    Disconnected,
    /// 2xx, but not what HubSpot's specification says; or larger than the bound on replies.
    #[error("HubSpot's answer cannot be read: {reason}")]
    Unreadable {
        /// Without any of the body.
        reason: String,
    },
    /// Any other status: the request itself is at fault (400, 404 of a path, 414, …). With status 207, HubSpot
    /// reported an error on some records of the batch that is not their absence.
    #[error("HubSpot refuses the request ({status}{})", .category.as_deref().map(|c| format!(", {c}")).unwrap_or_default())]
    Refused {
        /// The status.
        status: u16,
        /// `category` of the error body. Its message is left out, since it may quote values.
        category: Option<String>,
    },
}

/// Which limit a 429 is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateLimitPolicy {
    /// `TEN_SECONDLY_ROLLING`, and whatever does not say.
    TenSecondly,
    /// `SECONDLY`.
    Secondly,
    /// `DAILY`.
    Daily,
}
