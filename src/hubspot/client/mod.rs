//! Puts a [`Call`] on the wire and reads the reply: one request for one call, and no decision.
//!
//! Nothing here repeats, waits for a budget or remembers an answer; the engine does, and it needs every reply
//! as it was. What HubSpot sends is not trusted: replies are bounded in size and time, and whatever they hold,
//! the outcome is an [`Answer`] or a [`CallError`]. Bodies, tokens and property values
//! reach no log, no error and no metric.

mod errors;
#[cfg(fuzzing)]
mod fuzzing;
mod limits;
mod paths;
#[cfg(test)]
mod tests;
mod tokens;
mod version;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Response, Url, redirect, retry};

use self::errors::ErrorBody;
#[cfg(fuzzing)]
pub use self::fuzzing::{grant_of, reply_of};
use self::paths::WireRequest;
pub use self::tokens::{
    Changed, Credential, Keep, NewToken, OAuthApp, PortalSettings, State, Status, TokenError,
    TokenSource, Tokens,
};
pub use self::version::{ApiVersion, ApiVersionError};
use crate::config::{ClientTlsConfig, HubSpotConfig};
use crate::event::PortalId;
use crate::hubspot::call::{Answer, Answered, Call, CallError, RateLimits};
use crate::metrics::{Metrics, seconds};
use crate::seldom::Seldom;
use crate::tls::{self, TlsError};

/// The largest reply we read, decompressed. A hundred records of a portal that uses every property to the
/// full (65,536 characters each) could be larger; those come in smaller batches.
pub const REPLY_BYTES_MAX: usize = 64 << 20;
/// What we read of the body of a refusal; all that is of use comes well before.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// How much of a reply's announced size is reserved before any of it is there.
const RESERVED_BYTES_MAX: usize = 1 << 20;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections kept. Over HTTP/2 one carries all calls; over HTTP/1.1 each call under way needs its own.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a connection with calls under way is asked whether it lives, and how long it has to answer.
const HTTP2_PING: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));
/// What we offer to speak over TLS, HTTP/2 first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What we call ourselves.
const USER_AGENT: &str = concat!("crm-relay/", env!("CARGO_PKG_VERSION"));

/// How to reach HubSpot's API.
#[derive(Clone, Debug)]
pub struct HubSpotOptions {
    /// Scheme, host, port and optional path. Calls to an `https` URL go through the proxy that `HTTPS_PROXY`
    /// names, if any; calls to an `http` URL, which is a simulator's, never do.
    pub base_url: String,
    /// The family of paths.
    pub api_version: ApiVersion,
    /// How long one call may take, from connecting to the last byte of the reply.
    pub timeout: Duration,
    /// Whom the certificate of an `https` URL must be from, and what we show.
    pub tls: ClientTlsConfig,
}

