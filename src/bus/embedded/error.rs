//! Why the embedded bus did not open, and which failures of SQLite pass by themselves.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;

use crate::folder::FolderError;

/// Why the embedded bus did not open. Each names the setting to look at.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The folder cannot be had.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The store was made for another number of partitions.
    #[error(
        "bus.partitions is {configured}, but the store in bus.data_dir was made for {stored}; set it back, or let the store run empty and give a new folder"
    )]
    Partitions {
        /// What the configuration says.
        configured: u16,
        /// What the store says.
        stored: u16,
    },
    /// There must be at least one partition.
    #[error("bus.partitions is 0; give at least 1")]
    NoPartitions,
    /// A later version of the program wrote it.
    #[error(
        "the store {path:?} has schema version {found}, newer than the {known} this program knows; run the newer program"
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The version this program writes.
        known: i64,
    },
    /// The database is damaged.
    #[error(
        "the store {path:?} is damaged ({detail}); keep a copy, and restore a backup or recover it with `sqlite3 bus.sqlite3 .recover`"
    )]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// Any other failure of SQLite.
    #[error("cannot open the store {path:?}: {source}")]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The system gives no thread.
    #[error("cannot start the writer thread of the embedded bus: {0}")]
    Thread(io::Error),
}

/// Whether `error` may pass by itself, after a rollback: the disk is full, or somebody else holds the database.
/// After all others (an I/O or fsync error above all) the page cache cannot be trusted.
pub(super) fn passes(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    // On a full disk the index of SQLite's log cannot grow, which it calls an I/O error.
    extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
        || matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DiskFull
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::OutOfMemory
            )
        )
}

/// Whether `error` says that the file is no sound database.
pub(super) fn is_corruption(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}
