//! The promises to the outside, one file for each.

mod helpers;
#[path = "../chaos/rig/mod.rs"]
#[allow(dead_code, reason = "the campaign needs more of it")]
mod rig;

mod cli;
mod config;
mod contract;

mod audit;
mod budget;
mod bus_contract;
mod bus_verdicts;
mod dead;
mod delivery;
mod destinations;
mod disk;
mod enrichment;
mod erasure;
mod ingress;
mod object_types;
mod overload;
mod poison;
mod portals;
mod recovery;
mod simulator;
mod spool;
mod stopping;
mod tls;
