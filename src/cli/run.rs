//! `crm-relay run`, `receiver` and `worker`: start, wait for a signal, stop.

use crate::config::{Config, Role};
use crate::relay::Relay;
use crate::shutdown::Signals;
use crate::telemetry::{self, TelemetryError};

/// Runs `role` until SIGTERM or SIGINT, then stops it in order.
///
/// # Errors
/// What kept it from starting, or from stopping within `shutdown.grace`.
pub(super) async fn execute(config: &Config, role: Role) -> anyhow::Result<()> {
    init_logs(config, role)?;
    let mut signals = Signals::catch()?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?role, "starting");
    let relay = tokio::select! {
        started = Relay::start(config, role) => started?,
        signal = signals.next() => {
            tracing::info!(signal, "asked to stop before the start was done");
            return Ok(());
        }
    };
    let signal = signals.next().await;
    tracing::info!(signal, "stopping; a second signal ends the process at once");
    tokio::select! {
        stopped = relay.stop() => stopped?,
        signal = signals.next() => give_up(signal),
    }
    tracing::info!("stopped");
    Ok(())
}

/// A wrong filter is told together with whatever else is wrong.
fn init_logs(config: &Config, role: Role) -> anyhow::Result<()> {
    match telemetry::init(&config.log) {
        Err(error @ TelemetryError::Filter(_)) => {
            config.check(role)?;
            Err(error.into())
        }
        other => Ok(other?),
    }
}

/// Whoever asks twice has no patience left: no destructors, no flushing.
fn give_up(signal: &'static str) -> ! {
    tracing::error!(
        signal,
        "asked again; ending at once, what was not settled comes again"
    );
    std::process::exit(super::RUNTIME_FAILURE.into())
}
