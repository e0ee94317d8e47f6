//! The command line. One file for each command; what they share is here.
//!
//! Answers go to stdout, everything else to stderr. Exit codes: 0, 1 when something failed, 2 when the
//! command line or the configuration is wrong, 3 when an audit does not add up.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, ConfigError, Role};
use crate::relay::RelayError;

mod audit;
mod config_command;
mod dead;
mod demo;
mod portals;
mod run;
mod schema;
mod simulate;

const RUNTIME_FAILURE: u8 = 1;
const WRONG_CONFIGURATION: u8 = 2;
const DOES_NOT_ADD_UP: u8 = 3;

/// Change data capture for HubSpot: signed webhooks in, complete ordered records out.
#[derive(Parser)]
#[command(name = "crm-relay", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Receives, enriches and delivers, all in one process.
    Run(ConfigArgs),
    /// Only receives: verifies HubSpot's requests and puts their events on the bus. Needs a broker.
    Receiver(ConfigArgs),
    /// Only works: takes events from the bus, reads their records and delivers them. Needs a broker.
    Worker(ConfigArgs),
    /// Shows all of it at once: the relay on the embedded bus, against a simulated HubSpot. Needs nothing.
    Demo(demo::DemoArgs),
    /// A HubSpot on your desk: portals with data, the CRM API with its limits and errors, signed webhooks.
    Simulate(Box<simulate::SimulateArgs>),
    /// Lists, adds, pauses, resumes and removes the portals of portals.folder, and seals their tokens.
    Portals(portals::PortalsCommand),
    /// Lists, shows, replays and discards the dead letters of a relay that runs.
    Dead(dead::DeadCommand),
    /// Adds up how every event ended, for every destination, and where the others are. Fails when one is nowhere.
    Audit(audit::AuditArgs),
    /// Prints the effective configuration as TOML, without secrets, and checks it.
    Config(config_command::ConfigCommand),
    /// Prints or writes the contract with consumers: JSON Schemas of the messages, and AsyncAPI.
    Schema(schema::SchemaArgs),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file. Without one: the defaults. Every key can be set by an environment variable,
    /// `receiver.listen` by `CRM_RELAY__RECEIVER__LISTEN`.
    #[arg(long, short, env = "CRM_RELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, ConfigError> {
        config::load(self.config.as_deref())
    }
}

impl Cli {
    /// Does what the command line asks.
    ///
    /// # Errors
    /// Whatever stopped it; [`exit_code`] tells the code to end with.
    pub async fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(args) => run::execute(&args.load()?, Role::Run).await,
            Command::Receiver(args) => run::execute(&args.load()?, Role::Receiver).await,
            Command::Worker(args) => run::execute(&args.load()?, Role::Worker).await,
            Command::Demo(args) => args.execute().await,
            Command::Simulate(args) => simulate::run(*args).await,
            Command::Portals(command) => command.execute(),
            Command::Dead(command) => command.execute().await,
            Command::Audit(args) => args.execute().await,
            Command::Config(command) => command.execute(),
            Command::Schema(args) => args.execute(),
        }
    }
}

/// The process's exit code for `error`.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_config = error.is::<ConfigError>()
        || matches!(
            error.downcast_ref(),
            Some(RelayError::Config(_) | RelayError::Secret(_))
        );
    ExitCode::from(if is_config {
        WRONG_CONFIGURATION
    } else if error.is::<audit::DoesNotAddUp>() {
        DOES_NOT_ADD_UP
    } else {
        RUNTIME_FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_configuration_has_an_exit_code_of_its_own() {
        let wrong = || ConfigError::NotText("CRM_RELAY__X".to_owned());
        assert_eq!(exit_code(&wrong().into()), ExitCode::from(2));
        assert_eq!(
            exit_code(&RelayError::Config(wrong()).into()),
            ExitCode::from(2)
        );
        assert_eq!(
            exit_code(&anyhow::anyhow!("the disk is full")),
            ExitCode::from(1)
        );
    }
}
