//! How many inputs HubSpot takes in one batch, where that is fewer than documented: learnt from refusals.
//!
//! A refusal does not say whether a batch is too large or holds an input that is at fault. What becomes of its halves
//! does: one bad input has its half refused again, while halves that are both taken say that the whole was
//! too large, and that the larger of them is not.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::Millis;
use crate::hubspot::call::{READ_ASSOCIATIONS_MAX, READ_RECORDS_MAX};

/// How long a smaller maximum is kept to, after it was learnt. Then the documented one is tried again, which costs a
/// call or two where nothing has changed.
pub const LEARNT_KEEP: Duration = Duration::from_secs(3_600);
/// Statuses that may mean "too large". A 207 does not: that batch was read.
const TOO_LARGE: [u16; 3] = [400, 413, 414];
/// The most halved batches whose halves are watched at a time.
const SPLITS_MAX: usize = 64;

/// What is read in batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchKind {
    Records,
    Associations,
}

/// Names a batch that was halved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SplitId(pub u64);

/// How many inputs the batches of a portal may have.
#[derive(Debug, Default)]
pub struct BatchMax {
    records: Option<Learnt>,
    associations: Option<Learnt>,
    /// Halved batches, of which no half was refused: the size of the half that was taken already.
    splits: BTreeMap<SplitId, Option<usize>>,
}

#[derive(Clone, Copy, Debug)]
struct Learnt {
    max: usize,
    until: Millis,
}

impl BatchMax {
    /// The most inputs of one batch.
    pub fn of(&self, kind: BatchKind, now: Millis) -> usize {
        let (learnt, documented) = match kind {
            BatchKind::Records => (self.records, READ_RECORDS_MAX),
            BatchKind::Associations => (self.associations, READ_ASSOCIATIONS_MAX),
        };
        let learnt = learnt.filter(|learnt| learnt.until > now);
        learnt.map_or(documented, |learnt| learnt.max)
    }

    /// A batch was refused with `status` and is halved. It may have been a half itself.
    pub fn halved(&mut self, id: SplitId, status: u16, half_of: Option<SplitId>) {
        if let Some(whole) = half_of {
            self.splits.remove(&whole);
        }
        if TOO_LARGE.contains(&status) {
            self.splits.insert(id, None);
        }
        if self.splits.len() > SPLITS_MAX {
            self.splits.pop_first();
        }
    }

    /// A half was refused and is not halved any more: one input is at fault.
    pub fn refused(&mut self, half_of: Option<SplitId>) {
        if let Some(whole) = half_of {
            self.splits.remove(&whole);
        }
    }

    /// A half of `size` inputs was taken.
    pub fn taken(&mut self, half_of: SplitId, kind: BatchKind, size: usize, now: Millis) {
        match self.splits.get_mut(&half_of) {
            None => {}
            Some(first @ None) => *first = Some(size),
            Some(Some(first)) => {
                let max = size.max(*first).min(self.of(kind, now));
                self.splits.remove(&half_of);
                let until = now.after(LEARNT_KEEP);
                let learnt = Some(Learnt { max, until });
                match kind {
                    BatchKind::Records => self.records = learnt,
                    BatchKind::Associations => self.associations = learnt,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: SplitId = SplitId(1);

    fn ms(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    #[test]
    fn two_halves_that_are_taken_say_that_the_whole_was_too_large() {
        let mut max = BatchMax::default();
        max.halved(WHOLE, 400, None);
        max.taken(WHOLE, BatchKind::Associations, 499, ms(0));
        assert_eq!(max.of(BatchKind::Associations, ms(0)), 1_000);
        max.taken(WHOLE, BatchKind::Associations, 500, ms(0));
        assert_eq!(max.of(BatchKind::Associations, ms(1)), 500);
        assert_eq!(max.of(BatchKind::Records, ms(1)), 100, "another kind");
        let later = ms(1).after(LEARNT_KEEP);
        assert_eq!(max.of(BatchKind::Associations, later), 1_000);
    }

    #[test]
    fn an_input_at_fault_and_a_batch_that_was_read_teach_nothing() {
        let mut max = BatchMax::default();
        max.halved(WHOLE, 400, None);
        max.taken(WHOLE, BatchKind::Records, 50, ms(0));
        max.halved(SplitId(2), 400, Some(WHOLE));
        max.taken(SplitId(2), BatchKind::Records, 25, ms(0));
        max.refused(Some(SplitId(2)));
        max.halved(SplitId(3), 207, None);
        max.taken(SplitId(3), BatchKind::Records, 50, ms(0));
        max.taken(SplitId(3), BatchKind::Records, 50, ms(0));
        assert_eq!(max.of(BatchKind::Records, ms(0)), 100);
        assert!(max.splits.is_empty());
    }

    #[test]
    fn halves_that_are_never_sent_take_no_room() {
        let mut max = BatchMax::default();
        (0..1_000).for_each(|id| max.halved(SplitId(id), 400, None));
        assert_eq!(max.splits.len(), SPLITS_MAX);
    }
}
