"""The inference container beside what a user would pick instead, and beside ONNX Runtime itself (`session.run`, the limit).

small, cnn, jpeg: what a server answers with 1, 16 and 64 requests open, everybody in turn, medians of rounds. paced: latency of
requests that come at random and evenly, at 70 % of what the server answered at most, beside an ideal queue's. start: from nothing
to the first answer, idle memory, size on disk. All share this machine with the load client, whose CPU is in the tables. Lines go
to var/bench, of which `make bench-report` makes the tables.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import loads
from bench.limit import Layout, Limit, layouts
from bench.loads import LoadFailed, Way
from bench.measuring import spread
from bench.paced import paced
from bench.peers.building import CannotBuild
from bench.peers.servers import SERVERS, DidNotStart, grpc_client, size_on_disk, suits
from bench.queueing import ARRIVALS, at, taken
from bench.recording import Recording
from bench.workloads import WORKLOADS, Workload

CORES = len(os.sched_getaffinity(0))
DEFAULT = ["podpair", "native", "native, 2 ms wait", "mosec", "FastAPI"]
OPEN = (1, 16, 64)


class Target(NamedTuple):
    """A server, one way to ask it."""

    server: str
    pid: int
    way: Way

    @property
    def row(self) -> dict[str, str]:
        """What names it in a table."""
        return {"server": self.server, "by": self.way.name}


class Bench:
    """One run of this program."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.runs: int = options.runs
        self.seconds: float = options.seconds
        self.servers: list[str] = options.peers
        self._grpc: Path | None = None
        self.no_grpc = ""
        try:
            self._grpc = grpc_client()
        except CannotBuild as error:
            self.no_grpc = str(error)

    def load(self, target: Target, requests_open: int, seconds: float) -> dict[str, float]:
        """One run."""
        return loads.load(target.pid, target.way, self._grpc, requests_open, seconds)

    @contextmanager
    def started(self, workload: Workload, recording: Recording, seconds: float) -> Iterator[list[Target]]:
        """All servers that there are, warm."""
        with ExitStack() as stack:
            targets = []
            for name in (name for name in self.servers if suits(name, workload)):
                try:
                    found = [
                        Target(name, running.pid, way)
                        for running in stack.enter_context(SERVERS[name](workload))
                        for way in running.ways
                        if self._grpc or not way.over_grpc
                    ]
                    for target in found:
                        self.load(target, 8, seconds)
                except (CannotBuild, DidNotStart, LoadFailed) as error:
                    recording.left_out({"server": name}, str(error))
                else:
                    targets += found
            if self.no_grpc:
                recording.left_out({"by": "gRPC"}, f"the load client can't be built: {self.no_grpc}")
            yield targets

    def workload(self, workload: Workload, recording: Recording) -> None:
        """The cells of one workload."""
        seconds = self.seconds if workload.name == "small" else 2 * self.seconds
        with ExitStack() as stack:
            file = None
            if workload.image:
                file = workload.repository / "photo.jpg"
                file.write_bytes(workload.payload)
            limit = Limit(dict(workload.environment), file)
            stack.callback(limit.close)
            layout = limit.best(layouts(CORES), seconds / 2)
            targets = stack.enter_context(self.started(workload, recording, seconds))
            alone = Layout(1, 1, 1)
            for requests_open in OPEN:
                runs: dict[int, list[dict[str, float]]] = {i: [] for i in range(len(targets))}
                limits: list[float] = []
                for _ in range(self.runs):
                    limits.append(limit.rows_per_s(alone if requests_open == 1 else layout, seconds))
                    for i in list(runs):
                        target = targets[i]
                        try:
                            found = self.load(target, requests_open, seconds)
                        except LoadFailed as error:
                            del runs[i]
                            recording.left_out({"open": requests_open, **target.row}, str(error))
                        else:
                            runs[i].append(found | {"of session.run": found["requests/s"] / limits[-1]})
                bare = alone if requests_open == 1 else layout
                by = f"{bare.threads} threads, batches of {bare.batch}, intra-op {bare.intra_op}"
                recording.row(
                    {"open": requests_open, "server": "session.run", "by": by}, {"requests/s": spread(limits)}
                )
                for i, lines in runs.items():
                    target = targets[i]
                    values: dict[str, Any] = {name: spread([line[name] for line in lines]) for name in lines[0]}
                    if workload.name == "small":
                        del values["of session.run"]  # where a run costs nothing the rest is all there is
                    values["MB"] = loads.memory(target.pid)
                    recording.row({"open": requests_open, **target.row}, values)

    def paced(self, workload: Workload, recording: Recording) -> None:
        """Latency at 70 % of what each server can, over HTTP, beside what an ideal queue before so many cores would have."""
        only = [name for name in self.servers if name in ("podpair", "native", "mosec")]
        limit = Limit(dict(workload.environment), None)
        alone = [1000 / limit.rows_per_s(Layout(1, 1, 1), self.seconds) for _ in range(self.runs)]
        beside = [1000 * CORES / limit.rows_per_s(Layout(CORES, 1, 1), self.seconds) for _ in range(self.runs)]
        limit.close()
        for how, times in (("alone", alone), (f"{CORES} side by side", beside)):
            recording.row({"requests come": "", "server": "session.run", "by": how}, {"a run's own ms": spread(times)})
        for name in only:
            with ExitStack() as stack:
                try:
                    (running,) = stack.enter_context(SERVERS[name](workload))
                except (CannotBuild, DidNotStart) as error:
                    recording.left_out({"server": name}, str(error))
                    continue
                way = next(way for way in running.ways if not way.over_grpc)
                target = Target(name, running.pid, way)
                self.load(target, 8, self.seconds)
                lines: dict[str, list[dict[str, float]]] = {arrivals: [] for arrivals in ARRIVALS}
                for _ in range(self.runs):
                    for arrivals, found in lines.items():
                        most = self.load(target, 8, 2 * self.seconds)["requests/s"]
                        p50, p95 = paced(way, arrivals, 0.7 * most, 4 * self.seconds)
                        own = CORES / most
                        ideal = at(taken(arrivals, 0.7 * most, own, CORES), 0.95)
                        found.append(
                            {
                                "a run's own ms": 1000 * own,
                                "requests/s": 0.7 * most,
                                "p50 ms": p50,
                                "p95 ms": p95,
                                "an ideal queue's p95 ms": 1000 * ideal,
                                "p95 of the ideal": p95 / 1000 / ideal,
                            }
                        )
                for arrivals, found in lines.items():
                    values = {key: spread([line[key] for line in found]) for key in found[0]}
                    recording.row({"requests come": arrivals, **target.row}, values)

    def start(self, workload: Workload, recording: Recording) -> None:
        """From nothing to the first answer. The first round, which reads files from the disk, is not counted."""
        found: dict[str, list[dict[str, float]]] = {name: [] for name in self.servers if "wait" not in name}
        for turn in range(self.runs + 1):
            for name in list(found):
                try:
                    with SERVERS[name](workload) as (first, *_):
                        time.sleep(1)
                        line = {
                            "first answer s": first.seconds,
                            "CPU s": loads.cpu(first.pid),
                            "idle MB": loads.memory(first.pid),
                        }
                except (CannotBuild, DidNotStart) as error:
                    del found[name]
                    recording.left_out({"server": name}, str(error))
                else:
                    if turn:
                        found[name].append(line)
        for name, lines in found.items():
            values: dict[str, Any] = {key: spread([line[key] for line in lines]) for key in lines[0]}
            recording.row({"server": name}, values | {"MB on disk": round(size_on_disk(name) / 1e6)})


def main() -> None:
    sections = [*WORKLOADS, "paced", "start"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sections, action="append")
    parser.add_argument("--peers", default=";".join(DEFAULT), help=f"with semicolons, or `all`: {'; '.join(SERVERS)}")
    parser.add_argument("--runs", type=int, default=3, help="rounds")
    parser.add_argument("--seconds", type=float, default=1, help="of a run on the small model; others take twice that")
    options = parser.parse_args()
    named = list(SERVERS) if options.peers == "all" else [name.strip() for name in options.peers.split(";")]
    if unknown := [name for name in named if name not in SERVERS]:
        parser.error(f"no such server: {'; '.join(unknown)}; there are {'; '.join(SERVERS)}")
    options.peers = named
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not on this machine (Debian's package wrk)")
    bench = Bench(options)
    for section in options.only or sections:
        recording = Recording(f"inference-{section}")
        with tempfile.TemporaryDirectory() as folder:
            made = WORKLOADS.get(section, WORKLOADS["cnn" if section == "paced" else "small"])(Path(folder))
            if section in WORKLOADS:
                bench.workload(made, recording)
            elif section == "paced":
                bench.paced(made, recording)
            else:
                bench.start(made, recording)
        recording.close()


if __name__ == "__main__":
    main()
