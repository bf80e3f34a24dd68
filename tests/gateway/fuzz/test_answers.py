"""Whatever a model's server answers, everybody gets the answer to what was asked, or an error.

Answers are right, nearly right, or damaged; they come cut anywhere, with interim answers, with another answer or noise behind
them, and with more while nothing is asked.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fuzz.made import damaged, examples
from gateway.raw_model import CONTINUE, HINTS, PROCESSING
from podpair.gateway.core.model_errors import Failed, Unavailable
from podpair.gateway.upstream import http
from podpair.gateway.upstream.http import HttpPool

SECONDS = 5.0  # for an answer that has to come; of those that are cut the connection ends
OK = b"HTTP/1.1 200 OK\r\n"


class Plan(NamedTuple):
    """What becomes of one request."""

    before: list[bytes]  # interim answers, or what looks like them
    form: str
    damage: bytes | None  # instead of the answer
    behind: bytes
    idle: bytes  # sent once the answer has been taken, before anybody asks again
    cuts: list[int]
    ends: bool


NEVER = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"not"'
surplus = st.one_of(
    st.just(b""), st.just(b""),
    st.sampled_from([b"\r\n", b"\n", b"x", CONTINUE, NEVER, NEVER[:20], NEVER + NEVER, HINTS + NEVER]),
    st.binary(max_size=8),
)  # fmt: skip
plans = st.builds(
    Plan,
    before=st.lists(
        st.sampled_from([CONTINUE, CONTINUE, HINTS, PROCESSING, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"]), max_size=2
    ) | st.just([]),
    form=st.sampled_from(["length", "length", "chunks", "close", "end", "old", "two lengths", "both", "short", "long"]),
    damage=st.none() | st.none() | st.none() | damaged(st.just(NEVER)) | st.binary(max_size=30),
    behind=surplus,
    idle=surplus,
    cuts=st.lists(st.integers(0, 120), max_size=4),
    ends=st.booleans(),
)  # fmt: skip


def answer(plan: Plan, said: bytes) -> bytes:
    """The bytes of an answer that says `said`."""
    length = b"Content-Length: %d\r\n" % len(said)
    match plan.form:
        case "chunks":
            half = len(said) // 2
            parts = b"%x\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\nX: y\r\n\r\n" % (
                half,
                said[:half],
                len(said) - half,
                said[half:],
            )
            return OK + b"Transfer-Encoding: chunked\r\n\r\n" + parts
        case "close":
            return OK + b"Connection: close\r\n" + length + b"\r\n" + said
        case "end":
            return OK + b"\r\n" + said
        case "old":
            return b"HTTP/1.0 200 OK\r\n" + length + b"\r\n" + said
        case "two lengths":
            return OK + length + b"Content-Length: 1\r\n\r\n" + said
        case "both":
            return OK + length + b"Transfer-Encoding: chunked\r\n\r\n" + said
        case "short":  # its rest is behind it
            return OK + b"Content-Length: %d\r\n\r\n" % (len(said) - 1) + said
        case "long":  # what comes next is its end
            return OK + b"Content-Length: %d\r\n\r\n" % (len(said) + 1) + said
    return OK + length + b"\r\n" + said


class Server:
    """Answers as the plans say, one after the other."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                asked = await reader.readexactly(length)
                plan = self.plans.pop(0)
                data = b"".join(plan.before)
                data += answer(plan, b'"%b"' % asked) if plan.damage is None else plan.damage
                data += plan.behind
                places = sorted({cut for cut in plan.cuts if 0 < cut < len(data)})
                for start, end in zip((0, *places), (*places, len(data)), strict=True):
                    writer.write(data[start:end])
                    await writer.drain()
                    await asyncio.sleep(0)
                if plan.ends or plan.form == "end" or plan.damage is not None or plan.form == "long":
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            return  # the test is over; asyncio would log it
        finally:
            self.writers.discard(writer)
            writer.close()

    async def say(self, data: bytes) -> None:
        """Something on all connections that nobody has asked for."""
        for writer in list(self.writers):
            if not writer.is_closing():
                writer.write(data)

    async def stop(self) -> None:
        for writer in list(self.writers):
            writer.close()
        self._server.close()


async def converse(found: list[Plan], counts: dict[str, int]) -> None:
    """Ask as often as there are plans."""
    server = Server()
    pool = HttpPool(await server.start(), 10_000)
    server.plans = list(found)
    try:
        for number, plan in enumerate(found):
            asked = b"request-%d" % number
            server.plans[:] = found[number:]
            try:
                outcome: bytes | Exception = (await pool.post("/", b"", (asked,), SECONDS)).body
            except (Failed, Unavailable, TimeoutError) as error:
                outcome = error
            kind = "answered" if isinstance(outcome, bytes) else type(outcome).__name__
            counts[kind] = counts.get(kind, 0) + 1
            check(plan, b'"%b"' % asked, outcome)
            await server.say(plan.idle)
            if number % 2:
                await asyncio.sleep(0)
    finally:
        pool.close()
        await server.stop()


def check(plan: Plan, right: bytes, outcome: bytes | Exception) -> None:
    """It is the answer to what was asked, as its framing says, or an error, where the answer was none."""
    if isinstance(outcome, Exception):
        whole = plan.damage is None and plan.form in ("length", "chunks", "close", "end", "old")
        assert not whole or any(b" 101 " in part for part in plan.before), (plan, outcome)
    elif plan.damage is not None:  # damage may leave an answer whole: this one's own
        assert not outcome.startswith(b'"request'), (plan, outcome)
    else:
        said = {"long": right + plan.behind[:1], "end": right + plan.behind, "short": right[:-1]}.get(plan.form, right)
        assert outcome == said, (plan, outcome)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_answers() -> None:
    counts: dict[str, int] = {}

    @examples(0.2, each=6)
    @given(st.lists(plans, min_size=6, max_size=6))
    def ask(found: list[Plan]) -> None:
        run(lambda: converse(found, counts))

    ask()
    # Neither all of them right, nor all of them wrong.
    assert counts["answered"] > 20
    assert counts["Failed"] > 20


RIGHT = Plan([], "length", None, b"", b"", [], ends=False)


@pytest.mark.parametrize(
    ("fault", "plan"),
    [
        ("an interim answer is taken for the answer", RIGHT._replace(before=[CONTINUE])),
        ("what comes while nothing is asked is the next one's", RIGHT._replace(idle=NEVER)),
    ],
)
def test_what_is_planted_is_found(monkeypatch: pytest.MonkeyPatch, fault: str, plan: Plan) -> None:
    class Careless(http._Connection):
        """As a client that takes what has come for the answer to what is asked next."""

        early = b""

        def untouched(self) -> bool:
            return True

        def send(self, *given: Any, **options: Any) -> None:
            super().send(*given, **options)
            early, self.early = self.early, b""
            if early:
                super().data_received(early)

        def data_received(self, data: bytes) -> None:
            if fault.startswith("an interim"):
                data = data.replace(b"100 Continue\r\n", b"200 OK\r\nContent-Length: 0\r\n")
            if self._reader is None:
                self.early += data
            else:
                super().data_received(data)

    monkeypatch.setattr(http, "_Connection", Careless)
    with pytest.raises(AssertionError):
        run(lambda: converse([plan] * 4, {}))
    monkeypatch.undo()
    run(lambda: converse([plan] * 4, {}))
