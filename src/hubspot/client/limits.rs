//! What a reply's headers say: limits, how long to wait, and HubSpot's clock.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use crate::event::Millis;
use crate::hubspot::call::RateLimits;

/// The longest wait we believe: HubSpot documents up to 24 hours (477).
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

const DATE_PARSER: DateTimeParser = DateTimeParser::new();

/// The limits, each `None` where its header is absent or not a number.
pub(super) fn rate_limits(headers: &HeaderMap) -> RateLimits {
    let interval: Option<u64> = number(headers, "x-hubspot-ratelimit-interval-milliseconds");
    RateLimits {
        max: number(headers, "x-hubspot-ratelimit-max"),
        remaining: number(headers, "x-hubspot-ratelimit-remaining"),
        interval: interval.map(Duration::from_millis),
        daily_max: number(headers, "x-hubspot-ratelimit-daily"),
        daily_remaining: number(headers, "x-hubspot-ratelimit-daily-remaining"),
    }
}

/// `Retry-After` in seconds, at most [`RETRY_AFTER_MAX`]. The date form is not HubSpot's and is ignored.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    number(headers, RETRY_AFTER.as_str())
        .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The `Date` header, to the second.
pub(super) fn date(headers: &HeaderMap) -> Option<Millis> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let timestamp = DATE_PARSER.parse_timestamp(text).ok()?;
    Millis::new(timestamp.as_millisecond())
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|&(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn limits_are_read_and_garbage_is_none() {
        let limits = rate_limits(&headers(&[
            ("x-hubspot-ratelimit-max", "190"),
            ("x-hubspot-ratelimit-remaining", "-1"),
            ("x-hubspot-ratelimit-interval-milliseconds", "10000"),
            ("x-hubspot-ratelimit-daily", "lots"),
            (
                "x-hubspot-ratelimit-daily-remaining",
                "99999999999999999999",
            ),
        ]));
        let expected = RateLimits {
            max: Some(190),
            interval: Some(Duration::from_secs(10)),
            ..RateLimits::default()
        };
        assert_eq!(limits, expected);
        assert_eq!(rate_limits(&HeaderMap::new()), RateLimits::default());
    }

    #[test]
    fn a_wait_is_in_seconds_and_bounded() {
        let wait = |text| retry_after(&headers(&[("retry-after", text)]));
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("18446744073709551615"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("Mon, 23 Nov 2026 10:00:00 GMT"), None);
        assert_eq!(wait("1.5"), None);
    }

    #[test]
    fn the_date_is_hubspots_clock() {
        let date_of = |text| date(&headers(&[("date", text)]));
        assert_eq!(
            date_of("Mon, 23 Nov 2026 10:00:00 GMT"),
            Millis::parse("2026-11-23T10:00:00Z")
        );
        assert_eq!(date_of("yesterday"), None);
        assert_eq!(date(&HeaderMap::new()), None);
    }
}
