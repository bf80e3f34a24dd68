"""The direct route: WebSocket → gateway → the model next door → WebSocket. One line of JSON for each load.

One pair on this machine and a tiny MLP behind it; JSON requests of 64 floats. Loads: one connection with one request open
(the latency alone), 64 connections with one open on each, 64 with 16. Gateway, model and load client share the machine; the
CPU of each is in the line, per request.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from askers import rows
from fanout import cpu_seconds, rss_bytes
from mlp import write_mlp

from harness.pair import SECRET, Gateway, Inference


def answers(url: str) -> list[list[float]]:
    """What the model says to each row, asked alone."""
    found = []
    for row in rows():
        body = {"inputs": [{"name": "x", "shape": [1, len(row)], "datatype": "FP32", "data": row}]}
        with urllib.request.urlopen(f"{url}/v2/models/mlp/infer", json.dumps(body).encode(), timeout=10) as answer:
            found.append(json.load(answer)["outputs"][0]["data"])
    return found


class Load:
    """The client process."""

    def __init__(self, url: str, expected: str, connections: int, depth: int) -> None:
        command = [sys.executable, str(Path(__file__).with_name("askers.py")), "--url", url, "--secret", SECRET]
        command += ["--connections", str(connections), "--open", str(depth), "--expected", expected]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def run(self, seconds: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(options: argparse.Namespace, gateway: Gateway, inference: Inference, load: str) -> dict[str, Any]:
    """One load: `connections x open`."""
    connections, depth = map(int, load.split("x"))
    client = Load(gateway.ws, json.dumps(answers(inference.url)), connections, depth)
    try:
        client.run(options.warm_up)
        before = cpu_seconds(gateway.pid), cpu_seconds(inference.pid)
        found = client.run(options.seconds)
        after = cpu_seconds(gateway.pid), cpu_seconds(inference.pid)
    finally:
        client.end()
    gateway_us, inference_us = (
        round((b - a) * 1e6 / max(found["answered"], 1), 2) for a, b in zip(before, after, strict=True)
    )
    own = {"gateway_cpu_us": gateway_us, "inference_cpu_us": inference_us}
    return {"connections": connections, "open": depth, **found, **own, "rss_mb": round(rss_bytes(gateway.pid) / 1e6, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", default="1x1,64x1,64x16", help="connections x requests open on each")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warm-up", type=float, default=1)
    parser.add_argument("--config", type=json.loads, default={}, help="JSON: more of the gateway's configuration")
    parser.add_argument("--hold", action="store_true", help="wait before the loads, for a profiler")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inference = Inference(models=write_mlp(Path(folder) / "models"))
        config = {"kafka": {"embedded": True}, "inference": {"url": inference.url}, "limits": {"direct": 4096}}
        gateway = Gateway(Path(folder), config | options.config)
        try:
            gateway.wait_ready()
            if options.hold:
                input(f"gateway {gateway.pid}, inference {inference.pid}; Enter to go on\n")
            for load in options.loads.split(","):
                print(json.dumps(measure(options, gateway, inference, load)), flush=True)
        finally:
            gateway.kill()
            inference.kill()


if __name__ == "__main__":
    main()