impl HubSpotOptions {
    /// As configured.
    ///
    /// # Errors
    /// [`ApiVersionError`].
    pub fn of(config: &HubSpotConfig) -> Result<Self, ApiVersionError> {
        Ok(Self {
            base_url: config.base_url.clone(),
            api_version: config.api_version.parse()?,
            timeout: config.timeout,
            tls: config.tls.clone(),
        })
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum HubSpotSetupError {
    /// `base_url` is not a URL we can call. The URL is not shown, since it may hold a password.
    #[error(
        "hubspot.base_url must be an http or https URL with a host, and without user, query or fragment, such as https://api.hubapi.com"
    )]
    BaseUrl,
    /// `timeout` is zero.
    #[error("hubspot.timeout must be longer than zero, such as 30s")]
    Timeout,
    /// What stands in `[hubspot.tls]` is of no use.
    #[error("hubspot.tls.{}: {}", .0.key(), .0)]
    Tls(#[from] TlsError),
    /// The HTTP client cannot be set up, for want of root certificates, say.
    #[error("the HTTP client cannot be set up; check that root certificates are installed: {0}")]
    Http(#[from] reqwest::Error),
}

/// HubSpot's CRM API, for all portals. Calls may run side by side.
#[derive(Debug)]
pub struct HubSpot {
    http: reqwest::Client,
    base: Url,
    version: ApiVersion,
    tokens: Arc<Tokens>,
    metrics: Arc<Metrics>,
    /// [`REPLY_BYTES_MAX`], but for tests.
    reply_bytes_max: usize,
}

/// A reply as it came.
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Result<Vec<u8>, CallError>,
}

impl HubSpot {
    /// A client that connects when it is first used.
    ///
    /// Installs ring as the process' TLS provider where none is installed yet.
    ///
    /// # Errors
    /// Every variant of [`HubSpotSetupError`].
    pub fn new(
        options: &HubSpotOptions,
        tokens: Arc<Tokens>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, HubSpotSetupError> {
        let (base, http) = connect(options)?;
        Ok(Self {
            http,
            base,
            version: options.api_version,
            tokens,
            metrics,
            reply_bytes_max: REPLY_BYTES_MAX,
        })
    }

    /// Makes `call` for a portal: one request, without repetition. Redirects are not followed.
    ///
    /// - 200 and 207 are success. A record of a batch that HubSpot reports as not found is left out of the
    ///   answer; any other report on single records makes the whole batch fail, with the report's category
    ///   ([`CallError::Refused`] with status 207, [`CallError::Forbidden`] or [`CallError::RateLimited`]).
    /// - 404 to a read of one record, owner, file, thread or message, in HubSpot's own form, is the answer that there is
    ///   none.
    /// - A call whose id or type cannot stand in a path is refused here, with status 400 and the category
    ///   `CRM_RELAY_UNWRITABLE`, and sends nothing; so does one of a portal that is paused or has no token. The first
    ///   call of an OAuth portal waits until its access token was had.
    pub async fn call(&self, portal_id: &PortalId, call: &Call) -> Answered {
        let Some(request) = paths::request(&self.base, self.version, call) else {
            return unsent(unwritable());
        };
        let authorization = match self.tokens.authorization(portal_id).await {
            Ok(authorization) => authorization,
            Err(error) => return unsent(error),
        };
        let started = Instant::now();
        let reply = self.send(request, authorization.header()).await;
        self.note(portal_id, call, started.elapsed(), reply.as_ref().ok());
        if let Ok(reply) = &reply {
            let unauthorized = reply.status == 401;
            self.tokens
                .answered(portal_id, &authorization, unauthorized);
        }
        answered(call, reply)
    }

    /// After a 401: reads the portal's token again where it may have changed (`file:` secrets), or has another one
    /// given by OAuth.
    ///
    /// True if the token now held is not the one HubSpot refused, so that calls are worth repeating. Of
    /// several calls that were under way with the old token, each may ask, and each gets true.
    pub async fn refresh_token(&self, portal_id: &PortalId) -> bool {
        self.tokens.refresh(portal_id).await
    }

    /// Hears of portals that are added, changed, paused, resumed or removed from now on.
    #[must_use]
    pub fn watch(&self) -> Arc<Changed> {
        self.tokens.watch()
    }

    async fn send(
        &self,
        request: WireRequest,
        authorization: HeaderValue,
    ) -> Result<Reply, CallError> {
        let mut builder = self
            .http
            .request(request.method, request.url)
            .header(AUTHORIZATION, authorization);
        if let Some(body) = &request.body {
            builder = builder.json(body);
        }
        let mut response = builder.send().await.map_err(|error| transport(&error))?;
        let status = response.status().as_u16();
        let bytes_max = if is_success(status) {
            self.reply_bytes_max
        } else {
            ERROR_BYTES_MAX
        };
        let body = read_body(&mut response, bytes_max).await;
        let headers = std::mem::take(response.headers_mut());
        Ok(Reply {
            status,
            headers,
            body,
        })
    }

    fn note(&self, portal_id: &PortalId, call: &Call, duration: Duration, reply: Option<&Reply>) {
        let endpoint = call.endpoint();
        let status = reply.map(|reply| reply.status);
        tracing::debug!(
            portal.id = %portal_id,
            endpoint,
            status,
            duration_ms = duration.as_millis(),
            "called HubSpot"
        );
        self.metrics
            .hubspot_calls_total
            .with_label_values(&[endpoint, status_class(reply)])
            .inc();
        self.metrics
            .hubspot_call_duration_seconds
            .with_label_values(&[endpoint])
            .observe(seconds(duration));
        if let Some(records) = records_named(call) {
            self.metrics.hubspot_records_per_read.observe(records);
        }
    }
}

/// What `options` lead to: the API's URL and an HTTP client, which connects when it is first used.
fn connect(options: &HubSpotOptions) -> Result<(Url, reqwest::Client), HubSpotSetupError> {
    let base = base_url(&options.base_url).ok_or(HubSpotSetupError::BaseUrl)?;
    if options.timeout.is_zero() {
        return Err(HubSpotSetupError::Timeout);
    }
    let http = http_client(&base, options)?;
    Ok((base, http))
}

fn base_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    is_plain.then_some(url)
}

fn http_client(base: &Url, options: &HubSpotOptions) -> Result<reqwest::Client, HubSpotSetupError> {
    let timeout = options.timeout;
    // Fails where one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // HubSpot answers some refusals with HTML unless JSON alone is accepted.
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .gzip(true)
        .timeout(timeout)
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .http2_keep_alive_interval(HTTP2_PING.0)
        .http2_keep_alive_timeout(HTTP2_PING.1);
    let builder = if base.scheme() == "http" {
        builder.no_proxy()
    } else {
        builder
    };
    let builder = if options.tls.is_default() {
        builder
    } else {
        let mut tls = tls::client_config(&options.tls)?;
        tls.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        builder.tls_backend_preconfigured(tls)
    };
    Ok(builder.build()?)
}

async fn read_body(response: &mut Response, bytes_max: usize) -> Result<Vec<u8>, CallError> {
    let announced = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
    let mut body = Vec::with_capacity(announced.min(RESERVED_BYTES_MAX).min(bytes_max));
    while let Some(chunk) = response.chunk().await.map_err(|error| transport(&error))? {
        if body.len() + chunk.len() > bytes_max {
            return Err(wire::unreadable(format!(
                "it is larger than {bytes_max} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn transport(error: &reqwest::Error) -> CallError {
    // To the engine it is an outage like any other; an operator has to know better.
    static TOLD: Seldom = Seldom::new();
    if let Some(fault) = tls::explain(error, "HubSpot, or of the proxy before it,", "hubspot.tls")
        && let Some(left_out) = TOLD.may_tell("tls", Instant::now())
    {
        tracing::error!(left_out, "HubSpot cannot be called: {fault}");
    }
    if error.is_timeout() && !error.is_connect() {
        CallError::TimedOut
    } else {
        CallError::Disconnected
    }
}

fn answered(call: &Call, reply: Result<Reply, CallError>) -> Answered {
    match reply {
        Ok(reply) => Answered {
            limits: limits::rate_limits(&reply.headers),
            result: interpret(call, reply),
        },
        Err(error) => unsent(error),
    }
}

fn interpret(call: &Call, reply: Reply) -> Result<Answer, CallError> {
    let Reply {
        status,
        headers,
        body,
    } = reply;
    let date = limits::date(&headers);
    if is_success(status) {
        return wire::answer(call, status, &body?, date);
    }
    let (body, lost) = match body {
        Ok(body) => (body, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let error = ErrorBody::parse(&body);
    match call {
        Call::ReadRecord { .. } if status == 404 && error.is_not_found() => {
            wire::record(None, date)
        }
        Call::ReadOwner { .. } if status == 404 && error.is_not_found() => Ok(Answer::Owner(None)),
        Call::ReadFile { .. } if status == 404 && error.is_not_found() => Ok(Answer::File(None)),
        Call::SignFile { .. } if status == 404 && error.is_not_found() => {
            Ok(Answer::SignedUrl(None))
        }
        Call::ReadThread { .. } if status == 404 && error.is_not_found() => {
            wire::thread(None, date)
        }
        Call::ReadMessage { .. } if status == 404 && error.is_not_found() => {
            Ok(Answer::Message(None))
        }
        _ => Err(
            match errors::of_status(status, &error, limits::retry_after(&headers)) {
                // Only the body says whether a 404 means that there is no such record. Other statuses tell enough.
                CallError::Refused { .. } if is_transport(lost.as_ref()) => CallError::Disconnected,
                error => error,
            },
        ),
    }
}

/// Whether a body did not come whole. One that is too large would not the next time either.
fn is_transport(lost: Option<&CallError>) -> bool {
    matches!(lost, Some(CallError::Disconnected | CallError::TimedOut))
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn unsent(error: CallError) -> Answered {
    Answered {
        result: Err(error),
        limits: RateLimits::default(),
    }
}

fn unwritable() -> CallError {
    CallError::Refused {
        status: 400,
        category: Some(errors::UNWRITABLE.to_owned()),
    }
}

fn status_class(reply: Option<&Reply>) -> &'static str {
    match reply {
        Some(reply) if reply.body.is_ok() || !is_success(reply.status) => match reply.status {
            200..=299 => "2xx",
            429 => "429",
            400..=499 => "4xx",
            500..=599 => "5xx",
            _ => "failed",
        },
        _ => "failed",
    }
}

fn records_named(call: &Call) -> Option<f64> {
    let records = match call {
        Call::ReadRecords { ids, .. } => ids.len(),
        Call::ReadAssociations { inputs, .. } => inputs.len(),
        _ => return None,
    };
    u32::try_from(records).ok().map(f64::from)
}
