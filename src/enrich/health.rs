//! Whether a portal can be asked at all: backing off from failures, or paused for want of a good token.

use std::time::Duration;

use crate::event::Millis;

/// The first delay after a failure; doubled with each further one.
pub const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The longest delay after a failure.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// So many failures in a row are more than a moment's.
const TROUBLE_FAILURES: u32 = 3;
/// How often a portal whose token is refused is tried again.
pub const UNAUTHORIZED_PROBE: Duration = Duration::from_secs(300);

/// Whether a portal can be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// As far as is known.
    #[default]
    Ready,
    /// It failed; after `until` one call at a time tries whether it is back.
    BackingOff { failures: u32, until: Millis },
    /// Its token was refused and is being refreshed.
    Refreshing,
    /// Its token is refused, there is none, or it is paused by its own setting; after `until` one call tries again.
    Paused { until: Millis },
}

/// How work for a portal is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As it comes.
    Good,
    /// It could not be asked; now a little work shall show whether it can.
    OnTrial,
    /// It cannot be asked: its work had better wait elsewhere.
    Barred,
}

impl Health {
    /// Whether a call may be sent now, with `in_flight` calls under way.
    pub fn allows(self, in_flight: usize, now: Millis) -> bool {
        match self {
            Self::Ready => true,
            Self::Refreshing => false,
            Self::BackingOff { until, .. } | Self::Paused { until } => {
                until <= now && in_flight == 0
            }
        }
    }

    /// How work for the portal is taken up: a moment's failure changes nothing.
    pub fn standing(self, now: Millis) -> Standing {
        match self {
            Self::Ready | Self::Refreshing => Standing::Good,
            Self::BackingOff { failures, .. } if failures < TROUBLE_FAILURES => Standing::Good,
            Self::BackingOff { until, .. } | Self::Paused { until } if until <= now => {
                Standing::OnTrial
            }
            Self::BackingOff { .. } | Self::Paused { .. } => Standing::Barred,
        }
    }

    /// Whether nothing is amiss any more, as far as is known.
    pub fn is_past(self, now: Millis) -> bool {
        match self {
            Self::Ready => true,
            Self::BackingOff { until, .. } => until <= now,
            Self::Refreshing | Self::Paused { .. } => false,
        }
    }

    /// When [`Self::allows`] may change by itself.
    pub fn until(self) -> Option<Millis> {
        match self {
            Self::BackingOff { until, .. } | Self::Paused { until } => Some(until),
            Self::Ready | Self::Refreshing => None,
        }
    }

    /// After a call that HubSpot did not answer properly. `jitter` is between 0 and 1: the delay is
    /// between half and the whole of the step, so that many portals do not come back at once.
    ///
    /// Calls that were under way together fail together: those do not count again.
    pub fn failed(self, now: Millis, jitter: f64) -> Self {
        let failures = match self {
            Self::BackingOff { failures, until } if until > now => {
                return Self::BackingOff { failures, until };
            }
            Self::BackingOff { failures, .. } => failures + 1,
            Self::Ready => 1,
            Self::Refreshing | Self::Paused { .. } => return self,
        };
        let step = BACKOFF_MIN
            .saturating_mul(2_u32.saturating_pow(failures - 1))
            .min(BACKOFF_MAX);
        Self::BackingOff {
            failures,
            until: now.after(step.mul_f64(0.5 + jitter / 2.0)),
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
    fn delays_double_up_to_a_bound_and_calls_that_fail_together_count_once() {
        let first = Health::Ready.failed(ms(0), 1.0);
        assert_eq!(first.until(), Some(ms(500)));
        assert_eq!(first.failed(ms(10), 1.0), first);
        let second = first.failed(ms(500), 1.0);
        assert_eq!(second.until(), Some(ms(1_500)));
        let mut health = second;
        for _ in 0..20 {
            let at = health.until().unwrap();
            health = health.failed(at, 0.0);
            assert!(health.until().unwrap().since(at) <= BACKOFF_MAX);
        }
    }

    #[test]
    fn a_portal_that_failed_is_tried_by_one_call_at_a_time() {
        let failed = Health::Ready.failed(ms(0), 1.0);
        assert!(!failed.allows(0, ms(499)));
        assert!(failed.allows(0, ms(500)));
        assert!(!failed.allows(1, ms(500)));
    }
}
