//! The store: the tables, and every statement that touches them.
//!
//! Knows no threads, no waiting and no metrics. All of a round's statements run in one [`Transaction`], which
//! the writer commits; nothing here is remembered between rounds but the next sequence number.

use std::collections::BTreeSet;

use bytes::Bytes;
use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};

use crate::bus::{CHANGELOG_KEEP, Message, StoredNote};
use crate::event::Millis;

/// How often a message may be delivered again before it becomes a dead letter, as `x-delivery-limit` counts.
pub(super) const DELIVERY_LIMIT: u32 = 100;
/// The routing key of a message that went over [`DELIVERY_LIMIT`], the same as on RabbitMQ.
pub(super) const DELIVERY_LIMIT_KEY: &str = "consume.delivery_limit";
/// The most bytes of bodies one fetch brings, give or take the last message: publishers wait meanwhile.
const FETCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A queue of the store: a partition's number, [`QueueId::DEAD_LETTERS`], below that a backlog, or
/// [`QueueId::ERASURES`]. A changelog has a number too, but no consumers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct QueueId(i64);

impl QueueId {
    /// Where dead letters lie.
    pub(super) const DEAD_LETTERS: Self = Self(-1);

    /// Records that the dead letters are to be searched for: beyond every partition, of which there are fewer.
    pub(super) const ERASURES: Self = Self(CHANGELOGS - 1);

    /// The queue of a partition.
    pub(super) fn partition(number: u16) -> Self {
        Self(i64::from(number))
    }

    /// The backlog of a partition.
    pub(super) fn backlog(number: u16) -> Self {
        Self(Self::DEAD_LETTERS.0 - 1 - i64::from(number))
    }

    /// The changelog of a partition.
    pub(super) fn changelog(number: u16) -> Self {
        Self(CHANGELOGS + i64::from(number))
    }

    /// The partition whose changelog it is.
    pub(super) fn changelog_of(self) -> Option<i64> {
        (self.0 >= CHANGELOGS).then(|| self.0 - CHANGELOGS)
    }

    /// Whether it is a partition's queue, of events that nobody took yet.
    pub(super) fn is_partition(self) -> bool {
        (0..Self::ERASURES.0).contains(&self.0)
    }

    /// Whether what is delivered too often stays all the same: it is nobody's poison.
    fn has_no_limit(self) -> bool {
        self == Self::DEAD_LETTERS || self == Self::ERASURES
    }

    /// Its place in a list that has the erasures and the dead letters first, and then each partition with its backlog.
    pub(super) fn index(self) -> usize {
        if self == Self::ERASURES {
            return 0;
        }
        let index = match self.0 - Self::DEAD_LETTERS.0 {
            above @ 1.. => 2 * above,
            below_or_itself => 1 - 2 * below_or_itself,
        };
        usize::try_from(index).expect("it is not negative")
    }
}

/// The number of the first changelog: beyond every partition's.
const CHANGELOGS: i64 = 1 << 16;
/// The most notes that one look brings.
const NOTES_MAX: i64 = 512;

/// A message to append, and the key it was published by where its queue keeps that.
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) queue: QueueId,
    pub(super) routing_key: Option<String>,
    pub(super) message: Message,
}

/// What a consumer asks for: up to `count` messages after `after`, save those it has in hand.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) queue: QueueId,
    pub(super) after: i64,
    pub(super) in_hand: BTreeSet<i64>,
    pub(super) count: usize,
}

/// What it gets.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// In order.
    pub(super) messages: Vec<Stored>,
    /// The last sequence number that was looked at.
    pub(super) looked_at: Option<i64>,
    /// Whether there is nothing beyond; otherwise the bound on count or bytes ended it.
    pub(super) exhausted: bool,
    /// How many went over the delivery limit and were moved to the dead letters.
    pub(super) dead: usize,
}

/// A message as it lies in the store.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) seq: i64,
    pub(super) delivery_count: u32,
    pub(super) routing_key: String,
    pub(super) message: Message,
}

/// The writing connection.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) connection: Connection,
    pub(super) next_seq: i64,
}

