//! What portals cost in memory: each had one change, and has nothing to do any more.
//!
//! The engines of a worker's partitions, fed as their shells would, all at one moment: nothing but the engines takes memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crm_relay::enrich::{
    Copied, DeliveryId, Ending, Engine, Input, Output, Plans, Published, Source,
};
use crm_relay::event::{
    Event, EventBody, IdentityHasher, Millis, ObjectChange, ObjectEvent, ObjectTypeId, Owner,
};
use crm_relay::hubspot::call::{
    Answer, Answered, Call, PropertyDefinition, RateLimits, RecordRead,
};

use crate::Plan;
use crate::process::memory_mb;
use crate::report::{Row, Table};

pub const TITLE: &str = "Idle portals";
const PORTALS: usize = 10_000;
const QUICK_PORTALS: usize = 1_000;
const PARTITIONS: usize = 16;
/// Properties of a contact that HubSpot defines in every portal; one in four is a selection of ten.
const COMMON_PROPERTIES: usize = 400;
/// Properties of its own that a portal defines.
const OWN_PROPERTIES: usize = 20;
const OPTIONS: usize = 10;
const OWNERS: usize = 20;
/// After so long an idle portal is dropped for sure.
const IDLE: Duration = Duration::from_secs(3_600);
/// How often what is measured in time is done.
const TIMES: u32 = 100;
const WARM: &str = "MB with their definitions";
const EACH: &str = "KB each";
const DROPPED: &str = "MB when idle for an hour";
const OTHERS: &str = "MB with as many others then";
const TICK: &str = "tick of an engine, µs";
const STATS: &str = "its figures, µs";

/// One worker's engines, and the time.
struct Worker {
    engines: Vec<Engine>,
    now: Millis,
    deliveries: u64,
}

pub fn measure(plan: &Plan) -> Table {
    let portals = if plan.rounds > 1 {
        PORTALS
    } else {
        QUICK_PORTALS
    };
    let mut row = Row::new(format!("{portals} portals"));
    let before = memory_mb(std::process::id());
    let mut worker = Worker::new();
    for portal in 0..portals {
        worker.change(portal);
    }
    let warm = memory_mb(std::process::id()) - before;
    let tick = worker.time(|engine, now| drop(engine.handle(now, Input::Tick)));
    let stats = worker.time(|engine, now| _ = engine.stats(now));
    worker.now = worker.now.after(IDLE);
    for _ in 0..2 {
        worker.now = worker.now.after(IDLE);
        worker.time(|engine, now| drop(engine.handle(now, Input::Tick)));
    }
    let dropped = memory_mb(std::process::id()) - before;
    for portal in portals..2 * portals {
        worker.change(portal);
    }
    let others = memory_mb(std::process::id()) - before;
    row.push([
        (WARM, warm),
        (EACH, warm * 1_000.0 / portals as f64),
        (DROPPED, dropped),
        (OTHERS, others),
        (TICK, tick),
        (STATS, stats),
    ]);
    Table {
        title: TITLE,
        note: format!(
            "The {PARTITIONS} engines of a worker in this process; what the process holds, without what it held before. Each \
             portal had one change of a contact, with {COMMON_PROPERTIES} properties as every portal has and {OWN_PROPERTIES} of its \
             own, and {OWNERS} owners. What was freed may stay with the process, as the allocator likes; then other portals get it."
        ),
        columns: vec![WARM, EACH, DROPPED, OTHERS, TICK, STATS],
        rows: vec![row],
    }
}

impl Worker {
    fn new() -> Self {
        let engine = |partition| Engine::new(Plans::default(), partition);
        Self {
            engines: (0..PARTITIONS as u64).map(engine).collect(),
            now: Millis::new(1_763_892_000_000).unwrap_or_default(),
            deliveries: 0,
        }
    }

