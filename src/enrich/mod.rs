//! stub

pub mod typed;
