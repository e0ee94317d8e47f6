//! Why a notification is no event.

use serde_json::error::Category;

/// Why a notification is no event. It names fields and places, never values: those are people's data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NormalizeError {
    /// No JSON object, or a field has a type that it never has.
    #[error(
        "the notification is no JSON object with HubSpot's types: {category} error at line {line}, column {column} of {bytes} bytes"
    )]
    Unreadable {
        /// `syntax`, `data` or `eof`.
        category: &'static str,
        /// 1-based; 0 when the element as a whole is at fault.
        line: usize,
        /// 1-based; 0 when the element as a whole is at fault.
        column: usize,
        /// The size of the element.
        bytes: usize,
    },
    /// A field that its type cannot do without is absent, `null` or empty.
    #[error("the notification has no {0}")]
    Missing(&'static str),
    /// A field that must be a number of milliseconds is none, or lies outside the years 0 to 9999.
    #[error("the notification's {0} is no time in milliseconds between the years 0 and 9999")]
    NotATime(&'static str),
}

impl NormalizeError {
    /// What `error` tells about `element`, without its text, which may quote values.
    pub(super) fn unreadable(element: &str, error: &serde_json::Error) -> Self {
        Self::Unreadable {
            category: match error.classify() {
                Category::Syntax => "syntax",
                Category::Eof => "eof",
                Category::Data | Category::Io => "data",
            },
            line: error.line(),
            column: error.column(),
            bytes: element.len(),
        }
    }
}
