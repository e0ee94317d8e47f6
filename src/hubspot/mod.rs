//! HubSpot's side of the wire: the notifications it posts, and the CRM API we read.
//!
//! The only module that knows HubSpot's paths and JSON, and the only one that calls its API:
//!
//! - [`notification`] is what HubSpot posts; [`crate::normalize`] turns it into events;
//! - [`call`] is what we ask and what we learn, free of wire shapes and of I/O;
//! - [`client`] puts the calls on the wire.

pub mod call;
pub mod client;
pub mod notification;
