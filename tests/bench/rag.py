"""The retrieval example under people: so many users over WebSockets, each with a question in ten seconds, beside FastAPI.

    python tests/bench/rag.py --users 500,1000 --seconds 60

podpair's pair and one FastAPI application (sentence embeddings in its process, SQLAlchemy, pgvector) read one store, in turn.
A question's time is from its frame to its last. Users come at random moments, and ask one of the questions of tests/rag.
`--ingest` adds a phase of podpair in which documents are embedded anew all the time.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import aiohttp
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.measuring import cpu_seconds, tree
from bench.peers.building import CannotBuild, python
from bench.queueing import at
from bench.recording import Recording
from harness.pair import Gateway, token
from harness.processes import ROOT, Child, free_port
from harness.rag import EXAMPLE, Database, Models, database_folder, ingest
from harness.waiting import until

QUESTIONS = [one["question"] for one in yaml.safe_load((ROOT / "tests/rag/questions.yaml").read_text())]
_PACE = 10.0  # seconds from one question of a user to the next
_PATIENCE = 30.0  # seconds for what is open at the end
_CONNECTS = 50  # WebSockets that are opened at a time


@dataclass
class Side:
    """A server: where its WebSocket is, how it is asked, and its processes."""

    name: str
    url: str
    frame: Callable[[str, str], dict[str, Any]]
    pids: list[int]
    headers: Callable[[int], dict[str, str]] = lambda _: {}

    def processes(self) -> list[int]:
        return [pid for first in self.pids for pid in tree(first)]


@dataclass
class Taken:
    """What users have seen in a phase."""

    first_ms: list[float] = field(default_factory=list)
    last_ms: list[float] = field(default_factory=list)
    errors: int = 0
    bare: int = 0  # answers without a passage


class User:
    """One connection, and its questions."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, frame: Callable[[str, str], dict[str, Any]]) -> None:
        self._socket = socket
        self._frame = frame
        self._draw = random.Random(id(self))
        self._number = 0
        self._sent: dict[str, float] = {}
        self._parts: dict[str, int] = {}
        self._taken = Taken()

    async def ask(self, taken: Taken, end: float) -> None:
        """Ask until `end`, on the loop's clock, and wait for what is open."""
        self._taken = taken
        clock = asyncio.get_running_loop().time
        due = clock() + self._draw.uniform(0, _PACE)
        while due < end:
            await asyncio.sleep(max(0.0, due - clock()))
            self._number += 1
            identity = str(self._number)
            self._sent[identity] = clock()
            await self._socket.send_json(self._frame(identity, self._draw.choice(QUESTIONS)))
            due += _PACE
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._sent:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            taken.errors += len(self._sent)
            self._sent.clear()

    async def read(self) -> None:
        """Read until the connection ends."""
        clock = asyncio.get_running_loop().time
        async for message in self._socket:
            event = json.loads(message.data)
            identity = event.get("id", "")
            sent = self._sent.get(identity)
            if sent is None:
                continue
            took = (clock() - sent) * 1000
            if event["type"] == "partial":
                if not self._parts.get(identity):
                    self._taken.first_ms.append(took)
                self._parts[identity] = self._parts.get(identity, 0) + 1
            elif event["type"] in ("result", "error"):
                del self._sent[identity]
                self._taken.errors += event["type"] == "error"
                self._taken.bare += not self._parts.pop(identity, 0)
                self._taken.last_ms.append(took)


