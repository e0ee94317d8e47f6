//! Changes of an edge between two records, in both of the forms HubSpot sends.

use crate::event::{AssociationChange, AssociationEvent, ObjectTypeId};
use crate::hubspot::notification::Notification;

use super::NormalizeError;
use super::field::{number, owned, required};

/// What parts the two types in `CONTACT_TO_COMPANY`.
const TO: &str = "_TO_";

/// The edge's change; `None` when the types at its ends cannot be told from what HubSpot sent.
///
/// The generic form names both types by id. The classic form has only `associationType`, two names joined
/// by `_TO_`.
///
/// # Errors
/// [`NormalizeError::Missing`] for an id of either end, for `associationRemoved`, and for `associationType`
/// when the types are not given by id either.
pub(super) fn of(
    notification: &Notification<'_>,
) -> Result<Option<AssociationEvent>, NormalizeError> {
    let from_object_id = required("fromObjectId", notification.from_object_id.as_deref())?;
    let to_object_id = required("toObjectId", notification.to_object_id.as_deref())?;
    let removed = required("associationRemoved", notification.association_removed)?;
    let Some((from_object_type_id, to_object_type_id)) = types(notification)? else {
        return Ok(None);
    };
    let mut edge = AssociationEvent {
        edge_id: None,
        from_object_type_id,
        from_object_id: from_object_id.into(),
        to_object_type_id,
        to_object_id: to_object_id.into(),
        association_type: owned(&notification.association_type),
        association_category: owned(&notification.association_category),
        association_type_id: notification.association_type_id.as_deref().and_then(number),
        label: None,
        is_primary: notification.is_primary_association.unwrap_or(false),
        change: if removed {
            AssociationChange::Removed
        } else {
            AssociationChange::Added
        },
    };
    let portal_id = required("portalId", notification.portal_id.as_deref())?;
    edge.edge_id = Some(edge.edge_of(&portal_id.into()));
    Ok(Some(edge))
}

fn types(
    notification: &Notification<'_>,
) -> Result<Option<(ObjectTypeId, ObjectTypeId)>, NormalizeError> {
    let by_id = notification
        .from_object_type_id
        .as_deref()
        .zip(notification.to_object_type_id.as_deref());
    if let Some((from, to)) = by_id {
        return Ok(Some((
            ObjectTypeId::from_name(from),
            ObjectTypeId::from_name(to),
        )));
    }
    let pair = required("associationType", notification.association_type.as_deref())?;
    Ok(split(pair))
}

/// The two types of `CONTACT_TO_COMPANY`; `None` unless both are types of the table.
fn split(pair: &str) -> Option<(ObjectTypeId, ObjectTypeId)> {
    let known = |name| Some(ObjectTypeId::from_name(name)).filter(|id| id.standard().is_some());
    pair.match_indices(TO)
        .find_map(|(at, _)| known(&pair[..at]).zip(known(&pair[at + TO.len()..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_pair_is_split_into_its_types() {
        for (pair, from, to) in [
            ("CONTACT_TO_COMPANY", "0-1", "0-2"),
            ("COMPANY_TO_COMPANY", "0-2", "0-2"),
            ("DEAL_TO_LINE_ITEM", "0-3", "0-8"),
            ("LINE_ITEM_TO_DEAL", "0-8", "0-3"),
            ("TICKET_TO_CONTACT", "0-5", "0-1"),
        ] {
            let (left, right) = split(pair).unwrap();
            assert_eq!((left.as_str(), right.as_str()), (from, to), "{pair}");
        }
    }

    #[test]
    fn a_pair_of_types_we_do_not_know_is_not_guessed_at() {
        for pair in [
            "",
            "_TO_",
            "CONTACT",
            "CONTACT_TO_",
            "CONTACT_TO_HOLOGRAM",
            "é_TO_DEAL",
        ] {
            assert_eq!(split(pair), None, "{pair}");
        }
    }
}
