//! The typed handle on a running simulator. Here it changes records; [`super::control_settings`] has the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::{Change, ChangeError, EdgeTypes, Key};
use super::portal::{Portal, Shared};
use super::record::Source;
use super::seed;
use super::types::{self, Category, TypeId};

/// Records one import storm may make.
pub const IMPORT_MAX: usize = 100_000;

/// A handle; clones lead to the same simulator. Changes are made in the name of a source, see [`Control::by`].
#[derive(Clone)]
pub struct Control {
    pub(super) shared: Arc<Shared>,
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

    /// Sends what the Test button of a subscription sends.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`].
    pub fn test_button(&self, portal: u64, subscription_type: &str) -> Result<(), ControlError> {
        self.shared
            .test_button(self.portal(portal)?, subscription_type);
        Ok(())
    }

    fn apply(&self, portal: u64, change: Change) -> Result<u64, ControlError> {
        let applied = self
            .shared
            .apply(self.portal(portal)?, change, &self.source);
        applied
            .map(|applied| applied.id)
            .map_err(|error| ControlError::Refused(explain(&error)))
    }

    pub(super) fn portal(&self, id: u64) -> Result<&Portal, ControlError> {
        self.shared.portal(id).ok_or(ControlError::NoPortal(id))
    }
}

/// Names and codes only: values are people's data.
fn explain(error: &ChangeError) -> String {
    match error {
        ChangeError::Invalid(values) => {
            let one =
                |value: &super::change::InvalidValue| format!("{} ({})", value.name, value.code);
            format!(
                "{error}: {}",
                values.iter().map(one).collect::<Vec<_>>().join(", ")
            )
        }
        other => other.to_string(),
    }
}

pub(super) fn type_of(portal: u64, name: &str) -> Result<TypeId, ControlError> {
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
