//! What people and machines do in HubSpot, and the events that come of it.

use std::collections::BTreeMap;

use crm_relay::event::*;
use crm_relay::hubspot::call::RecordRead;

use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::hubspot::{EMPLOYER, Key, Portal};

/// Makes ids that no other record or event has.
#[derive(Default)]
pub struct Life {
    last_record: u64,
    last_event: u64,
}

impl Life {
    /// Something happens in a portal at `now`, by HubSpot's clock.
    pub fn act(
        &mut self,
        portal_id: &PortalId,
        portal: &mut Portal,
        now: Millis,
        dice: &mut Dice,
        coverage: &mut Coverage,
    ) -> Vec<Event> {
        let at = portal.tick(now, dice.chance(100));
        let there = keys(portal, |record| record.is_some());
        let some = dice.pick(&there).cloned();
        let changes = match (dice.below(100), some) {
            (0..12, _) | (_, None) => vec![self.create(portal, at, dice)],
            (12..16, _) => {
                coverage.note("import");
                let count = dice.between(5, 130);
                (0..count).map(|_| self.create(portal, at, dice)).collect()
            }
            (16..22, Some(key)) => {
                portal.set(key.clone(), at, None);
                coverage.note("deletion");
                vec![(key, ObjectChange::Deleted)]
            }
            (22..28, Some(_)) => restore(portal, at, dice, coverage),
            (28..36, Some(key)) => self.merge(portal, key, &there, at, dice, coverage),
            (36..39, Some(key)) => {
                portal.set(key.clone(), at, None);
                portal.erased.insert(key.clone());
                coverage.note("privacy deletion");
                vec![(key, ObjectChange::PrivacyDeleted)]
            }
            (39..48, Some(key)) => return vec![self.associate(portal_id, portal, key, at, dice)],
            (48..51, Some(_)) => return vec![self.odd(portal_id, at, dice)],
            (_, Some(key)) => {
                let changes = dice.between(1, 3);
                (0..changes)
                    .map(|_| change(portal, &key, at, dice))
                    .collect()
            }
        };
        let bulk = changes.len() > 4;
        let event = |(key, change): (Key, ObjectChange)| {
            let body = EventBody::Object(ObjectEvent {
                object_type_id: key.0,
                object_id: key.1,
                change,
            });
            let change_source = bulk.then(|| "IMPORT".to_owned());
            Event {
                change_source,
                ..self.event(portal_id, at, body)
            }
        };
        changes.into_iter().map(event).collect()
    }

    fn create(&mut self, portal: &mut Portal, at: Millis, dice: &mut Dice) -> (Key, ObjectChange) {
        let of = *dice
            .pick(&["contact", "contact", "contact", "company", "deal"])
            .unwrap_or(&"contact");
        let key = (ObjectTypeId::from_name(of), self.record_id());
        let mut properties = BTreeMap::from([("email".to_owned(), value(dice))]);
        if dice.chance(400) {
            let owner = *dice.pick(&["1", "2", "3", "55", "404"]).unwrap_or(&"1");
            properties.insert("hubspot_owner_id".to_owned(), owner.to_owned());
        }
        if of == "deal" {
            properties.insert("pipeline".to_owned(), "default".to_owned());
        }
        let record = RecordRead {
            id: key.1.clone(),
            properties,
            history: BTreeMap::new(),
            created_at: Some(at),
            updated_at: Some(at),
            archived: false,
        };
        portal.set(key.clone(), at, Some(record));
        (key, ObjectChange::Created)
    }

    /// Either the first record takes in the second, or both become a new one.
    fn merge(
        &mut self,
        portal: &mut Portal,
        first: Key,
        there: &[Key],
        at: Millis,
        dice: &mut Dice,
        coverage: &mut Coverage,
    ) -> Vec<(Key, ObjectChange)> {
        let others: Vec<_> = there
            .iter()
            .filter(|key| key.0 == first.0 && **key != first)
            .cloned()
            .collect();
        let Some(second) = dice.pick(&others).cloned() else {
            return vec![change(portal, &first, at, dice)];
        };
        let new = dice.chance(500);
        let survivor = if new {
            (first.0.clone(), self.record_id())
        } else {
            first.clone()
        };
        let old: Vec<Key> = if new {
            vec![first.clone(), second]
        } else {
            vec![second]
        };
        let chained = old
            .iter()
            .any(|key| portal.merged.values().any(|into| *into == key.1));
        coverage.note(if chained { "merge of a merge" } else { "merge" });
        let properties = portal
            .now_of(&first)
            .map(|record| record.properties.clone());
        for key in &old {
            portal.set(key.clone(), at, None);
            portal.merged.insert(key.clone(), survivor.1.clone());
        }
        let record = RecordRead {
            id: survivor.1.clone(),
            properties: properties.unwrap_or_default(),
            history: BTreeMap::new(),
            created_at: Some(at),
            updated_at: Some(at),
            archived: false,
        };
        portal.set(survivor.clone(), at, Some(record));
        let change = ObjectChange::Merged {
            merged_object_ids: old.into_iter().map(|key| key.1).collect(),
            primary_object_id: Some(first.1),
            new_object_id: new.then(|| survivor.1.clone()),
            number_of_properties_moved: None,
        };
        vec![(survivor, change)]
    }

