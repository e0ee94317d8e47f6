//! The domain: what changed in a portal, and what a consumer is told about it.
//!
//! Everything here is plain data and pure functions. No I/O, no clock (time comes in as an argument),
//! and none of HubSpot's wire shapes: [`crate::normalize`] makes events out of those.
//!
//! - [`Event`]: one change, exactly identified;
//! - [`Batch`]: the events of one portal from one request, as they travel from receiver to worker;
//! - [`PlainEvent`]: one change as a CloudEvent of its own;
//! - [`EnrichedEvent`]: one record's state with the events that led to it, as consumers receive it;
//! - [`DeadLetter`]: what could not go on, and why; [`Replay`]: that it is tried again;
//! - [`Erasure`]: a record that was deleted for privacy, and what of a dead letter is about it.

mod attachment;
mod batch;
mod change;
mod conversation;
mod dead_letter;
mod edge;
mod enriched;
mod erasure;
mod identity;
mod ids;
mod object_schema;
mod object_type;
mod plain;
mod replay;
mod routing_key;
mod time;
mod version;

pub use attachment::{Attachment, SignedUrl};
pub use batch::{
    BATCH_CONTENT_TYPE, BATCH_KIND, Batch, BatchError, REPLAY_CONTENT_TYPE, REPLAY_KIND,
};
pub use change::{
    AssociationChange, AssociationEvent, CONVERSATION, ConversationChange, ConversationEvent,
    Event, EventBody, ObjectChange, ObjectEvent, UnknownEvent,
};
pub use conversation::{Actor, Conversation, Correspondent, Thread, ThreadMessage};
pub use dead_letter::{
    DEAD_LETTER_CONTENT_TYPE, DEAD_LETTER_KIND, DeadLetter, DeadLetterReason, Part, RawContent,
    Stage,
};
pub use enriched::{
    Association, AssociationLabel, ENRICHED_CONTENT_TYPE, EnrichedData, EnrichedEvent, Enrichment,
    EnrichmentPart, EnrichmentProblem, EnrichmentStatus, Owner, Pipeline, ProblemReason,
    PropertyValue, Record, Stage as PipelineStage, Team, Tombstone, TombstoneReason,
};
pub use erasure::{ERASURE_CONTENT_TYPE, ERASURE_KIND, Erased, Erasure, Searched};
pub use identity::{EventId, IdentityHasher};
pub use ids::{
    AppId, EdgeId, ObjectId, OwnerId, PortalId, RecordDigest, RecordKey, SubscriptionId,
};
pub use object_schema::{ObjectSchema, SchemaLabels};
pub use object_type::{CustomName, ObjectTypeId, STANDARD_OBJECT_TYPES, StandardObjectType};
pub use plain::PlainEvent;
pub use replay::{Audience, Replay};
pub use routing_key::{KeyPattern, KeyPatternError, RoutingKey};
pub use time::Millis;
pub use version::Version;
