//! The command line's entry: TLS provider, arguments, runtime, exit code.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use crm_relay::cli::{Cli, exit_code};

/// How long threads that still block may take once everything was stopped.
const RUNTIME_STOP_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing has installed a TLS provider before main");
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr().lock(), "crm-relay: {error:#}");
            exit_code(&error)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(cli.execute());
    // A part that was left behind must not hold up the exit.
    runtime.shutdown_timeout(RUNTIME_STOP_MAX);
    result
}
