//! Rules on the worker's side: HubSpot's API, portals, what to read and where it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use super::broker::is_name;
use super::{Problem, Role, Rule, has_credentials, is_loopback, problem_if};
use crate::config::{Config, DestinationConfig, DestinationKind};
use crate::event::{CONVERSATION, ObjectTypeId, StandardObjectType};

/// Where lines go to stdout instead of a file.
const STDOUT: &str = "-";
/// Reads everything.
const EVERY_PROPERTY: &str = "*";

pub(super) const RULES: &[Rule] = &[
    base_url_can_carry_tokens,
    api_version_is_known,
    calls_have_time,
    budget_share_is_a_part,
    prefetch_is_not_zero,
    types_are_named_once,
    associations_are_listed_once,
    properties_are_all_or_listed,
    threads_are_of_conversations,
    attachments_are_of_engagements,
    external_ids_are_named_once,
    external_ids_are_names,
    sensitivity_levels_are_listed_once,
    destinations_have_names,
    queues_have_a_broker,
    settings_fit_the_kind,
    queues_can_hold_something,
    destinations_match_something,
    files_have_one_writer,
];

pub(super) const ADVICE: &[Rule] = &[a_worker_has_destinations, types_look_like_types];

fn base_url_can_carry_tokens(config: &Config, _: Role) -> Vec<Problem> {
    let fault = match Url::parse(&config.hubspot.base_url) {
        Ok(url) if has_credentials(&url) => "it has a user or password; tokens go to [portal.ID]",
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            "leave out what begins with `?` or `#`"
        }
        Ok(url) if url.scheme() == "https" => return Vec::new(),
        Ok(url) if url.scheme() == "http" && is_loopback(&url) => return Vec::new(),
        Ok(url) if url.scheme() == "http" => {
            "http:// would send access tokens in plain text; only a loopback host may have it (a simulator), so write https://"
        }
        _ => "it is not a URL; write https://api.hubapi.com",
    };
    vec![Problem::new("hubspot.base_url", fault)]
}

fn api_version_is_known(config: &Config, _: Role) -> Vec<Problem> {
    let version = config.hubspot.api_version.as_str();
    problem_if(
        version != "v3" && !is_year_and_month(version),
        "hubspot.api_version",
        "write v3, or a date of HubSpot's such as 2026-09",
    )
}

fn is_year_and_month(text: &str) -> bool {
    let digits = |part: &str, len| part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
    text.split_once('-').is_some_and(|(year, month)| {
        digits(year, 4) && digits(month, 2) && matches!(month.parse(), Ok(1..=12))
    })
}

fn calls_have_time(config: &Config, _: Role) -> Vec<Problem> {
    problem_if(
        config.hubspot.timeout == Duration::ZERO,
        "hubspot.timeout",
        "with 0s every call fails; write a duration such as 30s",
    )
}

fn budget_share_is_a_part(config: &Config, _: Role) -> Vec<Problem> {
    let share = config.hubspot.budget_share;
    problem_if(
        !(share > 0.0 && share <= 1.0),
        "hubspot.budget_share",
        "write the part of HubSpot's limits that the relay may use: over 0 and up to 1, such as 0.8",
    )
}

fn prefetch_is_not_zero(config: &Config, _: Role) -> Vec<Problem> {
    problem_if(
        config.worker.prefetch == 0,
        "worker.prefetch",
        "0 means no bound to a broker, and memory has one; write a number such as 200",
    )
}

fn types_are_named_once(config: &Config, _: Role) -> Vec<Problem> {
    repeats(config.enrich.keys())
        .into_iter()
        .map(|(first, again)| {
            let message =
                format!("enrich.{first} is the same object type; write one table for both");
            Problem::new(format!("enrich.{again}"), message)
        })
        .collect()
}

fn associations_are_listed_once(config: &Config, _: Role) -> Vec<Problem> {
    let types = config.enrich.iter();
    types
        .flat_map(|(name, enrich)| {
            repeats(enrich.associations.iter().flatten())
                .into_iter()
                .map(move |(first, again)| {
                    let message =
                        format!("`{first}` and `{again}` are the same object type; leave one out");
                    Problem::new(format!("enrich.{name}.associations"), message)
                })
        })
        .collect()
}

/// Names that stand for a type which an earlier name stands for: (the earlier, the later).
fn repeats<'n>(names: impl Iterator<Item = &'n String>) -> Vec<(&'n String, &'n String)> {
    let mut seen = BTreeMap::new();
    names
        .filter_map(|name| {
            let first = *seen.entry(ObjectTypeId::from_name(name)).or_insert(name);
            (!std::ptr::eq(first, name)).then_some((first, name))
        })
        .collect()
}

