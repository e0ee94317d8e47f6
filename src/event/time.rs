//! Points in time, as HubSpot counts them.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds since the Unix epoch, HubSpot's own unit and resolution.
///
/// In JSON it is an RFC 3339 string in UTC with exactly three decimals (`2026-11-23T10:00:00.123Z`),
/// so that the text sorts as the time does. Any RFC 3339 offset and precision is read;
/// what is finer than a millisecond is cut off.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, JsonSchema)]
#[schemars(transparent, inline, description = "A time in UTC.", extend("format" = "date-time"))]
pub struct Millis(#[schemars(with = "String")] i64);

/// The first day of the year 0.
const EARLIEST_MS: i64 = -62_167_219_200_000;
/// A day before the end of the year 9999, which every offset of RFC 3339 can still write.
const LATEST_MS: i64 = 253_402_128_000_000;

impl Millis {
    /// The time that HubSpot writes as a number.
    ///
    /// `None` for a number before the year 0 or after the year 9999: RFC 3339 cannot write those.
    #[must_use]
    pub fn new(since_epoch_ms: i64) -> Option<Self> {
        (EARLIEST_MS..=LATEST_MS)
            .contains(&since_epoch_ms)
            .then_some(Self(since_epoch_ms))
    }

    /// Reads an RFC 3339 time, as HubSpot's API writes them. `None` when it is not one.
    #[must_use]
    pub fn parse(rfc3339: &str) -> Option<Self> {
        let timestamp: jiff::Timestamp = rfc3339.parse().ok()?;
        Self::new(timestamp.as_millisecond())
    }

    /// The system clock's time. Only the shells around the pure parts call this.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This time moved later, at most to the end of what RFC 3339 can write.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        let delay = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(delay).min(LATEST_MS))
    }

    /// The time `delay` before this one.
    #[must_use]
    pub fn before(self, delay: Duration) -> Self {
        let delay = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(delay).max(EARLIEST_MS))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timestamp = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        write!(f, "{timestamp:.3}")
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("expected an RFC 3339 time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_rfc_3339_with_three_decimals() {
        let whole_second = Millis::new(1_763_892_000_000).unwrap();
        assert_eq!(
            serde_json::to_string(&whole_second).unwrap(),
            "\"2025-11-23T10:00:00.000Z\""
        );
        let back: Millis = serde_json::from_str("\"2025-11-23T11:00:00+01:00\"").unwrap();
        assert_eq!(back, whole_second);
    }

    #[test]
    fn out_of_range_milliseconds_are_refused() {
        assert_eq!(Millis::new(i64::MAX), None);
        assert_eq!(Millis::new(i64::MIN), None);
        assert_eq!(
            Millis::new(EARLIEST_MS).unwrap().to_string(),
            "0000-01-01T00:00:00.000Z"
        );
        assert_eq!(
            Millis::new(0)
                .unwrap()
                .after(Duration::MAX)
                .to_string()
                .len(),
            24
        );
    }
}
