//! The one thread that owns the database: it gathers what waits, and one commit (one fsync) serves it all.
//!
//! Reads go through it too, so that a consumer sees exactly what is committed, in order with its settlements.
//! Nothing is answered before the commit. When a round fails, all of it fails. If the cause can pass (disk full,
//! locked by a shell) the writer is *suspended*: it refuses everything, tries again with growing pauses, and
//! then resumes. After any other error, a failed fsync above all, it stops for good: what the page
//! cache shows then need not be what the disk holds.
//!
//! What is deleted is overwritten in the database, but SQLite's log still shows it as it was. So a while after a
//! deletion the log is folded back and cut to nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use super::error::passes;
use super::room::Room;
use super::signals::{Connected, Signals};
use super::store::{Appended, Fetched, QueueId, Round, Store, Wanted};
use crate::bus::{PublishError, RECONNECT_DELAY_MAX, RECONNECT_DELAY_MIN, Settlement, StoredNote};
use crate::folder::Folder;

/// Commands that may wait for the writer.
pub(super) const COMMANDS_MAX: usize = 1_024;
/// Commands served by one commit.
const ROUND_COMMANDS_MAX: usize = 256;
/// Bytes of bodies after which a round takes no further command.
const ROUND_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long after a deletion the log may still hold what was deleted.
const FOLD_DELAY: Duration = Duration::from_secs(10);
/// While suspended, how long a command may wait to be refused.
const SUSPENDED_STEP: Duration = Duration::from_millis(25);

/// What the writer is asked to do. A dropped answer means that it was not done.
#[derive(Debug)]
pub(super) enum Command {
    /// Store messages, all or none.
    Append {
        messages: Vec<Appended>,
        done: oneshot::Sender<Result<(), PublishError>>,
    },
    /// Give messages to a consumer.
    Fetch {
        wanted: Wanted,
        done: oneshot::Sender<Fetched>,
    },
    /// End deliveries.
    Settle {
        settled: Vec<(i64, Settlement)>,
        done: oneshot::Sender<()>,
    },
    /// Read on in a changelog.
    Notes {
        changelog: QueueId,
        after: i64,
        done: oneshot::Sender<Vec<StoredNote>>,
    },
    /// Count a queue's messages.
    Depth {
        queue: QueueId,
        done: oneshot::Sender<u64>,
    },
    /// Fold the log back, close the database and unlock the folder.
    Close { done: oneshot::Sender<()> },
}

/// The thread's own.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) folder: Folder,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) signals: Arc<Signals>,
    /// Dropped however the thread ends, a panic included.
    pub(super) connected: Connected,
    /// When the log is to be folded back, if something was deleted since.
    pub(super) fold_at: Option<Instant>,
    pub(super) room: Room,
}

/// An answer that waits for the commit.
enum Answer {
    Appended(oneshot::Sender<Result<(), PublishError>>, Vec<QueueId>),
    Fetched(oneshot::Sender<Fetched>, Fetched),
    Settled(oneshot::Sender<()>),
    Notes(oneshot::Sender<Vec<StoredNote>>, Vec<StoredNote>),
    Depth(oneshot::Sender<u64>, u64),
}

/// What the thread does after a round.
enum Next {
    Serve,
    Fail,
    Close(Option<oneshot::Sender<()>>),
}

/// How a failed round failed.
struct Failure {
    error: rusqlite::Error,
    /// Whether the commit itself failed: then nobody can say whether the round is durable.
    at_commit: bool,
}

impl Writer {
    /// Serves commands until it is closed, all senders are gone, or the store fails for good.
    pub(super) fn run(mut self) {
        let clock = clock();
        while let Some(first) = self.next(clock.as_ref()) {
            let (round, close) = self.gather(first);
            let round = self.without_new_events_where_short(round);
            if round.iter().any(deletes) {
                self.fold_at.get_or_insert(Instant::now() + FOLD_DELAY);
            }
            let next = match self.serve(round) {
                Ok(()) => Next::Serve,
                Err(error) => self.recover(error),
            };
            match (next, close) {
                (Next::Serve, None) => {}
                (Next::Serve, done @ Some(_)) | (Next::Close(done), _) => return self.close(done),
                (Next::Fail, _) => return self.fail(),
            }
        }
        self.close(None);
    }

