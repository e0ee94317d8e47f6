//! What came of a request: the answer HubSpot gets, and the word in metrics and logs.
//!
//! HubSpot repeats every 4xx and 5xx for a day, so a 4xx is given only to what HubSpot did not send, or
//! what an operator has to mend while HubSpot keeps it.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONNECTION, RETRY_AFTER};

use crate::ingress::SignatureError;

/// When to come back after a 503, in seconds. HubSpot does not promise to heed it.
const RETRY_AFTER_SECONDS: &str = "10";

/// What came of a request to the webhook endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// 204: every event of it is durable.
    Accepted,
    /// 204: no array of notifications; it is kept as a dead letter.
    NotAnArray,
    /// 404: it bears what may be HubSpot's signature, but `receiver.public_url` does not have its path.
    UnknownPath,
    /// 401: not HubSpot's, or not provably.
    Unauthorized(SignatureError),
    /// 413: larger than `receiver.body_size_max`.
    TooLarge,
    /// 408: the body did not come whole, or not in time.
    Incomplete,
    /// 503: `receiver.requests_max` requests are being worked on.
    Overloaded,
    /// 503: neither the bus nor the spool took everything.
    Unavailable,
}

impl Outcome {
    /// The word in metrics and logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::NotAnArray => "not_an_array",
            Self::UnknownPath => "unknown_path",
            Self::Unauthorized(_) => "unauthorized",
            Self::TooLarge => "too_large",
            Self::Incomplete => "incomplete",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
        }
    }

    /// What lines of the log are seldom by: the check where one failed.
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::Unauthorized(error) => error.as_str(),
            outcome => outcome.as_str(),
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Accepted | Self::NotAnArray => StatusCode::NO_CONTENT,
            Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Incomplete => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether the body, or what is left of it, was not read and will not be.
    pub(super) fn leaves_a_body(self) -> bool {
        match self {
            Self::UnknownPath
            | Self::TooLarge
            | Self::Incomplete
            | Self::Overloaded
            | Self::Unauthorized(_) => true,
            Self::Accepted | Self::NotAnArray | Self::Unavailable => false,
        }
    }

    /// The answer: a status and nothing that tells a stranger why.
    pub(super) fn response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status());
        if matches!(self, Self::Overloaded | Self::Unavailable) {
            response.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        if self.leaves_a_body() {
            response.insert_header((CONNECTION, "close"));
        }
        response.finish()
    }
}
