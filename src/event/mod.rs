//! The domain: what changed in a portal, and what a consumer is told about it.
//!
//! Everything here is plain data and pure functions. No I/O, no clock (time comes in as an argument),
//! and none of HubSpot's wire shapes: [`crate::normalize`] makes events out of those.
//!
//! - [`Event`]: one change, exactly identified;
//! - [`Batch`]: the events of one portal from one request, as they travel from receiver to worker;
//! - [`PlainEvent`]: one change as a CloudEvent of its own;
//! - [`EnrichedEvent`]: one record's state with the events that led to it, as consumers receive it;
//! - [`DeadLetter`]: what could not go on, and why.

mod batch;
mod change;
mod dead_letter;
mod enriched;
mod identity;
mod ids;
mod object_type;
mod plain;
mod routing_key;
mod time;
mod version;

pub use batch::{BATCH_CONTENT_TYPE, Batch, BatchError};
pub use change::{
    AssociationChange, AssociationEvent, ConversationChange, ConversationEvent, Event, EventBody,
    ObjectChange, ObjectEvent, UnknownEvent,
};
pub use dead_letter::{
    DEAD_LETTER_CONTENT_TYPE, DEAD_LETTER_KIND, DeadLetter, DeadLetterReason, Part, RawContent,
    Stage,
};
pub use enriched::{
    Association, AssociationLabel, ENRICHED_CONTENT_TYPE, EnrichedData, EnrichedEvent, Enrichment,
    EnrichmentPart, EnrichmentProblem, EnrichmentStatus, Owner, Pipeline, ProblemReason,
    PropertyValue, Record, Stage as PipelineStage, Team, Tombstone, TombstoneReason,
};
pub use identity::{EventId, IdentityHasher};
pub use ids::{AppId, ObjectId, OwnerId, PortalId, RecordKey, SubscriptionId};
pub use object_type::{ObjectTypeId, STANDARD_OBJECT_TYPES, StandardObjectType};
pub use plain::PlainEvent;
pub use routing_key::{KeyPattern, KeyPatternError, RoutingKey};
pub use time::Millis;
pub use version::Version;
