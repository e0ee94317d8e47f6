//! Conversations: a thread, one of its messages, and who acts in it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{BatchReply, id, parse, text, time, unreadable};
use crate::event::{Actor, Correspondent, Millis, ObjectId, Thread, ThreadMessage};
use crate::hubspot::call::{Answer, CallError};

/// `PublicThread`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireThread<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    inbox_id: Option<&'a RawValue>,
    #[serde(borrow)]
    assigned_to: Option<&'a RawValue>,
    #[serde(borrow)]
    associated_contact_id: Option<&'a RawValue>,
    #[serde(borrow)]
    thread_associations: Option<WireThreadAssociations<'a>>,
    #[serde(borrow)]
    original_channel_id: Option<&'a RawValue>,
    #[serde(borrow)]
    original_channel_account_id: Option<&'a RawValue>,
    #[serde(borrow)]
    created_at: Option<&'a RawValue>,
    #[serde(borrow)]
    closed_at: Option<&'a RawValue>,
    #[serde(borrow)]
    latest_message_timestamp: Option<&'a RawValue>,
    spam: Option<bool>,
    archived: Option<bool>,
}

/// `PublicThreadAssociations`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireThreadAssociations<'a> {
    #[serde(borrow)]
    associated_ticket_id: Option<&'a RawValue>,
}

/// `PublicMessage`, whichever kind of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMessage<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    direction: Option<&'a RawValue>,
    #[serde(borrow)]
    created_at: Option<&'a RawValue>,
    #[serde(borrow)]
    created_by: Option<&'a RawValue>,
    #[serde(borrow)]
    senders: Option<Vec<WireCorrespondent<'a>>>,
    #[serde(borrow)]
    recipients: Option<Vec<WireCorrespondent<'a>>>,
    #[serde(borrow)]
    subject: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    rich_text: Option<&'a RawValue>,
    #[serde(borrow)]
    truncation_status: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<WireMessageStatus<'a>>,
    #[serde(borrow)]
    in_reply_to_id: Option<&'a RawValue>,
    #[serde(borrow)]
    channel_id: Option<&'a RawValue>,
    #[serde(borrow)]
    channel_account_id: Option<&'a RawValue>,
    #[serde(borrow)]
    attachments: Option<Vec<WireMessageAttachment<'a>>>,
}

/// `PublicSender` and `PublicRecipient`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireCorrespondent<'a> {
    #[serde(borrow)]
    actor_id: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    sender_field: Option<&'a RawValue>,
    #[serde(borrow)]
    recipient_field: Option<&'a RawValue>,
    #[serde(borrow)]
    delivery_identifier: Option<WireDeliveryIdentifier<'a>>,
}

/// `PublicDeliveryIdentifier`.
#[derive(Deserialize)]
struct WireDeliveryIdentifier<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// `PublicMessageStatus`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMessageStatus<'a> {
    #[serde(borrow)]
    status_type: Option<&'a RawValue>,
}

/// `PublicFile`, among attachments of other kinds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMessageAttachment<'a> {
    #[serde(borrow)]
    file_id: Option<&'a RawValue>,
}

/// `PublicActor`, whichever kind of it.
#[derive(Deserialize)]
struct WireActor<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    email: Option<&'a RawValue>,
}

/// A thread's body, or none for a 404; `date` is the reply's.
///
/// # Errors
/// [`CallError::Unreadable`], also when there is no date to order the read by.
pub(in super::super) fn thread(
    body: Option<&[u8]>,
    date: Option<Millis>,
) -> Result<Answer, CallError> {
    let thread = body
        .map(|body| parse(body).and_then(read_thread))
        .transpose()?
        .map(Box::new);
    let completed_at = date.ok_or_else(|| unreadable("its Date header is missing or no date"))?;
    Ok(Answer::Thread {
        thread,
        completed_at,
    })
}

/// One message.
pub(super) fn message(body: &[u8]) -> Result<Answer, CallError> {
    let message = parse(body).and_then(read_message)?;
    Ok(Answer::Message(Some(Box::new(message))))
}

/// Those of a batch that were found.
pub(super) fn actors(status: u16, body: &[u8]) -> Result<Answer, CallError> {
    let mut reply: BatchReply<&RawValue> = parse(body)?;
    reply.check(status)?;
    let actors = reply
        .results
        .into_iter()
        .map(|actor| parse(actor.get().as_bytes()).and_then(read_actor));
    actors.collect::<Result<_, _>>().map(Answer::Actors)
}

fn read_thread(thread: WireThread<'_>) -> Result<Thread, CallError> {
    let record = |id| text(id).map(ObjectId::from);
    let ticket = thread.thread_associations;
    Ok(Thread {
        id: ObjectId::from(id(thread.id, "a thread's id")?),
        status: text(thread.status),
        inbox_id: text(thread.inbox_id),
        assigned_to: text(thread.assigned_to),
        associated_contact_id: record(thread.associated_contact_id),
        associated_ticket_id: record(ticket.and_then(|ticket| ticket.associated_ticket_id)),
        channel_id: text(thread.original_channel_id),
        channel_account_id: text(thread.original_channel_account_id),
        created_at: time(thread.created_at),
        closed_at: time(thread.closed_at),
        latest_message_at: time(thread.latest_message_timestamp),
        spam: thread.spam.unwrap_or(false),
        archived: thread.archived.unwrap_or(false),
    })
}

