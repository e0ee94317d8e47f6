//! Whether the settings make sense together, for what is to run. Everything wrong is told at once.
//!
//! A rule is a small function that returns what it finds; [`RULES`] refuse, [`ADVICE`] only warns.

use std::fmt;

use super::{Config, ConfigError};

mod broker;
mod destination;
mod portals;
mod public;
mod tls;
mod work;

/// Which part of the program the configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receiver and worker in one process.
    Run,
    /// The receiver alone.
    Receiver,
    /// The worker alone.
    Worker,
}

impl Role {
    /// Whether HubSpot's requests are received.
    #[must_use]
    pub fn receives(self) -> bool {
        self != Self::Worker
    }

    /// Whether events are enriched and delivered.
    #[must_use]
    pub fn works(self) -> bool {
        self != Self::Receiver
    }
}

/// The subcommand that runs it.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "run",
            Self::Receiver => "run a receiver",
            Self::Worker => "run a worker",
        })
    }
}

/// Something about one setting that is wrong, or risky.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting's dotted path: `destination.billing.path`.
    pub key: String,
    /// What is wrong and what to do, without any secret's value.
    pub message: String,
}

impl Problem {
    fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// What all rules found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// With these nothing starts.
    pub problems: Vec<Problem>,
    /// These are to be known, and may be meant.
    pub warnings: Vec<Problem>,
}

type Rule = fn(&Config, Role) -> Vec<Problem>;

const RULES: &[&[Rule]] = &[
    public::RULES,
    broker::RULES,
    work::RULES,
    destination::RULES,
    portals::RULES,
    tls::RULES,
];
const ADVICE: &[&[Rule]] = &[public::ADVICE, work::ADVICE, portals::ADVICE, tls::ADVICE];

impl Config {
    /// What is wrong or risky about this configuration for `role`. Reads the environment and files that
    /// secrets refer to.
    #[must_use]
    pub fn report(&self, role: Role) -> Report {
        Report {
            problems: self.apply(RULES, role),
            warnings: self.apply(ADVICE, role),
        }
    }

    /// The warnings of [`Self::report`].
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all problems, when there are any.
    pub fn check(&self, role: Role) -> Result<Vec<Problem>, ConfigError> {
        match self.report(role) {
            Report { problems, warnings } if problems.is_empty() => Ok(warnings),
            Report { problems, .. } => Err(ConfigError::Invalid { role, problems }),
        }
    }

    fn apply(&self, rules: &[&[Rule]], role: Role) -> Vec<Problem> {
        let rules = rules.iter().copied().flatten();
        rules.flat_map(|rule| rule(self, role)).collect()
    }
}

/// One problem when `wrong`, else none.
fn problem_if(wrong: bool, key: &str, message: &str) -> Vec<Problem> {
    if wrong {
        vec![Problem::new(key, message)]
    } else {
        Vec::new()
    }
}

/// Whether `url` stays on this machine: then plain text is nobody's business.
fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_matches(['[', ']']);
    let is_address = bare
        .parse::<std::net::IpAddr>()
        .is_ok_and(|ip| ip.is_loopback());
    host == "localhost" || host.ends_with(".localhost") || is_address
}

/// What is wrong with a URL that carries a user or a password, which would be shown and logged.
fn has_credentials(url: &reqwest::Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}
