"""A private RabbitMQ node: own name, ports, data and epmd, on loopback only.

`RELAY_RABBITMQ=path` takes another version: a `rabbitmq-server`, or the folder it is in.
"""

import os
import socket
from pathlib import Path

from processes import Process, free_port

# It takes 5 to 10 seconds on an idle machine.
START_SECONDS = 120
# Debian's `/usr/sbin` has a wrapper that changes the user, so that is not among them.
USUAL_FOLDERS = ["/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"]


class Broker:
    """Starts a node and waits until it answers; its data is in `folder`."""

    def __init__(self, folder):
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/%2f"
        env = self._environment(Path(folder))
        epmd = ["epmd", "-port", env["ERL_EPMD_PORT"], "-address", "127.0.0.1"]
        self._epmd = Process("epmd", epmd, folder, env)
        try:
            self._node = Process("rabbitmq", [_find_folder() / "rabbitmq-server"], folder, env)
        except BaseException:
            self._epmd.stop()
            raise
        try:
            self._node.wait_until(self._answers, START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """Ends the node and what it registered with."""
        self._node.stop()
        self._epmd.stop()

    def _environment(self, folder):
        config, plugins = folder / "rabbitmq.conf", folder / "plugins"
        config.write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\ndisk_free_limit.absolute = 1MB\n")
        plugins.write_text("[].\n")
        return os.environ | {
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": f"interop-{os.getpid()}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _answers(self):
        """Whether a broker there begins AMQP's handshake: 1 is a method frame, `connection.start`."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as stream:
                stream.sendall(b"AMQP\x00\x00\x09\x01")
                return stream.recv(1) == b"\x01"
        except OSError:
            return False


def _find_folder():
    chosen = os.environ.get("RELAY_RABBITMQ")
    if chosen:
        chosen = Path(chosen)
        candidates = [chosen if chosen.is_dir() else chosen.parent]
    else:
        candidates = map(Path, USUAL_FOLDERS)
    for folder in candidates:
        if (folder / "rabbitmq-server").exists():
            return folder
    raise RuntimeError("no rabbitmq-server found: install Debian's package, or set RELAY_RABBITMQ to its path")
