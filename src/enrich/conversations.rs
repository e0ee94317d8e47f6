//! Threads of the conversations inbox: which of their messages are read, and who is known to act in them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::event::{
    Actor, Conversation, ConversationChange, EnrichmentPart, EnrichmentProblem, Event, EventBody,
    Millis, ObjectTypeId, ProblemReason, Thread, ThreadMessage,
};
use crate::hubspot::call::READ_ACTORS_MAX;

use super::cache::{PROBLEM_TTL, Problem};
use super::request::Request;

/// How long it is remembered who an actor is.
const ACTOR_TTL: Duration = Duration::from_secs(600);
/// Actors remembered of one portal; the oldest go first.
const ACTORS_CAPACITY: usize = 10_000;

/// Whether the "type" is that under which threads go.
pub fn is_conversation(object_type_id: &ObjectTypeId) -> bool {
    object_type_id.as_str() == crate::event::CONVERSATION
}

/// The messages of a job's thread, by id.
#[derive(Debug, Default)]
pub struct MessagesRead(BTreeMap<String, MessageState>);

#[derive(Debug)]
enum MessageState {
    Reading,
    Done(Box<ThreadMessage>),
    /// A problem of the job says why.
    Failed,
}

impl MessagesRead {
    /// Those that `events` tell of and that are neither read nor being read, the newest
    /// [`Conversation::MESSAGES_MAX`] at most; they are being read from now on. And whether there are more.
    pub fn begin(&mut self, events: &[Event]) -> (Vec<String>, bool) {
        let told = ids_of(events);
        let first = told.len().saturating_sub(Conversation::MESSAGES_MAX);
        let mut begun = Vec::new();
        for id in &told[first..] {
            if !self.0.contains_key(*id) {
                self.0.insert((*id).to_owned(), MessageState::Reading);
                begun.push((*id).to_owned());
            }
        }
        (begun, first > 0)
    }

    /// What came of reading one.
    pub fn read(&mut self, id: &str, message: Option<Box<ThreadMessage>>) {
        let state = message.map_or(MessageState::Failed, MessageState::Done);
        self.0.insert(id.to_owned(), state);
    }

    /// The thread is to be read again: those that are not there yet are too.
    pub fn restart(&mut self) {
        self.0
            .retain(|_, state| matches!(state, MessageState::Done(_)));
    }

    pub fn is_reading(&self) -> bool {
        let mut states = self.0.values();
        states.any(|state| matches!(state, MessageState::Reading))
    }

    pub fn done(&self) -> impl Iterator<Item = &ThreadMessage> {
        self.0.values().filter_map(|state| match state {
            MessageState::Done(message) => Some(&**message),
            MessageState::Reading | MessageState::Failed => None,
        })
    }
}

/// The messages that `events` tell of, each once, the newest last.
fn ids_of(events: &[Event]) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for event in events {
        if let EventBody::Conversation(conversation) = &event.body
            && let ConversationChange::NewMessage {
                message_id: Some(id),
                ..
            } = &conversation.change
            && !ids.contains(&id.as_str())
        {
            ids.push(id);
        }
    }
    ids
}

