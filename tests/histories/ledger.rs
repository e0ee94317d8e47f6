//! Whether the ledger in the notes adds up with what an outsider saw: which events came, where they lie, what was erased.

use std::collections::BTreeMap;

use crm_relay::audit::{Account, Books, Endings};
use crm_relay::enrich::Note;
use crm_relay::event::{Event, Millis, PortalId};

use crate::checks::{Checks, is_erased};
use crate::hubspot::HubSpot;

/// The destination that gets every record, by its name.
pub const ALL: &str = "all";
/// One that gets changes of properties alone.
pub const SOME: &str = "changes";
/// One that gets events as they are.
pub const PLAIN: &str = "plain";
/// What [`SOME`] asks for.
pub const CHANGES: &str = "*.contact.property_changed.#";

/// The place of a destination among all, which stand in the order of their names.
pub fn place_of(name: &str) -> usize {
    let names = [ALL, SOME, PLAIN];
    names
        .iter()
        .position(|one| *one == name)
        .unwrap_or(usize::MAX)
}

/// Whether [`SOME`] wants an event.
pub fn is_change(event: &Event) -> bool {
    event.kind() == "property_changed"
}

/// What an outsider saw of one portal's events, for one destination.
#[derive(Default)]
struct Seen {
    events: u64,
    wanted: u64,
    /// Wanted, and in a message that the destination got.
    out: u64,
    /// Wanted, and neither in a dead letter nor of an erased record.
    sure: u64,
    /// The same, of those that are not wanted.
    surely_unwanted: u64,
    dead: u64,
    erased: u64,
}

/// Everything has ended: each event once, for each destination in one way, and each way no other than can be.
pub fn check(notes: &[Vec<u8>], checks: &Checks, hubspot: &HubSpot) -> Result<(), String> {
    let mut books = Books::new(Millis::default());
    for note in notes {
        books.read(Note::decode(note).map_err(|error| format!("a note: {error}"))?);
    }
    let (accounts, findings) = books.close();
    if let Some(finding) = findings.first() {
        return Err(format!("ledger: {finding}"));
    }
    let mut portals: BTreeMap<&PortalId, Vec<&Event>> = BTreeMap::new();
    for event in checks.accepted.values() {
        portals.entry(&event.portal_id).or_default().push(event);
    }
    let empty = Account::default();
    for (portal_id, events) in &portals {
        let account = accounts.get(*portal_id).unwrap_or(&empty);
        let came = events.len() as u64;
        if (account.ended, account.ended_again, account.open) != (came, 0, 0) {
            return Err(format!(
                "ledger: of {came} events of {portal_id} {} ended, {} again, and {} are open",
                account.ended, account.ended_again, account.open
            ));
        }
        for name in [ALL, SOME, PLAIN] {
            if name == PLAIN && !checks.plain {
                continue;
            }
            let seen = seen(events, name, checks, hubspot);
            let told = account.destinations.get(name).copied().unwrap_or_default();
            check_endings(&seen, told)
                .map_err(|what| format!("ledger: {portal_id}, {name}: {what} in {told:?}"))?;
        }
    }
    let duplicates: u64 = accounts.values().map(|account| account.duplicates).sum();
    let again = checks.acknowledged - checks.acknowledged_ids.len() as u64;
    if !checks.disturbed && !checks.set_aside && duplicates != again {
        return Err(format!(
            "ledger: {duplicates} duplicates, and {again} came again"
        ));
    }
    Ok(())
}

fn seen(events: &[&Event], name: &str, checks: &Checks, hubspot: &HubSpot) -> Seen {
    let mut seen = Seen::default();
    for event in events {
        let is_for = match name {
            PLAIN => event.is_for(Some(PLAIN)) && event.may_go_plain(),
            name => event.is_for(Some(name)),
        };
        let is_wanted = is_for && (name != SOME || is_change(event));
        let is_out = name == PLAIN || checks.out.contains(&*event.known_as());
        let is_dead = checks.dead.contains(&*event.known_as());
        let portal = hubspot.portals.get(&event.portal_id);
        let is_gone = portal.is_some_and(|portal| is_erased(portal, event));
        let is_sure = !is_dead && !is_gone;
        seen.events += 1;
        seen.wanted += u64::from(is_wanted);
        seen.out += u64::from(is_wanted && is_out);
        seen.sure += u64::from(is_wanted && is_sure);
        seen.surely_unwanted += u64::from(!is_wanted && is_sure);
        seen.dead += u64::from(is_dead);
        seen.erased += u64::from(is_gone);
    }
    seen
}

fn check_endings(seen: &Seen, told: Endings) -> Result<(), &'static str> {
    let has = told.delivered + told.merged;
    let holds = [
        (told.sum() == seen.events, "not every event ended once"),
        (has <= seen.out, "more is delivered than lies there"),
        (has >= seen.sure, "less is delivered than must lie there"),
        (
            told.unwanted >= seen.surely_unwanted,
            "too few are unwanted",
        ),
        // Of an erased record nothing may be left to tell.
        (
            told.unwanted <= seen.events - seen.wanted + seen.erased,
            "too many are unwanted",
        ),
        (told.dead <= seen.dead, "more are dead than lie in letters"),
        (
            told.purged <= seen.erased,
            "more are purged than were erased",
        ),
    ];
    let broken = holds.into_iter().find(|(holds, _)| !holds);
    broken.map_or(Ok(()), |(_, what)| Err(what))
}
