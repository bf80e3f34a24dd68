"""Gateways of this checkout's sources and of another's, each beside the same model: for the benches that count what one does."""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.asking import Load, answers
from bench.mlp import write_mlp
from harness.pair import SECRET, Inference
from harness.processes import Child


def arguments(text: str | None, loads: str, seconds: float) -> argparse.ArgumentParser:
    """The options that `sides` reads."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default=loads, help="connections x requests open on each")
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--route", choices=("direct", "queue"), default="direct", help="of the requests")
    return parser


@dataclass
class Side:
    """A load on a gateway of one checkout, which is yet to be started."""

    load: str
    name: str
    folder: Path  # its own
    _sources: Path
    _inference: str
    _expected: list[list[float]]
    _route: str

    def start(self, stack: ExitStack, *command: str | Path, patience: float = 60.0) -> tuple[Child, Load]:
        """The gateway that `command` runs, once it has found the model within `patience` seconds, and its load client."""
        config: dict[str, Any] = {
            "http": {"port": 0},
            "auth": {"secret": SECRET},
            "kafka": {"embedded": True},
            # One that is counted is too slow for its own probe.
            "inference": {"url": self._inference, "probe_seconds": 600},
            "limits": {"max_direct_in_flight": 4096},
            "requests": {"in_flight": 1024},
        }
        if (self._sources / "podpair" / "gateway" / "http" / "operations.py").is_file():
            config["operations"] = {"port": 0}
        path = self.folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(config))
        environment = {"PYTHONPATH": os.fspath(self._sources), "PYTHONHASHSEED": "0"}
        gateway = Child(*command, "serve", "--config", path, env=environment)
        stack.callback(gateway.kill)
        address = gateway.wait_for_message("ready", patience)["address"]
        gateway.wait_for_message("inference at", patience)
        connections, depth = map(int, self.load.split("x"))
        url = address.replace("http", "ws") + "/v1/ws"
        client = Load(url, self._expected, connections, depth, "--route", self._route)
        stack.callback(client.kill)
        return gateway, client


def sides(options: argparse.Namespace) -> Iterator[list[Side]]:
    """For each load its sides: this checkout, and the other where there is one."""
    checkouts = {"this": Path(__file__).parents[2]} | ({"other": options.against} if options.against else {})
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        inference = Inference(models=write_mlp(folder / "models"))
        stack.callback(inference.kill)
        expected = answers(inference.url)
        for load in options.loads.split(","):
            found = []
            for side, checkout in checkouts.items():
                own = folder / f"{load}-{side}"
                own.mkdir()
                sources = checkout.resolve() / "gateway" / "src"
                found.append(Side(load, side, own, sources, inference.url, expected, options.route))
            yield found
