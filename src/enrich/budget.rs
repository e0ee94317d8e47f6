//! How many calls HubSpot still allows a portal, learnt from its replies. Never exceeded, by us.
//!
//! HubSpot counts calls in a rolling window. A call of ours is counted at some moment between sending it
//! and having its answer, so it holds a slot from the moment it is sent until one whole window after its
//! answer. While no more slots are held than the limit allows, no window of HubSpot's can hold more calls
//! of ours than that, whatever the latency and whatever its clock says.
//!
//! Others may use the same limit. What `remaining` says beyond what our own calls explain is theirs,
//! and stays reserved until a newer reply says otherwise or a window has passed.

use std::collections::VecDeque;
use std::time::Duration;

use super::protocol::BudgetLeft;
use crate::event::Millis;
use crate::hubspot::call::{LimitClass, RateLimitPolicy, RateLimits};

/// HubSpot's window, where a reply does not say.
pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
/// Calls a window allows once a reply came without saying: the least any of HubSpot's plans has.
pub const MAX_DEFAULT: u32 = 100;
/// How long to wait on a daily limit before asking again: its midnight is the portal's, which we do not know.
pub const DAILY_PROBE: Duration = Duration::from_secs(300);

/// The calls a portal may still make, per limit class.
#[derive(Debug)]
pub struct Budget {
    burst: Window,
    associations: Window,
    daily: Option<BudgetLeft>,
    paused_until: Option<Millis>,
}

/// One rolling window.
#[derive(Debug)]
struct Window {
    /// `None` until the first reply: then one call at a time.
    max: Option<u32>,
    interval: Duration,
    in_flight: u32,
    /// Answered calls that may still count, in the order they were answered.
    answered: VecDeque<AnsweredCall>,
    /// What others used, as of a reply, and when that is forgotten.
    others: u32,
    others_until: Millis,
}

#[derive(Clone, Copy, Debug)]
struct AnsweredCall {
    sent_at: Millis,
    answered_at: Millis,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            burst: Window::new(),
            associations: Window::new(),
            daily: None,
            paused_until: None,
        }
    }
}

impl Budget {
    /// Whether a call of `class` may be sent now.
    pub fn allows(&mut self, class: LimitClass, now: Millis) -> bool {
        self.paused_until.is_none_or(|until| until <= now) && self.window(class).allows(now)
    }

    /// When to ask [`Self::allows`] again, after it said no: `None` when only an answer can change that.
    pub fn next_at(&mut self, class: LimitClass, now: Millis) -> Option<Millis> {
        match self.paused_until.filter(|until| *until > now) {
            Some(until) => Some(until),
            None => self.window(class).next_at(now),
        }
    }

    /// Counts a call that is being sent.
    pub fn sent(&mut self, class: LimitClass) {
        self.window(class).in_flight += 1;
    }

    /// Counts the answer to a call, and learns what it says of the limits.
    pub fn answered(
        &mut self,
        class: LimitClass,
        sent_at: Millis,
        now: Millis,
        limits: &RateLimits,
    ) {
        self.window(class).answered(sent_at, now, limits);
        if class == LimitClass::Burst
            && let Some(remaining) = limits.daily_remaining
        {
            let max = limits.daily_max.unwrap_or(remaining);
            self.daily = Some(BudgetLeft::of(remaining, max));
            if remaining == 0 {
                self.pause(now.after(DAILY_PROBE));
            }
        }
    }

    /// Learns from a 429.
    pub fn refused(&mut self, policy: RateLimitPolicy, retry_after: Option<Duration>, now: Millis) {
        let delay = retry_after.unwrap_or(match policy {
            RateLimitPolicy::TenSecondly => self.burst.interval,
            RateLimitPolicy::Secondly => Duration::from_secs(1),
            RateLimitPolicy::Daily => DAILY_PROBE,
        });
        self.pause(now.after(delay));
    }

    /// What is left in the window of `class`, as far as is known; for metrics.
    #[must_use]
    pub fn left(&self, class: LimitClass) -> Option<BudgetLeft> {
        let window = self.window_ref(class);
        window.max.map(|max| {
            let used = window.held().saturating_add(window.others);
            BudgetLeft::of(max.saturating_sub(used), max)
        })
    }

    /// What is left today, as far as is known; for metrics.
    #[must_use]
    pub fn daily_left(&self) -> Option<BudgetLeft> {
        self.daily
    }

    /// Lets no call of any class out before `until`.
    pub fn pause(&mut self, until: Millis) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    fn window(&mut self, class: LimitClass) -> &mut Window {
        match class {
            LimitClass::Burst => &mut self.burst,
            LimitClass::Associations => &mut self.associations,
        }
    }

    fn window_ref(&self, class: LimitClass) -> &Window {
        match class {
            LimitClass::Burst => &self.burst,
            LimitClass::Associations => &self.associations,
        }
    }
}

impl Window {
    fn new() -> Self {
        Self {
            max: None,
            interval: INTERVAL_DEFAULT,
            in_flight: 0,
            answered: VecDeque::new(),
            others: 0,
            others_until: Millis::default(),
        }
    }

