"""The inference container of this checkout and of another, in turn: requests/s and CPU of models whose rows share runs.

    .venv/bin/python tests/bench/containers.py --against ../other [--rounds 5] [--seconds 2] [--models cnn] [--open 64]

The other checkout has its own environment (`make setup` there). wrk asks the tiny MLP and the CNN, with 1 and with 64 requests
open. It prints a JSON line for each, with the ratios of this to the other, round by round: their median, least and most.
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from bench.cnn import SHAPE, write_cnn
from bench.loads import Way, load
from bench.mlp import WIDTH, write_mlp
from harness.pair import Inference
from harness.processes import Child

_HEADERS = {"Content-Type": "application/json"}


def body(values: np.ndarray) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, *values.shape], "data": values.ravel().round(3).tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


class Other(Child):
    """The other checkout's."""

    def __init__(self, checkout: Path, models: Path) -> None:
        program = checkout.resolve() / ".venv" / "bin" / "podpair-inference"
        super().__init__(program, "serve", "--models", models, "--port", "0")
        self.port = int(self.wait_for_message("ready")["url"].rsplit(":", 1)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--models", default="mlp,cnn", help="which of them")
    parser.add_argument("--open", default="1,64", help="how many requests")
    options = parser.parse_args()
    draw = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        models = write_mlp(Path(name) / "models")
        write_cnn(models)
        bodies = {"mlp": body(draw.random(WIDTH)), "cnn": body(draw.random(SHAPE))}
        servers = {"this": Inference(0, models), "other": Other(options.against, models)}
        for server in servers.values():
            stack.callback(server.kill)
        for model in options.models.split(","):
            asked = bodies[model]
            for requests_open in map(int, options.open.split(",")):
                found: dict[str, list[dict[str, float]]] = {"this": [], "other": []}
                for turn in range(options.rounds + 1):
                    for side in sorted(servers, reverse=bool(turn % 2)):
                        way = Way("HTTP", servers[side].port, asked, f"/v2/models/{model}/infer", _HEADERS)
                        found[side].append(load(servers[side].pid, way, None, requests_open, options.seconds))
                tell(model, requests_open, found)


def tell(model: str, requests_open: int, found: dict[str, list[dict[str, float]]]) -> None:
    """The ratios of all rounds but the first, which warms up."""
    line: dict[str, object] = {"model": model, "open": requests_open}
    for measure in ("requests/s", "CPU µs a request"):
        pairs = [(this[measure], other[measure]) for this, other in zip(found["this"], found["other"], strict=True)][1:]
        ratios = sorted(this / other for this, other in pairs)
        line[measure] = round(statistics.median(this for this, _ in pairs), 1)
        line[f"{measure}, this of other"] = [
            round(one, 3) for one in (statistics.median(ratios), ratios[0], ratios[-1])
        ]
    print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
