"""The whole way, WebSocket → model → WebSocket, beside what a user would write instead.

podpair's direct and queued routes; FastAPI with a WebSocket and the model in its process, as its tutorial has it; the same with
Celery and Redis between. One tiny MLP, JSON rows of 64 floats, the same load client; in turn, round by round. CPU is that of
all processes on the server's side, per request.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Container, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.asking import Load, answers
from bench.measuring import cpu_seconds, spread, tree
from bench.mlp import write_mlp
from bench.peers.building import CannotBuild
from bench.peers.websockets import Peer, in_process, with_celery
from bench.recording import Recording
from harness.kafka import Broker
from harness.pair import Gateway, Inference
from harness.processes import Died

_PATIENCE = 15  # seconds that a server may take for what is open at the end of a phase
_SHOWN = {"requests_per_s": "requests/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "server_us": "server µs"}


def podpair(folder: Path, inference: Inference, brokers: str | None, stack: ExitStack) -> Peer:
    """One pair; on its own broker where there is none."""
    config = {
        "kafka": {"embedded": True} if brokers is None else {"bootstrap_servers": brokers},
        "inference": {"url": inference.url},
        "limits": {"max_direct_in_flight": 4096},
        "requests": {"in_flight": 1024},
    }
    gateway = Gateway(folder, config)
    stack.callback(gateway.kill)
    gateway.wait_ready()
    return Peer(gateway.ws, {"gateway": gateway.pid, "model": inference.pid})


def measure(
    peer: Peer, expected: list[list[float]], load: str, route: str, options: argparse.Namespace
) -> dict[str, Any]:
    """One phase."""
    connections, depth = map(int, load.split("x"))
    client = Load(peer.url, expected, connections, depth, "--route", route, "--patience", str(_PATIENCE))
    try:
        client.run(options.warm_up)
        pids = [pid for first in peer.processes.values() for pid in tree(first)]
        before = sum(map(cpu_seconds, pids))
        found = client.run(options.seconds)
        spent = sum(map(cpu_seconds, pids)) - before
    finally:
        client.kill()
    return found | {"server_us": spent * 1e6 / max(found["answered"], 1)}


Found = dict[tuple[str, str], list[dict[str, Any]]]  # by load and peer: a line a round


def record(
    recording: Recording, loads: str, peers: Iterable[str], found: Found, overrun: Container[tuple[str, str]]
) -> None:
    """A row for each load and peer."""
    for load in loads.split(","):
        connections, depth = map(int, load.split("x"))
        for who in peers:
            row = {"connections": connections, "open on each": depth, "server": who}
            lines = found.get((load, who), [])
            if (load, who) in overrun:
                recording.left_out(row, f"what was open was not answered in {_PATIENCE} s more")
                continue
            values: dict[str, Any] = {
                told: spread([line[column] for line in lines])
                for column, told in _SHOWN.items()
                if all(line[column] is not None for line in lines)
            }
            values["errors, strays, wrong"] = sum(
                sum(line["errors"].values()) + line["strays"] + line["wrong"] for line in lines
            )
            recording.row(row, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", default="64x1,64x16", help="connections x requests open on each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--warm-up", type=float, default=1)
    options = parser.parse_args()
    recording = Recording("whole")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        model = write_mlp(folder / "models") / "mlp/1/model.onnx"
        inference = Inference(models=folder / "models")
        stack.callback(inference.kill)
        expected = answers(inference.url)

        def queued() -> Peer:
            broker = Broker()
            stack.callback(broker.stop)
            peer = podpair(folder, inference, broker.address, stack)
            return peer._replace(processes=peer.processes | {"broker": broker.child.pid})

        starters: dict[str, tuple[str, Callable[[], Peer]]] = {
            "podpair, direct": ("direct", lambda: podpair(folder, inference, None, stack)),
            "podpair, queued through Kafka": ("queue", queued),
            "FastAPI, model in its process": ("direct", lambda: in_process(model, stack)),
            "FastAPI, Celery and Redis": ("direct", lambda: with_celery(model, stack)),
        }
        peers: dict[str, tuple[str, Peer]] = {}
        for who, (route, start) in starters.items():
            try:
                peers[who] = route, start()
            except CannotBuild as error:
                recording.left_out({"server": who}, str(error))
        found: Found = {}
        overrun: set[tuple[str, str]] = set()
        for _ in range(options.rounds):
            for load in options.loads.split(","):
                for who, (route, peer) in peers.items():
                    if (load, who) in overrun:
                        continue
                    try:
                        line = measure(peer, expected, load, route, options)
                    except Died:
                        overrun.add((load, who))  # and not asked so much again
                        continue
                    print(json.dumps({"load": load, "server": who, **line}), file=sys.stderr, flush=True)
                    found.setdefault((load, who), []).append(line)
    record(recording, options.loads, peers, found, overrun)
    recording.close()


if __name__ == "__main__":
    main()
