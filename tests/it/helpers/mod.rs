//! What every test needs.

pub mod broker;
