//! The dead letters for a copy that its destination did not take, made to fit the bus.
//!
//! A dead letter holds the whole enriched event where that fits. Where it does not, it holds the events that led to
//! it, in as many letters as it takes: a replay reads the record afresh, so nothing is lost but the state as of
//! the first read. Only where a single event does not fit, which no accepted request can contain, are its
//! value or raw form left out, and the letter says so.

use crate::bus::{MESSAGE_BYTES_MAX, Outgoing};
use crate::event::{
    ConversationChange, DeadLetter, DeadLetterReason, EnrichedEvent, Event, EventBody, Millis,
    ObjectChange, Stage,
};

/// The letters, ready to publish, that hold the copy of `event` for `destination`. Never empty.
pub(super) fn letters(
    event: &EnrichedEvent,
    destination: &str,
    reason: DeadLetterReason,
    now: Millis,
) -> Vec<Outgoing> {
    let cause = Cause {
        destination,
        reason,
        now,
        bytes_max: MESSAGE_BYTES_MAX,
    };
    fitting(event, &cause)
        .iter()
        .map(Outgoing::dead_letter)
        .collect()
}

/// What all letters of one copy have in common.
struct Cause<'a> {
    destination: &'a str,
    reason: DeadLetterReason,
    now: Millis,
    bytes_max: usize,
}

impl Cause<'_> {
    fn letter(&self, remark: &str) -> DeadLetter {
        let why = match self.reason {
            DeadLetterReason::DestinationFull => "the destination's queue is at its limit",
            DeadLetterReason::TooLarge => "the enriched event is larger than the bus takes",
            _ => "the destination's queue is gone or refuses messages",
        };
        let detail = format!("{why}{remark}");
        DeadLetter::new(Stage::FanOut, self.reason, detail, self.now)
    }

    fn of_events(&self, events: Vec<Event>, remark: &str) -> DeadLetter {
        let mut letter = self.letter(remark).with_events(events);
        letter.destination = Some(self.destination.to_owned());
        letter
    }

    fn fits(&self, letter: &DeadLetter) -> bool {
        letter.encode().len() <= self.bytes_max
    }
}

fn fitting(event: &EnrichedEvent, cause: &Cause<'_>) -> Vec<DeadLetter> {
    let whole = cause
        .letter("")
        .with_enriched_event(cause.destination, event.clone());
    if cause.fits(&whole) {
        return vec![whole];
    }
    let mut letters = Vec::new();
    split(event.data.events.clone(), cause, &mut letters);
    letters
}

/// Halves `events` until each half fits. Ends: a half is smaller than the whole, and one event is cut.
fn split(mut events: Vec<Event>, cause: &Cause<'_>, letters: &mut Vec<DeadLetter>) {
    let letter = cause.of_events(
        events.clone(),
        "; it holds the events, and the record must be read again",
    );
    if cause.fits(&letter) {
        letters.push(letter);
    } else if events.len() > 1 {
        let rest = events.split_off(events.len() / 2);
        split(events, cause, letters);
        split(rest, cause, letters);
    } else {
        events.iter_mut().for_each(leave_out_value);
        letters.push(cause.of_events(
            events,
            "; it holds the event without its value or raw form, which is too large by itself",
        ));
    }
}

fn leave_out_value(event: &mut Event) {
    match &mut event.body {
        EventBody::Object(object) => match &mut object.change {
            ObjectChange::PropertyChanged { property_value, .. } => *property_value = None,
            ObjectChange::Unknown { raw } => *raw = serde_json::Value::Null,
            _ => {}
        },
        EventBody::Conversation(conversation) => match &mut conversation.change {
            ConversationChange::PropertyChanged { property_value, .. } => *property_value = None,
            ConversationChange::Unknown { raw } => *raw = serde_json::Value::Null,
            _ => {}
        },
        EventBody::Unknown(unknown) => unknown.raw = serde_json::Value::Null,
        EventBody::Association(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fan_out::tests::{change, enriched};

    fn cause(bytes_max: usize) -> Cause<'static> {
        Cause {
            destination: "crm",
            reason: DeadLetterReason::TooLarge,
            now: Millis::new(1_763_892_000_000).unwrap(),
            bytes_max,
        }
    }

    #[test]
    fn a_letter_that_fits_holds_the_whole_enriched_event() {
        let event = enriched(vec![change("1", "x")]);
        let letters = fitting(&event, &cause(MESSAGE_BYTES_MAX));
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].enriched_event.as_deref(), Some(&event));
    }

    #[test]
    fn what_does_not_fit_is_split_and_every_event_is_in_exactly_one_letter() {
        let events: Vec<Event> = (0..9).map(|n| change(&n.to_string(), "value")).collect();
        let letters = fitting(&enriched(events.clone()), &cause(2_000));
        assert!(letters.len() > 1, "{}", letters.len());
        let held: Vec<Event> = letters.iter().flat_map(|one| one.events.clone()).collect();
        assert_eq!(held, events);
        for letter in &letters {
            assert!(letter.encode().len() <= 2_000);
            assert_eq!(letter.destination.as_deref(), Some("crm"));
        }
        let ids: std::collections::BTreeSet<_> = letters.iter().map(DeadLetter::id).collect();
        assert_eq!(ids.len(), letters.len());
    }

    #[test]
    fn a_single_event_that_does_not_fit_loses_its_value_and_says_so() {
        let event = enriched(vec![change("1", &"x".repeat(5_000))]);
        let letters = fitting(&event, &cause(2_000));
        assert_eq!(letters.len(), 1);
        assert!(letters[0].encode().len() <= 2_000);
        assert!(letters[0].detail.contains("without its value"));
    }
}
