//! What every test needs.

pub mod broker;
pub mod bus;
