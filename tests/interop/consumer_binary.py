"""pika reads queues of binary messages; the CloudEvents SDK for Python makes events of headers and bodies.

Called with the file of settings that run.py writes, after consumer_pika.py, which saw the same events in structured mode.
"""

import json
import sys
from pathlib import Path

import pika
from check import check
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event

QUIET_SECONDS = 2
MESSAGES_MAX = 10_000
ATTRIBUTES = {"id", "source", "subject", "type", "time", "specversion", "datacontenttype"}

settings = json.loads(Path(sys.argv[1]).read_text())
folder = Path(settings["folder"])
expected = [json.loads((folder / f"expected-{sdk}.json").read_text()) for sdk in ("python", "node")]


def read(queue):
    """Takes messages until none comes for a while: triples of properties, body and what the SDK makes of them."""
    connection = pika.BlockingConnection(pika.URLParameters(settings["amqp_url"]))
    channel = connection.channel()
    messages = []
    for method, properties, body in channel.consume(queue, inactivity_timeout=QUIET_SECONDS):
        if not method or len(messages) == MESSAGES_MAX:
            break
        channel.basic_ack(method.delivery_tag)
        message = RabbitMQMessage(properties.headers, properties.content_type, body)
        messages.append((properties, body, from_rabbitmq_event(message)))
    channel.cancel()
    connection.close()
    return messages


def agrees(properties, body, event):
    """Whether the SDK's view is what the properties and the body say: all attributes, and the body as it is."""
    return (
        properties.content_type == "application/json" == event.get_datacontenttype()
        and set(event.get_attributes()) == ATTRIBUTES
        and properties.message_id == event.get_id()
        and properties.type == event.get_type()
        and event.get_specversion() == "1.0"
        and event.get_time().tzinfo is not None
        and event.get_data() == json.loads(body)
    )


def odd(messages):
    """Bodies of messages of which the SDK says something else."""
    return [body.decode() for properties, body, event in messages if not agrees(properties, body, event)]


def main():
    enriched = read("crm.destination.binary")
    check("binary: CloudEvents' Python SDK reads every enriched event", enriched and not odd(enriched), odd(enriched)[:1])
    subjects = [f"deal/{deal['deal_id']}" for deal in expected]
    ids = sorted(event.get_id() for _, _, event in enriched if event.get_subject() in subjects)
    structured = json.loads((folder / "seen-pika.json").read_text())
    check("binary: the deals' CloudEvents are those of structured mode", ids and ids == structured, (ids, structured))

    plain = read("crm.destination.plain")
    check("plain: CloudEvents' Python SDK reads every event", plain and not odd(plain), odd(plain)[:1])
    own = [event.get_id() == event.get_data()["id"] for _, _, event in plain]
    check("plain: an event's id is that of the CloudEvent", all(own), own)
    seen = {event.get_data().get("hubspot_event_id") for _, _, event in plain}
    accepted = {event_id for deal in expected for event_id in deal["accepted"]}
    refused = {event_id for deal in expected for event_id in deal["refused"]}
    check("plain: every accepted event came", accepted <= seen, accepted - seen)
    check("plain: no refused event came", not refused & seen, refused & seen)


main()
