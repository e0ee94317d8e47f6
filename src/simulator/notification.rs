//! Turns facts into notifications, with exactly the keys and widths that captures show for each kind.
//!
//! Sources: HubSpot's webhook reference and published captures. Values of properties are strings, dates among them as
//! milliseconds; an `associationChange` has no `objectId`, a merge no `changeFlag`; a generic one names its object type.

use serde_json::{Map, Value, json};

use super::change::Fact;
use super::definitions;
use super::inbox::ThreadFact;
use super::options::WebhookOptions;
use super::random::Random;
use super::record::Source;
use super::types::{self, COMMUNICATION, CONTACT, Category, EMAIL, TypeId};
use crate::event::Millis;

/// Properties that HubSpot offers no subscription for.
const SILENT: [&str; 3] = [
    "num_unique_conversion_events",
    "hs_lastmodifieddate",
    "lastmodifieddate",
];

/// What all notifications of one change share.
pub(crate) struct Context<'a> {
    pub(crate) webhook: &'a WebhookOptions,
    pub(crate) portal_id: u64,
    pub(crate) occurred_at: Millis,
    pub(crate) source: &'a Source,
}

/// The notifications of a fact: one for each family that is subscribed to, without `attemptNumber`.
pub(crate) fn notifications(
    fact: &Fact,
    context: &Context<'_>,
    random: &mut Random,
) -> Vec<Map<String, Value>> {
    if silent(fact) {
        return Vec::new();
    }
    let families = [classic_name(fact), generic_name(fact)];
    let made = families
        .into_iter()
        .flatten()
        .filter_map(|(kind, generic)| notification(fact, &kind, generic, context, random));
    made.collect()
}

/// What the Test button in an app's settings sends: signed, but of a record that does not exist.
pub(crate) fn of_test_button(context: &Context<'_>, subscription_type: &str) -> Map<String, Value> {
    let mut body = head(context, subscription_type, 100, subscription_type);
    body.insert("objectId".to_owned(), json!(123));
    if subscription_type.starts_with("object.") {
        body.insert("objectTypeId".to_owned(), json!(CONTACT));
    }
    if subscription_type.ends_with("propertyChange") {
        body.insert("propertyName".to_owned(), json!("email"));
        body.insert("propertyValue".to_owned(), json!("sample-value"));
    }
    body.insert("changeFlag".to_owned(), json!("NEW"));
    body.insert("changeSource".to_owned(), json!("CRM"));
    body
}

/// The notification of a change of a thread, which has neither `changeSource` nor `sourceId`.
pub(crate) fn of_thread(
    thread: u64,
    fact: &ThreadFact,
    context: &Context<'_>,
    random: &mut Random,
) -> Option<Map<String, Value>> {
    let (kind, more) = match fact {
        ThreadFact::Creation => ("creation", json!({"changeFlag": "CREATED"})),
        ThreadFact::Deletion => ("deletion", json!({"changeFlag": "DELETED"})),
        ThreadFact::PrivacyDeletion => ("privacyDeletion", json!({})),
        ThreadFact::NewMessage { id } => (
            "newMessage",
            json!({"messageId": id, "messageType": "MESSAGE", "changeFlag": "NEW_MESSAGE"}),
        ),
        ThreadFact::PropertyChange { name, value } => (
            "propertyChange",
            json!({"propertyName": name, "propertyValue": value}),
        ),
    };
    let kind = format!("conversation.{kind}");
    let subscription = context.webhook.subscriptions.matching(&kind, "", None)?;
    let mut body = head(context, &kind, random.next_u32(), &subscription);
    body.insert("objectId".to_owned(), json!(thread));
    body.extend(more.as_object().cloned().unwrap_or_default());
    Some(body)
}

fn notification(
    fact: &Fact,
    kind: &str,
    generic: bool,
    context: &Context<'_>,
    random: &mut Random,
) -> Option<Map<String, Value>> {
    let property = match fact {
        Fact::PropertyChange { name, .. } => Some(*name),
        _ => None,
    };
    let subscription =
        context
            .webhook
            .subscriptions
            .matching(kind, &object_type(fact).to_string(), property)?;
    // One subscription in HubSpot has one object type and one property: so many subscription ids.
    let subscription = format!(
        "{subscription}|{}|{}",
        object_type(fact),
        property.unwrap_or_default()
    );
    let mut body = head(context, kind, random.next_u32(), &subscription);
    add_object(&mut body, fact, generic);
    add_change(&mut body, fact, generic);
    body.insert("changeSource".to_owned(), json!(context.source.kind));
    if let Some(id) = &context.source.id {
        body.insert("sourceId".to_owned(), json!(id));
    }
    Some(body)
}