fn properties_are_all_or_listed(config: &Config, _: Role) -> Vec<Problem> {
    let mixed = config.enrich.iter().filter(|(_, enrich)| {
        let names = enrich.properties.as_deref().unwrap_or_default();
        names.len() > 1 && names.iter().any(|name| name == EVERY_PROPERTY)
    });
    mixed
        .map(|(name, _)| {
            let message = "`*` already means every property; write [\"*\"] alone, or names alone";
            Problem::new(format!("enrich.{name}.properties"), message)
        })
        .collect()
}

fn threads_are_of_conversations(config: &Config, _: Role) -> Vec<Problem> {
    let tables = config.enrich.iter();
    tables
        .filter_map(|(name, enrich)| {
            let (key, message) = match name == CONVERSATION {
                true if enrich.properties.is_some() => {
                    ("properties", "a thread has none; leave it out")
                }
                true if enrich.associations.is_some() => (
                    "associations",
                    "a thread names its contact and ticket itself; leave it out",
                ),
                true if enrich.attachments.is_some() => {
                    ("attachments", "only engagements have them; leave it out")
                }
                false if enrich.thread => (
                    "thread",
                    "only `enrich.conversation` has threads; write it there",
                ),
                _ => return None,
            };
            Some(Problem::new(format!("enrich.{name}.{key}"), message))
        })
        .collect()
}

fn external_ids_are_named_once(config: &Config, _: Role) -> Vec<Problem> {
    let portals = config.portal.iter();
    portals
        .flat_map(|(id, portal)| {
            let again = repeats(portal.external_id.keys());
            again.into_iter().map(move |(first, again)| {
                let message =
                    format!("`{first}` and `{again}` are the same object type; leave one out");
                Problem::new(format!("portal.{id}.external_id"), message)
            })
        })
        .collect()
}

fn attachments_are_of_engagements(config: &Config, _: Role) -> Vec<Problem> {
    let wrong = config.enrich.iter().filter(|(name, enrich)| {
        let standard = ObjectTypeId::from_name(name).standard();
        enrich.attachments.is_some()
            && standard.is_some_and(|of| !StandardObjectType::is_engagement(of))
    });
    wrong
        .map(|(name, _)| {
            let message = "only engagements have attachments: call, communication, email, meeting, note, postal_mail, task; leave it out";
            Problem::new(format!("enrich.{name}.attachments"), message)
        })
        .collect()
}

fn external_ids_are_names(config: &Config, _: Role) -> Vec<Problem> {
    let of_types = config.enrich.iter().filter_map(|(name, enrich)| {
        Some((
            format!("enrich.{name}.external_id"),
            enrich.external_id.as_ref()?,
        ))
    });
    let of_portals = config.portal.iter().flat_map(|(id, portal)| {
        let named = portal.external_id.iter();
        named.map(move |(name, property)| (format!("portal.{id}.external_id.{name}"), property))
    });
    of_types
        .chain(of_portals)
        .filter(|(_, property)| !is_property_name(property))
        .map(|(key, _)| {
            let message = "write a property's internal name: lower-case letters, digits and `_`, such as customer_number";
            Problem::new(key, message)
        })
        .collect()
}

/// HubSpot's internal names are of these characters.
fn is_property_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.bytes().all(is_part)
}

fn sensitivity_levels_are_listed_once(config: &Config, _: Role) -> Vec<Problem> {
    let repeated = config.enrich.iter().filter(|(_, enrich)| {
        let levels: BTreeSet<_> = enrich.sensitivity.iter().collect();
        levels.len() < enrich.sensitivity.len()
    });
    repeated
        .map(|(name, _)| {
            let message = "a level stands there twice; leave one out";
            Problem::new(format!("enrich.{name}.sensitivity"), message)
        })
        .collect()
}

fn destinations_have_names(config: &Config, _: Role) -> Vec<Problem> {
    let wrong = config.destination.keys().filter(|name| !is_name(name));
    wrong
        .map(|name| {
            let message = "a destination's name has 1 to 64 lower-case letters, digits, `_` or `-`; it ends the name of a queue";
            Problem::new(format!("destination.{name}"), message)
        })
        .collect()
}

fn queues_have_a_broker(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| {
        let homeless = destination.kind == DestinationKind::Queue && config.bus.url.is_none();
        homeless.then_some((
            "kind",
            "a queue needs a broker; set bus.url, or write kind = \"ndjson\" and a path",
        ))
    })
}

