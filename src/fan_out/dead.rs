//! The dead letters for a copy that its destination did not take.

use crate::bus::Outgoing;
use crate::event::{DeadLetter, DeadLetterReason, EnrichedEvent, Millis, Stage};

/// The letters, ready to publish, that hold the copy of `event` for `destination`. Never empty.
pub(super) fn letters(
    event: &EnrichedEvent,
    destination: &str,
    reason: DeadLetterReason,
    now: Millis,
) -> Vec<Outgoing> {
    let detail = match reason {
        DeadLetterReason::DestinationFull => "the destination's queue is at its limit",
        DeadLetterReason::TooLarge => "the enriched event is larger than the bus takes",
        _ => "the destination's queue is gone or refuses messages",
    };
    let letter = DeadLetter::new(Stage::FanOut, reason, detail.to_owned(), now)
        .with_enriched_event(destination, event.clone());
    Outgoing::dead_letters(letter)
}
