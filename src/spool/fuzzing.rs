//! What fuzzing gets hold of: a record, and a start on a folder.

use std::io;
use std::path::Path;

use super::log::{AppendError, Log};
use super::{KEY, segment};
use crate::bus::Outgoing;
use crate::event::Millis;
use crate::folder::Folder;

/// A record as a file with `mark` has it.
#[must_use]
pub fn record(mark: [u8; 8], seq: u64, message: &Outgoing) -> Vec<u8> {
    segment::encode(mark, seq, message)
}

/// Takes up what is in `folder`, writes `more` behind, and drains all of it. Tells how many messages were intact and how
/// many were not.
///
/// # Errors
/// The disk's.
pub fn recover(folder: &Path, bytes_max: u64, more: &[Outgoing]) -> io::Result<(u64, u64)> {
    let folder = Folder::open(folder, KEY).map_err(io::Error::other)?;
    let mut log = Log::open(folder, bytes_max)?;
    match log.append(more, Millis::default()) {
        Ok(()) => log.sync()?,
        Err(AppendError::Full) => {}
        Err(AppendError::Io(error)) => {
            log.give_up();
            return Err(error);
        }
    }
    let (mut intact, mut damaged) = (0, 0_u64);
    while let Some(oldest) = log.oldest()? {
        intact += oldest.messages.len() as u64;
        damaged = damaged.saturating_add(oldest.damaged);
        log.remove(oldest.number, oldest.damaged > 0)?;
    }
    Ok((intact, damaged))
}
