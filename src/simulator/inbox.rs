//! The conversations inbox of a portal: threads, their messages, and who acts in them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::state::Owner;
use crate::event::Millis;

/// Ids begin here, in the width of captured ones.
const FIRST_ID: u64 = 6_065_360_001;
const INBOX: &str = "148";
/// HubSpot's id of the chat channel.
const CHANNEL: &str = "1000";
const CHANNEL_ACCOUNT: &str = "23001";

/// A portal's threads.
#[derive(Debug, Default)]
pub(crate) struct Inbox(BTreeMap<u64, Thread>);

/// One thread.
#[derive(Clone, Debug)]
pub(crate) struct Thread {
    contact: Option<u64>,
    ticket: Option<u64>,
    status: &'static str,
    assigned_to: Option<String>,
    created_at: Millis,
    archived: bool,
    messages: Vec<Message>,
}

#[derive(Clone, Debug)]
struct Message {
    id: String,
    text: String,
    created_at: Millis,
}

/// A change of a thread, as a subscription would tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ThreadFact {
    Creation,
    Deletion,
    PrivacyDeletion,
    NewMessage { id: String },
    PropertyChange { name: &'static str, value: String },
}

/// A change to a thread that somebody asks for.
#[derive(Clone, Debug)]
pub(crate) enum ThreadChange {
    Say { text: String },
    Close,
    Assign { actor: String },
    Archive,
    Erase,
}

impl Inbox {
    /// Begins a thread; its id.
    pub(crate) fn begin(&mut self, contact: Option<u64>, ticket: Option<u64>, now: Millis) -> u64 {
        let id = self
            .0
            .last_key_value()
            .map_or(FIRST_ID, |(last, _)| last + 7);
        let thread = Thread {
            contact,
            ticket,
            status: "OPEN",
            assigned_to: None,
            created_at: now,
            archived: false,
            messages: Vec::new(),
        };
        self.0.insert(id, thread);
        id
    }

    /// Makes a change; `None` when there is no such thread.
    pub(crate) fn change(
        &mut self,
        id: u64,
        change: ThreadChange,
        now: Millis,
    ) -> Option<ThreadFact> {
        if matches!(change, ThreadChange::Erase) {
            return self.0.remove(&id).map(|_| ThreadFact::PrivacyDeletion);
        }
        let thread = self.0.get_mut(&id).filter(|thread| !thread.archived)?;
        Some(match change {
            ThreadChange::Say { text } => {
                let id = format!("{id:016x}{:016x}", thread.messages.len() + 1);
                thread.messages.push(Message {
                    id: id.clone(),
                    text,
                    created_at: now,
                });
                ThreadFact::NewMessage { id }
            }
            ThreadChange::Close => {
                thread.status = "CLOSED";
                ThreadFact::PropertyChange {
                    name: "status",
                    value: thread.status.to_owned(),
                }
            }
            ThreadChange::Assign { actor } => {
                thread.assigned_to = Some(actor.clone());
                ThreadFact::PropertyChange {
                    name: "assignedTo",
                    value: actor,
                }
            }
            ThreadChange::Archive | ThreadChange::Erase => {
                thread.archived = true;
                ThreadFact::Deletion
            }
        })
    }

    /// The thread of an id as a path has it, among the archived or the others, as of `at`.
    pub(crate) fn get(&self, id: &str, archived: bool, at: Millis) -> Option<(u64, &Thread)> {
        let id = id.parse().ok()?;
        let thread = self.0.get(&id)?;
        let is_there = thread.created_at <= at && thread.archived == archived;
        is_there.then_some((id, thread))
    }
}

impl Thread {
    /// `PublicThread`; the ticket is shown when it is asked for.
    pub(crate) fn render(&self, id: u64, with_ticket: bool, at: Millis) -> Value {
        let mut body = json!({
            "id": id.to_string(), "createdAt": self.created_at, "status": self.status, "inboxId": INBOX,
            "originalChannelId": CHANNEL, "originalChannelAccountId": CHANNEL_ACCOUNT,
            "associatedContactId": self.contact.map(|id| id.to_string()), "spam": false, "archived": self.archived,
        });
        if let Some(actor) = &self.assigned_to {
            body["assignedTo"] = json!(actor);
        }
        if let Some(latest) = self.messages.iter().rfind(|one| one.created_at <= at) {
            body["latestMessageTimestamp"] = json!(latest.created_at);
            body["latestMessageReceivedTimestamp"] = json!(latest.created_at);
        }
        if let (true, Some(ticket)) = (with_ticket, self.ticket) {
            body["threadAssociations"] = json!({"associatedTicketId": ticket.to_string()});
        }
        body
    }

    /// `PublicMessage`s, as of `at`.
    pub(crate) fn messages(&self, id: u64, at: Millis) -> Vec<Value> {
        let seen = self.messages.iter().filter(|one| one.created_at <= at);
        seen.map(|one| self.message(id, one)).collect()
    }

    fn message(&self, thread: u64, message: &Message) -> Value {
        let visitor = format!("V-{}", self.contact.unwrap_or(1));
        json!({
            "type": "MESSAGE", "id": message.id, "conversationsThreadId": thread.to_string(),
            "createdAt": message.created_at, "createdBy": visitor, "client": {"clientType": "HUBSPOT"},
            "senders": [{"actorId": visitor, "senderField": "FROM",
                "deliveryIdentifier": {"type": "CHANNEL_SPECIFIC_OPAQUE_ID", "value": format!("visitor-{thread}")}}],
            "recipients": [], "archived": false, "text": message.text, "richText": format!("<div>{}</div>", message.text),
            "attachments": [], "truncationStatus": "NOT_TRUNCATED", "status": {"statusType": "RECEIVED"},
            "direction": "INCOMING", "channelId": CHANNEL, "channelAccountId": CHANNEL_ACCOUNT,
        })
    }
}

/// `PublicActor` of an id: a user behind an owner, a visitor, an app, or HubSpot itself.
pub(crate) fn actor(id: &str, owners: &[Owner]) -> Option<Value> {
    let (kind, of) = id.split_once('-')?;
    match kind {
        "A" => {
            let user: u64 = of.parse().ok()?;
            let owner = owners.iter().find(|owner| owner.user_id == Some(user))?;
            let name = format!("{} {}", owner.first_name, owner.last_name);
            Some(
                json!({"type": "AGENT", "id": id, "name": name, "email": owner.email, "avatar": ""}),
            )
        }
        "V" => Some(json!({"type": "VISITOR", "id": id, "name": "Visitor"})),
        "I" => Some(json!({"type": "INTEGRATION", "id": id})),
        "E" => Some(json!({"type": "EMAIL", "id": id, "email": of})),
        "S" => Some(json!({"type": "SYSTEM", "id": id})),
        _ => None,
    }
}
