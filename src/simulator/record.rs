//! One CRM record with the history of its values, so that it can be read as it was some time ago.

use std::collections::BTreeMap;

use super::definitions;
use super::types::TypeId;
use crate::event::Millis;

/// Values kept per property; HubSpot keeps 20 of most types.
const HISTORY_MAX: usize = 20;

/// Who made a change, in HubSpot's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// `changeSource`, `CRM_UI` say.
    pub(crate) kind: String,
    /// `sourceId`, `userId:75500001` say.
    pub(crate) id: Option<String>,
}

/// One value a property had.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) text: String,
    pub(crate) at: Millis,
    pub(crate) source: Source,
}

/// A record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) object_type: TypeId,
    pub(crate) id: u64,
    pub(crate) created_at: Millis,
    /// Since when reads may find it: a merge makes a record that claims an earlier creation.
    pub(crate) exists_since: Millis,
    /// When it was archived and restored, the newest last.
    archived: Vec<(Millis, bool)>,
    values: BTreeMap<String, Vec<Value>>,
}

impl Record {
    pub(crate) fn new(object_type: TypeId, id: u64, now: Millis) -> Self {
        Self {
            object_type,
            id,
            created_at: now,
            exists_since: now,
            archived: Vec::new(),
            values: BTreeMap::new(),
        }
    }

    /// Sets a value; `false` when it had it already.
    pub(crate) fn set(&mut self, name: &str, value: Value) -> bool {
        let history = self.values.entry(name.to_owned()).or_default();
        if history.last().map_or("", |last| &last.text) == value.text {
            return false;
        }
        if history.len() == HISTORY_MAX {
            history.remove(0);
        }
        history.push(value);
        true
    }

    pub(crate) fn set_archived(&mut self, archived: bool, now: Millis) {
        self.archived.push((now, archived));
        if self.archived.len() > HISTORY_MAX {
            self.archived.remove(0);
        }
    }

    /// When it was archived, as of `at`; `None` when it is not.
    pub(crate) fn archived_at(&self, at: Millis) -> Option<Millis> {
        let latest = self.archived.iter().rev().find(|(since, _)| *since <= at);
        latest.and_then(|(since, archived)| archived.then_some(*since))
    }

    /// The time of the last property change, as of `at`.
    pub(crate) fn updated_at(&self, at: Millis) -> Millis {
        let times = self
            .values
            .values()
            .filter_map(|history| seen(history, at).map(|value| value.at));
        times.fold(self.created_at, Millis::max)
    }

    /// The value of a property as of `at`; `None` when it is empty.
    pub(crate) fn value(&self, name: &str, at: Millis) -> Option<String> {
        match name {
            "hs_object_id" => Some(self.id.to_string()),
            "createdate" | "hs_createdate" => Some(self.created_at.to_string()),
            _ if name == definitions::last_modified(self.object_type) => {
                Some(self.updated_at(at).to_string())
            }
            _ => self
                .stored(name, at)
                .map(|value| value.text.clone())
                .filter(|text| !text.is_empty()),
        }
    }

    /// All values a property had until `at`, the newest first.
    pub(crate) fn history(&self, name: &str, at: Millis) -> Vec<&Value> {
        let history = self.values.get(name).into_iter().flatten();
        history.rev().filter(|value| value.at <= at).collect()
    }

    /// The names of the properties that were ever set.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    fn stored(&self, name: &str, at: Millis) -> Option<&Value> {
        seen(self.values.get(name)?, at)
    }
}

fn seen(history: &[Value], at: Millis) -> Option<&Value> {
    history.iter().rev().find(|value| value.at <= at)
}
