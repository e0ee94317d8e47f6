//! Workers tell one another that they are there, over a fanout exchange, and share the partitions out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, ExchangeKind};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::{SessionError, within};
use super::session::{Session, close_consumer, delays};
use super::topology::Topology;
use crate::bus::RECONNECT_DELAY_MAX;
use crate::bus::members::Members;

/// How often a worker says that it is there. One that is silent is gone after four of these.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// How long after the first beat the second one follows, to know the others soon.
const SETTLE_DELAY: Duration = Duration::from_millis(200);
/// How long one answer of the broker may take.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(10);
/// AMQP's `type` of a beat.
const HERE: &str = "crm.worker_here.v1";
/// AMQP's `type` of a farewell.
const GONE: &str = "crm.worker_gone.v1";

/// A worker among others.
pub(super) struct Membership {
    /// What the others know it by.
    pub(super) id: String,
    /// Names, and how many partitions there are.
    pub(super) topology: Arc<Topology>,
    /// The present session.
    pub(super) session: watch::Receiver<Option<Arc<Session>>>,
    /// The partitions that are its own.
    pub(super) share: watch::Sender<BTreeSet<u16>>,
    /// Resolves when the worker stops, or the bus closes.
    pub(super) leaving: CancellationToken,
}

impl Membership {
    /// Is a member, session after session, until the worker stops. Without a session its share stays what it was.
    pub(super) async fn run(mut self) {
        let mut delays = delays();
        loop {
            let session = tokio::select! {
                () = self.leaving.cancelled() => return,
                session = self.session.wait_for(Option::is_some) => session.ok().and_then(|one| one.clone()),
            };
            let Some(session) = session else { return };
            match self.serve(&session).await {
                Ok(()) => delays = self::delays(),
                Err(error) => {
                    tracing::warn!(%error, "the other workers cannot be heard; trying again")
                }
            }
            if self.leaving.is_cancelled() {
                return;
            }
            let delay = delays.next().unwrap_or(RECONNECT_DELAY_MAX);
            tokio::time::sleep(delay.min(RECONNECT_DELAY_MAX)).await;
        }
    }

    async fn serve(&self, session: &Session) -> Result<(), SessionError> {
        let channel = session.channel().await?;
        let mut beats = self.listen(&channel).await?;
        let ended = self.talk(session, &mut beats).await;
        close_consumer(&channel, beats).await;
        ended
    }

    async fn talk(
        &self,
        session: &Session,
        beats: &mut lapin::Consumer,
    ) -> Result<(), SessionError> {
        let speaking = session.publish_channel().await?;
        let mut members = Members::new(&self.id);
        let mut next_beat = tokio::time::Instant::now();
        let mut delay = SETTLE_DELAY;
        loop {
            tokio::select! {
                () = session.ended() => return Ok(()),
                () = self.leaving.cancelled() => return self.say(&speaking, GONE).await,
                () = tokio::time::sleep_until(next_beat) => {
                    self.say(&speaking, HERE).await?;
                    next_beat = tokio::time::Instant::now() + delay;
                    delay = BEAT_INTERVAL;
                }
                beat = beats.next() => {
                    let Some(beat) = beat.transpose()? else { return Ok(()) };
                    if self.hear(&mut members, &beat.properties) {
                        self.say(&speaking, HERE).await?;
                    }
                }
            }
        }
    }

    /// Takes a beat in. Whether it is to be answered.
    fn hear(&self, members: &mut Members, properties: &BasicProperties) -> bool {
        let text = |property: &Option<ShortString>| {
            property
                .as_ref()
                .map(|text| text.as_str().to_owned())
                .unwrap_or_default()
        };
        let id = text(properties.message_id());
        let is_new = match text(properties.kind()).as_str() {
            HERE => members.heard(&id),
            GONE => {
                members.left(&id);
                false
            }
            _ => false,
        };
        if members.are_known() {
            let share = members.share(self.topology.partitions());
            self.share.send_if_modified(|known| {
                let changes = *known != share;
                if changes {
                    tracing::info!(partitions = share.len(), "the partitions of this worker");
                    *known = share;
                }
                changes
            });
        }
        is_new
    }

    async fn listen(&self, channel: &Channel) -> Result<lapin::Consumer, SessionError> {
        let exchange = self.topology.workers();
        let declared = channel.exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Fanout,
            ExchangeDeclareOptions {
                durable: true,
                ..ExchangeDeclareOptions::default()
            },
            FieldTable::default(),
        );
        within(MEMBER_TIMEOUT, declared).await?;
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let name = format!("{exchange}.{}", self.id);
        let queue = channel.queue_declare(name.as_str().into(), options, FieldTable::default());
        within(MEMBER_TIMEOUT, queue).await?;
        let bound = channel.queue_bind(
            name.as_str().into(),
            exchange.as_str().into(),
            ShortString::default(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        within(MEMBER_TIMEOUT, bound).await?;
        let consume = channel.basic_consume(
            name.as_str().into(),
            ShortString::default(),
            BasicConsumeOptions {
                no_ack: true,
                exclusive: true,
                ..BasicConsumeOptions::default()
            },
            FieldTable::default(),
        );
        within(MEMBER_TIMEOUT, consume).await
    }

    async fn say(&self, channel: &Channel, kind: &str) -> Result<(), SessionError> {
        let properties = BasicProperties::default()
            .with_message_id(self.id.as_str().into())
            .with_type(kind.into());
        let said = channel.basic_publish(
            self.topology.workers().as_str().into(),
            ShortString::default(),
            BasicPublishOptions::default(),
            &[],
            properties,
        );
        within(MEMBER_TIMEOUT, said).await.map(drop)
    }
}
