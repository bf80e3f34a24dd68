"""Two pairs on three brokers, each process of which can be killed, frozen or restarted, and comes back where it was."""

import signal
from pathlib import Path
from typing import Any

from harness.kafka_cluster import KafkaCluster
from harness.pair import Gateway, Inference
from harness.processes import Child, free_port
from harness.unruly import UnrulyModel

GROUP, REQUESTS, RESULTS = "fire", "fire.requests", "fire.results"


class Pair:
    """A gateway and its inference container, each at an address of its own for life."""

    def __init__(self, brokers: KafkaCluster, folder: Path, *, unruly: bool) -> None:
        self._folder = folder
        self.inference = Inference()
        # What stands before the model, in one of the pairs, and makes it misbehave when it is told to.
        self.unruly = UnrulyModel(self.inference.port) if unruly else None
        self._config: dict[str, Any] = {
            "http": {"port": free_port()},
            "kafka": {"bootstrap_servers": brokers.addresses},
            "requests": {"topic": REQUESTS, "group": GROUP, "replication": 3, "session_timeout_seconds": 6},
            "results": {"topic": RESULTS, "replication": 3, "tail_cache_bytes": 4 << 20},
            "inference": {"url": self.inference.url if self.unruly is None else self.unruly.url},
            "sessions": {
                "drain_seconds": 3,
                "buffer_bytes": 128 << 10,
                "slow_consumer_timeout_seconds": 2,
                "heartbeat_seconds": 5,
            },
        }
        self._before: list[Gateway] = []
        self.gateway = self._begin()
        self.ws = f"ws://127.0.0.1:{self._config['http']['port']}/v1/ws"

    def _begin(self) -> Gateway:
        gateway = Gateway(self._folder, self._config, wait=False)
        gateway.url = f"http://127.0.0.1:{self._config['http']['port']}"  # who asks before it listens is told so
        return gateway

    @property
    def gateways(self) -> list[Gateway]:
        """The gateway, after those that were killed or stopped before it."""
        return [*self._before, self.gateway]

    def start_gateway(self) -> None:
        """Start it again. Returns when it listens."""
        self._before.append(self.gateway)
        self.gateway = self._begin()
        self.gateway.wait_for_message("ready")

    def start_inference(self) -> None:
        """Start it again. Returns when it answers."""
        self.inference = Inference(self.inference.port)

    def unforeseen(self) -> list[str]:
        """Exceptions that the gateways logged with their tracebacks: nobody expected them."""
        logs = [record for gateway in self.gateways for record in gateway.log]
        return [f"{record['message']}: {record['exc_info']}" for record in logs if "exc_info" in record]

    def ended(self) -> list[str]:
        """Which halves have ended by themselves."""
        halves: dict[str, Child] = {"gateway": self.gateway, "inference": self.inference}
        if self.unruly is not None:
            halves["what stands before the model"] = self.unruly
        return [
            f"{name} ended: " + "\n".join(half.lines[-20:])
            for name, half in halves.items()
            if half.process.poll() is not None
        ]

    def close(self) -> None:
        """End both."""
        self.gateway.kill()
        self.inference.kill()
        if self.unruly is not None:
            self.unruly.kill()


class Fleet:
    """What the faults are done to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.brokers = KafkaCluster()
        self.pairs: list[Pair] = []
        try:
            self.pairs += (Pair(self.brokers, folder, unruly=unruly) for unruly in (False, True))
            for pair in self.pairs:
                pair.gateway.wait_for_message("ready")
                pair.gateway.wait_ready()
        except BaseException:
            self.close()
            raise

    def ended(self) -> list[str]:
        """What has ended by itself, and the last it said. Nothing may be stopped at the time."""
        brokers = [f"a broker ended: {last}" for member in self.brokers.members if (last := member.ended()) is not None]
        return [*brokers, *(fault for pair in self.pairs for fault in pair.ended())]

    def keep_logs(self) -> Path:
        """Write the gateways' logs and metrics beside their configurations; the folder."""
        for number, pair in enumerate(self.pairs):
            for index, gateway in enumerate(pair.gateways):
                (self._folder / f"gateway-{number}-{index}.log").write_text("\n".join(gateway.lines))
            (self._folder / f"gateway-{number}.metrics").write_text(pair.gateway.get("/metrics")[1])
        return self._folder

    def close(self) -> None:
        """End everything."""
        for pair in self.pairs:
            pair.close()
        self.brokers.close()


def freeze(process: Gateway | Inference) -> None:
    """SIGSTOP: connections stay, and nothing answers."""
    process.process.send_signal(signal.SIGSTOP)


def thaw(process: Gateway | Inference) -> None:
    """SIGCONT."""
    process.process.send_signal(signal.SIGCONT)


def resident_mb(process: Gateway | Inference) -> float | None:
    """Resident memory in MB; None for a process that has ended."""
    try:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * 4096 / 1e6
