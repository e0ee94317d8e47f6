//! The AsyncAPI document: where on the broker which message is.

use serde_json::{Value, json};

use crate::event::{DEAD_LETTER_CONTENT_TYPE, DEAD_LETTER_KIND, ENRICHED_CONTENT_TYPE};

/// The document, of AsyncAPI 3.0. Its payloads are the schemas beside it.
pub(super) fn document() -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "crm-relay",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Change data capture for HubSpot: each change with the complete record, in order per record. Fields are \
                            added to v1 and never given another meaning: ignore what you do not know.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": ENRICHED_CONTENT_TYPE,
        "servers": {
            "rabbitmq": {
                "host": "{host}",
                "protocol": "amqp",
                "protocolVersion": "0-9-1",
                "description": "The broker of `bus.url`.",
                "variables": {"host": {"default": "127.0.0.1:5672", "description": "Host and port."}},
            },
        },
        "channels": channels(),
        "operations": operations(),
        "components": {"messages": messages()},
    })
}

fn channels() -> Value {
    let prefix = json!({"default": "crm", "description": "`bus.prefix`."});
    json!({
        "destination": {
            "address": "{prefix}.destination.{name}",
            "description": "The queue of a destination of kind `queue`: every message that its patterns match, each confirmed.",
            "parameters": {
                "prefix": prefix,
                "name": {"description": "The destination's name, `[destination.<name>]` in the configuration."},
            },
            "messages": {
                "enrichedEvent": {"$ref": "#/components/messages/enrichedEvent"},
                "plainEvent": {"$ref": "#/components/messages/plainEvent"},
            },
            "bindings": {"amqp": queue("crm.destination.<name>")},
        },
        "enriched": topic(
            "crm.enriched",
            "enrichedEvent",
            "The topic exchange for queues of your own: bind them by patterns of these keys. A message has the keys \
             of all its events, the first as routing key and the rest in `CC`. Best effort: what no queue takes is gone.",
        ),
        "events": topic(
            "crm.events",
            "plainEvent",
            "The topic exchange of plain events, where `bus.events_topic` asks for them; keys as for `enriched`. Best effort.",
        ),
        "deadLetters": {
            "address": "{prefix}.dead.letters",
            "description": "The queue of all dead letters.",
            "parameters": {"prefix": prefix},
            "messages": {"deadLetter": {"$ref": "#/components/messages/deadLetter"}},
            "bindings": {"amqp": queue("crm.dead.letters")},
        },
        "dead": {
            "address": "{stage}.{reason}",
            "description": "The topic exchange of dead letters.",
            "parameters": {
                "stage": {"description": "Where it ended."},
                "reason": {"description": "Why."},
            },
            "messages": {"deadLetter": {"$ref": "#/components/messages/deadLetter"}},
            "bindings": {"amqp": exchange("crm.dead")},
        },
    })
}

/// A topic exchange for queues that others bind, by the keys of events.
fn topic(name: &str, message: &str, description: &str) -> Value {
    json!({
        "address": "{portal_id}.{object_type}.{kind}.{detail}",
        "description": description,
        "parameters": {
            "portal_id": {"description": "The account."},
            "object_type": {"description": "The readable name of the type."},
            "kind": {"description": "What happened: the `kind` of the event."},
            "detail": {"description": "The property that changed, or the type at the other end of an association; without one \
                                       the key ends before it."},
        },
        "messages": {message: {"$ref": format!("#/components/messages/{message}")}},
        "bindings": {"amqp": exchange(name)},
    })
}

fn operations() -> Value {
    let send = |channel: &str, message: &str, summary: &str| {
        json!({
            "action": "send",
            "channel": {"$ref": format!("#/channels/{channel}")},
            "messages": [{"$ref": format!("#/channels/{channel}/messages/{message}")}],
            "summary": summary,
            "bindings": {"amqp": {"deliveryMode": 2, "timestamp": true, "bindingVersion": "0.3.0"}},
        })
    };
    json!({
        "deliver": send("destination", "enrichedEvent", "A copy for a destination, in order per record, at least once."),
        "deliverPlain": send("destination", "plainEvent", "A copy for a destination with `content = \"event\"`, in order of arrival."),
        "announcePlain": send("events", "plainEvent", "The same for whoever has bound a queue."),
        "announce": send("enriched", "enrichedEvent", "The same for whoever has bound a queue."),
        "bury": send("deadLetters", "deadLetter", "What could not go on."),
        "announceDead": send("dead", "deadLetter", "The same by stage and reason."),
    })
}

fn messages() -> Value {
    json!({
        "enrichedEvent": {
            "name": "crm.<object_type>.enriched.v1",
            "title": "Enriched event",
            "summary": "One record's state with the events that led to it, or a tombstone; CloudEvents 1.0, structured JSON.",
            "contentType": ENRICHED_CONTENT_TYPE,
            "payload": {"$ref": "./v1/enriched-event.json"},
            "bindings": {"amqp": {"messageType": "crm.<object_type>.enriched.v1", "bindingVersion": "0.3.0"}},
        },
        "plainEvent": {
            "name": "crm.<object_type>.event.<kind>.v1",
            "title": "Plain event",
            "summary": "One change as HubSpot told of it, without its record; CloudEvents 1.0, structured JSON.",
            "contentType": ENRICHED_CONTENT_TYPE,
            "payload": {"$ref": "./v1/plain-event.json"},
            "bindings": {"amqp": {"messageType": "crm.<object_type>.event.<kind>.v1", "bindingVersion": "0.3.0"}},
        },
        "deadLetter": {
            "name": DEAD_LETTER_KIND,
            "title": "Dead letter",
            "summary": "What could not go on, whole, with the reason.",
            "contentType": DEAD_LETTER_CONTENT_TYPE,
            "payload": {"$ref": "./v1/dead-letter.json"},
            "bindings": {"amqp": {"messageType": DEAD_LETTER_KIND, "bindingVersion": "0.3.0"}},
        },
    })
}

fn queue(name: &str) -> Value {
    json!({
        "is": "queue",
        "queue": {"name": name, "durable": true, "exclusive": false, "autoDelete": false, "vhost": "/"},
        "bindingVersion": "0.3.0",
    })
}

fn exchange(name: &str) -> Value {
    json!({
        "is": "routingKey",
        "exchange": {"name": name, "type": "topic", "durable": true, "autoDelete": false, "vhost": "/"},
        "bindingVersion": "0.3.0",
    })
}
