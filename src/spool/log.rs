//! The messages that wait, in files on a disk, oldest first. Knows no threads, no bus and no metrics.
//!
//! Every file is one of three: *active*, the one being written; *sealed*, behind which nothing is written any
//! more; or *set apart*, because it was damaged. Messages leave in whole sealed files. No file is written to again
//! once its end is in doubt: after an open, or a write that failed, a new one is begun.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::io;

use super::disk::{Disk, Sink};
use super::segment::{self, Kind, Name};
use crate::bus::{MESSAGE_BYTES_MAX, Outgoing};
use crate::event::Millis;

/// A file that has this many bytes is sealed. The last record may go beyond.
pub(super) const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// The room that the largest message needs, in bytes.
pub(super) const RECORD_BYTES_MAX: u64 = MESSAGE_BYTES_MAX as u64 + 4_096;
/// The most damaged files that are kept.
pub(super) const DAMAGED_FILES_MAX: usize = 8;

/// The queue.
pub(super) struct Log<D: Disk> {
    disk: D,
    bytes_max: u64,
    sealed: VecDeque<Segment>,
    active: Option<Active<D::File>>,
    /// Delivered and not yet removed, with whether it is damaged.
    leaving: VecDeque<(Segment, bool)>,
    apart: VecDeque<(String, u64)>,
    next_number: u64,
    next_seq: u64,
}

/// A sealed file.
#[derive(Clone, Debug)]
struct Segment {
    name: Name,
    bytes: u64,
    /// How many messages were confirmed durable in it.
    messages: u64,
}

/// The file being written.
struct Active<F> {
    file: F,
    name: Name,
    bytes: u64,
    /// The sequence number after the last record that is synced.
    synced: u64,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum AppendError {
    /// There is no room.
    #[error("it is at its limit")]
    Full,
    /// The disk does not take it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Messages.
    pub(super) messages: u64,
    /// The size of all files, those set apart included.
    pub(super) bytes: u64,
    /// When the oldest came; `None` when there is nothing to drain, not even what is left of a write.
    pub(super) oldest: Option<Millis>,
}

/// The oldest sealed file.
#[derive(Debug, Default)]
pub(super) struct Oldest {
    /// Its number, to [`Log::remove`] it by.
    pub(super) number: u64,
    /// The messages in it that are intact, in order.
    pub(super) messages: Vec<Outgoing>,
    /// How many are not.
    pub(super) damaged: u64,
    /// Bytes behind the last of them, although none is missing there: a write that was cut off.
    pub(super) cut_off_bytes: usize,
}

impl<D: Disk> Log<D> {
    /// Takes up what is on `disk`.
    ///
    /// # Errors
    /// The disk's; and [`io::ErrorKind::Unsupported`] where a later version of the program has written.
    pub(super) fn open(mut disk: D, bytes_max: u64) -> io::Result<Self> {
        let (mut segments, mut apart) = (Vec::new(), Vec::new());
        for (file, bytes) in disk.list()? {
            match Kind::of(&file) {
                Kind::Segment(name) => segments.push((name, bytes)),
                Kind::Damaged(name) => apart.push((name, bytes)),
                Kind::Newer => {
                    let message = format!(
                        "{file} is called as this version calls no file: a newer one may have written it"
                    );
                    return Err(io::Error::new(io::ErrorKind::Unsupported, message));
                }
                Kind::Other => {}
            }
        }
        segments.sort_by_key(|(name, _)| name.number);
        apart.sort_by_key(|(name, _)| name.number);
        let numbers = segments.iter().chain(&apart).map(|(name, _)| name.number);
        let next_number = numbers.max().map_or(0, |number| number + 1);
        let next_seq = match segments.last() {
            Some((name, _)) => {
                // What a process that crashed has written may not be on the disk yet, and is counted on from now on.
                let file = name.to_string();
                disk.sync_file(&file)?;
                segment::read(name, &disk.read(&file)?).end(name.first)
            }
            None => 0,
        };
        let apart = apart.into_iter();
        Ok(Self {
            disk,
            bytes_max,
            sealed: counted(&segments, next_seq),
            active: None,
            leaving: VecDeque::new(),
            apart: apart.map(|(name, bytes)| (name.damaged(), bytes)).collect(),
            next_number,
            next_seq,
        })
    }

    /// What waits.
    pub(super) fn waiting(&self) -> Waiting {
        let sealed: u64 = self.sealed.iter().map(|one| one.messages).sum();
        let active = self.active.as_ref();
        let written = active.filter(|active| active.synced > active.name.first);
        let oldest = self.sealed.front().map(|one| one.name.created);
        Waiting {
            messages: sealed + written.map_or(0, |active| active.synced - active.name.first),
            bytes: self.bytes(),
            oldest: oldest.or(written.map(|active| active.name.created)),
        }
    }

    /// Whether the largest message finds room.
    pub(super) fn has_room(&self) -> bool {
        self.bytes() + RECORD_BYTES_MAX <= self.bytes_max
    }

    /// Writes messages behind all others, all or none. They are durable after [`Self::sync`].
    ///
    /// # Errors
    /// [`AppendError`]. After [`AppendError::Io`] call [`Self::give_up`].
    pub(super) fn append(&mut self, messages: &[Outgoing], now: Millis) -> Result<(), AppendError> {
        self.activate(now)?;
        let active = self
            .active
            .as_mut()
            .expect("it was made where it was missing");
        let numbered = (self.next_seq..).zip(messages);
        let records: Vec<Vec<u8>> = numbered
            .map(|(seq, message)| segment::encode(active.name.mark, seq, message))
            .collect();
        let records = records.concat();
        if self.bytes() + records.len() as u64 > self.bytes_max {
            return Err(AppendError::Full);
        }
        let active = self
            .active
            .as_mut()
            .expect("it was made where it was missing");
        active.bytes += records.len() as u64;
        active.file.append(&records)?;
        self.next_seq += messages.len() as u64;
        Ok(())
    }

