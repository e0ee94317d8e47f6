//! The dead letters over HTTP, on the admin port.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `POST /dead/list` | `{"filter": {…}, "limit": 100}` | how many, and the first of them in short |
//! | `GET /dead/{id}` | | `{"letters": […]}`, whole |
//! | `POST /dead/replay` | `{"filter": {…}, "limit": 1000, "dry_run": true}` | what became of each, or would |
//! | `POST /dead/discard` | `{"filter": {…}, "all": false, "because": "…", "dry_run": true}` | the same |
//!
//! What is begun is brought to its end, whether or not the caller waits for it.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data, Path, PayloadConfig, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Handle;

use super::{DeadLetters, Filter, LISTED_MAX, REPLAYED_MAX, WalkError};
use crate::access::Access;
use crate::admin::api::{BODY_BYTES_MAX, Refusal, answer, bad, missing, parse};

/// Letters in one list where nobody says.
const LISTED_DEFAULT: usize = 100;
/// The longest reason for discarding, in characters.
const BECAUSE_MAX: usize = 500;

/// What is served under `/dead`. The default answers nobody.
#[derive(Clone, Default)]
pub struct DeadApi {
    served: Option<(Arc<DeadLetters>, Handle)>,
    access: Access,
}

/// The body of a call to list.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListOrder {
    /// Which letters.
    pub filter: Filter,
    /// How many one by one, [`LISTED_MAX`] at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// The body of a call to replay.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayOrder {
    /// Which letters.
    pub filter: Filter,
    /// How many, [`REPLAYED_MAX`] at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only tells what would be done.
    pub dry_run: bool,
}

/// The body of a call to discard.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscardOrder {
    /// Which letters.
    pub filter: Filter,
    /// Said where the filter is empty.
    pub all: bool,
    /// Why, for the log.
    pub because: String,
    /// Only tells what would be done.
    pub dry_run: bool,
}

impl DeadApi {
    /// Serves `letters` to whom `access` lets in; a receiver has none.
    ///
    /// # Panics
    /// Outside a tokio runtime, on which the work is done.
    pub(crate) fn new(letters: Option<DeadLetters>, access: Access) -> Self {
        Self {
            served: letters.map(|letters| (Arc::new(letters), Handle::current())),
            access,
        }
    }

    /// Mounts it.
    pub fn configure(&self, config: &mut ServiceConfig) {
        config.service(
            web::scope("/dead")
                .app_data(Data::new(self.clone()))
                .app_data(PayloadConfig::new(BODY_BYTES_MAX))
                .route("/list", web::post().to(list))
                .route("/replay", web::post().to(replay))
                .route("/discard", web::post().to(discard))
                .route("/{id}", web::get().to(show)),
        );
    }

    /// Does `work`, for a request that was let in.
    async fn run<T, F>(&self, work: impl FnOnce(Arc<DeadLetters>) -> F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, WalkError>> + Send + 'static,
    {
        let closed = || missing("a receiver keeps no dead letters; ask a worker");
        let (letters, runtime) = self.served.clone().ok_or_else(closed)?;
        match runtime.spawn(work(letters)).await {
            Ok(done) => Ok(done?),
            Err(_) => {
                let hint = "it could not be done; see the log".to_owned();
                Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, hint))
            }
        }
    }
}

async fn list(
    api: Data<DeadApi>,
    request: HttpRequest,
    body: Result<Bytes, actix_web::Error>,
) -> HttpResponse {
    answer(async {
        api.access.check(&request)?;
        let order: ListOrder = parse(body, "filter and limit")?;
        order.filter.check().map_err(|hint| bad(&hint))?;
        let limit = order.limit.unwrap_or(LISTED_DEFAULT).min(LISTED_MAX);
        let listed =
            api.run(move |letters| async move { letters.list(&order.filter, limit).await });
        Ok(HttpResponse::Ok().json(listed.await?))
    })
    .await
}

async fn show(api: Data<DeadApi>, request: HttpRequest, id: Path<String>) -> HttpResponse {
    answer(async {
        api.access.check(&request)?;
        let id = id.into_inner();
        let shown = api.run(move |letters| async move { letters.show(&id).await });
        let shown = shown.await?;
        if shown.is_empty() {
            return Err(missing("there is no dead letter of this id"));
        }
        Ok(HttpResponse::Ok().json(json!({"letters": shown})))
    })
    .await
}

async fn replay(
    api: Data<DeadApi>,
    request: HttpRequest,
    body: Result<Bytes, actix_web::Error>,
) -> HttpResponse {
    answer(async {
        api.access.check(&request)?;
        let order: ReplayOrder = parse(body, "filter, limit and dry_run")?;
        order.filter.check().map_err(|hint| bad(&hint))?;
        let limit = order.limit.unwrap_or(REPLAYED_MAX);
        let replayed = api.run(move |letters| async move {
            letters.replay(&order.filter, limit, order.dry_run).await
        });
        Ok(HttpResponse::Ok().json(replayed.await?))
    })
    .await
}

async fn discard(
    api: Data<DeadApi>,
    request: HttpRequest,
    body: Result<Bytes, actix_web::Error>,
) -> HttpResponse {
    answer(async {
        api.access.check(&request)?;
        let order: DiscardOrder = parse(body, "filter, all, because and dry_run")?;
        check(&order)?;
        let discarded = api.run(move |letters| async move {
            let because = order.because.trim();
            letters.discard(&order.filter, because, order.dry_run).await
        });
        Ok(HttpResponse::Ok().json(discarded.await?))
    })
    .await
}

fn check(order: &DiscardOrder) -> Result<(), Refusal> {
    order.filter.check().map_err(|hint| bad(&hint))?;
    if order.filter.is_empty() != order.all {
        return Err(bad("say which letters by a filter, or all, and not both"));
    }
    let characters = order.because.trim().chars().count();
    if characters == 0 || characters > BECAUSE_MAX {
        return Err(bad(&format!(
            "say why, in 1 to {BECAUSE_MAX} characters, as because"
        )));
    }
    Ok(())
}

impl From<WalkError> for Refusal {
    fn from(error: WalkError) -> Self {
        let status = match error {
            WalkError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            WalkError::Busy => StatusCode::CONFLICT,
        };
        Self(status, error.to_string())
    }
}

impl std::fmt::Debug for DeadApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadApi")
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}
