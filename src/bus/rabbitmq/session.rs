//! The one way to a working broker: connect, declare, serve; on any error drop everything and start over.
//!
//! The same path serves the first start and every restart. lapin's own recovery stays off. A [`Session`] is
//! never repaired: publishers and consumers take the present one from a watch and let go of it when it ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt as _;
use lapin::options::ConfirmSelectOptions;
use lapin::tcp::{AMQPUriTcpExt as _, RustlsConnector};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{RabbitMqError, SessionError, within};
use super::topology::Topology;
use crate::bus::{RECONNECT_DELAY_MAX, RECONNECT_DELAY_MIN};
use crate::config::ClientTlsConfig;
use crate::metrics::Metrics;
use crate::tls;

/// How long TCP, TLS and AMQP's handshake may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long opening a channel may take.
const CHANNEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long closing may take before we stop waiting for the broker's answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long consumers get to flush their settlements when the bus closes.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Heartbeats in seconds: a dead peer is noticed within twice that.
const HEARTBEAT_SECONDS: u16 = 10;
/// How often the connections are looked at, should no event tell of a loss.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// How long a channel is kept for confirms that nobody waits for any more.
const LATE_CONFIRMS_MAX: Duration = Duration::from_secs(30);
/// The most channels that publish at once, each with one batch.
const PUBLISH_CHANNELS_MAX: u32 = 16;

/// Two connections that work until one of them does not.
///
/// Two, since a broker short of memory or disk blocks a connection that publishes, and a blocked connection
/// sends no acknowledgements either.
pub(super) struct Session {
    publish: Connection,
    consume: Connection,
    ended: CancellationToken,
    idle: Mutex<Vec<Channel>>,
    slots: Semaphore,
}

/// The exclusive right to one confirm channel. Dropped without [`Lease::give_back`], its channel is closed, a moment later:
/// whoever leaves confirms behind must not leave them to the next.
pub(super) struct Lease<'a> {
    channel: Channel,
    /// Whether it was given back.
    kept: bool,
    session: &'a Session,
    _slot: SemaphorePermit<'a>,
}

impl Session {
    /// Resolves when the session is over.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Cancelled when the session is over.
    pub(super) fn end_token(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Ends the session, so that the loop connects and declares anew.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Whether the broker, short of memory or disk, takes no messages for now.
    pub(super) fn blocked(&self) -> bool {
        self.publish.status().blocked()
    }

    /// The connection for everything but publishing.
    pub(super) fn consume_connection(&self) -> &Connection {
        &self.consume
    }

    /// A channel of one's own for consuming.
    pub(super) async fn channel(&self) -> Result<Channel, SessionError> {
        within(CHANNEL_TIMEOUT, self.consume.create_channel()).await
    }

    /// A channel of one's own for messages that need no confirm.
    pub(super) async fn publish_channel(&self) -> Result<Channel, SessionError> {
        within(CHANNEL_TIMEOUT, self.publish.create_channel()).await
    }

    /// A confirm channel for one batch; waits while all are in use. `None` when the bus is closing.
    pub(super) async fn lease(&self) -> Result<Option<Lease<'_>>, SessionError> {
        let Ok(slot) = self.slots.acquire().await else {
            return Ok(None);
        };
        let channel = match self.take_idle() {
            Some(channel) => channel,
            None => self.confirm_channel().await?,
        };
        Ok(Some(Lease {
            channel,
            kept: false,
            session: self,
            _slot: slot,
        }))
    }

    fn take_idle(&self) -> Option<Channel> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(channel) = idle.pop() {
            if channel.status().connected() {
                return Some(channel);
            }
        }
        None
    }

    async fn confirm_channel(&self) -> Result<Channel, SessionError> {
        let channel = within(CHANNEL_TIMEOUT, self.publish.create_channel()).await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        within(CHANNEL_TIMEOUT, select).await?;
        Ok(channel)
    }

    fn is_up(&self) -> bool {
        self.publish.status().connected() && self.consume.status().connected()
    }

    /// Lets publishes under way end, then closes both connections and waits for their threads.
    async fn close(self: Arc<Self>, grace: Duration) {
        if self.is_up() {
            let all = self.slots.acquire_many(PUBLISH_CHANNELS_MAX);
            let _ = tokio::time::timeout(grace, all).await;
        }
        self.slots.close();
        self.end();
        tokio::join!(close(&self.publish), close(&self.consume));
        // Whoever still holds the session drops it soon, and then the threads end without being waited for.
        if let Some(session) = Arc::into_inner(self) {
            session.join().await;
        }
    }

    /// Waits for lapin's threads, which must not outlive the runtime.
    async fn join(self) {
        let Self {
            publish,
            consume,
            idle,
            ..
        } = self;
        drop(idle);
        let (done, ended) = oneshot::channel();
        // A thread of its own, since a blocking task that hangs would keep the runtime from ending.
        let joining = std::thread::Builder::new()
            .name("rabbitmq-join".to_owned())
            .spawn(move || {
                // How they ended is of no use any more.
                let _ = (publish.run(), consume.run());
                let _ = done.send(());
            });
        if joining.is_ok() {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
        }
    }
}

