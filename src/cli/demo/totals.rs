//! The line of running totals under the events, on stderr so that stdout stays data.

use std::io::{IsTerminal as _, Write as _};

use crate::metrics::Metrics;
use crate::simulator::Counters;

/// The running totals.
#[derive(Debug)]
pub(super) struct Totals {
    /// Enriched events shown so far.
    pub(super) shown: u64,
    /// Redrawn in place on a terminal; elsewhere only the last line is written.
    live: bool,
}

impl Totals {
    /// `stdout_is_data`: events are not drawn around, so a live line would only mix with them.
    pub(super) fn new(stdout_is_data: bool) -> Self {
        let live =
            std::io::stderr().is_terminal() && !(stdout_is_data && std::io::stdout().is_terminal());
        Self { shown: 0, live }
    }

    /// Takes the line away, so that events can be written.
    pub(super) fn clear(&self) {
        if self.live {
            // Totals are a courtesy: if stderr is gone the demo goes on.
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }

    /// Draws the line anew.
    pub(super) fn draw(&self, hubspot: &Counters, metrics: &Metrics) {
        if self.live {
            let _ = write!(
                std::io::stderr(),
                "\r\x1b[2K\x1b[7m {} \x1b[0m",
                self.line(hubspot, metrics)
            );
        }
    }

    /// Writes the line for the last time.
    pub(super) fn finish(&self, hubspot: &Counters, metrics: &Metrics) {
        self.clear();
        let _ = writeln!(std::io::stderr(), "{}", self.line(hubspot, metrics));
    }

    fn line(&self, hubspot: &Counters, metrics: &Metrics) -> String {
        let ended = |ending| {
            metrics
                .enrich_events_total
                .with_label_values(&[ending])
                .get()
        };
        let calls: u64 = hubspot.calls.values().sum();
        let events = ended("delivered").max(1);
        let lateness = &metrics.fan_out_lateness_seconds;
        let mean_ms =
            1_000.0 * lateness.get_sample_sum() / lateness.get_sample_count().max(1) as f64;
        format!(
            "{} notifications acknowledged · {} events in {} enriched · {} repeats removed · {calls} API calls \
             ({} per 1,000 events), {} × 429 · {mean_ms:.0} ms from change to delivery",
            hubspot.notifications.acknowledged,
            ended("delivered"),
            self.shown,
            ended("duplicate"),
            calls * 1_000 / events,
            hubspot.rate_limited,
        )
    }
}
