//! Edges: what makes the notifications of both ends of an association one.
//!
//! HubSpot tells of one association twice, once from each end, and each end has an association type id of its own:
//! 279 from a contact to its company is 280 from the company to the contact. HubSpot's published ids say which belong
//! together; of all others it does not tell.

use super::{AssociationEvent, EdgeId, IdentityHasher, PortalId};

/// HubSpot's own types.
const HUBSPOT_DEFINED: &str = "HUBSPOT_DEFINED";

/// What an association type says beyond that two records belong together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Nothing,
    Primary,
    Label,
}

/// A pair of association type ids that are one association seen from its two ends.
struct Pair {
    from: &'static str,
    to: &'static str,
    there: u64,
    back: u64,
    says: Says,
}

const fn pair(from: &'static str, to: &'static str, there: u64, back: u64) -> Pair {
    let says = Says::Nothing;
    Pair {
        from,
        to,
        there,
        back,
        says,
    }
}

const fn primary(from: &'static str, to: &'static str, there: u64, back: u64) -> Pair {
    let says = Says::Primary;
    Pair {
        says,
        ..pair(from, to, there, back)
    }
}

const CONTACT: &str = "0-1";
const COMPANY: &str = "0-2";
const DEAL: &str = "0-3";
const TICKET: &str = "0-5";
const TASK: &str = "0-27";
const NOTE: &str = "0-46";
const MEETING: &str = "0-47";
const CALL: &str = "0-48";
const EMAIL: &str = "0-49";

/// The ids that HubSpot publishes for both directions.
///
/// # Source
/// HubSpot, "Associate records", association type ids.
const PAIRS: &[Pair] = &[
    pair(CONTACT, COMPANY, 279, 280),
    primary(CONTACT, COMPANY, 1, 2),
    pair(DEAL, CONTACT, 3, 4),
    pair(DEAL, COMPANY, 341, 342),
    primary(DEAL, COMPANY, 5, 6),
    pair(CONTACT, TICKET, 15, 16),
    pair(COMPANY, TICKET, 340, 339),
    primary(COMPANY, TICKET, 25, 26),
    pair(DEAL, TICKET, 27, 28),
    pair(CONTACT, CONTACT, 449, 449),
    pair(COMPANY, COMPANY, 450, 450),
    pair(DEAL, DEAL, 451, 451),
    pair(TICKET, TICKET, 452, 452),
    Pair {
        says: Says::Label,
        ..pair(COMPANY, COMPANY, 13, 14)
    },
    pair(CONTACT, NOTE, 201, 202),
    pair(COMPANY, NOTE, 189, 190),
    pair(DEAL, NOTE, 213, 214),
    pair(TICKET, NOTE, 227, 228),
    pair(CONTACT, CALL, 193, 194),
    pair(COMPANY, CALL, 181, 182),
    pair(DEAL, CALL, 205, 206),
    pair(TICKET, CALL, 219, 220),
    pair(CONTACT, EMAIL, 197, 198),
    pair(COMPANY, EMAIL, 185, 186),
    pair(DEAL, EMAIL, 209, 210),
    pair(TICKET, EMAIL, 223, 224),
    pair(CONTACT, MEETING, 199, 200),
    pair(COMPANY, MEETING, 187, 188),
    pair(DEAL, MEETING, 211, 212),
    pair(TICKET, MEETING, 225, 226),
    pair(CONTACT, TASK, 203, 204),
    pair(COMPANY, TASK, 191, 192),
    pair(DEAL, TASK, 215, 216),
    pair(TICKET, TASK, 229, 230),
];

impl AssociationEvent {
    /// The id of its edge: the same from both ends, whether it is added or removed.
    ///
    /// It is a hash of the portal, both ends, and the association type from each of them, where HubSpot publishes
    /// which two ids belong together (or the type is the only one of its rank, in the classic form that has no
    /// ids). Else the types do not count but for their category and whether they are primary: such types
    /// of one pair of records share an id.
    #[must_use]
    pub fn edge_of(&self, portal_id: &PortalId) -> EdgeId {
        let known = self.types();
        let (there, back) =
            known.map_or((None, None), |(there, back, _)| (Some(there), Some(back)));
        let mut ends = [
            (&self.from_object_type_id, &self.from_object_id, there),
            (&self.to_object_type_id, &self.to_object_id, back),
        ];
        ends.sort();
        let mut hasher = IdentityHasher::new("edge");
        hasher.field(portal_id.as_str());
        for (object_type_id, object_id, type_id) in ends {
            hasher.field(object_type_id.as_str());
            hasher.field(object_id.as_str());
            hasher.optional(type_id.map(|id| id.to_string()).as_deref());
        }
        if known.is_none() {
            hasher.optional(self.association_category.as_deref());
            hasher.field(if self.is_primary { "primary" } else { "" });
        }
        hasher.finish().as_str().into()
    }

    /// Whether only the portal's list of labels can tell what its type is called: unlabelled and primary types have
    /// no label of people's, and those of HubSpot's are known.
    #[must_use]
    pub fn needs_label(&self) -> bool {
        let says = self.types().map(|(_, _, says)| says);
        self.association_type_id.is_some()
            && self.association_category.is_some()
            && !matches!(says, Some(Says::Nothing | Says::Primary))
    }

