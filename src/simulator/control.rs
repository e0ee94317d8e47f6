//! The typed handle on a running simulator: change records, turn dials, read back what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::options::{Dials, Fault, Faults, Latency, Limits, NextFault, WebhookOptions};
use super::outbox::{Acknowledged, NotificationCounts};
use super::portal::{Portal, Shared};
use super::record::Source;
use super::rest::read::Shown;
use super::seed;
use super::state::{Change, ChangeError, EdgeTypes, Key, far_future};
use super::types::{self, Category, TypeId};
use crate::event::Millis;

/// Records one import storm may make.
pub const IMPORT_MAX: usize = 100_000;

/// A handle; clones lead to the same simulator. Changes are made in the name of a source, see [`Control::by`].
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
    source: Source,
}

/// Why the simulator did not do as told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No such portal.
    #[error("no portal {0} is simulated; start the simulator with it")]
    NoPortal(u64),
    /// No such object type.
    #[error(
        "object type {0} is not simulated; use a singular, a plural or an id of a standard type, or 2-1234567"
    )]
    NoObjectType(String),
    /// The portal's rules do not allow the change.
    #[error("the change is refused: {0}")]
    Refused(String),
}

/// One portal's counters.
#[derive(Clone, Debug, Serialize)]
pub struct Counters {
    /// Calls by endpoint, refused ones included.
    pub calls: BTreeMap<&'static str, u64>,
    /// Replies by status; injected resets and hangs count by what they would have been.
    pub replies: BTreeMap<u16, u64>,
    /// 429s because a limit was reached. Injected ones are not counted.
    pub rate_limited: u64,
    /// What became of notifications.
    pub notifications: NotificationCounts,
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            source: Source {
                kind: "CRM_UI".to_owned(),
                id: Some("userId:75500001".to_owned()),
            },
        }
    }

    /// The same handle, whose changes carry this `changeSource` and `sourceId`.
    #[must_use]
    pub fn by(&self, change_source: &str, source_id: Option<&str>) -> Self {
        let source = Source {
            kind: change_source.to_owned(),
            id: source_id.map(str::to_owned),
        };
        Self {
            shared: Arc::clone(&self.shared),
            source,
        }
    }

    /// The simulated portals.
    #[must_use]
    pub fn portals(&self) -> Vec<u64> {
        self.shared.portals.iter().map(|portal| portal.id).collect()
    }

    /// Creates a record; its id.
    ///
    /// # Errors
    /// [`ControlError`], also for values that a portal would refuse.
    pub fn create(
        &self,
        portal: u64,
        object_type: &str,
        properties: &[(&str, &str)],
    ) -> Result<u64, ControlError> {
        let object_type = type_of(portal, object_type)?;
        self.apply(
            portal,
            Change::Create {
                object_type,
                properties: owned(properties),
            },
        )
    }

    /// Sets properties of a record; an empty value clears.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn update(
        &self,
        portal: u64,
        object_type: &str,
        id: u64,
        properties: &[(&str, &str)],
    ) -> Result<(), ControlError> {
        let key = (type_of(portal, object_type)?, id);
        self.apply(
            portal,
            Change::Update {
                key,
                properties: owned(properties),
            },
        )
        .map(|_| ())
    }

    /// Moves a record to the recycle bin.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn archive(&self, portal: u64, object_type: &str, id: u64) -> Result<(), ControlError> {
        let key = (type_of(portal, object_type)?, id);
        self.apply(portal, Change::Archive { key }).map(|_| ())
    }

    /// Takes a record out of the recycle bin.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn restore(&self, portal: u64, object_type: &str, id: u64) -> Result<(), ControlError> {
        let key = (type_of(portal, object_type)?, id);
        self.apply(portal, Change::Restore { key }).map(|_| ())
    }

    /// Merges `other` into `primary`; the survivor's id, for contacts and companies a new one.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn merge(
        &self,
        portal: u64,
        object_type: &str,
        primary: u64,
        other: u64,
    ) -> Result<u64, ControlError> {
        let object_type = type_of(portal, object_type)?;
        self.apply(
            portal,
            Change::Merge {
                object_type,
                primary,
                other,
            },
        )
    }

    /// Deletes a contact for good. `privacyDeletion` and `deletion` follow in either order.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn gdpr_delete(&self, portal: u64, id: u64) -> Result<(), ControlError> {
        self.apply(portal, Change::GdprDelete { id }).map(|_| ())
    }

    /// Associates two records. `types` are association type ids, HubSpot's or user-defined ones as the portal's `labels`
    /// list them; none for the unlabelled type.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn associate(
        &self,
        portal: u64,
        from: (&str, u64),
        to: (&str, u64),
        types: &[u32],
    ) -> Result<(), ControlError> {
        let (from, to) = ends(portal, from, to)?;
        let types = edge_types(from.0, to.0, types)?;
        self.apply(portal, Change::Associate { from, to, types })
            .map(|_| ())
    }

    /// Takes associations of two records away: those of `types`, or all.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn disassociate(
        &self,
        portal: u64,
        from: (&str, u64),
        to: (&str, u64),
        types: &[u32],
    ) -> Result<(), ControlError> {
        let (from, to) = ends(portal, from, to)?;
        let types = edge_types(from.0, to.0, types)?;
        self.apply(portal, Change::Disassociate { from, to, types })
            .map(|_| ())
    }

    /// Creates many records at once with `changeSource` `IMPORT`; their ids.
    ///
    /// # Errors
    /// [`ControlError`], also for more than [`IMPORT_MAX`].
    pub fn import(
        &self,
        portal: u64,
        object_type: &str,
        count: usize,
    ) -> Result<Vec<u64>, ControlError> {
        let object_type = type_of(portal, object_type)?;
        if count > IMPORT_MAX {
            return Err(ControlError::Refused(format!(
                "an import makes at most {IMPORT_MAX} records"
            )));
        }
        let held = self.portal(portal)?;
        let import = self.by("IMPORT", None);
        let one = |index| {
            let serial =
                1_000_000 + usize::try_from(held.lock().outbox.counts.made).unwrap_or(0) + index;
            let mut properties = seed::properties(&mut held.lock().state, object_type, serial);
            // Unique values are left to people: an import must not fail on one.
            properties.retain(|name, _| !super::definitions::of(object_type)[name.as_str()].unique);
            import.apply(
                portal,
                Change::Create {
                    object_type,
                    properties,
                },
            )
        };
        (0..count).map(one).collect()
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

    /// Sends what the Test button of a subscription sends.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`].
    pub fn test_button(&self, portal: u64, subscription_type: &str) -> Result<(), ControlError> {
        self.shared
            .test_button(self.portal(portal)?, subscription_type);
        Ok(())
    }

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
        Ok(Counters {
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

    fn apply(&self, portal: u64, change: Change) -> Result<u64, ControlError> {
        let applied = self
            .shared
            .apply(self.portal(portal)?, change, &self.source);
        applied
            .map(|applied| applied.id)
            .map_err(|error| ControlError::Refused(explain(&error)))
    }

    fn portal(&self, id: u64) -> Result<&Portal, ControlError> {
        self.shared.portal(id).ok_or(ControlError::NoPortal(id))
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

/// Names and codes only: values are people's data.
fn explain(error: &ChangeError) -> String {
    match error {
        ChangeError::Invalid(values) => {
            let one =
                |value: &super::state::InvalidValue| format!("{} ({})", value.name, value.code);
            format!(
                "{error}: {}",
                values.iter().map(one).collect::<Vec<_>>().join(", ")
            )
        }
        other => other.to_string(),
    }
}

fn type_of(portal: u64, name: &str) -> Result<TypeId, ControlError> {
    types::resolve(name, portal)
        .map(|known| known.id)
        .ok_or_else(|| ControlError::NoObjectType(name.to_owned()))
}

fn ends(portal: u64, from: (&str, u64), to: (&str, u64)) -> Result<(Key, Key), ControlError> {
    Ok((
        (type_of(portal, from.0)?, from.1),
        (type_of(portal, to.0)?, to.1),
    ))
}

/// A number names one type of a pair: user-defined ones are looked up where HubSpot has none.
fn edge_types(from: TypeId, to: TypeId, numbers: &[u32]) -> Result<EdgeTypes, ControlError> {
    let all = types::associations(from, to);
    let find = |number: &u32| {
        let mut found: Vec<Category> = all
            .iter()
            .filter(|one| one.number == *number)
            .map(|one| one.category)
            .collect();
        found.sort();
        let category = found.first().copied();
        category.map(|category| (category, *number)).ok_or_else(|| {
            ControlError::Refused(format!("no association type {number} between these types"))
        })
    };
    numbers.iter().map(find).collect()
}

fn owned(properties: &[(&str, &str)]) -> BTreeMap<String, String> {
    properties
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

impl Control {
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
