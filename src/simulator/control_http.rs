//! The control API: JSON under `/simulator`, for people and for tests in other languages. It asks for no token, so listen on loopback.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `GET /simulator` | | portals, record counts |
//! | `PUT /simulator/webhook` | [`WebhookOptions`] or `null` | 204 |
//! | `PUT /simulator/faults`, `/latency`, `/dials` | [`Faults`], [`Latency`], [`Dials`] | 204 |
//! | `PUT /simulator/paused` | `true`, `false` | 204 |
//! | `PUT /simulator/traffic` | events per second | 204 |
//! | `GET /simulator/settled?timeout_ms=` | | `true`, `false` |
//! | `PUT /simulator/portals/{p}/limits`, `/missing-scopes`, `/revoked` | [`Limits`], a list, a boolean | 204 |
//! | `GET /simulator/portals/{p}/counters`, `/acknowledged`, `/dropped` | | as named |
//! | `POST /simulator/portals/{p}/test-button` | `"object.creation"` | 204 |
//! | `POST /simulator/portals/{p}/files` | `{"name", "extension", "access", "size"}` | `{"id"}` |
//! | `POST /simulator/portals/{p}/threads` | `{"contact", "ticket"}` | `{"id"}` |
//! | `POST /simulator/portals/{p}/threads/{id}/messages` | a text | `{"id"}` |
//! | `POST /simulator/portals/{p}/threads/{id}/close`, `/archive`, `/erase` | | 204 |
//! | `GET /simulator/portals/{p}/{type}` | | ids |
//! | `POST /simulator/portals/{p}/{type}` | `{"properties", "change_source", "source_id"}` | `{"id"}` |
//! | `POST /simulator/portals/{p}/{type}/import` | a count | ids |
//! | `POST /simulator/portals/{p}/{type}/merge` | `{"primary", "other"}` | `{"id"}` |
//! | `GET`, `PATCH`, `DELETE /simulator/portals/{p}/{type}/{id}` | as for `POST` | the record as it is; 204 |
//! | `POST /simulator/portals/{p}/{type}/{id}/restore`, `/gdpr-delete` | | 204 |
//! | `PUT`, `DELETE /simulator/portals/{p}/{type}/{id}/associations/{to}/{id}` | association type ids or nothing | 204 |

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::web::{self, Bytes, Data, Path, Query, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::control::{Control, ControlError};
#[allow(unused_imports, reason = "named by the table above")]
use super::options::{Dials, Faults, Latency, Limits, WebhookOptions};
use super::portal::Shared;

/// The longest `settled` waits.
const SETTLED_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Mounts the control API.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config.route(
        "/simulator",
        web::get()
            .to(async |shared: Data<Shared>| HttpResponse::Ok().json(control(&shared).summary())),
    );
    config.route("/simulator/settled", web::get().to(settled));
    config.route("/simulator/{setting}", web::put().to(put_setting));
    config.service(
        web::scope("/simulator/portals/{portal}")
            .route(
                "/{setting:limits|missing-scopes|revoked}",
                web::put().to(put_portal),
            )
            .route(
                "/{what:counters|acknowledged|dropped}",
                web::get().to(read_back),
            )
            .route("/test-button", web::post().to(test_button))
            .route("/files", web::post().to(add_file))
            .route("/threads", web::post().to(begin_thread))
            .route("/threads/{id}/messages", web::post().to(say))
            .route(
                "/threads/{id}/{what:close|archive|erase}",
                web::post().to(end_thread),
            )
            .route("/{object_type}", web::get().to(ids))
            .route("/{object_type}", web::post().to(create))
            .route("/{object_type}/import", web::post().to(import))
            .route("/{object_type}/merge", web::post().to(merge))
            .route(
                "/{object_type}/{id}/{what:restore|gdpr-delete}",
                web::post().to(one_off),
            )
            .route(
                "/{object_type}/{id}/associations/{to}/{to_id}",
                web::route().to(associations),
            )
            .route("/{object_type}/{id}", web::route().to(record)),
    );
}

/// A refusal as an HTTP answer.
struct Refusal(u16, String);

type Answer = Result<HttpResponse, Refusal>;

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let status = if matches!(error, ControlError::Refused(_)) {
            400
        } else {
            404
        };
        Self(status, error.to_string())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    #[serde(default)]
    properties: BTreeMap<String, String>,
    #[serde(default)]
    change_source: Option<String>,
    #[serde(default)]
    source_id: Option<String>,
}