/// What was read, put together. Messages stand in the order in which `events` tell of them.
pub fn assemble(
    thread: Thread,
    messages: &MessagesRead,
    events: &[Event],
    actors: &Actors,
) -> (Conversation, Vec<EnrichmentProblem>) {
    let told = ids_of(events);
    let mut read: Vec<ThreadMessage> = messages.done().cloned().collect();
    read.sort_by_key(|message| told.iter().position(|id| *id == message.id));
    let (mut known, mut problems) = (BTreeMap::new(), Vec::new());
    for id in Conversation::actor_ids(&thread, read.iter()) {
        match actors.find(id) {
            Some(Ok(Some(actor))) => {
                known.insert(id.to_owned(), actor.clone());
            }
            Some(Ok(None)) | None => {}
            Some(Err(why)) => {
                let problem = problem(EnrichmentPart::Actors, why);
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
    }
    let conversation = Conversation {
        thread,
        messages: read,
        actors: known,
    };
    (conversation, problems)
}

/// What a message of ours lacks.
pub fn problem(part: EnrichmentPart, why: &Problem) -> EnrichmentProblem {
    EnrichmentProblem {
        part,
        reason: why.reason,
        object_type: None,
        missing_scopes: why.missing_scopes.clone(),
    }
}

/// Some of the messages are not there.
pub fn messages_problem(reason: ProblemReason) -> EnrichmentProblem {
    let why = Problem {
        reason,
        missing_scopes: Vec::new(),
    };
    problem(EnrichmentPart::Messages, &why)
}

/// The actors of one portal that were asked for.
#[derive(Debug, Default)]
pub struct Actors {
    known: HashMap<String, Known>,
    /// The same, the oldest first.
    order: VecDeque<String>,
    asked: BTreeSet<String>,
}

#[derive(Debug)]
struct Known {
    /// `None`: HubSpot does not know it.
    actor: Result<Option<Actor>, Problem>,
    read_at: Millis,
}

impl Actors {
    /// What is known of an actor, be it old.
    pub fn find(&self, id: &str) -> Option<&Result<Option<Actor>, Problem>> {
        self.known.get(id).map(|known| &known.actor)
    }

    /// What to ask for so that all of `ids` are known, and whether any is not known yet.
    pub fn lack<'a>(
        &mut self,
        ids: impl Iterator<Item = &'a str>,
        now: Millis,
    ) -> (Vec<Request>, bool) {
        let unknown: BTreeSet<&str> = ids.filter(|id| !self.is_fresh(id, now)).collect();
        let lacks = !unknown.is_empty();
        let ask: Vec<String> = unknown
            .into_iter()
            .filter(|id| self.asked.insert((*id).to_owned()))
            .map(str::to_owned)
            .collect();
        let requests = ask.chunks(READ_ACTORS_MAX);
        (
            requests.map(|ids| Request::Actors(ids.to_vec())).collect(),
            lacks,
        )
    }

    /// What came of asking for `ids`: those that are not among `found` are not known to HubSpot.
    pub fn read(&mut self, ids: &[String], found: Vec<Actor>, now: Millis) {
        let mut found: HashMap<String, Actor> = found
            .into_iter()
            .map(|actor| (actor.id.clone(), actor))
            .collect();
        for id in ids {
            self.set(id, Ok(found.remove(id)), now);
        }
    }

    /// They may not be read.
    pub fn failed(&mut self, ids: &[String], why: &Problem, now: Millis) {
        for id in ids {
            self.set(id, Err(why.clone()), now);
        }
    }

    fn set(&mut self, id: &str, actor: Result<Option<Actor>, Problem>, now: Millis) {
        self.asked.remove(id);
        let known = Known {
            actor,
            read_at: now,
        };
        if self.known.insert(id.to_owned(), known).is_none() {
            self.order.push_back(id.to_owned());
        }
        while self.order.len() > ACTORS_CAPACITY {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    fn is_fresh(&self, id: &str, now: Millis) -> bool {
        self.known.get(id).is_some_and(|known| {
            let ttl = if known.actor.is_ok() {
                ACTOR_TTL
            } else {
                PROBLEM_TTL
            };
            now.since(known.read_at) < ttl
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Millis {
        Millis::new(0).unwrap().after(Duration::from_secs(seconds))
    }

    fn actor(id: &str) -> Actor {
        Actor {
            id: id.to_owned(),
            r#type: None,
            name: None,
            email: None,
        }
    }

    #[test]
    fn an_actor_is_asked_for_once_and_again_when_it_is_old() {
        let mut actors = Actors::default();
        let wanted = ["A-1", "V-2", "A-1"];
        let (asked, lacks) = actors.lack(wanted.into_iter(), at(0));
        let ids = vec!["A-1".to_owned(), "V-2".to_owned()];
        assert_eq!((asked, lacks), (vec![Request::Actors(ids.clone())], true));
        assert_eq!(actors.lack(wanted.into_iter(), at(0)), (vec![], true));
        actors.read(&ids, vec![actor("A-1")], at(1));
        assert!(!actors.lack(wanted.into_iter(), at(600)).1);
        assert_eq!(
            actors.find("V-2"),
            Some(&Ok(None)),
            "HubSpot does not know it"
        );
        assert!(actors.lack(wanted.into_iter(), at(601)).1);
    }

    #[test]
    fn more_actors_than_a_batch_takes_are_asked_for_in_several() {
        let ids: Vec<String> = (0..=READ_ACTORS_MAX).map(|id| format!("V-{id}")).collect();
        let (asked, _) = Actors::default().lack(ids.iter().map(String::as_str), at(0));
        assert_eq!(asked.len(), 2);
    }

    #[test]
    fn no_more_actors_are_remembered_than_the_bound() {
        let mut actors = Actors::default();
        let ids: Vec<String> = (0..=ACTORS_CAPACITY).map(|id| format!("V-{id}")).collect();
        actors.read(&ids, Vec::new(), at(0));
        assert_eq!(actors.known.len(), ACTORS_CAPACITY);
    }
}
