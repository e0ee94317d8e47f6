//! `/files/v3/files/{id}` and its dated twin.

use std::time::Duration;

use super::errors::not_found;
use super::{Call, Handled, Reply, no_route};
use crate::simulator::files::{File, SIGNED_URL_LIFE};

pub(crate) fn handle(call: &Call<'_>, path: &[&str]) -> Handled {
    match (call.method, path) {
        ("GET", [id]) => {
            let (id, file) = find(call, id)?;
            Ok(Reply::ok(file.render(id, call.state.portal_id)))
        }
        ("GET", [id, "signed-url"]) => {
            let (id, file) = find(call, id)?;
            let asked = call.query.get("expirationSeconds");
            let life = asked.and_then(|seconds| seconds.parse().ok());
            let life = life.map_or(SIGNED_URL_LIFE, Duration::from_secs);
            Ok(Reply::ok(file.sign(id, life, call.now)))
        }
        _ => Err(no_route()),
    }
}

/// Files that are hidden from people need a scope of their own.
fn find<'c>(call: &'c Call<'_>, id: &str) -> Result<(u64, &'c File), Reply> {
    call.need_scope("files")?;
    let found = call.state.files.get(id);
    let (id, file) = found.ok_or_else(|| not_found("resource not found"))?;
    if file.access.starts_with("HIDDEN_") {
        call.need_scope("files.ui_hidden.read")?;
    }
    Ok((id, file))
}
