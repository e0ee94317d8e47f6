"""pika reads the destination's queue; the CloudEvents SDK for Python parses what it reads.

Called with the file of settings that run.py writes.
"""

import json
import sys
import time
from pathlib import Path

import pika
from check import check
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event

QUEUE = "crm.destination.pika"
READ_SECONDS_MAX = 60
MESSAGES_MAX = 10_000
PERSISTENT = 2

settings = json.loads(Path(sys.argv[1]).read_text())
folder = Path(settings["folder"])
expected = [json.loads((folder / f"expected-{sdk}.json").read_text()) for sdk in ("python", "node")]


def read():
    """Takes messages until every accepted event has come, at most for a while: pairs of properties and body."""
    connection = pika.BlockingConnection(pika.URLParameters(settings["amqp_url"]))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=50)
    missing = {event_id for deal in expected for event_id in deal["accepted"]}
    messages, deadline = [], time.monotonic() + READ_SECONDS_MAX
    for method, properties, body in channel.consume(QUEUE, inactivity_timeout=0.5):
        if method:
            channel.basic_ack(method.delivery_tag)
            messages.append((properties, body))
            missing -= {event.get("hubspot_event_id") for event in json.loads(body)["data"]["events"]}
        if not missing or time.monotonic() > deadline or len(messages) == MESSAGES_MAX:
            break
    channel.cancel()
    connection.close()
    return messages


def agrees(event, properties, body):
    """Whether the SDK's view of a message is what its AMQP properties and its plain JSON say."""
    plain = json.loads(body)
    data = event.get_data()
    newest = max(change["occurred_at"] for change in data["events"])
    return (
        properties.content_type == "application/cloudevents+json"
        and properties.delivery_mode == PERSISTENT
        and properties.message_id == event.get_id() == plain["id"]
        and properties.type == event.get_type() == plain["type"]
        and event.get_specversion() == "1.0"
        and event.get_source() == f"hubspot/{data['portal_id']}"
        and event.get_subject() == f"{data['object_type']}/{data['object_id']}"
        and event.get_type().startswith(f"crm.{data['object_type']}.")
        and event.get_datacontenttype() == "application/json"
        and event.get_time().isoformat(timespec="milliseconds").replace("+00:00", "Z") == newest
        and data == plain["data"]
    )


def is_complete(deal, data):
    """Whether `data` is the deal as it stands in the CRM, typed, with its company and its stage."""
    wanted = deal["properties"] | {"amount": 1234.5}
    record = data["record"]
    return (
        data["enrichment"]["status"] == "complete"
        and all(record["properties"].get(name) == value for name, value in wanted.items())
        and [company["id"] for company in data["associations"]["company"]] == [deal["company_id"]]
        and data["pipeline"]["stage"]["id"] == "qualifiedtobuy"
        and data["pipeline"]["stage"]["label"] == "Qualified To Buy"
    )


def check_deal(deal, events):
    """Checks what came of one SDK's deal: `events` are the CloudEvents of it, in the queue's order."""
    name = deal["properties"]["dealname"]
    seen = [change.get("hubspot_event_id") for event in events for change in event.get_data()["events"]]
    kinds = [change["kind"] for event in events for change in event.get_data()["events"]]
    check(f"pika: the simulator's own notification of {name} came", "created" in kinds, kinds)
    check(f"pika: every accepted event of {name} came", set(deal["accepted"]) <= set(seen), seen)
    check(f"pika: no refused event of {name} came", not set(deal["refused"]) & set(seen), seen)
    last = events[-1].get_data() if events else None
    check(f"pika: {name} is complete and typed", last and is_complete(deal, last), last)
    versions = [event.get_data()["version"] for event in events]
    check(f"pika: the versions of {name} rise", versions == sorted(set(versions)), versions)


def main():
    messages = read()
    check("pika: the queue has messages", messages, len(messages))
    events = [
        from_rabbitmq_event(RabbitMQMessage(properties.headers or {}, properties.content_type, body))
        for properties, body in messages
    ]
    odd = [body.decode() for event, (properties, body) in zip(events, messages) if not agrees(event, properties, body)]
    check("CloudEvents' Python SDK agrees with every message's fields", messages and not odd, odd[:1])
    ids = []
    for deal in expected:
        of_deal = [event for event in events if event.get_subject() == f"deal/{deal['deal_id']}"]
        check_deal(deal, of_deal)
        ids.extend(event.get_id() for event in of_deal)
    (folder / "seen-pika.json").write_text(json.dumps(sorted(ids)))


main()
