//! What a portal holds, and how a change turns one state into the next.
//!
//! Pure: time, source and seed come in, facts come out. HTTP and webhooks stand around it.

use std::collections::BTreeMap;

use super::change::{Applied, Change, ChangeError, EdgeTypes, Fact, Key};
use super::edges::Edges;
use super::files::Files;
use super::inbox::Inbox;
use super::merge;
use super::random::Random;
use super::record::{Record, Source, Value};
use super::types::{COMPANY, CONTACT, TypeId};
use super::values::{self, Checked, UniqueValues};
use crate::event::Millis;

/// Ids begin here: twelve digits, as in large portals.
const FIRST_ID: u64 = 347_160_000_001;

/// An owner: a user, or a queue.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) id: u64,
    pub(crate) user_id: Option<u64>,
    pub(crate) email: String,
    pub(crate) first_name: String,
    pub(crate) last_name: String,
    pub(crate) archived: bool,
    pub(crate) created_at: Millis,
    /// Id, name, and whether it is the main team.
    pub(crate) teams: Vec<(u64, &'static str, bool)>,
}

/// A portal's data.
pub(crate) struct State {
    pub(crate) portal_id: u64,
    pub(crate) created_at: Millis,
    pub(crate) owners: Vec<Owner>,
    pub(crate) files: Files,
    pub(crate) inbox: Inbox,
    records: BTreeMap<Key, Record>,
    unique: UniqueValues,
    merged: BTreeMap<Key, u64>,
    edges: Edges,
    next_id: u64,
    /// Draws values and ids; nothing that depends on timing may draw from it.
    pub(crate) random: Random,
}

impl State {
    /// An empty portal.
    pub(crate) fn new(portal_id: u64, seed: u64, now: Millis) -> Self {
        Self {
            portal_id,
            created_at: now,
            owners: Vec::new(),
            files: Files::default(),
            inbox: Inbox::default(),
            records: BTreeMap::new(),
            unique: UniqueValues::default(),
            merged: BTreeMap::new(),
            edges: Edges::default(),
            next_id: FIRST_ID,
            random: Random::new(seed, portal_id),
        }
    }

    /// The record with exactly this id, archived or not.
    pub(crate) fn record(&self, key: Key) -> Option<&Record> {
        self.records.get(&key)
    }

    /// The id that a merged-away id leads to now; itself when it was not merged.
    pub(crate) fn survivor(&self, (object_type, mut id): Key) -> u64 {
        while let Some(next) = self.merged.get(&(object_type, id)) {
            id = *next;
        }
        id
    }

    /// Records of a type from `after` on, by id.
    pub(crate) fn of_type(&self, object_type: TypeId, after: u64) -> impl Iterator<Item = &Record> {
        let range = (object_type, after)..=(object_type, u64::MAX);
        self.records.range(range).map(|(_, record)| record)
    }

    /// The record, not archived, whose unique property has this value.
    pub(crate) fn by_unique(
        &self,
        object_type: TypeId,
        name: &str,
        value: &str,
    ) -> Option<&Record> {
        let id = self.unique.holder(object_type, name, value)?;
        self.record((object_type, id))
    }

    /// What `from` is associated with in a type; archived records count as gone.
    pub(crate) fn associated(&self, from: Key, to: TypeId) -> Vec<(u64, &EdgeTypes)> {
        self.edges
            .of(from, to)
            .filter(|(id, _)| self.live((to, *id)).is_ok())
            .collect()
    }

    /// Makes a change.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing has changed then.
    pub(crate) fn apply(
        &mut self,
        change: Change,
        source: &Source,
        now: Millis,
    ) -> Result<Applied, ChangeError> {
        match change {
            Change::Create {
                object_type,
                properties,
            } => self.create(object_type, &properties, source, now),
            Change::Update { key, properties } => self.update(key, &properties, source, now),
            Change::Archive { key } => self.archive(key, now),
            Change::Restore { key } => self.restore(key, now),
            Change::Merge {
                object_type,
                primary,
                other,
            } => self.merge((object_type, primary), (object_type, other), source, now),
            Change::GdprDelete { id } => self.gdpr_delete(id),
            Change::Associate { from, to, types } => self.associate(from, to, &types),
            Change::Disassociate { from, to, types } => {
                self.live(from)?;
                Ok(Applied {
                    id: from.1,
                    facts: self.edges.disassociate(from, to, &types),
                })
            }
        }
    }

