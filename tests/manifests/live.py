"""The metrics of a relay at work: on a private RabbitMQ, with the simulator as HubSpot, and after a few bad requests."""

import base64
import hashlib
import hmac
import os
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../interop"))
from broker import Broker  # noqa: E402
from processes import Process, free_port  # noqa: E402

SECRET = "made-up-secret"
TOKEN = "made-up-token"
PUBLIC_URL = "https://relay.example.com/webhooks/hubspot"
DESTINATION = "billing"
READY_SECONDS = 60
# What the relay shows only once it has worked: depths come every 15 s, budgets with HubSpot's first answers.
SIGNS_OF_WORK = [
    r'crm_relay_fan_out_copies_total\{outcome="delivered"\} [1-9]',
    rf'crm_relay_bus_queue_messages\{{queue="destination\.{DESTINATION}"\}} [1-9]',
    r'crm_relay_enrich_budget_remaining\{limit="daily"\} [1-9]',
    r'crm_relay_ingress_signature_failures_total\{reason="mismatch"\} 1$',
    r'crm_relay_ingress_signature_failures_total\{reason="missing"\} 1$',
    r'crm_relay_ingress_requests_total\{outcome="not_an_array"\} 2$',
]

CONFIG = """\
[receiver]
listen = "127.0.0.1:{receiver}"
public_url = "{public_url}"
[admin]
listen = "127.0.0.1:{admin}"
[app.main]
client_secrets = ["{secret}"]
[bus]
url = "{broker}"
[hubspot]
base_url = "http://127.0.0.1:{hubspot}"
[portal.8241]
access_token = "{token}"
[destination.{destination}]
kind = "queue"
"""


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def post(url, body, headers):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def signed(body, secret):
    timestamp = str(int(time.time() * 1000))
    text = f"POST{PUBLIC_URL}{body.decode()}{timestamp}".encode()
    digest = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return {"X-HubSpot-Signature-v3": base64.b64encode(digest).decode(), "X-HubSpot-Request-Timestamp": timestamp}


def send_bad_requests(url):
    post(url, b"[]", {})
    post(url, b"[]", signed(b"[]", "another secret"))
    for body in (b'{"not":"an array"}', b"no JSON"):
        post(url, body, signed(body, SECRET))


def live_metrics(program):
    """What /metrics of such a relay says."""
    with ExitStack() as cleanup:
        folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="crm-relay-manifests-"))
        broker = Broker(folder)
        cleanup.callback(broker.stop)
        ports = {name: free_port() for name in ("receiver", "admin", "hubspot")}
        config = f"{folder}/relay.toml"
        with open(config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(**ports, public_url=PUBLIC_URL, secret=SECRET, token=TOKEN, broker=broker.url, destination=DESTINATION))
        relay = Process("relay", [program, "run", "--config", config], folder)
        cleanup.callback(relay.stop)
        admin = f"http://127.0.0.1:{ports['admin']}"
        relay.wait_until(lambda: get(f"{admin}/readyz"), READY_SECONDS)
        url = f"http://127.0.0.1:{ports['receiver']}/webhooks/hubspot"
        simulator = Process("simulator", [
            program, "simulate", "--listen", f"127.0.0.1:{ports['hubspot']}", "--token", TOKEN, "--client-secret", SECRET,
            "--target", url, "--signed-url", PUBLIC_URL, "--rate", "20",
        ], folder)
        cleanup.callback(simulator.stop)
        send_bad_requests(url)
        relay.wait_until(lambda: works(get(f"{admin}/metrics")), READY_SECONDS)
        return get(f"{admin}/metrics")


def works(metrics):
    return all(re.search(f"^{sign}", metrics, re.M) for sign in SIGNS_OF_WORK)
