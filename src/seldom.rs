//! Log lines that somebody outside can cause: enough of them to know, and never so many that the disk or the reader
//! drowns.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a cause is silent after a line of it.
const SILENCE: Duration = Duration::from_secs(10);

/// Of each cause one line at once, and then one in ten seconds, which says how many were left out.
///
/// Causes come from a closed set, so what is remembered is bounded.
#[derive(Debug)]
pub struct Seldom {
    told: Mutex<BTreeMap<&'static str, Told>>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    left_out: u64,
}

impl Seldom {
    /// Nothing was told yet.
    #[must_use]
    pub const fn new() -> Self {
        let told = Mutex::new(BTreeMap::new());
        Self { told }
    }

    /// Whether a line of `cause` may be written now: with the number of those that were left out since the last one.
    #[must_use]
    pub fn may_tell(&self, cause: &'static str, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match told.get_mut(cause) {
            Some(last) if now.saturating_duration_since(last.at) < SILENCE => {
                last.left_out += 1;
                None
            }
            last => {
                let left_out = last.map_or(0, |last| last.left_out);
                let fresh = Told {
                    at: now,
                    left_out: 0,
                };
                told.insert(cause, fresh);
                Some(left_out)
            }
        }
    }
}

impl Default for Seldom {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_at_once_and_then_seldom() {
        let (seldom, start) = (Seldom::new(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(seldom.may_tell("missing", at(0)), Some(0));
        assert_eq!(seldom.may_tell("stale", at(1)), Some(0));
        for millis in 2..9_999 {
            assert_eq!(seldom.may_tell("missing", at(millis)), None);
        }
        assert_eq!(seldom.may_tell("missing", at(10_000)), Some(9_997));
        assert_eq!(seldom.may_tell("missing", at(10_001)), None);
        assert_eq!(seldom.may_tell("missing", at(30_000)), Some(1));
    }
}
