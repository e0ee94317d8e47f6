#!/usr/bin/env python3
"""Writes what fuzzing begins with into fuzz/corpus: what the tests have as vectors, signed where it must be."""

import base64
import hashlib
import hmac
import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
CORPUS = ROOT / "fuzz/corpus"
# As in fuzz_targets/signature.rs.
SECRET = "crm-relay-fuzz-secret"
URL = "https://relay.example.com"
NOW = "1795428000123"


def write(target, seeds):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        data = seed if isinstance(seed, bytes) else seed.encode()
        (folder / f"seed-{hashlib.sha1(data).hexdigest()[:12]}").write_bytes(data)


def notifications():
    return json.loads((ROOT / "tests/vectors/notifications.json").read_text())


def signatures():
    path, body = "/webhooks/hubspot", json.dumps(notifications()[:2], separators=(",", ":"))
    key = SECRET.encode()
    v3 = base64.b64encode(hmac.new(key, f"POST{URL}{path}{body}{NOW}".encode(), hashlib.sha256).digest()).decode()
    v2 = hashlib.sha256(f"{SECRET}POST{URL}{path}{body}".encode()).hexdigest()
    v1 = hashlib.sha256(f"{SECRET}{body}".encode()).hexdigest()
    query = "/with%20space?a=b&c=%2F"
    yield "\n".join([path, "POST", "", "", v3, NOW, body])
    yield "\n".join([path, "POST", v2, "v2", "", "", body])
    yield "\n".join([path, "POST", v1, "v1", "", "", body])
    yield "\n".join([path, "POST", v1, "", "", "", body])
    yield "\n".join([query, "GET", "", "", v3, NOW, ""])


def configs():
    readme = (ROOT / "README.md").read_text()
    for block in re.findall(r"```toml\n(.*?)```", readme, re.S):
        yield block
    for file in (ROOT / "k8s").rglob("relay.toml"):
        yield file.read_text()
    yield "$CRM_RELAY__BUS__PARTITIONS=4\n$CRM_RELAY__RECEIVER__PUBLIC_URL=[\"https://a/b\", \"https://c/d\"]\n[bus]\nurl = 'amqp://guest:hunter2@127.0.0.1:5672/%2f'\n"
    yield 'refresh_token = "hunter2"\napp = "main"\npaused = true\n'


def replies():
    """The JSON in the client's own unit tests."""
    for file in sorted((ROOT / "src/hubspot/client").rglob("*.rs")):
        for text in re.findall(r'r#"(\{.*?\})"#', file.read_text(), re.S):
            yield f"200\n{text}"
    yield '429 retry-after:10 x-hubspot-ratelimit-max:190 x-hubspot-ratelimit-remaining:0 date:Wed,\n{"policyName":"DAILY","category":"RATE_LIMITS"}'
    yield '207 x\n{"status":"COMPLETE","results":[],"numErrors":1,"errors":[{"status":"error","category":"OBJECT_NOT_FOUND","context":{"ids":["1"]}}],"completedAt":"2026-01-02T03:04:07.010Z"}'


def main():
    write("notification", (json.dumps(one, separators=(",", ":")) for one in notifications()))
    write("signature", signatures())
    write("config", configs())
    write("hubspot", replies())
    # A byte, a cut, and of a spool a name and a file.
    write("store", [b"\0\0\0\0\0", b"\0\0\x40\xff\0", bytes(range(250))])
    write("spool", [b"\0\0\0\0\0", b"\1\0\x40\xff\0", b"\2\0\0\xfe\0" + b"18446744073709551615-40-1795428000123-016d61726b657273.v1.spool", b"\1\0\0\xfd\0\x01markers\0\0\0\x01"])


if __name__ == "__main__":
    main()
