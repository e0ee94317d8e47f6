//! `/conversations/v3/conversations/…` and its dated twin: threads, messages, actors.

use serde_json::{Value, json};

use super::errors::not_found;
use super::{Call, Handled, Reply, batch, no_route, page, text_of};
use crate::simulator::inbox::{self, Thread};

/// Actors per batch read.
const ACTORS_MAX: usize = 100;

pub(crate) fn handle(call: &Call<'_>, path: &[&str]) -> Handled {
    call.need_scope("conversations.read")?;
    match (call.method, path) {
        ("GET", ["threads", id]) => {
            let (id, thread) = find(call, id)?;
            let with_ticket = call.list("association").iter().any(|one| one == "TICKET");
            Ok(Reply::ok(thread.render(id, with_ticket, call.as_of)))
        }
        ("GET", ["threads", id, "messages"]) => {
            let (id, thread) = find(call, id)?;
            Ok(Reply::ok(page(thread.messages(id, call.as_of), None)))
        }
        ("GET", ["threads", id, "messages", message]) => {
            let (id, thread) = find(call, id)?;
            let messages = thread.messages(id, call.as_of);
            let found = messages.into_iter().find(|one| one["id"] == *message);
            found.map(Reply::ok).ok_or_else(gone)
        }
        ("GET", ["actors", id]) => {
            let found = inbox::actor(id, &call.state.owners);
            found.map(Reply::ok).ok_or_else(gone)
        }
        ("POST", ["actors", "batch", "read"]) => actors(call),
        _ => Err(no_route()),
    }
}

fn actors(call: &Call<'_>) -> Handled {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for input in call.inputs(ACTORS_MAX)? {
        let id = text_of(&input).unwrap_or_default();
        match inbox::actor(&id, &call.state.owners) {
            Some(actor) => found.push(actor),
            None => missing.push(id),
        }
    }
    let error = json!({"status": "error", "category": "OBJECT_NOT_FOUND", "message": "Some actors do not exist.",
        "context": {"ids": missing}});
    let errors: Vec<Value> = (!missing.is_empty()).then_some(error).into_iter().collect();
    Ok(batch(200, found, errors, call.now))
}

fn find<'c>(call: &'c Call<'_>, id: &str) -> Result<(u64, &'c Thread), Reply> {
    let found = call.state.inbox.get(id, call.flag("archived"), call.as_of);
    found.ok_or_else(gone)
}

fn gone() -> Reply {
    not_found("resource not found")
}