impl Lease<'_> {
    /// The channel, for this batch alone.
    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Keeps the channel for the next batch. Only when every confirm of this one has come.
    pub(super) fn give_back(mut self) {
        self.kept = true;
        let idle = &self.session.idle;
        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(self.channel.clone());
    }
}

impl Drop for Lease<'_> {
    /// A close would overtake frames of ours that lapin has still to write, and the broker ends the whole connection over
    /// frames of a channel that is closed. The last confirm tells that they are written.
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Without a runtime the connection ends as well.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (channel, ended) = (self.channel.clone(), self.session.end_token());
        runtime.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                // Too late for what was published: its verdict is that nobody knows.
                _ = tokio::time::timeout(LATE_CONFIRMS_MAX, channel.wait_for_confirms()) => {}
            }
        });
    }
}

/// What the loop works on.
pub(super) struct Keeper {
    /// The broker, heartbeat included.
    pub(super) uri: AMQPUri,
    /// For a broker of `amqps://`; its files are read at every connection.
    pub(super) tls: ClientTlsConfig,
    /// How the connections are called in the broker's listings.
    pub(super) connection_name: String,
    /// What to declare.
    pub(super) topology: Arc<Topology>,
    /// Counts losses and shows the state.
    pub(super) metrics: Arc<Metrics>,
    /// The present session.
    pub(super) session: watch::Sender<Option<Arc<Session>>>,
    /// Whether there is one.
    pub(super) connected: watch::Sender<bool>,
    /// Resolves when the bus is to close.
    pub(super) closing: CancellationToken,
    /// The consumers' tasks, which flush before the connections close.
    pub(super) feeds: TaskTracker,
    /// How long publishes under way get when the bus closes.
    pub(super) publish_timeout: Duration,
}

impl Keeper {
    /// Connects and declares, once.
    pub(super) async fn open(&self) -> Result<Arc<Session>, SessionError> {
        let session = Arc::new(Session {
            publish: self.connect("publish").await?,
            consume: self.connect("consume").await?,
            ended: CancellationToken::new(),
            idle: Mutex::new(Vec::new()),
            slots: Semaphore::new(PUBLISH_CHANNELS_MAX as usize),
        });
        match self.topology.declare(&session.consume).await {
            Ok(()) => Ok(session),
            Err(error) => {
                session.close(Duration::ZERO).await;
                Err(error)
            }
        }
    }

    /// Keeps a session until the bus closes; `session` is the first, if there is one already.
    pub(super) async fn run(self, mut session: Option<Arc<Session>>) {
        let mut delays = delays();
        let mut told = String::new();
        while !self.closing.is_cancelled() {
            if let Some(session) = session.take() {
                let began = Instant::now();
                told.clear();
                self.serve(session).await;
                if began.elapsed() > RECONNECT_DELAY_MAX {
                    delays = self::delays();
                }
            }
            let delay = delays.next().unwrap_or(RECONNECT_DELAY_MAX);
            session = self.retry(delay.min(RECONNECT_DELAY_MAX), &mut told).await;
        }
        if let Some(session) = session {
            session.close(Duration::ZERO).await;
        }
    }