fn head(
    context: &Context<'_>,
    kind: &str,
    event_id: u32,
    subscription: &str,
) -> Map<String, Value> {
    let mut body = Map::new();
    let mut add = |name: &str, value: Value| body.insert(name.to_owned(), value);
    add("eventId", json!(event_id));
    add("subscriptionId", json!(subscription_id(subscription)));
    add("portalId", json!(context.portal_id));
    add("appId", json!(context.webhook.app_id));
    add("occurredAt", json!(context.occurred_at.as_i64()));
    add("subscriptionType", json!(kind));
    body
}

fn add_object(body: &mut Map<String, Value>, fact: &Fact, generic: bool) {
    let id = match fact {
        Fact::Creation { key }
        | Fact::Deletion { key }
        | Fact::Restore { key }
        | Fact::PropertyChange { key, .. } => key.1,
        Fact::PrivacyDeletion { id } => *id,
        Fact::Merge { new, .. } => *new,
        Fact::Association { .. } => return,
    };
    body.insert("objectId".to_owned(), json!(id));
    if generic {
        body.insert("objectTypeId".to_owned(), json!(object_type(fact)));
    }
}

fn add_change(body: &mut Map<String, Value>, fact: &Fact, generic: bool) {
    let mut add = |name: &str, value: Value| body.insert(name.to_owned(), value);
    match fact {
        Fact::Creation { .. } => _ = add("changeFlag", json!("CREATED")),
        Fact::Deletion { .. } => _ = add("changeFlag", json!("DELETED")),
        Fact::Restore { .. } | Fact::PrivacyDeletion { .. } => {}
        Fact::PropertyChange { key, name, value } => {
            let definition = &definitions::of(key.0)[name];
            add("propertyName", json!(name));
            add("propertyValue", json!(definition.in_notification(value)));
            if generic {
                add("isSensitive", json!(definition.sensitive));
            }
        }
        Fact::Merge {
            primary,
            merged,
            new,
            moved,
            ..
        } => {
            add("newObjectId", json!(new));
            add("primaryObjectId", json!(primary));
            add("mergedObjectIds", json!([merged]));
            add("numberOfPropertiesMoved", json!(moved));
        }
        Fact::Association {
            from,
            to,
            category,
            number,
            removed,
            primary,
        } => {
            add("associationType", json!(association_name(from.0, to.0)));
            if generic {
                add("associationCategory", json!(category));
                add("associationTypeId", json!(number));
                add("fromObjectTypeId", json!(from.0));
                add("toObjectTypeId", json!(to.0));
            }
            add("fromObjectId", json!(from.1));
            add("toObjectId", json!(to.1));
            add("associationRemoved", json!(removed));
            add("isPrimaryAssociation", json!(primary));
        }
    }
}

fn silent(fact: &Fact) -> bool {
    match fact {
        Fact::PropertyChange {
            key: (EMAIL, _),
            name,
            ..
        } if matches!(*name, "hs_email_html" | "hs_email_subject") => true,
        Fact::PropertyChange {
            key: (COMMUNICATION, _),
            name,
            ..
        } if *name == "hs_communication_body" => true,
        Fact::PropertyChange { key, name, .. } => {
            SILENT.contains(name) || definitions::of(key.0)[name].calculated
        }
        // User-defined labels are not supported by webhooks.
        Fact::Association { category, .. } => *category == Category::UserDefined,
        _ => false,
    }
}

fn classic_name(fact: &Fact) -> Option<(String, bool)> {
    let singular = types::of(object_type(fact)).singular;
    Some((format!("{singular}.{}", kind(fact)), false))
}

fn generic_name(fact: &Fact) -> Option<(String, bool)> {
    (!matches!(fact, Fact::PrivacyDeletion { .. }))
        .then(|| (format!("object.{}", kind(fact)), true))
}

fn kind(fact: &Fact) -> &'static str {
    match fact {
        Fact::Creation { .. } => "creation",
        Fact::Deletion { .. } => "deletion",
        Fact::Restore { .. } => "restore",
        Fact::PrivacyDeletion { .. } => "privacyDeletion",
        Fact::PropertyChange { .. } => "propertyChange",
        Fact::Merge { .. } => "merge",
        Fact::Association { .. } => "associationChange",
    }
}

fn object_type(fact: &Fact) -> TypeId {
    match fact {
        Fact::Creation { key }
        | Fact::Deletion { key }
        | Fact::Restore { key }
        | Fact::PropertyChange { key, .. } => key.0,
        Fact::PrivacyDeletion { .. } => CONTACT,
        Fact::Merge { object_type, .. } => *object_type,
        Fact::Association { from, .. } => from.0,
    }
}

/// `CONTACT_TO_COMPANY`.
fn association_name(from: TypeId, to: TypeId) -> String {
    let name = |id| types::of(id).singular.to_uppercase();
    format!("{}_TO_{}", name(from), name(to))
}

/// Seven digits that a subscription keeps (FNV-1a).
fn subscription_id(subscription: &str) -> u32 {
    let hash = subscription.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    1_000_000 + hash % 9_000_000
}
