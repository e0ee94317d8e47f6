//! What a portal holds, and how a change turns one state into the next.
//!
//! Pure: time, source and seed come in, facts come out. HTTP and webhooks stand around it.

use std::collections::{BTreeMap, BTreeSet};

use super::definitions;
use super::random::Random;
use super::record::{Record, Source, Value};
use super::types::{self, AssociationType, COMPANY, CONTACT, Category, Rank, TypeId};
use crate::event::Millis;

/// Ids begin here: twelve digits, as in large portals.
const FIRST_ID: u64 = 347_160_000_001;
/// "A record takes part in at most 250 merges."
const MERGES_MAX: usize = 250;

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
    records: BTreeMap<Key, Record>,
    merged: BTreeMap<Key, u64>,
    edges: BTreeMap<(Key, TypeId), BTreeMap<u64, EdgeTypes>>,
    next_id: u64,
    pub(crate) random: Random,
}

impl State {
    /// An empty portal.
    pub(crate) fn new(portal_id: u64, seed: u64, now: Millis) -> Self {
        Self {
            portal_id,
            created_at: now,
            owners: Vec::new(),
            records: BTreeMap::new(),
            merged: BTreeMap::new(),
            edges: BTreeMap::new(),
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
        self.records
            .range((object_type, after)..=(object_type, u64::MAX))
            .map(|(_, record)| record)
    }

    /// The record of a type whose unique property has this value.
    pub(crate) fn by_unique(
        &self,
        object_type: TypeId,
        name: &str,
        value: &str,
    ) -> Option<&Record> {
        let now = far_future();
        self.of_type(object_type, 0).find(|record| {
            record
                .value(name, now)
                .is_some_and(|held| held.eq_ignore_ascii_case(value))
        })
    }

    /// What `from` is associated with in a type; archived records count as gone.
    pub(crate) fn associated(&self, from: Key, to: TypeId) -> Vec<(u64, &EdgeTypes)> {
        let all = self.edges.get(&(from, to)).into_iter().flatten();
        all.filter(|(id, _)| self.live((to, **id)).is_ok())
            .map(|(id, types)| (*id, types))
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
            } => self.merge(object_type, primary, other, source, now),
            Change::GdprDelete { id } => self.gdpr_delete(id),
            Change::Associate { from, to, types } => self.associate(from, to, types),
            Change::Disassociate { from, to, types } => self.disassociate(from, to, &types),
        }
    }

    fn create(
        &mut self,
        object_type: TypeId,
        properties: &BTreeMap<String, String>,
        source: &Source,
        now: Millis,
    ) -> Result<Applied, ChangeError> {
        let values = self.check(object_type, None, properties)?;
        let id = self.fresh_id();
        let key = (object_type, id);
        self.records.insert(key, Record::new(object_type, id, now));
        let mut facts = vec![Fact::Creation { key }];
        facts.extend(self.write(key, values, source, now));
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
        let values = self.check(key.0, Some(key.1), properties)?;
        Ok(Applied {
            id: key.1,
            facts: self.write(key, values, source, now),
        })
    }

    fn archive(&mut self, key: Key, now: Millis) -> Result<Applied, ChangeError> {
        let key = (key.0, self.survivor(key));
        self.live(key)?;
        self.record_mut(key)?.set_archived(true, now);
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
        self.record_mut(key)?.set_archived(false, now);
        Ok(Applied {
            id: key.1,
            facts: vec![Fact::Restore { key }],
        })
    }

    fn gdpr_delete(&mut self, id: u64) -> Result<Applied, ChangeError> {
        let key = (CONTACT, self.survivor((CONTACT, id)));
        self.records
            .remove(&key)
            .ok_or(ChangeError::NotFound(CONTACT, id))?;
        self.drop_edges(key);
        let mut facts = vec![Fact::PrivacyDeletion { id: key.1 }, Fact::Deletion { key }];
        self.random.shuffle(&mut facts);
        Ok(Applied { id: key.1, facts })
    }

    /// Since January 2025 contacts and companies merge into a third record; other types keep the primary's id.
    fn merge(
        &mut self,
        object_type: TypeId,
        primary: u64,
        other: u64,
        source: &Source,
        now: Millis,
    ) -> Result<Applied, ChangeError> {
        let (primary_key, other_key) = ((object_type, primary), (object_type, other));
        self.live(primary_key)?;
        self.live(other_key)?;
        self.check_merge(primary_key, other_key)?;
        let new = if matches!(object_type, CONTACT | COMPANY) {
            self.fresh_id()
        } else {
            primary
        };
        let moved = self.merge_values((primary_key, other_key), (object_type, new), source, now)?;
        for old in [primary, other].into_iter().filter(|old| *old != new) {
            self.records.remove(&(object_type, old));
            self.move_edges((object_type, old), (object_type, new));
            self.merged.insert((object_type, old), new);
        }
        Ok(Applied {
            id: new,
            facts: vec![Fact::Merge {
                object_type,
                primary,
                merged: other,
                new,
                moved,
            }],
        })
    }

    fn check_merge(&self, primary: Key, other: Key) -> Result<(), ChangeError> {
        if primary == other {
            return Err(ChangeError::Refused(
                "a record cannot be merged with itself".to_owned(),
            ));
        }
        let merges = |key| {
            self.record(key)
                .and_then(|record| record.value("hs_merged_object_ids", far_future()))
        };
        let count = |key| merges(key).map_or(0, |ids| ids.split(';').count());
        if count(primary) + count(other) >= MERGES_MAX {
            return Err(ChangeError::Refused(
                "Cannot have more than 250 identities on a profile".to_owned(),
            ));
        }
        Ok(())
    }

    /// The survivor has the primary's values, and the other's where the primary has none.
    fn merge_values(
        &mut self,
        (primary, other): (Key, Key),
        new: Key,
        source: &Source,
        now: Millis,
    ) -> Result<usize, ChangeError> {
        let winner = self.live(primary)?.clone();
        let loser = self.live(other)?.clone();
        let ids = merged_ids(&winner, &loser, new.1, now);
        let mut survivor = winner.clone();
        survivor.id = new.1;
        survivor.created_at = winner.created_at.min(loser.created_at);
        if new != primary {
            survivor.exists_since = now;
        }
        let mut moved = 0;
        for name in loser.names() {
            let text = loser
                .value(name, now)
                .filter(|_| winner.value(name, now).is_none());
            let value = text.map(|text| Value {
                text,
                at: now,
                source: source.clone(),
            });
            moved += usize::from(value.is_some_and(|value| survivor.set(name, value)));
        }
        survivor.set(
            "hs_merged_object_ids",
            Value {
                text: ids,
                at: now,
                source: source.clone(),
            },
        );
        self.records.insert(new, survivor);
        Ok(moved)
    }

    fn associate(&mut self, from: Key, to: Key, types: EdgeTypes) -> Result<Applied, ChangeError> {
        self.live(from)?;
        self.live(to)?;
        let offered = types::associations(from.0, to.0);
        let chosen = choose(&offered, &types)?;
        let mut facts = Vec::new();
        if chosen.iter().any(|chosen| chosen.rank == Rank::Primary) {
            facts.extend(self.drop_primary(from, to, &chosen));
        }
        for chosen in chosen {
            if self.link(from, to, chosen) {
                facts.extend(tell_both(from, to, chosen, false));
            }
        }
        Ok(Applied { id: from.1, facts })
    }

    fn disassociate(
        &mut self,
        from: Key,
        to: Key,
        types: &EdgeTypes,
    ) -> Result<Applied, ChangeError> {
        self.live(from)?;
        let offered = types::associations(from.0, to.0);
        let held = self
            .edges
            .get(&(from, to.0))
            .and_then(|edges| edges.get(&to.1))
            .cloned()
            .unwrap_or_default();
        let mut facts = Vec::new();
        for gone in offered
            .iter()
            .filter(|one| held.contains(&(one.category, one.number)))
        {
            if types.is_empty() || types.contains(&(gone.category, gone.number)) {
                self.unlink(from, to, gone);
                facts.extend(tell_both(from, to, gone, true));
            }
        }
        Ok(Applied { id: from.1, facts })
    }

    /// A record has one primary of a type: the one before gives way.
    fn drop_primary(&mut self, from: Key, to: Key, chosen: &[&AssociationType]) -> Vec<Fact> {
        let primaries: Vec<&AssociationType> = chosen
            .iter()
            .filter(|one| one.rank == Rank::Primary)
            .copied()
            .collect();
        let mut facts = Vec::new();
        for primary in primaries {
            // The company is the primary one of the record at the other end, whichever side was named first.
            let (record, company) = if from.0 == COMPANY {
                (to, from)
            } else {
                (from, to)
            };
            let kind = if from.0 == COMPANY {
                (primary.category, primary.inverse)
            } else {
                (primary.category, primary.number)
            };
            let edges = self.edges.get(&(record, company.0)).into_iter().flatten();
            let before: Vec<u64> = edges
                .filter(|(id, types)| **id != company.1 && types.contains(&kind))
                .map(|(id, _)| *id)
                .collect();
            let there = types::associations(record.0, company.0);
            let there = there
                .iter()
                .find(|one| (one.category, one.number) == kind)
                .expect("the table has both directions");
            for id in before {
                self.unlink(record, (company.0, id), there);
                facts.extend(tell_both(record, (company.0, id), there, true));
            }
        }
        facts
    }

    /// `false` when the two were so associated already.
    fn link(&mut self, from: Key, to: Key, by: &AssociationType) -> bool {
        let back = self
            .edges
            .entry((to, from.0))
            .or_default()
            .entry(from.1)
            .or_default();
        back.insert((by.category, by.inverse));
        let there = self
            .edges
            .entry((from, to.0))
            .or_default()
            .entry(to.1)
            .or_default();
        there.insert((by.category, by.number))
    }

    fn unlink(&mut self, from: Key, to: Key, by: &AssociationType) {
        for (from, to, number) in [(from, to, by.number), (to, from, by.inverse)] {
            if let Some(edges) = self.edges.get_mut(&(from, to.0))
                && let Some(types) = edges.get_mut(&to.1)
            {
                types.remove(&(by.category, number));
                if types.is_empty() {
                    edges.remove(&to.1);
                }
            }
        }
    }

    fn drop_edges(&mut self, key: Key) {
        for other in types::OBJECT_TYPES.iter().map(|known| known.id) {
            for id in self
                .edges
                .remove(&(key, other))
                .unwrap_or_default()
                .into_keys()
            {
                if let Some(back) = self.edges.get_mut(&((other, id), key.0)) {
                    back.remove(&key.1);
                }
            }
        }
    }

    fn move_edges(&mut self, old: Key, new: Key) {
        for other in types::OBJECT_TYPES.iter().map(|known| known.id) {
            let edges = self.edges.get(&(old, other)).cloned().unwrap_or_default();
            for (id, kinds) in edges
                .into_iter()
                .filter(|(id, _)| (other, *id) != new && (other, *id) != old)
            {
                let back = self
                    .edges
                    .get(&((other, id), old.0))
                    .and_then(|back| back.get(&old.1))
                    .cloned()
                    .unwrap_or_default();
                self.edges
                    .entry((new, other))
                    .or_default()
                    .entry(id)
                    .or_default()
                    .extend(kinds);
                self.edges
                    .entry(((other, id), new.0))
                    .or_default()
                    .entry(new.1)
                    .or_default()
                    .extend(back);
            }
        }
        self.drop_edges(old);
    }

    fn write(
        &mut self,
        key: Key,
        values: Vec<(&'static str, String)>,
        source: &Source,
        now: Millis,
    ) -> Vec<Fact> {
        let record = self.records.get_mut(&key).expect("checked by the caller");
        let changed = values.into_iter().filter_map(|(name, text)| {
            let value = Value {
                text: text.clone(),
                at: now,
                source: source.clone(),
            };
            record.set(name, value).then_some(Fact::PropertyChange {
                key,
                name,
                value: text,
            })
        });
        changed.collect()
    }

    fn check(
        &self,
        object_type: TypeId,
        id: Option<u64>,
        properties: &BTreeMap<String, String>,
    ) -> Result<Vec<(&'static str, String)>, ChangeError> {
        let (mut values, mut invalid) = (Vec::new(), Vec::new());
        for (name, value) in properties {
            let Some(definition) = definitions::of(object_type).get(name.as_str()) else {
                let message = format!("Property \"{name}\" does not exist");
                invalid.push(InvalidValue {
                    name: name.clone(),
                    code: "PROPERTY_DOESNT_EXIST",
                    message,
                });
                continue;
            };
            match definition.normalize(value) {
                Ok(value) => values.push((definition.name, value)),
                Err((code, message)) => invalid.push(InvalidValue {
                    name: name.clone(),
                    code,
                    message,
                }),
            }
        }
        if !invalid.is_empty() {
            return Err(ChangeError::Invalid(invalid));
        }
        self.check_unique(object_type, id, &values)?;
        Ok(values)
    }

    fn check_unique(
        &self,
        object_type: TypeId,
        id: Option<u64>,
        values: &[(&'static str, String)],
    ) -> Result<(), ChangeError> {
        for (name, value) in values
            .iter()
            .filter(|(name, value)| definitions::of(object_type)[name].unique && !value.is_empty())
        {
            let holder = self
                .by_unique(object_type, name, value)
                .filter(|held| Some(held.id) != id);
            if let Some(holder) = holder {
                return Err(ChangeError::Taken {
                    name,
                    existing: holder.id,
                });
            }
        }
        Ok(())
    }

    fn live(&self, key: Key) -> Result<&Record, ChangeError> {
        let record = self
            .records
            .get(&key)
            .filter(|record| record.archived_at(far_future()).is_none());
        record.ok_or(ChangeError::NotFound(key.0, key.1))
    }

    fn record_mut(&mut self, key: Key) -> Result<&mut Record, ChangeError> {
        self.records
            .get_mut(&key)
            .ok_or(ChangeError::NotFound(key.0, key.1))
    }

    fn fresh_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1 + u64::from(self.random.next_u32() % 97);
        id
    }
}

/// Later than every change: "as of now, whatever the clock does".
pub(crate) fn far_future() -> Millis {
    Millis::new(0)
        .expect("1970 can be written")
        .after(std::time::Duration::MAX)
}

fn merged_ids(winner: &Record, loser: &Record, survivor: u64, now: Millis) -> String {
    let earlier = [winner, loser]
        .into_iter()
        .filter_map(|record| record.value("hs_merged_object_ids", now));
    let own = [winner.id, loser.id]
        .into_iter()
        .filter(|id| *id != survivor)
        .map(|id| id.to_string());
    earlier.chain(own).collect::<Vec<_>>().join(";")
}

/// The types asked for, checked; a label or primary brings the unlabelled type with it.
fn choose<'a>(
    offered: &'a [AssociationType],
    asked: &EdgeTypes,
) -> Result<Vec<&'a AssociationType>, ChangeError> {
    let known = |(category, number): &(Category, u32)| {
        offered
            .iter()
            .any(|one| (one.category, one.number) == (*category, *number))
    };
    if offered.is_empty() || !asked.iter().all(known) {
        return Err(ChangeError::Refused(
            "One or more association types are not valid for these object types".to_owned(),
        ));
    }
    let wanted = |one: &&AssociationType| {
        one.rank == Rank::Default || asked.contains(&(one.category, one.number))
    };
    Ok(offered.iter().filter(wanted).collect())
}

/// One fact for each side.
fn tell_both(from: Key, to: Key, by: &AssociationType, removed: bool) -> [Fact; 2] {
    let (category, primary) = (by.category, by.rank == Rank::Primary);
    let fact = |from, to, number| Fact::Association {
        from,
        to,
        category,
        number,
        removed,
        primary,
    };
    [fact(from, to, by.number), fact(to, from, by.inverse)]
}
