//! A memory that is bounded in time and in size: ids seen, versions sent, merges, erased records.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use crate::event::Millis;

/// How long an event that ended is recognised: HubSpot repeats for 24 hours, and a margin.
pub const SEEN_KEEP: Duration = Duration::from_secs(72 * 3_600);
/// The most events, versions, merges or erased records that are remembered, each; the oldest go first.
pub const SEEN_CAPACITY: usize = 100_000;

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
        self.forget(now);
    }

    /// What is remembered for `key`. An entry may outlive its time until the next insert.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// Entries written again stand in `by_age` more than once; only the newest mention counts.
    fn forget(&mut self, now: Millis) {
        while let Some(oldest) = self.by_age.front() {
            let over = self.entries.len() > self.capacity || self.by_age.len() > 2 * self.capacity;
            if oldest.forgotten_at > now && !over {
                break;
            }
            let newest = self.entries.get(&oldest.key);
            if newest.is_some_and(|(_, write)| *write == oldest.write) {
                self.entries.remove(&oldest.key);
            }
            self.by_age.pop_front();
        }
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
    fn writing_one_entry_over_and_over_takes_no_more_room() {
        let mut window = Window::new(Duration::from_secs(1), 3);
        for n in 0..1_000 {
            window.insert("a", n, ms(0));
        }
        assert_eq!(window.get(&"a"), Some(&999));
        assert!(window.by_age.len() <= 7);
    }
}
