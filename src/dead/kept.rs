//! What lies among the dead letters, and which of it somebody asks for. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bus::Message;
use crate::event::{
    Batch, DEAD_LETTER_KIND, DeadLetter, DeadLetterReason, EnrichedEvent, Event, Millis,
    ObjectTypeId, PortalId, Stage,
};

/// Every reason that a dead letter may have: those of ours, the bus's own, and that it is none of ours.
pub fn reasons() -> impl Iterator<Item = &'static str> {
    let ours = DeadLetterReason::ALL.map(DeadLetterReason::as_str);
    ours.into_iter().chain([DELIVERY_LIMIT, FOREIGN])
}

/// The bus itself put a batch there, which came too often and was never settled.
const DELIVERY_LIMIT: &str = "delivery_limit";
/// Somebody else put it there, or a later version of this program.
const FOREIGN: &str = "foreign";

/// A message of the dead letters, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The message id.
    pub id: String,
    /// The size of its body.
    pub bytes: usize,
    /// What it holds.
    pub content: Content,
}

/// What a message of the dead letters holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A letter of ours.
    Letter(Box<DeadLetter>),
    /// A batch that the bus itself put there.
    Batch(Batch),
    /// Something else.
    Foreign,
}

/// A dead letter in short, without any value of a property.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The message id.
    pub id: String,
    /// Where it ended; absent for what is none of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// One of [`reasons`].
    pub reason: String,
    /// When it failed; of a batch that the bus put there, when the last of its events was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Millis>,
    /// The account, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal_id: Option<PortalId>,
    /// The names of its records' types.
    pub object_types: BTreeSet<String>,
    /// What its first event is about: `contact/512`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How many events it holds.
    pub events: usize,
    /// The destination that did not take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Which piece it is of something larger: `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The size of its body.
    pub bytes: usize,
    /// Why, for a person.
    pub detail: String,
}

/// Which dead letters are asked for: those that everything which is set is true of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// One of these ids; any when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// It ended there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// For this reason, one of [`reasons`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It is of this portal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portal_id: Option<PortalId>,
    /// It is about a record of this type: singular, plural or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_type: Option<String>,
    /// This destination did not take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// It failed then or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Millis>,
    /// It failed before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
}

impl Kept {
    /// What `message` is.
    #[must_use]
    pub fn read(message: &Message) -> Self {
        let letter = (message.kind == DEAD_LETTER_KIND)
            .then(|| serde_json::from_slice(&message.body).ok())
            .flatten();
        let content = match letter {
            Some(letter) => Content::Letter(letter),
            None => Batch::decode(&message.body).map_or(Content::Foreign, Content::Batch),
        };
        Self {
            id: message.id.clone(),
            bytes: message.body.len(),
            content,
        }
    }

