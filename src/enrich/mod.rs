//! Enrichment: which reads to make for which events, and the message that comes of them.
//!
//! [`Engine`] is a state machine without I/O, clock or socket. It takes what happened (a batch came, a call
//! was answered, a message was published, time passed) and says what to do (send this call, publish this,
//! settle that). [`crate::worker`] is the shell that does it.
//!
//! One engine serves one partition, and with it every event of its portals: so it alone holds each
//! portal's backlog and budget.
//!
//! - `protocol`: what the engine is told and what it says;
//! - [`Plans`]: what to read, by object type;
//! - `portal`: the jobs of one portal, from events to messages; `portals`: all of them, while they are in use;
//! - `batch_max`: how large a batch may be;
//! - `request`, `cache`, `pool`, `fresh`: reads, and what is shared;
//! - `assemble`, [`typed`], `identifiers`, `history`: what comes of them;
//! - `schemas`, `attachments`, `conversations`: what is special about custom objects, engagements and threads;
//! - [`budget`], `health`, `priority`: whether a call may be sent, and whose goes first;
//! - `admission`: which deliveries are taken up now, and which are set aside so that they hold up nobody;
//! - `suspects`: what may have killed a worker, and how it is found out;
//! - `ledger`: how events ended, for every destination;
//! - `memory`, `changelog`, `window`: what is known of the past, how it outlives the engine, and its bounds.

pub mod budget;
pub mod typed;

mod admission;
mod assemble;
mod attachments;
mod batch_max;
mod cache;
mod changelog;
mod conversations;
mod effects;
mod engine;
mod fresh;
mod health;
mod history;
mod identifiers;
mod job;
mod ledger;
mod memory;
mod plan;
mod pool;
mod portal;
mod portals;
mod priority;
mod protocol;
mod request;
mod schemas;
mod suspects;
#[cfg(test)]
pub(crate) mod tests;
mod window;

pub use changelog::{NOTE_DELAY, NOTE_ENTRIES_MAX, Note, NoteError};
pub use engine::Engine;
pub use ledger::{Count, Counted, EventDigest, Tally, plain_half};
pub use memory::{Entry, Sent};
pub use plan::{Plan, Plans};
pub use protocol::{
    BudgetLeft, CallId, Copied, DeliveryId, Ending, EngineStats, Input, NoteId, Output, PublishId,
    Published, Source,
};
pub use suspects::{HELD_MAX, Step, Suspects};
pub use window::{RECORDS_CAPACITY, Recent, SEEN_CAPACITY, SEEN_KEEP};
