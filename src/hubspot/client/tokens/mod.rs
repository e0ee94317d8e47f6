//! What calls are authorized by, for every portal: access tokens that never change, and those that OAuth gives.
//!
//! Which portals there are is told from outside ([`Tokens::set`], [`Tokens::remove`]) and may change at any time;
//! whoever [watches](Tokens::watch) hears of it. Nothing here knows of files.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use tokio::sync::Notify;

use super::{HubSpotOptions, HubSpotSetupError};
use crate::event::{Millis, PortalId};
use crate::hubspot::call::CallError;
use crate::metrics::Metrics;

mod credential;
mod endpoint;
mod fixed;
mod oauth;
#[cfg(test)]
mod tests;

use self::credential::Bearer;
pub use self::credential::{
    Credential, Keep, NewToken, OAuthApp, PortalSettings, TokenError, TokenSource,
};
#[cfg(fuzzing)]
pub(super) use self::endpoint::read_grant;
use self::endpoint::{Endpoint, RefreshError};
use self::fixed::Fixed;
use self::oauth::OAuth;

/// How often a call looks again when its portal was changed while it waited for a token.
const LOOKS_MAX: u32 = 3;

/// The portals, and what their calls are authorized by.
pub struct Tokens {
    portals: RwLock<HashMap<PortalId, Portal>>,
    watchers: Mutex<Vec<Weak<Changed>>>,
    endpoint: Arc<Endpoint>,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
struct Portal {
    authority: Authority,
    paused: bool,
}

#[derive(Clone)]
enum Authority {
    Fixed(Arc<Fixed>),
    OAuth(Arc<OAuth>),
    /// None, and why: what is written of the portal cannot be used.
    Nothing(Arc<str>),
}

/// Whether a portal can be asked, as far as this process has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// As far as is known.
    Ready,
    /// It is paused by its own setting.
    Paused,
    /// HubSpot refuses its access token.
    Refused,
    /// HubSpot gives no access token for it, until somebody acts.
    Parked,
    /// What is written of it cannot be used, and never could since the start.
    Unreadable,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Ready,
        Self::Paused,
        Self::Refused,
        Self::Parked,
        Self::Unreadable,
    ];

    /// The word in metrics and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Paused => "paused",
            Self::Refused => "refused",
            Self::Parked => "parked",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What may be told of a portal.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether it can be asked.
    pub state: State,
    /// Whether it is paused by its own setting.
    pub paused: bool,
    /// The app of its refresh token; `None` where it has an access token.
    pub app: Option<String>,
    /// When the access token that OAuth gave ends.
    pub expires_at: Option<Millis>,
    /// What went wrong last with getting one.
    pub problem: Option<String>,
}

impl Tokens {
    /// No portal yet. The token endpoint is where `options` has the API.
    ///
    /// # Errors
    /// As [`super::HubSpot::new`].
    pub fn new(options: &HubSpotOptions, metrics: Arc<Metrics>) -> Result<Self, HubSpotSetupError> {
        let (base, http) = super::connect(options)?;
        Ok(Self {
            portals: RwLock::default(),
            watchers: Mutex::default(),
            endpoint: Arc::new(Endpoint::new(http, &base, options.api_version)),
            metrics,
        })
    }

