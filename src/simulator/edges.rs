//! Associations: each is kept from both sides, so that either can be read.

use std::collections::BTreeMap;

use super::change::{ChangeError, EdgeTypes, Fact, Key};
use super::types::{self, AssociationType, COMPANY, Category, Rank, TypeId};

/// A portal's associations.
#[derive(Default)]
pub(crate) struct Edges(BTreeMap<(Key, TypeId), BTreeMap<u64, EdgeTypes>>);

impl Edges {
    /// What `from` is associated with in a type, by id.
    pub(crate) fn of(&self, from: Key, to: TypeId) -> impl Iterator<Item = (u64, &EdgeTypes)> {
        let all = self.0.get(&(from, to)).into_iter().flatten();
        all.map(|(id, types)| (*id, types))
    }

    /// Associates two records; what that changed, told from both sides.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] for types that the pair does not have.
    pub(crate) fn associate(
        &mut self,
        from: Key,
        to: Key,
        types: &EdgeTypes,
    ) -> Result<Vec<Fact>, ChangeError> {
        let offered = types::associations(from.0, to.0);
        let chosen = choose(&offered, types)?;
        let mut facts = Vec::new();
        for by in chosen {
            if by.rank == Rank::Primary {
                facts.extend(self.drop_primary(from, to, by));
            }
            if self.link(from, to, by) {
                facts.extend(tell_both(from, to, by, false));
            }
        }
        Ok(facts)
    }

    /// Takes `types` away, or all when there are none.
    pub(crate) fn disassociate(&mut self, from: Key, to: Key, types: &EdgeTypes) -> Vec<Fact> {
        let held = self.types(from, to);
        let mut facts = Vec::new();
        for by in types::associations(from.0, to.0) {
            let kind = (by.category, by.number);
            if held.contains(&kind) && (types.is_empty() || types.contains(&kind)) {
                self.unlink(from, to, &by);
                facts.extend(tell_both(from, to, &by, true));
            }
        }
        facts
    }

    /// Forgets all associations of a record.
    pub(crate) fn drop_all(&mut self, key: Key) {
        for other in types::OBJECT_TYPES.iter().map(|known| known.id) {
            for id in self.0.remove(&(key, other)).unwrap_or_default().into_keys() {
                if let Some(back) = self.0.get_mut(&((other, id), key.0)) {
                    back.remove(&key.1);
                }
            }
        }
    }

    /// Gives all associations of `old` to `new`, which keeps the primary it has.
    pub(crate) fn hand_over(&mut self, old: Key, new: Key) {
        for other in types::OBJECT_TYPES.iter().map(|known| known.id) {
            let all = self.0.get(&(old, other)).cloned().unwrap_or_default();
            let offered = types::associations(new.0, other);
            let has_primary = offered
                .iter()
                .any(|by| by.rank == Rank::Primary && other == COMPANY && self.has(new, other, by));
            for (id, kinds) in all {
                let to = (other, id);
                let held = offered
                    .iter()
                    .filter(|by| kinds.contains(&(by.category, by.number)));
                for by in held.filter(|by| {
                    to != new && to != old && !(has_primary && by.rank == Rank::Primary)
                }) {
                    self.link(new, to, by);
                }
            }
        }
        self.drop_all(old);
    }

    /// A record has one primary company: the one before gives way, whichever side was named first.
    fn drop_primary(&mut self, from: Key, to: Key, primary: &AssociationType) -> Vec<Fact> {
        let (record, company, number) = match from.0 {
            COMPANY => (to, from, primary.inverse),
            _ => (from, to, primary.number),
        };
        let kind = (primary.category, number);
        let before = self
            .of(record, company.0)
            .filter(|(id, types)| *id != company.1 && types.contains(&kind));
        let before: Vec<u64> = before.map(|(id, _)| id).collect();
        let gone = EdgeTypes::from([kind]);
        before
            .into_iter()
            .flat_map(|id| self.disassociate(record, (company.0, id), &gone))
            .collect()
    }

    /// `false` when the two were so associated already.
    fn link(&mut self, from: Key, to: Key, by: &AssociationType) -> bool {
        self.entry(to, from).insert((by.category, by.inverse));
        self.entry(from, to).insert((by.category, by.number))
    }