#[derive(Deserialize)]
struct MergeBody {
    primary: u64,
    other: u64,
}

#[derive(Deserialize)]
struct FileBody {
    name: String,
    extension: String,
    access: String,
    size: u64,
}

#[derive(Deserialize)]
struct ThreadBody {
    contact: Option<u64>,
    ticket: Option<u64>,
}

#[derive(Deserialize)]
struct SettledQuery {
    timeout_ms: Option<u64>,
}

async fn settled(shared: Data<Shared>, query: Query<SettledQuery>) -> HttpResponse {
    let timeout =
        Duration::from_millis(query.timeout_ms.unwrap_or(10_000)).min(SETTLED_TIMEOUT_MAX);
    HttpResponse::Ok().json(control(&shared).settled(timeout).await)
}

async fn put_setting(shared: Data<Shared>, setting: Path<String>, body: Bytes) -> HttpResponse {
    let control = control(&shared);
    let put = || -> Result<(), Refusal> {
        match setting.as_str() {
            "webhook" => control.set_webhook(parse(&body)?),
            "faults" => control.set_faults(parse(&body)?),
            "latency" => control.set_latency(parse(&body)?),
            "dials" => control.set_dials(parse(&body)?),
            "traffic" => control.set_traffic(parse(&body)?),
            "paused" if parse(&body)? => control.pause(),
            "paused" => control.resume(),
            other => return Err(Refusal(404, format!("no setting {other}"))),
        }
        Ok(())
    };
    finish(put().map(|()| no_content()))
}

async fn put_portal(shared: Data<Shared>, path: Path<(u64, String)>, body: Bytes) -> HttpResponse {
    let control = control(&shared);
    let (portal, setting) = path.into_inner();
    let put = || -> Result<(), Refusal> {
        match setting.as_str() {
            "limits" => control.set_limits(portal, parse(&body)?)?,
            "missing-scopes" => control.set_missing_scopes(portal, parse(&body)?)?,
            _ => control.set_revoked(portal, parse(&body)?)?,
        }
        Ok(())
    };
    finish(put().map(|()| no_content()))
}

async fn read_back(shared: Data<Shared>, path: Path<(u64, String)>) -> HttpResponse {
    let control = control(&shared);
    let (portal, what) = path.into_inner();
    let read = || -> Answer {
        Ok(match what.as_str() {
            "counters" => HttpResponse::Ok().json(control.counters(portal)?),
            "acknowledged" => HttpResponse::Ok().json(control.acknowledged(portal)?),
            _ => HttpResponse::Ok().json(control.dropped(portal)?),
        })
    };
    finish(read())
}

async fn test_button(shared: Data<Shared>, portal: Path<u64>, body: Bytes) -> HttpResponse {
    let press = || -> Answer {
        let subscription_type: String = parse(&body)?;
        control(&shared).test_button(*portal, &subscription_type)?;
        Ok(no_content())
    };
    finish(press())
}

async fn add_file(shared: Data<Shared>, portal: Path<u64>, body: Bytes) -> HttpResponse {
    let add = || -> Answer {
        let file: FileBody = parse(&body)?;
        let name = (file.name.as_str(), file.extension.as_str());
        let id = control(&shared).add_file(*portal, name, &file.access, file.size)?;
        Ok(HttpResponse::Created().json(json!({"id": id})))
    };
    finish(add())
}

async fn begin_thread(shared: Data<Shared>, portal: Path<u64>, body: Bytes) -> HttpResponse {
    let begin = || -> Answer {
        let thread: ThreadBody = parse(&body)?;
        let id = control(&shared).begin_thread(*portal, thread.contact, thread.ticket)?;
        Ok(HttpResponse::Created().json(json!({"id": id})))
    };
    finish(begin())
}

async fn say(shared: Data<Shared>, path: Path<(u64, u64)>, body: Bytes) -> HttpResponse {
    let say = || -> Answer {
        let text: String = parse(&body)?;
        let id = control(&shared).say(path.0, path.1, &text)?;
        Ok(HttpResponse::Created().json(json!({"id": id})))
    };
    finish(say())
}

async fn end_thread(shared: Data<Shared>, path: Path<(u64, u64, String)>) -> HttpResponse {
    let (portal, thread, what) = path.into_inner();
    let control = control(&shared);
    let done = match what.as_str() {
        "close" => control.close_thread(portal, thread),
        "archive" => control.archive_thread(portal, thread),
        _ => control.erase_thread(portal, thread),
    };
    finish(done.map(|()| no_content()).map_err(Refusal::from))
}

