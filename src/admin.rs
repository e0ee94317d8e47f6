//! The private port: metrics and probes. It listens apart from what HubSpot can reach, and it is the last to
//! stop, so that a drain can be watched.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use actix_web::dev::ServerHandle;
use actix_web::http::header::ContentType;
use actix_web::web::{self, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::access::Access;
use crate::audit::api::AuditApi;
use crate::dead::api::DeadApi;
use crate::metrics::Metrics;
use crate::portals::api::PortalsApi;

pub(crate) mod api;

/// Prometheus' text format.
const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Scrapers and probes at once.
const CONNECTIONS_MAX: usize = 64;
/// How long a scrape in flight may take once we stop, in seconds.
const STOP_SECONDS_MAX: u64 = 1;

/// What the port serves besides metrics and probes, to those who know `admin.token`.
#[derive(Clone, Default)]
pub struct Apis {
    /// `/portals`.
    pub portals: PortalsApi,
    /// `/dead`.
    pub dead: DeadApi,
    /// `/audit`.
    pub audit: AuditApi,
}

/// The admin port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}; set admin.listen to a free address of this machine")]
pub struct AdminError {
    /// The address as configured.
    pub listen: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// The admin server.
#[derive(Debug)]
pub struct Admin {
    addr: SocketAddr,
    server: ServerHandle,
    task: JoinHandle<io::Result<()>>,
}

impl Admin {
    /// Listens on `listen` and serves `/metrics`, `/livez`, `/readyz` and `apis` to those whom `access` lets in.
    /// Port 0 takes any: see [`Self::addr`].
    ///
    /// # Errors
    /// [`AdminError`] when the address cannot be had.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        listen: SocketAddr,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        access: Access,
        apis: Apis,
    ) -> Result<Self, AdminError> {
        let failed = |source| AdminError { listen, source };
        let (metrics, health) = (Data::from(metrics), Data::from(health));
        let access = Data::new(access);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(metrics.clone())
                .app_data(health.clone())
                .app_data(access.clone())
                .route("/metrics", web::get().to(show_metrics))
                .route("/livez", web::get().to(livez))
                .route("/readyz", web::get().to(readyz))
                .configure(|config| apis.portals.configure(config))
                .configure(|config| apis.dead.configure(config))
                .configure(|config| apis.audit.configure(config))
        })
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .shutdown_timeout(STOP_SECONDS_MAX)
        .disable_signals()
        .bind(listen)
        .map_err(failed)?;
        let addr = server.addrs().first().copied().unwrap_or(listen);
        let server = server.run();
        Ok(Self {
            addr,
            server: server.handle(),
            task: tokio::spawn(server),
        })
    }

    /// Where it listens, with the port that the operating system chose for port 0.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops, answering what is in flight, within about a second.
    pub async fn stop(self) {
        self.server.stop(true).await;
        // What is left to learn is how a stopped server ended.
        let _ = self.task.await;
    }
}

/// What the probes tell.
#[derive(Debug)]
pub struct Health {
    bus: watch::Receiver<bool>,
    spool: OnceLock<watch::Receiver<bool>>,
    started: AtomicBool,
    stopping: AtomicBool,
}