    /// Its type's id from each end, and what it says; `None` where HubSpot does not publish that.
    fn types(&self) -> Option<(u64, u64, Says)> {
        let seen = |ends: (&str, &str)| {
            (
                self.from_object_type_id.as_str(),
                self.to_object_type_id.as_str(),
            ) == ends
        };
        let both = |pair: &Pair| {
            let there = seen((pair.from, pair.to)).then_some((pair.there, pair.back, pair.says));
            let back = seen((pair.to, pair.from)).then_some((pair.back, pair.there, pair.says));
            [there, back]
        };
        let mut seen = PAIRS.iter().flat_map(both).flatten();
        match (
            self.association_category.as_deref(),
            self.association_type_id,
        ) {
            (Some(HUBSPOT_DEFINED), Some(id)) => seen.find(|(there, ..)| *there == id),
            // Between records of one type a label may hide behind the classic form.
            (None, None) if self.from_object_type_id != self.to_object_type_id => {
                let rank = if self.is_primary {
                    Says::Primary
                } else {
                    Says::Nothing
                };
                seen.find(|(.., says)| *says == rank)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AssociationChange, ObjectTypeId};

    /// One association event, `of` the category and type.
    fn edge(
        from: (&str, &str),
        to: (&str, &str),
        of: Option<(&str, u64)>,
        is_primary: bool,
    ) -> AssociationEvent {
        AssociationEvent {
            edge_id: None,
            from_object_type_id: ObjectTypeId::from_name(from.0),
            from_object_id: from.1.into(),
            to_object_type_id: ObjectTypeId::from_name(to.0),
            to_object_id: to.1.into(),
            association_type: None,
            association_category: of.map(|(category, _)| category.to_owned()),
            association_type_id: of.map(|(_, id)| id),
            label: None,
            is_primary,
            change: AssociationChange::Added,
        }
    }

    fn id(event: &AssociationEvent) -> EdgeId {
        event.edge_of(&"8241".into())
    }

    const ADA: (&str, &str) = ("contact", "1");
    const MILL: (&str, &str) = ("company", "1");
    const DEPOT: (&str, &str) = ("company", "2");

    #[test]
    fn both_directions_of_every_published_pair_are_one_edge() {
        for Pair {
            from,
            to,
            there,
            back,
            ..
        } in PAIRS
        {
            for (a, b) in [("1", "2"), ("2", "1")] {
                let out = edge((from, a), (to, b), Some((HUBSPOT_DEFINED, *there)), false);
                let home = edge((to, b), (from, a), Some((HUBSPOT_DEFINED, *back)), false);
                assert_eq!(id(&out), id(&home), "{from} to {to}");
            }
        }
    }

    #[test]
    fn other_ends_types_ranks_and_portals_are_other_edges() {
        let hubspot = |id| Some((HUBSPOT_DEFINED, id));
        let plain = edge(ADA, MILL, hubspot(279), false);
        let others = [
            edge(ADA, DEPOT, hubspot(279), false),
            edge(("contact", "2"), MILL, hubspot(279), false),
            edge(ADA, MILL, hubspot(1), true),
            edge(ADA, MILL, Some(("USER_DEFINED", 279)), false),
            edge(ADA, ("deal", "1"), hubspot(4), false),
        ];
        for other in &others {
            assert_ne!(id(&plain), id(other), "{other:?}");
        }
        assert_ne!(id(&plain), plain.edge_of(&"1".into()));
        let mut removed = plain.clone();
        removed.change = AssociationChange::Removed;
        assert_eq!(id(&plain), id(&removed));
    }

    #[test]
    fn who_is_the_parent_matters() {
        let is_parent = edge(MILL, DEPOT, Some((HUBSPOT_DEFINED, 13)), false);
        let has_parent = edge(MILL, DEPOT, Some((HUBSPOT_DEFINED, 14)), false);
        assert_ne!(id(&is_parent), id(&has_parent));
    }

    #[test]
    fn the_classic_form_meets_the_generic_one_and_itself() {
        for (is_primary, type_id) in [(false, 279), (true, 1)] {
            let classic = edge(ADA, MILL, None, is_primary);
            assert_eq!(
                id(&classic),
                id(&edge(
                    ADA,
                    MILL,
                    Some((HUBSPOT_DEFINED, type_id)),
                    is_primary
                ))
            );
            assert_eq!(id(&classic), id(&edge(MILL, ADA, None, is_primary)));
        }
        let (out, home) = (
            edge(MILL, DEPOT, None, false),
            edge(DEPOT, MILL, None, false),
        );
        assert_eq!(id(&out), id(&home));
        let plain = edge(MILL, DEPOT, Some((HUBSPOT_DEFINED, 450)), false);
        assert_ne!(id(&out), id(&plain), "it could be the parent");
    }

    #[test]
    fn types_that_nobody_pairs_share_an_edge_by_category_and_rank() {
        let of = |category, id| edge(("2-7", "5"), ADA, Some((category, id)), false);
        let back = edge(ADA, ("2-7", "5"), Some(("USER_DEFINED", 102)), false);
        assert_eq!(id(&of("USER_DEFINED", 101)), id(&back));
        assert_ne!(id(&of("INTEGRATOR_DEFINED", 101)), id(&back));
    }

    #[test]
    fn a_label_is_looked_up_only_where_there_may_be_one() {
        for (from, to, of, needs) in [
            (ADA, MILL, Some((HUBSPOT_DEFINED, 279)), false),
            (ADA, MILL, Some((HUBSPOT_DEFINED, 1)), false),
            (MILL, DEPOT, Some((HUBSPOT_DEFINED, 13)), true),
            (ADA, MILL, Some((HUBSPOT_DEFINED, 9_999)), true),
            (ADA, MILL, Some(("USER_DEFINED", 28)), true),
            (ADA, MILL, None, false),
        ] {
            assert_eq!(edge(from, to, of, false).needs_label(), needs, "{of:?}");
        }
    }
}
