//! HubSpot's call limits, counted exactly and at arrival.
//!
//! Sources: "API usage guidelines" and the `x-hubspot-rate-limit-exemptions` of the OpenAPI files. Search has a limit of
//! its own per second and counts for the day; association batches, labels and definitions have a bucket and
//! a daily limit of their own; everything else shares the app's ten seconds. Refused calls do not count.

use std::collections::VecDeque;
use std::time::Duration;

use super::options::Limits;
use crate::event::Millis;

const TEN_SECONDS: Duration = Duration::from_secs(10);
const ONE_SECOND: Duration = Duration::from_secs(1);
const DAY_MS: i64 = 86_400_000;

/// Which limit a call counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bucket {
    Burst,
    Associations,
    Search,
}

/// The limit that refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Daily,
    TenSecondly,
    Secondly,
}

/// What the reply's headers say after a call was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) max: u32,
    pub(crate) remaining: u32,
    pub(crate) daily_max: u32,
    pub(crate) daily_remaining: u32,
}

/// A portal's counters. `uptime` is a monotonic time since any fixed start.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    burst: VecDeque<Duration>,
    associations: VecDeque<Duration>,
    search: VecDeque<Duration>,
    day: i64,
    daily: u32,
    associations_daily: u32,
}

impl Meter {
    /// Counts a call, or refuses it.
    pub(crate) fn count(
        &mut self,
        bucket: Bucket,
        limits: &Limits,
        uptime: Duration,
        now: Millis,
    ) -> Result<(), Refused> {
        self.roll(uptime, now);
        let (daily, daily_max) = self.daily(bucket, limits);
        if *daily >= daily_max {
            return Err(Refused::Daily);
        }
        let (window, max, refused) = self.window(bucket, limits);
        if window.len() >= max as usize {
            return Err(refused);
        }
        window.push_back(uptime);
        *self.daily(bucket, limits).0 += 1;
        Ok(())
    }

    /// How a bucket stands; search replies tell nothing.
    pub(crate) fn standing(&mut self, bucket: Bucket, limits: &Limits) -> Option<Standing> {
        if bucket == Bucket::Search {
            return None;
        }
        let (daily, daily_max) = self.daily(bucket, limits);
        let daily_remaining = daily_max.saturating_sub(*daily);
        let (window, max, _) = self.window(bucket, limits);
        let used = u32::try_from(window.len()).unwrap_or(u32::MAX);
        Some(Standing {
            max,
            remaining: max.saturating_sub(used),
            daily_max,
            daily_remaining,
        })
    }

    fn daily(&mut self, bucket: Bucket, limits: &Limits) -> (&mut u32, u32) {
        match bucket {
            Bucket::Associations => (&mut self.associations_daily, limits.associations_daily),
            Bucket::Burst | Bucket::Search => (&mut self.daily, limits.daily),
        }
    }

    fn window(
        &mut self,
        bucket: Bucket,
        limits: &Limits,
    ) -> (&mut VecDeque<Duration>, u32, Refused) {
        match bucket {
            Bucket::Burst => (&mut self.burst, limits.burst, Refused::TenSecondly),
            Bucket::Associations => (
                &mut self.associations,
                limits.associations,
                Refused::TenSecondly,
            ),
            Bucket::Search => (&mut self.search, limits.search, Refused::Secondly),
        }
    }

    fn roll(&mut self, uptime: Duration, now: Millis) {
        forget(&mut self.burst, uptime, TEN_SECONDS);
        forget(&mut self.associations, uptime, TEN_SECONDS);
        forget(&mut self.search, uptime, ONE_SECOND);
        let day = now.as_i64().div_euclid(DAY_MS);
        if day != self.day {
            (self.day, self.daily, self.associations_daily) = (day, 0, 0);
        }
    }
}

fn forget(window: &mut VecDeque<Duration>, uptime: Duration, length: Duration) {
    while window
        .front()
        .is_some_and(|at| uptime.saturating_sub(*at) >= length)
    {
        window.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        burst: 3,
        daily: 10,
        associations: 2,
        associations_daily: 5,
        search: 1,
    };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_window_rolls_call_by_call() {
        let (mut meter, now) = (Meter::default(), Millis::new(0).unwrap());
        for ms in [0, 4_000, 8_000] {
            assert_eq!(meter.count(Bucket::Burst, &LIMITS, at(ms), now), Ok(()));
        }
        assert_eq!(
            meter.count(Bucket::Burst, &LIMITS, at(9_999), now),
            Err(Refused::TenSecondly)
        );
        assert_eq!(meter.count(Bucket::Burst, &LIMITS, at(10_000), now), Ok(()));
        assert_eq!(
            meter.count(Bucket::Burst, &LIMITS, at(10_001), now),
            Err(Refused::TenSecondly)
        );
    }

    #[test]
    fn buckets_do_not_share_but_search_counts_for_the_day() {
        let (mut meter, now) = (Meter::default(), Millis::new(0).unwrap());
        for bucket in [Bucket::Burst, Bucket::Associations, Bucket::Search] {
            assert_eq!(meter.count(bucket, &LIMITS, at(0), now), Ok(()));
        }
        assert_eq!(
            meter.count(Bucket::Search, &LIMITS, at(999), now),
            Err(Refused::Secondly)
        );
        let burst = meter.standing(Bucket::Burst, &LIMITS).unwrap();
        assert_eq!((burst.remaining, burst.daily_remaining), (2, 8));
        assert_eq!(meter.standing(Bucket::Search, &LIMITS), None);
    }

    #[test]
    fn the_day_ends_at_midnight() {
        let mut meter = Meter::default();
        let evening = Millis::new(DAY_MS - 1).unwrap();
        for call in 0..10 {
            assert_eq!(
                meter.count(Bucket::Burst, &LIMITS, at(call * 10_000), evening),
                Ok(())
            );
        }
        assert_eq!(
            meter.count(Bucket::Burst, &LIMITS, at(200_000), evening),
            Err(Refused::Daily)
        );
        let midnight = Millis::new(DAY_MS).unwrap();
        assert_eq!(
            meter.count(Bucket::Burst, &LIMITS, at(200_000), midnight),
            Ok(())
        );
    }
}
