"""A real RabbitMQ: Debian's server, as a process of the tests with its own data, name and Erlang port mapper.

Its own scripts start it: they need neither systemd nor the user `rabbitmq`. Told that systemd runs it, the script becomes the
server, so that signals reach that.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.certificates import Authority
from harness.machine import require
from harness.processes import Child, free_port

SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users = none
log.console.level = warning
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 67108864
"""
_TLS = """\
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {folder}/ca.pem
ssl_options.certfile = {folder}/broker.pem
ssl_options.keyfile = {folder}/broker.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""


class RabbitMQ:
    """A running broker: `url`, and `tls_url` for who has a certificate of `authority`; its data goes with it."""

    def __init__(self) -> None:
        require("erl", "epmd", str(SCRIPT))
        self._data = Path(tempfile.mkdtemp(prefix="podpair-rabbitmq-"))
        self.port, tls_port, mapper = free_port(), free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.tls_url = f"amqps://guest:guest@localhost:{tls_port}/"
        self.authority = Authority("podpair test RabbitMQ")
        self._write_certificates()
        config = self._data / "rabbitmq.conf"
        config.write_text(_CONFIG.format(port=self.port) + _TLS.format(port=tls_port, folder=self._data))
        (self._data / "plugins").write_text("[].\n")
        self._environment = {
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "HOME": str(self._data),  # with the cookie
            "RABBITMQ_BASE": str(self._data),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._data / "plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": str(self._data / "mnesia"),
            "RABBITMQ_NODENAME": f"podpair-{os.getpid()}-{self.port}@localhost",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
            "RUNNING_UNDER_SYSTEMD": "1",
        }
        self._mapper = Child("epmd", env=self._environment)
        self.child = self._start()

    def _write_certificates(self) -> None:
        made = self.authority.issue("broker", hosts=("localhost", "127.0.0.1"))
        for name, text in (
            ("ca.pem", self.authority.certificate),
            ("broker.pem", made.certificate),
            ("broker.key", made.key),
        ):
            (self._data / name).write_text(text)

    def _start(self) -> Child:
        # It logs to standard output; the harness watches standard error.
        child = Child("sh", "-c", 'exec "$@" >&2', "sh", SCRIPT, env=self._environment)
        child.wait_for(lambda line: "completed with" in line or "startup complete" in line)
        return child

    def stop_serving(self) -> None:
        """Stop the broker as one does for maintenance; its data stays."""
        self.child.stop(timeout=60)

    def crash(self) -> None:
        """End the broker as a node that dies; its data stays."""
        self.child.kill()

    def start(self) -> None:
        """Start it again. Returns when it serves."""
        self.child = self._start()

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl. Returns what it prints; slow."""
        command = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", "-n", self._environment["RABBITMQ_NODENAME"], *arguments]
        environment = {**os.environ, **self._environment}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout

    def stop(self) -> None:
        """End the broker and forget its data."""
        self.child.kill()
        self._mapper.kill()
        shutil.rmtree(self._data, ignore_errors=True)
