//! The vocabulary of change: what may be asked of a portal, what happened, why it was refused.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{Category, TypeId};

/// A record's key: ids are unique only within their type.
pub(crate) type Key = (TypeId, u64);
/// A set of association types by category and number.
pub(crate) type EdgeTypes = BTreeSet<(Category, u32)>;

/// A change to a portal, whoever asks for it.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create {
        object_type: TypeId,
        properties: BTreeMap<String, String>,
    },
    Update {
        key: Key,
        properties: BTreeMap<String, String>,
    },
    Archive {
        key: Key,
    },
    Restore {
        key: Key,
    },
    Merge {
        object_type: TypeId,
        primary: u64,
        other: u64,
    },
    GdprDelete {
        id: u64,
    },
    /// No types: the unlabelled one.
    Associate {
        from: Key,
        to: Key,
        types: EdgeTypes,
    },
    /// No types: all of the edge.
    Disassociate {
        from: Key,
        to: Key,
        types: EdgeTypes,
    },
}

/// What happened, as a subscription would tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    Creation {
        key: Key,
    },
    Deletion {
        key: Key,
    },
    Restore {
        key: Key,
    },
    PrivacyDeletion {
        id: u64,
    },
    PropertyChange {
        key: Key,
        name: &'static str,
        value: String,
    },
    Merge {
        object_type: TypeId,
        primary: u64,
        merged: u64,
        new: u64,
        moved: usize,
    },
    Association {
        from: Key,
        to: Key,
        category: Category,
        number: u32,
        removed: bool,
        primary: bool,
    },
}

/// A change that was made.
#[derive(Debug)]
pub(crate) struct Applied {
    /// The record: the new one, or the survivor.
    pub(crate) id: u64,
    pub(crate) facts: Vec<Fact>,
}

/// Why a change was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("no {0} with id {1}")]
    NotFound(TypeId, u64),
    #[error("property values were not valid")]
    Invalid(Vec<InvalidValue>),
    #[error("{name} is taken by record {existing}")]
    Taken { name: &'static str, existing: u64 },
    #[error("{0}")]
    Refused(String),
}

/// One refused value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidValue {
    pub(crate) name: String,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}
