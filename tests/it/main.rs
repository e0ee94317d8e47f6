//! The promises to the outside, one file for each.

mod helpers;

mod cli;
mod config;

mod bus_contract;
mod bus_verdicts;
mod delivery;
mod ingress;
mod recovery;
mod simulator;
mod spool;
