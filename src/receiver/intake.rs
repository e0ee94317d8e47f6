//! The way of one request, from its first byte to its answer. Control flow lives here; the steps it calls
//! decide nothing about the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::Method;
use actix_web::http::header::{ALLOW, CONTENT_LENGTH};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

use crate::bus::{Bus, PublishError};
use crate::config::Config;
use crate::event::{DeadLetterReason, Millis, Stage};
use crate::ingress::{
    Keyring, PublicUrls, SignatureError, SignatureHeaders, SignedRequest, Unverified, Verified,
};
use crate::metrics::{Metrics, seconds};
use crate::seldom::Seldom;
use crate::spool::Spool;

use super::ReceiverError;
use super::outbox::Outbox;
use super::outcome::Outcome;

/// How long the body of a request may take to come. HubSpot gives up on the whole after 5 s, so what comes later has
/// nobody who waits for an answer.
pub const BODY_DEADLINE: Duration = Duration::from_secs(5);

/// What all requests share.
pub(super) struct Shared {
    urls: PublicUrls,
    keyring: Keyring,
    body_bytes_max: usize,
    in_flight: Arc<Semaphore>,
    bus: Arc<dyn Bus>,
    spool: Option<Arc<Spool>>,
    metrics: Arc<Metrics>,
    seldom: Seldom,
}

/// What a request led to, for its log line.
#[derive(Default)]
struct Summary {
    notifications: usize,
    portals: usize,
}

