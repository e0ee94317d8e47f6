//! The portals over HTTP, on the admin port: for programs that have people install an app, and for operators.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `GET /portals?after=&limit=` | | `{"portals": […], "next": …}` |
//! | `GET /portals/{id}` | | the portal |
//! | `PUT /portals/{id}` | the keys of `[portal.<id>]` as JSON | the portal, as it is in force now |
//! | `PATCH /portals/{id}` | `{"paused": true}` or `false` | the same |
//! | `DELETE /portals/{id}` | | 204 |
//!
//! No answer tells a token.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data, Path, PayloadConfig, Query, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::json;

use super::{ChangeError, Portals};
use crate::admin::api::{Answer, BODY_BYTES_MAX, Gate, Refusal, answer, bad, missing, parse};
use crate::config::{PortalConfig, is_portal_id};
use crate::event::PortalId;

/// Portals in one answer where nobody says, and at most.
const PAGE: (usize, usize) = (100, 1_000);

/// What is served under `/portals`. The default answers nobody.
#[derive(Clone, Debug, Default)]
pub struct PortalsApi {
    portals: Option<Arc<Portals>>,
    gate: Gate,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchBody {
    paused: bool,
}

impl PortalsApi {
    /// Serves `portals` to whom `gate` lets in.
    pub(crate) fn new(portals: Option<Arc<Portals>>, gate: Gate) -> Self {
        Self { portals, gate }
    }

    /// Mounts it.
    pub fn configure(&self, config: &mut ServiceConfig) {
        config.service(
            web::scope("/portals")
                .app_data(Data::new(self.clone()))
                .app_data(PayloadConfig::new(BODY_BYTES_MAX))
                .route("", web::get().to(list))
                .route("/{id}", web::get().to(get))
                .route("/{id}", web::put().to(put))
                .route("/{id}", web::patch().to(patch))
                .route("/{id}", web::delete().to(delete)),
        );
    }

    /// The portals, for a request that may have them.
    fn open_to(&self, request: &HttpRequest) -> Result<Arc<Portals>, Refusal> {
        self.gate.check(request)?;
        self.portals
            .clone()
            .ok_or_else(|| missing("a receiver has no portals; ask a worker"))
    }
}

async fn list(
    api: Data<PortalsApi>,
    request: HttpRequest,
    query: Result<Query<PageQuery>, actix_web::Error>,
) -> HttpResponse {
    answer(async {
        let portals = api.open_to(&request)?;
        let query = query.map_err(|_| bad("the query may have after=ID and limit=NUMBER"))?;
        let limit = query.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1);
        let after = query.after.clone();
        let page = blocking(move || portals.list(after.as_deref(), limit)).await?;
        let next = (page.len() == limit).then(|| page.last().map(|last| last.id.clone()));
        Ok(HttpResponse::Ok().json(json!({"portals": page, "next": next.flatten()})))
    })
    .await
}

async fn get(api: Data<PortalsApi>, request: HttpRequest, id: Path<String>) -> HttpResponse {
    answer(async { show(&*api.open_to(&request)?, &portal_id(&id)?) }).await
}

async fn put(
    api: Data<PortalsApi>,
    request: HttpRequest,
    id: Path<String>,
    body: Result<Bytes, actix_web::Error>,
) -> HttpResponse {
    answer(async {
        let (portals, id) = (api.open_to(&request)?, portal_id(&id)?);
        let body: PortalConfig = parse(
            body,
            "the keys access_token or refresh_token, app and paused",
        )?;
        change(portals, id, move |portals, id| portals.put(id, &body)).await
    })
    .await
}

async fn patch(
    api: Data<PortalsApi>,
    request: HttpRequest,
    id: Path<String>,
    body: Result<Bytes, actix_web::Error>,
) -> HttpResponse {
    answer(async {
        let (portals, id) = (api.open_to(&request)?, portal_id(&id)?);
        let PatchBody { paused } = parse(body, "the key paused, which is true or false")?;
        change(portals, id, move |portals, id| {
            portals.set_paused(id, paused)
        })
        .await
    })
    .await
}

async fn delete(api: Data<PortalsApi>, request: HttpRequest, id: Path<String>) -> HttpResponse {
    answer(async {
        let (portals, id) = (api.open_to(&request)?, portal_id(&id)?);
        blocking(move || portals.remove(&id)).await??;
        Ok(HttpResponse::NoContent().finish())
    })
    .await
}

async fn change(
    portals: Arc<Portals>,
    id: PortalId,
    change: impl FnOnce(&Portals, &PortalId) -> Result<(), ChangeError> + Send + 'static,
) -> Answer {
    let (changed, of) = (Arc::clone(&portals), id.clone());
    blocking(move || change(&changed, &of)).await??;
    show(&portals, &id)
}

fn show(portals: &Portals, id: &PortalId) -> Answer {
    match portals.get(id) {
        Some(portal) => Ok(HttpResponse::Ok().json(portal)),
        None => Err(ChangeError::NoPortal(id.clone()).into()),
    }
}

/// File systems block; the thread that serves must not.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let failed = |_| {
        let hint = "it could not be done; see the log".to_owned();
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, hint)
    };
    web::block(work).await.map_err(failed)
}

fn portal_id(id: &str) -> Result<PortalId, Refusal> {
    if is_portal_id(id) {
        Ok(PortalId::from(id))
    } else {
        Err(bad("a portal's id has digits only, and no leading 0"))
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        let status = match &error {
            ChangeError::NoFolder | ChangeError::Configured(_) => StatusCode::CONFLICT,
            ChangeError::NoPortal(_) => StatusCode::NOT_FOUND,
            ChangeError::Settings(_) | ChangeError::Reference => StatusCode::BAD_REQUEST,
            ChangeError::Folder(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if let ChangeError::Folder(error) = &error {
            tracing::error!(%error, "a portal could not be changed");
        }
        Self(status, error.to_string())
    }
}
