//! How many calls HubSpot still allows a portal, learnt from its replies. Never exceeded, by us.
//!
//! HubSpot counts calls in a rolling window. A call of ours is counted at some moment between sending it
//! and having its answer, so it holds a slot from the moment it is sent until one whole window after its
//! answer. While no more slots are held than the limit allows, no window of HubSpot's can hold more calls
//! of ours than that, whatever the latency and whatever its clock says.
//!
//! Others may use the same limit. What `remaining` says beyond what our own calls explain is theirs,
//! and stays reserved until a newer reply says otherwise or a window has passed. With a [`Share`] below the
//! whole we keep to that share even while others are silent.
//!
//! Until a reply to a call of ours says how much is left, one call goes alone: of a portal that is new to us, and of all
//! when we may not have been the only ones to make its calls. Where replies say nothing, a whole window is waited for.
//!
//! Within the window calls go at an even pace, of which live changes may run ahead by a burst: spent at
//! once, a window would leave everyone waiting for its end.

use std::time::Duration;

use super::priority::Priority;
use super::protocol::BudgetLeft;
use crate::event::Millis;
use crate::hubspot::call::{LimitClass, RateLimitPolicy, RateLimits};

use daily::Daily;
use rolling::Rolling;

mod daily;
mod rolling;

/// HubSpot's window, where a reply does not say.
pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
/// Calls a window allows once a reply came without saying: the least any of HubSpot's plans has.
pub const MAX_DEFAULT: u32 = 100;
/// How long whoever takes over from another worker makes no call.
///
/// That one may have used all of a limit: the one call by which what is left is learnt would be refused while its window is
/// full. So nobody fills a window unless a call leaves it within this time, and its last calls have arrived by then; where others
/// leave six calls or fewer that is not needed, since these go more slowly than that.
pub const TAKE_OVER_DELAY: Duration = Duration::from_millis(1_500);
/// How long to wait on a daily limit before asking again: its midnight is the portal's, which we do not know.
pub const DAILY_PROBE: Duration = Duration::from_secs(300);

/// Of a window, bulk work leaves this part to live changes, in percent; one call at least.
pub const LIVE_RESERVE_PERCENT: u32 = 3;
/// One in this many calls of a window may go at once, ahead of the even pace.
pub const BURST_SHARE: u32 = 10;

/// The part of HubSpot's limits that is ours, over 0 and up to 1; the rest is left to others that use the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self(1.0);

    /// `None` unless `fraction` is over 0 and at most 1.
    #[must_use]
    pub fn new(fraction: f64) -> Option<Self> {
        (fraction > 0.0 && fraction <= 1.0).then_some(Self(fraction))
    }

    /// Our part of `max` calls: one at least.
    fn of(self, max: u32) -> u32 {
        // A positive fraction of a u32 fits a u32.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let part = (f64::from(max) * self.0).floor() as u32;
        part.max(1)
    }

    fn fraction(self) -> f64 {
        self.0
    }

    fn rest(self) -> f64 {
        1.0 - self.0
    }
}

/// The calls a portal may still make, per limit class.
#[derive(Debug)]
pub struct Budget {
    share: Share,
    burst: Rolling,
    associations: Rolling,
    daily: Option<Daily>,
    paused_until: Option<Millis>,
}

impl Budget {
    /// A budget of which nothing is known yet. Since `ours_since` nobody else makes calls for the portal's events.
    #[must_use]
    pub fn new(share: Share, ours_since: Millis) -> Self {
        Self {
            share,
            burst: Rolling::new(ours_since),
            associations: Rolling::new(ours_since),
            daily: None,
            paused_until: None,
        }
    }

    /// Whether a call of `class` may be sent now for work of `priority`.
    pub fn allows(&mut self, class: LimitClass, priority: Priority, now: Millis) -> bool {
        let share = self.share;
        self.paused_until.is_none_or(|until| until <= now)
            && self.daily_next_at(class, priority, now) <= now
            && self.rolling(class).allows(share, priority, now)
    }

