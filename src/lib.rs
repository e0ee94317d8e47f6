//! Change data capture for HubSpot: signed webhooks in, complete ordered records out.
//!
//! ```text
//!                 receiver                                            worker
//! HubSpot ─POST─▶ ingress ─▶ normalize ─▶ publish ══ crm.intake ══▶ consume ─▶ enrich ─▶ fan_out ──▶ destinations
//!                 signed      notification  confirmed (a partition   in order   records,   confirmed,
//!                 raw bytes   becomes event then 204   per portal)   per portal owners     then settled
//! ```
//!
//! Modules in reading order.

pub mod event;

pub mod hubspot;
pub mod ingress;
pub mod normalize;
pub mod receiver;

pub mod bus;
pub mod folder;
mod jitter;
pub mod spool;

pub mod demand;
pub mod enrich;
pub mod fan_out;
pub mod worker;

pub mod dead;

pub mod portals;

pub mod access;
pub mod admin;
pub mod audit;
pub mod config;
pub mod depths;
pub mod metrics;
pub mod relay;
pub mod seldom;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

pub mod contract;

pub mod cli;
pub mod simulator;
