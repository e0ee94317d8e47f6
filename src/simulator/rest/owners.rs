//! Owners: a page of them, or one by id or user id.

use serde_json::{Value, json};

use super::errors::{not_found, validation};
use super::{Call, Handled, Reply, no_route, page};
use crate::simulator::state::Owner;

const PAGE_DEFAULT: usize = 100;
/// Widely stated; the specification names no maximum.
const PAGE_MAX: usize = 500;

pub(crate) fn handle(call: &Call<'_>, path: &[&str]) -> Handled {
    call.need_scope("crm.objects.owners.read")?;
    match (call.method, path) {
        ("GET", []) => list(call),
        ("GET", [id]) => single(call, id),
        _ => Err(no_route()),
    }
}

fn list(call: &Call<'_>) -> Handled {
    let (archived, limit, after) = (
        call.flag("archived"),
        call.limit(PAGE_DEFAULT, PAGE_MAX)?,
        call.after()?.unwrap_or(0),
    );
    let email = call.query.get("email");
    let wanted = |owner: &&Owner| {
        owner.archived == archived
            && owner.id >= after
            && email.is_none_or(|email| *email == owner.email)
    };
    let mut found = call.state.owners.iter().filter(wanted);
    let results = found.by_ref().take(limit).map(render).collect();
    Ok(Reply::ok(page(
        results,
        found.next().map(|owner| owner.id.to_string()),
    )))
}

/// A deactivated user is found with `archived=true` only, by the user id it had too.
fn single(call: &Call<'_>, id: &str) -> Handled {
    let id: u64 = id
        .parse()
        .map_err(|_| validation(&format!("Invalid owner id: {id}")))?;
    let archived = call.flag("archived");
    let by_user = match call.query.get("idProperty").map_or("id", String::as_str) {
        "id" => false,
        "userId" => true,
        other => return Err(validation(&format!("{other} is not one of [id, userId]"))),
    };
    let is = |owner: &&Owner| {
        owner.archived == archived
            && if by_user {
                owner.user_id == Some(id)
            } else {
                owner.id == id
            }
    };
    let found = call.state.owners.iter().find(is);
    found
        .map(|owner| Reply::ok(render(owner)))
        .ok_or_else(|| not_found("resource not found"))
}

/// A queue has no user and no names; a deactivated user's id is in `userIdIncludingInactive` alone.
fn render(owner: &Owner) -> Value {
    let mut body = json!({
        "id": owner.id.to_string(),
        "type": if owner.user_id.is_some() { "PERSON" } else { "QUEUE" },
        "email": owner.email,
        "firstName": owner.first_name,
        "lastName": owner.last_name,
        "userId": owner.user_id.filter(|_| !owner.archived),
        "userIdIncludingInactive": owner.user_id,
        "createdAt": owner.created_at,
        "updatedAt": owner.created_at,
        "archived": owner.archived,
    });
    if !owner.teams.is_empty() {
        let team = |(id, name, primary): &(u64, &str, bool)| json!({"id": id.to_string(), "name": name, "primary": primary});
        body["teams"] = owner.teams.iter().map(team).collect();
    }
    body
}
