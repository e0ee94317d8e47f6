//! The public side: takes HubSpot's webhooks and answers once their events are durable.
//!
//! The way of a request stands in `intake`, from first to last; the steps are elsewhere:
//! [`crate::ingress`] verifies, [`crate::normalize`] makes events, `outbox` makes messages, the bus keeps
//! them (or, while it is away, the spool, where there is one), `outcome` answers.
//!
//! | what comes | answer |
//! |---|---|
//! | a path that `receiver.public_url` does not have | 404; counted and logged where a signature came |
//! | any method but POST | 405 |
//! | a head that does not come whole within [`HEAD_DEADLINE`] | 408 |
//! | a head of more than 96 headers or 128 KiB, or none of HTTP/1 | 400 or 431 |
//! | no signature header that could be good | 401, its body unread |
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
use tokio_util::task::AbortOnDropHandle;

use crate::bus::Bus;
use crate::config::Config;
use crate::ingress::{KeyringError, PublicUrlError};
use crate::metrics::Metrics;
use crate::spool::{Spool, SpoolError};
use crate::tls::{ServerCertificate, TlsError};

mod intake;
mod outbox;
mod outcome;

pub use intake::BODY_DEADLINE;
use intake::Shared;

/// Connections at once, over all threads: fewer than the 1,024 files that a process may usually open. One takes up to
/// 150 kB before its request is known; what comes beyond waits to be accepted.
pub const CONNECTIONS_MAX: usize = 512;
/// How long the head of a request may take to come.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// How long a connection may be idle between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a connection that is closed may take to let go, and a TLS handshake to be made.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
const TLS_DEADLINE: Duration = Duration::from_secs(3);
/// How long the server itself would wait for requests in flight; [`Receiver::stop`] ends it earlier.
const SERVER_SHUTDOWN_SECONDS: u64 = 24 * 60 * 60;

/// The webhook endpoint, running. Dropping it stops it without waiting for requests in flight.
#[derive(Debug)]
pub struct Receiver {
    addr: SocketAddr,
    handle: ServerHandle,
    spool: Option<Arc<Spool>>,
    server: Option<JoinHandle<std::io::Result<()>>>,
    /// Follows the certificate's files.
    _renewal: Option<AbortOnDropHandle<()>>,
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
    /// The files of `receiver.tls`.
    #[error("receiver.tls.{}: {}", .0.key(), .0)]
    Tls(#[from] TlsError),
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
        let tls = config.receiver.tls.as_ref();
        let certificate = tls.map(ServerCertificate::load).transpose()?;
        let spool = open_spool(config, &bus, &metrics)?;
        let shared = web::Data::new(Shared::new(config, bus, spool.clone(), metrics)?);
        let listen = config.receiver.listen;
        let bind_error = |source| ReceiverError::Bind {
            addr: listen,
            source,
        };
        let threads = threads();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .default_service(web::to(intake::answer))
        })
        .workers(threads)
        .max_connections(CONNECTIONS_MAX.div_ceil(threads))
        .client_request_timeout(HEAD_DEADLINE)
        .client_disconnect_timeout(CLOSE_DEADLINE)
        .tls_handshake_timeout(TLS_DEADLINE)
        .keep_alive(KEEP_ALIVE)
        .disable_signals()
        .shutdown_timeout(SERVER_SHUTDOWN_SECONDS);
        let server = match &certificate {
            Some(certificate) => server.bind_rustls_0_23(listen, certificate.server_config()),
            None => server.bind(listen),
        }
        .map_err(bind_error)?;
        let addr = *server.addrs().first().expect("it is bound to one address");
        let server = server.run();
        Ok(Self {
            addr,
            handle: server.handle(),
            spool,
            server: Some(tokio::spawn(server)),
            _renewal: certificate
                .map(|certificate| AbortOnDropHandle::new(tokio::spawn(certificate.follow()))),
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

/// A thread for each core.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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
