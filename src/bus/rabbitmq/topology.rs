//! Every exchange and queue of ours on RabbitMQ: names, arguments, declarations, and nothing of it elsewhere.
//!
//! Declared idempotently at every connect, which also proves that each of them exists. Arguments are for
//! ever (another value is refused with 406), so they hold only what a queue *is* and what a broker's default
//! would lose; what one may want to tune belongs into a policy.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};

use super::error::{RabbitMqError, SessionError, within};
use super::{DestinationQueue, RabbitMqOptions};
use crate::bus::{CHANGELOG_KEEP, Queue};

/// How often a batch is delivered before the broker itself dead-letters it. 4.x would do so at the 21st.
const PARTITION_DELIVERY_LIMIT: i32 = 100;
/// As good as no limit. 4.x drops at the 21st delivery when nothing is said, knows -1 for no limit, and 3.10
/// refuses -1; a number that no message reaches means the same to all of them, so that the argument stays
/// the same through an upgrade. A policy may set a lower one.
const NO_DELIVERY_LIMIT: i32 = i32::MAX;
/// The key of what the broker itself dead-letters.
const DELIVERY_LIMIT_KEY: &str = "consume.delivery_limit";
/// The most bytes of a changelog, so that a flood of events cannot fill the broker's disk. At 60 bytes an event these
/// are 18 million.
const CHANGELOG_BYTES_MAX: i64 = 1 << 30;
/// The size of a changelog's segments.
const CHANGELOG_SEGMENT_BYTES: i64 = 16 << 20;
/// How long one answer to a declaration may take. Quorum queues elect a leader first.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest name AMQP knows, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// The most partitions we look for on the broker to say how many it has.
const PARTITIONS_COUNT_MAX: u16 = 4_096;

/// The names and arguments of one deployment.
#[derive(Debug)]
pub(super) struct Topology {
    prefix: String,
    partitions: u16,
    destinations: Vec<DestinationQueue>,
}

impl Topology {
    /// The topology that `options` ask for.
    ///
    /// # Errors
    /// [`RabbitMqError::Setting`]: no partition, or a name AMQP cannot hold.
    pub(super) fn new(options: &RabbitMqOptions) -> Result<Self, RabbitMqError> {
        let topology = Self {
            prefix: options.prefix.clone(),
            partitions: options.partitions,
            destinations: options.destinations.clone(),
        };
        topology.check_settings()?;
        Ok(topology)
    }

    /// How many partitions there are.
    pub(super) fn partitions(&self) -> u16 {
        self.partitions
    }

    /// `crm.intake`: batches, by partition number.
    pub(super) fn intake(&self) -> String {
        format!("{}.intake", self.prefix)
    }

    /// `crm.enriched`: enriched events, for queues that others bind.
    pub(super) fn enriched(&self) -> String {
        format!("{}.enriched", self.prefix)
    }

