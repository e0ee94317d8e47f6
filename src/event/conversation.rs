//! A thread of the conversations inbox as it was read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Millis, ObjectId};

/// A thread, the messages that came, and who wrote them.
///
/// # Source
/// HubSpot, "Conversations inbox & messages API". Of its fields those that every consumer can use; all that may be absent
/// there is optional here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conversation {
    /// The thread.
    pub thread: Thread,
    /// The messages that the events of this message tell of, the newest 10, in the order they came.
    pub messages: Vec<ThreadMessage>,
    /// Who is named above, by actor id, as far as HubSpot knows them.
    pub actors: BTreeMap<String, Actor>,
}

impl Conversation {
    /// The most messages of one thread that are read for one message of ours.
    pub const MESSAGES_MAX: usize = 10;
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Thread {
    /// The thread.
    pub id: ObjectId,
    /// `OPEN` or `CLOSED`.
    pub status: Option<String>,
    /// The inbox it is in.
    pub inbox_id: Option<String>,
    /// The actor it is assigned to.
    pub assigned_to: Option<String>,
    /// The contact at the other end, who need not exist yet.
    pub associated_contact_id: Option<ObjectId>,
    /// The ticket it belongs to.
    pub associated_ticket_id: Option<ObjectId>,
    /// The channel it began on.
    pub channel_id: Option<String>,
    /// The account of that channel.
    pub channel_account_id: Option<String>,
    /// When it began.
    pub created_at: Option<Millis>,
    /// When it was closed.
    pub closed_at: Option<Millis>,
    /// When its latest message came or went out.
    pub latest_message_at: Option<Millis>,
    /// Whether it counts as spam.
    pub spam: bool,
    /// Whether it was archived.
    pub archived: bool,
}

/// A message, comment or note of a thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThreadMessage {
    /// The message.
    pub id: String,
    /// `MESSAGE`, `COMMENT`, `WELCOME_MESSAGE`, …: an open set.
    pub r#type: Option<String>,
    /// `INCOMING` or `OUTGOING`.
    pub direction: Option<String>,
    /// When it was written.
    pub created_at: Option<Millis>,
    /// The actor who wrote it.
    pub created_by: Option<String>,
    /// Who sent it.
    pub senders: Vec<Correspondent>,
    /// Whom it was sent to.
    pub recipients: Vec<Correspondent>,
    /// Of e-mails.
    pub subject: Option<String>,
    /// What it says.
    pub text: Option<String>,
    /// The same as HTML.
    pub rich_text: Option<String>,
    /// Whether that is all: `NOT_TRUNCATED`, `TRUNCATED_TO_MOST_RECENT_REPLY`, `TRUNCATED`.
    pub truncation_status: Option<String>,
    /// `SENT`, `RECEIVED`, `READ`, `FAILED`.
    pub status: Option<String>,
    /// The message it answers.
    pub in_reply_to_id: Option<String>,
    /// The channel it came by.
    pub channel_id: Option<String>,
    /// The account of that channel.
    pub channel_account_id: Option<String>,
    /// Ids of the files attached to it.
    pub file_ids: Vec<String>,
}

/// Somebody who sent a message or got it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Correspondent {
    /// The actor, where HubSpot knows one.
    pub actor_id: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// `FROM`, `TO`, `CC`, …
    pub field: Option<String>,
    /// `HS_EMAIL_ADDRESS`, `HS_PHONE_NUMBER`, …
    pub address_type: Option<String>,
    /// An e-mail address, a telephone number, …
    pub address: Option<String>,
}

/// Somebody, or something, that acts in a thread.
///
/// The id begins with what it is: `A-` a user of HubSpot's, `V-` a contact, `E-` an e-mail address, `I-` an app, `L-` a
/// customer agent, `S-` HubSpot itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Actor {
    /// The actor.
    pub id: String,
    /// `AGENT`, `VISITOR`, `BOT`, `EMAIL`, …: an open set.
    pub r#type: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// The e-mail address.
    pub email: Option<String>,
}

impl Conversation {
    /// The ids of the actors named by `thread` and `messages`.
    pub fn actor_ids<'a>(
        thread: &'a Thread,
        messages: impl Iterator<Item = &'a ThreadMessage>,
    ) -> impl Iterator<Item = &'a str> {
        let of_messages = messages.flat_map(|message| {
            let ends = message.senders.iter().chain(&message.recipients);
            let ends = ends.filter_map(|end| end.actor_id.as_deref());
            message.created_by.as_deref().into_iter().chain(ends)
        });
        thread.assigned_to.as_deref().into_iter().chain(of_messages)
    }
}
