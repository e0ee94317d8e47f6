//! A model of HubSpot's API: what it holds, what it answers, and what it counts. It keeps the past of every
//! record, to answer with what was true a moment ago, and to tell later whether an answer was ever true.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crm_relay::event::{AssociationLabel, Millis, ObjectId, ObjectTypeId, Owner, PortalId};
use crm_relay::hubspot::call::*;

use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::weather::Weather;

pub type Key = (ObjectTypeId, ObjectId);

const INTERVAL: Duration = Duration::from_secs(10);
const PAGE: usize = 2;
/// A user-defined association type.
pub const EMPLOYER: u64 = 28;

/// A record from a moment on: `None` when it is gone.
#[derive(Clone)]
pub struct State {
    pub since: Millis,
    pub record: Option<RecordRead>,
}

#[derive(Default)]
pub struct Portal {
    pub records: BTreeMap<Key, Vec<State>>,
    pub merged: BTreeMap<Key, ObjectId>,
    /// Deleted for privacy.
    pub erased: BTreeSet<Key>,
    pub associated: BTreeMap<Key, BTreeSet<ObjectId>>,
    pub poison: Option<ObjectId>,
    pub max: u32,
    /// Calls of others in each window, at an even pace.
    pub others: u32,
    /// The token HubSpot takes; the relay's is an older one after a change.
    pub token: u64,
    pub token_of_relay: u64,
    /// Until then no token is good.
    pub revoked_until: Option<Millis>,
    arrivals: BTreeMap<bool, VecDeque<(Millis, u64)>>,
    last: Millis,
}

pub struct HubSpot {
    pub portals: BTreeMap<PortalId, Portal>,
}

/// A call on its way, of the relay's `life`th life.
pub struct Arriving<'a> {
    pub portal_id: &'a PortalId,
    pub call: &'a Call,
    pub life: u64,
    /// The most calls of ours in a window.
    pub ours_max: u32,
}

impl Portal {
    /// HubSpot's clock, which gives no time twice.
    pub fn tick(&mut self, now: Millis, may_repeat: bool) -> Millis {
        let next = self
            .last
            .after(Duration::from_millis(u64::from(!may_repeat)));
        self.last = next.max(now);
        self.last
    }

    pub fn now_of(&self, key: &Key) -> Option<&RecordRead> {
        self.records.get(key)?.last()?.record.as_ref()
    }

    pub fn set(&mut self, key: Key, at: Millis, record: Option<RecordRead>) {
        let states = self.records.entry(key).or_default();
        states.push(State { since: at, record });
    }

    fn as_of(&self, key: &Key, at: Millis) -> Option<RecordRead> {
        let states = self.records.get(key)?;
        states
            .iter()
            .rev()
            .find(|state| state.since <= at)?
            .record
            .clone()
    }

    pub fn survivor(&self, key: &Key) -> Key {
        let mut key = key.clone();
        while let Some(survivor) = self.merged.get(&key) {
            key.1 = survivor.clone();
        }
        key
    }

    /// Whether the record was there, all the time since `from`.
    pub fn was_there_since(&self, key: &Key, from: Millis) -> bool {
        let Some(states) = self.records.get(key) else {
            return false;
        };
        let recent = states.iter().filter(|state| state.since >= from);
        let before = states.iter().rev().find(|state| state.since < from);
        before.is_some_and(|state| state.record.is_some())
            && recent.clone().all(|s| s.record.is_some())
    }

    /// Whether `record` is what HubSpot held at some time.
    pub fn ever_held(&self, key: &Key, updated_at: Option<Millis>, email: Option<&str>) -> bool {
        self.records.get(key).is_some_and(|states| {
            states
                .iter()
                .filter_map(|state| state.record.as_ref())
                .any(|record| {
                    record.updated_at == updated_at
                        && record.properties.get("email").map(String::as_str) == email
                })
        })
    }

    /// Counts a call. Whether it fits the limit, and whether it was ours alone that filled it.
    fn count(&mut self, class: LimitClass, life: u64, now: Millis) -> (bool, RateLimits, usize) {
        let window = self
            .arrivals
            .entry(class == LimitClass::Associations)
            .or_default();
        while window
            .front()
            .is_some_and(|(at, _)| now.since(*at) >= INTERVAL)
        {
            window.pop_front();
        }
        let ours = window.iter().filter(|(_, of)| *of == life).count();
        let others = if class == LimitClass::Burst {
            self.others
        } else {
            0
        };
        let used = u32::try_from(window.len()).unwrap_or(u32::MAX) + others;
        let fits = used < self.max;
        if fits {
            window.push_back((now, life));
        }
        let limits = RateLimits {
            max: Some(self.max),
            remaining: Some(self.max.saturating_sub(used + 1)),
            interval: Some(INTERVAL),
            ..RateLimits::default()
        };
        (fits, limits, ours)
    }
}