    /// `crm.events`: plain events, for queues that others bind.
    pub(super) fn events(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// `crm.workers`: that a worker is there. Each has a queue of its own while it is connected.
    pub(super) fn workers(&self) -> String {
        format!("{}.workers", self.prefix)
    }

    /// `crm.dead`: dead letters, by `<stage>.<reason>`.
    pub(super) fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// `crm.dead.kept`: dead letters that were searched and go back to their queue, which alone is bound to it.
    pub(super) fn dead_kept(&self) -> String {
        format!("{}.dead.kept", self.prefix)
    }

    /// `crm.dead.claim`: there while somebody takes dead letters, and theirs alone.
    pub(super) fn dead_claim(&self) -> String {
        format!("{}.dead.claim", self.prefix)
    }

    /// The name of `queue`.
    pub(super) fn queue(&self, queue: &Queue) -> String {
        match queue {
            Queue::Partition(n) => self.partition(*n),
            Queue::Backlog(n) => format!("{}.backlog.{n}", self.prefix),
            Queue::DeadLetters => format!("{}.dead.letters", self.prefix),
            Queue::Erasures => format!("{}.erasures", self.prefix),
            Queue::Destination(name) => format!("{}.destination.{name}", self.prefix),
        }
    }

    /// The changelog of a partition.
    pub(super) fn changelog(&self, n: u16) -> String {
        format!("{}.changelog.{n}", self.prefix)
    }

    /// Declares everything, on a channel of its own.
    ///
    /// # Errors
    /// [`SessionError::Fatal`]: other arguments, another partition count, no permission.
    pub(super) async fn declare(&self, connection: &Connection) -> Result<(), SessionError> {
        self.check_partitions(connection).await?;
        let channel = within(DECLARE_TIMEOUT, connection.create_channel()).await?;
        self.declare_dead_letters(&channel).await?;
        for topic in [self.enriched(), self.events()] {
            declare_exchange(&channel, &topic, ExchangeKind::Topic).await?;
        }
        self.declare_partitions(&channel).await?;
        for destination in &self.destinations {
            self.declare_destination(&channel, destination).await?;
        }
        within(DECLARE_TIMEOUT, channel.close(200, "OK".into())).await?;
        // Another process may have declared more of them at the same time as we did.
        self.check_no_more_partitions(connection).await
    }

    fn partition(&self, n: u16) -> String {
        format!("{}{n}", self.partition_prefix())
    }

    fn partition_prefix(&self) -> String {
        format!("{}.intake.", self.prefix)
    }

    fn check_settings(&self) -> Result<(), RabbitMqError> {
        if self.partitions == 0 {
            return Err(RabbitMqError::Setting {
                setting: "bus.partitions",
                reason: "there must be at least one".to_owned(),
            });
        }
        let longest = self
            .destinations
            .iter()
            .map(|destination| self.queue(&Queue::Destination(destination.name.clone())))
            .chain([
                self.queue(&Queue::DeadLetters),
                self.queue(&Queue::Backlog(u16::MAX)),
                self.changelog(u16::MAX),
            ])
            .max_by_key(String::len)
            .expect("there are three names at least");
        if longest.len() > NAME_BYTES_MAX {
            return Err(RabbitMqError::Setting {
                setting: "bus.prefix",
                reason: format!(
                    "the name {longest} is longer than {NAME_BYTES_MAX} bytes; shorten the prefix or the \
                     destination's name"
                ),
            });
        }
        Ok(())
    }

    /// Partitions are declared from the highest down, so `.0` proves that a set is complete; and one that has lost its queue since
    /// still has its backlog.
    async fn check_partitions(&self, connection: &Connection) -> Result<(), SessionError> {
        self.check_no_more_partitions(connection).await?;
        let last = self.partitions - 1;
        let is_complete = exists(connection, &self.partition(0)).await?;
        let backlog = self.queue(&Queue::Backlog(last));
        if is_complete
            && !exists(connection, &self.partition(last)).await?
            && !exists(connection, &backlog).await?
        {
            return Err(self.other_count(connection).await?.into());
        }
        Ok(())
    }

    async fn check_no_more_partitions(&self, connection: &Connection) -> Result<(), SessionError> {
        if exists(connection, &self.partition(self.partitions)).await? {
            return Err(self.other_count(connection).await?.into());
        }
        Ok(())
    }

    async fn other_count(&self, connection: &Connection) -> Result<RabbitMqError, SessionError> {
        let mut found = 0;
        while found < PARTITIONS_COUNT_MAX && exists(connection, &self.partition(found)).await? {
            found += 1;
        }
        Ok(RabbitMqError::Partitions {
            configured: self.partitions,
            found,
            queue_prefix: self.partition_prefix(),
        })
    }

    async fn declare_partitions(&self, channel: &Channel) -> Result<(), SessionError> {
        let intake = self.intake();
        declare_exchange(channel, &intake, ExchangeKind::Direct).await?;
        for n in (0..self.partitions).rev() {
            let name = self.partition(n);
            let arguments = self.partition_arguments();
            declare_queue(channel, &name, arguments, "bus.prefix").await?;
            bind(channel, &name, &intake, &n.to_string()).await?;
            let backlog = self.queue(&Queue::Backlog(n));
            declare_queue(channel, &backlog, self.partition_arguments(), "bus.prefix").await?;
            let changelog = self.changelog(n);
            declare_queue(channel, &changelog, changelog_arguments(), "bus.prefix").await?;
        }
        Ok(())
    }

    async fn declare_dead_letters(&self, channel: &Channel) -> Result<(), SessionError> {
        let (dead, letters) = (self.dead(), self.queue(&Queue::DeadLetters));
        declare_exchange(channel, &dead, ExchangeKind::Topic).await?;
        let arguments = quorum([("x-delivery-limit", NO_DELIVERY_LIMIT.into())]);
        declare_queue(channel, &letters, arguments, "bus.prefix").await?;
        let kept = self.dead_kept();
        declare_exchange(channel, &kept, ExchangeKind::Topic).await?;
        for exchange in [dead, kept] {
            bind(channel, &letters, &exchange, "#").await?;
        }
        let erasures = self.queue(&Queue::Erasures);
        declare_queue(channel, &erasures, erasures_arguments(), "bus.prefix").await
    }

    async fn declare_destination(
        &self,
        channel: &Channel,
        destination: &DestinationQueue,
    ) -> Result<(), SessionError> {
        let name = self.queue(&Queue::Destination(destination.name.clone()));
        let setting = format!("destination.{}.max_length_bytes", destination.name);
        let max_length_bytes = i64::try_from(destination.max_length_bytes).unwrap_or(i64::MAX);
        let arguments = quorum([
            ("x-overflow", text("reject-publish")),
            (
                "x-max-length-bytes",
                AMQPValue::LongLongInt(max_length_bytes),
            ),
            ("x-delivery-limit", NO_DELIVERY_LIMIT.into()),
        ]);
        declare_queue(channel, &name, arguments, &setting).await
    }

    /// One consumer at a time; what is delivered too often goes to `crm.dead`, and stays until that has it.
    fn partition_arguments(&self) -> FieldTable {
        quorum([
            ("x-single-active-consumer", AMQPValue::Boolean(true)),
            ("x-delivery-limit", PARTITION_DELIVERY_LIMIT.into()),
            ("x-dead-letter-exchange", text(&self.dead())),
            ("x-dead-letter-routing-key", text(DELIVERY_LIMIT_KEY)),
            ("x-dead-letter-strategy", text("at-least-once")),
            // At-least-once dead-lettering asks for it. Without a length limit it rejects nothing.
            ("x-overflow", text("reject-publish")),
        ])
    }
}

/// Asks for `queue` without declaring it, on a throw-away channel, since a no closes the channel.
/// Answers how many messages are ready.
///
/// # Errors
/// [`SessionError::is_not_found`] when there is no such queue.
pub(super) async fn inspect(
    connection: &Connection,
    queue: &str,
    limit: Duration,
) -> Result<u64, SessionError> {
    let name = ShortString::try_new(queue).map_err(|_| RabbitMqError::Setting {
        setting: "bus.prefix",
        reason: format!("a queue's name is longer than {NAME_BYTES_MAX} bytes"),
    })?;
    let channel = within(limit, connection.create_channel()).await?;
    let options = QueueDeclareOptions::durable().passive();
    let declared = channel.queue_declare(name, options, FieldTable::default());
    let queue = within(limit, declared).await?;
    within(limit, channel.close(200, "OK".into())).await?;
    Ok(u64::from(queue.message_count()))
}

async fn exists(connection: &Connection, queue: &str) -> Result<bool, SessionError> {
    match inspect(connection, queue, DECLARE_TIMEOUT).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.of_declaration(queue, "bus.prefix")),
    }
}

