//! Rules on TLS: that its files are of use, and that what should be encrypted is.

use reqwest::Url;
use secrecy::ExposeSecret as _;

use super::{Problem, Role, Rule, is_loopback, problem_if};
use crate::config::{ClientTlsConfig, Config};
use crate::tls::{ServerCertificate, TlsError, client_config};

pub(super) const RULES: &[Rule] = &[
    the_brokers_tls_is_of_use,
    hubspots_tls_is_of_use,
    the_receivers_certificate_is_of_use,
];

pub(super) const ADVICE: &[Rule] = &[the_broker_is_talked_to_by_tls];

fn the_brokers_tls_is_of_use(config: &Config, _: Role) -> Vec<Problem> {
    let encrypted = broker_url(config).is_some_and(|url| url.scheme() == "amqps");
    client_problems(
        "bus",
        &config.bus.tls,
        encrypted,
        "bus.url is none of amqps://",
    )
}

fn hubspots_tls_is_of_use(config: &Config, role: Role) -> Vec<Problem> {
    if !role.works() {
        return Vec::new();
    }
    let encrypted = config.hubspot.base_url.starts_with("https:");
    let plain = "hubspot.base_url is none of https://";
    client_problems("hubspot", &config.hubspot.tls, encrypted, plain)
}

fn client_problems(
    section: &str,
    tls: &ClientTlsConfig,
    encrypted: bool,
    plain: &str,
) -> Vec<Problem> {
    if tls.is_default() {
        return Vec::new();
    }
    if !encrypted {
        let message = format!(
            "{plain}, so nothing would come of it; leave the table out, or write such a URL"
        );
        return vec![Problem::new(format!("{section}.tls"), message)];
    }
    problem_of(section, client_config(tls).err())
}

fn the_receivers_certificate_is_of_use(config: &Config, role: Role) -> Vec<Problem> {
    let tls = config.receiver.tls.as_ref().filter(|_| role.receives());
    problem_of(
        "receiver",
        tls.and_then(|tls| ServerCertificate::load(tls).err()),
    )
}

fn problem_of(section: &str, error: Option<TlsError>) -> Vec<Problem> {
    error
        .map(|error| Problem::new(format!("{section}.tls.{}", error.key()), error.to_string()))
        .into_iter()
        .collect()
}

fn the_broker_is_talked_to_by_tls(config: &Config, _: Role) -> Vec<Problem> {
    let plain = broker_url(config).is_some_and(|url| url.scheme() == "amqp" && !is_loopback(&url));
    problem_if(
        plain,
        "bus.url",
        "amqp:// sends the password and people's data in plain text; use amqps:// unless the network is encrypted by other means",
    )
}

/// The broker's URL, if it is one.
fn broker_url(config: &Config) -> Option<Url> {
    let url = config.bus.url.as_ref()?.resolve().ok()?;
    Url::parse(url.expose_secret()).ok()
}
