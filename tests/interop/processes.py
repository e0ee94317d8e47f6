"""Starts programs so that none outlives us, however we end.

Between us and each program stands a small shell script that waits on a pipe from this process. When the pipe
closes, because we say so or because we are gone, the script ends the program and all that it started.
"""

import random
import socket
import subprocess
import time
from pathlib import Path

# How long a program may take to end by itself before it is killed, in tenths of a second.
GRACE_TENTHS = 100
# How long between two looks whether something is there.
INTERVAL_SECONDS = 0.1
# How much of a program's output an error quotes.
QUOTED_CHARACTERS_MAX = 3000

WATCHDOG = """
grace=$1; shift
setsid "$@" </dev/null &
child=$!
read -r _
kill -TERM "-$child" 2>/dev/null || kill -TERM "$child" 2>/dev/null
while [ "$grace" -gt 0 ] && kill -0 "$child" 2>/dev/null; do grace=$((grace - 1)); sleep 0.1; done
kill -KILL "-$child" 2>/dev/null
wait
"""


class Process:
    """A running program, with its output in `<folder>/<name>.log`."""

    def __init__(self, name, command, folder, env=None):
        self.name = name
        self.log = Path(folder) / f"{name}.log"
        with self.log.open("wb") as log:
            self.watchdog = subprocess.Popen(
                ["sh", "-c", WATCHDOG, "watchdog", str(GRACE_TENTHS), *map(str, command)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, start_new_session=True,
            )

    def stop(self):
        """Ends the program: asked first, then killed."""
        self.watchdog.stdin.close()
        self.watchdog.wait(timeout=GRACE_TENTHS / 10 + 10)

    def wait_until(self, ready, seconds):
        """Waits until `ready()` is true.

        Raises `RuntimeError`, with the end of what the program said, when that takes more than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")[-QUOTED_CHARACTERS_MAX:]
                raise RuntimeError(f"{self.name} was not ready within {seconds} s; it said:\n{said}")
            time.sleep(INTERVAL_SECONDS)


# None that Linux or the tests in Rust may take meanwhile.
PORTS = iter(random.sample(range(10_000, 12_000), 2_000))


def free_port():
    """A port of the loopback address that nobody listens on; another one each time."""
    for port in PORTS:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no port is free")