impl Health {
    /// `bus` is [`crate::bus::Bus::connected`]; its sender must live as long as the bus does its work.
    #[must_use]
    pub fn new(bus: watch::Receiver<bool>) -> Self {
        Self {
            bus,
            spool: OnceLock::new(),
            started: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    /// There is a spool: while it `takes` requests, a bus that is away is no reason not to be ready.
    pub fn has_spool(&self, takes: watch::Receiver<bool>) {
        self.spool.get_or_init(|| takes);
    }

    /// Everything runs; until now we were not ready.
    pub fn start(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// From now on we are alive but not ready.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether a restart would not help.
    ///
    /// # Errors
    /// What has died. A bus that is merely away is no reason: it comes back, and a restart would not bring it.
    pub fn alive(&self) -> Result<(), &'static str> {
        let ended = self.bus.has_changed().is_err();
        if ended && !self.is_stopping() {
            return Err("the bus's session has ended");
        }
        Ok(())
    }

    /// Whether events can be taken.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), &'static str> {
        if self.is_stopping() {
            return Err("stopping");
        }
        self.alive()?;
        if !self.started.load(Ordering::Relaxed) {
            return Err("starting");
        }
        if *self.bus.borrow() {
            return Ok(());
        }
        match self.spool.get().map(|takes| *takes.borrow()) {
            Some(true) => Ok(()),
            Some(false) => Err("the bus is not connected, and the spool takes nothing"),
            None => Err("the bus is not connected"),
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

async fn show_metrics(
    metrics: Data<Metrics>,
    access: Data<Access>,
    request: HttpRequest,
) -> HttpResponse {
    if let Err(refused) = access.check_metrics(&request) {
        return refused.response();
    }
    HttpResponse::Ok()
        .content_type(METRICS_CONTENT_TYPE)
        .body(metrics.encode())
}

async fn livez(health: Data<Health>) -> HttpResponse {
    probe(health.alive())
}

async fn readyz(health: Data<Health>) -> HttpResponse {
    probe(health.ready())
}

fn probe(result: Result<(), &'static str>) -> HttpResponse {
    match result {
        Ok(()) => HttpResponse::Ok()
            .content_type(ContentType::plaintext())
            .body("ok\n"),
        Err(reason) => HttpResponse::ServiceUnavailable()
            .content_type(ContentType::plaintext())
            .body(format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AdminConfig;

    #[test]
    fn readiness_follows_the_bus_and_ends_with_stopping() {
        let (bus, connected) = watch::channel(false);
        let health = Health::new(connected);
        assert_eq!(health.ready(), Err("starting"));
        health.start();
        assert_eq!(health.ready(), Err("the bus is not connected"));
        assert_eq!(
            health.alive(),
            Ok(()),
            "a bus that is away is no reason to restart"
        );
        bus.send_replace(true);
        assert_eq!(health.ready(), Ok(()));
        health.stop();
        assert_eq!(health.ready(), Err("stopping"));
        assert_eq!(health.alive(), Ok(()));
    }

    #[test]
    fn a_spool_stands_in_for_the_bus_while_it_takes_requests() {
        let (bus, connected) = watch::channel(false);
        let (spool, takes) = watch::channel(true);
        let health = Health::new(connected);
        health.has_spool(takes);
        health.start();
        assert_eq!(health.ready(), Ok(()));
        spool.send_replace(false);
        assert!(health.ready().unwrap_err().contains("spool"));
        bus.send_replace(true);
        assert_eq!(health.ready(), Ok(()), "a full spool is no harm with a bus");
    }

    #[test]
    fn a_bus_that_ended_by_itself_is_death_and_one_that_was_closed_is_not() {
        let (bus, connected) = watch::channel(true);
        let health = Health::new(connected);
        health.start();
        drop(bus);
        assert_eq!(health.alive(), Err("the bus's session has ended"));
        assert!(health.ready().is_err());
        health.stop();
        assert_eq!(health.alive(), Ok(()));
    }

    fn open() -> Access {
        Access::of(&AdminConfig::default()).unwrap()
    }

    async fn get(addr: SocketAddr, path: &str) -> (u16, String, String) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let answer = reqwest::get(format!("http://{addr}{path}")).await.unwrap();
        let content_type = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        (
            answer.status().as_u16(),
            content_type,
            answer.text().await.unwrap(),
        )
    }

    #[tokio::test]
    async fn the_port_serves_metrics_and_probes_until_it_is_stopped() {
        let (bus, connected) = watch::channel(true);
        let health = Arc::new(Health::new(connected));
        health.start();
        let metrics = Arc::new(Metrics::new());
        metrics.bus_connected.set(1);
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let admin = Admin::start(
            any_port,
            metrics,
            Arc::clone(&health),
            open(),
            Apis::default(),
        )
        .unwrap();
        let addr = admin.addr();

        let (status, content_type, text) = get(addr, "/metrics").await;
        assert_eq!((status, content_type.as_str()), (200, METRICS_CONTENT_TYPE));
        assert!(text.contains("\ncrm_relay_bus_connected 1\n"), "{text}");
        assert_eq!(get(addr, "/livez").await.0, 200);
        assert_eq!(get(addr, "/readyz").await.0, 200);
        bus.send_replace(false);
        let (status, _, text) = get(addr, "/readyz").await;
        assert_eq!((status, text.as_str()), (503, "the bus is not connected\n"));
        assert_eq!(get(addr, "/livez").await.0, 200);

        let taken = Admin::start(
            addr,
            Arc::new(Metrics::new()),
            Arc::clone(&health),
            open(),
            Apis::default(),
        )
        .unwrap_err();
        assert!(taken.to_string().contains("admin.listen"));
        admin.stop().await;
        assert!(reqwest::get(format!("http://{addr}/livez")).await.is_err());
    }

    #[tokio::test]
    async fn who_is_not_let_in_gets_probes_alone() {
        let (_bus, connected) = watch::channel(true);
        let admin = Admin::start(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            Arc::new(Metrics::new()),
            Arc::new(Health::new(connected)),
            Access::default(),
            Apis::default(),
        )
        .unwrap();
        let addr = admin.addr();
        assert_eq!(get(addr, "/livez").await.0, 200);
        assert_eq!(get(addr, "/readyz").await.0, 503, "it has not started");
        for path in ["/metrics", "/portals", "/portals/8241"] {
            let (status, _, text) = get(addr, path).await;
            assert_eq!(status, 403, "{path}");
            assert!(text.contains("admin.token"), "{text}");
        }
        admin.stop().await;
    }
}
