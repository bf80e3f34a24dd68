"""How many of Python's opcodes a direct request costs the gateway's loop, and in which functions: the same on any machine.

    .venv/bin/python tests/bench/opcodes.py [--loads 1x1,64x1,64x16] [--seconds 5] [--against ../other] [--functions 30]

Whole gateways, this checkout's and that of `--against`, each beside the same model, some ten times slower than without. What C
does (the loop, the kernel, parsers) isn't counted: `instructions.py` has it. It prints a JSON line for each load and side, and
with --functions the ones that differ most, as opcodes a request.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

from bench.asking import Load, answers
from bench.mlp import write_mlp
from harness.pair import SECRET, Inference, until
from harness.processes import Child

Counts = dict[str, float]  # opcodes a request, by file and function


def count(folder: Path, url: str, expected: list[list[float]], sources: Path, load: str, seconds: float) -> Counts:
    """Opcodes a request of a gateway of these sources."""
    config: dict[str, Any] = {
        "http": {"port": 0},
        "auth": {"secret": SECRET},
        "kafka": {"embedded": True},
        "inference": {"url": url, "probe_seconds": 600},
        "limits": {"direct": 4096},
        "requests": {"in_flight": 1024},
    }
    if (sources / "podpair" / "gateway" / "http" / "operations.py").is_file():
        config["operations"] = {"port": 0}
    path, counts = folder / "gateway.yaml", folder / "counts.json"
    path.write_text(yaml.safe_dump(config))
    gateway = Child(
        sys.executable, Path(__file__).with_name("counted_gateway.py"), counts, "serve", "--config", path,
        env={"PYTHONPATH": os.fspath(sources), "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    with ExitStack() as stack:
        stack.callback(gateway.kill)
        address = gateway.wait_for_message("ready", 60)["address"]
        gateway.wait_for_message("inference at", 60)
        connections, depth = map(int, load.split("x"))
        client = Load(address.replace("http", "ws") + "/v1/ws", expected, connections, depth, "--route", "direct")
        stack.callback(client.end)
        client.run(2)
        os.kill(gateway.pid, signal.SIGUSR1)
        client.run(seconds)
        os.kill(gateway.pid, signal.SIGUSR2)
        until(counts.is_file)
    rows = json.loads(counts.read_text())
    # Where many are open, more have begun than have ended, or the other way round.
    ends = [sum(row[3] for row in rows if row[1] == name) for name in ("Dispatcher._begin", "Ledger.end")]
    requests = sum(ends) / 2
    return {f"{Path(file).name} {name}": opcodes / requests for file, name, opcodes, _ in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="1x1,64x1,64x16", help="connections x requests open on each")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--functions", type=int, default=0, help="how many functions to tell")
    options = parser.parse_args()
    checkouts = {"this": Path(__file__).parents[2]} | ({"other": options.against} if options.against else {})
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        inference = Inference(models=write_mlp(folder / "models"))
        stack.callback(inference.kill)
        expected = answers(inference.url)
        for load in options.loads.split(","):
            found: dict[str, Counts] = {}
            for side, checkout in checkouts.items():
                own = folder / f"{load}-{side}"
                own.mkdir()
                sources = checkout.resolve() / "gateway" / "src"
                found[side] = count(own, inference.url, expected, sources, load, options.seconds)
                total = round(sum(found[side].values()))
                print(json.dumps({"load": load, "side": side, "opcodes": total}), flush=True)
            tell(found, options.functions)


def tell(found: dict[str, Counts], most: int) -> None:
    """The functions that cost most, or differ most."""
    this, other = found["this"], found.get("other", {})
    names = sorted(this.keys() | other.keys(), key=lambda name: -abs(this.get(name, 0) - other.get(name, 0)))
    for name in names[:most]:
        beside = f"{other.get(name, 0):8.1f}" if other else ""
        print(f"{this.get(name, 0):8.1f}{beside}  {name}")


if __name__ == "__main__":
    main()