    fn unlink(&mut self, from: Key, to: Key, by: &AssociationType) {
        for (from, to, number) in [(from, to, by.number), (to, from, by.inverse)] {
            let kinds = self.entry(from, to);
            kinds.remove(&(by.category, number));
            if kinds.is_empty()
                && let Some(all) = self.0.get_mut(&(from, to.0))
            {
                all.remove(&to.1);
            }
        }
    }

    fn entry(&mut self, from: Key, to: Key) -> &mut EdgeTypes {
        self.0
            .entry((from, to.0))
            .or_default()
            .entry(to.1)
            .or_default()
    }

    fn types(&self, from: Key, to: Key) -> EdgeTypes {
        let all = self.0.get(&(from, to.0));
        all.and_then(|all| all.get(&to.1))
            .cloned()
            .unwrap_or_default()
    }

    fn has(&self, from: Key, to: TypeId, by: &AssociationType) -> bool {
        self.of(from, to)
            .any(|(_, kinds)| kinds.contains(&(by.category, by.number)))
    }
}

/// The types asked for, checked; a label or primary brings the unlabelled type with it.
fn choose<'a>(
    offered: &'a [AssociationType],
    asked: &EdgeTypes,
) -> Result<Vec<&'a AssociationType>, ChangeError> {
    let known = |kind: &(Category, u32)| offered.iter().any(|by| (by.category, by.number) == *kind);
    if offered.is_empty() || !asked.iter().all(known) {
        let message = "One or more association types are not valid for these object types";
        return Err(ChangeError::Refused(message.to_owned()));
    }
    let wanted = |by: &&AssociationType| {
        by.rank == Rank::Default || asked.contains(&(by.category, by.number))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::types::CONTACT;

    const ADA: Key = (CONTACT, 1);
    const BELA: Key = (CONTACT, 2);
    const PRIMARY: (Category, u32) = (Category::HubspotDefined, 1);

    fn primaries(edges: &Edges, contact: Key) -> Vec<u64> {
        let all = edges.of(contact, COMPANY);
        all.filter(|(_, types)| types.contains(&PRIMARY))
            .map(|(id, _)| id)
            .collect()
    }

    #[test]
    fn a_primary_association_brings_the_plain_one_and_is_told_from_both_sides() {
        let mut edges = Edges::default();
        let facts = edges
            .associate(ADA, (COMPANY, 7), &EdgeTypes::from([PRIMARY]))
            .unwrap();
        let told = facts.iter().map(|fact| match fact {
            Fact::Association {
                from,
                number,
                primary,
                ..
            } => (from.0, *number, *primary),
            other => panic!("{other:?}"),
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                (CONTACT, 279, false),
                (COMPANY, 280, false),
                (CONTACT, 1, true),
                (COMPANY, 2, true)
            ]
        );
        assert!(
            edges
                .associate(ADA, (COMPANY, 7), &EdgeTypes::new())
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn a_record_has_one_primary_from_whichever_side_it_is_set() {
        let mut edges = Edges::default();
        edges
            .associate(ADA, (COMPANY, 7), &EdgeTypes::from([PRIMARY]))
            .unwrap();
        edges
            .associate(
                (COMPANY, 8),
                ADA,
                &EdgeTypes::from([(Category::HubspotDefined, 2)]),
            )
            .unwrap();
        assert_eq!(primaries(&edges, ADA), [8]);
        assert_eq!(edges.of(ADA, COMPANY).count(), 2);
    }

    #[test]
    fn a_merged_record_keeps_its_own_primary() {
        let mut edges = Edges::default();
        edges
            .associate(ADA, (COMPANY, 7), &EdgeTypes::from([PRIMARY]))
            .unwrap();
        edges
            .associate(BELA, (COMPANY, 8), &EdgeTypes::from([PRIMARY]))
            .unwrap();
        edges.hand_over(BELA, ADA);
        assert_eq!(primaries(&edges, ADA), [7]);
        assert_eq!(
            (
                edges.of(ADA, COMPANY).count(),
                edges.of(BELA, COMPANY).count()
            ),
            (2, 0)
        );
        assert_eq!(
            edges
                .of((COMPANY, 8), CONTACT)
                .map(|(id, _)| id)
                .collect::<Vec<_>>(),
            [1]
        );
    }
}