    /// Where it ended; `None` for what is none of ours.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        match &self.content {
            Content::Letter(letter) => Some(letter.stage),
            Content::Batch(_) => Some(Stage::Consume),
            Content::Foreign => None,
        }
    }

    /// Why, one of [`reasons`].
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match &self.content {
            Content::Letter(letter) => letter.reason.as_str(),
            Content::Batch(_) => DELIVERY_LIMIT,
            Content::Foreign => FOREIGN,
        }
    }

    /// When it failed, as far as is known.
    #[must_use]
    pub fn at(&self) -> Option<Millis> {
        match &self.content {
            Content::Letter(letter) => Some(letter.failed_at),
            Content::Batch(batch) => batch.events().iter().map(|event| event.received_at).max(),
            Content::Foreign => None,
        }
    }

    /// The events that it holds.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        match &self.content {
            Content::Letter(letter) => match &letter.enriched_event {
                Some(enriched) => &enriched.data.events,
                None => &letter.events,
            },
            Content::Batch(batch) => batch.events(),
            Content::Foreign => &[],
        }
    }

    /// The destination that did not take it.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        self.letter()?.destination.as_deref()
    }

    /// The letter, if it is one of ours.
    #[must_use]
    pub fn letter(&self) -> Option<&DeadLetter> {
        match &self.content {
            Content::Letter(letter) => Some(letter),
            _ => None,
        }
    }

    /// The account, as far as is known. Raw content may name it.
    #[must_use]
    pub fn portal_id(&self) -> Option<PortalId> {
        match &self.content {
            Content::Letter(letter) => letter.portal_id.clone().or_else(|| named_portal(letter)),
            Content::Batch(batch) => Some(batch.portal_id().clone()),
            Content::Foreign => None,
        }
    }

    /// It in short.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let detail = match &self.content {
            Content::Letter(letter) => letter.detail.as_str(),
            Content::Batch(_) => "the batch came too often and was never settled",
            Content::Foreign => "no letter of ours",
        };
        let subject = match self.enriched() {
            Some(enriched) => Some(enriched.subject.clone()),
            None => self.events().first().map(subject_of),
        };
        let part = self.letter().and_then(|letter| letter.part.as_ref());
        Summary {
            id: self.id.clone(),
            stage: self.stage(),
            reason: self.reason().to_owned(),
            at: self.at(),
            portal_id: self.portal_id(),
            object_types: self.types().map(|of| of.name().to_owned()).collect(),
            subject,
            events: self.events().len(),
            destination: self.destination().map(str::to_owned),
            part: part.map(|part| format!("{}/{}", part.number, part.of)),
            bytes: self.bytes,
            detail: detail.to_owned(),
        }
    }

    /// All of it, with the values that it holds; `message` is what it was read from.
    #[must_use]
    pub fn whole(&self, message: &Message) -> Value {
        let summary = self.summary();
        match &self.content {
            Content::Letter(letter) => json!({"summary": summary, "letter": letter}),
            Content::Batch(batch) => json!({"summary": summary, "events": batch.events()}),
            Content::Foreign => {
                let body = String::from_utf8_lossy(&message.body);
                json!({"summary": summary, "type": message.kind, "body": body})
            }
        }
    }

    fn enriched(&self) -> Option<&EnrichedEvent> {
        self.letter()?.enriched_event.as_deref()
    }

    fn types(&self) -> impl Iterator<Item = ObjectTypeId> {
        let enriched = self
            .enriched()
            .map(|enriched| enriched.data.object_type_id.clone());
        let events = self.events().iter();
        enriched
            .into_iter()
            .chain(events.map(|event| event.subject().object_type_id))
    }
}

impl Filter {
    /// Whether it asks for everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it can match anything.
    ///
    /// # Errors
    /// What is wrong, and which words there are.
    pub fn check(&self) -> Result<(), String> {
        match &self.reason {
            Some(reason) if !reasons().any(|known| known == reason) => {
                let known: Vec<_> = reasons().collect();
                Err(format!("no reason is called so; {}", known.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// Whether `kept` is asked for.
    #[must_use]
    pub fn matches(&self, kept: &Kept) -> bool {
        let since = |at: Millis| self.since.is_none_or(|since| since <= at);
        let until = |at: Millis| self.until.is_none_or(|until| at < until);
        let is_timed = self.since.is_some() || self.until.is_some();
        (self.ids.is_empty() || self.ids.contains(&kept.id))
            && self.stage.is_none_or(|stage| kept.stage() == Some(stage))
            && is_or_any(self.reason.as_deref(), || Some(kept.reason()))
            && is_or_any(self.destination.as_deref(), || kept.destination())
            && is_or_any(self.portal_id.clone(), || kept.portal_id())
            && (!is_timed || kept.at().is_some_and(|at| since(at) && until(at)))
            && self.object_type.as_ref().is_none_or(|name| {
                let wanted = ObjectTypeId::from_name(name);
                kept.types().any(|of| of == wanted)
            })
    }
}

/// Whether nothing is `wanted`, or what there is.
fn is_or_any<T: PartialEq>(wanted: Option<T>, found: impl FnOnce() -> Option<T>) -> bool {
    wanted.is_none() || wanted == found()
}

fn subject_of(event: &Event) -> String {
    let subject = event.subject();
    format!("{}/{}", subject.object_type_id.name(), subject.object_id)
}

/// The portal that a notification names which could not be read otherwise.
fn named_portal(letter: &DeadLetter) -> Option<PortalId> {
    let raw: Value = serde_json::from_slice(&letter.raw_bytes()?).ok()?;
    match raw.get("portalId")? {
        Value::Number(id) => Some(id.to_string().as_str().into()),
        Value::String(id) => Some(id.as_str().into()),
        _ => None,
    }
}
