//! Error bodies as HubSpot sends them. `correlationId` is added where the reply leaves, see [`super::super::server`].

use serde_json::{Value, json};

use super::Reply;
use crate::simulator::change::{Change, ChangeError, InvalidValue};
use crate::simulator::limits::Refused;
use crate::simulator::types::{self, TypeId};

pub(crate) fn error(status: u16, category: &str, message: &str) -> Reply {
    Reply::with(
        status,
        json!({"status": "error", "message": message, "category": category}),
    )
}

pub(crate) fn validation(message: &str) -> Reply {
    error(400, "VALIDATION_ERROR", message)
}

pub(crate) fn not_found(message: &str) -> Reply {
    error(404, "OBJECT_NOT_FOUND", message)
}

pub(crate) fn unauthorized() -> Reply {
    let message = "Authentication credentials not found. This API supports OAuth 2.0 authentication and you can find more details at https://developers.hubspot.com/docs/methods/auth/oauth-overview";
    error(401, "INVALID_AUTHENTICATION", message)
}

pub(crate) fn revoked() -> Reply {
    error(
        401,
        "EXPIRED_AUTHENTICATION",
        "The access token is expired or revoked.",
    )
}

pub(crate) fn missing_scope(scope: &str) -> Reply {
    let message = "This app hasn't been granted all required scopes to make this call. Read more about required scopes here: https://developers.hubspot.com/scopes.";
    let scopes = json!({"requiredGranularScopes": [scope]});
    Reply::with(
        403,
        json!({"status": "error", "message": message, "category": "MISSING_SCOPES", "context": scopes,
            "errors": [{"message": "One or more of the following scopes are required.", "context": scopes}]}),
    )
}

/// A refusal by a limit. A search's has neither `policyName` nor `errorType`.
pub(crate) fn rate_limited(refused: Refused) -> Reply {
    let (limit, policy) = match refused {
        Refused::Daily => ("daily", "DAILY"),
        Refused::TenSecondly => ("ten_secondly_rolling", "TEN_SECONDLY_ROLLING"),
        Refused::Secondly => {
            return error(429, "RATE_LIMITS", "You have reached your secondly limit.");
        }
    };
    let message = format!("You have reached your {limit} limit.");
    Reply::with(
        429,
        json!({"status": "error", "message": message, "errorType": "RATE_LIMIT", "policyName": policy}),
    )
}

/// The body of an injected fault.
pub(crate) fn of_fault(status: u16) -> Reply {
    match status {
        401 => revoked(),
        429 => rate_limited(Refused::TenSecondly),
        423 => error(
            423,
            "LOCKED",
            "The resource is locked by a high volume sync.",
        ),
        477 => error(
            477,
            "MIGRATION_IN_PROGRESS",
            "This account is currently being migrated to another region.",
        ),
        _ => error(status, "INTERNAL_ERROR", "internal error"),
    }
}

/// The type a change is about.
pub(crate) fn object_type(change: &Change) -> TypeId {
    match change {
        Change::Create { object_type, .. } | Change::Merge { object_type, .. } => *object_type,
        Change::Update { key, .. } | Change::Archive { key } | Change::Restore { key } => key.0,
        Change::GdprDelete { .. } => types::CONTACT,
        Change::Associate { from, .. } | Change::Disassociate { from, .. } => from.0,
    }
}

/// The answer to a refused change.
pub(crate) fn of_change(change: &ChangeError, object_type: TypeId) -> Reply {
    match change {
        ChangeError::NotFound(..) => not_found("resource not found"),
        ChangeError::Refused(message) => validation(message),
        ChangeError::Taken { existing, .. } => {
            let name = types::of(object_type).singular;
            let name = name[..1].to_uppercase() + &name[1..];
            error(
                409,
                "CONFLICT",
                &format!("{name} already exists. Existing ID: {existing}"),
            )
        }
        ChangeError::Invalid(values) => invalid_values(values),
    }
}

fn invalid_values(values: &[InvalidValue]) -> Reply {
    let one = |value: &InvalidValue| json!({"isValid": false, "message": value.message, "error": value.code, "name": value.name});
    let inner = Value::Array(values.iter().map(one).collect());
    let message = format!("Property values were not valid: {inner}");
    let errors: Vec<Value> = values.iter().map(|value| json!({"message": value.message, "code": value.code, "context": {"propertyName": [value.name]}})).collect();
    Reply::with(
        400,
        json!({"status": "error", "message": message, "category": "VALIDATION_ERROR", "errors": errors}),
    )
}