    /// Adds a portal, or changes it. One whose token stays keeps the access token it has. Whether anything is another
    /// than before.
    ///
    /// # Errors
    /// [`TokenError`] when an access token cannot be had or sent; nothing has changed then.
    pub fn set(&self, portal_id: &PortalId, settings: PortalSettings) -> Result<bool, TokenError> {
        let before = self.portal(portal_id);
        let known = before.as_ref().map(|portal| portal.authority.clone());
        let authority = match (settings.credential, known) {
            (Credential::AccessToken(source), Some(Authority::Fixed(known)))
                if known.is(&source) =>
            {
                Authority::Fixed(known)
            }
            (Credential::AccessToken(source), _) => Authority::Fixed(Arc::new(Fixed::new(source)?)),
            (Credential::RefreshToken { token, app, .. }, Some(Authority::OAuth(known)))
                if known.is(&token, &app) =>
            {
                Authority::OAuth(known)
            }
            (Credential::RefreshToken { token, app, keep }, _) => {
                Authority::OAuth(Arc::new(OAuth::new(
                    portal_id.clone(),
                    (token, app, keep),
                    Arc::clone(&self.endpoint),
                    Arc::clone(&self.metrics),
                )))
            }
        };
        let portal = Portal {
            authority,
            paused: settings.paused,
        };
        let mut portals = self.portals.write().unwrap_or_else(PoisonError::into_inner);
        let is_changed = before.is_none_or(|before| !before.is(&portal));
        portals.insert(portal_id.clone(), portal);
        drop(portals);
        if is_changed {
            self.tell(portal_id);
        }
        Ok(is_changed)
    }

    /// Tries a portal anew that was refused or parked: somebody says that it is well.
    pub fn retry(&self, portal_id: &PortalId) {
        match self.portal(portal_id).map(|portal| portal.authority) {
            Some(Authority::Fixed(fixed)) => fixed.retry(),
            Some(Authority::OAuth(oauth)) => oauth.retry(),
            Some(Authority::Nothing(_)) | None => {}
        }
        self.tell(portal_id);
    }

    /// Adds a portal that cannot be asked, and `why`, unless it is known already: its events are kept.
    pub fn set_unreadable(&self, portal_id: &PortalId, why: &str) {
        let mut portals = self.portals.write().unwrap_or_else(PoisonError::into_inner);
        portals.entry(portal_id.clone()).or_insert_with(|| Portal {
            authority: Authority::Nothing(why.into()),
            paused: false,
        });
    }

    /// Forgets a portal. Its calls fail from now on.
    pub fn remove(&self, portal_id: &PortalId) {
        let mut portals = self.portals.write().unwrap_or_else(PoisonError::into_inner);
        portals.remove(portal_id);
        drop(portals);
        self.tell(portal_id);
    }

    /// What is known of a portal; `None` when it is not configured.
    #[must_use]
    pub fn status(&self, portal_id: &PortalId) -> Option<Status> {
        self.portal(portal_id).map(|portal| portal.status())
    }

    /// Hears of every portal that is added, changed or removed from now on.
    #[must_use]
    pub fn watch(&self) -> Arc<Changed> {
        let changed = Arc::new(Changed::default());
        self.watchers().push(Arc::downgrade(&changed));
        changed
    }

    /// Brings the gauge of portals by state up to date.
    pub fn report(&self) {
        let mut counts = [0; State::ALL.len()];
        let portals = self.portals.read().unwrap_or_else(PoisonError::into_inner);
        for portal in portals.values() {
            counts[portal.state() as usize] += 1;
        }
        for state in State::ALL {
            let gauge = self.metrics.portals.with_label_values(&[state.as_str()]);
            gauge.set(counts[state as usize]);
        }
    }

    /// The `Authorization` header of a portal's call.
    ///
    /// # Errors
    /// Why there is none: [`CallError::NoToken`], [`CallError::Paused`], [`CallError::Parked`], or whatever kept the
    /// token endpoint from answering.
    pub(super) async fn authorization(&self, portal_id: &PortalId) -> Result<Bearer, CallError> {
        for look in 1.. {
            let portal = self.portal(portal_id).ok_or(CallError::NoToken)?;
            if portal.paused {
                return Err(CallError::Paused);
            }
            match portal.authority.authorization().await {
                // Somebody may have changed the portal meanwhile, and told everybody before this is heard of.
                Err(_) if look < LOOKS_MAX && !self.is_current(portal_id, &portal) => {}
                Err(RefreshError::Later(error)) => return Err(error),
                Err(error) => return Err(CallError::Parked(error.to_string())),
                Ok(authorization) => return Ok(authorization),
            }
        }
        unreachable!("the last look returns")
    }