async def phase(side: Side, users: int, seconds: float) -> Taken:
    """Connect so many users, warm up for one round of questions, and measure."""
    gate = asyncio.Semaphore(_CONNECTS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def connect(number: int) -> User:
            async with gate:
                socket = await http.ws_connect(side.url, headers=side.headers(number), max_msg_size=0)
            return User(socket, side.frame)

        people = await asyncio.gather(*map(connect, range(users)))
        reading = [asyncio.create_task(person.read()) for person in people]
        clock = asyncio.get_running_loop().time
        taken = Taken()
        for length, noted in ((_PACE, Taken()), (seconds, taken)):
            end = clock() + length
            await asyncio.gather(*(person.ask(noted, end) for person in people))
        for task in reading:
            task.cancel()
    return taken


def megabytes(pids: list[int]) -> float:
    """Memory of processes, what they share counted once."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    lines = [line for text in rollups for line in text.splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) / 1024


def measure(side: Side, users: int, seconds: float) -> dict[str, Any]:
    """Measure one side under so many users."""
    before = {pid: cpu_seconds(pid) for pid in side.processes()}
    taken = asyncio.run(phase(side, users, seconds))
    memory = megabytes(side.processes())
    spent = sum(cpu_seconds(pid) - before.get(pid, 0.0) for pid in side.processes())
    taken.first_ms.sort()
    taken.last_ms.sort()
    answered = len(taken.last_ms)
    return {
        "answered": answered,
        "p50 ms": at(taken.last_ms, 0.5) if answered else None,
        "p99 ms": at(taken.last_ms, 0.99) if answered else None,
        "first passage p50 ms": at(taken.first_ms, 0.5) if taken.first_ms else None,
        "CPU ms": 1000 * spent / max(1, answered + users),  # a round of warm-up is in it
        "MB": memory,
        "errors": taken.errors + taken.bare,
    }


def podpair(folder: Path, models: Models, stack: ExitStack) -> tuple[Side, Gateway]:
    """The pair, on embedded Kafka."""
    config: dict[str, Any] = yaml.safe_load((EXAMPLE / "rag.yaml").read_text())
    config["inference"]["url"] = models.url
    gateway = Gateway(folder, config | {"kafka": {"embedded": True}})
    stack.callback(gateway.stop)
    gateway.wait_ready()

    def frame(identity: str, question: str) -> dict[str, Any]:
        return {"type": "infer", "id": identity, "model": "answer", "data": question, "stream": True}

    def headers(number: int) -> dict[str, str]:
        return {"Authorization": f"Bearer {token(f'reader-{number}')}"}

    return Side("podpair", gateway.ws, frame, [gateway.pid, models.pid], headers), gateway


def fastapi(database: str, stack: ExitStack) -> Side:
    """One FastAPI application. Raises CannotBuild."""
    port = free_port()
    url = database.replace("postgresql://", "postgresql+asyncpg://", 1)
    server = Child(*python("rag_server", "server.py"), "--port", str(port), "--database", url)
    stack.callback(server.stop)

    def serves() -> bool:
        import urllib.request

        if server.process.poll() is not None:
            raise CannotBuild("FastAPI does not come up: " + "\n".join(server.lines[-5:]))
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
        except OSError:
            return False
        return True

    until(serves, lambda: server.lines[-5:])
    return Side(
        "FastAPI", f"ws://127.0.0.1:{port}/ws", lambda identity, question: {"id": identity, "question": question},
        [server.pid],
    )  # fmt: skip


@contextmanager
def ingesting(kafka: str) -> Iterator[list[int]]:
    """Embed documents anew all the time, under names of their own; yield how many were, and remove them at the end."""
    done, stop = [0], Event()
    docs = sorted((ROOT / "docs").glob("*.md"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run() -> None:
            for turn in range(sys.maxsize):
                for page in docs:
                    if stop.is_set():
                        return
                    # A title that differs makes each passage another one.
                    copy = folder / page.name
                    copy.write_text(page.read_text().replace("# ", f"# {turn} ", 1))
                    done[0] += not ingest(kafka, copy, cwd=folder).returncode

        thread = Thread(target=run)
        thread.start()
        try:
            yield done
        finally:
            stop.set()
            thread.join()
            ingest(kafka, "--remove", *(page.name for page in docs), cwd=folder)


def record(recording: Recording, options: argparse.Namespace, sides: list[Side], kafka: str) -> None:
    """Measure each side under each number of users, and note it."""
    for users in map(int, options.users.split(",")):
        for side in sides:
            recording.row({"users": users, "server": side.name}, measure(side, users, options.seconds))
        if options.ingest:
            with ingesting(kafka) as done:
                values = measure(sides[0], users, options.seconds)
            recording.row(
                {"users": users, "server": "podpair, while it ingests"}, values | {"documents ingested": done[0]}
            )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", default="500", help="users at a time, several with commas")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--ingest", action="store_true", help="also while documents are ingested")
    parser.add_argument("--docs", type=int, help="only so many documents in the store")
    options = parser.parse_args()
    recording = Recording("rag")
    with tempfile.TemporaryDirectory() as name, database_folder() as data, ExitStack() as stack:
        folder = Path(name)
        database = Database(data)
        stack.callback(database.stop)
        models = Models(database.url)
        stack.callback(models.stop)
        side, gateway = podpair(folder, models, stack)
        kafka = str(gateway.wait_for_message("embedded Kafka")["kafka"])
        began = time.monotonic()
        pages = sorted((ROOT / "docs").glob("*.md"))[: options.docs]
        done = ingest(kafka, *pages)
        print(done.stdout, done.stderr, f"{len(pages)} documents in {time.monotonic() - began:.1f} s", file=sys.stderr)
        sides = [side]
        try:
            sides.append(fastapi(database.url, stack))
        except CannotBuild as error:
            recording.left_out({"server": "FastAPI"}, str(error))
        record(recording, options, sides, kafka)
    recording.close()


if __name__ == "__main__":
    main()