impl HubSpot {
    /// Answers a call that arrives now.
    ///
    /// # Errors
    /// When the call breaks a limit or a rule that we must keep.
    pub fn answer(
        &mut self,
        arriving: &Arriving<'_>,
        now: Millis,
        weather: &Weather,
        dice: &mut Dice,
        coverage: &mut Coverage,
    ) -> Result<Answered, String> {
        let Arriving {
            portal_id,
            call,
            life,
            ours_max,
        } = *arriving;
        let portal = self
            .portals
            .get_mut(portal_id)
            .ok_or("a call for an unknown portal")?;
        check_size(call)?;
        let (fits, limits, ours) = portal.count(call.limit_class(), life, now);
        if ours >= ours_max as usize {
            return Err(format!(
                "{ours} calls in one window were ours, and {ours_max} may be"
            ));
        }
        let result = if fits {
            match fault(portal, call, now, weather, dice) {
                Some(error) => Err(error),
                None => {
                    let stale = dice.chance(weather.stale);
                    coverage.note_if(stale, "stale read");
                    let lag = if stale {
                        dice.millis(100, 8_000)
                    } else {
                        Duration::ZERO
                    };
                    let ahead = Duration::from_millis(weather.clock_ahead_ms);
                    portal.truth(call, now.after(ahead), lag)
                }
            }
        } else {
            Err(CallError::RateLimited {
                policy: RateLimitPolicy::TenSecondly,
                retry_after: None,
            })
        };
        if let Err(error) = &result {
            coverage.note(word(error));
        }
        Ok(Answered { result, limits })
    }
}

impl Portal {
    fn truth(&self, call: &Call, now: Millis, lag: Duration) -> Result<Answer, CallError> {
        let seen_at =
            Millis::new(now.as_i64() - i64::try_from(lag.as_millis()).unwrap_or(0)).unwrap_or(now);
        Ok(match call {
            Call::ReadRecords {
                object_type_id,
                ids,
                ..
            } => {
                if self
                    .poison
                    .as_ref()
                    .is_some_and(|poison| ids.contains(poison))
                {
                    return Err(CallError::Refused {
                        status: 400,
                        category: None,
                    });
                }
                let read =
                    |id: &ObjectId| self.as_of(&(object_type_id.clone(), id.clone()), seen_at);
                let records = ids.iter().rev().filter_map(read).collect();
                Answer::Records {
                    records,
                    completed_at: now,
                }
            }
            Call::ReadRecord {
                object_type_id, id, ..
            } => {
                let key = self.survivor(&(object_type_id.clone(), id.clone()));
                Answer::Record {
                    record: self.as_of(&key, seen_at),
                    completed_at: now,
                }
            }
            Call::ReadAssociations { from, inputs, .. } => Answer::Associations(
                inputs
                    .iter()
                    .filter_map(|input| self.page(from, input))
                    .collect(),
            ),
            Call::ListOwners { archived, after } => Answer::Owners {
                owners: vec![owner(if *archived {
                    "3"
                } else if after.is_some() {
                    "2"
                } else {
                    "1"
                })],
                after: (!archived && after.is_none()).then(|| "2".to_owned()),
            },
            Call::ReadOwner { id, archived } => {
                Answer::Owner((id.as_str() == "55" && *archived).then(|| owner("55")))
            }
            Call::ListProperties { .. } => {
                let names =
                    ["email", "phone", "pipeline", "dealstage"].map(|name| definition(name, None));
                Answer::Properties(
                    names
                        .into_iter()
                        .chain([definition("hubspot_owner_id", Some("OWNER"))])
                        .collect(),
                )
            }
            Call::ListPipelines { .. } => Answer::Pipelines(Vec::new()),
            Call::ListSchemas => Answer::Schemas(BTreeMap::new()),
            Call::ReadFile { .. } => Answer::File(None),
            Call::SignFile { .. } => Answer::SignedUrl(None),
            Call::ReadThread { .. } => Answer::Thread {
                thread: None,
                completed_at: now,
            },
            Call::ReadMessage { .. } => Answer::Message(None),
            Call::ReadActors { .. } => Answer::Actors(Vec::new()),
            Call::ListAssociationLabels { .. } => {
                Answer::AssociationLabels(vec![AssociationLabel {
                    category: "USER_DEFINED".to_owned(),
                    type_id: EMPLOYER,
                    label: Some("Employer".to_owned()),
                }])
            }
        })
    }

