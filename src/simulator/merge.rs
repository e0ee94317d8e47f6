//! What becomes of two records that are merged.

use super::change::ChangeError;
use super::record::{Record, Source, Value};
use super::state::far_future;
use super::types::CONTACT;
use crate::event::Millis;

/// "A record takes part in at most 250 merges."
const MERGES_MAX: usize = 250;

/// # Errors
/// [`ChangeError::Refused`] for a record with itself, or one merged too often.
pub(crate) fn check(winner: &Record, loser: &Record) -> Result<(), ChangeError> {
    if winner.id == loser.id {
        return Err(ChangeError::Refused(
            "a record cannot be merged with itself".to_owned(),
        ));
    }
    let ids = |record: &Record| record.value("hs_merged_object_ids", far_future());
    let count = |record| ids(record).map_or(0, |ids| ids.split(';').count());
    if count(winner) + count(loser) >= MERGES_MAX {
        return Err(ChangeError::Refused(
            "Cannot have more than 250 identities on a profile".to_owned(),
        ));
    }
    Ok(())
}

/// The survivor, and how many values it took over: it has the winner's, and the loser's where the winner has none.
pub(crate) fn survivor(
    winner: &Record,
    loser: &Record,
    id: u64,
    source: &Source,
    now: Millis,
) -> (Record, usize) {
    let value = |text| Value {
        text,
        at: now,
        source: source.clone(),
    };
    let mut survivor = winner.clone();
    survivor.id = id;
    survivor.created_at = winner.created_at.min(loser.created_at);
    if id != winner.id {
        survivor.exists_since = now;
    }
    let free = loser
        .names()
        .filter(|name| winner.value(name, now).is_none());
    let taken = free.filter_map(|name| Some((name, loser.value(name, now)?)));
    let moved = taken
        .filter(|(name, text)| survivor.set(name, value(text.clone())))
        .count();
    let gone: Vec<&Record> = [winner, loser]
        .into_iter()
        .filter(|record| record.id != id)
        .collect();
    let add = |name: &str, entry: &dyn Fn(&Record) -> String| {
        let earlier = [winner, loser]
            .into_iter()
            .filter_map(|record| record.value(name, now));
        earlier
            .chain(gone.iter().map(|record| entry(record)))
            .collect::<Vec<_>>()
            .join(";")
    };
    let ids = add("hs_merged_object_ids", &|record| record.id.to_string());
    survivor.set("hs_merged_object_ids", value(ids));
    if winner.object_type == CONTACT {
        let vids = add("hs_calculated_merged_vids", &|record| {
            format!("{}:{}", record.id, now.as_i64())
        });
        survivor.set("hs_calculated_merged_vids", value(vids));
    }
    (survivor, moved)
}
