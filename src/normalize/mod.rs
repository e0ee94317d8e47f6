//! Turns a notification of HubSpot's into an event of ours.
//!
//! Pure: the same text and time give the same event. No clock, no I/O, no HTTP, no metrics; nothing past
//! this module sees HubSpot's wire shapes.
//!
//! - classic types (`contact.creation`) and generic ones (`object.creation` with `objectTypeId`) meet in
//!   one event type;
//! - what HubSpot did not send when this was written goes through as unknown, with its raw form;
//! - what lacks a field without which it means nothing is a [`NormalizeError`], which names the field.

use crate::event::{Event, Millis};
use crate::hubspot::notification::Notification;

mod association;
mod body;
mod error;
mod field;
mod identity;

pub use error::NormalizeError;

/// The event that `element`, one element of the array HubSpot posted, tells of.
///
/// `received_at` is this relay's clock when the request came. An `attemptNumber` that is no number counts
/// as 0: it is for people to look at, and no reason to lose the event.
///
/// # Errors
/// Every variant of [`NormalizeError`]; none of them quotes the element.
pub fn normalize(element: &str, received_at: Millis) -> Result<Event, NormalizeError> {
    let notification = Notification::from_json(element)
        .map_err(|error| NormalizeError::unreadable(element, &error))?;
    let subscription_type = field::required("subscriptionType", notification.type_name())?;
    let portal_id = field::required("portalId", notification.portal_id.as_deref())?;
    let occurred_at = field::occurred_at(&notification)?;
    let body = body::of(&notification, subscription_type, element)?;
    let id = if body::is_unknown(&body) {
        identity::of_unknown(&notification, element)?
    } else {
        identity::of(&notification)
    };
    Ok(Event {
        id,
        portal_id: portal_id.into(),
        app_id: notification.app_id.as_deref().map(Into::into),
        subscription_id: notification.subscription_id.as_deref().map(Into::into),
        subscription_type: subscription_type.to_owned(),
        hubspot_event_id: field::owned(&notification.event_id),
        occurred_at,
        received_at,
        attempt_number: field::attempt_number(&notification),
        change_source: field::owned(&notification.change_source),
        source_id: field::owned(&notification.source_id),
        value: None,
        replay: None,
        body,
    })
}

#[cfg(test)]
mod tests;
