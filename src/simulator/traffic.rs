//! Realistic changes at a steady rate, for demonstrations and load: mostly edits of live records, some creations and
//! associations, now and then a deletion or a merge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::change::{Change, ChangeError, EdgeTypes};
use super::portal::{Portal, Shared};
use super::random::Random;
use super::record::Source;
use super::seed;
use super::state::far_future;
use super::types::{COMPANY, CONTACT, DEAL, TICKET, TypeId};
use super::words;

/// The highest rate, in events per second.
pub(crate) const RATE_MAX: f64 = 100_000.0;
const TICK: Duration = Duration::from_millis(20);
const STREAM: u64 = 2;
/// Records that a pick looks at; so the cost of a tick does not grow with the portal.
const PICK_MAX: usize = 1_000;
const EDITED: [TypeId; 4] = [CONTACT, COMPANY, DEAL, TICKET];

/// Makes traffic until the simulator stops.
pub(crate) async fn generate(shared: Arc<Shared>) {
    let mut random = Random::new(shared.seed, STREAM);
    let mut ticks = tokio::time::interval(TICK);
    let (mut owed, mut serial) = (0.0, 500_000);
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let rate = *shared
            .traffic_rate
            .lock()
            .expect("no holder of this lock panics");
        owed += rate * TICK.as_secs_f64();
        // What a slow machine could not make within a second is forgotten.
        owed = f64::min(owed, rate);
        while owed >= 1.0 && !shared.portals.is_empty() {
            let portal = random.pick(&shared.portals);
            serial += 1;
            owed -= made(&shared, portal, &mut random, serial);
        }
    }
}

/// One change; the events it made, at least one so that the loop ends.
fn made(shared: &Shared, portal: &Portal, random: &mut Random, serial: usize) -> f64 {
    let before = portal.lock().outbox.counts.made;
    // A refusal (a value taken, a record just merged away) is part of life.
    _ = change(shared, portal, random, serial);
    let made = portal.lock().outbox.counts.made - before;
    f64::from(u32::try_from(made).unwrap_or(u32::MAX)).max(1.0)
}

fn change(
    shared: &Shared,
    portal: &Portal,
    random: &mut Random,
    serial: usize,
) -> Result<(), ChangeError> {
    let object_type = *random.pick(&EDITED);
    let source = source(random);
    let Some(id) = pick(portal, object_type, random) else {
        return create(shared, portal, object_type, serial, &source);
    };
    let key = (object_type, id);
    let change = match random.below(200) {
        0..=14 => return create(shared, portal, object_type, serial, &source),
        15..=24 => match pick(portal, COMPANY, random) {
            Some(company) => Change::Associate {
                from: key,
                to: (COMPANY, company),
                types: EdgeTypes::new(),
            },
            None => return Ok(()),
        },
        25..=26 => Change::Archive { key },
        27 => match pick(portal, object_type, random).filter(|other| *other != id) {
            Some(other) => Change::Merge {
                object_type,
                primary: id,
                other,
            },
            None => return Ok(()),
        },
        _ => Change::Update {
            key,
            properties: edit(portal, object_type, random),
        },
    };
    shared.apply(portal, change, &source).map(|_| ())
}

fn create(
    shared: &Shared,
    portal: &Portal,
    object_type: TypeId,
    serial: usize,
    source: &Source,
) -> Result<(), ChangeError> {
    let properties = seed::properties(&mut portal.lock().state, object_type, serial);
    shared
        .apply(
            portal,
            Change::Create {
                object_type,
                properties,
            },
            source,
        )
        .map(|_| ())
}

fn edit(portal: &Portal, object_type: TypeId, random: &mut Random) -> BTreeMap<String, String> {
    let owner = seed::owner(&mut portal.lock().state);
    let number = (1 + random.below(99_999)).to_string();
    let (name, value) = match (object_type, random.below(4)) {
        (_, 0) => ("hubspot_owner_id", owner),
        (CONTACT, 1) => (
            "lifecyclestage",
            (*random.pick(&["lead", "opportunity", "customer"])).to_owned(),
        ),
        (CONTACT, 2) => ("city", (*random.pick(&words::CITIES)).to_owned()),
        (CONTACT, _) => ("credit_limit", number),
        (COMPANY, 1) => ("city", (*random.pick(&words::CITIES)).to_owned()),
        (COMPANY, _) => ("numberofemployees", number),
        (DEAL, 1) => ("dealstage", (*random.pick(&words::DEAL_STAGES)).to_owned()),
        (DEAL, _) => ("amount", format!("{number}.50")),
        (_, 1) => (
            "hs_ticket_priority",
            (*random.pick(&["LOW", "MEDIUM", "HIGH"])).to_owned(),
        ),
        _ => ("hs_pipeline_stage", (1 + random.below(4)).to_string()),
    };
    BTreeMap::from([(name.to_owned(), value)])
}

fn pick(portal: &Portal, object_type: TypeId, random: &mut Random) -> Option<u64> {
    let data = portal.lock();
    let live = data
        .state
        .of_type(object_type, 0)
        .filter(|record| record.archived_at(far_future()).is_none());
    let ids: Vec<u64> = live.take(PICK_MAX).map(|record| record.id).collect();
    (!ids.is_empty()).then(|| *random.pick(&ids))
}

fn source(random: &mut Random) -> Source {
    let kinds = [
        ("CRM_UI", Some("userId:75500001")),
        ("CRM_UI", Some("userId:75500003")),
        ("AUTOMATION_PLATFORM", None),
        ("INTEGRATION", Some("39500001")),
        ("FORM", None),
    ];
    let (kind, id) = *random.pick(&kinds);
    Source {
        kind: kind.to_owned(),
        id: id.map(str::to_owned),
    }
}
