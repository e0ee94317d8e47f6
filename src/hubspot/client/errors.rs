//! From a refusal, as HubSpot words it, to a [`CallError`].
//!
//! HubSpot says to treat every field of an error body as optional, and what answers may not even be HubSpot
//! (its edge sends text and HTML). So bodies are read as free JSON here, and nothing in them can make this fail.
//! Only words of a closed alphabet leave this file: never a message, which may quote values.

use std::time::Duration;

use serde_json::Value;

use crate::hubspot::call::{CallError, RateLimitPolicy};

/// The category of a refusal that is ours: the call cannot be written as a request.
pub(super) const UNWRITABLE: &str = "CRM_RELAY_UNWRITABLE";
/// The longest category or scope that is passed on.
const WORD_BYTES_MAX: usize = 100;
/// The most scopes that are passed on.
const SCOPES_MAX: usize = 32;
/// Where HubSpot names the scopes a token lacks, by key of a `context`.
const SCOPE_KEYS: [&str; 3] = ["requiredGranularScopes", "missingScopes", "requiredScopes"];

/// An error body, or an element of a batch reply's `errors`.
pub(super) struct ErrorBody(Value);

impl ErrorBody {
    /// Reads a body; what is not JSON reads as empty.
    pub(super) fn parse(body: &[u8]) -> Self {
        Self(serde_json::from_slice(body).unwrap_or(Value::Null))
    }

    /// An element of a batch reply's `errors`.
    pub(super) fn from_value(value: Value) -> Self {
        Self(value)
    }

    /// `category`, or `errorType`, which means the same in 429s.
    pub(super) fn category(&self) -> Option<String> {
        let text = |key: &str| self.0.get(key).and_then(Value::as_str);
        text("category")
            .or_else(|| text("errorType"))
            .and_then(word)
    }

    /// The words by which the token endpoint says what is wrong: its own, and RFC 6749's.
    pub(super) fn words(&self) -> impl Iterator<Item = String> {
        let keys = ["status", "error", "category"].into_iter();
        keys.filter_map(|key| self.0.get(key)?.as_str().and_then(word))
    }

    /// Whether it says that what was asked for does not exist.
    ///
    /// For an id that is a number HubSpot sends its error form without a category; a path it does not know is
    /// answered with HTML, and says nothing of the record.
    pub(super) fn is_not_found(&self) -> bool {
        match self.category() {
            Some(category) => category == "OBJECT_NOT_FOUND",
            None => self.0.get("status").and_then(Value::as_str) == Some("error"),
        }
    }

    /// The scopes the token lacks, wherever HubSpot named them, each once.
    fn missing_scopes(&self) -> Vec<String> {
        let errors = self.0.get("errors").and_then(Value::as_array);
        let mut scopes = Vec::new();
        for part in std::iter::once(&self.0).chain(errors.into_iter().flatten()) {
            add_scopes(part, &mut scopes);
        }
        scopes
    }

    /// Which limit a 429 is about: `policyName`, or else the message.
    fn policy(&self) -> RateLimitPolicy {
        let text = |key: &str| self.0.get(key).and_then(Value::as_str).map(policy_in);
        text("policyName")
            .flatten()
            .or_else(|| text("message").flatten())
            .unwrap_or(RateLimitPolicy::TenSecondly)
    }
}

/// The error of a reply whose status is not 2xx.
pub(super) fn of_status(status: u16, body: &ErrorBody, retry_after: Option<Duration>) -> CallError {
    match status {
        401 => CallError::Unauthorized,
        403 => CallError::Forbidden {
            missing_scopes: body.missing_scopes(),
        },
        // The edge gave up on receiving the request in time; the request is not at fault.
        408 => CallError::TimedOut,
        423 | 477 => CallError::Locked {
            status,
            retry_after,
        },
        429 => CallError::RateLimited {
            policy: body.policy(),
            retry_after,
        },
        500..=599 => CallError::Unavailable { status },
        _ => CallError::Refused {
            status,
            category: body.category(),
        },
    }
}

