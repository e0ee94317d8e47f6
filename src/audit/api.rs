//! The audit over HTTP, on the admin port: `GET /audit?since=24h` answers a [`Report`](super::Report).

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{self, Data, Query, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use super::{Question, audit};
use crate::access::Access;
use crate::admin::api::{Refusal, answer, bad, missing};
use crate::bus::{Bus, CHANGELOG_KEEP};
use crate::event::Millis;

/// What is served under `/audit`. The default answers nobody.
#[derive(Clone, Default)]
pub struct AuditApi {
    bus: Option<Arc<dyn Bus>>,
    access: Access,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default, with = "humantime_serde")]
    since: Option<Duration>,
}

impl AuditApi {
    /// Audits `bus` for whom `access` lets in.
    pub(crate) fn new(bus: Arc<dyn Bus>, access: Access) -> Self {
        Self {
            bus: Some(bus),
            access,
        }
    }

    /// Mounts it.
    pub fn configure(&self, config: &mut ServiceConfig) {
        config.service(
            web::resource("/audit")
                .app_data(Data::new(self.clone()))
                .route(web::get().to(get)),
        );
    }
}

async fn get(
    api: Data<AuditApi>,
    request: HttpRequest,
    asked: Result<Query<Asked>, actix_web::Error>,
) -> HttpResponse {
    answer(async {
        api.access.check(&request)?;
        let asked = asked.map_err(|_| bad("the query may have since=DURATION, like 24h"))?;
        let bus = api.bus.as_ref().ok_or_else(|| missing("there is no bus"))?;
        let question = Question {
            since: Millis::now().before(asked.since.unwrap_or(CHANGELOG_KEEP)),
            settled: false,
        };
        let report = audit(bus.as_ref(), question).await.map_err(|unavailable| {
            Refusal(StatusCode::SERVICE_UNAVAILABLE, unavailable.to_string())
        })?;
        Ok(HttpResponse::Ok().json(report))
    })
    .await
}
