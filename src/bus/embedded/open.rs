//! Opens the database: settings, schema, and the checks before it is trusted.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};

use super::error::{EmbeddedError, is_corruption};
use super::store::Store;

/// Goes up with every change of the tables; kept in `user_version`.
const SCHEMA_VERSION: i64 = 2;
/// A database up to this size is checked as a whole at open. A larger one would hold up the start for too
/// long; SQLite still reports damage where it meets it, and the writer then stops.
const CHECKED_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// How long to wait for an operator's shell that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// Distinct statements, with room to spare.
const STATEMENTS_CACHED: usize = 32;

/// `FULL` syncs the log at every commit (`NORMAL` would lose confirmed messages with the power).
/// `secure_delete` overwrites what was deleted: it is people's data. The log is folded back every 16 MiB and cut
/// to 64 MiB, so that a burst does not leave its size behind.
const SETTINGS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA secure_delete = ON;
    PRAGMA wal_autocheckpoint = 4000;
    PRAGMA journal_size_limit = 67108864;
";

/// `seq` rises over all queues; within a queue it is the order. Delivery counts stand apart, so that counting
/// does not rewrite bodies.
const SCHEMA: &str = "
    CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
    CREATE TABLE messages (
        seq INTEGER PRIMARY KEY,
        queue INTEGER NOT NULL, -- a partition, -1: dead letters, -2 - n: backlog of partition n, 65535: erasures
        id TEXT NOT NULL,
        content_type TEXT NOT NULL,
        kind TEXT NOT NULL,
        routing_key TEXT, -- of a dead letter: <stage>.<reason>
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX messages_by_queue ON messages (queue, seq);
    CREATE TABLE deliveries (seq INTEGER PRIMARY KEY, count INTEGER NOT NULL) STRICT;
";

/// Since version 2. Places rise for ever, also after the last note of a changelog was forgotten.
const NOTES_SCHEMA: &str = "
    CREATE TABLE notes (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        partition INTEGER NOT NULL,
        at INTEGER NOT NULL, -- milliseconds since the epoch
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX notes_by_partition ON notes (partition, seq);
    CREATE INDEX notes_by_age ON notes (partition, at);
";

/// Opens the database at `path`, making its tables in an empty file.
///
/// # Errors
/// Those of [`EmbeddedError`] that are about the database.
pub(super) fn open(path: &Path, partitions: u16) -> Result<Store, EmbeddedError> {
    let connection = connect(path).map_err(sqlite_error(path))?;
    check(&connection, path)?;
    prepare_schema(&connection, path, partitions)?;
    check_partitions(&connection, path, partitions)?;
    let next_seq = next_seq(&connection).map_err(sqlite_error(path))?;
    Ok(Store {
        connection,
        next_seq,
    })
}

/// The sequence number after the last one in use.
pub(super) fn next_seq(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row(
        "SELECT coalesce(max(seq), 0) + 1 FROM messages",
        [],
        |row| row.get(0),
    )
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch(SETTINGS)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    Ok(connection)
}

fn check(connection: &Connection, path: &Path) -> Result<(), EmbeddedError> {
    let bytes = path.metadata().map_or(0, |metadata| metadata.len());
    if bytes > CHECKED_BYTES_MAX {
        tracing::warn!(bytes, "the store is too large to be checked at start");
        return Ok(());
    }
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(sqlite_error(path))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(EmbeddedError::Corrupt {
        path: path.to_owned(),
        detail: verdict,
    })
}

fn prepare_schema(
    connection: &Connection,
    path: &Path,
    partitions: u16,
) -> Result<(), EmbeddedError> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(sqlite_error(path))?;
    match found {
        SCHEMA_VERSION => Ok(()),
        0 => make_schema(connection, partitions).map_err(sqlite_error(path)),
        1 => add_notes(connection).map_err(sqlite_error(path)),
        _ => Err(EmbeddedError::Newer {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        }),
    }
}

fn make_schema(connection: &Connection, partitions: u16) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {SCHEMA} {NOTES_SCHEMA}
         INSERT INTO settings (name, value) VALUES ('partitions', {partitions});
         PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    ))
}

fn add_notes(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {NOTES_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    ))
}

fn check_partitions(
    connection: &Connection,
    path: &Path,
    configured: u16,
) -> Result<(), EmbeddedError> {
    let stored: Option<u16> = connection
        .query_row(
            "SELECT value FROM settings WHERE name = 'partitions'",
            [],
            |row| row.get(0),
        )
        .optional()
        .map_err(sqlite_error(path))?;
    match stored {
        Some(stored) if stored == configured => Ok(()),
        Some(stored) => Err(EmbeddedError::Partitions { configured, stored }),
        None => Err(EmbeddedError::Corrupt {
            path: path.to_owned(),
            detail: "it does not say how many partitions it has".to_owned(),
        }),
    }
}

fn sqlite_error(path: &Path) -> impl FnOnce(rusqlite::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |source| {
        if is_corruption(&source) {
            let detail = source.to_string();
            return EmbeddedError::Corrupt { path, detail };
        }
        EmbeddedError::Sqlite { path, source }
    }
}
