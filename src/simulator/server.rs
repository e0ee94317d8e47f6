//! The HTTP side: tokens, limits, latency, faults and headers around the pure handlers of [`super::rest`].

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::SizedStream;
use actix_web::dev::{Extensions, Server};
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Bytes, Data, PayloadConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpResponseBuilder, HttpServer, web};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::control_http;
use super::limits::Standing;
use super::oauth::{self, Found};
use super::options::{Fault, HANG_MAX};
use super::portal::{Portal, Shared};
use super::record::Source;
use super::rest::{self, Call, Reply, Route, errors};
use crate::event::Millis;

/// The largest request body.
const BODY_MAX: usize = 10 * 1024 * 1024;
const WORKERS: usize = 2;
/// Between the half of a body and the end of its connection.
const HALF_BODY_FLUSH: Duration = Duration::from_millis(20);

/// A server on `listener`; it runs when awaited.
pub(crate) fn serve(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
) -> std::io::Result<Server> {
    let shared = Data::from(shared);
    let factory = move || {
        App::new()
            .app_data(shared.clone())
            .app_data(PayloadConfig::new(BODY_MAX))
            .configure(control_http::configure)
            .default_service(web::to(answer))
    };
    let server = HttpServer::new(factory)
        .workers(WORKERS)
        .on_connect(keep_socket)
        .disable_signals()
        .shutdown_timeout(1);
    Ok(server.listen(listener)?.run())
}

/// A second handle on a connection's socket, to close it without an answer.
struct Socket(TcpStream);

fn keep_socket(connection: &dyn Any, extensions: &mut Extensions) {
    let stream = connection.downcast_ref::<actix_web::rt::net::TcpStream>();
    if let Some(Ok(handle)) = stream.map(|stream| stream.as_fd().try_clone_to_owned()) {
        extensions.insert(Socket(handle.into()));
    }
}

/// Everything about a reply that is not its body.
struct Outcome {
    reply: Reply,
    standing: Option<Standing>,
    retry_after_s: Option<u32>,
    fault: Option<Fault>,
    correlation_id: String,
}

async fn answer(request: HttpRequest, body: Bytes, shared: Data<Shared>) -> HttpResponse {
    let (outcome, latency) = decide(&shared, &request, &body);
    tokio::time::sleep(latency).await;
    match outcome.fault {
        Some(Fault::Hang) => {
            tokio::select! {
                () = tokio::time::sleep(HANG_MAX) => {}
                () = shared.stopping.cancelled() => {}
            }
            close(&request)
        }
        Some(Fault::Reset) => close(&request),
        Some(Fault::Garbage) => HttpResponse::Ok()
            .content_type("application/json")
            .body("<html>upstream said {]"),
        Some(Fault::HalfBody) => half(outcome),
        Some(Fault::Status(_)) | None => whole(outcome),
    }
}

/// Counts and answers; all of it at arrival, before any latency.
fn decide(shared: &Shared, request: &HttpRequest, body: &Bytes) -> (Outcome, Duration) {
    let path = request.path();
    let mut settings = shared.settings();
    let latency = settings.latency;
    let latency = settings
        .random
        .duration(&(latency.min..=latency.max.max(latency.min)));
    let fault = draw_fault(&mut settings, path);
    let mut outcome = Outcome {
        reply: rest::no_route(),
        standing: None,
        retry_after_s: fault.and(settings.faults.retry_after_s),
        fault,
        correlation_id: settings.random.uuid(),
    };
    drop(settings);
    if oauth::is_token_endpoint(path) {
        outcome.reply = match fault {
            Some(Fault::Status(status)) => errors::of_fault(status),
            _ => oauth::token(shared, request.method().as_str(), &form(body)),
        };
        return (outcome, latency);
    }
    let portal = token(request).map_or(Found::Nothing, |token| oauth::find(shared, token));
    let portal = match portal {
        Found::Portal(portal) => Some(portal),
        Found::Expired => {
            outcome.reply = errors::revoked();
            return (outcome, latency);
        }
        Found::Nothing => None,
    };
    match (portal, Route::parse(path)) {
        (None, _) => outcome.reply = errors::unauthorized(),
        (Some(_), None) => {}
        (Some(portal), Some(route)) => {
            count_and_handle(shared, portal, &route, request, body, &mut outcome)
        }
    }
    (outcome, latency)
}

fn count_and_handle(
    shared: &Shared,
    portal: &Portal,
    route: &Route<'_>,
    request: &HttpRequest,
    body: &Bytes,
    outcome: &mut Outcome,
) {
    let now = Millis::now();
    let mut data = portal.lock();
    *data.calls.entry(route.endpoint()).or_default() += 1;
    let (bucket, limits) = (route.bucket(), data.limits);
    let counted = data.meter.count(bucket, &limits, shared.uptime(), now);
    outcome.standing = data.meter.standing(bucket, &limits);
    outcome.reply = match (counted, outcome.fault) {
        (Err(refused), _) => {
            data.rate_limited += 1;
            // A refused call is not also injected with a fault.
            (outcome.fault, outcome.retry_after_s) = (None, None);
            errors::rate_limited(refused)
        }
        (Ok(()), _) if data.revoked => errors::revoked(),
        (Ok(()), Some(Fault::Status(status))) => errors::of_fault(status),
        // A call that gets no answer, or none that can be read, has its effect all the same.
        (Ok(()), _) if request.uri().to_string().len() > rest::URI_MAX => {
            errors::error(414, "URI_TOO_LONG", "URI Too Long")
        }
        (Ok(()), _) => handle(shared, portal, &mut data, route, request, body, now),
    };
    *data.replies.entry(outcome.reply.status).or_default() += 1;
}

