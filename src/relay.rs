//! The whole program as one value: bus, receiver, worker and admin port, started in order and stopped in
//! the order in which nothing is lost.
//!
//! `crm-relay run`, the demo and the tests all use this.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::access::Access;
use crate::admin::{Admin, AdminError, Apis, Health};
use crate::audit::api::AuditApi;
use crate::bus::Bus;
use crate::bus::embedded::{Embedded, EmbeddedError, EmbeddedOptions};
use crate::bus::rabbitmq::{DestinationQueue, RabbitMq, RabbitMqError, RabbitMqOptions};
use crate::config::{
    BusConfig, Config, ConfigError, DestinationKind, Problem, Role, Secret, SecretError,
};
use crate::dead::DeadLetters;
use crate::dead::api::DeadApi;
use crate::depths::Depths;
use crate::metrics::Metrics;
use crate::portals::api::PortalsApi;
use crate::portals::{Following, Portals, PortalsError};
use crate::receiver::{Receiver, ReceiverError};
use crate::shutdown::Grace;
use crate::spool::Spool;
use crate::worker::{Worker, WorkerError};

/// Room for a destination that says nothing else: 1 GiB, in bytes.
const QUEUE_BYTES_DEFAULT: u64 = 1 << 30;
/// Kept back from the grace for flushing and closing the bus, where the grace is long enough.
const CLOSE_RESERVE: Duration = Duration::from_secs(2);

