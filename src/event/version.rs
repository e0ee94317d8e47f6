//! The version every enriched event carries: which of two states of a record is the newer one.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Millis;

/// A sortable version of a record's state, made of HubSpot's clock only.
///
/// Text of fixed width, `<state>-<read>`, both as 15 decimal digits of milliseconds since the epoch:
/// - `state`: the later of the record's `updatedAt` and the newest `occurredAt` of its events;
/// - `read`: HubSpot's `completedAt` of the read, which tells two reads of one state apart.
///
/// A tombstone has no read: its `state` is the `occurredAt` of the deletion and its `read` all nines,
/// so that it stands after every read of the same millisecond.
///
/// Comparing two versions of **one record** as text tells which is newer. Versions of different
/// records mean nothing to each other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = "^[0-9]{15}-[0-9]{15}$"))]
pub struct Version(String);

/// Digits of each half: milliseconds until the year 33658.
const WIDTH: usize = 15;
const AFTER_EVERY_READ: i64 = 999_999_999_999_999;

impl Version {
    /// The version of a record as read from HubSpot.
    #[must_use]
    pub fn of_read(state: Millis, completed_at: Millis) -> Self {
        Self::from_parts(state.as_i64(), completed_at.as_i64())
    }

    /// The version of a tombstone.
    #[must_use]
    pub fn of_tombstone(occurred_at: Millis) -> Self {
        Self::from_parts(occurred_at.as_i64(), AFTER_EVERY_READ)
    }

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Times before 1970 count as 1970: a sign would break the order of the text.
    fn from_parts(state: i64, read: i64) -> Self {
        let (state, read) = (state.max(0), read.max(0));
        Self(format!("{state:0WIDTH$}-{read:0WIDTH$}"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    #[test]
    fn text_order_is_state_then_read() {
        let older_state = Version::of_read(ms(999), ms(5_000_000));
        let first_read = Version::of_read(ms(1_000), ms(4_000));
        let second_read = Version::of_read(ms(1_000), ms(4_001));
        assert!(older_state.as_str() < first_read.as_str());
        assert!(first_read.as_str() < second_read.as_str());
    }

    #[test]
    fn a_tombstone_follows_every_read_of_its_millisecond_and_precedes_a_restore() {
        let tombstone = Version::of_tombstone(ms(1_000));
        assert!(Version::of_read(ms(1_000), ms(9_999_999_999_999)) < tombstone);
        assert!(tombstone < Version::of_read(ms(1_001), ms(0)));
    }
}