    fn create(
        &mut self,
        object_type: TypeId,
        properties: &BTreeMap<String, String>,
        source: &Source,
        now: Millis,
    ) -> Result<Applied, ChangeError> {
        let values = values::check(object_type, properties)?;
        self.unique.check(object_type, None, &values)?;
        let id = self.fresh_id();
        let key = (object_type, id);
        self.records.insert(key, Record::new(object_type, id, now));
        let mut facts = vec![Fact::Creation { key }];
        facts.extend(self.write(key, values, source, now)?);
        Ok(Applied { id, facts })
    }

    fn update(
        &mut self,
        key: Key,
        properties: &BTreeMap<String, String>,
        source: &Source,
        now: Millis,
    ) -> Result<Applied, ChangeError> {
        let key = (key.0, self.survivor(key));
        self.live(key)?;
        let values = values::check(key.0, properties)?;
        self.unique.check(key.0, Some(key.1), &values)?;
        Ok(Applied {
            id: key.1,
            facts: self.write(key, values, source, now)?,
        })
    }

    fn archive(&mut self, key: Key, now: Millis) -> Result<Applied, ChangeError> {
        let key = (key.0, self.survivor(key));
        self.live(key)?;
        let record = self
            .records
            .get_mut(&key)
            .ok_or(ChangeError::NotFound(key.0, key.1))?;
        self.unique.give_up(record, far_future());
        record.set_archived(true, now);
        Ok(Applied {
            id: key.1,
            facts: vec![Fact::Deletion { key }],
        })
    }

    fn restore(&mut self, key: Key, now: Millis) -> Result<Applied, ChangeError> {
        if self.live(key).is_ok() {
            return Err(ChangeError::Refused(format!(
                "record {} is not archived",
                key.1
            )));
        }
        let record = self
            .records
            .get_mut(&key)
            .ok_or(ChangeError::NotFound(key.0, key.1))?;
        self.unique.check_restore(record, far_future())?;
        self.unique.take(record, far_future());
        record.set_archived(false, now);
        Ok(Applied {
            id: key.1,
            facts: vec![Fact::Restore { key }],
        })
    }

    fn gdpr_delete(&mut self, id: u64) -> Result<Applied, ChangeError> {
        let key = (CONTACT, self.survivor((CONTACT, id)));
        let record = self
            .records
            .remove(&key)
            .ok_or(ChangeError::NotFound(CONTACT, id))?;
        self.unique.give_up(&record, far_future());
        self.edges.drop_all(key);
        let mut facts = vec![Fact::PrivacyDeletion { id: key.1 }, Fact::Deletion { key }];
        self.random.shuffle(&mut facts);
        Ok(Applied { id: key.1, facts })
    }

    /// Since January 2025 contacts and companies merge into a third record; other types keep the primary's id.
    fn merge(
        &mut self,
        primary: Key,
        other: Key,
        source: &Source,
        now: Millis,
    ) -> Result<Applied, ChangeError> {
        let (winner, loser) = (self.live(primary)?.clone(), self.live(other)?.clone());
        merge::check(&winner, &loser)?;
        let third = matches!(primary.0, CONTACT | COMPANY);
        let new = (primary.0, if third { self.fresh_id() } else { primary.1 });
        let (survivor, moved) = merge::survivor(&winner, &loser, new.1, source, now);
        for (old, record) in [(primary, &winner), (other, &loser)] {
            self.unique.give_up(record, far_future());
            self.records.remove(&old);
            if old != new {
                self.edges.hand_over(old, new);
                self.merged.insert(old, new.1);
            }
        }
        self.unique.take(&survivor, far_future());
        self.records.insert(new, survivor);
        let fact = Fact::Merge {
            object_type: new.0,
            primary: primary.1,
            merged: other.1,
            new: new.1,
            moved,
        };
        Ok(Applied {
            id: new.1,
            facts: vec![fact],
        })
    }

    fn associate(&mut self, from: Key, to: Key, types: &EdgeTypes) -> Result<Applied, ChangeError> {
        self.live(from)?;
        self.live(to)?;
        if from == to {
            return Err(ChangeError::Refused(
                "a record cannot be associated with itself".to_owned(),
            ));
        }
        Ok(Applied {
            id: from.1,
            facts: self.edges.associate(from, to, types)?,
        })
    }

    fn write(
        &mut self,
        key: Key,
        values: Vec<Checked>,
        source: &Source,
        now: Millis,
    ) -> Result<Vec<Fact>, ChangeError> {
        let record = self
            .records
            .get_mut(&key)
            .ok_or(ChangeError::NotFound(key.0, key.1))?;
        self.unique.give_up(record, far_future());
        let changed = values.into_iter().filter_map(|(name, value)| {
            let set = record.set(
                name,
                Value {
                    text: value.clone(),
                    at: now,
                    source: source.clone(),
                },
            );
            set.then_some(Fact::PropertyChange { key, name, value })
        });
        let facts = changed.collect();
        self.unique.take(record, far_future());
        Ok(facts)
    }

