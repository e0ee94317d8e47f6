//! Reads everything that comes out, as a consumer would, and holds it against the ledger.
//!
//! It knows the messages from their description alone and shares no code with the relay. The value of the property that
//! changes is the number of the notification that told of it, so a record's state says what it contains.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde::Deserialize;
use serde_json::Value;

use super::cluster::Cluster;
use super::deployment::Deployment;
use super::ledger::{Destination, Ledger};

const PREFETCH: u16 = 500;
/// A queue from which nothing comes for so long may have lost its node: consume it anew.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const RECONNECT_AFTER: Duration = Duration::from_millis(300);
/// The object type of contacts.
const CONTACT: &str = "0-1";
/// Violations that are told in full; all are counted.
const TOLD_MAX: usize = 20;

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub messages: u64,
    /// Events that came to a destination again: the same id twice.
    pub repeats: u64,
    /// Messages that the broker gave us again, since we had not acknowledged them.
    pub redelivered: u64,
    /// Messages whose version tells that they are older than what came before.
    pub backwards: u64,
    /// Messages that say that they are stale.
    pub stale: u64,
    /// Messages that a record is gone, by why.
    pub tombstones: BTreeMap<String, u64>,
    /// Notifications that became dead letters, by stage and reason.
    pub dead: BTreeMap<String, u64>,
    /// Promises broken: a version that does not tell disorder, a state older than its events without a word, an event
    /// that nobody sent, a message that cannot be read.
    pub violations: u64,
    pub told: Vec<String>,
}

impl Findings {
    fn violation(&mut self, what: String) {
        self.violations += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(what);
        }
    }
}

/// Consumes every queue until it is dropped with the runtime.
pub struct Checker {
    ledger: Arc<Ledger>,
    cluster: Arc<Cluster>,
    findings: Mutex<Findings>,
    /// By destination.
    paused: [AtomicBool; 3],
}

/// The newest state of a record that a destination has.
#[derive(Default)]
struct Newest {
    version: String,
    /// The number that the record held.
    value: u64,
    /// It was deleted, and nothing brings it back.
    gone: bool,
    /// The newest message said that it knows nothing.
    unknown: bool,
}

/// By portal and subject.
type Records = HashMap<(u64, String), Newest>;

#[derive(Deserialize)]
struct Enriched {
    subject: String,
    data: EnrichedData,
}

#[derive(Deserialize)]
struct EnrichedData {
    portal_id: String,
    object_id: String,
    version: String,
    events: Vec<Told>,
    record: Option<Record>,
    associations: Associations,
    tombstone: Option<Tombstone>,
    enrichment: Enrichment,
}

#[derive(Deserialize)]
struct Told {
    hubspot_event_id: Option<String>,
    kind: String,
    from_object_type_id: Option<String>,
    from_object_id: Option<String>,
    to_object_id: Option<String>,
}

#[derive(Deserialize)]
struct Associations {
    #[serde(default)]
    company: Vec<Associated>,
}

#[derive(Deserialize)]
struct Associated {
    id: String,
}

#[derive(Deserialize)]
struct Tombstone {
    reason: String,
}

#[derive(Deserialize)]
struct Record {
    properties: Properties,
    archived: bool,
}

/// Named as [`super::people::PROPERTY`].
#[derive(Deserialize)]
struct Properties {
    #[serde(default)]
    credit_limit: Option<u64>,
}

#[derive(Deserialize)]
struct Enrichment {
    status: String,
}

#[derive(Deserialize)]
struct Plain {
    data: Told,
}

impl Checker {
    /// Begins to consume.
    pub fn start(cluster: Arc<Cluster>, ledger: Arc<Ledger>) -> Arc<Self> {
        let checker = Arc::new(Self {
            ledger,
            cluster,
            findings: Mutex::default(),
            paused: [const { AtomicBool::new(false) }; 3],
        });
        for destination in Destination::EACH {
            tokio::spawn(Arc::clone(&checker).consume(Some(destination)));
        }
        tokio::spawn(Arc::clone(&checker).consume(None));
        checker
    }

    /// What was seen so far.
    pub fn findings(&self) -> Findings {
        self.findings.lock().unwrap().clone()
    }

    /// Leaves a destination's messages where they are, or takes them again.
    pub fn pause(&self, destination: Destination, paused: bool) {
        self.paused[destination as usize].store(paused, Ordering::Relaxed);
    }

    fn is_paused(&self, destination: Option<Destination>) -> bool {
        destination.is_some_and(|one| self.paused[one as usize].load(Ordering::Relaxed))
    }