impl Shared {
    pub(super) fn new(
        config: &Config,
        bus: Arc<dyn Bus>,
        spool: Option<Arc<Spool>>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ReceiverError> {
        let receiver = &config.receiver;
        let requests_max = receiver.requests_max.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            urls: PublicUrls::new(receiver.public_url.as_slice())?,
            keyring: Keyring::new(&config.app)?,
            body_bytes_max: usize::try_from(receiver.body_size_max.as_u64()).unwrap_or(usize::MAX),
            in_flight: Arc::new(Semaphore::new(requests_max)),
            bus,
            spool,
            metrics,
            seldom: Seldom::new(),
        })
    }

    /// Whether we answer on its path, as that stands in the request line: what actix routes by is decoded.
    fn is_endpoint(&self, http: &HttpRequest) -> bool {
        self.urls.answers(http.uri().path())
    }

    /// The whole way of a request, from its first byte to its outcome.
    async fn take(
        self: Arc<Self>,
        http: &HttpRequest,
        payload: &mut web::Payload,
        summary: &mut Summary,
    ) -> Outcome {
        // Strangers take no place from HubSpot, and nothing of theirs is read.
        let headers = match SignatureHeaders::read(http.headers()) {
            Ok(headers) => headers,
            Err(error) => return Outcome::Unauthorized(error),
        };
        if !self.is_endpoint(http) {
            return Outcome::UnknownPath;
        }
        let Ok(permit) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            return Outcome::Overloaded;
        };
        let body = match read_body(http, payload, self.body_bytes_max).await {
            Ok(body) => body,
            Err(outcome) => return outcome,
        };
        let received = Instant::now();
        let request = self.request(http, headers, body);
        let outcome = self.take_request(request, permit, summary).await;
        let duration = seconds(received.elapsed());
        let metric = &self.metrics.ingress_request_duration_seconds;
        metric.observe(duration);
        outcome
    }

    async fn take_request(
        self: &Arc<Self>,
        request: SignedRequest<Unverified>,
        permit: OwnedSemaphorePermit,
        summary: &mut Summary,
    ) -> Outcome {
        let now = Millis::now();
        let request = match self.verify(request, now) {
            Ok(request) => request,
            Err(error) => return Outcome::Unauthorized(error),
        };
        let (outbox, accepted) = match request.notifications() {
            Ok(elements) => {
                summary.notifications = elements.len();
                let partitions = self.bus.partitions();
                let outbox = Outbox::of_notifications(&elements, now, partitions);
                (outbox, Outcome::Accepted)
            }
            Err(why) => (
                Outbox::of_other_body(request.body(), why, now),
                Outcome::NotAnArray,
            ),
        };
        summary.portals = outbox.portals;
        self.count_made(&outbox);
        match self.publish(outbox, permit).await {
            Ok(()) => {
                let metric = &self.metrics.ingress_notifications_total;
                metric.inc_by(summary.notifications as u64);
                accepted
            }
            Err(NotDurable) => Outcome::Unavailable,
        }
    }

    fn request(
        &self,
        http: &HttpRequest,
        headers: SignatureHeaders,
        body: Bytes,
    ) -> SignedRequest<Unverified> {
        let uri = http.uri();
        let uris = self.urls.signed_uris(uri.path(), uri.query());
        SignedRequest::new(http.method().as_str(), uris, headers, body)
    }

    fn verify(
        &self,
        request: SignedRequest<Unverified>,
        now: Millis,
    ) -> Result<SignedRequest<Verified>, SignatureError> {
        let request = request.verify(&self.keyring, now)?;
        let matched = request.matched();
        tracing::debug!(
            app = &*matched.app,
            secret.index = matched.secret_index,
            signature.version = ?matched.version,
            "the signature is good"
        );
        Ok(request)
    }

    /// Publishes all of it as one batch, or spools it; `Ok` once every message is durable.
    ///
    /// It runs in a task of its own, which keeps the request's permit: a request that HubSpot gave up on is
    /// in flight until the bus has answered. The task stays on the thread of the connection: handing it
    /// to another and back costs processor time and gains nothing.
    async fn publish(
        self: &Arc<Self>,
        outbox: Outbox,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), NotDurable> {
        if outbox.outgoing.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(self);
        let publish = async move {
            let expected = outbox.outgoing.len();
            let verdicts = match &shared.spool {
                Some(spool) => spool.publish(outbox.outgoing).await,
                None => shared.bus.publish(outbox.outgoing).await,
            };
            drop(permit);
            let durable = durable(&verdicts, expected);
            if durable.is_ok() {
                shared.count_dead(&outbox.dead);
            }
            durable
        };
        let publish = actix_web::rt::spawn(publish.in_current_span());
        publish.await.unwrap_or(Err(NotDurable))
    }

    fn count_made(&self, outbox: &Outbox) {
        for kind in &outbox.kinds {
            let metric = &self.metrics.normalize_events_total;
            metric.with_label_values(&[kind]).inc();
        }
        let metric = &self.metrics.normalize_failures_total;
        metric.inc_by(outbox.unreadable as u64);
    }

    fn count_dead(&self, dead: &[(Stage, DeadLetterReason)]) {
        // One line for all of a request: an array may have ten thousand elements that nobody can read.
        let mut counts = BTreeMap::new();
        for (stage, reason) in dead {
            *counts
                .entry((stage.as_str(), reason.as_str()))
                .or_insert(0_u64) += 1;
        }
        for ((stage, reason), count) in counts {
            let metric = &self.metrics.dead_letters_total;
            metric.with_label_values(&[stage, reason]).inc_by(count);
            tracing::warn!(stage, reason, count, "notifications became dead letters");
        }
    }

    fn count_outcome(&self, outcome: Outcome) {
        let metric = &self.metrics.ingress_requests_total;
        metric.with_label_values(&[outcome.as_str()]).inc();
        if let Outcome::Unauthorized(error) = outcome {
            let metric = &self.metrics.ingress_signature_failures_total;
            metric.with_label_values(&[error.as_str()]).inc();
        }
    }
}

/// Not every message of a request was confirmed.
struct NotDurable;