    /// Notes whether HubSpot took the token that `authorization` carried.
    pub(super) fn answered(
        &self,
        portal_id: &PortalId,
        authorization: &Bearer,
        unauthorized: bool,
    ) {
        match self.portal(portal_id).map(|portal| portal.authority) {
            Some(Authority::Fixed(fixed)) => fixed.answered(authorization, unauthorized),
            Some(Authority::OAuth(oauth)) if unauthorized => oauth.refused(authorization),
            _ => {}
        }
    }

    /// After a 401: reads the token again where it may have changed, or has OAuth give another. True if calls
    /// are worth repeating.
    pub(super) async fn refresh(&self, portal_id: &PortalId) -> bool {
        match self.portal(portal_id).map(|portal| portal.authority) {
            Some(Authority::Fixed(fixed)) => fixed.refresh(portal_id),
            Some(Authority::OAuth(oauth)) => oauth.refresh().await,
            Some(Authority::Nothing(_)) | None => false,
        }
    }

    fn portal(&self, portal_id: &PortalId) -> Option<Portal> {
        let portals = self.portals.read().unwrap_or_else(PoisonError::into_inner);
        portals.get(portal_id).cloned()
    }

    fn is_current(&self, portal_id: &PortalId, portal: &Portal) -> bool {
        self.portal(portal_id).is_some_and(|now| now.is(portal))
    }

    fn tell(&self, portal_id: &PortalId) {
        self.watchers().retain(|watcher| {
            let watcher = watcher.upgrade();
            watcher.inspect(|watcher| watcher.add(portal_id)).is_some()
        });
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Weak<Changed>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let portals = self.portals.read().unwrap_or_else(PoisonError::into_inner);
        write!(f, "Tokens of {} portals", portals.len())
    }
}

impl Portal {
    /// Whether nothing was changed between the two.
    fn is(&self, other: &Self) -> bool {
        self.authority.is(&other.authority) && self.paused == other.paused
    }

    fn state(&self) -> State {
        match &self.authority {
            _ if self.paused => State::Paused,
            Authority::Fixed(fixed) => fixed.state(),
            Authority::OAuth(oauth) => oauth.state(),
            Authority::Nothing(_) => State::Unreadable,
        }
    }

    fn status(&self) -> Status {
        let oauth = match &self.authority {
            Authority::OAuth(oauth) => Some(oauth),
            Authority::Fixed(_) | Authority::Nothing(_) => None,
        };
        Status {
            state: self.state(),
            paused: self.paused,
            app: oauth.map(|oauth| oauth.app.name.clone()),
            expires_at: oauth.and_then(|oauth| oauth.expires_at()),
            problem: oauth.and_then(|oauth| oauth.problem()),
        }
    }
}

impl Authority {
    async fn authorization(&self) -> Result<Bearer, RefreshError> {
        match self {
            Self::Fixed(fixed) => Ok(fixed.authorization()),
            Self::OAuth(oauth) => oauth.authorization().await,
            Self::Nothing(why) => Err(RefreshError::Secret(why.as_ref().to_owned())),
        }
    }

    /// Whether it is the very same one.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(other)) => Arc::ptr_eq(one, other),
            (Self::OAuth(one), Self::OAuth(other)) => Arc::ptr_eq(one, other),
            (Self::Nothing(one), Self::Nothing(other)) => one == other,
            _ => false,
        }
    }
}

/// The portals that were changed and that its owner has not heard of. There are at most as many as portals.
#[derive(Debug, Default)]
pub struct Changed {
    portals: Mutex<BTreeSet<PortalId>>,
    added: Notify,
}

impl Changed {
    /// The next one, when there is one.
    pub async fn next(&self) -> PortalId {
        loop {
            let first = self.portals().pop_first();
            match first {
                Some(portal_id) => return portal_id,
                // One permit is kept, so nothing that is added between is missed.
                None => self.added.notified().await,
            }
        }
    }

    fn add(&self, portal_id: &PortalId) {
        self.portals().insert(portal_id.clone());
        self.added.notify_one();
    }

    fn portals(&self) -> MutexGuard<'_, BTreeSet<PortalId>> {
        self.portals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
