//! What can go wrong with the broker, told apart by who must act.
//!
//! A broker that is away comes back, so waiting mends it. A wrong password or a queue declared otherwise
//! stays wrong until an operator acts, so [`RabbitMqError`] says what to do.

use std::time::Duration;

use lapin::protocol::AMQPError;
use lapin::types::ReplyCode;

use crate::tls::{self, TlsError};

/// AMQP's reply code `ACCESS_REFUSED`: credentials at the handshake, permissions later.
const ACCESS_REFUSED: ReplyCode = 403;
/// AMQP's reply code `NOT_FOUND`.
const NOT_FOUND: ReplyCode = 404;
/// AMQP's reply code `RESOURCE_LOCKED`: it is another connection's alone.
const RESOURCE_LOCKED: ReplyCode = 405;
/// AMQP's reply code `PRECONDITION_FAILED`: it exists with other arguments.
const PRECONDITION_FAILED: ReplyCode = 406;
/// AMQP's reply code `NOT_ALLOWED`: at the handshake, a vhost that is not there or not ours.
const NOT_ALLOWED: ReplyCode = 530;

/// What an operator must fix before the bus can work. No retry mends it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RabbitMqError {
    /// The URL cannot be read. It is not repeated here, since it holds a password.
    #[error(
        "bus.url is not a broker's URL; write amqp://user:password@host:port/vhost, or amqps:// for TLS, \
         and percent-encode what is special in user, password and vhost"
    )]
    Url,
    /// A name is longer than AMQP's 255 bytes, or there is no partition at all.
    #[error("{setting} does not do: {reason}")]
    Setting {
        /// The key in the configuration.
        setting: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// What stands in `[bus.tls]` is of no use.
    #[error("bus.tls.{}: {}", .0.key(), .0)]
    TlsSetting(#[from] TlsError),
    /// Broker and relay do not come to terms about TLS.
    #[error("{0}")]
    Tls(String),
    /// User or password are refused.
    #[error("the broker refuses the credentials in bus.url ({detail}); check user and password")]
    Credentials {
        /// The broker's words.
        detail: String,
    },
    /// The vhost does not exist, or the user may not use it.
    #[error(
        "the broker refuses the vhost in bus.url ({detail}); create it, or grant the user permissions on it"
    )]
    Vhost {
        /// The broker's words.
        detail: String,
    },
    /// The user may not declare or use what we need.
    #[error(
        "the broker refuses access to {name} ({detail}); grant the user configure, write and read permissions \
         on the names that begin with bus.prefix, and to write to amq.default"
    )]
    Forbidden {
        /// The queue or exchange.
        name: String,
        /// The broker's words.
        detail: String,
    },
    /// Another number of partitions is in use. Going on would send portals to other partitions than those
    /// that hold their events, out of order.
    #[error(
        "bus.partitions is {configured}, but the broker has {found} partitions ({queue_prefix}<n>); set \
         bus.partitions to {found}, or drain and delete these queues, with every receiver's spool empty, before you start with another number"
    )]
    Partitions {
        /// What the configuration says.
        configured: u16,
        /// How many there are.
        found: u16,
        /// What the partitions' names begin with.
        queue_prefix: String,
    },
    /// A queue or exchange of this name exists, but it was declared otherwise (406).
    #[error(
        "{name} exists on the broker with other arguments ({detail}); set {setting} to what it was declared \
         with, or delete it once it is empty and start again"
    )]
    Differs {
        /// The queue or exchange.
        name: String,
        /// The setting that its arguments come from.
        setting: String,
        /// The broker's words: which argument, and both values.
        detail: String,
    },
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// An operator must act.
    #[error(transparent)]
    Fatal(#[from] RabbitMqError),
    /// The broker is away, or the connection broke. Trying again may mend it.
    #[error(transparent)]
    Lost(#[from] lapin::Error),
    /// The broker did not answer in time.
    #[error("the broker did not answer within {0:?}")]
    Timeout(Duration),
    /// The broker ended the consumption: the queue's leader moved, or it was deleted.
    #[error("the broker cancelled the consumer")]
    Cancelled,
}

impl SessionError {
    /// What a refused handshake means.
    pub(super) fn of_handshake(error: lapin::Error) -> Self {
        if let lapin::ErrorKind::IOError(cause) = error.kind()
            && let Some(fault) = tls::explain(&**cause, "the broker", "bus.tls")
        {
            return RabbitMqError::Tls(fault).into();
        }
        match refusal(&error) {
            Some((ACCESS_REFUSED, detail)) => RabbitMqError::Credentials { detail }.into(),
            // A limit on connections is refused by the same code, but passes.
            Some((NOT_ALLOWED, detail)) if !detail.contains("limit") => {
                RabbitMqError::Vhost { detail }.into()
            }
            _ => error.into(),
        }
    }

    /// What a refused declaration of `name`, whose arguments come from `setting`, means.
    pub(super) fn of_declaration(self, name: &str, setting: &str) -> Self {
        let Self::Lost(error) = &self else {
            return self;
        };
        match refusal(error) {
            Some((ACCESS_REFUSED, detail)) => RabbitMqError::Forbidden {
                name: name.to_owned(),
                detail,
            }
            .into(),
            Some((PRECONDITION_FAILED, detail)) => RabbitMqError::Differs {
                name: name.to_owned(),
                setting: setting.to_owned(),
                detail,
            }
            .into(),
            _ => self,
        }
    }

    /// Whether the broker says that the queue is another connection's alone.
    pub(super) fn is_locked(&self) -> bool {
        matches!(self, Self::Lost(error) if matches!(refusal(error), Some((RESOURCE_LOCKED, _))))
    }

    /// Whether the broker says that there is no such queue.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Lost(error) if matches!(refusal(error), Some((NOT_FOUND, _))))
    }
}

