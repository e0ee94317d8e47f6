//! Checks values against definitions, and keeps unique ones unique.

use std::collections::BTreeMap;

use super::change::{ChangeError, InvalidValue};
use super::definitions;
use super::record::Record;
use super::types::TypeId;
use crate::event::Millis;

/// A checked value of a property that exists.
pub(crate) type Checked = (&'static str, String);

/// Checks and normalises values for a type.
///
/// # Errors
/// [`ChangeError::Invalid`] with every refused value.
pub(crate) fn check(
    object_type: TypeId,
    properties: &BTreeMap<String, String>,
) -> Result<Vec<Checked>, ChangeError> {
    let (mut values, mut invalid) = (Vec::new(), Vec::new());
    for (name, value) in properties {
        match check_one(object_type, name, value) {
            Ok(value) => values.push(value),
            Err((code, message)) => invalid.push(InvalidValue {
                name: name.clone(),
                code,
                message,
            }),
        }
    }
    if invalid.is_empty() {
        Ok(values)
    } else {
        Err(ChangeError::Invalid(invalid))
    }
}

fn check_one(
    object_type: TypeId,
    name: &str,
    value: &str,
) -> Result<Checked, definitions::Invalid> {
    let definition = definitions::of(object_type).get(name);
    let unknown = || {
        (
            "PROPERTY_DOESNT_EXIST",
            format!("Property \"{name}\" does not exist"),
        )
    };
    let definition = definition.ok_or_else(unknown)?;
    Ok((definition.name, definition.normalize(value)?))
}

/// Who holds which unique value, without regard to case. Archived records hold none.
#[derive(Default)]
pub(crate) struct UniqueValues(BTreeMap<(TypeId, &'static str, String), u64>);

impl UniqueValues {
    /// The record that holds a value.
    pub(crate) fn holder(&self, object_type: TypeId, name: &str, value: &str) -> Option<u64> {
        let name = definitions::of(object_type).get(name)?.name;
        self.0
            .get(&(object_type, name, value.to_lowercase()))
            .copied()
    }

    /// # Errors
    /// [`ChangeError::Taken`] when another record than `id` holds one of the values.
    pub(crate) fn check(
        &self,
        object_type: TypeId,
        id: Option<u64>,
        values: &[Checked],
    ) -> Result<(), ChangeError> {
        for (name, value) in values
            .iter()
            .filter(|(name, value)| is_unique(object_type, name) && !value.is_empty())
        {
            let holder = self
                .holder(object_type, name, value)
                .filter(|holder| Some(*holder) != id);
            if let Some(existing) = holder {
                return Err(ChangeError::Taken { name, existing });
            }
        }
        Ok(())
    }

    /// Notes what a record holds.
    pub(crate) fn take(&mut self, record: &Record, at: Millis) {
        for (name, value) in held(record, at) {
            self.0
                .entry((record.object_type, name, value))
                .or_insert(record.id);
        }
    }

    /// Forgets what a record holds.
    pub(crate) fn give_up(&mut self, record: &Record, at: Millis) {
        for (name, value) in held(record, at) {
            let key = (record.object_type, name, value);
            if self.0.get(&key) == Some(&record.id) {
                self.0.remove(&key);
            }
        }
    }

    /// Whether a record could hold again what it held before it was archived.
    pub(crate) fn check_restore(&self, record: &Record, at: Millis) -> Result<(), ChangeError> {
        let values: Vec<Checked> = held(record, at).collect();
        self.check(record.object_type, Some(record.id), &values)
    }
}

/// The unique values of a record, in lower case.
fn held(record: &Record, at: Millis) -> impl Iterator<Item = Checked> {
    let unique = definitions::of(record.object_type)
        .values()
        .filter(|one| one.unique && !one.calculated);
    unique.filter_map(move |one| Some((one.name, record.value(one.name, at)?.to_lowercase())))
}

fn is_unique(object_type: TypeId, name: &str) -> bool {
    definitions::of(object_type)
        .get(name)
        .is_some_and(|one| one.unique)
}