    fn page(&self, from: &ObjectTypeId, input: &AssociationInput) -> Option<AssociationPage> {
        let all = self.associated.get(&(from.clone(), input.id.clone()))?;
        let begin: usize = input
            .after
            .as_deref()
            .map_or(0, |after| after.parse().unwrap_or(0));
        let to = all
            .iter()
            .skip(begin)
            .take(PAGE)
            .map(|id| (id.clone(), Vec::new()))
            .collect();
        let after = (all.len() > begin + PAGE).then(|| (begin + PAGE).to_string());
        Some(AssociationPage {
            from: input.id.clone(),
            to,
            after,
        })
    }
}

fn check_size(call: &Call) -> Result<(), String> {
    let (count, distinct, max) = match call {
        Call::ReadRecords {
            ids,
            properties_with_history,
            ..
        } => (
            ids.len(),
            ids.iter().collect::<BTreeSet<_>>().len(),
            if properties_with_history.is_empty() {
                READ_RECORDS_MAX
            } else {
                READ_RECORDS_WITH_HISTORY_MAX
            },
        ),
        Call::ReadAssociations { inputs, .. } => {
            let ids: BTreeSet<_> = inputs.iter().map(|input| &input.id).collect();
            (inputs.len(), ids.len(), READ_ASSOCIATIONS_MAX)
        }
        _ => (1, 1, 1),
    };
    if count == 0 || count > max || distinct < count {
        return Err(format!(
            "{} names {count} records, {distinct} of them distinct",
            call.endpoint()
        ));
    }
    Ok(())
}

fn fault(
    portal: &mut Portal,
    call: &Call,
    now: Millis,
    weather: &Weather,
    dice: &mut Dice,
) -> Option<CallError> {
    if portal.revoked_until.is_some_and(|until| until <= now) {
        portal.revoked_until = None;
        portal.token += 1;
    }
    if portal.revoked_until.is_none() && dice.chance(weather.revoked) {
        let longest = *dice.pick(&[1, 400_000]).unwrap_or(&1);
        portal.revoked_until = Some(now.after(dice.millis(0, longest)));
    }
    if let Some(until) = portal.revoked_until.filter(|until| until.as_i64() % 2 == 0) {
        return Some(CallError::Parked(format!("until {until}")));
    }
    if portal.revoked_until.is_some() || portal.token != portal.token_of_relay {
        return Some(CallError::Unauthorized);
    }
    let retry_after = dice.chance(500).then(|| dice.millis(0, 5_000));
    let faults = [
        (
            weather.limited,
            CallError::RateLimited {
                policy: RateLimitPolicy::Secondly,
                retry_after,
            },
        ),
        (
            weather.locked,
            CallError::Locked {
                status: if dice.chance(500) { 423 } else { 477 },
                retry_after,
            },
        ),
        (weather.unavailable, CallError::Unavailable { status: 502 }),
        (weather.timed_out, CallError::TimedOut),
        (weather.disconnected, CallError::Disconnected),
        (
            weather.unreadable,
            CallError::Unreadable {
                reason: "half a body".to_owned(),
            },
        ),
    ];
    let forbidden = dice.chance(weather.forbidden) && !matches!(call, Call::ReadRecord { .. });
    let drawn = faults
        .into_iter()
        .find(|(rate, _)| dice.chance(*rate))
        .map(|(_, error)| error);
    drawn.or_else(|| {
        forbidden.then(|| CallError::Forbidden {
            missing_scopes: Vec::new(),
        })
    })
}

fn word(error: &CallError) -> &'static str {
    match error {
        CallError::Unauthorized => "401",
        CallError::Forbidden { .. } => "403",
        CallError::RateLimited {
            policy: RateLimitPolicy::TenSecondly,
            ..
        } => "429 for others' calls",
        CallError::RateLimited { .. } => "429 of another policy",
        CallError::Locked { status: 423, .. } => "423",
        CallError::Locked { .. } => "477",
        CallError::Unavailable { .. } => "5xx",
        CallError::TimedOut => "time-out",
        CallError::Disconnected => "connection lost",
        CallError::Unreadable { .. } => "unreadable answer",
        CallError::Refused { .. } => "400 for a batch",
        CallError::NoToken => "no token",
        CallError::Paused => "portal paused",
        CallError::Parked(_) => "portal parked",
    }
}

fn owner(id: &str) -> Owner {
    Owner {
        id: id.into(),
        email: Some(format!("{id}@example.com")),
        name: None,
        user_id: None,
        r#type: Some("PERSON".to_owned()),
        archived: false,
        teams: Vec::new(),
    }
}

fn definition(name: &str, references: Option<&str>) -> PropertyDefinition {
    PropertyDefinition {
        name: name.to_owned(),
        value_type: "string".to_owned(),
        field_type: "text".to_owned(),
        referenced_object_type: references.map(str::to_owned),
        hubspot_defined: true,
        ..PropertyDefinition::default()
    }
}