/// The error that the `errors` of a successful batch reply amount to; `None` when all they say is that
/// something does not exist (a record, or any association of a record).
///
/// Anything else concerns records that may well exist, so the call as a whole fails and none of them passes
/// for missing. Reading fewer at a time then finds the one at fault.
pub(super) fn of_batch(status: u16, errors: Vec<Value>) -> Option<CallError> {
    errors
        .into_iter()
        .map(ErrorBody::from_value)
        .find_map(|error| of_batch_entry(status, &error))
}

fn of_batch_entry(status: u16, error: &ErrorBody) -> Option<CallError> {
    let category = error.category();
    match category.as_deref() {
        Some("OBJECT_NOT_FOUND") => None,
        Some("MISSING_SCOPES") => Some(of_status(403, error, None)),
        Some("RATE_LIMITS" | "RATE_LIMIT") => Some(of_status(429, error, None)),
        _ => Some(CallError::Refused { status, category }),
    }
}

fn add_scopes(part: &Value, scopes: &mut Vec<String>) {
    let Some(context) = part.get("context") else {
        return;
    };
    let named = SCOPE_KEYS.iter().filter_map(|key| context.get(key));
    for scope in named.flat_map(texts).filter_map(word) {
        if scopes.len() < SCOPES_MAX && !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
}

/// The text, or the texts of a list.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn policy_in(text: &str) -> Option<RateLimitPolicy> {
    let text = text.to_ascii_lowercase();
    let has = |part: &str| text.contains(part);
    if has("daily") {
        Some(RateLimitPolicy::Daily)
    } else if has("ten_secondly") || has("ten secondly") {
        Some(RateLimitPolicy::TenSecondly)
    } else if has("secondly") {
        Some(RateLimitPolicy::Secondly)
    } else {
        None
    }
}

