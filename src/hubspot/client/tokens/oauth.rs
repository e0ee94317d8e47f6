//! One portal's access token: had when the first call wants it, held in memory, renewed before it ends.
//!
//! However many calls want it, one request is under way. It runs by itself, so that a call that is given up does
//! not lose an answer, which may hold the only copy of a new refresh token. Renewal follows use: a call that
//! finds the token in the last sixth of its life starts it and goes on with what there is. A portal that is
//! not asked costs nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::State;
use super::credential::{Bearer, Keep, NewToken, OAuthApp, TokenSource};
use super::endpoint::{Endpoint, Grant, RefreshError};
use crate::event::{Millis, PortalId};
use crate::hubspot::call::CallError;
use crate::jitter::{self, jittered};
use crate::metrics::Metrics;

/// The part of a token's life, at its end, in which it is renewed; begun up to half of that earlier, by chance, so that
/// portals which came together do not renew together.
const RENEWAL_PART: u32 = 6;
/// What is taken off a token's life, so that none ends on its way; of short lives a twentieth.
const EXPIRY_MARGIN_MAX: Duration = Duration::from_secs(5);
/// A token that was had because another was refused, and is refused so soon itself, is not renewed: the next would
/// be refused as well.
const FRESH: Duration = Duration::from_secs(30);
/// The first delay after a failure; doubled with each further one, up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// See [`RETRY_MIN`].
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long nothing is asked after a refusal that somebody has to mend.
const PARKED_PROBE: Duration = Duration::from_secs(15 * 60);

/// How long a refusal stands that nobody has asked about again. A portal whose events wait is asked about; one that
/// another worker has by now is not.
pub(super) const REFUSAL_STANDS: Duration = Duration::from_secs(60 * 60);

/// One OAuth portal.
pub(super) struct OAuth {
    portal_id: PortalId,
    pub(super) app: Arc<OAuthApp>,
    source: TokenSource,
    keep: Option<Keep>,
    endpoint: Arc<Endpoint>,
    metrics: Arc<Metrics>,
    /// Held for a moment only, never over a request.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    access: Option<Access>,
    /// What HubSpot gave in place of the token in `source`.
    refresh_token: Option<SecretString>,
    under_way: Option<UnderWay>,
    failed: Option<Failed>,
}

/// An access token.
struct Access {
    authorization: Bearer,
    obtained_at: Instant,
    renew_at: Instant,
    usable_until: Instant,
    expires_at: Millis,
    refused: bool,
    /// It took the place of one that was refused.
    after_refusal: bool,
}

/// A request for a token, which any number of calls wait for.
type UnderWay = Shared<BoxFuture<'static, Result<Bearer, RefreshError>>>;

/// The last request came to nothing.
struct Failed {
    error: RefreshError,
    failures: u32,
    until: Instant,
}

