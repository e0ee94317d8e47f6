//! The simulator answers, limits and notifies as HubSpot does: checked from outside, over HTTP.

mod desk;
mod limits;
mod oauth;
mod reads;
mod webhooks;
