//! Room on the disk, kept for what makes more of it.
//!
//! Whoever drains the store writes first: notes, dead letters, and SQLite's log, deletions among it. On a disk that events had
//! filled to the last byte, none could be deleted any more. So new events are refused while little is left.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bytesize::ByteSize;

use crate::seldom::Seldom;

/// New events are refused while there is less room than this, in bytes: for SQLite's log before it is folded back (16 MiB), the
/// largest round (32 MiB), and some.
pub(super) const DISK_FREE_MIN: u64 = 64 * 1024 * 1024;

/// Knows how much room there is.
#[derive(Debug)]
pub(super) struct Room {
    database: PathBuf,
    log: PathBuf,
    seldom: Seldom,
}

impl Room {
    /// For the database at this path.
    pub(super) fn new(database: PathBuf) -> Self {
        let mut log = database.clone().into_os_string();
        log.push("-wal");
        Self {
            database,
            log: log.into(),
            seldom: Seldom::new(),
        }
    }

    /// Whether new events may be stored: what the disk has, what SQLite's log takes for a while, and the `reusable` bytes of the
    /// database are enough. These are asked for where the disk alone has too little.
    pub(super) fn is_enough(&self, reusable: impl FnOnce() -> u64) -> bool {
        // Who cannot know tries.
        let free = free_bytes(&self.database).unwrap_or(DISK_FREE_MIN);
        if free >= DISK_FREE_MIN {
            return true;
        }
        let log = self.log.metadata().map_or(0, |log| log.len());
        if free.saturating_add(log).saturating_add(reusable()) >= DISK_FREE_MIN {
            return true;
        }
        if let Some(left_out) = self.seldom.may_tell("disk", Instant::now()) {
            let (free, needed, database) =
                (ByteSize(free), ByteSize(DISK_FREE_MIN), &self.database);
            tracing::error!(
                %free, %needed, ?database, left_out,
                "the disk of bus.data_dir is nearly full, and no event is taken: give it more room, or see why events do not drain"
            );
        }
        false
    }
}

fn free_bytes(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
