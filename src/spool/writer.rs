//! The one thread that writes: it gathers what waits, and one sync answers all of it.
//!
//! Reads go through it too, so that there is one view of what is in the log. What waits is told before anybody
//! is answered: who is answered may rely on it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::disk::Disk;
use super::log::{AppendError, Log, Oldest, Waiting};
use crate::bus::Outgoing;
use crate::event::Millis;
use crate::metrics::Metrics;

/// Commands that may wait for the writer.
pub(super) const COMMANDS_MAX: usize = 1_024;
/// Requests answered by one sync.
const ROUND_REQUESTS_MAX: usize = 256;
/// Bytes of bodies after which a round takes no further request.
const ROUND_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What the writer is asked to do. A dropped answer means that it was not done.
#[derive(Debug)]
pub(super) enum Command {
    /// Store the messages of a request, all or none.
    Append {
        messages: Vec<Outgoing>,
        done: oneshot::Sender<Result<(), AppendError>>,
    },
    /// Give the oldest file.
    Oldest {
        done: oneshot::Sender<Option<Oldest>>,
    },
    /// Let the oldest file go, all of it delivered.
    Remove {
        number: u64,
        damaged: bool,
        done: oneshot::Sender<()>,
    },
    /// See whether the disk takes writes again.
    Probe,
    /// Let go of the folder.
    Close { done: oneshot::Sender<()> },
}

/// What everybody sees of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// What waits.
    pub(super) waiting: Waiting,
    /// Whether the largest message finds room.
    pub(super) has_room: bool,
    /// Whether the last write failed.
    pub(super) failing: bool,
}

/// The thread's own.
pub(super) struct Writer<D: Disk> {
    pub(super) log: Log<D>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) view: watch::Sender<View>,
    /// Whether requests can be taken, for the probes.
    pub(super) takes: watch::Sender<bool>,
    pub(super) metrics: Arc<Metrics>,
}

impl<D: Disk> Writer<D> {
    /// Serves commands until it is closed or all senders are gone.
    pub(super) fn run(mut self) {
        let takes = self.takes.clone();
        let _says_gone = SaysGone(takes);
        let mut next = None;
        while let Some(command) = next.take().or_else(|| self.commands.blocking_recv()) {
            match command {
                Command::Append { messages, done } => next = self.append_round(messages, done),
                Command::Oldest { done } => {
                    let oldest = self.log.oldest().unwrap_or_else(|error| {
                        tracing::error!(%error, "the spool cannot be read; trying again");
                        None
                    });
                    self.show();
                    let _ = done.send(oldest);
                }
                Command::Remove {
                    number,
                    damaged,
                    done,
                } => {
                    if let Err(error) = self.log.remove(number, damaged) {
                        tracing::error!(%error, "a drained file of the spool cannot be removed; it is sent again after the next start");
                    }
                    self.show();
                    let _ = done.send(());
                }
                Command::Probe => {
                    let probed = self.log.probe(Millis::now());
                    self.note(probed.map_err(AppendError::from).err().as_ref());
                    self.show();
                }
                Command::Close { done } => {
                    drop(self);
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    /// Writes one request and those that wait behind it, and answers them after one sync. Returns the command that
    /// ended the round.
    fn append_round(
        &mut self,
        messages: Vec<Outgoing>,
        done: oneshot::Sender<Result<(), AppendError>>,
    ) -> Option<Command> {
        let (mut written, mut bytes, mut other) = (Vec::new(), 0, None);
        let mut outcome = Ok(());
        let mut next = Some((messages, done));
        while let Some((messages, done)) = next.take() {
            match self.log.append(&messages, Millis::now()) {
                Ok(()) => written.push((done, messages.len() as u64)),
                Err(AppendError::Full) => {
                    let _ = done.send(Err(AppendError::Full));
                }
                Err(AppendError::Io(error)) => {
                    written.push((done, 0));
                    outcome = Err(error);
                    break;
                }
            }
            bytes += messages
                .iter()
                .map(|one| one.message.body.len())
                .sum::<usize>();
            if written.len() < ROUND_REQUESTS_MAX && bytes < ROUND_BYTES_MAX {
                match self.commands.try_recv() {
                    Ok(Command::Append { messages, done }) => next = Some((messages, done)),
                    Ok(command) => other = Some(command),
                    Err(_) => {}
                }
            }
        }
        self.end_round(outcome, written);
        other
    }

    fn end_round(
        &mut self,
        outcome: std::io::Result<()>,
        written: Vec<(oneshot::Sender<Result<(), AppendError>>, u64)>,
    ) {
        let outcome = outcome.and_then(|()| self.log.sync());
        if outcome.is_err() {
            self.log.give_up();
        }
        let kind = outcome.as_ref().err().map(std::io::Error::kind);
        self.note(outcome.map_err(AppendError::from).err().as_ref());
        self.show();
        for (done, messages) in written {
            let answer = match kind {
                None => {
                    self.metrics.spool_stored_total.inc_by(messages);
                    Ok(())
                }
                Some(kind) => Err(AppendError::Io(kind.into())),
            };
            // Who no longer waits gets no answer, and HubSpot sends it again.
            let _ = done.send(answer);
        }
    }

    /// Notes whether the disk takes writes, and says so when that changes.
    fn note(&self, error: Option<&AppendError>) {
        let was_failing = self.view.borrow().failing;
        match error {
            Some(error) if !was_failing => {
                tracing::error!(%error, "the spool takes no writes; check its disk");
            }
            None if was_failing => tracing::info!("the spool takes writes again"),
            _ => {}
        }
        self.view.send_modify(|view| view.failing = error.is_some());
    }

    /// Tells everybody what is in the log now.
    pub(super) fn show(&self) {
        let view = View {
            waiting: self.log.waiting(),
            has_room: self.log.has_room(),
            failing: self.view.borrow().failing,
        };
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics
            .spool_messages
            .set(gauge(view.waiting.messages));
        self.metrics.spool_bytes.set(gauge(view.waiting.bytes));
        let before = self.view.send_replace(view);
        if before.has_room && !view.has_room {
            tracing::error!("the spool is full; requests are answered 503 until it is drained");
        }
        self.takes.send_replace(view.has_room && !view.failing);
    }
}

/// Says "takes nothing" however the thread ends, a panic included.
struct SaysGone(watch::Sender<bool>);

impl Drop for SaysGone {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
