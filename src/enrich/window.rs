//! A memory that is bounded in time and in size: ids seen, versions sent, merges, erased records.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use crate::event::Millis;

/// How long an event that ended is recognised: HubSpot repeats for 24 hours, and a margin.
pub const SEEN_KEEP: Duration = Duration::from_secs(72 * 3_600);
/// The most events that a partition remembers; the oldest go first. 50 events a second over 16 partitions are
/// 810,000 each in [`SEEN_KEEP`].
pub const SEEN_CAPACITY: usize = 1_000_000;
/// The most versions, merges or erased records that a partition remembers, each; the oldest go first.
pub const RECORDS_CAPACITY: usize = 250_000;
/// A [`Window`] keeps so many mentions of entries that were written again, and one for each entry, before it drops them.
const OVERWRITTEN_MIN: usize = 1_024;
/// [`Recent`] forgets so much of what it may hold at a time.
const GENERATIONS: usize = 12;

/// A map whose entries are forgotten after a time, the oldest earlier when there are too many.
#[derive(Debug)]
pub struct Window<K, V> {
    entries: HashMap<K, (V, u64)>,
    by_age: VecDeque<Mention<K>>,
    writes: u64,
    keep: Duration,
    capacity: usize,
}

/// That `key` was written, as the `write`th of all writes.
#[derive(Debug)]
struct Mention<K> {
    key: K,
    write: u64,
    forgotten_at: Millis,
}

impl<K: Eq + Hash> Mention<K> {
    /// Entries written again are mentioned more than once; only the newest mention counts.
    fn counts<V>(&self, entries: &HashMap<K, (V, u64)>) -> bool {
        let newest = entries.get(&self.key);
        newest.is_some_and(|(_, write)| *write == self.write)
    }
}

impl<K: Clone + Eq + Hash, V> Window<K, V> {
    /// A memory of at most `capacity` entries, each kept for `keep` after it was last written.
    pub fn new(keep: Duration, capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            by_age: VecDeque::new(),
            writes: 0,
            keep,
            capacity,
        }
    }

    /// Remembers `value` for `key`, from `now` on.
    pub fn insert(&mut self, key: K, value: V, now: Millis) {
        self.writes += 1;
        self.entries.insert(key.clone(), (value, self.writes));
        self.by_age.push_back(Mention {
            key,
            write: self.writes,
            forgotten_at: now.after(self.keep),
        });
        if self.by_age.len() > 2 * self.entries.len() + OVERWRITTEN_MIN {
            let entries = &self.entries;
            self.by_age.retain(|mention| mention.counts(entries));
        }
        self.forget(now);
    }

    /// What is remembered for `key`. An entry may outlive its time until the next insert.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// How many entries are remembered.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn forget(&mut self, now: Millis) {
        while let Some(oldest) = self.by_age.front() {
            if oldest.forgotten_at > now && self.entries.len() <= self.capacity {
                break;
            }
            if oldest.counts(&self.entries) {
                self.entries.remove(&oldest.key);
            }
            self.by_age.pop_front();
        }
    }
}

/// A set whose members are forgotten a while after they came. It keeps them by generations and not by the moment, which
/// takes a third of a `Window`'s memory.
#[derive(Debug)]
pub struct Recent<K> {
    /// The oldest first, each with when it began.
    generations: VecDeque<(Millis, HashSet<K>)>,
    keep: Duration,
    capacity: usize,
}

impl<K: Eq + Hash> Recent<K> {
    /// A set of at most `capacity` members, each kept for `keep` at least, unless there are too many.
    #[must_use]
    pub fn new(keep: Duration, capacity: usize) -> Self {
        Self {
            generations: VecDeque::new(),
            keep,
            capacity,
        }
    }

    /// Whether it is remembered.
    #[must_use]
    pub fn contains(&self, member: &K) -> bool {
        let mut generations = self.generations.iter().rev();
        generations.any(|(_, members)| members.contains(member))
    }

    /// How many members are remembered. One that came again later counts again.
    pub(super) fn len(&self) -> usize {
        self.generations
            .iter()
            .map(|(_, members)| members.len())
            .sum()
    }

    /// Remembers it, from `now` on.
    pub fn insert(&mut self, member: K, now: Millis) {
        let span = self.keep / u32::try_from(GENERATIONS).unwrap_or(1);
        let full = self.capacity.div_ceil(GENERATIONS);
        let newest = self.generations.back();
        if newest.is_none_or(|(since, all)| now.since(*since) >= span || all.len() >= full) {
            self.generations.push_back((now, HashSet::new()));
        }
        while self.generations.len() > GENERATIONS + 1 || self.is_forgotten(self.keep + span, now) {
            self.generations.pop_front();
        }
        if let Some((_, members)) = self.generations.back_mut() {
            members.insert(member);
        }
    }

    /// Forgets it.
    pub fn remove(&mut self, member: &K) {
        for (_, members) in &mut self.generations {
            members.remove(member);
        }
    }

    fn is_forgotten(&self, after: Duration, now: Millis) -> bool {
        let oldest = self.generations.front();
        oldest.is_some_and(|(since, _)| now.since(*since) >= after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    #[test]
    fn entries_are_forgotten_after_their_time_and_writing_again_prolongs_it() {
        let mut window = Window::new(Duration::from_millis(100), 10);
        window.insert("a", 1, ms(0));
        window.insert("b", 1, ms(0));
        window.insert("a", 2, ms(60));
        window.insert("c", 1, ms(120));
        assert_eq!(window.get(&"a"), Some(&2));
        assert_eq!(window.get(&"b"), None);
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let mut window = Window::new(Duration::from_secs(1), 3);
        for n in 0..10 {
            window.insert(n, (), ms(n));
        }
        assert_eq!(
            (0..10)
                .filter(|n| window.get(n).is_some())
                .collect::<Vec<_>>(),
            [7, 8, 9]
        );
    }

    #[test]
    fn writing_one_entry_over_and_over_takes_no_more_room_and_costs_no_other() {
        let mut window = Window::new(Duration::from_secs(1), 3);
        window.insert("quiet", 7, ms(0));
        for n in 0..10_000 {
            window.insert("busy", n, ms(0));
            assert!(window.by_age.len() <= OVERWRITTEN_MIN + 4);
        }
        assert_eq!(window.get(&"busy"), Some(&9_999));
        assert_eq!(window.get(&"quiet"), Some(&7));
    }

    #[test]
    fn members_are_kept_for_their_time_and_then_forgotten() {
        let mut recent = Recent::new(Duration::from_millis(1_200), 1_000);
        for n in 0..100_i64 {
            recent.insert(n, ms(n * 50));
            let kept = (0..=n).filter(|n| recent.contains(n)).count();
            let expected = usize::try_from(n + 1).unwrap().min(24);
            assert!(
                (expected..=expected + 2).contains(&kept),
                "{kept} after {n}"
            );
        }
    }

    #[test]
    fn a_burst_of_members_is_bounded_and_the_newest_stay() {
        let mut recent = Recent::new(Duration::from_secs(1), 120);
        for n in 0..1_000 {
            recent.insert(n, ms(0));
        }
        let kept: Vec<_> = (0..1_000).filter(|n| recent.contains(n)).collect();
        assert!((120..=130).contains(&kept.len()), "{}", kept.len());
        assert!(kept.contains(&999) && kept.contains(&880));
    }
}
