//! Who consumes which partition: shared out evenly among the workers there are, without anybody in charge.
//!
//! Every worker knows the same members, so every one of them comes to the same result. Where they differ for a
//! moment, a partition still has one active consumer: the next one waits until the first lets go.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

/// A member of whom nothing was heard for so many of our own beats is gone.
const SILENT_BEATS_MAX: u64 = 4;

/// The workers that one of them knows of.
#[derive(Debug)]
pub struct Members {
    me: String,
    /// How many beats of our own came back.
    beats: u64,
    /// By id: how many of our own beats had come when it was last heard.
    heard: BTreeMap<String, u64>,
}

impl Members {
    /// As `me` knows them before it heard anything.
    pub fn new(me: &str) -> Self {
        Self {
            me: me.to_owned(),
            beats: 0,
            heard: BTreeMap::from([(me.to_owned(), 0)]),
        }
    }

    /// A member says that it is there. Whether it is a new one, who should be answered at once.
    ///
    /// Time is counted in our own beats as they come back: while the broker passes none on, nobody is gone.
    pub fn heard(&mut self, id: &str) -> bool {
        if id == self.me {
            self.beats += 1;
            let beats = self.beats;
            self.heard.insert(id.to_owned(), beats);
            self.heard
                .retain(|_, heard| beats - *heard < SILENT_BEATS_MAX);
            return false;
        }
        self.heard.insert(id.to_owned(), self.beats).is_none()
    }

    /// A member says that it goes.
    pub fn left(&mut self, id: &str) {
        if id != self.me {
            self.heard.remove(id);
        }
    }

    /// Whether two beats of our own came back: whoever was there has answered the first by then.
    pub fn are_known(&self) -> bool {
        self.beats >= 2
    }

    /// The partitions that are ours: as many as anybody's, or one less. Each goes to the worker whose hash with it
    /// is the highest and that has not its share yet, so that few move when a worker comes or goes.
    pub fn share(&self, partitions: u16) -> BTreeSet<u16> {
        let count = u16::try_from(self.heard.len()).unwrap_or(u16::MAX).max(1);
        let (least, mut one_more) = (partitions / count, partitions % count);
        let mut shares: BTreeMap<&str, u16> =
            self.heard.keys().map(|id| (id.as_str(), 0)).collect();
        let mut ours = BTreeSet::new();
        for partition in 0..partitions {
            let has_room = |share: u16| share < least || (share == least && one_more > 0);
            let candidates = shares.iter().filter(|(_, share)| has_room(**share));
            let Some(owner) = candidates
                .map(|(id, _)| *id)
                .max_by_key(|id| weight(id, partition))
            else {
                break;
            };
            if let Some(share) = shares.get_mut(owner) {
                one_more -= u16::from(*share == least);
                *share += 1;
            }
            if owner == self.me {
                ours.insert(partition);
            }
        }
        ours
    }
}

fn weight(id: &str, partition: u16) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(id);
    hasher.update(partition.to_be_bytes());
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(ids: &[&str], partitions: u16) -> Vec<BTreeSet<u16>> {
        let share = |me: &&str| {
            let mut members = Members::new(me);
            ids.iter().for_each(|id| _ = members.heard(id));
            members.share(partitions)
        };
        ids.iter().map(share).collect()
    }

    const IDS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

    #[test]
    fn every_partition_has_one_owner_and_shares_differ_by_one_at_most() {
        for count in 1..=IDS.len() {
            for partitions in [1, 4, 16, 61] {
                let shares = shares(&IDS[..count], partitions);
                let all: BTreeSet<u16> = shares.iter().flatten().copied().collect();
                assert_eq!(all, (0..partitions).collect());
                let sizes: Vec<_> = shares.iter().map(BTreeSet::len).collect();
                assert_eq!(sizes.iter().sum::<usize>(), usize::from(partitions));
                assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            }
        }
    }

    #[test]
    fn few_partitions_move_when_a_worker_goes() {
        let before = shares(&IDS[..4], 64);
        let after = shares(&IDS[..3], 64);
        let kept: usize = (0..3)
            .map(|n| before[n].intersection(&after[n]).count())
            .sum();
        assert!(
            kept >= 32,
            "of 48 partitions that need not move {kept} stay"
        );
    }

    #[test]
    fn who_is_silent_or_leaves_is_gone_but_not_while_nothing_comes_back() {
        let mut members = Members::new("a");
        assert!(members.heard("b") && members.heard("c"), "new ones");
        assert!(!members.heard("b"));
        members.left("c");
        assert_eq!(members.share(2).len(), 1);
        for beat in 1..SILENT_BEATS_MAX {
            members.heard("a");
            assert_eq!(members.share(2).len(), 1, "after {beat}");
        }
        members.heard("a");
        assert_eq!(members.share(2).len(), 2);
    }
}
