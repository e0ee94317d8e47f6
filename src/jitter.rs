//! Chance, where many must not do the same thing at the same moment. Nothing secret is made of it.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Any number, another one each time.
pub fn number() -> u64 {
    RandomState::new().hash_one(())
}

/// From 0 to 1.
pub fn share() -> f64 {
    (number() >> 32) as f64 / f64::from(u32::MAX)
}

/// Between half and the whole of `delay`.
pub fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(0.5 + share() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_between_its_half_and_its_whole_and_not_always_the_same() {
        let delay = Duration::from_secs(2);
        let delays: Vec<_> = (0..1_000).map(|_| jittered(delay)).collect();
        assert!(delays.iter().all(|one| *one >= delay / 2 && *one <= delay));
        assert!(delays.iter().any(|one| *one < delay * 6 / 10));
        assert!(delays.iter().any(|one| *one > delay * 9 / 10));
    }
}
