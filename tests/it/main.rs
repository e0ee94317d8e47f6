//! The promises to the outside, one file for each.

mod helpers;
mod simulator;