    /// A contact of `portal` changes, and all that follows.
    fn change(&mut self, portal: usize) {
        self.deliveries += 1;
        let engine = &mut self.engines[portal % PARTITIONS];
        let mut inputs = vec![Input::Batch {
            delivery: DeliveryId(self.deliveries),
            events: vec![event(portal, self.now)],
            from: Source::Intake,
        }];
        let mut ended = false;
        while let Some(input) = inputs.pop() {
            for output in engine.handle(self.now, input) {
                match output {
                    Output::Call { call_id, call, .. } => inputs.push(Input::Answered {
                        call: call_id,
                        answered: answer(&call, portal, self.now),
                    }),
                    Output::Publish { publish, event } => {
                        let listed = event.data.events.iter().map(|event| event.id.clone());
                        let copy = Copied {
                            destination: 0,
                            listed: listed.collect(),
                            is_dead: false,
                        };
                        let outcome = Published::Copies(vec![copy]);
                        inputs.push(Input::Published { publish, outcome });
                    }
                    Output::Note { id, .. } => inputs.push(Input::Noted(id)),
                    Output::Ended(Ending::Delivered) => ended = true,
                    Output::Ack(_) => {}
                    other => panic!("unexpected: {other:?}"),
                }
            }
        }
        assert!(ended, "the change of {portal} was delivered");
    }

    /// How long something takes an engine, in µs.
    fn time(&mut self, mut act: impl FnMut(&mut Engine, Millis)) -> f64 {
        let begun = Instant::now();
        for _ in 0..TIMES {
            let now = self.now;
            self.engines.iter_mut().for_each(|engine| act(engine, now));
        }
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES) / PARTITIONS as f64
    }
}

fn event(portal: usize, now: Millis) -> Event {
    let mut hasher = IdentityHasher::new("bench");
    hasher.field(&portal.to_string());
    Event {
        id: hasher.finish(),
        portal_id: portal_id(portal).into(),
        app_id: None,
        subscription_id: None,
        subscription_type: "object.creation".into(),
        hubspot_event_id: None,
        occurred_at: now,
        received_at: now,
        attempt_number: 0,
        change_source: None,
        source_id: None,
        value: None,
        replay: None,
        body: EventBody::Object(ObjectEvent {
            object_type_id: ObjectTypeId::from_name("contact"),
            object_id: "1".into(),
            change: ObjectChange::Created,
        }),
    }
}

fn portal_id(portal: usize) -> String {
    (100_000_000 + portal).to_string()
}

fn answer(call: &Call, portal: usize, now: Millis) -> Answered {
    let result = match call {
        Call::ListProperties { .. } => Answer::Properties(definitions(portal)),
        Call::ReadRecords { .. } => Answer::Records {
            records: vec![RecordRead {
                id: "1".into(),
                properties: BTreeMap::from([("hubspot_owner_id".to_owned(), "0".to_owned())]),
                created_at: Some(now),
                updated_at: Some(now),
                archived: false,
                history: BTreeMap::new(),
            }],
            completed_at: now,
        },
        Call::ListOwners { archived, .. } => Answer::Owners {
            owners: (0..OWNERS).filter(|_| !archived).map(owner).collect(),
            after: None,
        },
        other => panic!("unexpected: {other:?}"),
    };
    let limits = RateLimits {
        max: Some(190),
        remaining: Some(180),
        interval: Some(Duration::from_secs(10)),
        daily_max: Some(625_000),
        daily_remaining: Some(600_000),
    };
    Answered {
        result: Ok(result),
        limits,
    }
}

fn definitions(portal: usize) -> Vec<PropertyDefinition> {
    let common = (0..COMMON_PROPERTIES).map(|n| definition(format!("hs_common_property_{n}"), n));
    let own = (0..OWN_PROPERTIES).map(|n| definition(format!("property_{n}_of_{portal}"), n));
    let owner = PropertyDefinition {
        referenced_object_type: Some("OWNER".to_owned()),
        ..definition("hubspot_owner_id".to_owned(), 1)
    };
    common.chain(own).chain([owner]).collect()
}

fn definition(name: String, n: usize) -> PropertyDefinition {
    let is_selection = n.is_multiple_of(4);
    let option = |option| (format!("option_{option}"), format!("Option {option}"));
    PropertyDefinition {
        hubspot_defined: name.starts_with("hs_"),
        name,
        value_type: if is_selection {
            "enumeration"
        } else {
            "string"
        }
        .to_owned(),
        field_type: if is_selection { "select" } else { "text" }.to_owned(),
        options: (0..OPTIONS).filter(|_| is_selection).map(option).collect(),
        ..PropertyDefinition::default()
    }
}

fn owner(n: usize) -> Owner {
    Owner {
        id: n.to_string().into(),
        email: Some(format!("somebody.{n}@example.com")),
        name: Some(format!("Somebody {n}")),
        user_id: Some(n.to_string()),
        r#type: Some("PERSON".into()),
        archived: false,
        teams: Vec::new(),
    }
}