/// `text`, if it is a word such as HubSpot's categories and scopes are.
fn word(text: &str) -> Option<String> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let fits = !text.is_empty() && text.len() <= WORD_BYTES_MAX;
    (fits && text.bytes().all(is_word)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(body: &str) -> RateLimitPolicy {
        match of_status(429, &ErrorBody::parse(body.as_bytes()), None) {
            CallError::RateLimited { policy, .. } => policy,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn every_form_of_a_429_tells_its_limit() {
        use RateLimitPolicy::{Daily, Secondly, TenSecondly};
        let forms = [
            (
                r#"{"status":"error","message":"You have reached your daily limit.","errorType":"RATE_LIMIT","policyName":"DAILY"}"#,
                Daily,
            ),
            (r#"{"policyName":"TEN_SECONDLY_ROLLING"}"#, TenSecondly),
            (r#"{"policyName":"SECONDLY"}"#, Secondly),
            (
                r#"{"status":"error","message":"You have reached your secondly limit.","category":"RATE_LIMITS"}"#,
                Secondly,
            ),
            (
                r#"{"message":"You have reached your ten_secondly_rolling limit.","category":"RATE_LIMITS"}"#,
                TenSecondly,
            ),
            (
                r#"{"policyName":"NEW","message":"You have reached your daily limit."}"#,
                Daily,
            ),
            (r#"{"policyName":7,"message":null}"#, TenSecondly),
            ("error code: 1015", TenSecondly),
            ("", TenSecondly),
        ];
        for (body, expected) in forms {
            assert_eq!(policy(body), expected, "{body}");
        }
    }

    #[test]
    fn missing_scopes_are_found_wherever_hubspot_names_them() {
        let forms = [
            json!({"category": "MISSING_SCOPES", "errors": [{"context": {"requiredGranularScopes": ["a.read", "b.read"]}}]}),
            json!({"context": {"requiredGranularScopes": ["a.read", "b.read", "a.read"]}}),
            json!({"context": {"missingScopes": "a.read"}, "errors": [{"context": {"requiredScopes": ["b.read", "not a scope!"]}}, 7]}),
        ];
        for form in forms {
            let error = of_status(403, &ErrorBody::from_value(form.clone()), None);
            let missing_scopes = vec!["a.read".to_owned(), "b.read".to_owned()];
            assert_eq!(error, CallError::Forbidden { missing_scopes }, "{form}");
        }
        let none = CallError::Forbidden {
            missing_scopes: vec![],
        };
        assert_eq!(of_status(403, &ErrorBody::parse(b"<html>"), None), none);
    }

    #[test]
    fn every_status_has_its_error() {
        let wait = Some(Duration::from_secs(3));
        let empty = ErrorBody::parse(b"{}");
        assert_eq!(of_status(401, &empty, None), CallError::Unauthorized);
        for status in [423, 477] {
            let expected = CallError::Locked {
                status,
                retry_after: wait,
            };
            assert_eq!(of_status(status, &empty, wait), expected);
        }
        for status in [500, 502, 503, 504, 521, 526, 599] {
            assert_eq!(
                of_status(status, &empty, wait),
                CallError::Unavailable { status }
            );
        }
        for status in [302, 400, 404, 409, 414, 600] {
            let expected = CallError::Refused {
                status,
                category: None,
            };
            assert_eq!(of_status(status, &empty, None), expected);
        }
        assert_eq!(of_status(408, &empty, None), CallError::TimedOut);
    }

    #[test]
    fn an_error_quotes_nothing_but_words() {
        for category in [
            "the value 'ann@example.com' is wrong",
            "",
            &"X".repeat(101),
            "a\nb",
        ] {
            let body =
                ErrorBody::from_value(json!({"category": category, "message": "ann@example.com"}));
            let error = of_status(400, &body, None);
            assert_eq!(
                error,
                CallError::Refused {
                    status: 400,
                    category: None
                }
            );
        }
    }

    #[test]
    fn what_is_not_found_is_told_from_a_wrong_path() {
        let forms = [
            (
                r#"{"status":"error","message":"resource not found","correlationId":"c"}"#,
                true,
            ),
            (r#"{"status":"error","category":"OBJECT_NOT_FOUND"}"#, true),
            (r#"{"status":"error","category":"VALIDATION_ERROR"}"#, false),
            ("<html><head><title>Error 404 Not Found</title>", false),
            ("{}", false),
            ("[]", false),
            ("", false),
        ];
        for (body, expected) in forms {
            assert_eq!(
                ErrorBody::parse(body.as_bytes()).is_not_found(),
                expected,
                "{body}"
            );
        }
    }

    #[test]
    fn only_not_found_is_harmless_in_a_batch() {
        let not_found = json!({"category": "OBJECT_NOT_FOUND", "context": {"ids": ["9"]}});
        let none = json!({"category": "OBJECT_NOT_FOUND", "subCategory": "crm.associations.NO_ASSOCIATIONS_FOUND"});
        assert_eq!(of_batch(207, vec![not_found.clone(), none]), None);
        let refused = |category: Option<&str>| {
            Some(CallError::Refused {
                status: 207,
                category: category.map(str::to_owned),
            })
        };
        for (entry, expected) in [
            (
                json!({"category": "VALIDATION_ERROR", "subCategory": {}}),
                refused(Some("VALIDATION_ERROR")),
            ),
            (json!({}), refused(None)),
            (json!(null), refused(None)),
            (
                json!({"category": "MISSING_SCOPES"}),
                Some(CallError::Forbidden {
                    missing_scopes: vec![],
                }),
            ),
            (
                json!({"category": "RATE_LIMITS", "message": "your daily limit"}),
                Some(CallError::RateLimited {
                    policy: RateLimitPolicy::Daily,
                    retry_after: None,
                }),
            ),
        ] {
            assert_eq!(of_batch(207, vec![not_found.clone(), entry]), expected);
        }
    }
}
