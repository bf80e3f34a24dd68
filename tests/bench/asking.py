"""Gateways that are asked through WebSockets, one beside the other: for the benches of requests.

Sides (a configuration, another version's sources) are measured in turn within one run, because what else the machine does
moves every figure: what two sides say is compared round by round.
"""

import argparse
import json
import os
import ssl
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.askers import rows
from bench.measuring import cpu_seconds, rss_bytes, spread, thread_seconds
from bench.mlp import write_mlp
from harness.kafka import Broker
from harness.pair import SECRET, Gateway, Inference
from harness.processes import Conversation
from podpair.common.gateway_config.environment import merged

_UNITS = {
    "requests_per_s": "requests/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "gateway": "gateway µs",
    "loop": "its loop µs",
    "model": "model µs",
    "broker": "broker µs",
    "client_cpu_us": "client µs",
    "rss_mb": "gateway MB",
}


class Load(Conversation):
    """The client process; `connections` WebSockets with `depth` requests open on each."""

    def __init__(self, url: str, expected: list[list[float]], connections: int, depth: int, *options: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("askers.py")), "--url", url, "--secret", SECRET]
        command += ["--connections", str(connections), "--open", str(depth), "--expected", json.dumps(expected)]
        super().__init__(*command, *options)
        self.read()

    def run(self, seconds: float) -> Any:
        """Ask for so long; what came of it. Raises Died if it did not come through."""
        return self.ask(seconds)


@dataclass
class Side:
    """What is measured: a gateway's configuration, beyond what the bench needs, and the environment that it starts in."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    client: Sequence[str] = ()  # options of the load client
    beside: Callable[[Gateway], AbstractContextManager[Any]] | None = None  # what goes on beside the load
    context: ssl.SSLContext | None = None  # whom to believe, where the gateway speaks TLS
    two_ports: bool = True  # False: a checkout whose gateway has no port for operators yet


class Stage:
    """One model, one broker where the route needs it, and a gateway for each side, with topics of its own."""

    def __init__(self, folder: Path, sides: Sequence[Side], route: str, stack: ExitStack, *, embedded: bool) -> None:
        self.route = route
        inference = Inference(models=write_mlp(folder / "models"))
        stack.callback(inference.kill)
        self.expected = answers(inference.url)
        self._pids = {"model": inference.pid}
        kafka: dict[str, Any] = {"embedded": True}
        if not embedded:
            broker = Broker()
            stack.callback(broker.stop)
            self._pids["broker"] = broker.child.pid
            kafka = {"bootstrap_servers": broker.address}
        self.gateways: dict[str, Gateway] = {}
        for number, side in enumerate(sides):
            config = {
                "kafka": kafka,
                "inference": {"url": inference.url},
                # Neither route's own bound is to be what is measured.
                "limits": {"max_direct_in_flight": 4096},
                "requests": {"in_flight": 1024, "topic": f"requests.{number}", "group": f"group.{number}"},
                "results": {"topic": f"results.{number}"},
            }
            gateway = Gateway(folder, merged(config, side.config), env=side.env, two_ports=side.two_ports)
            stack.callback(gateway.kill)
            gateway.context = side.context
            self.gateways[side.name] = gateway
        for gateway in self.gateways.values():
            gateway.wait_ready()

    def measure(self, side: Side, load: str, *, warm_up: float, seconds: float) -> dict[str, Any]:
        """One phase against one side: what the client saw, and the CPU-µs a request of each process."""
        connections, depth = map(int, load.split("x"))
        gateway = self.gateways[side.name]
        pids = {"gateway": gateway.pid, **self._pids}
        client = Load(gateway.ws, self.expected, connections, depth, "--route", self.route, *side.client)
        with ExitStack() as stack:
            stack.callback(client.kill)
            if side.beside is not None:
                stack.enter_context(side.beside(gateway))
            client.run(warm_up)
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            loop = thread_seconds(gateway.pid)
            found = client.run(seconds)
            answered = max(found["answered"], 1)
            found["loop"] = (thread_seconds(gateway.pid) - loop) * 1e6 / answered
            for name, pid in pids.items():
                found[name] = (cpu_seconds(pid) - before[name]) * 1e6 / answered
        return found | {"rss_mb": rss_bytes(gateway.pid) / 1e6}

    def pids(self) -> dict[str, int]:
        """Each process, for a profiler."""
        return self._pids | {name: gateway.pid for name, gateway in self.gateways.items()}


@contextmanager
def stage(sides: Sequence[Side], route: str, *, embedded: bool) -> Iterator[Stage]:
    """Everything that a bench of requests needs, for as long as it lasts."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        yield Stage(Path(folder), sides, route, stack, embedded=embedded)