    fn allows(&mut self, now: Millis) -> bool {
        self.forget_before(now);
        match self.max {
            None => self.in_flight == 0,
            Some(max) => self.held() + self.others < max,
        }
    }

    fn held(&self) -> u32 {
        self.in_flight
            .saturating_add(u32::try_from(self.answered.len()).unwrap_or(u32::MAX))
    }

    fn forget_before(&mut self, now: Millis) {
        while let Some(oldest) = self.answered.front()
            && oldest.answered_at.after(self.interval) < now
        {
            self.answered.pop_front();
        }
        if self.others_until < now {
            self.others = 0;
        }
    }

    fn next_at(&mut self, now: Millis) -> Option<Millis> {
        self.forget_before(now);
        let own = self
            .answered
            .front()
            .map(|oldest| oldest.answered_at.after(self.interval));
        let others = (self.others > 0).then_some(self.others_until);
        let one_later = |at: Millis| at.after(Duration::from_millis(1));
        own.into_iter().chain(others).min().map(one_later)
    }

    fn answered(&mut self, sent_at: Millis, now: Millis, limits: &RateLimits) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.interval = limits.interval.unwrap_or(self.interval);
        self.max = Some(limits.max.or(self.max).unwrap_or(MAX_DEFAULT).max(1));
        self.forget_before(now);
        if let (Some(max), Some(remaining)) = (limits.max, limits.remaining) {
            let used = max.saturating_sub(remaining);
            self.others = used.saturating_sub(self.surely_counted(sent_at, now));
            self.others_until = now.after(self.interval);
        }
        self.answered.push_back(AnsweredCall {
            sent_at,
            answered_at: now,
        });
    }

    /// How many calls of ours HubSpot had surely counted when it wrote the reply to the call sent at
    /// `sent_at` and answered `now`: that call, and those answered before it was sent whose sending is
    /// less than a window ago.
    fn surely_counted(&self, sent_at: Millis, now: Millis) -> u32 {
        let earlier = self
            .answered
            .iter()
            .filter(|call| call.answered_at <= sent_at && call.sent_at.after(self.interval) > now);
        1 + u32::try_from(earlier.count()).unwrap_or(u32::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
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
        let mut budget = Budget::default();
        assert!(budget.allows(LimitClass::Burst, ms(0)));
        budget.sent(LimitClass::Burst);
        assert!(!budget.allows(LimitClass::Burst, ms(0)));
        assert!(
            budget.allows(LimitClass::Associations, ms(0)),
            "another limit"
        );
        budget.answered(LimitClass::Burst, ms(0), ms(50), &limits(100, 99));
        assert!(budget.allows(LimitClass::Burst, ms(50)));
    }

    #[test]
    fn what_others_use_is_left_to_them_for_a_window() {
        let mut budget = Budget::default();
        budget.sent(LimitClass::Burst);
        budget.answered(LimitClass::Burst, ms(0), ms(50), &limits(100, 1));
        budget.sent(LimitClass::Burst);
        assert!(!budget.allows(LimitClass::Burst, ms(60)), "one was left");
        assert!(budget.allows(LimitClass::Burst, ms(10_052)));
    }

    #[test]
    fn a_refusal_pauses_every_class_for_as_long_as_it_says() {
        let mut budget = Budget::default();
        budget.refused(RateLimitPolicy::Secondly, None, ms(0));
        assert!(!budget.allows(LimitClass::Associations, ms(999)));
        assert_eq!(budget.next_at(LimitClass::Burst, ms(0)), Some(ms(1_000)));
        assert!(budget.allows(LimitClass::Burst, ms(1_000)));
        budget.refused(
            RateLimitPolicy::TenSecondly,
            Some(Duration::from_secs(3)),
            ms(1_000),
        );
        assert!(!budget.allows(LimitClass::Burst, ms(3_999)));
    }

    #[test]
    fn an_empty_daily_budget_pauses_until_the_next_probe() {
        let mut budget = Budget::default();
        budget.sent(LimitClass::Burst);
        let spent = RateLimits {
            daily_remaining: Some(0),
            ..limits(100, 99)
        };
        budget.answered(LimitClass::Burst, ms(0), ms(1), &spent);
        assert!(!budget.allows(LimitClass::Burst, ms(2)));
        assert!(budget.allows(LimitClass::Burst, ms(1).after(DAILY_PROBE)));
    }

    /// HubSpot's side: counts calls in a rolling window at the moment they arrive.
    struct RollingWindow {
        max: u32,
        arrivals: VecDeque<i64>,
    }

    impl RollingWindow {
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
    /// delays taken from `delays`; returns how many were sent, or panics at the first one over the limit.
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
        let mut budget = Budget::default();
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
                && budget.allows(LimitClass::Burst, ms(now))
            {
                budget.sent(LimitClass::Burst);
                let there = delays[now as usize % delays.len()].0;
                on_the_way.push((now + there, now));
                sent += 1;
            }
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
