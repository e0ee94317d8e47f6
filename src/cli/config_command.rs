//! `crm-relay config`: what the settings come to, once file, environment and defaults are put together.

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::ConfigArgs;
use crate::config::{Config, ConfigError, Role};

/// The arguments of `crm-relay config`.
#[derive(Debug, Args)]
pub(super) struct ConfigCommand {
    #[command(flatten)]
    config: ConfigArgs,
    /// What to check it for.
    #[arg(long, value_enum, default_value_t = CheckFor::Run)]
    role: CheckFor,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CheckFor {
    Run,
    Receiver,
    Worker,
}

impl From<CheckFor> for Role {
    fn from(role: CheckFor) -> Self {
        match role {
            CheckFor::Run => Self::Run,
            CheckFor::Receiver => Self::Receiver,
            CheckFor::Worker => Self::Worker,
        }
    }
}

impl ConfigCommand {
    /// Prints the configuration, even one that cannot run, then says what is wrong with it.
    pub(super) fn execute(&self) -> anyhow::Result<()> {
        let config = self.config.load()?;
        std::io::stdout()
            .lock()
            .write_all(effective(&config)?.as_bytes())
            .context("the configuration cannot be printed")?;
        self.check(&config)
    }

    fn check(&self, config: &Config) -> anyhow::Result<()> {
        let role = Role::from(self.role);
        let report = config.report(role);
        for warning in report.warnings {
            writeln!(std::io::stderr().lock(), "warning: {warning}")?;
        }
        match report.problems {
            problems if problems.is_empty() => Ok(()),
            problems => Err(ConfigError::Invalid { role, problems }.into()),
        }
    }
}

/// `config` as TOML, secrets redacted; of the broker's URL the password and the query alone are left out.
fn effective(config: &Config) -> anyhow::Result<String> {
    let mut table =
        toml::Table::try_from(config).context("the configuration cannot be written as TOML")?;
    let bus = table.get_mut("bus").and_then(toml::Value::as_table_mut);
    if let (Some(bus), Some(url)) = (bus, &config.bus.url) {
        bus.insert("url".to_owned(), url.redacted_url().into());
    }
    toml::to_string_pretty(&table).context("the configuration cannot be written as TOML")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn the_effective_configuration_shows_the_broker_but_no_secret() {
        let mut config = Config::default();
        config.bus.url = Some(Secret::new("amqp://guest:hunter2@localhost/%2f"));
        let portal = toml::from_str("access_token = 'hunter2'").unwrap();
        config.portal.insert("8241".to_owned(), portal);
        let app = toml::from_str("client_secrets = ['hunter2', 'env:NEXT']").unwrap();
        config.app.insert("main".to_owned(), app);
        let text = effective(&config).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(
            text.contains("amqp://guest:[redacted]@localhost/%2f"),
            "{text}"
        );
        assert!(text.contains("env:NEXT"), "{text}");
    }

    #[test]
    fn the_effective_configuration_loads_again() {
        let text = effective(&Config::default()).unwrap();
        let again: Config = toml::from_str(&text).unwrap();
        assert_eq!(effective(&again).unwrap(), text);
    }
}
