"""Tasks of Celery on RabbitMQ: a pair beside Celery's own workers, with the same model, the same broker and the same load.

One tiny MLP, rows of 64 floats, results by `rpc://`. The pair takes from a quorum queue and acknowledges after its answer was
confirmed; Celery's workers are as they come: a classic queue, acknowledged before the work. In turn, round by round. CPU is that
of the gateway and the model, or of the workers; the broker's is apart.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.measuring import cpu_seconds, spread, tree
from bench.mlp import write_mlp
from bench.peers.building import CannotBuild
from bench.peers.websockets import celery_worker
from bench.recording import Recording
from harness.pair import Gateway, Inference
from harness.processes import Conversation
from harness.rabbitmq import RabbitMQ

_LOAD = Path(__file__).parent / "amqp_load.py"
_SHOWN = {
    "requests_per_s": "requests/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "server_us": "server µs",
    "broker_us": "broker µs",
}


def start_pair(rabbitmq: RabbitMQ, folder: Path, stack: ExitStack) -> list[int]:
    """A pair that takes tasks; returns its processes."""
    inference = Inference(models=folder / "models")
    stack.callback(inference.kill)
    amqp = {"url": rabbitmq.url, "queue": "podpair", "prefetch": 256, "celery_tasks": {"tasks.predict": "mlp"}}
    gateway = Gateway(
        folder,
        {
            "kafka": {"embedded": True},
            "inference": {"url": inference.url},
            "requests": {"source": "amqp"},
            "amqp": amqp,
        },
    )
    stack.callback(gateway.kill)
    gateway.wait_ready()
    return [gateway.pid, inference.pid]


def start_celery(rabbitmq: RabbitMQ, model: Path, stack: ExitStack) -> list[int]:
    """Celery's workers; returns their first process. Raises CannotBuild."""
    env = {"BROKER": rabbitmq.url.replace("amqp:", "pyamqp:"), "BACKEND": "rpc://"}
    return [celery_worker(model, stack, env, "--queues", "celery").pid]


def measure(load: Conversation, pids: list[int], broker: int, options: argparse.Namespace) -> dict[str, Any]:
    """One phase."""
    load.ask(options.warm_up)
    everyone = [pid for first in pids for pid in tree(first)]
    before, broker_before = sum(map(cpu_seconds, everyone)), sum(map(cpu_seconds, tree(broker)))
    found: dict[str, Any] = load.ask(options.seconds)
    answered = max(found["answered"], 1)
    return found | {
        "server_us": (sum(map(cpu_seconds, everyone)) - before) * 1e6 / answered,
        "broker_us": (sum(map(cpu_seconds, tree(broker))) - broker_before) * 1e6 / answered,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=256, help="tasks that are open at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warm-up", type=float, default=2)
    options = parser.parse_args()
    recording = Recording("amqp")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        model = write_mlp(folder / "models") / "mlp/1/model.onnx"
        rabbitmq = RabbitMQ()
        stack.callback(rabbitmq.stop)
        peers = {"podpair": ("podpair", start_pair(rabbitmq, folder, stack))}
        try:
            peers["Celery's workers"] = ("celery", start_celery(rabbitmq, model, stack))
        except CannotBuild as error:
            recording.left_out({"server": "Celery's workers"}, str(error))
        loads = {}
        for who, (queue, _) in peers.items():
            loads[who] = Conversation(sys.executable, _LOAD, rabbitmq.url, queue, str(options.depth))
            stack.callback(loads[who].kill)
        found: dict[str, list[dict[str, Any]]] = {who: [] for who in peers}
        for _ in range(options.rounds):
            for who, (_, pids) in peers.items():
                found[who].append(measure(loads[who], pids, rabbitmq.child.pid, options))
                print(json.dumps({"server": who, **found[who][-1]}), file=sys.stderr, flush=True)
    for who, lines in found.items():
        values: dict[str, Any] = {told: spread([line[column] for line in lines]) for column, told in _SHOWN.items()}
        recording.row(
            {"open": options.depth, "server": who}, values | {"failed": sum(line["failed"] for line in lines)}
        )
    recording.close()


if __name__ == "__main__":
    main()
