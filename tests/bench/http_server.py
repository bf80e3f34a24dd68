"""The inference container's HTTP server alone, beside general ones: the same few bytes asked and answered, no model behind.

    .venv/bin/python tests/bench/http_server.py [--rounds 5] [--seconds 2]

uvicorn (over httptools and over h11) and granian (ASGI and its own RSGI), one process each, in their own environment; wrk asks
each in turn, with 1 and with 16 requests open. What a run of the tiny model costs, by `session.run`, stands beside it. CPU is
that of all of a server's processes; ratios are of one round. Lines go to var/bench, of which `make bench-report` makes a table.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import onnxruntime as ort
import uvloop

from bench.loads import Way, load
from bench.measuring import spread
from bench.mlp import WIDTH, write_mlp
from bench.peers.building import CannotBuild, python
from bench.peers.servers import DidNotStart, running
from bench.recording import Recording
from harness.processes import free_port
from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.http.error_responses import ErrorResponses
from podpair.inference.http1.requests import Request, Response, header_lines
from podpair.inference.http1.routes import Route, Routes
from podpair.inference.http1.server import Server
from podpair.inference.metrics import Metrics

PATH = "/v2/models/m/infer"
ASKED = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}'
ANSWERED, HEADERS = b'{"live":true}', {"Content-Type": "application/json"}
SERVERS = {
    "podpair": "",
    "uvicorn, httptools": "httptools",
    "uvicorn, h11": "h11",
    "granian, ASGI": "asgi",
    "granian, RSGI": "rsgi",
}
OPEN = (1, 16)


async def serve(port: int) -> None:
    """podpair's server with one route, as `infer` is one."""

    def answer(request: Request) -> None:
        request.answer(Response(200, (ANSWERED,), header_lines(HEADERS)))

    async def nothing(_: Request) -> None:
        raise NotImplementedError

    routes = Routes([Route("POST", "/v2/models/{model}/infer", answer, direct=True)], nothing)
    await Server(routes, ErrorResponses(Metrics()), 1_000_000, MemoryBudget(1 << 20)).listen("127.0.0.1", port)
    await asyncio.Event().wait()


@contextmanager
def started(name: str) -> Iterator[tuple[int, Way]]:
    """A server once it answers. Raises CannotBuild or DidNotStart."""
    way = Way("HTTP", free_port(), ASKED, PATH, HEADERS)
    options = ["--port", str(way.port)]
    if SERVERS[name]:
        command = [*python("asgi_server", "server.py"), "--server", SERVERS[name], *options]
    else:
        command = [sys.executable, __file__, "--serve", *options]
    with running(command, {}, [way]) as (server,):
        yield server.pid, way


def run_us(seconds: float) -> float:
    """CPU of a run of the tiny model for one row, in µs."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(write_mlp(Path(folder)) / "mlp/1/model.onnx", options)
    asked, runs = {"x": np.zeros((1, WIDTH), np.float32)}, 0
    session.run(None, asked)
    before, end = time.process_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        session.run(None, asked)
        runs += 1
    return (time.process_time() - before) / runs * 1e6


def measure(rounds: int, seconds: float) -> None:
    """All of it."""
    recording = Recording("http-server")
    with ExitStack() as stack:
        servers = {}
        for name in SERVERS:
            try:
                servers[name] = stack.enter_context(started(name))
                load(*servers[name], None, 8, seconds)
            except (CannotBuild, DidNotStart) as error:
                servers.pop(name, None)
                recording.left_out({"server": name}, str(error))
        model = []
        for requests_open in OPEN:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
            for _ in range(rounds):
                model.append(run_us(seconds / 4))
                for name, (pid, way) in servers.items():
                    line = load(pid, way, None, requests_open, seconds)
                    found[name].append(line)
                    ours = found["podpair"][-1]
                    line["of podpair's CPU"] = line["CPU µs a request"] / ours["CPU µs a request"]
                    line["of podpair's requests/s"] = line["requests/s"] / ours["requests/s"]
                    line["CPU in runs of the tiny model"] = line["CPU µs a request"] / model[-1]
            for name, taken in found.items():
                kept = [key for key in taken[0] if not key.startswith("p9")]
                values = {key: spread([line[key] for line in taken]) for key in kept}
                recording.row({"open": requests_open, "server": name}, values)
        recording.row({"open": "", "server": "session.run of the tiny model"}, {"CPU µs a request": spread(model)})
    recording.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of a run")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.port))
    else:
        measure(options.rounds, options.seconds)


if __name__ == "__main__":
    main()