/// Waits for an answer of the broker, at most `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, SessionError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(SessionError::Timeout(limit)),
    }
}

/// The reply code and text of an error that the broker itself raised.
fn refusal(error: &lapin::Error) -> Option<(ReplyCode, String)> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => Some(code_and_text(error)),
        _ => None,
    }
}

fn code_and_text(error: &AMQPError) -> (ReplyCode, String) {
    (error.get_id(), error.get_message().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(code: ReplyCode, text: &str) -> lapin::Error {
        let error = AMQPError::from_id(code, text.into()).unwrap();
        lapin::ErrorKind::ProtocolError(error).into()
    }

    #[test]
    fn a_refused_handshake_is_fatal_unless_it_is_a_limit() {
        let of = |code, text| SessionError::of_handshake(raised(code, text));
        assert!(matches!(
            of(403, "ACCESS_REFUSED - Login was refused"),
            SessionError::Fatal(RabbitMqError::Credentials { .. })
        ));
        assert!(matches!(
            of(530, "NOT_ALLOWED - vhost nowhere not found"),
            SessionError::Fatal(RabbitMqError::Vhost { .. })
        ));
        assert!(matches!(
            of(530, "NOT_ALLOWED - connection limit (5) is reached"),
            SessionError::Lost(_)
        ));
        assert!(matches!(
            of(320, "CONNECTION_FORCED"),
            SessionError::Lost(_)
        ));
    }

    #[test]
    fn a_refused_declaration_names_the_queue_and_the_setting() {
        let error = SessionError::Lost(raised(406, "inequivalent arg 'x-max-length-bytes'"))
            .of_declaration("crm.destination.a", "destination.a.max_length_bytes");
        let text = error.to_string();
        assert!(text.contains("crm.destination.a exists"), "{text}");
        assert!(text.contains("destination.a.max_length_bytes"), "{text}");
        assert!(text.contains("x-max-length-bytes"), "{text}");
    }

    #[test]
    fn a_lost_connection_is_not_fatal_to_a_declaration() {
        let error = SessionError::Timeout(Duration::from_secs(1)).of_declaration("a", "b");
        assert!(matches!(error, SessionError::Timeout(_)));
        assert!(SessionError::Lost(raised(404, "no queue")).is_not_found());
    }
}
