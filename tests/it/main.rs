//! The promises to the outside, one file for each.

mod cli;
mod config;
mod helpers;

mod bus_contract;
mod bus_verdicts;
mod ingress;