fn read_message(message: WireMessage<'_>) -> Result<ThreadMessage, CallError> {
    let ends = |ends: Option<Vec<_>>| {
        let ends = ends.unwrap_or_default().into_iter();
        ends.map(read_correspondent).collect()
    };
    let files = message.attachments.unwrap_or_default().into_iter();
    Ok(ThreadMessage {
        id: id(message.id, "a message's id")?,
        r#type: text(message.r#type),
        direction: text(message.direction),
        created_at: time(message.created_at),
        created_by: text(message.created_by),
        senders: ends(message.senders),
        recipients: ends(message.recipients),
        subject: text(message.subject),
        text: text(message.text),
        rich_text: text(message.rich_text),
        truncation_status: text(message.truncation_status),
        status: text(message.status.and_then(|status| status.status_type)),
        in_reply_to_id: text(message.in_reply_to_id),
        channel_id: text(message.channel_id),
        channel_account_id: text(message.channel_account_id),
        file_ids: files.filter_map(|file| text(file.file_id)).collect(),
    })
}

fn read_correspondent(end: WireCorrespondent<'_>) -> Correspondent {
    let (address_type, address) = match end.delivery_identifier {
        Some(by) => (text(by.r#type), text(by.value)),
        None => (None, None),
    };
    Correspondent {
        actor_id: text(end.actor_id),
        name: text(end.name),
        field: text(end.sender_field).or_else(|| text(end.recipient_field)),
        address_type,
        address,
    }
}

fn read_actor(actor: WireActor<'_>) -> Result<Actor, CallError> {
    Ok(Actor {
        id: id(actor.id, "an actor's id")?,
        r#type: text(actor.r#type),
        name: text(actor.name),
        email: text(actor.email),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_read_with_its_ticket() {
        let body = br#"{"id":"6065360001","createdAt":"2026-01-02T03:04:05Z","status":"OPEN","originalChannelId":"1002","originalChannelAccountId":"77","latestMessageTimestamp":"2026-01-02T04:00:00.500Z","assignedTo":"A-75500001","inboxId":"11","associatedContactId":"512","threadAssociations":{"associatedTicketId":"9"},"spam":false,"archived":true}"#;
        let Answer::Thread {
            thread: Some(thread),
            completed_at,
        } = super::thread(Some(body), Millis::new(5)).unwrap()
        else {
            panic!("a thread was sent")
        };
        assert_eq!(completed_at, Millis::new(5).unwrap());
        assert_eq!(thread.id.as_str(), "6065360001");
        assert_eq!(thread.associated_ticket_id, Some("9".into()));
        assert_eq!(thread.associated_contact_id, Some("512".into()));
        assert_eq!(thread.assigned_to.as_deref(), Some("A-75500001"));
        assert_eq!(
            thread.latest_message_at,
            Millis::parse("2026-01-02T04:00:00.5Z")
        );
        assert!(thread.archived && thread.closed_at.is_none());
        assert!(super::thread(None, None).is_err(), "no date");
    }

    #[test]
    fn a_message_is_read_with_those_at_its_ends() {
        let body = br#"{"type":"MESSAGE","id":"9b38","conversationsThreadId":"6","createdAt":"2026-01-02T03:04:05Z","createdBy":"V-512","client":{"clientType":"HUBSPOT"},"senders":[{"actorId":"V-512","name":"Ada","senderField":"FROM","deliveryIdentifier":{"type":"HS_EMAIL_ADDRESS","value":"ada@example.com"}}],"recipients":[{"recipientField":"TO","deliveryIdentifier":{"type":"HS_EMAIL_ADDRESS","value":"us@example.com"}}],"archived":false,"text":"Hello","richText":"<p>Hello</p>","attachments":[{"type":"FILE","fileId":"7","fileUsageType":"OTHER"},{"type":"LOCATION"}],"subject":"Hi","truncationStatus":"NOT_TRUNCATED","status":{"statusType":"RECEIVED"},"direction":"INCOMING","channelId":"1002","channelAccountId":"77"}"#;
        let Answer::Message(Some(message)) = super::message(body).unwrap() else {
            panic!("a message was sent")
        };
        assert_eq!(message.status.as_deref(), Some("RECEIVED"));
        assert_eq!(message.file_ids, ["7"]);
        let sender = &message.senders[0];
        assert_eq!(sender.field.as_deref(), Some("FROM"));
        assert_eq!(sender.address.as_deref(), Some("ada@example.com"));
        assert_eq!(message.recipients[0].actor_id, None);
    }

    #[test]
    fn actors_that_are_not_found_are_left_out() {
        let body = br#"{"status":"COMPLETE","results":[{"id":"A-1","type":"AGENT","name":"Jo","email":"jo@example.com","avatar":"x"},{"id":"S-hubspot","type":"SYSTEM"}],"numErrors":1,"errors":[{"status":"error","category":"OBJECT_NOT_FOUND","message":"m"}],"startedAt":"2026-01-02T03:04:05Z","completedAt":"2026-01-02T03:04:05Z"}"#;
        let Answer::Actors(actors) = super::actors(207, body).unwrap() else {
            panic!("actors were sent")
        };
        let ids: Vec<_> = actors.iter().map(|actor| actor.id.as_str()).collect();
        assert_eq!(ids, ["A-1", "S-hubspot"]);
        assert_eq!(actors[0].name.as_deref(), Some("Jo"));
    }
}
