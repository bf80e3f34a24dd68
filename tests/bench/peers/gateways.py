"""The gateways that fan-out is measured on: podpair's, and what a user would pick instead."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.peers import building
from harness.pair import SECRET, Gateway
from harness.processes import Child, free_port


class Target(NamedTuple):
    """A gateway that runs: its process, where its sessions connect, and the dialect that they and the records speak."""

    child: Child
    url: str
    dialect: str


Starter = Callable[[str, str, Path], Target]


def podpair(brokers: str, topic: str, folder: Path, sources: Path | None = None) -> Target:
    """`podpair-gateway serve`, with all that it does by default; `sources`: of another checkout's gateway."""
    config: dict[str, Any] = {
        "kafka": {"bootstrap_servers": brokers},
        "results": {"topic": topic},
        "requests": {"partitions": 8},
        "limits": {"sessions": 20_000},
    }
    gateway = Gateway(folder, config, env={} if sources is None else {"PYTHONPATH": os.fspath(sources)})
    return Target(gateway, gateway.ws, "podpair")


def native(form: str, read_buffer: int) -> Starter:
    """The Rust gateway, in one of its forms."""

    def start(brokers: str, topic: str, folder: Path) -> Target:
        program = building.rust("native_gateway")
        arguments = ["--form", form, "--read-buffer", str(read_buffer)]
        return _started([str(program)], arguments, brokers, topic, "/v1/ws", "native")

    return start


def node(brokers: str, topic: str, folder: Path) -> Target:
    """The Node.js gateway."""
    return _started(building.node("node_gateway", "gateway.mjs"), [], brokers, topic, "/v1/ws", "native")


def socketio(brokers: str, topic: str, folder: Path) -> Target:
    """python-socketio with its Kafka manager."""
    command = building.python("socketio_gateway", "gateway.py")
    return _started(command, [], brokers, topic, "/socket.io/?EIO=4&transport=websocket", "socketio")


GATEWAYS: dict[str, Starter] = {
    "podpair": podpair,
    "native, index, 4 KiB": native("index", 4096),
    "native, index, 128 KiB": native("index", 131_072),
    "native, broadcast, 4 KiB": native("broadcast", 4096),
    "native, broadcast, 128 KiB": native("broadcast", 131_072),
    "Node.js": node,
    "python-socketio": socketio,
}


def _started(command: list[str], arguments: list[str], brokers: str, topic: str, path: str, dialect: str) -> Target:
    port = free_port()
    given = [*arguments, "--port", str(port), "--brokers", brokers, "--topic", topic, "--secret", SECRET]
    # A peer says `ready` on standard output; the harness reads standard error.
    child = Child("sh", "-c", 'exec "$@" >&2', "sh", *command, *given)
    child.wait_for(lambda line: line == "ready")
    return Target(child, f"ws://127.0.0.1:{port}{path}", dialect)
