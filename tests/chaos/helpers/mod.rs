//! What the campaign shares with the tests.

#[path = "../../it/helpers/broker.rs"]
#[allow(dead_code, reason = "the campaign needs less of it than the tests")]
pub mod broker;
#[path = "../../it/helpers/metric.rs"]
pub mod metric;
#[path = "../../it/helpers/ports.rs"]
pub mod ports;
#[path = "../../it/helpers/signature.rs"]
pub mod signature;
