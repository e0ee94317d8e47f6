//! Who is answered on the admin port.
//!
//! | what | who |
//! |---|---|
//! | `/livez`, `/readyz` | everybody: whoever probes has no token, and the answer is a word |
//! | `/metrics` | everybody, where the port is on loopback or `admin.open_metrics` says so; else who knows `admin.token` |
//! | everything else | who knows `admin.token`, on loopback too: it shows or changes what is not everybody's |

use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::{AdminConfig, Secret, SecretError};

/// Tells who may ask. The default answers nobody.
#[derive(Clone, Debug, Default)]
pub struct Access {
    token: Option<SecretString>,
    metrics_are_open: bool,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no token that could be known.
    #[error("nobody is answered here before admin.token is configured")]
    Nobody,
    /// None was sent, or another one.
    #[error("send Authorization: Bearer with admin.token")]
    WrongToken,
}

impl Access {
    /// As configured.
    ///
    /// # Errors
    /// When the token cannot be had.
    pub fn of(admin: &AdminConfig) -> Result<Self, SecretError> {
        Ok(Self {
            token: admin.token.as_ref().map(Secret::resolve).transpose()?,
            metrics_are_open: admin.open_metrics || admin.listen.ip().is_loopback(),
        })
    }

    /// Whether `request` carries the token.
    ///
    /// # Errors
    /// Why it may not be answered.
    pub fn check(&self, request: &HttpRequest) -> Result<(), Refused> {
        let token = self.token.as_ref().ok_or(Refused::Nobody)?;
        let header = request.headers().get(AUTHORIZATION);
        let given = header.and_then(|header| header.as_bytes().strip_prefix(b"Bearer "));
        // Digests are of one length, whatever was given, and are compared in constant time.
        let digest = |bytes: &[u8]| Sha256::digest(bytes);
        let expected = digest(token.expose_secret().as_bytes());
        if digest(given.unwrap_or_default()).ct_eq(&expected).into() {
            Ok(())
        } else {
            Err(Refused::WrongToken)
        }
    }

    /// Whether `request` may have the metrics.
    ///
    /// # Errors
    /// Why not.
    pub fn check_metrics(&self, request: &HttpRequest) -> Result<(), Refused> {
        if self.metrics_are_open {
            Ok(())
        } else {
            self.check(request)
        }
    }
}

impl Refused {
    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Nobody => StatusCode::FORBIDDEN,
            Self::WrongToken => StatusCode::UNAUTHORIZED,
        }
    }

    /// The answer, which says what to do and nothing else.
    #[must_use]
    pub fn response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status());
        if self == Self::WrongToken {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        response.json(json!({"error": self.to_string()}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    const TOKEN: &str = "an-admin-token-for-tests";

    fn access(listen: &str, token: Option<&str>, open_metrics: bool) -> Access {
        let admin = AdminConfig {
            listen: listen.parse().unwrap(),
            token: token.map(Secret::new),
            open_metrics,
        };
        Access::of(&admin).unwrap()
    }

    fn request(authorization: Option<&str>) -> HttpRequest {
        let request = TestRequest::get();
        match authorization {
            Some(text) => request.insert_header((AUTHORIZATION, text)),
            None => request,
        }
        .to_http_request()
    }

    #[test]
    fn only_the_whole_token_opens() {
        let access = access("127.0.0.1:9090", Some(TOKEN), false);
        let sent = |text: &str| access.check(&request(Some(text)));
        assert_eq!(sent(&format!("Bearer {TOKEN}")), Ok(()));
        let prefix = &TOKEN[..TOKEN.len() - 1];
        for wrong in [
            String::new(),
            TOKEN.to_owned(),
            format!("bearer {TOKEN}"),
            format!("Basic {TOKEN}"),
            "Bearer ".to_owned(),
            format!("Bearer {prefix}"),
            format!("Bearer {TOKEN}x"),
            format!("Bearer  {TOKEN}"),
        ] {
            assert_eq!(sent(&wrong), Err(Refused::WrongToken), "{wrong}");
        }
        assert_eq!(access.check(&request(None)), Err(Refused::WrongToken));
    }

    #[test]
    fn without_a_token_nobody_is_answered_whatever_is_sent() {
        let access = access("127.0.0.1:9090", None, true);
        for sent in [None, Some("Bearer "), Some("Bearer x")] {
            assert_eq!(access.check(&request(sent)), Err(Refused::Nobody));
        }
        assert_eq!(
            Access::default().check(&request(None)),
            Err(Refused::Nobody)
        );
    }

    #[test]
    fn metrics_are_open_on_loopback_or_when_it_is_said() {
        let bearer = format!("Bearer {TOKEN}");
        for (listen, open_metrics, open) in [
            ("127.0.0.1:9090", false, true),
            ("127.8.8.8:9090", false, true),
            ("[::1]:9090", false, true),
            ("0.0.0.0:9090", false, false),
            ("[::]:9090", false, false),
            ("10.0.0.7:9090", false, false),
            ("[::ffff:10.0.0.7]:9090", false, false),
            ("0.0.0.0:9090", true, true),
        ] {
            let access = access(listen, Some(TOKEN), open_metrics);
            let bare = access.check_metrics(&request(None));
            assert_eq!(bare.is_ok(), open, "{listen}");
            assert_eq!(access.check_metrics(&request(Some(&bearer))), Ok(()));
        }
        let closed = access("0.0.0.0:9090", None, false);
        assert_eq!(closed.check_metrics(&request(None)), Err(Refused::Nobody));
    }

    #[test]
    fn the_token_is_never_printed() {
        let access = access("127.0.0.1:9090", Some(TOKEN), false);
        assert!(!format!("{access:?}").contains(TOKEN));
    }
}
