//! Which of HubSpot's two families of API paths is spoken: a setting, since the numbered one is on its way out.

use std::fmt;
use std::str::FromStr;

/// The family of HubSpot's API paths.
///
/// It is read from `v3` or a date like `2026-09`, and prints as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// `v3`: the numbered paths, with v4 for associations. HubSpot supports them until September 2027.
    V3,
    /// The dated paths, one version each March and September, supported for 18 months each.
    Dated {
        /// Four digits.
        year: u16,
        /// 1 to 12.
        month: u8,
    },
}

/// The text is neither of the two forms of an [`ApiVersion`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version of HubSpot's API; use v3, or a year and month like 2026-09")]
pub struct ApiVersionError(String);

impl FromStr for ApiVersion {
    type Err = ApiVersionError;

    fn from_str(text: &str) -> Result<Self, ApiVersionError> {
        if text == "v3" {
            return Ok(Self::V3);
        }
        dated(text).ok_or_else(|| ApiVersionError(text.to_owned()))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V3 => f.write_str("v3"),
            Self::Dated { year, month } => write!(f, "{year:04}-{month:02}"),
        }
    }
}

fn dated(text: &str) -> Option<ApiVersion> {
    let (year, month) = text.split_once('-')?;
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if year.len() != 4 || month.len() != 2 || !is_digits(year) || !is_digits(month) {
        return None;
    }
    let (year, month) = (year.parse().ok()?, month.parse().ok()?);
    (1..=12)
        .contains(&month)
        .then_some(ApiVersion::Dated { year, month })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_in_two_forms_and_prints_as_it_was_read() {
        for text in ["v3", "2026-09", "2027-03"] {
            assert_eq!(text.parse::<ApiVersion>().unwrap().to_string(), text);
        }
        for text in [
            "", "v4", "V3", "2026", "2026-9", "2026-13", "2026-00", "+026-09", "26-09", "2026-09-",
        ] {
            let error = text.parse::<ApiVersion>().unwrap_err().to_string();
            assert!(
                error.contains("v3") && error.contains("2026-09"),
                "{text}: {error}"
            );
        }
    }
}
