//! The dead letters for a copy that its destination did not take.

use crate::bus::Outgoing;
use crate::event::{DeadLetter, DeadLetterReason, Millis, Stage};

use super::Outbound;

/// The letters, ready to publish, that hold the `copy` for `destination` as it would have got it. Never empty.
pub(super) fn letters(
    copy: Outbound,
    destination: &str,
    reason: DeadLetterReason,
    now: Millis,
) -> Vec<Outgoing> {
    let detail = match reason {
        DeadLetterReason::DestinationFull => "the destination's queue is at its limit",
        DeadLetterReason::TooLarge => "the event is larger than the bus takes",
        _ => "the destination's queue is gone or refuses messages",
    };
    let letter = DeadLetter::new(Stage::FanOut, reason, detail.to_owned(), now);
    Outgoing::dead_letters(match copy {
        Outbound::Enriched(event) => letter.with_enriched_event(destination, *event),
        Outbound::Plain(event) => letter.with_plain_event(destination, *event),
    })
}
