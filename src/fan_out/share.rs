//! What one destination gets of an event, and its message, which those who get the same share.

use crate::bus::Message;
use crate::config::DestinationFormat;
use crate::demand::{Projection, Selection, Wish};
use crate::event::{EnrichedEvent, Event, RoutingKey};

use super::{Outbound, message};

/// What one destination gets of an event.
pub(super) enum Share<'e, 'w> {
    Enriched(&'e EnrichedEvent, Selection<'w>),
    Plain(&'e Event),
}

impl<'e, 'w> Share<'e, 'w> {
    /// What `wish` asks for; `None` for nothing. `keys` are those of the events of `outbound`.
    pub(super) fn of(
        wish: &'w Wish,
        outbound: &'e Outbound,
        keys: &[Vec<RoutingKey>],
    ) -> Option<Self> {
        match outbound {
            Outbound::Enriched(event) => {
                let selection = wish.select(&event.data, keys)?;
                Some(Self::Enriched(event, selection))
            }
            Outbound::Plain(event) => {
                let wanted = wish.wants_plain(event, &keys[0]);
                wanted.then_some(Self::Plain(event))
            }
        }
    }

    /// Places of the events that are in it.
    pub(super) fn listed(&self) -> &[usize] {
        match self {
            Self::Enriched(_, selection) => &selection.listed,
            Self::Plain(_) => &[0],
        }
    }

    fn projection(&self) -> Option<&'w Projection> {
        match self {
            Self::Enriched(_, selection) => Some(selection.projection),
            Self::Plain(_) => None,
        }
    }

    fn message(&self, format: DestinationFormat) -> Message {
        match self {
            Self::Enriched(event, selection) => {
                message::of_enriched(&selection.copy_of(event), format)
            }
            Self::Plain(event) => message::of_plain(event, format),
        }
    }
}

/// What tells two messages of one event apart: the events listed, what is shown of the record, and how it is written.
type Form<'w> = (Vec<usize>, Option<&'w Projection>, DestinationFormat);

/// Writes an event in each form once. A message shares its body with its clones.
#[derive(Default)]
pub(super) struct Encoder<'w> {
    written: Vec<(Form<'w>, Message)>,
}

impl<'w> Encoder<'w> {
    /// The message of a `share` of the one event that this encoder is for.
    pub(super) fn message(&mut self, share: &Share<'_, 'w>, format: DestinationFormat) -> Message {
        let form = (share.listed().to_vec(), share.projection(), format);
        if let Some((_, message)) = self.written.iter().find(|(one, _)| *one == form) {
            return message.clone();
        }
        let message = share.message(format);
        self.written.push((form, message.clone()));
        message
    }
}
