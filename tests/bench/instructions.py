"""How many instructions a direct request costs the gateway's loop, counted by valgrind: load on the machine changes little.

    .venv/bin/python tests/bench/instructions.py [--loads 1x1,64x16] [--seconds 20] [--against ../other]

Whole gateways, this checkout's and that of `--against`, each beside the same model, run under callgrind, some fifty times
slower than without. The main thread alone counts, without librdkafka's, and without what it does in the same time when nobody
asks. It prints a JSON line for each load and side. Counts vary by about 2 % from run to run, for what arrives together is
worked on together.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

from bench.asking import Load, answers
from bench.mlp import write_mlp
from harness.pair import BIN, SECRET, Inference, until
from harness.processes import Child

_START = 300.0  # seconds that a gateway under valgrind may take to start


class Counted:
    """A gateway under callgrind, of the sources at `sources`."""

    def __init__(self, folder: Path, url: str, sources: Path, stack: ExitStack) -> None:
        self._counts = folder / "counts"
        config: dict[str, Any] = {
            "http": {"port": 0},
            "auth": {"secret": SECRET},
            "kafka": {"embedded": True},
            # Under valgrind the gateway is too slow for its own probe.
            "inference": {"url": url, "probe_seconds": 600},
            "limits": {"direct": 4096},
        }
        if (sources / "podpair" / "gateway" / "http" / "operations.py").is_file():
            config["operations"] = {"port": 0}
        path = folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(config))
        self._child = Child(
            "valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={self._counts}",
            sys.executable, BIN / "podpair-gateway", "serve", "--config", path,
            env={"PYTHONPATH": os.fspath(sources), "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        stack.callback(self._child.kill)
        self.url: str = self._child.wait_for_message("ready", _START)["address"]
        self._child.wait_for_message("inference at", _START)

    def _control(self, option: str) -> None:
        subprocess.run(["callgrind_control", option, str(self._child.pid)], check=True, capture_output=True)

    def _counted(self) -> int:
        """Instructions since the last time."""
        self._control("--dump")
        dump = max(self._counts.parent.glob("counts.*-01"), key=lambda path: int(path.suffix[1:].split("-")[0]))
        until(lambda: "totals:" in dump.read_text())
        return int(next(line for line in dump.read_text().splitlines() if line.startswith("totals:")).split()[1])

    def count(self, expected: list[list[float]], load: str, seconds: float) -> float:
        """Instructions of the loop's thread for each request that was answered."""
        connections, depth = map(int, load.split("x"))
        client = Load(self.url.replace("http", "ws") + "/v1/ws", expected, connections, depth, "--route", "direct")
        try:
            client.run(seconds / 3)
            self._control("--zero")
            answered: int = client.run(seconds)["answered"]
            busy = self._counted()
            time.sleep(seconds)
            return (busy - self._counted()) / max(answered, 1)
        finally:
            client.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="1x1,64x16", help="connections x requests open on each")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    checkouts = {"this": Path(__file__).parents[2]} | ({"other": options.against} if options.against else {})
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        inference = Inference(models=write_mlp(folder / "models"))
        stack.callback(inference.kill)
        expected = answers(inference.url)
        for load in options.loads.split(","):
            found = {}
            for side, checkout in checkouts.items():
                with ExitStack() as running:
                    own = folder / f"{load}-{side}"
                    own.mkdir()
                    gateway = Counted(own, inference.url, checkout.resolve() / "gateway" / "src", running)
                    found[side] = gateway.count(expected, load, options.seconds)
                print(json.dumps({"load": load, "side": side, "instructions": round(found[side])}), flush=True)
            if len(found) > 1:
                print(json.dumps({"load": load, "this of other": round(found["this"] / found["other"], 3)}), flush=True)


if __name__ == "__main__":
    main()
