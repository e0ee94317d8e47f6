//! The daily limit: bulk work leaves enough for live changes, and these are spread over the rest of the day
//! when it grows short.
//!
//! HubSpot resets the counter at midnight in the portal's time zone, which no reply names. A reset is seen
//! when the rest jumps up; until then the day is taken to end 24 hours after the first reply, which errs
//! on the careful side.

use std::collections::VecDeque;
use std::time::Duration;

use crate::enrich::priority::Priority;
use crate::enrich::protocol::BudgetLeft;
use crate::event::Millis;

use super::{DAILY_PROBE, Share};

/// HubSpot's day.
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Of the calls that the rest of the day deserves at an even pace, bulk work leaves this share to live changes.
const LIVE_SHARE: f64 = 0.5;
/// With less than this share of what the rest of the day deserves at an even pace, live calls are spread evenly.
const SPREAD_SHARE: f64 = 0.25;
/// A rest that is larger by this share of the limit than the one before was reset meanwhile.
const RESET_JUMP: f64 = 0.05;
/// How often the rest is noted, to see how fast it is used up.
const NOTE_EVERY: Duration = Duration::from_secs(600);
/// So many notes are kept: an hour.
const NOTES_MAX: usize = 7;

/// The daily limit of a portal, as of the last reply.
#[derive(Debug)]
pub struct Daily {
    max: u32,
    remaining: u32,
    resets_at: Millis,
    last_sent: Option<Millis>,
    /// The rest at earlier times, oldest first.
    notes: VecDeque<(Millis, u32)>,
}

impl Daily {
    /// What the first reply says.
    pub fn new(max: u32, remaining: u32, now: Millis) -> Self {
        Self {
            max: max.max(1),
            remaining,
            resets_at: now.after(DAY),
            last_sent: None,
            notes: VecDeque::from([(now, remaining)]),
        }
    }

    /// What a later reply says.
    pub fn learn(&mut self, max: u32, remaining: u32, now: Millis) {
        let jump = f64::from(remaining) - f64::from(self.remaining);
        self.max = max.max(1);
        if jump > RESET_JUMP * f64::from(self.max) {
            self.resets_at = now.after(DAY);
            self.notes.clear();
        }
        self.remaining = remaining;
        while self.resets_at <= now {
            self.resets_at = self.resets_at.after(DAY);
        }
        let last = self.notes.back().map(|(at, _)| *at);
        if last.is_none_or(|at| now.since(at) >= NOTE_EVERY) {
            self.notes.push_back((now, remaining));
        }
        if self.notes.len() > NOTES_MAX {
            self.notes.pop_front();
        }
    }

    pub fn sent(&mut self, now: Millis) {
        self.last_sent = Some(now);
    }

    pub fn left(&self) -> BudgetLeft {
        BudgetLeft::of(self.remaining, self.max)
    }

    /// When a call may go: now or before, if at once.
    pub fn next_at(&self, share: Share, priority: Priority, now: Millis) -> Millis {
        if self.remaining == 0 {
            // Nobody knows when it is reset: a call tells.
            return self.last_sent.map_or(now, |sent| sent.after(DAILY_PROBE));
        }
        let to_reset = self.resets_at.since(now);
        let day_left = to_reset.as_secs_f64() / DAY.as_secs_f64();
        let others = share.rest() * f64::from(self.max) * day_left;
        let left = f64::from(self.remaining) - others;
        let deserved = share.fraction() * f64::from(self.max) * day_left;
        match priority {
            Priority::Bulk if left <= LIVE_SHARE * deserved => {
                // The reserve shrinks with the day; this is when it reaches what is left now.
                let reserve = (share.rest() + LIVE_SHARE * share.fraction()) * f64::from(self.max);
                let day_left_then = f64::from(self.remaining) / reserve;
                let wait = DAY.mul_f64((day_left - day_left_then).max(0.0));
                now.after(wait + Duration::from_secs(1))
            }
            Priority::Live if left < SPREAD_SHARE * deserved => {
                let step = to_reset.div_f64(left.max(1.0));
                self.last_sent.map_or(now, |sent| sent.after(step))
            }
            _ => now,
        }
    }

    /// Whether calls of the day are held back.
    pub fn is_short(&self, share: Share, now: Millis) -> bool {
        self.resets_at > now && self.next_at(share, Priority::Bulk, now) > now
    }

