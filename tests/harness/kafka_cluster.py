"""Three real Kafka brokers, each controller as well, of which one at a time may be killed, restarted or frozen.

Records are on three brokers and acknowledged when two have them, so that no acknowledged record goes with one broker.
"""

import shutil
import signal
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from harness.kafka import LOG_CONFIG, libraries
from harness.machine import require
from harness.processes import Child, free_port

# A broker that does not answer is fenced after 3 s instead of 9, and a leader that is gone replaced after 1 s instead of 2.
_CONFIG = """\
process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{address},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{address}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
default.replication.factor=3
min.insync.replicas=2
unclean.leader.election.enable=false
offsets.topic.replication.factor=3
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=4
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
controller.quorum.fetch.timeout.ms=1500
controller.quorum.election.timeout.ms=500
replica.lag.time.max.ms=3000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
"""


class Member:
    """One broker: its data stays when it is killed, and it comes back at the same address."""

    def __init__(self, number: int, folder: Path, voters: list[str], address: str, cluster: str, heap: str) -> None:
        (java,) = require("java")
        self.address = address
        self._java = [
            java, f"-Xms{heap}", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={LOG_CONFIG}", "-cp", f"{libraries()}/*",
        ]  # fmt: skip
        self._config = folder / f"broker-{number}.properties"
        quorum = ",".join(f"{n}@{voter}" for n, voter in enumerate(voters, 1))
        told = _CONFIG.format(
            number=number, voters=quorum, address=address, controller=voters[number - 1], data=folder / f"log-{number}"
        )
        self._config.write_text(told)
        subprocess.run(
            [*self._java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config)],
            check=True,
            capture_output=True,
        )
        self._child = self._begin()

    def _begin(self) -> Child:
        return Child("sh", "-c", 'exec "$@" >&2', "sh", *self._java, "kafka.Kafka", self._config)

    def start(self) -> None:
        """Start it again, after it was killed or stopped. Returns before it is ready."""
        self._child = self._begin()

    def wait_ready(self) -> None:
        """Until it has caught up with the controllers and serves."""
        self._child.wait_for(lambda line: "Kafka Server started" in line)

    def ended(self) -> str | None:
        """The last it said, where it has ended by itself; None while it lives."""
        return None if self._child.process.poll() is None else "\n".join(self._child.lines[-20:])

    def kill(self) -> None:
        """SIGKILL."""
        self._child.kill()

    def stop(self) -> None:
        """SIGTERM: leaders are handed over first."""
        self._child.stop(timeout=60)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay, and nothing answers."""
        self._child.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._child.process.send_signal(signal.SIGCONT)


class KafkaCluster:
    """Three members; `addresses` is what a client's bootstrap.servers takes."""

    def __init__(self, heap: str = "320m") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="podpair-kafka-"))
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A", 1)
        voters = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        self.members: list[Member] = []
        try:
            for number in (1, 2, 3):
                address = f"127.0.0.1:{free_port()}"
                self.members.append(Member(number, self._folder, voters, address, cluster, heap))
            for member in self.members:
                member.wait_ready()
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> str:
        return ",".join(member.address for member in self.members)

    def close(self) -> None:
        """End the brokers and forget their data."""
        for member in self.members:
            member.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