    fn live(&self, key: Key) -> Result<&Record, ChangeError> {
        let record = self
            .records
            .get(&key)
            .filter(|record| record.archived_at(far_future()).is_none());
        record.ok_or(ChangeError::NotFound(key.0, key.1))
    }

    fn fresh_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1 + u64::from(self.random.next_u32() % 97);
        id
    }
}

/// Later than every change: "as of now, whatever the clock does".
pub(crate) fn far_future() -> Millis {
    let epoch = Millis::new(0).expect("1970 can be written");
    epoch.after(std::time::Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Millis {
        Millis::new(ms).unwrap()
    }

    fn source() -> Source {
        Source {
            kind: "CRM_UI".to_owned(),
            id: None,
        }
    }

    fn create(
        state: &mut State,
        object_type: TypeId,
        properties: &[(&str, &str)],
        now: i64,
    ) -> Result<u64, ChangeError> {
        let properties = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let change = Change::Create {
            object_type,
            properties,
        };
        state
            .apply(change, &source(), at(now))
            .map(|applied| applied.id)
    }

    #[test]
    fn the_time_of_update_is_that_of_the_last_value_that_changed() {
        let mut state = State::new(1, 1, at(0));
        let key = (
            CONTACT,
            create(&mut state, CONTACT, &[("city", "Graz")], 1_000).unwrap(),
        );
        let update = |value: &str| Change::Update {
            key,
            properties: BTreeMap::from([("city".to_owned(), value.to_owned())]),
        };
        assert!(
            state
                .apply(update("Graz"), &source(), at(2_000))
                .unwrap()
                .facts
                .is_empty()
        );
        assert_eq!(
            state.record(key).unwrap().updated_at(far_future()),
            at(1_000)
        );
        assert_eq!(
            state
                .apply(update("Lyon"), &source(), at(3_000))
                .unwrap()
                .facts
                .len(),
            1
        );
        let record = state.record(key).unwrap();
        assert_eq!(
            (record.updated_at(at(2_999)), record.updated_at(at(3_000))),
            (at(1_000), at(3_000))
        );
        assert_eq!(record.value("city", at(2_999)).as_deref(), Some("Graz"));
    }

    #[test]
    fn a_unique_value_has_one_holder_until_it_is_given_up() {
        let mut state = State::new(1, 1, at(0));
        let email = [("email", "Ada@Example.com")];
        let first = create(&mut state, CONTACT, &email, 1).unwrap();
        let taken = create(&mut state, CONTACT, &[("email", "ada@example.com")], 2).unwrap_err();
        assert_eq!(
            taken,
            ChangeError::Taken {
                name: "email",
                existing: first
            }
        );
        state
            .apply(
                Change::Archive {
                    key: (CONTACT, first),
                },
                &source(),
                at(3),
            )
            .unwrap();
        let second = create(&mut state, CONTACT, &email, 4).unwrap();
        assert_eq!(
            state
                .by_unique(CONTACT, "email", "ADA@example.com")
                .unwrap()
                .id,
            second
        );
        let restored = state.apply(
            Change::Restore {
                key: (CONTACT, first),
            },
            &source(),
            at(5),
        );
        assert_eq!(
            restored.unwrap_err(),
            ChangeError::Taken {
                name: "email",
                existing: second
            }
        );
    }

    #[test]
    fn a_chain_of_merges_leads_to_the_last_survivor_which_lists_all() {
        let mut state = State::new(1, 1, at(0));
        let ids: Vec<u64> = (1..=3)
            .map(|now| create(&mut state, CONTACT, &[], now).unwrap())
            .collect();
        let mut merge = |primary, other| {
            state
                .apply(
                    Change::Merge {
                        object_type: CONTACT,
                        primary,
                        other,
                    },
                    &source(),
                    at(9),
                )
                .unwrap()
                .id
        };
        let first = merge(ids[0], ids[1]);
        let last = merge(ids[2], first);
        assert!(
            ids.iter()
                .chain([&first])
                .all(|id| state.survivor((CONTACT, *id)) == last)
        );
        let survivor = state.record((CONTACT, last)).unwrap();
        let listed = survivor
            .value("hs_merged_object_ids", far_future())
            .unwrap();
        assert_eq!(listed, format!("{};{};{};{first}", ids[0], ids[1], ids[2]));
        assert_eq!(survivor.created_at, at(1));
    }
}
