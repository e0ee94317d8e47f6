//! A HubSpot on your desk: seeded portals, the CRM endpoints one reads and writes them by, HubSpot's limits and errors,
//! and signed webhooks with HubSpot's real misbehaviour as dials.
//!
//! It follows HubSpot's OpenAPI files and what was observed live, and shares no code with the client and the
//! receiver that are tested against it. Everything lives in memory and ends with the process.
//!
//! ```text
//! REST call ─▶ server (token, limit, latency, fault) ─▶ rest (pure) ─┐
//! control ───────────────────────────────────────────▶ state (pure) ─▶ facts ─▶ notification ─▶ outbox ─▶ delivery ─▶ target
//! traffic ──────────────────────────────────────────────▲
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::event::Millis;

mod change;
mod control;
mod control_http;
mod control_inbox;
mod control_settings;
mod definitions;
mod delivery;
mod edges;
mod files;
mod inbox;
mod limits;
mod merge;
mod notification;
mod oauth;
mod options;
mod outbox;
mod portal;
mod random;
mod record;
mod rest;
mod seed;
mod server;
mod signature;
mod state;
mod traffic;
mod types;
mod values;
mod words;

pub use control::{Control, ControlError, IMPORT_MAX};
pub use control_settings::Counters;
pub use options::{
    Dials, Fault, Faults, HANG_MAX, Latency, Limits, NextFault, OAuthOptions, PortalOptions,
    RandomFault, Signatures, SimulatorOptions, Subscriptions, WebhookOptions,
};
pub use outbox::{ACKNOWLEDGED_MAX, Acknowledged, NotificationCounts};

use portal::Shared;

/// How long a stop waits for each task.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A running simulator. Dropping it stops it without waiting; [`Simulator::stop`] waits.
pub struct Simulator {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: actix_web::dev::ServerHandle,
    tasks: Vec<JoinHandle<()>>,
}

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulatorError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Two portals have the same id or token: a token must say which portal it is for.
    #[error("portal {0} has the id or the access token of another portal; give each its own")]
    SamePortal(u64),
    /// The HTTP client for deliveries cannot be made.
    #[error("cannot make an HTTP client for deliveries: {0}")]
    Client(reqwest::Error),
}

impl Simulator {
    /// Starts to listen and to deliver. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`SimulatorError`].
    pub async fn start(options: SimulatorOptions) -> Result<Self, SimulatorError> {
        check(&options)?;
        // Fails only when a provider is installed already, which is as good.
        _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        let client = client.map_err(SimulatorError::Client)?;
        let listen = |source| SimulatorError::Listen {
            address: options.listen,
            source,
        };
        let listener = std::net::TcpListener::bind(options.listen).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let shared = Arc::new(Shared::new(options.clone(), Millis::now()));
        let server = server::serve(Arc::clone(&shared), listener).map_err(listen)?;
        let handle = server.handle();
        let mut tasks: Vec<JoinHandle<()>> = (0..shared.portals.len())
            .map(|index| {
                tokio::spawn(delivery::dispatch(
                    Arc::clone(&shared),
                    index,
                    client.clone(),
                ))
            })
            .collect();
        tasks.push(tokio::spawn(traffic::generate(Arc::clone(&shared))));
        tasks.push(tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the simulator's server ended");
            }
        }));
        Ok(Self {
            shared,
            address,
            server: handle,
            tasks,
        })
    }

    /// Where the REST and the control API are: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A handle to steer it by and to read back from.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// Sets or changes where notifications go; those that wait go there too.
    pub fn set_webhook(&self, webhook: WebhookOptions) {
        self.control().set_webhook(Some(webhook));
    }

    /// Stops deliveries and the server. What was not delivered is gone.
    pub async fn stop(mut self) {
        self.shared.stopping.cancel();
        self.server.stop(false).await;
        for task in std::mem::take(&mut self.tasks) {
            // A task that panicked or hangs must not keep the caller.
            _ = tokio::time::timeout(STOP_MAX, task).await;
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shared.stopping.cancel();
        drop(self.server.stop(false));
    }
}

fn check(options: &SimulatorOptions) -> Result<(), SimulatorError> {
    for (index, portal) in options.portals.iter().enumerate() {
        let same = |other: &PortalOptions| {
            other.id == portal.id || other.access_token == portal.access_token
        };
        if options.portals[..index].iter().any(same) {
            return Err(SimulatorError::SamePortal(portal.id));
        }
    }
    Ok(())
}
