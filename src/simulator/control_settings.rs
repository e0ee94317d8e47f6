//! The other half of [`Control`]: turn dials at run time, read back what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::control::{Control, ControlError, type_of};
use super::oauth::Installation;
use super::options::{Dials, Fault, Faults, Latency, Limits, NextFault, WebhookOptions};
use super::outbox::{Acknowledged, NotificationCounts};
use super::portal::Portal;
use super::rest::read::Shown;
use super::state::far_future;
use super::types;
use crate::event::Millis;

/// One portal's counters.
#[derive(Clone, Debug, Serialize)]
pub struct Counters {
    /// Calls by endpoint, refused ones included.
    pub calls: BTreeMap<&'static str, u64>,
    /// Replies by status; injected resets and hangs count by what they would have been.
    pub replies: BTreeMap<u16, u64>,
    /// 429s because a limit was reached. Injected ones are not counted.
    pub rate_limited: u64,
    /// Access tokens that OAuth gave for the portal's refresh tokens.
    pub refreshes: u64,
    /// Requests for one that were refused.
    pub refreshes_refused: u64,
    /// What became of notifications.
    pub notifications: NotificationCounts,
}

impl Control {
    /// Where notifications go from now on, waiting ones included; `None` keeps them waiting.
    pub fn set_webhook(&self, webhook: Option<WebhookOptions>) {
        self.shared.settings().webhook = webhook.map(Arc::new);
        self.shared.wake_all();
    }