    async fn serve(&self, session: Arc<Session>) {
        tracing::info!("connected to the broker");
        self.announce(Some(session.clone()));
        let cause = self.watch(&session).await;
        if self.closing.is_cancelled() {
            self.feeds.close();
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.feeds.wait()).await;
            self.announce(None);
            session.close(self.publish_timeout).await;
        } else {
            let cause = cause.unwrap_or_else(|| "it was ended on our side".to_owned());
            tracing::warn!(error = cause, "lost the broker; connecting again");
            self.metrics.bus_sessions_lost_total.inc();
            self.announce(None);
            session.end();
            session.close(Duration::ZERO).await;
        }
    }

    /// Returns when the session is lost or the bus closes, with what the broker last said.
    async fn watch(&self, session: &Session) -> Option<String> {
        let mut events = futures_util::stream::select(
            session.publish.events_listener(),
            session.consume.events_listener(),
        );
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        let mut last_error = None;
        while session.is_up() {
            tokio::select! {
                () = self.closing.cancelled() => return None,
                () = session.ended() => return last_error,
                Some(event) = events.next() => note(event, &mut last_error),
                _ = ticks.tick() => {}
            }
        }
        last_error.or_else(|| Some("the connection is closed".to_owned()))
    }

    /// Tries for a new session after `delay`. Says why it fails when the reason is new.
    async fn retry(&self, delay: Duration, told: &mut String) -> Option<Arc<Session>> {
        tokio::select! {
            () = self.closing.cancelled() => return None,
            () = tokio::time::sleep(delay) => {}
        }
        let opened = tokio::select! {
            () = self.closing.cancelled() => return None,
            opened = self.open() => opened,
        };
        opened
            .inspect_err(|error| {
                let text = error.to_string();
                if *told != text {
                    tell(error);
                    *told = text;
                }
            })
            .ok()
    }

    /// Shows everyone the session there is now.
    pub(super) fn announce(&self, session: Option<Arc<Session>>) {
        let up = session.is_some();
        self.session.send_replace(session);
        self.connected.send_replace(up);
        self.metrics.bus_connected.set(i64::from(up));
    }

    async fn connect(&self, purpose: &str) -> Result<Connection, SessionError> {
        let name = format!("{} {purpose}", self.connection_name);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime()?;
        let tls = self.tls_connector()?;
        let connection = Connection::connector(
            self.uri.clone(),
            runtime,
            // lapin has no deadline of its own here, and its thread would wait as long as the system does.
            async move |uri: AMQPUri, runtime| {
                let stream = async {
                    // lapin's own TLS would trust the system's authorities beside ours.
                    let mut plain = uri.clone();
                    plain.scheme = AMQPScheme::AMQP;
                    let stream = plain.connect_async(&runtime).await?;
                    match &tls {
                        Some(tls) => stream.into_rustls(tls, &uri.authority.host).await,
                        None => Ok(stream),
                    }
                };
                let stream = tokio::time::timeout(CONNECT_TIMEOUT, stream).await;
                Ok(stream.map_err(std::io::Error::from)??)
            },
            properties,
        );
        match tokio::time::timeout(CONNECT_TIMEOUT, connection).await {
            Ok(connected) => connected.map_err(SessionError::of_handshake),
            Err(_) => Err(SessionError::Timeout(CONNECT_TIMEOUT)),
        }
    }

    fn tls_connector(&self) -> Result<Option<RustlsConnector>, RabbitMqError> {
        match self.uri.scheme {
            AMQPScheme::AMQP => Ok(None),
            AMQPScheme::AMQPS => Ok(Some(tls::client_config(&self.tls)?.into())),
        }
    }
}

/// Reads the broker's URL and sets what we insist on.
///
/// # Errors
/// [`RabbitMqError::Url`].
pub(super) fn parse_url(url: &str) -> Result<AMQPUri, RabbitMqError> {
    // The parser's own error may repeat the URL, password included.
    let mut uri: AMQPUri = url.parse().map_err(|_| RabbitMqError::Url)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

/// Logs why there is no session: an error where an operator must act, else a warning.
pub(super) fn tell(error: &SessionError) {
    match error {
        SessionError::Fatal(error) => {
            tracing::error!(%error, "the broker cannot be used; trying again until this is fixed");
        }
        error => tracing::warn!(%error, "the broker is not available; trying again"),
    }
}

/// Closes a channel without waiting for the broker longer than [`CLOSE_TIMEOUT`].
///
/// A channel that its owner merely drops is closed by lapin in the background; this waits for it.
pub(super) async fn close_channel(channel: &Channel) {
    if channel.status().connected() {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, channel.close(200, "OK".into())).await;
    }
}

/// Closes a channel, and then drops what consumed on it. The other way round lapin would cancel the consumer in the background,
/// perhaps on a channel that is closed by then, and the broker ends the whole connection over that.
pub(super) async fn close_consumer(channel: &Channel, consumer: lapin::Consumer) {
    close_channel(channel).await;
    drop(consumer);
}

/// Delays between attempts, with jitter, so that many processes do not come back at the same moment.
pub(super) fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(RECONNECT_DELAY_MIN)
        .with_max_delay(RECONNECT_DELAY_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

async fn close(connection: &Connection) {
    if connection.status().connected() {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "OK".into())).await;
    }
}

fn note(event: Event, last_error: &mut Option<String>) {
    match event {
        Event::Error(error) => *last_error = Some(error.to_string()),
        Event::ConnectionBlocked(reason) => {
            tracing::warn!(reason, "the broker takes no messages for now");
        }
        Event::ConnectionUnblocked => tracing::info!("the broker takes messages again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_refused_without_being_repeated() {
        for url in [
            "",
            "localhost",
            "http://u:hunter2@h/",
            "amqp:hunter2",
            "amqp://u:hunter2@h:port/",
        ] {
            let error = parse_url(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_heartbeat_is_asked_for_unless_the_url_has_one() {
        let heartbeat = |url| parse_url(url).unwrap().query.heartbeat;
        assert_eq!(heartbeat("amqp://localhost"), Some(HEARTBEAT_SECONDS));
        assert_eq!(heartbeat("amqp://localhost?heartbeat=3"), Some(3));
    }

    #[test]
    fn delays_never_end() {
        assert!(delays().take(1_000).count() == 1_000);
        assert!(delays().next().unwrap() >= RECONNECT_DELAY_MIN);
    }
}
