//! The right to take dead letters: an exclusive queue, of which the broker lets one connection have the name.
//!
//! It goes with the connection, over which its holder consumes as well: when that breaks, right and letters are lost together.

use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::OwnedMutexGuard;

use super::error::{SessionError, within};
use super::session::{Session, close_channel};
use crate::bus::Claim;

/// How long one answer of the broker may take.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);
/// Letters that the broker pushes into memory at once; each has at most 8 MiB.
const WINDOW: u16 = 64;

/// What holds the right.
struct Held {
    channel: Channel,
    queue: ShortString,
    /// This process's own turn, since a connection may declare its queue twice.
    turn: Option<OwnedMutexGuard<()>>,
}

/// Claims the right by declaring `queue`; `None` when another connection has it.
pub(super) async fn claim(
    session: Arc<Session>,
    queue: ShortString,
    turn: OwnedMutexGuard<()>,
) -> Result<Option<Claim>, SessionError> {
    let channel = session.channel().await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(queue.clone(), options, FieldTable::default());
    match within(CLAIM_TIMEOUT, declared).await {
        Ok(_) => {
            let held = Held {
                channel,
                queue,
                turn: Some(turn),
            };
            Ok(Some(Claim::new(WINDOW, session.end_token(), held)))
        }
        Err(error) if error.is_locked() => Ok(None),
        Err(error) => Err(error),
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Without a runtime the connection ends as well, and the right with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (channel, queue, turn) = (self.channel.clone(), self.queue.clone(), self.turn.take());
        runtime.spawn(async move {
            let deleted = channel.queue_delete(queue, QueueDeleteOptions::default());
            // Where that fails the session is broken, and the queue goes with it.
            let _ = within(CLAIM_TIMEOUT, deleted).await;
            close_channel(&channel).await;
            drop(turn);
        });
    }
}
