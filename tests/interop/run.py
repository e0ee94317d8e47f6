"""Runs the relay between a simulated HubSpot and a real RabbitMQ, and lets other people's clients look at it.

Called by run.sh, which installs what this needs: `run.py <crm-relay binary> <node_modules>`. Every check is a line
that begins with `ok` or `FAILED`; the last line counts them. Everything is on loopback, on free ports, in a folder
that is removed, and stopped at the end however that comes about.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from broker import Broker
from examples import LANGUAGES, check_examples
from processes import Process, free_port

HERE = Path(__file__).parent
PORTAL_ID = "8241"
CLIENT_SECRET = "interop-client-secret"
ACCESS_TOKEN = "pat-na1-interop"
PUBLIC_URL = "https://relay.example.com/webhooks/hubspot"
# Changes a second that the simulator makes meanwhile, so that the clients see records of many types.
BACKGROUND_RATE = "5"
READY_SECONDS = 60
CLIENT_SECONDS = 120
# In this order: the consumers look for what the SDKs left behind.
CLIENTS = [
    [sys.executable, "hubspot_sdk.py"],
    ["node", "hubspot_sdk.js"],
    [sys.executable, "consumer_pika.py"],
    ["node", "consumer_amqplib.js"],
    [sys.executable, "consumer_binary.py"],
    ["node", "asyncapi.js"],
]

CONFIG = """\
[receiver]
listen = "127.0.0.1:{receiver_port}"
public_url = "{public_url}"
[admin]
listen = "127.0.0.1:{admin_port}"
[app.interop]
client_secrets = ["env:HUBSPOT_CLIENT_SECRET"]
signatures = ["v3", "v2", "v1"]
[bus]
url = "{amqp_url}"
[hubspot]
base_url = "{hubspot_url}"
[portal.{portal_id}]
access_token = "env:HUBSPOT_TOKEN"
[enrich.deal]
properties = ["*"]
associations = ["company"]
[destination.pika]
kind = "queue"
[destination.amqplib]
kind = "queue"
[destination.binary]
kind = "queue"
format = "binary"
[destination.plain]
kind = "queue"
content = "event"
format = "binary"
""" + "".join(f'[destination.{language}]\nkind = "queue"\n' for language in LANGUAGES)


class Score:
    """Counts what was checked."""

    def __init__(self):
        self.passed = self.failed = 0

    def line(self, line):
        """Shows a line of a client's, and counts it if it is a check."""
        print(line, flush=True)
        self.passed += line.startswith("ok ")
        self.failed += line.startswith("FAILED ")

    def check(self, claim, holds, found):
        """A check of our own."""
        self.line(f"ok      {claim}" if holds else f"FAILED  {claim}: {found}")


def main():
    binary, node_modules = Path(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    score = Score()
    try:
        look(binary, node_modules, score)
    except RuntimeError as error:
        score.check("broker, simulator and relay start", False, error)
    print(f"{score.passed} passed, {score.failed} failed")
    return 1 if score.failed or not score.passed else 0


def look(binary, node_modules, score):
    """Starts everything, runs one client after the other, and stops everything."""
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="crm-relay-interop-")))
        settings = start_everything(binary, folder, cleanup)
        for client in CLIENTS:
            run_client(client, settings, node_modules, score)
        check_same_events(folder, score)
        check_examples(json.loads(settings.read_text()), binary, node_modules, score)
        print_logs_on_failure(folder, score)


def start_everything(binary, folder, cleanup):
    """Starts broker, simulator and relay; gives the file of settings that the clients are called with."""
    broker = Broker(folder)
    cleanup.callback(broker.stop)
    ports = {name: free_port() for name in ("receiver_port", "admin_port", "hubspot_port")}
    settings = {
        "folder": str(folder),
        "portal_id": PORTAL_ID,
        "client_secret": CLIENT_SECRET,
        "access_token": ACCESS_TOKEN,
        "public_url": PUBLIC_URL,
        "amqp_url": broker.url,
        "hubspot_url": f"http://127.0.0.1:{ports['hubspot_port']}",
        "receiver_url": f"http://127.0.0.1:{ports['receiver_port']}/webhooks/hubspot",
    }
    start_relay(binary, folder, settings | ports, cleanup)
    start_simulator(binary, folder, settings | ports, cleanup)
    path = folder / "settings.json"
    path.write_text(json.dumps(settings))
    return path


def start_relay(binary, folder, settings, cleanup):
    """`crm-relay run`, ready."""
    config = folder / "relay.toml"
    config.write_text(CONFIG.format(**settings))
    env = os.environ | {"HUBSPOT_CLIENT_SECRET": CLIENT_SECRET, "HUBSPOT_TOKEN": ACCESS_TOKEN}
    relay = Process("relay", [binary, "run", "--config", config], folder, env)
    cleanup.callback(relay.stop)
    ready = f"http://127.0.0.1:{settings['admin_port']}/readyz"
    relay.wait_until(lambda: status(ready) == 200, READY_SECONDS)


def start_simulator(binary, folder, settings, cleanup):
    """`crm-relay simulate` as HubSpot, answering."""
    command = [
        binary, "simulate", "--listen", f"127.0.0.1:{settings['hubspot_port']}", "--seed", "1",
        "--portal", PORTAL_ID, "--token", ACCESS_TOKEN, "--client-secret", CLIENT_SECRET,
        "--target", settings["receiver_url"], "--signed-url", PUBLIC_URL, "--rate", BACKGROUND_RATE,
    ]
    simulator = Process("simulator", command, folder)
    cleanup.callback(simulator.stop)
    simulator.wait_until(lambda: status(settings["hubspot_url"]) is not None, READY_SECONDS)


def status(url):
    """The HTTP status of a GET, or `None` when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def run_client(client, settings, node_modules, score):
    """Runs one client and counts its checks. A client that breaks, or checks nothing, is a failed check."""
    name, before = client[-1], score.passed + score.failed
    command = [client[0], str(HERE / name), str(settings)]
    env = os.environ | {"NODE_PATH": node_modules, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=CLIENT_SECONDS,
        )
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        output, code = (error.stdout or b"").decode(errors="replace"), "none in time"
    for line in output.splitlines():
        score.line(line)
    checked = score.passed + score.failed - before
    if code != 0 or checked == 0:
        score.check(f"{name} ran to its end", False, f"exit code {code} after {checked} checks")


def check_same_events(folder, score):
    """Both queues got the same CloudEvents about the SDKs' deals."""
    files = [folder / f"seen-{client}.json" for client in ("pika", "amqplib")]
    seen = [json.loads(file.read_text()) if file.exists() else None for file in files]
    same = bool(seen[0]) and seen[0] == seen[1]
    score.check("pika and amqplib saw the same CloudEvents of the two deals", same, seen)


def print_logs_on_failure(folder, score):
    """The end of what relay and simulator said, where a check failed."""
    if score.failed:
        for name in ("relay", "simulator"):
            said = (folder / f"{name}.log").read_text(errors="replace")[-3000:]
            print(f"-- the end of what the {name} said:\n{said}")


if __name__ == "__main__":
    started = time.monotonic()
    code = main()
    print(f"in {time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(code)
