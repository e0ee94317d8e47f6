//! Rules on what faces HubSpot (public URLs, apps) and on the two ports.

use std::net::SocketAddr;

use reqwest::Url;

use super::{Problem, Role, Rule, has_credentials, is_loopback, problem_if};
use crate::config::{AppConfig, Config, SignatureVersion};

pub(super) const RULES: &[Rule] = &[
    a_receiver_has_a_public_url,
    public_urls_can_be_called,
    a_receiver_has_an_app,
    apps_have_secrets,
    apps_have_signatures,
    client_secrets_resolve,
    requests_are_let_in,
    ports_differ,
];

pub(super) const ADVICE: &[Rule] = &[
    public_urls_are_encrypted,
    v1_is_weak,
    somebody_gets_the_metrics,
];

fn a_receiver_has_a_public_url(config: &Config, role: Role) -> Vec<Problem> {
    problem_if(
        role.receives() && config.receiver.public_url.as_slice().is_empty(),
        "receiver.public_url",
        "it is missing; write the URL that the app's settings at HubSpot call, since requests are signed over it",
    )
}

fn public_urls_can_be_called(config: &Config, _: Role) -> Vec<Problem> {
    let urls = config.receiver.public_url.as_slice().iter();
    urls.filter_map(|url| public_url_fault(url))
        .map(|fault| Problem::new("receiver.public_url", fault))
        .collect()
}

fn public_url_fault(text: &str) -> Option<String> {
    let Ok(url) = Url::parse(text) else {
        return Some(
            "it is not a URL; write one such as https://relay.example.com/webhooks/hubspot"
                .to_owned(),
        );
    };
    let fault = match () {
        () if !matches!(url.scheme(), "http" | "https") => {
            "HubSpot calls only http:// and https://"
        }
        () if has_credentials(&url) => {
            "it has a user or password, which HubSpot does not send; leave it out"
        }
        () if url.fragment().is_some() => {
            "it has a fragment (#…), which is never sent; leave it out"
        }
        () if !has_host_and_path(text) => {
            "it lacks a host or a path; write it as the app's settings at HubSpot have it, with at least a `/`"
        }
        () => return None,
    };
    Some(fault.to_owned())
}

/// Asks the text and not the parsed URL: the parser would add a missing path and take the path for a missing
/// host, but what is signed is the text as configured at HubSpot.
fn has_host_and_path(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let before_query = rest.split(['?', '#']).next().unwrap_or_default();
    before_query.find('/').is_some_and(|host_len| host_len > 0)
}

fn a_receiver_has_an_app(config: &Config, role: Role) -> Vec<Problem> {
    problem_if(
        role.receives() && config.app.is_empty(),
        "app",
        "there is none; write a table [app.NAME] with the client_secrets of your HubSpot app",
    )
}

fn apps_have_secrets(config: &Config, _: Role) -> Vec<Problem> {
    each_app(config, |app| {
        app.client_secrets.is_empty().then_some((
            "client_secrets",
            "it is empty; write the app's client secret as env:NAME or file:PATH",
        ))
    })
}

fn apps_have_signatures(config: &Config, _: Role) -> Vec<Problem> {
    each_app(config, |app| {
        app.signatures.is_empty().then_some((
            "signatures",
            "it is empty, so every request would be refused; write [\"v3\"]",
        ))
    })
}

fn each_app(
    config: &Config,
    fault: impl Fn(&AppConfig) -> Option<(&'static str, &'static str)>,
) -> Vec<Problem> {
    let apps = config.app.iter();
    apps.filter_map(|(name, app)| {
        let (key, message) = fault(app)?;
        Some(Problem::new(format!("app.{name}.{key}"), message))
    })
    .collect()
}

fn client_secrets_resolve(config: &Config, role: Role) -> Vec<Problem> {
    // A worker has access tokens from HubSpot by them.
    let needs = |app: &AppConfig| role.receives() || (role.works() && app.client_id.is_some());
    let apps = config.app.iter().filter(|(_, app)| needs(app));
    apps.flat_map(|(name, app)| {
        let secrets = app.client_secrets.iter().enumerate();
        secrets.filter_map(move |(index, secret)| {
            let error = secret.resolve().err()?;
            Some(Problem::new(
                format!("app.{name}.client_secrets[{index}]"),
                error.to_string(),
            ))
        })
    })
    .collect()
}

fn requests_are_let_in(config: &Config, _: Role) -> Vec<Problem> {
    let receiver = &config.receiver;
    let mut problems = problem_if(
        receiver.requests_max == 0,
        "receiver.requests_max",
        "with 0 every request is refused; write at least 1",
    );
    problems.extend(problem_if(
        receiver.body_size_max.as_u64() == 0,
        "receiver.body_size_max",
        "with 0 every request is refused; write a size such as 8 MiB",
    ));
    problems
}

fn ports_differ(config: &Config, role: Role) -> Vec<Problem> {
    let (public, private) = (config.receiver.listen, config.admin.listen);
    problem_if(
        role.receives() && collide(public, private),
        "admin.listen",
        "receiver.listen has the same port; write another, since what HubSpot can reach must not show metrics",
    )
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || everywhere)
}

fn somebody_gets_the_metrics(config: &Config, _: Role) -> Vec<Problem> {
    let admin = &config.admin;
    let for_nobody =
        !admin.listen.ip().is_loopback() && admin.token.is_none() && !admin.open_metrics;
    problem_if(
        for_nobody,
        "admin.token",
        "it is missing, and admin.listen is reached by other machines, so nobody gets /metrics; set it, and have it sent as Authorization: Bearer, or set admin.open_metrics where the network lets only the scraper in",
    )
}

fn public_urls_are_encrypted(config: &Config, role: Role) -> Vec<Problem> {
    let urls = config.receiver.public_url.as_slice().iter();
    let plain = urls
        .filter_map(|url| Url::parse(url).ok())
        .any(|url| url.scheme() == "http" && !is_loopback(&url));
    problem_if(
        role.receives() && plain,
        "receiver.public_url",
        "http:// sends people's data through the Internet in plain text; use https://",
    )
}

fn v1_is_weak(config: &Config, role: Role) -> Vec<Problem> {
    each_app(config, |app| {
        let weak = role.receives() && app.signatures.contains(&SignatureVersion::V1);
        weak.then_some((
            "signatures",
            "v1 covers the body only and never goes stale, so a request can be replayed; use v3 where HubSpot sends it",
        ))
    })
}
