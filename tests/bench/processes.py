"""What `runtime.process` costs a Python model: the same class in a process of its own and in threads of the server's, in turn.

    python tests/bench/processes.py --rounds 5

The class answers what it gets, so that all that is measured is the way to it. CPU is that of the server and its workers
together, for a request; ratios are of the two in the same round.
"""

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.measuring import cpu_seconds, tree
from harness.processes import Child

ECHO = "class Echo:\n    def predict(self, batch):\n        return batch\n"
# Numbers in a tensor: 16 bytes, 64 KB, 4 MB; and requests of a round.
SIZES = {4: 4000, 1 << 14: 2000, 1 << 20: 200}
OPEN = (1, 16)


class Server(NamedTuple):
    """A server of the class, and what its start took."""

    pid: int
    address: str
    seconds: float

    @property
    def cpu(self) -> float:
        """Seconds that it and its workers have computed."""
        return sum(map(cpu_seconds, tree(self.pid)))

    @property
    def megabytes(self) -> float:
        """Memory of it and its workers, what they share counted once."""
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in tree(self.pid)]
        return (
            sum(int(line.split()[1]) for text in rollups for line in text.splitlines() if line.startswith("Pss:"))
            / 1024
        )


@contextmanager
def serving(process: bool, numbers: int) -> Iterator[Server]:
    tensor = {"datatype": "FP32", "shape": [-1, numbers]}
    config = {
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
        "runtime": {"process": process},
    }
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder) / "echo/1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(ECHO)
        (version.parent / "model.yaml").write_text(json.dumps(config))
        command = [sys.executable, "-m", "podpair.inference.cli.main", "serve", "--models", folder, "--port", "0"]
        begun = time.monotonic()
        server = Child(*command, env={"PODPAIR_GRPC__ENABLED": "false"})
        try:
            url = str(server.wait_for_message("ready")["url"])
            yield Server(server.pid, url.removeprefix("http://"), time.monotonic() - begun)
        finally:
            server.stop()


def ask(server: Server, numbers: int, requests: int, workers: int) -> tuple[float, float, float]:
    """CPU µs of a request, requests a second, and the median ms of one, with `workers` of them open."""
    data = bytes(4 * numbers)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, numbers], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}

    def work(count: int) -> list[float]:
        connection, taken = http.client.HTTPConnection(server.address), []
        for _ in range(count):
            begun = time.perf_counter()
            connection.request("POST", "/v2/models/echo/infer", head + data, headers)
            answer = connection.getresponse()
            if answer.status != 200 or len(answer.read()) < len(data):
                raise SystemExit(f"status {answer.status}")
            taken.append(1000 * (time.perf_counter() - begun))
        return taken

    cpu, begun = server.cpu, time.monotonic()
    with ThreadPoolExecutor(workers) as threads:
        taken = [one for found in threads.map(work, [requests // workers] * workers) for one in found]
    passed = time.monotonic() - begun
    return (server.cpu - cpu) / len(taken) * 1e6, len(taken) / passed, statistics.median(taken)


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    print(
        "| bytes | open | | CPU µs | requests/s | p50 ms | CPU, process ÷ threads |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for numbers, requests in SIZES.items():
        with serving(True, numbers) as own, serving(False, numbers) as shared:
            found: dict[int, list[tuple[Any, Any]]] = {
                workers: [
                    (ask(own, numbers, requests, workers), ask(shared, numbers, requests, workers))
                    for _ in range(rounds)
                ]
                for workers in OPEN
            }
            started, memory = (own.seconds, shared.seconds), (own.megabytes, shared.megabytes)
        for workers, pairs in found.items():
            ratio = statistics.median(a[0] / b[0] for a, b in pairs)
            for name, cells in (("process", [a for a, _ in pairs]), ("threads", [b for _, b in pairs])):
                cpu, rate, taken = (statistics.median(column) for column in zip(*cells, strict=True))
                last = f"{ratio:.2f}" if name == "process" else ""
                print(f"| {4 * numbers} | {workers} | {name} | {cpu:.0f} | {rate:.0f} | {taken:.2f} | {last} |")
        print(f"<!-- start {started[0]:.2f} s, {started[1]:.2f} s; memory {memory[0]:.0f} MB, {memory[1]:.0f} MB -->")


if __name__ == "__main__":
    main()
