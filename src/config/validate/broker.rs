//! Rules on the bus, on stopping and on logs.

use std::time::Duration;

use reqwest::Url;
use secrecy::ExposeSecret as _;

use super::{Problem, Role, Rule, problem_if};
use crate::config::Config;
use crate::telemetry;

/// The most partitions: each is a queue with a log of its own at the broker.
const PARTITIONS_MAX: u16 = 1_024;
/// HubSpot gives a request up after this long.
const HUBSPOT_TIMEOUT: Duration = Duration::from_secs(5);
/// The smallest spool: the largest message several times, since a file of it goes as a whole.
const SPOOL_BYTES_MIN: u64 = 32 * 1024 * 1024;
/// The longest name of a destination and the longest prefix. Queue names have at most 255 bytes.
pub(super) const NAME_BYTES_MAX: usize = 64;

pub(super) const RULES: &[Rule] = &[
    broker_url_is_amqp,
    roles_apart_share_a_broker,
    prefix_is_a_name,
    partitions_are_bounded,
    publishes_end_before_hubspot_gives_up,
    stopping_leaves_time_to_publish,
    a_spool_stands_before_a_broker,
    a_spool_has_room,
    log_filter_is_understood,
];

fn broker_url_is_amqp(config: &Config, _: Role) -> Vec<Problem> {
    let Some(secret) = &config.bus.url else {
        return Vec::new();
    };
    match secret.resolve() {
        Ok(url) => problem_if(
            !is_amqp(url.expose_secret()),
            "bus.url",
            "it is not a broker's URL; write amqp://user:password@host:5672/vhost or amqps://… (special characters in user, password and vhost as %XX), or leave it out for the embedded bus",
        ),
        Err(error) => vec![Problem::new(
            "bus.url",
            format!("{error}; leave it out for the embedded bus"),
        )],
    }
}

fn is_amqp(url: &str) -> bool {
    let url = Url::parse(url).ok();
    url.is_some_and(|url| matches!(url.scheme(), "amqp" | "amqps") && url.has_host())
}

fn roles_apart_share_a_broker(config: &Config, role: Role) -> Vec<Problem> {
    problem_if(
        role != Role::Run && config.bus.url.is_none(),
        "bus.url",
        "it is missing; receiver and worker apart meet at a broker, since one process alone can open the embedded bus (`crm-relay run` needs no broker)",
    )
}

fn prefix_is_a_name(config: &Config, _: Role) -> Vec<Problem> {
    problem_if(
        !is_name(&config.bus.prefix),
        "bus.prefix",
        "write 1 to 64 lower-case letters, digits, `_` or `-`: it begins the names of queues",
    )
}

/// `[a-z0-9_-]{1,64}`
pub(super) fn is_name(text: &str) -> bool {
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
    fits && text
        .bytes()
        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

fn partitions_are_bounded(config: &Config, _: Role) -> Vec<Problem> {
    problem_if(
        !(1..=PARTITIONS_MAX).contains(&config.bus.partitions),
        "bus.partitions",
        "write a number from 1 to 1024; each is a queue of its own",
    )
}

fn publishes_end_before_hubspot_gives_up(config: &Config, _: Role) -> Vec<Problem> {
    let timeout = config.bus.publish_timeout;
    problem_if(
        timeout.is_zero() || timeout >= HUBSPOT_TIMEOUT,
        "bus.publish_timeout",
        "write more than 0s and less than 5s: HubSpot gives a request up after 5 s and must have our answer by then",
    )
}

fn stopping_leaves_time_to_publish(config: &Config, _: Role) -> Vec<Problem> {
    problem_if(
        config.shutdown.grace
            < config
                .shutdown
                .delay
                .saturating_add(config.bus.publish_timeout),
        "shutdown.grace",
        "it is shorter than shutdown.delay and bus.publish_timeout together, so requests could be cut off while they are stored; write a longer one, such as 25s",
    )
}

fn a_spool_stands_before_a_broker(config: &Config, role: Role) -> Vec<Problem> {
    let fault = match &config.spool.folder {
        None => return Vec::new(),
        Some(folder) if folder.as_os_str().is_empty() => {
            "it is empty; write a folder on a disk that outlives the process, or leave it out"
        }
        Some(_) if !role.receives() => {
            "a worker receives nothing that could be spooled; set it for receivers alone, by CRM_RELAY__SPOOL__FOLDER where they share a file with workers"
        }
        Some(_) if config.bus.url.is_none() => {
            "there is no broker that could be away: the embedded bus stores on this disk already; leave it out, or set bus.url"
        }
        Some(_) => return Vec::new(),
    };
    vec![Problem::new("spool.folder", fault)]
}

fn a_spool_has_room(config: &Config, _: Role) -> Vec<Problem> {
    problem_if(
        config.spool.bytes_max.as_u64() < SPOOL_BYTES_MIN,
        "spool.bytes_max",
        "write at least 32 MiB, since a single message may have 8 MiB; HubSpot is answered 503 when it is full",
    )
}

fn log_filter_is_understood(config: &Config, _: Role) -> Vec<Problem> {
    let fault = telemetry::filter(&config.log).err();
    fault
        .map(|error| Problem::new("log.filter", error.to_string()))
        .into_iter()
        .collect()
}