impl OAuth {
    pub(super) fn new(
        portal_id: PortalId,
        (source, app, keep): (TokenSource, Arc<OAuthApp>, Option<Keep>),
        endpoint: Arc<Endpoint>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            portal_id,
            app,
            source,
            keep,
            endpoint,
            metrics,
            held: Mutex::default(),
        }
    }

    /// Whether the portal is still configured with the same: by the token that stood there, or the one that
    /// took its place.
    pub(super) fn is(&self, source: &TokenSource, app: &OAuthApp) -> bool {
        let in_its_place = match (source, &self.held().refresh_token) {
            (TokenSource::Given(token), Some(given)) => {
                token.expose_secret() == given.expose_secret()
            }
            _ => false,
        };
        self.app.is(app) && (in_its_place || self.source.is(source))
    }

    /// The header of a call, for which a token may have to be had first.
    pub(super) async fn authorization(self: &Arc<Self>) -> Result<Bearer, RefreshError> {
        let under_way = {
            let mut held = self.held();
            let now = Instant::now();
            if let Some(access) = held.access.as_ref().filter(|access| access.is_usable(now)) {
                let (authorization, renew) = (access.authorization.clone(), access.renew_at <= now);
                if renew && held.under_way.is_none() && held.may_ask(now).is_ok() {
                    // It goes on by itself; the next call finds what it brought.
                    drop(self.begin(&mut held));
                }
                return Ok(authorization);
            }
            match &held.under_way {
                Some(under_way) => under_way.clone(),
                None => {
                    held.may_ask(now)?;
                    self.begin(&mut held)
                }
            }
        };
        under_way.await
    }

    /// Notes that HubSpot refused a call that carried `authorization`.
    pub(super) fn refused(&self, authorization: &Bearer) {
        let mut held = self.held();
        // A call that was under way while the token changed says nothing of the new one.
        if let Some(access) = held.access.as_mut()
            && access.authorization == *authorization
        {
            access.refused = true;
        }
    }

    /// After a 401: has another token, once. False when there is none to be had before somebody has acted.
    pub(super) async fn refresh(self: &Arc<Self>) -> bool {
        {
            let mut held = self.held();
            let now = Instant::now();
            let is_fresh = |access: &Access| {
                access.after_refusal
                    && now - access.obtained_at < FRESH
                    && now < access.usable_until
            };
            match &held.access {
                Some(access) if !access.refused => return true,
                Some(access) if is_fresh(access) => {
                    self.note_failure(&mut held, RefreshError::AccessRefused);
                    return false;
                }
                _ => {}
            }
        }
        match self.authorization().await {
            Err(error) => !error.is_permanent(),
            Ok(_) => true,
        }
    }

    /// Forgets what went wrong: somebody has acted.
    pub(super) fn retry(&self) {
        self.held().failed = None;
    }

    pub(super) fn state(&self) -> State {
        let now = Instant::now();
        match &self.held().failed {
            Some(failed) if now > failed.until + REFUSAL_STANDS => State::Ready,
            Some(failed) if failed.error == RefreshError::AccessRefused => State::Refused,
            Some(failed) if failed.error.is_permanent() => State::Parked,
            _ => State::Ready,
        }
    }

    /// What went wrong last, if nothing went well since.
    pub(super) fn problem(&self) -> Option<String> {
        let held = self.held();
        held.failed.as_ref().map(|failed| failed.error.to_string())
    }

    /// When the access token ends, if there is one.
    pub(super) fn expires_at(&self) -> Option<Millis> {
        self.held().access.as_ref().map(|access| access.expires_at)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // What it holds is whole between any two statements, so a panic elsewhere leaves it usable.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a request. It ends by itself, whoever waits for it.
    fn begin(self: &Arc<Self>, held: &mut Held) -> UnderWay {
        let this = Arc::clone(self);
        let task = tokio::spawn(async move {
            let asked_at = (Instant::now(), Millis::now());
            let result = this.ask().await;
            this.finish(asked_at, result)
        });
        let this = Arc::clone(self);
        let under_way = async move {
            task.await.unwrap_or_else(|_| {
                // It panicked, or the runtime ends.
                let lost = RefreshError::Later(CallError::Disconnected);
                this.finish((Instant::now(), Millis::now()), Err(lost))
            })
        };
        let under_way = under_way.boxed().shared();
        held.under_way = Some(under_way.clone());
        under_way
    }

    async fn ask(&self) -> Result<Grant, RefreshError> {
        let given = self.held().refresh_token.clone();
        let used = match given {
            Some(given) => given,
            None => self.source.resolve()?,
        };
        let endpoint = &self.endpoint;
        let grant = endpoint.refresh(&self.portal_id, &self.app, &used).await?;
        if let Some(given) = &grant.refresh_token
            && given.expose_secret() != used.expose_secret()
        {
            self.keep(used, given.clone()).await;
        }
        Ok(grant)
    }

    /// Another refresh token came: from now on it is used, and it is written down where the old one stood.
    async fn keep(&self, used: SecretString, given: SecretString) {
        self.held().refresh_token = Some(given.clone());
        let Some(keep) = self.keep.clone() else {
            tracing::warn!(
                portal.id = %self.portal_id,
                "HubSpot gave another refresh token, which is kept in memory alone: give the portal a file in portals.folder, where it can be written down"
            );
            return;
        };
        let portal_id = self.portal_id.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let token = NewToken {
                used: &used,
                given: &given,
            };
            keep.keep(&portal_id, token)
        });
        if let Err(reason) = kept
            .await
            .unwrap_or_else(|_| Err("writing panicked".to_owned()))
        {
            tracing::error!(
                portal.id = %self.portal_id,
                "HubSpot gave another refresh token, which could not be written down and is kept in memory alone: {reason}"
            );
        }
    }

    fn finish(
        &self,
        (asked_at, asked_at_ms): (Instant, Millis),
        result: Result<Grant, RefreshError>,
    ) -> Result<Bearer, RefreshError> {
        let result = result.and_then(|grant| {
            let authorization = Bearer::new(&grant.access_token)
                .map_err(|error| RefreshError::Secret(error.to_string()))?;
            Ok((authorization, grant.life))
        });
        let outcome = result
            .as_ref()
            .map_or_else(RefreshError::outcome, |_| "renewed");
        let refreshes = &self.metrics.hubspot_token_refreshes_total;
        refreshes.with_label_values(&[outcome]).inc();
        let mut held = self.held();
        held.under_way = None;
        match result {
            Ok((authorization, life)) => {
                tracing::debug!(portal.id = %self.portal_id, life_s = life.as_secs(), "got an access token");
                let after_refusal = held.access.as_ref().is_some_and(|access| access.refused);
                held.access = Some(Access {
                    after_refusal,
                    ..Access::new(authorization.clone(), (asked_at, asked_at_ms), life)
                });
                held.failed = None;
                Ok(authorization)
            }
            Err(error) => {
                self.note_failure(&mut held, error.clone());
                Err(error)
            }
        }
    }

    /// Says so in the log when it is news.
    fn note_failure(&self, held: &mut Held, error: RefreshError) {
        let before = held.failed.take();
        let is_news = before.as_ref().is_none_or(|failed| failed.error != error);
        let failures = before.map_or(1, |failed| failed.failures.saturating_add(1));
        let delay = if error.is_permanent() {
            PARKED_PROBE
        } else {
            let step = RETRY_MIN.saturating_mul(2_u32.saturating_pow(failures - 1));
            jittered(step.min(RETRY_MAX))
        };
        if is_news && error.is_permanent() {
            tracing::error!(portal.id = %self.portal_id, "the portal is parked, its events are kept: {error}");
        } else if is_news {
            tracing::warn!(portal.id = %self.portal_id, "{error}");
        }
        if matches!(error, RefreshError::BadRefreshToken { .. }) {
            // What stands in the configuration may be newer than what HubSpot gave.
            held.refresh_token = None;
        }
        held.failed = Some(Failed {
            error,
            failures,
            until: Instant::now() + delay,
        });
    }
}

impl Held {
    /// Whether the endpoint may be asked: not soon after it refused or failed.
    fn may_ask(&self, now: Instant) -> Result<(), RefreshError> {
        match &self.failed {
            Some(failed) if now < failed.until => Err(failed.error.clone()),
            _ => Ok(()),
        }
    }
}

impl Access {
    /// Its life counts from when it was asked for, which is the safe side.
    fn new(authorization: Bearer, asked_at: (Instant, Millis), life: Duration) -> Self {
        let (obtained_at, obtained_at_ms) = asked_at;
        let last_part = life / RENEWAL_PART;
        Self {
            authorization,
            obtained_at,
            renew_at: obtained_at + life - last_part - last_part.mul_f64(jitter::share() / 2.0),
            usable_until: obtained_at + life - EXPIRY_MARGIN_MAX.min(life / 20),
            expires_at: obtained_at_ms.after(life),
            refused: false,
            after_refusal: false,
        }
    }

    fn is_usable(&self, now: Instant) -> bool {
        !self.refused && now < self.usable_until
    }
}