fn settings_fit_the_kind(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| match destination.kind {
        DestinationKind::Queue if destination.path.is_some() => Some((
            "path",
            "a queue has none; leave it out, or write kind = \"ndjson\"",
        )),
        DestinationKind::Ndjson if destination.path.as_deref().is_none_or(is_empty) => Some((
            "path",
            "it is missing; write the file to append to, or \"-\" for stdout",
        )),
        DestinationKind::Ndjson if destination.max_length_bytes.is_some() => {
            Some(("max_length_bytes", "only queues have it; leave it out"))
        }
        _ => None,
    })
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

fn queues_can_hold_something(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| {
        let nothing = destination
            .max_length_bytes
            .is_some_and(|size| size.as_u64() == 0);
        nothing.then_some((
            "max_length_bytes",
            "with 0 every copy is refused; write a size such as 1 GiB",
        ))
    })
}

fn destinations_match_something(config: &Config, _: Role) -> Vec<Problem> {
    each_destination(config, |destination| {
        let nothing = destination.patterns.is_empty();
        nothing.then_some((
            "match",
            "it is empty, so nothing would arrive; leave it out for everything",
        ))
    })
}

/// What `fault` finds wrong with each destination: the key within its table, and what to do.
pub(super) fn each_destination(
    config: &Config,
    fault: impl Fn(&DestinationConfig) -> Option<(&'static str, &'static str)>,
) -> Vec<Problem> {
    let destinations = config.destination.iter();
    destinations
        .filter_map(|(name, destination)| {
            let (key, message) = fault(destination)?;
            Some(Problem::new(format!("destination.{name}.{key}"), message))
        })
        .collect()
}

fn files_have_one_writer(config: &Config, _: Role) -> Vec<Problem> {
    let mut writers: BTreeMap<PathBuf, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, destination) in &config.destination {
        let Some(path) = destination.path.as_deref().filter(|path| !is_empty(path)) else {
            continue;
        };
        let first = *writers.entry(plain(path)).or_insert(name);
        if first != name {
            let message = format!(
                "destination.{first} writes the same file, and their lines could mix; write another"
            );
            problems.push(Problem::new(format!("destination.{name}.path"), message));
        }
    }
    problems
}

/// The path from the root, without `.` and with links followed where the folder exists.
fn plain(path: &Path) -> PathBuf {
    if path == Path::new(STDOUT) {
        return path.to_owned();
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (
        absolute.parent().map(Path::canonicalize),
        absolute.file_name(),
    ) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => absolute,
    }
}

fn a_worker_has_destinations(config: &Config, role: Role) -> Vec<Problem> {
    let bus = &config.bus;
    let enriched = bus
        .enriched_topic
        .as_ref()
        .is_none_or(|all| !all.is_empty());
    let plain = bus.events_topic.as_ref().is_some_and(|all| !all.is_empty());
    let has_topics = bus.url.is_some() && (enriched || plain);
    problem_if(
        role.works() && config.destination.is_empty() && !has_topics,
        "destination",
        "there is none, so events go nowhere; write a table [destination.NAME]",
    )
}

/// A type that HubSpot adds tomorrow must work today, so an unknown name is only remarked on.
fn types_look_like_types(config: &Config, _: Role) -> Vec<Problem> {
    const MESSAGE: &str = "is no object type we know; if it is no slip, all is well; else write one such as contact, or a custom object's id (2-1234567) or name (p8241_car, or p_car in every portal)";
    let tables = config.enrich.iter().flat_map(|(name, enrich)| {
        let listed = enrich
            .associations
            .iter()
            .flatten()
            .map(move |other| (format!("enrich.{name}.associations"), other));
        std::iter::once((format!("enrich.{name}"), name)).chain(listed)
    });
    let of_portals = config.portal.iter().flat_map(|(id, portal)| {
        let named = portal.external_id.keys();
        named.map(move |name| (format!("portal.{id}.external_id.{name}"), name))
    });
    tables
        .chain(of_portals)
        .filter(|(_, name)| !looks_like_a_type(name))
        .map(|(key, name)| Problem::new(key, format!("`{name}` {MESSAGE}")))
        .collect()
}

/// One of HubSpot's own, an id (`2-1234567`), a custom object's name (`p8241_car`, `p_car`), or `conversation`.
fn looks_like_a_type(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_id = name
        .split_once('-')
        .is_some_and(|(kind, id)| digits(kind) && digits(id));
    let of = ObjectTypeId::from_name(name);
    is_id || of.custom_name().is_some() || of.standard().is_some() || name == CONVERSATION
}
