"""A consumer in Python: `python consumer.py amqp://guest:guest@127.0.0.1:5672/%2f crm.destination.billing`.

`enriched_event.py` is made from the schema:

    datamodel-codegen --input schemas/v1/enriched-event.json --input-file-type jsonschema \
        --output-model-type pydantic_v2.BaseModel --output examples/python/enriched_event.py

What it keeps is in memory here; keep it in a database, and write what a message changes in one transaction before
you acknowledge it.
"""

import sys

import pika
from enriched_event import EnrichedEvent


class Store:
    """What we know, by `source/subject`: one record of one portal."""

    def __init__(self):
        self.seen = set()
        self.versions = {}
        self.records = {}

    def take(self, message: EnrichedEvent) -> str:
        """Takes in a message, and says what came of it."""
        data = message.data
        new = {event.root.id for event in data.events} - self.seen
        self.seen |= new
        key = f"{message.source}/{message.subject}"
        # Of two messages about one record the one with the greater version is newer.
        if self.versions.get(key, "") >= data.version:
            state = "outdated"
        else:
            self.versions[key] = data.version
            if data.tombstone:
                self.records.pop(key, None)
                state = "removed"
            elif data.record:
                self.records[key] = data.record
                state = "stored"
            else:
                state = "unread"
        return f"{message.subject} {data.version} {state}, {len(new)} new events"


def main(url, queue):
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.basic_qos(prefetch_count=50)
    store = Store()
    for method, _, body in channel.consume(queue):
        print(store.take(EnrichedEvent.model_validate_json(body)), flush=True)
        channel.basic_ack(method.delivery_tag)


main(*sys.argv[1:])
