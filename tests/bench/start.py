"""The pair from nothing to its first answer, and what its halves hold when idle: of this checkout and of another, in turn.

    .venv/bin/python tests/bench/start.py [--against ../other] [--rounds 5] [--kafka host:port]

Both halves are started at once by their own commands, the gateway with its embedded broker unless `--kafka` names another. As
soon as the gateway says that it has found the model it is sent one request over HTTP. The other checkout has its own environment
(`make setup` there). The first round, which reads files from the disk, is not counted. One JSON line a checkout: seconds and
CPU-seconds to the first answer (of both, and of each, with that of children that have ended), and MB that each holds (RSS, and
PSS) and its threads after `--idle` seconds; with `--against` a line of ratios, too, round by round: median, least and most.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import yaml

from bench.measuring import cpu_seconds_of_family, memory_bytes, spread
from bench.mlp import WIDTH, write_mlp
from harness.pair import RESUME_SECRET, SECRET, token
from harness.processes import ROOT, Child, free_port

_RATIOS = ("first answer s", "CPU s", "gateway CPU s", "inference CPU s", "gateway MB", "inference MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=3, help="seconds after which memory is looked at")
    parser.add_argument("--kafka", help="host:port of a broker; without it one is embedded")
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"other": options.against.resolve()} if options.against else {})
    found: dict[str, list[dict[str, float]]] = {side: [] for side in checkouts}
    with tempfile.TemporaryDirectory() as name:
        models = write_mlp(Path(name) / "models")
        for turn in range(options.rounds + 1):
            for side in sorted(checkouts, reverse=bool(turn % 2)):
                line = start(checkouts[side], models, Path(name), options)
                if turn:
                    found[side].append(line)
    tell(found)


def start(checkout: Path, models: Path, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Start a checkout's pair, ask it once, and look at it when it has been idle for a while."""
    programs, port = checkout / ".venv" / "bin", free_port()
    config = folder / "gateway.yaml"
    config.write_text(yaml.safe_dump(settings(port, options.kafka)))
    request = urllib.request.Request(
        "http://gateway/v2/models/mlp/infer", body(), {"Authorization": f"Bearer {token()}"}
    )
    with ExitStack() as stack:
        begun = time.monotonic()
        inference = Child(programs / "podpair-inference", "serve", "--models", models, "--port", str(port))
        stack.callback(inference.kill)
        gateway = Child(programs / "podpair-gateway", "serve", "--config", config)
        stack.callback(gateway.kill)
        request.host = gateway.wait_for_message("ready")["address"].removeprefix("http://")
        gateway.wait_for_message("inference at")
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
        taken = time.monotonic() - begun
        cpu = {"gateway": cpu_seconds_of_family(gateway.pid), "inference": cpu_seconds_of_family(inference.pid)}
        line = {"first answer s": taken, "CPU s": sum(cpu.values())}
        line |= {f"{half} CPU s": seconds for half, seconds in cpu.items()}
        time.sleep(options.idle)
        for half, child in (("gateway", gateway), ("inference", inference)):
            resident, proportional = memory_bytes(child.pid)
            line |= {f"{half} MB": resident / 1e6, f"{half} PSS MB": proportional / 1e6}
            line |= {f"{half} threads": len(list(Path(f"/proc/{child.pid}/task").iterdir()))}
        return line


def settings(inference: int, kafka: str | None) -> dict[str, Any]:
    """The gateway's."""
    return {
        "http": {"port": 0},
        "operations": {"port": 0},
        "auth": {"secret": SECRET},
        "sessions": {"resume_secret": RESUME_SECRET},
        "kafka": {"bootstrap_servers": kafka} if kafka else {"embedded": True},
        "inference": {"url": f"http://127.0.0.1:{inference}"},
    }


def body() -> bytes:
    """A request for the tiny model."""
    values = np.random.default_rng(3).random(WIDTH).round(3).tolist()
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": values}]}).encode()


def tell(found: dict[str, list[dict[str, float]]]) -> None:
    """A line a side, and their ratios."""
    for side, lines in found.items():
        medians = {key: short(spread([line[key] for line in lines])) for key in lines[0]}
        print(json.dumps({"checkout": side, "rounds": len(lines)} | medians), flush=True)
    if "other" in found:
        ratios: dict[str, Any] = {}
        for key in _RATIOS:
            pairs = zip(found["this"], found["other"], strict=True)
            of_each = [this[key] / other[key] for this, other in pairs]
            ratios[key] = [round(one, 3) for one in (statistics.median(of_each), min(of_each), max(of_each))]
        print(json.dumps({"this of other": ratios}), flush=True)


def short(values: dict[str, float]) -> list[float]:
    return [round(values[name], 3) for name in ("median", "least", "most")]


if __name__ == "__main__":
    main()