impl Store {
    /// Begins a round. A rollback leaves a gap in the sequence numbers, which harms nobody.
    ///
    /// # Errors
    /// SQLite's, `SQLITE_BUSY` among them when an operator's shell is writing.
    pub(super) fn begin(&mut self) -> rusqlite::Result<Round<'_>> {
        let Self {
            connection,
            next_seq,
        } = self;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        Ok(Round {
            transaction,
            next_seq,
        })
    }

    /// Bytes of the file that hold nothing.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn reusable(&self) -> rusqlite::Result<u64> {
        let ask = |what| {
            let pages = self
                .connection
                .pragma_query_value(None, what, |row| row.get::<_, i64>(0));
            pages.map(i64::unsigned_abs)
        };
        Ok(ask("freelist_count")? * ask("page_size")?)
    }

    /// Writes and commits something small: whether the store takes writes again.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn probe(&mut self) -> rusqlite::Result<()> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute(
            "INSERT INTO settings (name, value) VALUES ('probes', 1)
             ON CONFLICT (name) DO UPDATE SET value = value + 1",
            [],
        )?;
        transaction.commit()
    }
}

/// One transaction. Dropped without [`Round::commit`] it is rolled back.
#[derive(Debug)]
pub(super) struct Round<'a> {
    transaction: Transaction<'a>,
    next_seq: &'a mut i64,
}

