//! What the destinations ask for: which events, which records, and what of them. Pure.
//!
//! It is compiled from the configuration once and used twice: [`crate::enrich`] reads no more than somebody asks for, and
//! [`crate::fan_out`] gives each destination its own. So what is fetched and what is delivered cannot disagree.
//!
//! - [`Wish`]: what one destination, or one topic exchange, asks for;
//! - [`Demand`]: what all of them ask for together;
//! - `filter`: which events and which records' values;
//! - `projection`: which parts and properties.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::config::{BusConfig, Config, DestinationConfig, DestinationContent};
use crate::event::{EnrichedData, EnrichedEvent, Event, KeyPattern, ObjectTypeId, RoutingKey};

mod filter;
mod projection;
#[cfg(test)]
mod tests;

pub use filter::{EventFilter, Judgement, ValueFilter};
pub use projection::{Parts, Projection};

/// What one destination, or one topic exchange, asks for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    content: DestinationContent,
    events: EventFilter,
    values: ValueFilter,
    projection: Projection,
    /// What is shown of a record that may have just stopped to match.
    farewell: Projection,
}

/// What a destination gets of an enriched event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection<'w> {
    /// Places of the events that its copy lists; at least one.
    pub listed: Vec<usize>,
    /// What of the record its copy shows.
    pub projection: &'w Projection,
}

/// What all destinations and topic exchanges ask for together. The default is everything, enriched.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Those of destinations with their names.
    wishes: Vec<(Option<String>, Wish)>,
}

/// What is asked for about an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The event as it is.
    pub plain: bool,
    /// These parts of its record; `None` when nobody wants the event enriched.
    pub parts: Option<Parts>,
}

/// Which properties of a type's records are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedProperties<'d> {
    /// Whether somebody takes whatever is read.
    pub all: bool,
    /// What somebody names.
    pub named: BTreeSet<&'d str>,
}

impl Wish {
    /// What `[destination.<name>]` asks for.
    #[must_use]
    pub fn of_destination(config: &DestinationConfig) -> Self {
        Self {
            content: config.content,
            events: EventFilter::of_destination(config),
            values: ValueFilter::new(config.values.clone()),
            projection: Projection::of_destination(config),
            farewell: Projection::farewell(config),
        }
    }

    /// What `crm.enriched` is to get; `None` when nothing, or when there is no broker.
    #[must_use]
    pub fn of_enriched_topic(config: &BusConfig) -> Option<Self> {
        let everything = || vec!["#".parse().expect("# is a pattern")];
        let patterns = config.enriched_topic.clone().unwrap_or_else(everything);
        Self::of_topic(config, DestinationContent::Enriched, &patterns)
    }

    /// What `crm.events` is to get; `None` when nothing, or when there is no broker.
    #[must_use]
    pub fn of_events_topic(config: &BusConfig) -> Option<Self> {
        let patterns = config.events_topic.as_deref().unwrap_or_default();
        Self::of_topic(config, DestinationContent::Event, patterns)
    }

    fn of_topic(
        config: &BusConfig,
        content: DestinationContent,
        patterns: &[KeyPattern],
    ) -> Option<Self> {
        (config.url.is_some() && !patterns.is_empty()).then(|| Self {
            content,
            events: EventFilter::of_patterns(patterns),
            ..Self::default()
        })
    }

    /// Whether it asks for an event as it is. `keys` are the event's.
    #[must_use]
    pub fn wants_plain(&self, event: &Event, keys: &[RoutingKey]) -> bool {
        self.content == DestinationContent::Event && self.events.wants(event, keys)
    }

