//! One rolling window of HubSpot's: how many calls of ours it may hold, and at which pace they go.

use std::collections::VecDeque;
use std::time::Duration;

use crate::enrich::priority::Priority;
use crate::event::Millis;
use crate::hubspot::call::RateLimits;

use super::{
    BURST_SHARE, INTERVAL_DEFAULT, LIVE_RESERVE_PERCENT, MAX_DEFAULT, Share, TAKE_OVER_DELAY,
};

/// One rolling window.
#[derive(Debug)]
pub struct Rolling {
    /// `None` until the first reply.
    max: Option<u32>,
    /// Whether what is left is not known: then one call at a time.
    alone: bool,
    /// Since when nobody else makes the calls of the portal's events.
    ours_since: Millis,
    interval: Duration,
    in_flight: u32,
    /// Answered calls that may still count, in the order they were answered.
    answered: VecDeque<AnsweredCall>,
    /// What others used, as of a reply, and when that is forgotten.
    others: u32,
    others_until: Millis,
    /// When the next call is due at an even pace, in microseconds of Unix time: calls may run ahead of
    /// it by a burst.
    due_us: i64,
    /// Whether the window was full when it was last looked at.
    was_full: bool,
}

#[derive(Clone, Copy, Debug)]
struct AnsweredCall {
    sent_at: Millis,
    answered_at: Millis,
}

impl Rolling {
    pub fn new(ours_since: Millis) -> Self {
        Self {
            max: None,
            alone: true,
            ours_since,
            interval: INTERVAL_DEFAULT,
            in_flight: 0,
            answered: VecDeque::new(),
            others: 0,
            others_until: Millis::default(),
            due_us: 0,
            was_full: false,
        }
    }

    pub fn max(&self) -> Option<u32> {
        self.max
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Calls that are, or may still be, counted: ours and, as far as is known, those of others.
    pub fn used(&mut self, now: Millis) -> u32 {
        self.forget_before(now);
        self.all_held()
    }

    /// Whether no call may still be counted, as far as is known.
    pub fn is_past(&mut self, now: Millis) -> bool {
        self.used(now) == 0
    }

    /// Others may have made calls until `now`.
    pub fn take_over(&mut self, now: Millis) {
        self.ours_since = now;
        self.alone = true;
    }

    /// Whether a call may go now: there is room in the window, and its pace allows it.
    pub fn allows(&mut self, share: Share, priority: Priority, now: Millis) -> bool {
        self.forget_before(now);
        if self.alone && self.in_flight > 0 {
            return false;
        }
        let Some(max) = self.max else {
            return true;
        };
        if !self.has_room(max, share, Priority::Live) {
            self.was_full = true;
            return false;
        }
        if self.is_last_to_keep(max, now) {
            return false;
        }
        if std::mem::take(&mut self.was_full) {
            // What was not sent while the window was full is not made up for in a burst: that would
            // fill it again, and so on for ever.
            self.due_us = self.due_us.max(micros(now) + self.burst_us(share.of(max)));
        }
        self.has_room(max, share, priority) && self.is_due(max, share, priority, now)
    }

    /// When to ask [`Self::allows`] again after it said no; `None` when only an answer can change that.
    pub fn next_at(&mut self, share: Share, priority: Priority, now: Millis) -> Option<Millis> {
        if self.allows(share, priority, now) {
            return None;
        }
        let max = self.max?;
        if self.alone && self.in_flight > 0 {
            return None;
        }
        if self.has_room(max, share, priority) {
            let ahead_us = self.due_us - self.tolerance_us(max, share, priority) - micros(now);
            let ahead = Duration::from_micros(u64::try_from(ahead_us).unwrap_or(0));
            let due = now.after(ahead.max(ONE_MILLI) + ONE_MILLI);
            if !self.is_last_to_keep(max, now) {
                return Some(due);
            }
            let taken_at = self.frees_at()?.before(TAKE_OVER_DELAY);
            return Some(due.max(taken_at));
        }
        self.frees_at().map(|at| at.after(ONE_MILLI))
    }

    pub fn sent(&mut self, share: Share, now: Millis) {
        self.in_flight += 1;
        if let Some(max) = self.max {
            self.due_us = self.due_us.max(micros(now)) + self.step_us(share.of(max));
        }
    }

    pub fn answered(&mut self, sent_at: Millis, now: Millis, limits: &RateLimits) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.interval = limits.interval.unwrap_or(self.interval);
        let max = limits.max.or(self.max).unwrap_or(MAX_DEFAULT).max(1);
        self.max = Some(max);
        self.forget_before(now);
        let is_first = self.alone && sent_at >= self.ours_since;
        if let (Some(max), Some(remaining)) = (limits.max, limits.remaining) {
            let used = max.saturating_sub(remaining);
            self.others = used.saturating_sub(self.surely_counted(sent_at, now));
            self.others_until = now.after(self.interval);
        } else if is_first && self.ours_since.after(self.interval) > now {
            // Nothing is said of what others used: all of it, until that is past.
            self.others = max;
            self.others_until = self.ours_since.after(self.interval);
        }
        self.alone &= !is_first;
        self.answered.push_back(AnsweredCall {
            sent_at,
            answered_at: now,
        });
    }