async fn ids(shared: Data<Shared>, path: Path<(u64, String)>) -> HttpResponse {
    let found = control(&shared).ids(path.0, &path.1);
    finish(
        found
            .map(|ids| HttpResponse::Ok().json(ids))
            .map_err(Refusal::from),
    )
}

async fn create(shared: Data<Shared>, path: Path<(u64, String)>, body: Bytes) -> HttpResponse {
    let create = || -> Answer {
        let (control, change) = change(&shared, &body)?;
        let id = control.create(path.0, &path.1, &pairs(&change))?;
        Ok(HttpResponse::Created().json(json!({"id": id})))
    };
    finish(create())
}

async fn import(shared: Data<Shared>, path: Path<(u64, String)>, body: Bytes) -> HttpResponse {
    let import =
        || -> Answer {
            Ok(HttpResponse::Created().json(control(&shared).import(
                path.0,
                &path.1,
                parse(&body)?,
            )?))
        };
    finish(import())
}

async fn merge(shared: Data<Shared>, path: Path<(u64, String)>, body: Bytes) -> HttpResponse {
    let merge = || -> Answer {
        let MergeBody { primary, other } = parse(&body)?;
        let id = control(&shared).merge(path.0, &path.1, primary, other)?;
        Ok(HttpResponse::Ok().json(json!({"id": id})))
    };
    finish(merge())
}

async fn record(
    shared: Data<Shared>,
    request: HttpRequest,
    path: Path<(u64, String, u64)>,
    body: Bytes,
) -> HttpResponse {
    let (portal, object_type, id) = path.into_inner();
    let act = || -> Answer {
        match request.method().as_str() {
            "GET" => {
                let record = control(&shared).record(portal, &object_type, id)?;
                return record
                    .map(|record| HttpResponse::Ok().json(record))
                    .ok_or_else(|| Refusal(404, format!("no record {id}")));
            }
            "PATCH" => {
                let (control, change) = change(&shared, &body)?;
                control.update(portal, &object_type, id, &pairs(&change))?;
            }
            "DELETE" => control(&shared).archive(portal, &object_type, id)?,
            _ => return Err(Refusal(405, "use GET, PATCH or DELETE".to_owned())),
        }
        Ok(no_content())
    };
    finish(act())
}

async fn one_off(shared: Data<Shared>, path: Path<(u64, String, u64, String)>) -> HttpResponse {
    let (portal, object_type, id, what) = path.into_inner();
    let control = control(&shared);
    let done = if what == "restore" {
        control.restore(portal, &object_type, id)
    } else {
        control.gdpr_delete(portal, id)
    };
    finish(done.map(|()| no_content()).map_err(Refusal::from))
}

async fn associations(
    shared: Data<Shared>,
    request: HttpRequest,
    path: Path<(u64, String, u64, String, u64)>,
    body: Bytes,
) -> HttpResponse {
    let (portal, from, from_id, to, to_id) = path.into_inner();
    let (from, to) = ((from.as_str(), from_id), (to.as_str(), to_id));
    let act = || -> Answer {
        let types: Vec<u32> = if body.is_empty() {
            Vec::new()
        } else {
            parse(&body)?
        };
        match request.method().as_str() {
            "PUT" => control(&shared).associate(portal, from, to, &types)?,
            "DELETE" => control(&shared).disassociate(portal, from, to, &types)?,
            _ => return Err(Refusal(405, "use PUT or DELETE".to_owned())),
        }
        Ok(no_content())
    };
    finish(act())
}

fn control(shared: &Data<Shared>) -> Control {
    Control::new(Data::clone(shared).into_inner())
}

fn change(shared: &Data<Shared>, body: &Bytes) -> Result<(Control, ChangeBody), Refusal> {
    let change: ChangeBody = parse(body)?;
    let control = control(shared);
    let by = change
        .change_source
        .as_ref()
        .map(|source| control.by(source, change.source_id.as_deref()));
    Ok((by.unwrap_or(control), change))
}

fn pairs(change: &ChangeBody) -> Vec<(&str, &str)> {
    change
        .properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal(400, format!("the body cannot be read: {error}")))
}

fn finish(answer: Answer) -> HttpResponse {
    answer.unwrap_or_else(|Refusal(status, message)| {
        let status = actix_web::http::StatusCode::from_u16(status).unwrap_or_default();
        HttpResponse::build(status).json(json!({"error": message}) as Value)
    })
}

fn no_content() -> HttpResponse {
    HttpResponse::NoContent().finish()
}