    /// A destination's queue, or that of the dead letters.
    async fn consume(self: Arc<Self>, destination: Option<Destination>) {
        let mut records = Records::new();
        let mut turn = destination.map_or(3, |one| one as usize);
        loop {
            if !self.is_paused(destination) {
                // Whatever ended the session, the next one begins where it was.
                let _ = self.session(destination, &mut records, turn).await;
            }
            turn += 1;
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    async fn session(
        &self,
        destination: Option<Destination>,
        records: &mut Records,
        turn: usize,
    ) -> lapin::Result<()> {
        let living = self.cluster.living();
        let Some(address) = living.get(turn % living.len().max(1)) else {
            return Ok(());
        };
        let url = Cluster::url(*address);
        let begin = async {
            let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel
                .basic_qos(PREFETCH, BasicQosOptions::default())
                .await?;
            let queue = destination.map_or_else(Deployment::dead_letters, Deployment::destination);
            let options = BasicConsumeOptions::default();
            let consumer =
                channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
            lapin::Result::Ok((connection, consumer.await?))
        };
        let Ok(begun) = tokio::time::timeout(SILENCE_MAX, begin).await else {
            return Ok(());
        };
        let (_connection, mut consumer) = begun?;
        while !self.is_paused(destination)
            && let Ok(Some(delivery)) = tokio::time::timeout(SILENCE_MAX, consumer.next()).await
        {
            let delivery = delivery?;
            self.look(destination, &delivery, records);
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    fn look(&self, destination: Option<Destination>, delivery: &Delivery, records: &mut Records) {
        let findings = &mut *self.findings.lock().unwrap();
        findings.messages += 1;
        let looked = match destination {
            None => self.dead_letter(&delivery.data, findings),
            Some(Destination::Plain) => self.plain(delivery, findings),
            Some(one) => self.enriched(one, delivery, records, findings),
        };
        if let Err(error) = looked {
            let queue = destination.map_or("dead letters", Destination::name);
            findings.violation(format!("a message on {queue} cannot be read: {error}"));
        }
    }

    fn plain(&self, delivery: &Delivery, findings: &mut Findings) -> Result<(), serde_json::Error> {
        let message: Plain = serde_json::from_slice(&delivery.data)?;
        self.came(Destination::Plain, &[message.data], delivery, findings);
        Ok(())
    }

    /// Notes the events of a message; whether it is one that the broker gave us before.
    fn came(
        &self,
        destination: Destination,
        events: &[Told],
        delivery: &Delivery,
        findings: &mut Findings,
    ) -> bool {
        let came = events.iter().map(|event| {
            let number = event.number()?;
            self.ledger.came(number, destination)
        });
        let came: Vec<_> = came.collect();
        if delivery.redelivered && came.iter().all(|came| *came == Some(true)) {
            findings.redelivered += 1;
            return true;
        }
        for again in came {
            match again {
                Some(again) => findings.repeats += u64::from(again),
                None => findings.violation("an event that nobody sent".to_owned()),
            }
        }
        false
    }

    fn enriched(
        &self,
        destination: Destination,
        delivery: &Delivery,
        records: &mut Records,
        findings: &mut Findings,
    ) -> Result<(), serde_json::Error> {
        let message: Enriched = serde_json::from_slice(&delivery.data)?;
        let data = message.data;
        let portal = number(&data.portal_id);
        let reason = data.tombstone.as_ref().map(|one| one.reason.as_str());
        if let Some(reason) = reason {
            *findings.tombstones.entry(reason.to_owned()).or_default() += 1;
        }
        if reason == Some("merged") {
            // One notification of a merge is told of three records, and counts with the survivor.
            self.ledger
                .told_merged_away(portal, number(&data.object_id), destination);
        } else if self.came(destination, &data.events, delivery, findings) {
            return Ok(());
        }
        let status = data.enrichment.status.as_str();
        let is_stale = status == "stale";
        findings.stale += u64::from(is_stale);
        let state = State::of(&data);
        if let State::Holds(value) = state
            && !is_stale
            && let Some(newest) = data.events.iter().filter_map(Told::value).max()
            && value < newest
        {
            findings.violation(format!(
                "{} of portal {} holds {value}, but tells of {newest}, and is not marked as stale",
                message.subject, data.portal_id
            ));
        }
        if state == State::Unsaid {
            findings.violation(format!(
                "{}: no record, and status {status}",
                message.subject
            ));
        }
        let contradicts = |event: &&Told| contradicts(&self.ledger, portal, &data, event);
        if status == "complete"
            && let State::Holds(_) = state
            && let Some(event) = data.events.iter().find(contradicts)
        {
            findings.violation(format!(
                "{} of portal {portal} tells of {}, {:?}, and shows otherwise",
                message.subject, event.kind, event.hubspot_event_id
            ));
        }
        let record = records
            .entry((portal, message.subject.clone()))
            .or_default();
        let newest = record.version.clone();
        let disorder = record.take(&data.version, &state, is_stale);
        match disorder {
            Disorder::None => {}
            Disorder::Told => findings.backwards += 1,
            Disorder::Hidden(what) => findings.violation(format!(
                "{} of portal {} at {destination:?}: {what}; {}, {status}, after {newest}",
                message.subject, data.portal_id, data.version
            )),
        }
        Ok(())
    }

    fn dead_letter(&self, body: &[u8], findings: &mut Findings) -> Result<(), serde_json::Error> {
        let letter: Value = serde_json::from_slice(body)?;
        let text = |name: &str| letter[name].as_str().unwrap_or("broker");
        let reason = format!("{}.{}", text("stage"), text("reason"));
        let destination = letter["destination"].as_str().map(Destination::named);
        let mut numbers = Vec::new();
        numbers_in(&letter, &mut numbers);
        if numbers.is_empty() {
            findings.violation(format!("a dead letter {reason} without events"));
        }
        *findings.dead.entry(reason).or_default() += numbers.len() as u64;
        for number in numbers {
            self.ledger.died(number, destination.flatten());
        }
        Ok(())
    }
}

impl Told {
    fn number(&self) -> Option<u64> {
        self.hubspot_event_id.as_deref()?.parse().ok()
    }

    /// The value that the record has since this event.
    fn value(&self) -> Option<u64> {
        matches!(
            self.kind.as_str(),
            "property_changed" | "created" | "merged"
        )
        .then(|| self.number())
        .flatten()
    }
}

/// What a message says of its record.
#[derive(PartialEq, Eq)]
enum State {
    Holds(u64),
    /// It is deleted.
    Gone,
    /// It says that it knows nothing.
    Unknown,
    /// It says nothing, and not that it does.
    Unsaid,
}

impl State {
    fn of(data: &EnrichedData) -> Self {
        match (&data.record, &data.tombstone) {
            (_, Some(_)) => Self::Gone,
            (Some(record), None) if record.archived => Self::Gone,
            (Some(record), None) => Self::Holds(record.properties.credit_limit.unwrap_or(0)),
            (None, None) if matches!(data.enrichment.status.as_str(), "missing" | "forbidden") => {
                Self::Unknown
            }
            (None, None) => Self::Unsaid,
        }
    }
}

/// Whether a contact's state is without the change of an association after which there was no other.
fn contradicts(ledger: &Ledger, portal: u64, data: &EnrichedData, event: &Told) -> bool {
    let is_contacts = event.from_object_type_id.as_deref() == Some(CONTACT);
    let ends = event
        .from_object_id
        .as_ref()
        .zip(event.to_object_id.as_ref());
    let (true, Some((contact, company))) = (is_contacts, ends) else {
        return false;
    };
    let last = ledger.last_change((portal, number(contact), number(company)));
    let mut shown = data.associations.company.iter();
    let is_shown = shown.any(|one| one.id == *company);
    last.is_some_and(|(last, is_there)| Some(last) == event.number() && is_there != is_shown)
}

/// Whether a message came in its turn.
enum Disorder {
    None,
    /// Its version says that it did not.
    Told,
    /// Its version says that it did, and its state that it did not.
    Hidden(String),
}

impl Newest {
    /// Takes in a message as a consumer would that goes by versions.
    fn take(&mut self, version: &str, state: &State, is_stale: bool) -> Disorder {
        let older = *version < *self.version;
        let hidden = match *state {
            State::Unknown | State::Unsaid => None,
            _ if is_stale => None,
            State::Holds(value) if older => (value > self.value && !self.gone && !self.unknown)
                .then(|| format!("{value} comes with a lower version than {}", self.value)),
            State::Holds(value) => (value < self.value || self.gone).then(|| {
                let before = if self.gone {
                    "the deletion".to_owned()
                } else {
                    self.value.to_string()
                };
                format!("{value} comes with a higher version than {before}")
            }),
            State::Gone => (older && !self.gone && !self.unknown)
                .then(|| "the deletion comes with a lower version than a state".to_owned()),
        };
        if !older {
            version.clone_into(&mut self.version);
            self.unknown = *state == State::Unknown;
            match *state {
                State::Holds(value) => self.value = self.value.max(value),
                State::Gone => self.gone = true,
                State::Unknown | State::Unsaid => {}
            }
        }
        match hidden {
            Some(what) => Disorder::Hidden(what),
            None if older => Disorder::Told,
            None => Disorder::None,
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// The numbers of all notifications that `value` holds, as events of ours or as they came.
fn numbers_in(value: &Value, numbers: &mut Vec<u64>) {
    match value {
        Value::Object(fields) => {
            let ours = fields.get("hubspot_event_id").and_then(Value::as_str);
            let ours = ours.and_then(|text| text.parse().ok());
            let raw = fields.get("eventId").and_then(Value::as_u64);
            numbers.extend(ours.or(raw));
            fields.values().for_each(|field| numbers_in(field, numbers));
        }
        Value::Array(items) => items.iter().for_each(|item| numbers_in(item, numbers)),
        Value::String(text) if text.starts_with(['{', '[']) => {
            if let Ok(inner) = serde_json::from_str(text) {
                numbers_in(&inner, numbers);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[allow(
    dead_code,
    reason = "run as a part of tests/it; the campaign itself has no harness"
)]
mod tests {
    use super::*;

    fn taken(messages: &[(&str, State, bool)]) -> Vec<&'static str> {
        let mut newest = Newest::default();
        let mut take = |(version, state, is_stale): &(&str, State, bool)| match newest
            .take(version, state, *is_stale)
        {
            Disorder::None => "none",
            Disorder::Told => "told",
            Disorder::Hidden(_) => "hidden",
        };
        messages.iter().map(&mut take).collect()
    }

    #[test]
    fn disorder_that_the_version_tells_is_told_from_disorder_that_it_hides() {
        let holds = |version, value| (version, State::Holds(value), false);
        assert_eq!(
            taken(&[holds("1", 5), holds("2", 6), holds("2", 6)]),
            ["none"; 3]
        );
        assert_eq!(taken(&[holds("2", 6), holds("1", 5)]), ["none", "told"]);
        assert_eq!(taken(&[holds("1", 6), holds("2", 5)]), ["none", "hidden"]);
        assert_eq!(taken(&[holds("2", 5), holds("1", 6)]), ["none", "hidden"]);
    }

    #[test]
    fn a_stale_state_may_be_old_and_a_deleted_record_stays_so() {
        let marked = ("2", State::Holds(5), true);
        assert_eq!(taken(&[("1", State::Holds(6), false), marked]), ["none"; 2]);
        let gone = ("2", State::Gone, false);
        assert_eq!(taken(&[gone, ("3", State::Holds(9), false)])[1], "hidden");
        let gone = ("2", State::Gone, false);
        assert_eq!(taken(&[("3", State::Holds(9), false), gone])[1], "hidden");
    }

    #[test]
    fn a_state_that_comes_after_word_that_nothing_is_known_is_told_as_older() {
        let knows_nothing = ("3", State::Unknown, false);
        let messages = [
            ("1", State::Holds(5), false),
            knows_nothing,
            ("2", State::Holds(6), false),
        ];
        assert_eq!(taken(&messages), ["none", "none", "told"]);
    }

    #[test]
    fn a_state_must_show_the_last_change_of_an_association_and_no_earlier_one() {
        let message = |number: u64, companies: &[&str]| -> EnrichedData {
            let companies = companies.iter().map(|id| serde_json::json!({"id": id}));
            let event = serde_json::json!({
                "hubspot_event_id": number.to_string(), "kind": "association_added", "from_object_type_id": CONTACT,
                "from_object_id": "41", "to_object_id": "90",
            });
            let message = serde_json::json!({
                "portal_id": "7", "object_id": "41", "version": "1", "events": [event], "record": null, "tombstone": null,
                "associations": {"company": companies.collect::<Value>()}, "enrichment": {"status": "complete"},
            });
            serde_json::from_value(message).unwrap()
        };
        let ledger = Ledger::default();
        let is_wrong = |data: &EnrichedData| contradicts(&ledger, 7, data, &data.events[0]);
        ledger.associated((7, 41, 90), 3, true);
        assert!(is_wrong(&message(3, &["91"])));
        assert!(!is_wrong(&message(3, &["91", "90"])));
        ledger.associated((7, 41, 90), 5, false);
        assert!(!is_wrong(&message(3, &[])), "it was taken away since");
        assert!(is_wrong(&message(5, &["90"])));
        ledger.end_associations(7, 41);
        assert!(
            !is_wrong(&message(5, &["90"])),
            "nobody follows it any more"
        );
    }

    #[test]
    fn numbers_are_found_in_letters_of_every_kind() {
        let letter = serde_json::json!({
            "events": [{"hubspot_event_id": "4"}],
            "enriched_event": {"data": {"events": [{"hubspot_event_id": "5"}]}},
            "raw": {"text": "[{\"eventId\": 6}]"},
        });
        let mut numbers = Vec::new();
        numbers_in(&letter, &mut numbers);
        numbers.sort_unstable();
        assert_eq!(numbers, [4, 5, 6]);
    }
}
