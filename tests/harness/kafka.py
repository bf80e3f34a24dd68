"""A real Apache Kafka: one KRaft broker and controller, from the jars that Maven resolves, on this machine's Java."""

import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from harness.machine import require
from harness.processes import ROOT, Child, free_port

_HERE = Path(__file__).parent
_LIBS = ROOT / ".cache" / "kafka" / "libs"
_CONFIG = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=0
log.initial.task.delay.ms=0
"""


def libraries() -> Path:
    """The folder with the broker's jars, resolved on first use."""
    if not (_LIBS / ".resolved").exists():
        (maven,) = require("mvn")
        _LIBS.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                maven,
                "-q",
                "-B",
                "-f",
                str(_HERE / "pom.xml"),
                "dependency:copy-dependencies",
                f"-DoutputDirectory={_LIBS}",
            ],
            check=True,
            cwd=_LIBS,
        )
        (_LIBS / ".resolved").touch()
    return _LIBS


class Broker:
    """A running broker at `address`; its data goes with it."""

    def __init__(self, heap: str = "512m") -> None:
        (java,) = require("java")
        self._data = Path(tempfile.mkdtemp(prefix="podpair-kafka-"))
        self._java = [java, f"-Xms{heap}", f"-Xmx{heap}", "-XX:+UseSerialGC", "-Djava.awt.headless=true",
                      f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}", "-cp", f"{libraries()}/*"]  # fmt: skip
        port, controller = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self._config = self._data / "server.properties"
        self._config.write_text(_CONFIG.format(port=port, controller=controller, data=self._data / "log"))
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A", 1)
        subprocess.run(
            [*self._java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config)],
            check=True,
            capture_output=True,
        )
        self.child = self._start()

    def _start(self) -> Child:
        # log4j2 writes to standard output; the harness watches standard error.
        child = Child("sh", "-c", 'exec "$@" >&2', "sh", *self._java, "kafka.Kafka", self._config)
        child.wait_for(lambda line: "Kafka Server started" in line)
        return child

    def stop(self) -> None:
        """End the broker and forget its data."""
        self.child.kill()
        shutil.rmtree(self._data, ignore_errors=True)
