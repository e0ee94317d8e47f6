"""Runs the consumers under `examples/` as their first lines say, each on a destination's queue of its own.

The relay's own messages come to all of them; to each we add a message, its repeat, an older one and a tombstone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pika
from processes import Process

ROOT = Path(__file__).parent.parent.parent
SCHEMA = ROOT / "schemas/v1/enriched-event.json"
LANGUAGES = ["rust", "python", "typescript", "go"]
BUILD_SECONDS = 120
READ_SECONDS = 60
PERSISTENT = 2
SUBJECT = "contact/example"
OLDER, NEW, NEWER = "001700000000000-001700000000000", "001800000000000-001800000000000", "001900000000000-001900000000000"
EXPECTED = [
    f"{SUBJECT} {NEW} stored, 1 new events",
    f"{SUBJECT} {NEW} outdated, 0 new events",
    f"{SUBJECT} {OLDER} outdated, 1 new events",
    f"{SUBJECT} {NEWER} removed, 1 new events",
]


def check_examples(settings, binary, node_modules, score):
    """Builds, runs and checks every consumer."""
    folder = Path(settings["folder"])
    commands = build(folder, binary, node_modules)
    running = {}
    try:
        for language, command in commands.items():
            arguments = [settings["amqp_url"], f"crm.destination.{language}"]
            env = os.environ | {"NODE_PATH": node_modules, "PYTHONDONTWRITEBYTECODE": "1"}
            running[language] = Process(f"example-{language}", [*command, *arguments], folder, env)
            publish(settings["amqp_url"], arguments[1])
        for language, process in running.items():
            check_one(language, process, score)
    finally:
        for process in running.values():
            process.stop()
    deals = [lines(process, deal_subjects(folder)) for process in running.values()]
    same = bool(deals[0]) and all(other == deals[0] for other in deals)
    score.check("the examples agree about the two deals", same, deals)


def build(folder, binary, node_modules):
    """Makes types from the schema, and programs; gives the command of each language."""
    go, typescript, python = folder / "consumer-go", folder / "typescript", folder / "python"
    tools = {"NODE_PATH": node_modules}
    gopath = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(folder / "go-cache"), "GOFLAGS": ""}
    run(["go", "build", "-o", go, "."], ROOT / "examples/go", gopath)

    python.mkdir()
    generator = Path(sys.executable).parent / "datamodel-codegen"
    run([generator, "--input", SCHEMA, "--input-file-type", "jsonschema", "--output-model-type",
         "pydantic_v2.BaseModel", "--output", python / "enriched_event.py"], folder, {})
    (python / "consumer.py").write_text((ROOT / "examples/python/consumer.py").read_text())

    typescript.mkdir()
    (typescript / "consumer.ts").write_text((ROOT / "examples/typescript/consumer.ts").read_text())
    (typescript / "node_modules").symlink_to(node_modules)
    bin_folder = Path(node_modules) / ".bin"
    run([bin_folder / "json2ts", SCHEMA, typescript / "enriched-event.d.ts"], folder, tools)
    run([bin_folder / "tsc", "--strict", "--target", "es2022", "--module", "commonjs", "--types", "node", "consumer.ts"],
        typescript, tools)
    return {
        "rust": [Path(binary).parent / "examples/rust"],
        "python": [sys.executable, "-B", python / "consumer.py"],
        "typescript": ["node", typescript / "consumer.js"],
        "go": [go],
    }


def run(command, folder, env):
    """Runs a tool. Raises `RuntimeError`, with what it said, when it fails."""
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=os.environ | env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BUILD_SECONDS,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}")


def publish(url, queue):
    """A message, its repeat, an older one with an event of its own, and a tombstone with another."""
    message = json.loads((ROOT / "schemas/examples/contact.json").read_text())
    message["subject"] = SUBJECT

    def version(version, event_ids, **more):
        event = message["data"]["events"][0]
        events = [event | {"id": event_id * 32} for event_id in event_ids]
        return message | {"data": message["data"] | {"version": version, "events": events} | more}

    tombstone = {"record": None, "tombstone": {"reason": "deleted"}}
    messages = [version(NEW, "a"), version(NEW, "a"), version(OLDER, "b"), version(NEWER, "abc", **tombstone)]
    connection = pika.BlockingConnection(pika.URLParameters(url))
    # One channel: a broker keeps the order of what came over one, and of nothing else.
    channel = connection.channel()
    properties = pika.BasicProperties(content_type="application/cloudevents+json", delivery_mode=PERSISTENT)
    for body in messages:
        channel.basic_publish("", queue, json.dumps(body), properties)
    connection.close()


def check_one(language, process, score):
    """Whether the consumer said of our messages what it should."""
    try:
        process.wait_until(lambda: EXPECTED[-1] in process.log.read_text(), READ_SECONDS)
    except RuntimeError as error:
        print(error)
    said = lines(process, [SUBJECT])
    score.check(f"the example in {language} is idempotent by event id and ordered by version", said == EXPECTED, said)


def lines(process, subjects):
    """What the consumer said about these records."""
    said = process.log.read_text().splitlines()
    return [line for line in said if line.split(" ")[0] in subjects]


def deal_subjects(folder):
    """The deals that the SDKs made."""
    expected = [json.loads((folder / f"expected-{sdk}.json").read_text()) for sdk in ("python", "node")]
    return [f"deal/{deal['deal_id']}" for deal in expected]