    /// What it gets of an enriched event; `None` for nothing. `keys` are those of each event.
    #[must_use]
    pub fn select(&self, data: &EnrichedData, keys: &[Vec<RoutingKey>]) -> Option<Selection<'_>> {
        if self.content != DestinationContent::Enriched {
            return None;
        }
        let events = data.events.iter().zip(keys).enumerate();
        let listed: Vec<usize> = events
            .filter(|(_, (event, keys))| self.events.wants(event, keys))
            .map(|(place, _)| place)
            .collect();
        if listed.is_empty() {
            return None;
        }
        let changes = listed.iter().map(|place| &data.events[*place]);
        let projection = match self.values.judge(data.record.as_ref(), changes) {
            Judgement::Matches => &self.projection,
            Judgement::MayHaveLeft => &self.farewell,
            Judgement::Differs => return None,
        };
        Some(Selection { listed, projection })
    }
}

impl Selection<'_> {
    /// The event as the destination gets it. Its id is that of the events it lists.
    #[must_use]
    pub fn copy_of<'e>(&self, event: &'e EnrichedEvent) -> Cow<'e, EnrichedEvent> {
        let lists_all = self.listed.len() == event.data.events.len();
        if lists_all && self.projection.is_whole() {
            return Cow::Borrowed(event);
        }
        let listed = self.listed.iter();
        let data = EnrichedData {
            events: listed
                .map(|place| event.data.events[*place].clone())
                .collect(),
            ..self.projection.apply(event.data.clone())
        };
        Cow::Owned(EnrichedEvent::new(data))
    }
}

impl Demand {
    /// What the configuration's destinations and topic exchanges ask for.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let topics = [
            Wish::of_enriched_topic(&config.bus),
            Wish::of_events_topic(&config.bus),
        ];
        Self::new(&config.destination, topics.into_iter().flatten())
    }

    /// What `destinations` ask for, and `others`.
    #[must_use]
    pub fn new(
        destinations: &BTreeMap<String, DestinationConfig>,
        others: impl IntoIterator<Item = Wish>,
    ) -> Self {
        let of_destination =
            |(name, config): (&String, _)| (Some(name.clone()), Wish::of_destination(config));
        let wishes = destinations.iter().map(of_destination);
        let others = others.into_iter().map(|wish| (None, wish));
        Self {
            wishes: wishes.chain(others).collect(),
        }
    }

    /// The destinations' names in order, and how each takes events.
    pub fn destinations(&self) -> impl Iterator<Item = (&str, DestinationContent)> {
        let named = self.wishes.iter();
        named.filter_map(|(name, wish)| Some((name.as_deref()?, wish.content)))
    }

    /// What those ask for about `event` whom it is for.
    #[must_use]
    pub fn wants(&self, event: &Event) -> Wanted {
        let keys = [event.routing_key()];
        let mut wanted = Wanted::default();
        let of_all = self.wishes.iter();
        let wishes = of_all.filter(|(name, _)| event.is_for(name.as_deref()));
        for (_, wish) in wishes {
            match wish.content {
                DestinationContent::Event => {
                    wanted.plain |= event.may_go_plain() && wish.wants_plain(event, &keys);
                }
                DestinationContent::Enriched if !wish.events.may_want(event) => {}
                DestinationContent::Enriched => {
                    let parts = wanted.parts.unwrap_or(Parts::NONE);
                    wanted.parts = Some(parts.and(wish.projection.parts()));
                }
            }
        }
        wanted
    }

    /// Which properties are asked for of records of type `of`.
    #[must_use]
    pub fn properties(&self, of: &ObjectTypeId) -> WantedProperties<'_> {
        let mut wanted = WantedProperties::default();
        let enriched = |wish: &&Wish| wish.content == DestinationContent::Enriched;
        let wishes = self.wishes.iter().map(|(_, wish)| wish).filter(enriched);
        for wish in wishes.filter(|wish| wish.events.may_want_of(of)) {
            wanted.named.extend(wish.values.properties());
            match wish.projection.properties() {
                _ if !wish.projection.parts().record => {}
                Some(names) => wanted.named.extend(names),
                None => wanted.all = true,
            }
        }
        wanted
    }
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            wishes: vec![(None, Wish::default())],
        }
    }
}