    /// Makes durable all that was appended.
    ///
    /// # Errors
    /// The disk's. Then call [`Self::give_up`].
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if let Some(active) = &mut self.active
            && active.synced != self.next_seq
        {
            active.file.sync()?;
            active.synced = self.next_seq;
        }
        Ok(())
    }

    /// After an error: what was appended and not synced counts as never appended, though it may be there. The file
    /// is not written to again.
    pub(super) fn give_up(&mut self) {
        if let Some(active) = &self.active {
            self.next_seq = active.synced;
        }
        self.seal();
    }

    /// Whether the disk takes a file.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn probe(&mut self, now: Millis) -> io::Result<()> {
        let probed = self.activate(now);
        if probed.is_err() {
            self.give_up();
        }
        probed
    }

    /// The oldest file, sealed where it was active; `None` when nothing waits.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn oldest(&mut self) -> io::Result<Option<Oldest>> {
        if self.sealed.is_empty() {
            self.seal();
        }
        let Some(Segment { name, .. }) = self.sealed.front() else {
            return Ok(None);
        };
        let file = match self.disk.read(&name.to_string()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            file => file?,
        };
        let read = segment::read(name, &file);
        let next = self.sealed.get(1).map(|next| next.name.first);
        let next = next.or(self.active.as_ref().map(|active| active.name.first));
        let next = next.unwrap_or(self.next_seq);
        let all_are_there = read.end(name.first) >= next;
        Ok(Some(Oldest {
            number: name.number,
            damaged: read.missing(name.first, next),
            cut_off_bytes: if all_are_there { read.tail_bytes } else { 0 },
            messages: read.records.into_iter().map(|(_, one)| one).collect(),
        }))
    }

    /// Lets the oldest file go, if `number` is its number; where it is `damaged` it is set apart.
    ///
    /// # Errors
    /// The disk's. It leaves the queue all the same, and its removal is tried again with the next; until then it
    /// takes room, and after an open it comes again.
    pub(super) fn remove(&mut self, number: u64, damaged: bool) -> io::Result<()> {
        let is_it = |segment: &Segment| segment.name.number == number;
        if self.sealed.front().is_some_and(is_it) {
            let segment = self.sealed.pop_front().expect("it is there");
            self.leaving.push_back((segment, damaged));
        }
        self.clear()
    }

    /// Removes files, each for certain before the next: were the second to vanish alone, it would look like damage.
    fn clear(&mut self) -> io::Result<()> {
        while let Some((segment, damaged)) = self.leaving.front() {
            let (file, kept) = (segment.name.to_string(), segment.name.damaged());
            if *damaged {
                gone(self.disk.rename(&file, &kept))?;
            } else {
                gone(self.disk.remove(&file))?;
            }
            self.disk.sync_names()?;
            if *damaged {
                self.apart.push_back((kept, segment.bytes));
            }
            self.leaving.pop_front();
        }
        while self.apart.len() > DAMAGED_FILES_MAX {
            let (file, _) = self.apart.front().expect("there are some");
            tracing::warn!(
                file,
                "a damaged file of the spool is removed to keep later ones"
            );
            gone(self.disk.remove(file))?;
            self.apart.pop_front();
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|one| one.bytes).sum();
        let apart: u64 = self.apart.iter().map(|(_, bytes)| bytes).sum();
        let leaving: u64 = self.leaving.iter().map(|(one, _)| one.bytes).sum();
        sealed + leaving + apart + self.active.as_ref().map_or(0, |active| active.bytes)
    }

    /// Begins a file where none is active, or where the active one is large enough.
    fn activate(&mut self, now: Millis) -> io::Result<()> {
        let large = |active: &Active<_>| active.bytes >= SEGMENT_BYTES;
        if self.active.as_ref().is_some_and(large) {
            self.sync()?;
            self.seal();
        }
        if self.active.is_some() {
            return Ok(());
        }
        let name = Name {
            number: self.next_number,
            first: self.next_seq,
            created: now,
            mark: RandomState::new().hash_one(()).to_be_bytes(),
        };
        // Never again, whether or not this ends well.
        self.next_number += 1;
        let created = self.disk.create(&name.to_string());
        let file = created.inspect_err(|_| {
            // It may be there all the same, and would be read in vain. If this fails too, so be it.
            let _ = self.disk.remove(&name.to_string());
        })?;
        self.active = Some(Active {
            file,
            synced: name.first,
            name,
            bytes: 0,
        });
        self.disk.sync_names()
    }

    /// Writes to the active file no more.
    fn seal(&mut self) {
        let Some(active) = self.active.take() else {
            return;
        };
        if active.synced == active.name.first {
            // Nothing in it was ever confirmed. What is left of it would only be read in vain.
            let removed = gone(self.disk.remove(&active.name.to_string()));
            if removed.and_then(|()| self.disk.sync_names()).is_ok() {
                return;
            }
        }
        self.sealed.push_back(Segment {
            messages: active.synced - active.name.first,
            name: active.name,
            bytes: active.bytes,
        });
    }
}

/// Files found at open, with how many messages are in each as far as their names tell.
fn counted(segments: &[(Name, u64)], next_seq: u64) -> VecDeque<Segment> {
    let ends = segments.iter().skip(1).map(|(next, _)| next.first);
    let ends = ends.chain([next_seq]);
    let counted = segments.iter().zip(ends);
    counted
        .map(|((name, bytes), end)| Segment {
            name: name.clone(),
            bytes: *bytes,
            messages: end.saturating_sub(name.first),
        })
        .collect()
}

/// That a file is gone already is as good as removing it.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
