//! Single fields of a notification, required or converted.

use std::borrow::Cow;

use crate::event::Millis;
use crate::hubspot::notification::Notification;

use super::NormalizeError;

/// `value`, or that the field `name` is missing.
pub(super) fn required<T>(name: &'static str, value: Option<T>) -> Result<T, NormalizeError> {
    value.ok_or(NormalizeError::Missing(name))
}

/// When it happened.
pub(super) fn occurred_at(notification: &Notification<'_>) -> Result<Millis, NormalizeError> {
    let text = required("occurredAt", notification.occurred_at.as_deref())?;
    number(text)
        .and_then(Millis::new)
        .ok_or(NormalizeError::NotATime("occurredAt"))
}

/// How many times HubSpot had tried before; 0 when it does not say.
pub(super) fn attempt_number(notification: &Notification<'_>) -> u32 {
    let text = notification.attempt_number.as_deref();
    text.and_then(number).unwrap_or(0)
}

/// The number that `text` writes.
pub(super) fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.parse().ok()
}

/// A copy that outlives the request.
pub(super) fn owned(text: &Option<Cow<'_, str>>) -> Option<String> {
    text.as_deref().map(str::to_owned)
}