    /// How long the rest lasts at the pace of the last hour; `None` when it lasts until it is reset.
    pub fn lasts(&self, now: Millis) -> Option<Duration> {
        let (since, rest_then) = *self.notes.front()?;
        let spent = rest_then.checked_sub(self.remaining)?;
        let span = now.since(since);
        if spent == 0 || span < NOTE_EVERY {
            return None;
        }
        let lasts = span.mul_f64(f64::from(self.remaining) / f64::from(spent));
        (now.after(lasts) < self.resets_at).then_some(lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Share = Share::WHOLE;
    const HOUR: i64 = 3_600_000;

    fn ms(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    #[test]
    fn bulk_work_leaves_half_of_the_rest_of_the_day_to_live_changes() {
        let mut daily = Daily::new(240_000, 240_000, ms(0));
        assert_eq!(daily.next_at(WHOLE, Priority::Bulk, ms(0)), ms(0));
        daily.learn(240_000, 119_000, ms(HOUR / 60));
        let now = ms(HOUR / 60);
        assert_eq!(daily.next_at(WHOLE, Priority::Live, now), now);
        let next = daily.next_at(WHOLE, Priority::Bulk, now);
        assert!(next > now && next < ms(HOUR), "{next:?}");
        assert_eq!(daily.next_at(WHOLE, Priority::Bulk, next), next, "then");
    }

    #[test]
    fn live_calls_are_spread_evenly_when_the_rest_grows_short() {
        let mut daily = Daily::new(240_000, 240_000, ms(0));
        daily.learn(240_000, 2_400, ms(12 * HOUR));
        let now = ms(12 * HOUR);
        assert_eq!(daily.next_at(WHOLE, Priority::Live, now), now, "the first");
        daily.sent(now);
        let next = daily.next_at(WHOLE, Priority::Live, now);
        assert_eq!(next.since(now), Duration::from_secs(18), "12 h / 2,400");
    }

    #[test]
    fn an_empty_day_is_asked_about_again_and_again_for_either_priority() {
        let mut daily = Daily::new(1_000, 1_000, ms(0));
        daily.sent(ms(10 * HOUR));
        daily.learn(1_000, 0, ms(10 * HOUR));
        for priority in [Priority::Live, Priority::Bulk] {
            let mut now = ms(10 * HOUR);
            for _ in 0..300 {
                let next = daily.next_at(WHOLE, priority, now);
                assert_eq!(next, now.after(DAILY_PROBE));
                assert_eq!(daily.next_at(WHOLE, priority, next), next, "then");
                daily.sent(next);
                now = next;
            }
            daily.sent(ms(10 * HOUR));
        }
    }

    /// A day of endless work, live and bulk, at 19 calls a second when it is let.
    fn a_day(share: Share, priority: Priority) -> (u32, i64) {
        let max = 250_000;
        let mut daily = Daily::new(max, max, ms(0));
        let (mut remaining, mut now, mut last) = (max, ms(0), 0);
        while now < ms(24 * HOUR - 1_000) {
            let next = daily.next_at(share, priority, now);
            if next > now {
                now = next;
                continue;
            }
            assert!(remaining > 0, "the day's calls were used up at {now:?}");
            remaining -= 1;
            last = now.as_i64();
            daily.sent(now);
            daily.learn(max, remaining, now);
            now = now.after(Duration::from_millis(53));
        }
        (remaining, last)
    }

    #[test]
    fn a_days_calls_last_the_day_and_are_used() {
        for priority in [Priority::Live, Priority::Bulk] {
            let (remaining, last) = a_day(WHOLE, priority);
            assert!(remaining < 2_500, "{priority:?} left {remaining}");
            assert!(last > 23 * HOUR, "{priority:?} had its last at {last}");
        }
    }

    #[test]
    fn the_share_of_others_is_left_to_them_all_day() {
        let mut daily = Daily::new(100_000, 100_000, ms(0));
        daily.learn(100_000, 41_000, ms(1));
        let share = Share::new(0.6).unwrap();
        daily.sent(ms(1));
        let next = daily.next_at(share, Priority::Live, ms(1));
        assert!(next.since(ms(1)) > Duration::from_secs(60), "{next:?}");
        assert_eq!(daily.next_at(WHOLE, Priority::Live, ms(1)), ms(1));
    }

    #[test]
    fn a_reset_is_seen_and_the_day_begins_anew() {
        let mut daily = Daily::new(1_000, 500, ms(0));
        daily.learn(1_000, 10, ms(5 * HOUR));
        daily.learn(1_000, 999, ms(6 * HOUR));
        assert_eq!(daily.resets_at, ms(30 * HOUR));
        let now = ms(6 * HOUR);
        assert_eq!(daily.next_at(WHOLE, Priority::Bulk, now), now);
    }

    #[test]
    fn it_is_foretold_when_the_rest_runs_out() {
        let mut daily = Daily::new(100_000, 50_000, ms(0));
        assert_eq!(daily.lasts(ms(0)), None);
        for minute in 1..=60 {
            daily.learn(
                100_000,
                50_000 - minute * 200,
                ms(i64::from(minute) * 60_000),
            );
        }
        let lasts = daily.lasts(ms(HOUR)).unwrap();
        assert_eq!(lasts.as_secs() / 60, 190, "38,000 at 200 a minute");
        let mut slow = Daily::new(100_000, 50_000, ms(0));
        slow.learn(100_000, 49_990, ms(HOUR));
        assert_eq!(slow.lasts(ms(HOUR)), None, "more than a day");
    }
}