    fn associate(
        &mut self,
        portal_id: &PortalId,
        portal: &mut Portal,
        key: Key,
        at: Millis,
        dice: &mut Dice,
    ) -> Event {
        let to: ObjectId = dice.between(1, 9).to_string().into();
        portal
            .associated
            .entry(key.clone())
            .or_default()
            .insert(to.clone());
        let body = EventBody::Association(AssociationEvent {
            edge_id: None,
            label: None,
            from_object_type_id: key.0,
            from_object_id: key.1,
            to_object_type_id: ObjectTypeId::from_name("company"),
            to_object_id: to,
            association_type: None,
            association_category: Some("USER_DEFINED".to_owned()),
            association_type_id: Some(EMPLOYER),
            is_primary: false,
            change: AssociationChange::Added,
        });
        self.event(portal_id, at, body)
    }

    /// An event that no record is read for.
    fn odd(&mut self, portal_id: &PortalId, at: Millis, dice: &mut Dice) -> Event {
        let body = if dice.chance(500) {
            let thread_id = dice.between(1, 5).to_string().into();
            EventBody::Conversation(ConversationEvent {
                thread_id,
                change: ConversationChange::Created,
            })
        } else {
            EventBody::Unknown(UnknownEvent {
                object_id: None,
                raw: serde_json::json!({}),
            })
        };
        self.event(portal_id, at, body)
    }

    fn record_id(&mut self) -> ObjectId {
        self.last_record += 1;
        (1_000 + self.last_record).to_string().into()
    }

    fn event(&mut self, portal_id: &PortalId, at: Millis, body: EventBody) -> Event {
        self.last_event += 1;
        let mut hasher = IdentityHasher::new("history");
        hasher.field(&self.last_event.to_string());
        Event {
            id: hasher.finish(),
            portal_id: portal_id.clone(),
            app_id: None,
            subscription_id: None,
            subscription_type: "object.history".to_owned(),
            hubspot_event_id: None,
            occurred_at: at,
            received_at: at,
            attempt_number: 0,
            change_source: None,
            source_id: None,
            value: None,
            replay: None,
            body,
        }
    }
}

fn keys(portal: &Portal, wanted: impl Fn(Option<&RecordRead>) -> bool) -> Vec<Key> {
    let keys = portal
        .records
        .keys()
        .filter(|key| wanted(portal.now_of(key)));
    keys.cloned().collect()
}

fn value(dice: &mut Dice) -> String {
    format!("v{}", dice.below(6))
}

/// A property of a record gets a new value.
fn change(portal: &mut Portal, key: &Key, at: Millis, dice: &mut Dice) -> (Key, ObjectChange) {
    let property_name = *dice.pick(&["email", "email", "phone"]).unwrap_or(&"email");
    let property_value = value(dice);
    if let Some(mut record) = portal.now_of(key).cloned() {
        record
            .properties
            .insert(property_name.to_owned(), property_value.clone());
        record.updated_at = Some(at);
        portal.set(key.clone(), at, Some(record));
    }
    let change = ObjectChange::PropertyChanged {
        property_name: property_name.to_owned(),
        property_value: Some(property_value),
        is_sensitive: false,
    };
    (key.clone(), change)
}

/// A deleted record comes back as it was, if there is one.
fn restore(
    portal: &mut Portal,
    at: Millis,
    dice: &mut Dice,
    coverage: &mut Coverage,
) -> Vec<(Key, ObjectChange)> {
    let gone = keys(portal, |record| record.is_none());
    let in_bin = |key: &&Key| !portal.merged.contains_key(*key) && !portal.erased.contains(*key);
    let gone: Vec<_> = gone.iter().filter(in_bin).cloned().collect();
    let Some(key) = dice.pick(&gone).cloned() else {
        return Vec::new();
    };
    let states = portal.records.get(&key).into_iter().flatten();
    let Some(mut record) = states.rev().find_map(|state| state.record.clone()) else {
        return Vec::new();
    };
    coverage.note("restored record");
    record.updated_at = Some(at);
    portal.set(key.clone(), at, Some(record));
    vec![(key, ObjectChange::Restored)]
}
