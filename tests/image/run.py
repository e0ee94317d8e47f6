"""Runs the program in the root of its image: read-only, as user 65532, without capabilities.

Measures idle memory and cold starts. Called by run.sh in a mount and process namespace of its own, so that mounts and processes end with it.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "interop"))
from broker import Broker
from processes import free_port

ROOT = sys.argv[1]
USER = "65532:65532"
PROGRAM = "/usr/local/bin/crm-relay"
ROLES = ["run", "receiver", "worker"]
STARTS = 10
READY_MAX = 20
IDLE_SECONDS = 20
STOP_MAX = 30

CONFIG = """
[receiver]
public_url = "https://relay.example.com/webhooks/hubspot"
[app.main]
client_secrets = ["env:HUBSPOT_CLIENT_SECRET"]
[portal.8241]
access_token = "env:HUBSPOT_TOKEN"
[destination.out]
kind = "ndjson"
path = "-"
[log]
format = "json"
"""


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def prepare(data):
    """What a container runtime does: mount points, a read-only root, one writable volume."""
    for folder in ("etc/crm-relay", "proc", "dev", "tmp"):
        os.makedirs(f"{ROOT}/{folder}", exist_ok=True)
    with open(f"{ROOT}/etc/crm-relay/relay.toml", "w", encoding="utf-8") as config:
        config.write(CONFIG)
    owner = os.stat(f"{ROOT}/var/lib/crm-relay")
    assert (owner.st_uid, owner.st_gid) == (65532, 65532), "the data folder is not the user's"
    os.chown(data, 65532, 65532)
    mount("--bind", ROOT, ROOT)
    mount("-o", "remount,bind,ro", ROOT)
    mount("-t", "proc", "proc", f"{ROOT}/proc")
    mount("--bind", data, f"{ROOT}/var/lib/crm-relay")


def command(*arguments):
    return ["setpriv", "--no-new-privs", "chroot", f"--userspec={USER}", ROOT, PROGRAM, *arguments]


def environment(receiver=0, admin=0, bus_url=None):
    bus = {"CRM_RELAY__BUS__URL": bus_url} if bus_url else {}
    return bus | {
        "CRM_RELAY_CONFIG": "/etc/crm-relay/relay.toml",
        "CRM_RELAY__RECEIVER__LISTEN": f"127.0.0.1:{receiver}",
        "CRM_RELAY__ADMIN__LISTEN": f"127.0.0.1:{admin}",
        "CRM_RELAY__BUS__DATA_DIR": "/var/lib/crm-relay",
        "HUBSPOT_CLIENT_SECRET": "a-client-secret-for-tests",
        "HUBSPOT_TOKEN": "a-token-for-tests",
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "PATH": os.environ["PATH"],
    }


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return None, ""


class Relay:
    """The program in a role, from the start until it is ready. `run` has the embedded bus, the others RabbitMQ."""

    def __init__(self, role, bus_url):
        self.admin = free_port()
        self.log = tempfile.TemporaryFile()
        begun = time.monotonic()
        self.process = subprocess.Popen(
            command(role), env=environment(free_port(), self.admin, None if role == "run" else bus_url), stdout=subprocess.DEVNULL, stderr=self.log
        )
        while self.get("/readyz")[0] != 200:
            assert self.process.poll() is None, self.text()
            assert time.monotonic() - begun < READY_MAX, "not ready in time: " + self.text()
            time.sleep(0.001)
        self.ready_seconds = time.monotonic() - begun

    def get(self, path):
        return get(f"http://127.0.0.1:{self.admin}{path}")

    def text(self):
        self.log.seek(0)
        return self.log.read().decode()

    def memory_mb(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup", encoding="ascii") as rollup:
            sizes = {line.split(":")[0]: int(line.split()[1]) for line in rollup if line.endswith("kB\n")}
        return sizes["Rss"] / 1024, sizes["Pss"] / 1024

    def status(self, key):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return next(line.split()[1] for line in status if line.startswith(key + ":"))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_MAX)


def main():
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory() as folder:
        prepare(data)
        version = subprocess.run(command("--version"), env=environment(), check=True, capture_output=True, timeout=30)
        print(version.stdout.decode().strip())

        # The demo keeps its store in a temporary folder, and the root is read-only.
        temporary = {**environment(), "TMPDIR": "/var/lib/crm-relay"}
        demo = subprocess.run(command("demo", "--events", "20", "--json"), env=temporary, capture_output=True, timeout=120)
        assert demo.returncode == 0, demo.stderr.decode()[-800:]
        messages = demo.stdout.decode().splitlines()
        assert len(messages) >= 20, f"the demo made {len(messages)} messages"
        print(f"demo: {len(messages)} messages")

        broker = Broker(folder)
        try:
            for role in ROLES:
                measure(role, broker.url)
        finally:
            broker.stop()


def measure(role, bus_url):
    """Idle memory, and how long a start takes."""
    relay = Relay(role, bus_url)
    assert relay.status("Uid") == "65532" and int(relay.status("CapEff"), 16) == 0 and relay.status("NoNewPrivs") == "1"
    assert "crm_relay_bus_connected 1" in relay.get("/metrics")[1]
    time.sleep(IDLE_SECONDS)
    rss, pss = relay.memory_mb()
    assert relay.stop() == 0, relay.text()
    assert '"WARN"' not in relay.text() and '"ERROR"' not in relay.text(), relay.text()
    starts = []
    for _ in range(STARTS):
        relay = Relay(role, bus_url)
        starts.append(relay.ready_seconds * 1_000)
        assert relay.stop() == 0, relay.text()
    print(
        f"{role}: {rss:.1f} MB resident ({pss:.1f} MB proportional) after {IDLE_SECONDS} idle s;"
        f" start to ready, {STARTS} times: median {statistics.median(starts):.0f} ms, {min(starts):.0f} to {max(starts):.0f}"
    )


main()