fn handle(
    shared: &Shared,
    portal: &Portal,
    data: &mut super::portal::PortalData,
    route: &Route<'_>,
    request: &HttpRequest,
    body: &Bytes,
    now: Millis,
) -> Reply {
    let body: Value = match body.is_empty() {
        true => Value::Null,
        false => match serde_json::from_slice(body) {
            Ok(body) => body,
            Err(_) => return errors::validation("Invalid input JSON: the body cannot be parsed"),
        },
    };
    let (dials, as_of, app_id) = reading(shared, now);
    let missing_scopes = data.missing_scopes.clone();
    let source = Source {
        kind: "INTEGRATION".to_owned(),
        id: Some(app_id.to_string()),
    };
    let mut call = Call {
        state: &mut data.state,
        dice: &mut data.dice,
        dated: rest::is_dated(request.path()),
        method: request.method().as_str(),
        query: query(request.query_string()),
        body,
        now,
        as_of,
        dials,
        missing_scopes: &missing_scopes,
        source: source.clone(),
        facts: Vec::new(),
    };
    let reply = route.handle(&mut call);
    let facts = std::mem::take(&mut call.facts);
    shared.notify(portal, data, &facts, &source, now);
    reply
}

/// The dials, and the time whose state this call reads.
fn reading(shared: &Shared, now: Millis) -> (super::options::Dials, Millis, u64) {
    let mut settings = shared.settings();
    let dials = settings.dials;
    let always = dials.stale_probability <= 0.0;
    let stale =
        !dials.stale_reads.is_zero() && (always || settings.random.chance(dials.stale_probability));
    let ago = i64::try_from(dials.stale_reads.as_millis()).unwrap_or(0);
    let as_of = Millis::new(now.as_i64() - ago)
        .filter(|_| stale)
        .unwrap_or_else(super::state::far_future);
    let app_id = settings
        .webhook
        .as_ref()
        .map_or(15_000_001, |webhook| webhook.app_id);
    (dials, as_of, app_id)
}

fn draw_fault(settings: &mut super::portal::Settings, path: &str) -> Option<Fault> {
    let next = settings
        .faults
        .next
        .iter()
        .position(|next| path.contains(&next.path));
    if let Some(next) = next.and_then(|index| settings.faults.next.remove(index)) {
        return Some(next.fault);
    }
    let (random, faults) = (&mut settings.random, &settings.faults.random);
    faults
        .iter()
        .find(|one| path.contains(&one.path) && random.chance(one.probability))
        .map(|one| one.fault)
}

fn token(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get("Authorization")?.to_str().ok()?;
    header.strip_prefix("Bearer ")
}

/// A body of `application/x-www-form-urlencoded`, which has the form of a query.
fn form(body: &Bytes) -> BTreeMap<String, String> {
    query(std::str::from_utf8(body).unwrap_or_default())
}

/// The first value of each parameter.
fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = web::Query::<Vec<(String, String)>>::from_query(text)
        .map_or_else(|_| Vec::new(), web::Query::into_inner);
    let mut query = BTreeMap::new();
    for (name, value) in pairs {
        query.entry(name).or_insert(value);
    }
    query
}

fn whole(outcome: Outcome) -> HttpResponse {
    let (mut response, body) = begin(outcome);
    match body {
        Some(body) => response
            .insert_header((CONTENT_TYPE, "application/json;charset=utf-8"))
            .body(body),
        None => response.finish(),
    }
}

/// The full length is announced, half of it sent.
fn half(outcome: Outcome) -> HttpResponse {
    let (mut response, body) = begin(outcome);
    let body = body.unwrap_or_else(|| "{}".to_owned());
    let sent = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
    let broken = async {
        // What was sent is flushed while this waits; an error at once would take it back.
        tokio::time::sleep(HALF_BODY_FLUSH).await;
        Err(std::io::Error::other("injected"))
    };
    let first = futures_util::stream::once(async { Ok(sent) });
    let stream = Box::pin(first.chain(futures_util::stream::once(broken)));
    let size = u64::try_from(body.len()).expect("a body is small");
    response
        .insert_header((CONTENT_TYPE, "application/json;charset=utf-8"))
        .body(SizedStream::new(size, stream))
}

fn begin(outcome: Outcome) -> (HttpResponseBuilder, Option<String>) {
    let status =
        StatusCode::from_u16(outcome.reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    response.insert_header(("X-HubSpot-Correlation-Id", outcome.correlation_id.clone()));
    if let Some(standing) = outcome.standing {
        let headers = [
            ("X-HubSpot-RateLimit-Max", standing.max),
            ("X-HubSpot-RateLimit-Remaining", standing.remaining),
            ("X-HubSpot-RateLimit-Interval-Milliseconds", 10_000),
            ("X-HubSpot-RateLimit-Daily", standing.daily_max),
            (
                "X-HubSpot-RateLimit-Daily-Remaining",
                standing.daily_remaining,
            ),
        ];
        headers
            .into_iter()
            .for_each(|header| _ = response.insert_header((header.0, header.1.to_string())));
    }
    if let Some(seconds) = outcome.retry_after_s {
        response.insert_header(("Retry-After", seconds.to_string()));
    }
    let body = outcome.reply.body.map(|mut body| {
        if status.as_u16() >= 400 {
            body["correlationId"] = json!(outcome.correlation_id);
        }
        body.to_string()
    });
    (response, body)
}

/// Closes the connection. The response returned is never seen.
fn close(request: &HttpRequest) -> HttpResponse {
    if let Some(Socket(socket)) = request.conn_data() {
        // Fails only when the caller has closed it already.
        _ = socket.shutdown(Shutdown::Both);
    }
    HttpResponse::ServiceUnavailable().finish()
}
