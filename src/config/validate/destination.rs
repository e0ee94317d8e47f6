//! Rules on what destinations and topic exchanges ask for: filters, parts and format.

use super::work::each_destination;
use super::{Problem, Role, Rule, problem_if};
use crate::config::{
    Config, DestinationContent, DestinationFormat, DestinationKind, DestinationPart,
};

/// Before a change source that is left out.
const NOT: char = '!';

pub(super) const RULES: &[Rule] = &[
    portals_are_named,
    changed_properties_are_named,
    change_sources_are_of_one_kind,
    values_are_listed,
    plain_events_have_no_record,
    parts_are_listed_once,
    properties_are_shown,
    binary_needs_headers,
    topics_have_a_broker,
];

fn portals_are_named(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| {
        let portals = destination.portals.as_ref()?;
        let is_id = |id: &String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        let wrong = portals.is_empty() || !portals.iter().all(is_id);
        wrong.then_some((
            "portals",
            "write the ids of portals, such as [\"8241\"], or leave it out for all",
        ))
    })
}

fn changed_properties_are_named(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| {
        is_empty_or_has_empty(destination.changed.as_deref()?).then_some((
            "changed",
            "write internal names of properties, or leave it out for all",
        ))
    })
}

fn change_sources_are_of_one_kind(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| {
        let sources = destination.change_sources.as_deref()?;
        let excepted = sources.iter().filter(|source| source.starts_with(NOT));
        let mixed = ![0, sources.len()].contains(&excepted.count());
        let nameless = sources.iter().any(|source| source == "!");
        (mixed || nameless || is_empty_or_has_empty(sources)).then_some((
            "change_sources",
            "write either those that pass, such as [\"CRM_UI\"], or those that do not, each with a `!`, such as [\"!IMPORT\"]; leave it out for all",
        ))
    })
}

fn values_are_listed(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| {
        let mut values = destination.values.iter();
        let wrong = values.any(|(name, values)| name.is_empty() || values.is_empty());
        wrong.then_some((
            "where",
            "a property without values lets nothing pass; write where = { lifecyclestage = [\"customer\"] }",
        ))
    })
}

fn plain_events_have_no_record(config: &Config, _: Role) -> Vec<Problem> {
    const MESSAGE: &str = "content = \"event\" sends events without a record; leave it out, or write content = \"enriched\"";
    each_destination(config, |destination| {
        let is_plain = destination.content == DestinationContent::Event;
        let key = match () {
            () if !is_plain => return None,
            () if !destination.values.is_empty() => "where",
            () if destination.parts.is_some() => "parts",
            () if destination.properties.is_some() => "properties",
            () => return None,
        };
        Some((key, MESSAGE))
    })
}

fn parts_are_listed_once(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| {
        let parts = destination.parts.as_deref()?;
        let mut once = parts.to_vec();
        once.sort();
        once.dedup();
        (parts.is_empty() || once.len() < parts.len()).then_some((
            "parts",
            "write each part once, of record, owners, associations and pipeline; for events alone write content = \"event\"",
        ))
    })
}

fn properties_are_shown(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| {
        let properties = destination.properties.as_deref()?;
        let parts = destination.parts.as_deref();
        let shows_record = parts.is_none_or(|parts| parts.contains(&DestinationPart::Record));
        let message = if !shows_record {
            "they are part of the record, which parts leaves out; add \"record\" there, or leave it out"
        } else if is_empty_or_has_empty(properties) || properties.iter().any(|name| name == "*") {
            "write internal names of properties, or leave it out for all that are read"
        } else {
            return None;
        };
        Some(("properties", message))
    })
}

fn binary_needs_headers(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| {
        let wrong = destination.format == DestinationFormat::Binary
            && destination.kind != DestinationKind::Queue;
        wrong.then_some((
            "format",
            "a line of JSON has no headers; leave it out, or write kind = \"queue\"",
        ))
    })
}

fn topics_have_a_broker(config: &Config, _: Role) -> Vec<Problem> {
    let bus = &config.bus;
    [
        ("bus.enriched_topic", &bus.enriched_topic),
        ("bus.events_topic", &bus.events_topic),
    ]
    .into_iter()
    .flat_map(|(key, patterns)| {
        let homeless = bus.url.is_none() && patterns.as_ref().is_some_and(|all| !all.is_empty());
        problem_if(
            homeless,
            key,
            "a topic exchange needs a broker; set bus.url, or leave it out",
        )
    })
    .collect()
}

fn is_empty_or_has_empty(names: &[String]) -> bool {
    names.is_empty() || names.iter().any(String::is_empty)
}
