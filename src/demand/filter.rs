//! Which events a destination asks for, and which values a record must have.

use std::collections::BTreeMap;

use crate::config::DestinationConfig;
use crate::event::{
    ConversationChange, ConversationEvent, Event, EventBody, KeyPattern, ObjectChange, ObjectEvent,
    ObjectTypeId, PortalId, PropertyValue, Record, RoutingKey,
};

/// Before a change source that is left out.
const NOT: char = '!';

/// Which events are asked for: those that pass every part. The default is all.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// One of them matches; all when empty.
    patterns: Vec<KeyPattern>,
    /// Of these portals; of all when empty.
    portals: Vec<PortalId>,
    /// Changes of these properties, and all that is no change of a property; all when empty.
    changed: Vec<String>,
    sources: Sources,
}

/// What made the change.
#[derive(Clone, Debug, Default)]
enum Sources {
    #[default]
    All,
    Only(Vec<String>),
    Except(Vec<String>),
}

impl EventFilter {
    /// The event-level part of what `[destination.<name>]` asks for.
    #[must_use]
    pub fn of_destination(config: &DestinationConfig) -> Self {
        let mut changed = config.changed.clone().unwrap_or_default();
        if !changed.is_empty() {
            // Else a record would stop to match unseen.
            changed.extend(config.values.keys().cloned());
        }
        let portals = config.portals.iter().flatten();
        Self {
            portals: portals.map(|id| id.as_str().into()).collect(),
            changed,
            sources: Sources::new(config.change_sources.as_deref().unwrap_or_default()),
            ..Self::of_patterns(&config.patterns)
        }
    }

    /// What one of `patterns` matches. They may name object types by singular, plural or id.
    #[must_use]
    pub fn of_patterns(patterns: &[KeyPattern]) -> Self {
        Self {
            patterns: patterns.iter().map(KeyPattern::with_type_names).collect(),
            ..Self::default()
        }
    }

    /// Whether an event passes. `keys` are the event's.
    ///
    /// Deletions, privacy deletions and merges pass whatever `changed` and `change_sources` say: who keeps records must
    /// learn that one is gone.
    #[must_use]
    pub fn wants(&self, event: &Event, keys: &[RoutingKey]) -> bool {
        let of_portal = self.portals.is_empty() || self.portals.contains(&event.portal_id);
        let mut patterns = self.patterns.iter();
        let matches = self.patterns.is_empty()
            || patterns.any(|pattern| keys.iter().any(|key| pattern.matches(key)));
        of_portal
            && matches
            && (ends_a_record(event) || (self.wants_change(event) && self.sources.include(event)))
    }

    /// Whether an event may pass before it is known what the portal calls its type: a custom object's may be any name
    /// that a pattern has for one.
    #[must_use]
    pub fn may_want(&self, event: &Event) -> bool {
        let mut keys = vec![event.routing_key()];
        if event.subject().object_type_id.is_custom() {
            let names = self.patterns.iter().flat_map(KeyPattern::custom_names);
            keys.extend(names.map(|name| event.routing_key_as(name)));
        }
        self.wants(event, &keys)
    }

    /// Whether some event of a record of type `of` may pass.
    #[must_use]
    pub fn may_want_of(&self, of: &ObjectTypeId) -> bool {
        let may_match = |pattern: &KeyPattern| {
            let mut names = pattern.custom_names();
            pattern.may_match_type(of.name())
                || (of.is_custom() && names.any(|name| pattern.may_match_type(name)))
        };
        self.patterns.is_empty() || self.patterns.iter().any(may_match)
    }

    fn wants_change(&self, event: &Event) -> bool {
        self.changed.is_empty()
            || changed_property(event).is_none_or(|name| self.changed.iter().any(|one| one == name))
    }
}

impl Sources {
    fn new(names: &[String]) -> Self {
        let excepted: Vec<_> = names
            .iter()
            .filter_map(|name| name.strip_prefix(NOT).map(str::to_owned))
            .collect();
        match (names.is_empty(), excepted.is_empty()) {
            (true, _) => Self::All,
            (false, true) => Self::Only(names.to_vec()),
            (false, false) => Self::Except(excepted),
        }
    }

    /// An event that does not say what made it is of none.
    fn include(&self, event: &Event) -> bool {
        let is_one_of = |names: &[String]| {
            let source = event.change_source.as_ref();
            source.is_some_and(|source| names.contains(source))
        };
        match self {
            Self::All => true,
            Self::Only(names) => is_one_of(names),
            Self::Except(names) => !is_one_of(names),
        }
    }
}

/// Which values a record must have: for each property one of those listed. The default is any.
#[derive(Clone, Debug, Default)]
pub struct ValueFilter(BTreeMap<String, Vec<String>>);

/// What a [`ValueFilter`] makes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The record has the values, or there is none to judge by: it is gone, or it could not be read.
    Matches,
    /// It has other values, and what led to the message may be what changed them.
    MayHaveLeft,
    /// It has other values.
    Differs,
}

impl ValueFilter {
    /// For each property the values that pass, as text.
    #[must_use]
    pub fn new(values: BTreeMap<String, Vec<String>>) -> Self {
        Self(values)
    }

    /// The properties that it looks at.
    pub fn properties(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Judges a `record` as it was read after `changes`.
    pub fn judge<'e>(
        &self,
        record: Option<&Record>,
        mut changes: impl Iterator<Item = &'e Event>,
    ) -> Judgement {
        let has_one_of = |record: &Record, name: &String, values: &[String]| {
            let value = record.properties.get(name);
            is_one_of(value.unwrap_or(&PropertyValue::Null), values)
        };
        let matches = record.is_none_or(|record| {
            let mut all = self.0.iter();
            all.all(|(name, values)| has_one_of(record, name, values))
        });
        if matches {
            Judgement::Matches
        } else if changes.any(|event| self.may_change_it(event)) {
            Judgement::MayHaveLeft
        } else {
            Judgement::Differs
        }
    }

    fn may_change_it(&self, event: &Event) -> bool {
        event.kind() == "merged"
            || changed_property(event).is_some_and(|name| self.0.contains_key(name))
    }
}

/// Whether the text of `value` is among `values`, or that of one of several selected. Empty is the empty text.
fn is_one_of(value: &PropertyValue, values: &[String]) -> bool {
    let has = |text: &str| values.iter().any(|one| one == text);
    match value {
        PropertyValue::Null => has(""),
        PropertyValue::Bool(truth) => has(if *truth { "true" } else { "false" }),
        PropertyValue::Number(text) | PropertyValue::Text(text) | PropertyValue::Json(text) => {
            has(text)
        }
        PropertyValue::List(texts) if texts.is_empty() => has(""),
        PropertyValue::List(texts) => texts.iter().any(|text| has(text)),
    }
}

/// The property that an event says has another value.
fn changed_property(event: &Event) -> Option<&str> {
    match &event.body {
        EventBody::Object(ObjectEvent {
            change: ObjectChange::PropertyChanged { property_name, .. },
            ..
        })
        | EventBody::Conversation(ConversationEvent {
            change: ConversationChange::PropertyChanged { property_name, .. },
            ..
        }) => Some(property_name),
        _ => None,
    }
}

/// Whether an event is the end of a record, or of those that were merged into another.
fn ends_a_record(event: &Event) -> bool {
    matches!(event.kind(), "deleted" | "privacy_deleted" | "merged")
}