    /// The next command. Folds the log back when that is due, whether or not a command comes.
    fn next(&mut self, clock: Option<&Runtime>) -> Option<Command> {
        loop {
            let (Some(at), Some(clock)) = (self.fold_at, clock) else {
                return self.commands.blocking_recv();
            };
            if Instant::now() >= at {
                self.fold_at = (!self.fold()).then(|| Instant::now() + FOLD_DELAY);
                continue;
            }
            let wait = async { timeout_at(at.into(), self.commands.recv()).await };
            if let Ok(command) = clock.block_on(wait) {
                return command;
            }
        }
    }

    /// Folds the log back into the database and cuts it to nothing. Whether that was done; not while an operator's
    /// shell reads.
    fn fold(&self) -> bool {
        let fold = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy = self.store.connection.query_row(fold, [], |row| row.get(0));
        if let Err(error) = &busy {
            tracing::warn!(%error, "the store's log could not be folded back");
        }
        busy == Ok(0_i64)
    }

    /// The commands of the next round, and whether to close after it.
    fn gather(&mut self, first: Command) -> (Vec<Command>, Option<oneshot::Sender<()>>) {
        let mut round = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            if let Command::Close { done } = command {
                return (round, Some(done));
            }
            bytes += body_bytes(&command);
            round.push(command);
            let full = round.len() >= ROUND_COMMANDS_MAX || bytes >= ROUND_BYTES_MAX;
            next = if full {
                None
            } else {
                self.commands.try_recv().ok()
            };
        }
        (round, None)
    }

    /// Refuses new events, but nothing else, while the disk has little room.
    fn without_new_events_where_short(&self, round: Vec<Command>) -> Vec<Command> {
        let reusable = || self.store.reusable().unwrap_or(0);
        let has_room = || self.room.is_enough(reusable);
        if !round.iter().any(brings_events) || has_room() {
            return round;
        }
        let (refused, left): (Vec<_>, Vec<_>) = round.into_iter().partition(brings_events);
        refused.into_iter().for_each(refuse);
        left
    }

    /// One transaction for all of `commands`; answers them all, either way.
    fn serve(&mut self, commands: Vec<Command>) -> Result<(), rusqlite::Error> {
        let mut answers = Vec::with_capacity(commands.len());
        let mut commands = commands.into_iter();
        let failure = match execute_all(&mut self.store, &mut commands, &mut answers) {
            Ok(()) => {
                answers
                    .into_iter()
                    .for_each(|answer| give(answer, &self.signals));
                return Ok(());
            }
            Err(failure) => failure,
        };
        // Before anybody is answered: who publishes again at once is told that the store is away.
        self.connected.set(false);
        let verdict = if failure.at_commit {
            PublishError::Unknown
        } else {
            PublishError::Unavailable
        };
        answers.into_iter().for_each(|answer| deny(answer, verdict));
        commands.for_each(refuse);
        Err(failure.error)
    }

    /// After a failed round: waits until the store takes writes again, unless it never will.
    fn recover(&mut self, mut error: rusqlite::Error) -> Next {
        self.signals.metrics().bus_sessions_lost_total.inc();
        tracing::error!(?error, "the store takes no writes");
        let mut delay = RECONNECT_DELAY_MIN;
        while passes(&error) {
            if let Err(done) = self.refuse_for(delay) {
                return Next::Close(done);
            }
            match self.store.probe() {
                Ok(()) => {
                    tracing::info!("the store takes writes again");
                    self.connected.set(true);
                    return Next::Serve;
                }
                Err(again) => error = again,
            }
            delay = (delay * 2).min(RECONNECT_DELAY_MAX);
        }
        tracing::error!(
            ?error,
            "the store failed for good; check its disk, then restart"
        );
        Next::Fail
    }

    /// Refuses what comes for `delay`.
    ///
    /// # Errors
    /// When the bus is closed meanwhile, or gone: whom to tell, once it is.
    fn refuse_for(&mut self, delay: Duration) -> Result<(), Option<oneshot::Sender<()>>> {
        let until = Instant::now() + delay;
        while Instant::now() < until {
            match self.commands.try_recv() {
                Ok(Command::Close { done }) => return Err(Some(done)),
                Ok(command) => refuse(command),
                Err(TryRecvError::Empty) => std::thread::sleep(SUSPENDED_STEP),
                Err(TryRecvError::Disconnected) => return Err(None),
            }
        }
        Ok(())
    }

    /// Refuses what still waits and lets go of the database without touching it again.
    fn fail(mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            refuse(command);
        }
        let _ = self.store.connection.set_db_config(
            rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
            true,
        );
    }

    fn close(mut self, done: Option<oneshot::Sender<()>>) {
        self.commands.close();
        self.connected.set(false);
        while let Ok(command) = self.commands.try_recv() {
            refuse(command);
        }
        // Where that fails nothing is lost: the log is read at the next open.
        self.fold();
        drop(self.store);
        drop(self.folder);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

/// What wakes the thread when no command comes. Without it the log is folded back at the end alone.
fn clock() -> Option<Runtime> {
    let clock = runtime::Builder::new_current_thread().enable_time().build();
    clock
        .inspect_err(|error| tracing::error!(%error, "the store's log stays until the end"))
        .ok()
}

fn deletes(command: &Command) -> bool {
    let Command::Settle { settled, .. } = command else {
        return false;
    };
    settled.iter().any(|(_, how)| *how == Settlement::Ack)
}

fn brings_events(command: &Command) -> bool {
    let Command::Append { messages, .. } = command else {
        return false;
    };
    messages.iter().any(|one| one.queue.is_partition())
}

fn body_bytes(command: &Command) -> usize {
    match command {
        Command::Append { messages, .. } => messages.iter().map(|one| one.message.body.len()).sum(),
        _ => 0,
    }
}

fn execute_all(
    store: &mut Store,
    commands: &mut impl Iterator<Item = Command>,
    answers: &mut Vec<Answer>,
) -> Result<(), Failure> {
    let before_commit = |error| Failure {
        error,
        at_commit: false,
    };
    let mut round = store.begin().map_err(before_commit)?;
    for command in commands {
        execute(&mut round, command, answers).map_err(before_commit)?;
    }
    round.commit().map_err(|error| Failure {
        error,
        at_commit: true,
    })
}

/// Executes one command. Its answer is kept even when it fails, to be denied.
fn execute(
    round: &mut Round<'_>,
    command: Command,
    answers: &mut Vec<Answer>,
) -> rusqlite::Result<()> {
    match command {
        Command::Append { messages, done } => {
            let queues = messages.iter().map(|one| one.queue).collect();
            answers.push(Answer::Appended(done, queues));
            messages.iter().try_for_each(|one| round.append(one))
        }
        Command::Fetch { wanted, done } => {
            let fetched = round.fetch(&wanted)?;
            answers.push(Answer::Fetched(done, fetched));
            Ok(())
        }
        Command::Settle { settled, done } => {
            answers.push(Answer::Settled(done));
            settled
                .into_iter()
                .try_for_each(|(seq, settlement)| match settlement {
                    Settlement::Ack => round.remove(seq),
                    Settlement::HandBack => round.uncount_delivery(seq),
                    // It was counted when it was delivered.
                    Settlement::Fail => Ok(()),
                })
        }
        Command::Notes {
            changelog,
            after,
            done,
        } => {
            answers.push(Answer::Notes(done, round.notes(changelog, after)?));
            Ok(())
        }
        Command::Depth { queue, done } => {
            answers.push(Answer::Depth(done, round.depth(queue)?));
            Ok(())
        }
        Command::Close { .. } => unreachable!("closing ends a round and is not part of it"),
    }
}

/// Gives an answer after the commit. Who no longer waits for it does not need it.
fn give(answer: Answer, signals: &Signals) {
    match answer {
        Answer::Appended(done, queues) => {
            let _ = done.send(Ok(()));
            let consumed = queues
                .into_iter()
                .filter(|queue| queue.changelog_of().is_none());
            consumed.for_each(|queue| signals.lane(queue).appended.notify_one());
        }
        Answer::Fetched(done, fetched) => {
            if fetched.dead > 0 {
                told_of_the_dead(fetched.dead, signals);
            }
            let _ = done.send(fetched);
        }
        Answer::Settled(done) => {
            let _ = done.send(());
        }
        Answer::Notes(done, notes) => {
            let _ = done.send(notes);
        }
        Answer::Depth(done, depth) => {
            let _ = done.send(depth);
        }
    }
}

fn told_of_the_dead(dead: usize, signals: &Signals) {
    tracing::warn!(
        messages = dead,
        "messages went over the delivery limit and are dead letters now"
    );
    signals
        .metrics()
        .dead_letters_total
        .with_label_values(&["consume", "delivery_limit"])
        .inc_by(dead as u64);
    signals.lane(QueueId::DEAD_LETTERS).appended.notify_one();
}

fn deny(answer: Answer, verdict: PublishError) {
    if let Answer::Appended(done, _) = answer {
        let _ = done.send(Err(verdict));
    }
}

/// Answers a command that was not executed.
fn refuse(command: Command) {
    if let Command::Append { done, .. } = command {
        let _ = done.send(Err(PublishError::Unavailable));
    }
}
