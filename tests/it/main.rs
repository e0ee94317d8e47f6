//! The promises to the outside, one file for each.

mod helpers;

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
mod tls;
