//! Being asked to stop, and how much time is left then.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// SIGTERM and SIGINT, caught from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches both from now on: they no longer end the process by themselves.
    ///
    /// # Errors
    /// When the operating system refuses.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal's name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A stretch of time that several steps share, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    end: Instant,
}

impl Grace {
    /// From now on for `duration`.
    #[must_use]
    pub fn begin(duration: Duration) -> Self {
        Self {
            end: Instant::now() + duration,
        }
    }

    /// What is left, less `reserve` for the steps that follow; zero when nothing is.
    #[must_use]
    pub fn left_before(self, reserve: Duration) -> Duration {
        self.left_at(Instant::now()).saturating_sub(reserve)
    }

    /// What is left; zero when nothing is.
    #[must_use]
    pub fn left(self) -> Duration {
        self.left_at(Instant::now())
    }

    fn left_at(self, now: Instant) -> Duration {
        self.end.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_share_the_grace_and_it_never_turns_negative() {
        let begun = Instant::now();
        let grace = Grace {
            end: begun + Duration::from_secs(10),
        };
        let after = |seconds| grace.left_at(begun + Duration::from_secs(seconds));
        assert_eq!(after(0), Duration::from_secs(10));
        assert_eq!(after(9), Duration::from_secs(1));
        assert_eq!(after(18), Duration::ZERO);
        assert_eq!(grace.left_before(Duration::from_secs(11)), Duration::ZERO);
        assert!(Grace::begin(Duration::from_secs(60)).left() > Duration::from_secs(30));
    }
}