    /// Replaces the faults.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.settings().faults = faults;
    }

    /// Adds a fault for the next call whose path contains `path`.
    pub fn fail_next(&self, fault: Fault, path: &str) {
        self.shared.settings().faults.next.push_back(NextFault {
            fault,
            path: path.to_owned(),
        });
    }

    /// Replaces the latency of REST calls.
    pub fn set_latency(&self, latency: Latency) {
        self.shared.settings().latency = latency;
    }

    /// Replaces the dials.
    pub fn set_dials(&self, dials: Dials) {
        self.shared.settings().dials = dials;
    }

    /// Replaces a portal's limits; what was counted stays.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`].
    pub fn set_limits(&self, portal: u64, limits: Limits) -> Result<(), ControlError> {
        self.portal(portal)?.lock().limits = limits;
        Ok(())
    }

    /// Replaces the scopes that a portal's token lacks.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`].
    pub fn set_missing_scopes(
        &self,
        portal: u64,
        scopes: BTreeSet<String>,
    ) -> Result<(), ControlError> {
        self.portal(portal)?.lock().missing_scopes = scopes;
        Ok(())
    }

    /// Revokes a portal's token, or makes it good again.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`].
    pub fn set_revoked(&self, portal: u64, revoked: bool) -> Result<(), ControlError> {
        self.portal(portal)?.lock().revoked = revoked;
        Ok(())
    }

    /// Uninstalls a portal's OAuth app: its refresh token and its access tokens end.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`], also for one without an app.
    pub fn uninstall(&self, portal: u64) -> Result<(), ControlError> {
        self.installation(portal, |one| one.uninstall())
    }

    /// Installs a portal's OAuth app anew; the refresh token of this installation.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`], also for one without an app.
    pub fn reinstall(&self, portal: u64) -> Result<String, ControlError> {
        self.installation(portal, |one| one.reinstall())
    }

    /// Ends a portal's access tokens before their time; the refresh token stays.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`], also for one without an app.
    pub fn expire_access_tokens(&self, portal: u64) -> Result<(), ControlError> {
        self.installation(portal, |one| one.expire())
    }

    /// The refresh token that a portal's app has now.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`], also for one without an app.
    pub fn refresh_token(&self, portal: u64) -> Result<Option<String>, ControlError> {
        self.installation(portal, |one| one.refresh_token.clone())
    }

    fn installation<T>(
        &self,
        portal: u64,
        of: impl FnOnce(&mut Installation) -> T,
    ) -> Result<T, ControlError> {
        let mut data = self.portal(portal)?.lock();
        let installation = data.installation.as_mut();
        installation.map(of).ok_or(ControlError::NoPortal(portal))
    }

    /// Holds deliveries back: notifications go on being made.
    pub fn pause(&self) {
        self.shared.settings().paused = true;
    }

    /// Ends [`Control::pause`].
    pub fn resume(&self) {
        self.shared.settings().paused = false;
        self.shared.wake_all();
    }

    /// Makes realistic changes at this rate over all portals; 0 stops.
    pub fn set_traffic(&self, events_per_second: f64) {
        *self
            .shared
            .traffic_rate
            .lock()
            .expect("no holder of this lock panics") =
            events_per_second.clamp(0.0, super::traffic::RATE_MAX);
    }

    /// A portal's counters.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`].
    pub fn counters(&self, portal: u64) -> Result<Counters, ControlError> {
        let data = self.portal(portal)?.lock();
        let installation = data.installation.as_ref();
        Ok(Counters {
            refreshes: installation.map_or(0, |one| one.given),
            refreshes_refused: installation.map_or(0, |one| one.refused),
            calls: data.calls.clone(),
            replies: data.replies.clone(),
            rate_limited: data.rate_limited,
            notifications: data.outbox.counts,
        })
    }

    /// The notifications that were answered with 2xx, in that order; the newest [`super::ACKNOWLEDGED_MAX`].
    ///
    /// # Errors
    /// [`ControlError::NoPortal`].
    pub fn acknowledged(&self, portal: u64) -> Result<Vec<Acknowledged>, ControlError> {
        Ok(self
            .portal(portal)?
            .lock()
            .outbox
            .acknowledged
            .iter()
            .cloned()
            .collect())
    }

    /// The serials of notifications that were given up after their last retry.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`].
    pub fn dropped(&self, portal: u64) -> Result<Vec<u64>, ControlError> {
        Ok(self
            .portal(portal)?
            .lock()
            .outbox
            .dropped
            .iter()
            .copied()
            .collect())
    }

    /// Waits until no portal has a notification waiting or on its way; `false` when `timeout` came first.
    pub async fn settled(&self, timeout: Duration) -> bool {
        let all = async {
            for portal in &self.shared.portals {
                settled(portal).await;
            }
        };
        tokio::time::timeout(timeout, all).await.is_ok()
    }

    /// A record as it is now, with every property that has a value, in the form of HubSpot's API; `None` when it is
    /// not there. Archived records are shown.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn record(
        &self,
        portal: u64,
        object_type: &str,
        id: u64,
    ) -> Result<Option<Value>, ControlError> {
        let object_type = type_of(portal, object_type)?;
        let data = self.portal(portal)?.lock();
        let record = data.state.record((object_type, id));
        let names = |record: &super::record::Record| record.names().map(str::to_owned).collect();
        Ok(record.map(|record| {
            Shown::new(object_type, names(record), Vec::new()).render(record, far_future())
        }))
    }

    /// The ids of a type's records, archived ones too.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn ids(&self, portal: u64, object_type: &str) -> Result<Vec<u64>, ControlError> {
        let object_type = type_of(portal, object_type)?;
        let data = self.portal(portal)?.lock();
        Ok(data
            .state
            .of_type(object_type, 0)
            .map(|record| record.id)
            .collect())
    }

    /// The id that a merged-away id leads to; itself when it was not merged.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn survivor(&self, portal: u64, object_type: &str, id: u64) -> Result<u64, ControlError> {
        let key = (type_of(portal, object_type)?, id);
        Ok(self.portal(portal)?.lock().state.survivor(key))
    }

    /// A summary for people: portals with their record counts, and the time.
    #[must_use]
    pub fn summary(&self) -> Value {
        let portal = |portal: &Portal| {
            let data = portal.lock();
            let records = types::OBJECT_TYPES.iter().map(|known| {
                (
                    known.plural.to_owned(),
                    json!(data.state.of_type(known.id, 0).count()),
                )
            });
            json!({"id": portal.id, "records": records.collect::<serde_json::Map<_, _>>(), "settled": data.outbox.is_settled()})
        };
        json!({"now": Millis::now(), "portals": self.shared.portals.iter().map(portal).collect::<Vec<_>>()})
    }
}

/// Registered before the look, so that no end is missed.
async fn settled(portal: &Portal) {
    loop {
        let mut ended = std::pin::pin!(portal.ended.notified());
        ended.as_mut().enable();
        if portal.lock().outbox.is_settled() {
            return;
        }
        ended.await;
    }
}
