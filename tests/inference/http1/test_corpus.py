"""The corpus of corpus.yaml: over a socket, cut at every place, and beside llhttp's and uvicorn's verdicts."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import environments
from harness.processes import Child
from inference.http1.corpus import NEXT, Case, Llhttp, Verdict, cases, converse
from podpair.inference.core.errors import NotFoundError
from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.http.error_responses import ErrorResponses
from podpair.inference.http1.connection import Connection
from podpair.inference.http1.requests import Request, Response, json_response
from podpair.inference.http1.routes import Route, Routes
from podpair.inference.http1.server import Server
from podpair.inference.metrics import Metrics

HERE = Path(__file__).parents[1]
CASES = cases()
_VARYING = re.compile(rb"HTTP/1\.1 100 Continue\r\n\r\n|Date: [^\r]*\r\n")
_STATUS = re.compile(rb"HTTP/1\.1 \d{3} ")
COMPARED = [case for case in CASES if not case.own]


def by_name(case: Case) -> str:
    return case.name


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, save_model: Any) -> Path:
    """The model that is asked, and the one that no case may run."""
    from onnx import TensorProto, helper

    path = tmp_path_factory.mktemp("cases")
    spec = {"x": (TensorProto.FLOAT, ["n", 1])}, {"y": (TensorProto.FLOAT, ["n", 1])}
    for name in ("plus", "trap"):
        save_model(path / name / "1", [helper.make_node("Neg", ["x"], ["y"])], *spec)
    return path


@pytest.fixture(scope="module")
def server(repository: Path, serve: Any) -> Iterator[Any]:
    with serve(repository, PODPAIR_SERVER__MAX_BODY_BYTES="1000000") as running:
        yield running


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_every_case_is_answered_as_it_should_be(server: Any, case: Case) -> None:
    answers, then = converse(address_of(server.url), case)
    assert ([answer.status for answer in answers], then) == (case.answers, case.next)
    # Who may go on is told so, and who may not as well.
    if case.next == "closed":
        assert answers[-1].headers.get("connection") == "close"
    assert all(answer.headers.get("connection") != "close" for answer in answers[:-1])
    # Nobody's bytes are another's request.
    assert "trap" not in ran(server)


class Pipe(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = asyncio.Event()

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def writelines(self, parts: Any) -> None:
        self.written += b"".join(map(bytes, parts))

    def write_eof(self) -> None:
        self.ended.set()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def test_wherever_its_bytes_are_cut_a_case_is_answered_alike() -> None:
    """In two pieces at every place, at some of the long ones': the same requests with the same bodies as in one piece."""
    server = echoing()
    differ = {}
    for case in CASES:
        data = case.data + NEXT
        whole = await told(server, [data])
        assert len(_STATUS.findall(whole)) == sum(status != 100 for status in case.answers) + (case.next == "answered")
        for cut in places(len(data)):
            parts = await told(server, [data[:cut], data[cut:]])
            if parts != whole:
                differ[f"{case.name} at {cut}"] = (parts, whole)
                break
    await server.close(0)
    assert differ == {}


def echoing() -> Server:
    """A server that answers, in this turn of the loop or in a later one, with what it was asked."""

    def echo(request: Request) -> Response:
        return json_response([request.head.method, request.head.path, bytes(request.body).decode("latin-1")])

    async def later(request: Request) -> Response:
        return echo(request)

    async def nothing(request: Request) -> Response:
        raise NotFoundError(request.head.path)

    routes = [
        Route("POST", "/v2/models/{model}/infer", lambda request: request.answer(echo(request)), direct=True),
        *(Route("GET", path, later) for path in ("/v2", "/v2/health/{what}", "/v2/models/{model}")),
    ]
    return Server(Routes(routes, nothing), ErrorResponses(Metrics()), 1_000_000, MemoryBudget(1 << 30))


def places(length: int) -> Iterable[int]:
    """Where bytes are cut: everywhere, of long ones at the ends and here and there between."""
    return range(1, length) if length < 400 else [*range(1, 200), *range(200, length, length // 50)]


async def told(server: Server, parts: list[bytes]) -> bytes:
    """What a connection of its own answers to these pieces, without interim answers and without what differs each time."""
    pipe, connection = Pipe(), Connection(server)
    connection.connection_made(pipe)
    for part in parts:
        while part:
            room = connection.get_buffer(-1)
            size = min(len(room), len(part))
            room[:size], part = part[:size], part[size:]
            connection.buffer_updated(size)
    async with asyncio.timeout(20):
        await pipe.ended.wait()
    connection.connection_lost(None)
    return _VARYING.sub(b"", pipe.written)


@pytest.mark.parametrize("case", COMPARED, ids=by_name)
def test_llhttp_finds_the_same_requests(case: Case) -> None:
    assert Llhttp().verdict(case) == case.others.get("llhttp", (case.taken, case.next))


@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_uvicorn_takes_the_same_requests(parser: str) -> None:
    """What it understands, and whether it takes the next request, is the same but for what the file says."""
    with uvicorn(parser) as address:
        found = {case.name: verdict(address, case) for case in COMPARED}
    assert found == {case.name: case.others.get(parser, (case.taken, case.next)) for case in COMPARED}


@contextmanager
def uvicorn(parser: str) -> Iterator[tuple[str, int]]:
    """uvicorn over one of its two parsers, in an environment of its own."""
    python = environments.python(HERE / "uvicorn.lock")
    options = ["--http", parser, "--port", "0", "--app-dir", str(HERE / "outside"), "--no-access-log", "asgi:app"]
    server = Child(python, "-m", "uvicorn", *options)
    try:
        told = re.compile(r"running on http://([\d.]+):(\d+)")
        ((host, port),) = told.findall(server.wait_for(lambda line: told.search(line) is not None))
        yield host, int(port)
    finally:
        server.kill()


def verdict(address: tuple[str, int], case: Case) -> Verdict:
    """How many requests came as far as the application before the next one, and whether that came, too."""
    answers, then = converse(address, case, strict=False)
    return sum("understood" in answer.headers for answer in answers), then


def ran(server: Any) -> set[str]:
    """The models that were asked for anything."""
    stats = server.get("/v2/models/stats").json["model_stats"]
    return {one["name"] for one in stats if any(one["inference_stats"][kind]["count"] for kind in ("success", "fail"))}