/// Why nothing was started. What had been started is stopped again.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The settings do not make sense together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `bus.url` or `admin.token` cannot be had.
    #[error("a secret of the configuration cannot be read")]
    Secret(#[from] SecretError),
    /// The broker refuses us, for something that waiting does not mend.
    #[error("the broker cannot be used")]
    RabbitMq(#[from] RabbitMqError),
    /// The store cannot be opened.
    #[error("the embedded bus cannot be opened")]
    Embedded(#[from] EmbeddedError),
    /// The receiver cannot start.
    #[error("the receiver cannot start")]
    Receiver(#[from] ReceiverError),
    /// The portals cannot be had.
    #[error("the portals cannot be had")]
    Portals(#[from] PortalsError),
    /// The worker cannot start.
    #[error("the worker cannot start")]
    Worker(#[from] WorkerError),
    /// The admin port cannot be had.
    #[error("the admin port cannot start")]
    Admin(#[from] AdminError),
}

/// Stopping took longer than `shutdown.grace`. Nothing is lost: what was not settled comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "stopping took longer than shutdown.grace; what was not settled comes again after the next start"
)]
pub struct StopTimeout;

/// A running relay. Stop it with [`Relay::stop`]; dropping it leaves its tasks to the runtime's end.
pub struct Relay {
    bus: Arc<dyn Bus>,
    parts: Parts,
    admin: Admin,
    health: Arc<Health>,
    depths: Depths,
    metrics: Arc<Metrics>,
    stopping: Stopping,
}

impl Relay {
    /// Starts what `role` asks for: the admin port first, so that probes are answered from the beginning,
    /// then the worker, then the receiver, so that nothing is taken in before it can be worked on.
    ///
    /// A broker that is merely away is no error: the relay starts, is not ready, and connects when it can.
    ///
    /// # Errors
    /// Every variant of [`RelayError`]. A TLS provider must be installed before (`rustls::crypto`).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(config: &Config, role: Role) -> Result<Self, RelayError> {
        warn(&config.check(role)?);
        let metrics = Arc::new(Metrics::new());
        let portals = open_portals(config, role, &metrics)?;
        let access = Access::of(&config.admin)?;
        let bus = open_bus(config, role, &metrics).await?;
        let letters = || DeadLetters::new(config, Arc::clone(&bus), Arc::clone(&metrics));
        let apis = Apis {
            portals: PortalsApi::new(portals.clone(), access.clone()),
            dead: DeadApi::new(role.works().then(letters), access.clone()),
            audit: AuditApi::new(Arc::clone(&bus), access.clone()),
        };
        let health = Arc::new(Health::new(bus.connected()));
        let stopping = Stopping::of(config);
        let admin = Admin::start(
            config.admin.listen,
            Arc::clone(&metrics),
            Arc::clone(&health),
            access,
            apis,
        );
        let admin = match admin {
            Ok(admin) => admin,
            Err(error) => return Err(undo(error.into(), Parts::default(), &bus, stopping).await),
        };
        tracing::info!(admin.addr = %admin.addr(), "the admin port listens");
        match Parts::start(config, role, &bus, portals.as_ref(), &metrics).await {
            Ok(parts) => {
                if let Some(spool) = parts.spool() {
                    health.has_spool(spool.takes());
                }
                health.start();
                Ok(Self {
                    depths: Depths::watch(
                        Arc::clone(&bus),
                        destination_names(config),
                        Arc::clone(&metrics),
                    ),
                    bus,
                    parts,
                    admin,
                    health,
                    metrics,
                    stopping,
                })
            }
            Err((error, parts)) => {
                admin.stop().await;
                Err(undo(error, parts, &bus, stopping).await)
            }
        }
    }

    /// Where HubSpot's requests are received; `None` for a worker.
    #[must_use]
    pub fn receiver_addr(&self) -> Option<SocketAddr> {
        self.parts.receiver.as_ref().map(Receiver::addr)
    }

    /// Where metrics and probes are.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// The metrics of this relay alone.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The bus it runs on.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// Stops: not ready any more, after `shutdown.delay` no new requests, the spool drained, no new deliveries, what
    /// is in flight finished and settled, then the bus, then the admin port. Returns within `shutdown.grace`, or
    /// about two seconds later when parts had to be left behind.
    ///
    /// # Errors
    /// [`StopTimeout`] when a part did not end in time and was left behind.
    pub async fn stop(self) -> Result<(), StopTimeout> {
        let grace = Grace::begin(self.stopping.grace);
        self.health.stop();
        if self.parts.receiver.is_some() {
            tokio::time::sleep(self.stopping.delay).await;
        }
        drop(self.depths);
        let stopped = self.parts.stop(&self.bus, grace).await;
        self.admin.stop().await;
        stopped
    }
}

/// What a role consists of.
#[derive(Default)]
struct Parts {
    receiver: Option<Receiver>,
    worker: Option<Worker>,
    following: Option<Following>,
}

impl Parts {
    /// On an error, with what had been started by then.
    async fn start(
        config: &Config,
        role: Role,
        bus: &Arc<dyn Bus>,
        portals: Option<&Arc<Portals>>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, (RelayError, Self)> {
        let mut parts = Self::default();
        if let Some(portals) = portals {
            parts.following = Some(portals.follow());
            let (bus, tokens) = (Arc::clone(bus), Arc::clone(portals.tokens()));
            match Worker::start(config, bus, tokens, Arc::clone(metrics)) {
                Ok(worker) => parts.worker = Some(worker),
                Err(error) => return Err((error.into(), parts)),
            }
        }
        if role.receives() {
            match Receiver::start(config, Arc::clone(bus), Arc::clone(metrics)) {
                Ok(receiver) => parts.receiver = Some(receiver),
                Err(error) => return Err((error.into(), parts)),
            }
        }
        if let Some(receiver) = &parts.receiver {
            tracing::info!(receiver.addr = %receiver.addr(), "the receiver listens");
        }
        Ok(parts)
    }

    fn spool(&self) -> Option<&Arc<Spool>> {
        self.receiver.as_ref()?.spool()
    }

    async fn stop(self, bus: &Arc<dyn Bus>, grace: Grace) -> Result<(), StopTimeout> {
        let reserve = CLOSE_RESERVE.min(grace.left() / 4);
        let mut in_time = true;
        let spool = self.spool().cloned();
        if let Some(receiver) = self.receiver {
            let left = grace.left_before(reserve);
            in_time &= within(left, receiver.stop(left), "receiver").await;
        }
        // Neither waits for the other: what the spool has left goes to the broker, as the worker's last messages do.
        let left = grace.left_before(reserve);
        let drained = async {
            match spool {
                Some(spool) => within(left, spool.stop(left), "spool").await,
                None => true,
            }
        };
        let worked = async {
            match self.worker {
                Some(worker) => within(left, worker.stop(left), "worker").await,
                None => true,
            }
        };
        let (drained, worked) = tokio::join!(drained, worked);
        in_time &= drained && worked;
        drop(self.following);
        in_time &= within(grace.left(), bus.close(), "bus").await;
        if in_time { Ok(()) } else { Err(StopTimeout) }
    }
}

/// How to stop, as configured.
#[derive(Clone, Copy)]
struct Stopping {
    delay: Duration,
    grace: Duration,
}

impl Stopping {
    fn of(config: &Config) -> Self {
        Self {
            delay: config.shutdown.delay,
            grace: config.shutdown.grace,
        }
    }
}

/// Whether `stop` ended by itself. A part is given what is left of the grace and trusted to keep to it; the
/// margin is for its last words.
async fn within(left: Duration, stop: impl Future<Output = ()>, part: &'static str) -> bool {
    const MARGIN: Duration = Duration::from_millis(500);
    let begun = tokio::time::Instant::now();
    let ended = tokio::time::timeout(left + MARGIN, stop).await.is_ok();
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    if ended {
        tracing::info!(part, duration_ms, "stopped");
    } else {
        tracing::error!(part, duration_ms, "did not stop in time and is left behind");
    }
    ended
}

/// Stops what had been started when `error` came up.
async fn undo(
    error: RelayError,
    parts: Parts,
    bus: &Arc<dyn Bus>,
    stopping: Stopping,
) -> RelayError {
    // Whether that was in time is already logged, and the caller must hear of the first error.
    let _ = parts.stop(bus, Grace::begin(stopping.grace)).await;
    error
}

fn warn(warnings: &[Problem]) {
    for warning in warnings {
        tracing::warn!(key = warning.key, "{}", warning.message);
    }
}

/// The portals, for a role that reads their records.
fn open_portals(
    config: &Config,
    role: Role,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Portals>>, PortalsError> {
    let open = || Portals::open(config, Arc::clone(metrics)).map(Arc::new);
    role.works().then(open).transpose()
}

/// The bus that the configuration names.
///
/// # Errors
/// What it cannot be used for.
pub(crate) async fn open_bus(
    config: &Config,
    role: Role,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Bus>, RelayError> {
    let metrics = Arc::clone(metrics);
    Ok(match &config.bus.url {
        Some(url) => {
            let options = rabbitmq_options(config, url, role)?;
            Arc::new(RabbitMq::start(options, metrics).await?)
        }
        None => Arc::new(Embedded::open(embedded_options(&config.bus), metrics)?),
    })
}

fn embedded_options(bus: &BusConfig) -> EmbeddedOptions {
    EmbeddedOptions {
        data_dir: bus.data_dir.clone(),
        partitions: bus.partitions,
        publish_timeout: bus.publish_timeout,
    }
}

fn rabbitmq_options(
    config: &Config,
    url: &Secret,
    role: Role,
) -> Result<RabbitMqOptions, SecretError> {
    Ok(RabbitMqOptions {
        url: url.resolve()?,
        tls: config.bus.tls.clone(),
        prefix: config.bus.prefix.clone(),
        partitions: config.bus.partitions,
        publish_timeout: config.bus.publish_timeout,
        destinations: destination_queues(config),
        connection_name: connection_name(role).to_owned(),
    })
}

/// Destinations with a queue of their own.
fn destination_names(config: &Config) -> Vec<String> {
    let queues = destination_queues(config).into_iter();
    queues.map(|queue| queue.name).collect()
}

fn destination_queues(config: &Config) -> Vec<DestinationQueue> {
    let destinations = config.destination.iter();
    destinations
        .filter(|(_, destination)| destination.kind == DestinationKind::Queue)
        .map(|(name, destination)| DestinationQueue {
            name: name.clone(),
            max_length_bytes: destination
                .max_length_bytes
                .map_or(QUEUE_BYTES_DEFAULT, |size| size.as_u64()),
        })
        .collect()
}

/// How the broker's management page names us.
fn connection_name(role: Role) -> &'static str {
    match role {
        Role::Run => "crm-relay run",
        Role::Receiver => "crm-relay receiver",
        Role::Worker => "crm-relay worker",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_destinations_alone_become_queues_with_their_bounds() {
        let mut config = Config::default();
        let kinds = [
            ("a", "kind = 'queue'"),
            ("b", "kind = 'ndjson'\npath = '-'"),
            ("c", "kind = 'queue'\nmax_length_bytes = '2 MiB'"),
        ];
        for (name, toml) in kinds {
            config
                .destination
                .insert(name.to_owned(), toml::from_str(toml).unwrap());
        }
        let queues = destination_queues(&config);
        let queues: Vec<_> = queues
            .iter()
            .map(|queue| (queue.name.as_str(), queue.max_length_bytes))
            .collect();
        assert_eq!(queues, [("a", 1 << 30), ("c", 2 << 20)]);
    }

    #[tokio::test]
    async fn nothing_starts_with_a_configuration_that_cannot_run() {
        let refused = Relay::start(&Config::default(), Role::Run)
            .await
            .err()
            .unwrap();
        assert!(matches!(
            refused,
            RelayError::Config(ConfigError::Invalid { .. })
        ));
    }
}
