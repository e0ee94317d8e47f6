//! The public side: takes HubSpot's webhooks and answers once their events are durable.
//!
//! The way of a request stands in `intake`, from first to last; the steps are elsewhere:
//! [`crate::ingress`] verifies, [`crate::normalize`] makes events, `outbox` makes messages, the bus keeps
//! them (or, while it is away, the spool, where there is one), `outcome` answers.
//!
//! | what comes | answer |
//! |---|---|
//! | a path that `receiver.public_url` does not have | 404 |
//! | any method but POST | 405 |
//! | more than `receiver.requests_max` at once | 503 + `Retry-After`, its body unread |
//! | a body larger than `receiver.body_size_max` | 413 |
//! | a body that does not come whole within [`BODY_DEADLINE`] | 408 |
//! | no good signature | 401 |
//! | a signed array | 204 once **every** message of it is confirmed or spooled, else 503 + `Retry-After` |
//! | another signed body | 204 once its dead letter is, else 503 + `Retry-After` |
//!
//! `Content-Type` and `Content-Encoding` are not looked at: the signature is over the bytes as they came.
//! HubSpot does not compress; were it to begin, its signed bodies would be kept whole as dead letters
//! instead of being refused for a day.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use tokio::task::JoinHandle;

use crate::bus::Bus;
use crate::config::Config;
use crate::ingress::{KeyringError, PublicUrlError};
use crate::metrics::Metrics;
use crate::spool::{Spool, SpoolError};

mod intake;
mod outbox;
mod outcome;

pub use intake::BODY_DEADLINE;
use intake::Shared;

/// How long the server itself would wait for requests in flight; [`Receiver::stop`] ends it earlier.
const SERVER_SHUTDOWN_SECONDS: u64 = 24 * 60 * 60;

/// The webhook endpoint, running. Dropping it stops it without waiting for requests in flight.
#[derive(Debug)]
pub struct Receiver {
    addr: SocketAddr,
    handle: ServerHandle,
    spool: Option<Arc<Spool>>,
    server: Option<JoinHandle<std::io::Result<()>>>,
}

/// Why the receiver does not start.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The URLs of `receiver.public_url`.
    #[error(transparent)]
    PublicUrl(#[from] PublicUrlError),
    /// The secrets of the apps.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The folder of `spool.folder`.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The address is taken, or not ours.
    #[error("receiver.listen: cannot listen on {addr}: {source}")]
    Bind {
        /// The address as configured.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

impl Receiver {
    /// Binds and starts. Port 0 works; [`Self::addr`] tells.
    ///
    /// Publishing runs in tasks beside the connections, so a publish that has begun ends even when HubSpot hangs up.
    ///
    /// # Errors
    /// Every variant of [`ReceiverError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        config: &Config,
        bus: Arc<dyn Bus>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ReceiverError> {
        let spool = open_spool(config, &bus, &metrics)?;
        let shared = web::Data::new(Shared::new(config, bus, spool.clone(), metrics)?);
        let listen = config.receiver.listen;
        let bind_error = |source| ReceiverError::Bind {
            addr: listen,
            source,
        };
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .default_service(web::to(intake::answer))
        })
        .disable_signals()
        .shutdown_timeout(SERVER_SHUTDOWN_SECONDS)
        .bind(listen)
        .map_err(bind_error)?;
        let addr = *server.addrs().first().expect("it is bound to one address");
        let server = server.run();
        Ok(Self {
            addr,
            handle: server.handle(),
            spool,
            server: Some(tokio::spawn(server)),
        })
    }

    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The spool, if there is one. It outlives the receiver: stop it after that.
    #[must_use]
    pub fn spool(&self) -> Option<&Arc<Spool>> {
        self.spool.as_ref()
    }

    /// Stops accepting, answers what is in flight, returns when done; at most `grace`.
    ///
    /// What is still in flight then gets no answer, and HubSpot sends it again.
    pub async fn stop(mut self, grace: Duration) {
        let Some(server) = self.server.take() else {
            return;
        };
        let abort = server.abort_handle();
        let stopped = async {
            self.handle.stop(true).await;
            server.await
        };
        match tokio::time::timeout(grace, stopped).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("the receiver's server ended with an error"),
            Err(_) => {
                tracing::warn!("requests were still in flight after the grace; they get no answer");
                abort.abort();
            }
        }
    }
}

fn open_spool(
    config: &Config,
    bus: &Arc<dyn Bus>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Spool>>, SpoolError> {
    let Some(folder) = &config.spool.folder else {
        return Ok(None);
    };
    let bytes_max = config.spool.bytes_max.as_u64();
    let spool = Spool::open(folder, bytes_max, Arc::clone(bus), Arc::clone(metrics))?;
    Ok(Some(Arc::new(spool)))
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}