/// Answers every request, whatever its path and method.
pub(super) async fn answer(
    http: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> HttpResponse {
    let is_endpoint = shared.is_endpoint(&http);
    // Strangers try many paths. What bears a signature may be HubSpot's, and the mistake ours: it is counted.
    if !is_endpoint && SignatureHeaders::read(http.headers()).is_err() {
        return HttpResponse::NotFound().finish();
    }
    if is_endpoint && http.method() != Method::POST {
        let allow = (ALLOW, "POST");
        return HttpResponse::MethodNotAllowed()
            .insert_header(allow)
            .finish();
    }
    let span = tracing::info_span!(
        "webhook",
        notifications = tracing::field::Empty,
        portals = tracing::field::Empty,
        outcome = tracing::field::Empty,
        duration_ms = tracing::field::Empty,
    );
    work(http, payload, shared.into_inner())
        .instrument(span)
        .await
}

async fn work(http: HttpRequest, mut payload: web::Payload, shared: Arc<Shared>) -> HttpResponse {
    let started = Instant::now();
    let mut summary = Summary::default();
    let outcome = Arc::clone(&shared)
        .take(&http, &mut payload, &mut summary)
        .await;
    shared.count_outcome(outcome);
    log(outcome, &summary, started.elapsed(), &shared.seldom);
    let mut response = outcome.response();
    if outcome.leaves_a_body() {
        // Were it dropped now, the server would read on to its end, and one in chunks need not have any.
        response.extensions_mut().insert(payload);
    }
    response
}

/// Reads the whole body: at most `max` bytes, at most [`BODY_DEADLINE`] long.
async fn read_body(
    http: &HttpRequest,
    payload: &mut web::Payload,
    max: usize,
) -> Result<Bytes, Outcome> {
    let announced = http.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max as u64) {
        return Err(Outcome::TooLarge);
    }
    let body = tokio::time::timeout(BODY_DEADLINE, collect(payload, max)).await;
    body.unwrap_or(Err(Outcome::Incomplete))
}

async fn collect(payload: &mut web::Payload, max: usize) -> Result<Bytes, Outcome> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_broken| Outcome::Incomplete)?;
        if chunk.len() > max - body.len() {
            return Err(Outcome::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Whether every one of the `expected` messages was confirmed; the log tells the first that was not.
fn durable(verdicts: &[Result<(), PublishError>], expected: usize) -> Result<(), NotDurable> {
    let failed = verdicts.iter().find_map(|verdict| verdict.err());
    match failed {
        None if verdicts.len() == expected => Ok(()),
        _ => {
            let reason = failed.map_or("no_verdict", PublishError::as_str);
            tracing::debug!(reason, messages = expected, "the bus did not confirm all");
            Err(NotDurable)
        }
    }
}

/// The line of a request: for an operator when something is wrong, and then seldom; else for whoever debugs.
fn log(outcome: Outcome, summary: &Summary, duration: Duration, seldom: &Seldom) {
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let span = tracing::Span::current();
    span.record("notifications", summary.notifications);
    span.record("portals", summary.portals);
    span.record("outcome", outcome.as_str());
    span.record("duration_ms", duration_ms);
    if outcome == Outcome::Accepted {
        tracing::debug!("webhook accepted");
        return;
    }
    let Some(left_out) = seldom.may_tell(outcome.cause(), Instant::now()) else {
        return;
    };
    match outcome {
        Outcome::Accepted => {}
        Outcome::Unauthorized(error) => {
            tracing::warn!(check = error.as_str(), left_out, "webhook refused: {error}");
        }
        Outcome::NotAnArray => {
            tracing::warn!(left_out, "a signed body is no array; kept as a dead letter");
        }
        Outcome::UnknownPath => {
            tracing::warn!(
                left_out,
                "webhook refused: receiver.public_url does not have its path; write there what the app's settings have"
            );
        }
        Outcome::TooLarge => {
            tracing::warn!(
                left_out,
                "webhook refused: its body is larger than receiver.body_size_max"
            );
        }
        Outcome::Incomplete => {
            tracing::warn!(left_out, "webhook refused: its body did not come whole");
        }
        Outcome::Overloaded => {
            tracing::warn!(
                left_out,
                "webhook shed: receiver.requests_max requests are in flight"
            );
        }
        Outcome::Unavailable => {
            tracing::warn!(left_out, "webhook not taken: its events are not durable");
        }
    }
}
