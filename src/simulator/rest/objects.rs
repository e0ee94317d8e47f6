//! `/crm/v3/objects/{type}` and `/crm/objects/{date}/{type}`: which handler for which path.

use super::{Call, Handled, associations, no_route, read, search, write};

pub(crate) fn handle(call: &mut Call<'_>, path: &[&str]) -> Handled {
    let Some((object_type, rest)) = path.split_first() else {
        return Err(no_route());
    };
    if let [id, "associations", rest @ ..] = rest {
        return associations::of_record(call, (object_type, id), rest);
    }
    let object_type = call.object_type(object_type)?.id;
    match (call.method, rest) {
        ("GET", []) => read::list(call, object_type),
        ("POST", []) => write::create(call, object_type),
        ("POST", ["search"]) => search::search(call, object_type),
        ("POST", ["merge"]) => write::merge(call, object_type),
        ("POST", ["gdpr-delete"]) => write::gdpr_delete(call, object_type),
        ("POST", ["batch", "read"]) => read::batch_read(call, object_type),
        ("POST", ["batch", "create"]) => write::batch_create(call, object_type),
        ("POST", ["batch", "update"]) => write::batch_update(call, object_type),
        ("POST", ["batch", "archive"]) => write::batch_archive(call, object_type),
        ("GET", [id]) => read::single(call, object_type, id),
        ("PATCH", [id]) => write::update(call, object_type, id),
        ("DELETE", [id]) => write::archive(call, object_type, id),
        _ => Err(no_route()),
    }
}