    /// When to ask [`Self::allows`] again, after it said no: `None` when only an answer can change that.
    pub fn next_at(
        &mut self,
        class: LimitClass,
        priority: Priority,
        now: Millis,
    ) -> Option<Millis> {
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Some(until);
        }
        let daily = self.daily_next_at(class, priority, now);
        if daily > now {
            return Some(daily);
        }
        let share = self.share;
        self.rolling(class).next_at(share, priority, now)
    }

    /// Counts a call that is being sent.
    pub fn sent(&mut self, class: LimitClass, now: Millis) {
        let share = self.share;
        self.rolling(class).sent(share, now);
        if class == LimitClass::Burst
            && let Some(daily) = &mut self.daily
        {
            daily.sent(now);
        }
    }

    /// Counts the answer to a call, and learns what it says of the limits.
    pub fn answered(
        &mut self,
        class: LimitClass,
        sent_at: Millis,
        now: Millis,
        limits: &RateLimits,
    ) {
        self.rolling(class).answered(sent_at, now, limits);
        if class == LimitClass::Burst
            && let Some(remaining) = limits.daily_remaining
        {
            let max = limits.daily_max.unwrap_or(remaining);
            match &mut self.daily {
                Some(daily) => daily.learn(max, remaining, now),
                None => self.daily = Some(Daily::new(max, remaining, now)),
            }
            if remaining == 0 {
                self.pause(now.after(DAILY_PROBE));
            }
        }
    }

    /// Learns from a 429.
    pub fn refused(&mut self, policy: RateLimitPolicy, retry_after: Option<Duration>, now: Millis) {
        let delay = retry_after.unwrap_or(match policy {
            RateLimitPolicy::TenSecondly => self.burst.interval(),
            RateLimitPolicy::Secondly => Duration::from_secs(1),
            RateLimitPolicy::Daily => DAILY_PROBE,
        });
        self.pause(now.after(delay));
    }

    /// Until `now` another worker may have made calls for the portal: what is left is learnt anew, by one call.
    pub fn take_over(&mut self, now: Millis) {
        self.burst.take_over(now);
        self.associations.take_over(now);
    }

    /// Whether a new budget would allow as little as this one: no call of ours may still count, nothing is
    /// paused, and the calls of the day are not short.
    pub fn is_past(&mut self, now: Millis) -> bool {
        let is_short = self
            .daily
            .as_ref()
            .is_some_and(|daily| daily.is_short(self.share, now));
        let is_paused = self.paused_until.is_some_and(|until| until > now);
        !is_short && !is_paused && self.burst.is_past(now) && self.associations.is_past(now)
    }

    /// What is left in the window of `class`, as far as is known; for metrics.
    #[must_use]
    pub fn left(&mut self, class: LimitClass, now: Millis) -> Option<BudgetLeft> {
        let rolling = self.rolling(class);
        let (max, used) = (rolling.max()?, rolling.used(now));
        Some(BudgetLeft::of(max.saturating_sub(used), max))
    }

    /// What is left today, as far as is known; for metrics.
    #[must_use]
    pub fn daily_left(&self) -> Option<BudgetLeft> {
        self.daily.as_ref().map(Daily::left)
    }

    /// How long today's calls last at the pace of the last hour; `None` when they last until they are reset.
    #[must_use]
    pub fn daily_lasts(&self, now: Millis) -> Option<Duration> {
        self.daily.as_ref()?.lasts(now)
    }

    /// Lets no call of any class out before `until`.
    pub fn pause(&mut self, until: Millis) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    fn rolling(&mut self, class: LimitClass) -> &mut Rolling {
        match class {
            LimitClass::Burst => &mut self.burst,
            LimitClass::Associations => &mut self.associations,
        }
    }

    /// Association calls count against a daily limit of their own, which no header tells.
    fn daily_next_at(&self, class: LimitClass, priority: Priority, now: Millis) -> Millis {
        match (&self.daily, class) {
            (Some(daily), LimitClass::Burst) => daily.next_at(self.share, priority, now),
            _ => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn ms(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    fn limits(max: u32, remaining: u32) -> RateLimits {
        RateLimits {
            max: Some(max),
            remaining: Some(remaining),
            interval: Some(Duration::from_secs(10)),
            ..RateLimits::default()
        }
    }

    #[test]
    fn the_first_call_goes_alone() {
        let mut budget = Budget::new(Share::WHOLE, ms(0));
        assert!(budget.allows(LimitClass::Burst, Priority::Live, ms(0)));
        budget.sent(LimitClass::Burst, ms(0));
        assert!(!budget.allows(LimitClass::Burst, Priority::Live, ms(0)));
        assert!(
            budget.allows(LimitClass::Associations, Priority::Live, ms(0)),
            "another limit"
        );
        budget.answered(LimitClass::Burst, ms(0), ms(50), &limits(100, 99));
        assert!(budget.allows(LimitClass::Burst, Priority::Live, ms(50)));
    }

    #[test]
    fn a_window_of_one_call_is_used() {
        let mut budget = Budget::new(Share::WHOLE, ms(0));
        budget.sent(LimitClass::Burst, ms(0));
        let limits = RateLimits {
            interval: Some(Duration::from_secs(1)),
            ..limits(1, 0)
        };
        budget.answered(LimitClass::Burst, ms(0), ms(50), &limits);
        assert!(!budget.allows(LimitClass::Burst, Priority::Live, ms(60)));
        assert!(budget.allows(LimitClass::Burst, Priority::Live, ms(2_000)));
    }

    #[test]
    fn what_others_use_is_left_to_them_for_a_window() {
        let mut budget = Budget::new(Share::WHOLE, ms(0));
        budget.sent(LimitClass::Burst, ms(0));
        budget.answered(LimitClass::Burst, ms(0), ms(50), &limits(100, 1));
        budget.sent(LimitClass::Burst, ms(0));
        assert!(
            !budget.allows(LimitClass::Burst, Priority::Live, ms(60)),
            "one was left"
        );
        assert!(budget.allows(LimitClass::Burst, Priority::Live, ms(10_052)));
    }

    fn reply(max: Option<u32>, remaining: Option<u32>) -> RateLimits {
        RateLimits {
            max,
            remaining,
            ..RateLimits::default()
        }
    }

    #[test]
    fn whoever_takes_over_starts_with_one_call_and_trusts_its_headers() {
        let mut budget = Budget::new(Share::WHOLE, ms(0));
        budget.sent(LimitClass::Burst, ms(0));
        budget.answered(LimitClass::Burst, ms(0), ms(50), &limits(100, 99));
        budget.take_over(ms(60_000));
        let burst = |budget: &mut Budget, at| budget.allows(LimitClass::Burst, Priority::Live, at);
        assert!(burst(&mut budget, ms(60_000)));
        budget.sent(LimitClass::Burst, ms(60_000));
        assert!(!burst(&mut budget, ms(60_001)), "one alone");
        assert_eq!(
            budget.next_at(LimitClass::Burst, Priority::Live, ms(60_001)),
            None,
            "only its answer tells"
        );
        budget.answered(LimitClass::Burst, ms(60_000), ms(60_050), &limits(100, 1));
        budget.sent(LimitClass::Burst, ms(60_051));
        assert!(!burst(&mut budget, ms(60_052)), "one was left");
        assert!(burst(&mut budget, ms(70_062)));
    }

    #[test]
    fn the_reply_to_a_call_from_before_a_take_over_tells_nothing() {
        let mut budget = Budget::new(Share::WHOLE, ms(0));
        budget.sent(LimitClass::Burst, ms(0));
        budget.take_over(ms(20));
        assert!(!budget.allows(LimitClass::Burst, Priority::Live, ms(20)));
        budget.answered(LimitClass::Burst, ms(0), ms(50), &limits(100, 99));
        budget.sent(LimitClass::Burst, ms(50));
        assert!(!budget.allows(LimitClass::Burst, Priority::Live, ms(51)));
    }

    #[test]
    fn a_limit_without_headers_is_waited_for_a_whole_window_after_a_take_over() {
        let class = LimitClass::Associations;
        let mut budget = Budget::new(Share::WHOLE, ms(1_000));
        assert!(budget.allows(class, Priority::Live, ms(1_000)));
        budget.sent(class, ms(1_000));
        budget.answered(class, ms(1_000), ms(1_050), &reply(None, None));
        assert!(!budget.allows(class, Priority::Live, ms(1_051)));
        let next = budget.next_at(class, Priority::Live, ms(1_051));
        let next = next.expect("time alone changes it");
        assert!(next > ms(11_000) && next < ms(11_100), "{next:?}");
        assert!(budget.allows(class, Priority::Live, next));
        let mut later = Budget::new(Share::WHOLE, ms(1_000));
        later.sent(class, ms(60_000));
        later.answered(class, ms(60_000), ms(60_050), &reply(None, None));
        assert!(
            later.allows(class, Priority::Live, ms(60_051)),
            "all calls were ours"
        );
    }

    #[test]
    fn a_budget_is_past_when_no_call_may_count_and_the_day_is_not_short() {
        let mut budget = Budget::new(Share::WHOLE, ms(0));
        assert!(budget.is_past(ms(0)));
        budget.sent(LimitClass::Associations, ms(0));
        assert!(!budget.is_past(ms(60_000)), "a call is under way");
        budget.answered(
            LimitClass::Associations,
            ms(0),
            ms(60_000),
            &limits(100, 99),
        );
        assert!(!budget.is_past(ms(69_999)), "it may still count");
        assert!(budget.is_past(ms(70_001)));
        budget.sent(LimitClass::Burst, ms(70_001));
        let short = RateLimits {
            daily_max: Some(1_000),
            daily_remaining: Some(100),
            ..limits(100, 99)
        };
        budget.answered(LimitClass::Burst, ms(70_001), ms(70_002), &short);
        assert!(!budget.is_past(ms(600_000)), "the day is short");
        assert!(budget.is_past(ms(26 * 3_600_000)), "the day is over");
    }

    #[test]
    fn a_refusal_pauses_every_class_for_as_long_as_it_says() {
        let mut budget = Budget::new(Share::WHOLE, ms(0));
        budget.refused(RateLimitPolicy::Secondly, None, ms(0));
        assert!(!budget.allows(LimitClass::Associations, Priority::Live, ms(999)));
        assert_eq!(
            budget.next_at(LimitClass::Burst, Priority::Live, ms(0)),
            Some(ms(1_000))
        );
        assert!(budget.allows(LimitClass::Burst, Priority::Live, ms(1_000)));
        budget.refused(
            RateLimitPolicy::TenSecondly,
            Some(Duration::from_secs(3)),
            ms(1_000),
        );
        assert!(!budget.allows(LimitClass::Burst, Priority::Live, ms(3_999)));
    }

    #[test]
    fn an_empty_daily_budget_pauses_until_the_next_probe() {
        let mut budget = Budget::new(Share::WHOLE, ms(0));
        budget.sent(LimitClass::Burst, ms(0));
        let spent = RateLimits {
            daily_remaining: Some(0),
            ..limits(100, 99)
        };
        budget.answered(LimitClass::Burst, ms(0), ms(1), &spent);
        assert!(!budget.allows(LimitClass::Burst, Priority::Live, ms(2)));
        assert!(budget.allows(LimitClass::Burst, Priority::Live, ms(1).after(DAILY_PROBE)));
    }

    /// HubSpot's side: counts calls in a rolling window at the moment they arrive.
    struct RollingWindow {
        max: u32,
        arrivals: VecDeque<i64>,
    }

    impl RollingWindow {
        /// Calls that came by now and still count at `at`.
        fn counted_at(&self, at: i64) -> usize {
            let still = |&&first: &&i64| first > at - 10_000;
            self.arrivals.iter().rev().take_while(still).count()
        }

        fn arrive(&mut self, at: i64) -> Option<u32> {
            while self
                .arrivals
                .front()
                .is_some_and(|&first| first <= at - 10_000)
            {
                self.arrivals.pop_front();
            }
            self.arrivals.push_back(at);
            self.max
                .checked_sub(u32::try_from(self.arrivals.len()).unwrap())
        }
    }

    /// Sends calls as fast as the budget allows for `seconds`, each arriving and being answered after
    /// delays taken from `delays`; returns how many were sent. Panics at the first one over the limit, and when none would be
    /// left to whoever takes over now.
    fn send_all_that_is_allowed(
        max: u32,
        seconds: i64,
        delays: &[(i64, i64)],
        in_flight_max: usize,
    ) -> usize {
        let mut hubspot = RollingWindow {
            max,
            arrivals: VecDeque::new(),
        };
        let mut budget = Budget::new(Share::WHOLE, ms(0));
        let mut on_the_way: Vec<(i64, i64)> = Vec::new(); // (arrives, sent)
        let mut answers: Vec<(i64, i64, u32)> = Vec::new(); // (answered, sent, remaining)
        let mut sent = 0;
        for now in 0..seconds * 1_000 {
            on_the_way.retain(|&(arrives, sent_at)| {
                if arrives > now {
                    return true;
                }
                let remaining = hubspot.arrive(now).expect("the limit was exceeded");
                let back = delays[sent_at as usize % delays.len()].1;
                answers.push((now + back, sent_at, remaining));
                false
            });
            answers.retain(|&(at, sent_at, remaining)| {
                if at > now {
                    return true;
                }
                let reply = limits(max, remaining);
                budget.answered(LimitClass::Burst, ms(sent_at), ms(now), &reply);
                false
            });
            while on_the_way.len() + answers.len() < in_flight_max
                && budget.allows(LimitClass::Burst, Priority::Live, ms(now))
            {
                budget.sent(LimitClass::Burst, ms(now));
                let there = delays[now as usize % delays.len()].0;
                on_the_way.push((now + there, now));
                sent += 1;
            }
            let take_over = now + i64::try_from(TAKE_OVER_DELAY.as_millis()).unwrap();
            let counted = hubspot.counted_at(take_over) + on_the_way.len();
            // So few calls are never kept.
            assert!(max < 7 || counted < max as usize, "at {now} ms");
        }
        sent
    }

    #[test]
    fn a_backlog_uses_nearly_all_of_the_limit_and_never_more() {
        let sent = send_all_that_is_allowed(190, 60, &[(50, 50)], 8);
        assert!(sent >= 190 * 6 * 90 / 100, "only {sent} of {}", 190 * 6);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_limit_is_never_exceeded_whatever_the_latency(
            max in 1_u32..50,
            delays in prop::collection::vec((1_i64..3_000, 1_i64..3_000), 1..20),
            in_flight_max in 1_usize..20,
        ) {
            send_all_that_is_allowed(max, 40, &delays, in_flight_max);
        }
    }
}