async fn declare_exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
) -> Result<(), SessionError> {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let declared = channel.exchange_declare(name.into(), kind, options, FieldTable::default());
    within(DECLARE_TIMEOUT, declared)
        .await
        .map_err(|error| error.of_declaration(name, "bus.prefix"))
}

async fn declare_queue(
    channel: &Channel,
    name: &str,
    arguments: FieldTable,
    setting: &str,
) -> Result<(), SessionError> {
    let declared = channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments);
    within(DECLARE_TIMEOUT, declared)
        .await
        .map(|_| ())
        .map_err(|error| error.of_declaration(name, setting))
}

async fn bind(
    channel: &Channel,
    queue: &str,
    exchange: &str,
    routing_key: &str,
) -> Result<(), SessionError> {
    let bound = channel.queue_bind(
        queue.into(),
        exchange.into(),
        routing_key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    within(DECLARE_TIMEOUT, bound)
        .await
        .map_err(|error| error.of_declaration(queue, "bus.prefix"))
}

/// One worker at a time searches the dead letters: what one has in hand, another would miss.
fn erasures_arguments() -> FieldTable {
    quorum([
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ("x-delivery-limit", NO_DELIVERY_LIMIT.into()),
    ])
}

/// A stream drops whole segments, once all in them is too old or there are too many bytes. Small segments make that
/// punctual.
fn changelog_arguments() -> FieldTable {
    let keep = format!("{}s", CHANGELOG_KEEP.as_secs());
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), text("stream"));
    table.insert("x-max-age".into(), text(&keep));
    table.insert(
        "x-max-length-bytes".into(),
        AMQPValue::LongLongInt(CHANGELOG_BYTES_MAX),
    );
    table.insert(
        "x-stream-max-segment-size-bytes".into(),
        AMQPValue::LongLongInt(CHANGELOG_SEGMENT_BYTES),
    );
    table
}

fn quorum<const N: usize>(arguments: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), text("quorum"));
    for (name, value) in arguments {
        table.insert(name.into(), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::config::ClientTlsConfig;

    fn options(prefix: &str, partitions: u16) -> RabbitMqOptions {
        RabbitMqOptions {
            tls: ClientTlsConfig::default(),
            url: "amqp://localhost".into(),
            prefix: prefix.into(),
            partitions,
            publish_timeout: Duration::from_secs(1),
            destinations: vec![DestinationQueue {
                name: "warehouse".into(),
                max_length_bytes: 1,
            }],
            connection_name: "test".into(),
        }
    }

    #[test]
    fn names_follow_the_prefix() {
        let topology = Topology::new(&options("crm", 16)).unwrap();
        assert_eq!(topology.queue(&Queue::Partition(3)), "crm.intake.3");
        assert_eq!(topology.queue(&Queue::Backlog(3)), "crm.backlog.3");
        assert_eq!(topology.changelog(3), "crm.changelog.3");
        assert_eq!(topology.queue(&Queue::DeadLetters), "crm.dead.letters");
        assert_eq!(topology.queue(&Queue::Erasures), "crm.erasures");
        let destination = Queue::Destination("warehouse".into());
        assert_eq!(topology.queue(&destination), "crm.destination.warehouse");
    }

    #[test]
    fn what_amqp_cannot_name_is_refused() {
        assert!(matches!(
            Topology::new(&options("crm", 0)),
            Err(RabbitMqError::Setting {
                setting: "bus.partitions",
                ..
            })
        ));
        assert!(matches!(
            Topology::new(&options(&"x".repeat(250), 1)),
            Err(RabbitMqError::Setting {
                setting: "bus.prefix",
                ..
            })
        ));
    }
}