impl Round<'_> {
    /// Makes everything durable: SQLite syncs the log before this returns.
    ///
    /// # Errors
    /// SQLite's; what was written may then be durable or not.
    pub(super) fn commit(self) -> rusqlite::Result<()> {
        self.transaction.commit()
    }

    /// Appends a message to its queue.
    ///
    /// # Errors
    /// SQLite's, here and below.
    pub(super) fn append(&mut self, appended: &Appended) -> rusqlite::Result<()> {
        if let Some(partition) = appended.queue.changelog_of() {
            return self.append_note(partition, &appended.message, Millis::now());
        }
        let seq = self.take_seq();
        let message = &appended.message;
        self.transaction
            .prepare_cached(
                "INSERT INTO messages (seq, queue, id, content_type, kind, routing_key, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                seq,
                appended.queue.0,
                message.id,
                message.content_type,
                message.kind,
                appended.routing_key,
                &message.body[..],
            ])?;
        Ok(())
    }

    /// Appends to a changelog, and forgets what is too old in it.
    fn append_note(&self, partition: i64, message: &Message, now: Millis) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("INSERT INTO notes (partition, at, body) VALUES (?1, ?2, ?3)")?
            .execute(params![partition, now.as_i64(), &message.body[..]])?;
        let keep = i64::try_from(CHANGELOG_KEEP.as_millis()).expect("three days fit");
        self.transaction
            .prepare_cached("DELETE FROM notes WHERE partition = ?1 AND at < ?2")?
            .execute([partition, now.as_i64() - keep])?;
        Ok(())
    }

    /// The notes of a changelog after a place, oldest first: none when there are no more.
    pub(super) fn notes(
        &self,
        changelog: QueueId,
        after: i64,
    ) -> rusqlite::Result<Vec<StoredNote>> {
        let note = |row: &Row<'_>| {
            Ok(StoredNote {
                position: row.get::<_, i64>(0)?.unsigned_abs(),
                note: Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?),
            })
        };
        self.transaction
            .prepare_cached(
                "SELECT seq, body FROM notes WHERE partition = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            )?
            .query_map(
                params![changelog.changelog_of(), after, NOTES_MAX],
                note,
            )?
            .collect()
    }

    /// Takes messages out for a consumer, and counts each as delivered.
    pub(super) fn fetch(&mut self, wanted: &Wanted) -> rusqlite::Result<Fetched> {
        let (candidates, exhausted) = self.candidates(wanted)?;
        let mut fetched = Fetched::default();
        let mut bytes = 0;
        for seq in candidates {
            if bytes >= FETCH_BYTES_MAX {
                return Ok(fetched);
            }
            fetched.looked_at = Some(seq);
            if wanted.in_hand.contains(&seq) {
                continue;
            }
            let delivery_count = self.count_delivery(seq)?;
            if delivery_count > DELIVERY_LIMIT && !wanted.queue.has_no_limit() {
                self.bury(seq)?;
                fetched.dead += 1;
                continue;
            }
            let (message, routing_key) = self.read(seq)?;
            bytes += message.body.len();
            fetched.messages.push(Stored {
                seq,
                delivery_count,
                routing_key,
                message,
            });
        }
        fetched.exhausted = exhausted;
        Ok(fetched)
    }

    /// Ends a delivery for good.
    pub(super) fn remove(&self, seq: i64) -> rusqlite::Result<()> {
        for sql in [
            "DELETE FROM messages WHERE seq = ?1",
            "DELETE FROM deliveries WHERE seq = ?1",
        ] {
            self.transaction.prepare_cached(sql)?.execute([seq])?;
        }
        Ok(())
    }

    /// Takes back the count of a delivery that was handed back unharmed.
    pub(super) fn uncount_delivery(&self, seq: i64) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("UPDATE deliveries SET count = count - 1 WHERE seq = ?1")?
            .execute([seq])?;
        Ok(())
    }

    /// How many messages a queue holds, those in hand among them.
    pub(super) fn depth(&self, queue: QueueId) -> rusqlite::Result<u64> {
        let depth: i64 = self
            .transaction
            .prepare_cached("SELECT count(*) FROM messages WHERE queue = ?1")?
            .query_row([queue.0], |row| row.get(0))?;
        Ok(u64::try_from(depth).expect("a count is not negative"))
    }

    /// The sequence numbers to look at, and whether there are no more: enough for every wanted one.
    fn candidates(&self, wanted: &Wanted) -> rusqlite::Result<(Vec<i64>, bool)> {
        let limit = wanted.count + wanted.in_hand.len();
        let seqs = self
            .transaction
            .prepare_cached(
                "SELECT seq FROM messages WHERE queue = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            )?
            .query_map(
                params![
                    wanted.queue.0,
                    wanted.after,
                    i64::try_from(limit).expect("twice a prefetch fits")
                ],
                |row| row.get(0),
            )?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        let found = seqs.len();
        let needed = first_wanted(seqs, wanted);
        let exhausted = found < limit && needed.len() == found;
        Ok((needed, exhausted))
    }

    /// Counts a delivery; returns how many there were before.
    fn count_delivery(&self, seq: i64) -> rusqlite::Result<u32> {
        self.transaction
            .prepare_cached(
                "INSERT INTO deliveries (seq, count) VALUES (?1, 1)
                 ON CONFLICT (seq) DO UPDATE SET count = count + 1 RETURNING count - 1",
            )?
            .query_row([seq], |row| row.get(0))
    }

    /// A message, and its routing key.
    fn read(&self, seq: i64) -> rusqlite::Result<(Message, String)> {
        self.transaction
            .prepare_cached(
                "SELECT id, content_type, kind, body, coalesce(routing_key, '') FROM messages
                 WHERE seq = ?1",
            )?
            .query_row([seq], |row| Ok((message(row)?, row.get(4)?)))
    }

    /// Moves a message to the end of the dead letters.
    fn bury(&mut self, seq: i64) -> rusqlite::Result<()> {
        let buried = self.take_seq();
        self.transaction
            .prepare_cached(
                "INSERT INTO messages (seq, queue, id, content_type, kind, routing_key, body)
                 SELECT ?1, ?2, id, content_type, kind, ?3, body FROM messages WHERE seq = ?4",
            )?
            .execute(params![
                buried,
                QueueId::DEAD_LETTERS.0,
                DELIVERY_LIMIT_KEY,
                seq
            ])?;
        self.remove(seq)
    }

    fn take_seq(&mut self) -> i64 {
        let seq = *self.next_seq;
        *self.next_seq += 1;
        seq
    }
}

/// Cuts `seqs` after the last one that is needed for `wanted.count` messages.
fn first_wanted(mut seqs: Vec<i64>, wanted: &Wanted) -> Vec<i64> {
    let mut found = 0;
    seqs.retain(|seq| {
        let keep = found < wanted.count;
        found += usize::from(!wanted.in_hand.contains(seq));
        keep
    });
    seqs
}

fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        id: row.get(0)?,
        content_type: row.get(1)?,
        kind: row.get(2)?,
        headers: Vec::new(),
        body: Bytes::copy_from_slice(row.get_ref(3)?.as_blob()?),
    })
}