    fn all_held(&self) -> u32 {
        self.held().saturating_add(self.others)
    }

    fn held(&self) -> u32 {
        self.in_flight
            .saturating_add(u32::try_from(self.answered.len()).unwrap_or(u32::MAX))
    }

    /// Whether one more call fits: into our share, and into what others leave of the whole.
    fn has_room(&self, max: u32, share: Share, priority: Priority) -> bool {
        let reserve = match priority {
            Priority::Live => 0,
            Priority::Bulk => (share.of(max) * LIVE_RESERVE_PERCENT)
                .div_ceil(100)
                .min(share.of(max) - 1),
        };
        self.held() + reserve < share.of(max) && self.all_held() + reserve < max
    }

    /// Whether one more call would leave none to whoever takes over soon: it fills the window, and none of it is free again
    /// within [`TAKE_OVER_DELAY`]. Only the first window after a rest is filled so early; where others leave so few calls that
    /// an even pace is slower than that, none is kept.
    fn is_last_to_keep(&self, max: u32, now: Millis) -> bool {
        let held = self.all_held();
        let left_by_others = max.saturating_sub(self.others);
        let is_slow = self.interval > TAKE_OVER_DELAY * left_by_others;
        let is_free_soon = |at: Millis| at <= now.after(TAKE_OVER_DELAY);
        held > 0 && held + 1 >= max && !is_slow && !self.frees_at().is_some_and(is_free_soon)
    }

    /// When the window has room for one call more than now; `None` while only an answer can tell.
    fn frees_at(&self) -> Option<Millis> {
        let oldest = self.answered.front();
        let own = oldest.map(|oldest| oldest.answered_at.after(self.interval));
        let others = (self.others > 0).then_some(self.others_until);
        own.into_iter().chain(others).min()
    }

    fn is_due(&self, max: u32, share: Share, priority: Priority, now: Millis) -> bool {
        self.due_us - micros(now) <= self.tolerance_us(max, share, priority)
    }

    /// How far calls may run ahead of an even pace. Bulk work may not: the burst is for live changes.
    fn tolerance_us(&self, max: u32, share: Share, priority: Priority) -> i64 {
        match priority {
            Priority::Live => self.burst_us(share.of(max)),
            Priority::Bulk => 0,
        }
    }

    fn burst_us(&self, max: u32) -> i64 {
        i64::from((max / BURST_SHARE).max(1)) * self.step_us(max)
    }

    /// The time from one call to the next at an even pace.
    fn step_us(&self, max: u32) -> i64 {
        i64::try_from(self.interval.as_micros()).unwrap_or(i64::MAX) / i64::from(max)
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

const ONE_MILLI: Duration = Duration::from_millis(1);

fn micros(at: Millis) -> i64 {
    at.as_i64().saturating_mul(1_000)
}