Found = dict[tuple[str, str], list[dict[str, Any]]]  # by load and side: a line a round


def in_turn(stage: Stage, sides: Sequence[Side], options: argparse.Namespace) -> Found:
    """`options.rounds` rounds; in each every load is put on every side, the sides in another order each time."""
    found: Found = {}
    for number in range(options.rounds):
        for load in options.loads.split(","):
            turn = sides if number % 2 == 0 else sides[::-1]
            for side in turn:
                line = stage.measure(side, load, warm_up=options.warm_up, seconds=options.seconds)
                print(json.dumps({"load": load, "side": side.name, **line}), file=sys.stderr, flush=True)
                found.setdefault((load, side.name), []).append(line)
    return found


def columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rounds of one thing as one row's values: the median and the ends of each; what went wrong, added up."""
    values: dict[str, Any] = {}
    for name, told in _UNITS.items():
        if name in lines[0] and all(line[name] is not None for line in lines):
            values[told] = spread([line[name] for line in lines])
    values["errors, strays, wrong"] = sum(
        sum(line["errors"].values()) + line["strays"] + line["wrong"] for line in lines
    )
    return values


def ratios(measured: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """What `measured` is of `base`, round by round."""
    return spread([one[name] / other[name] for one, other in zip(measured, base, strict=True) if other[name]])


def answers(url: str) -> list[list[float]]:
    """What the model of the container at `url` says to each row, asked alone."""
    found = []
    for row in rows():
        body = {"inputs": [{"name": "x", "shape": [1, len(row)], "datatype": "FP32", "data": row}]}
        with urllib.request.urlopen(f"{url}/v2/models/mlp/infer", json.dumps(body).encode(), timeout=10) as answer:
            found.append(json.load(answer)["outputs"][0]["data"])
    return found


def arguments(about: str | None, loads: str) -> argparse.ArgumentParser:
    """What benches of requests can be told."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--loads", default=loads, help="connections x requests open on each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--warm-up", type=float, default=1.5)
    parser.add_argument("--config", type=json.loads, default={}, help="JSON: more of the gateway's configuration")
    parser.add_argument(
        "--against", type=Path, help="another checkout, whose gateway is measured in turn with this one"
    )
    parser.add_argument("--embedded", action="store_true", help="the gateway's own broker, also for the queued route")
    parser.add_argument("--hold", action="store_true", help="wait before the loads, for a profiler")
    return parser


def run(options: argparse.Namespace, section: str, route: str) -> None:
    """Measure this checkout's gateway, and that of `--against`, and record it."""
    from bench.recording import Recording

    sides = [Side("this", options.config)]
    if options.against is not None:
        path = options.against / "gateway" / "src"
        if not path.is_dir():
            raise SystemExit(f"no gateway in {options.against}: --against wants a checkout")
        two_ports = (path / "podpair" / "gateway" / "http" / "operations.py").is_file()
        sides.append(Side("other", options.config, {"PYTHONPATH": os.fspath(path)}, two_ports=two_ports))
    with stage(sides, route, embedded=route == "direct" or options.embedded) as where:
        if options.hold:
            input(f"{json.dumps(where.pids())}; Enter to go on\n")
        found = in_turn(where, sides, options)
    recording = Recording(section)
    for (load, name), lines in found.items():
        connections, depth = load.split("x")
        row = {"connections": int(connections), "open on each": int(depth)}
        values = columns(lines)
        if len(sides) > 1:
            row = {**row, "side": name}
            if name == "this":
                other = found[load, "other"]
                values["requests/s, this of other"] = ratios(lines, other, "requests_per_s")
                values["gateway µs, this of other"] = ratios(lines, other, "gateway")
                values["its loop µs, this of other"] = ratios(lines, other, "loop")
        recording.row(row, values)
    recording.close()
