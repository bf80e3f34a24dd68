"""Whatever is sent to a client, in whatever sizes and batches: memory is bounded, nothing is lost, and who takes nothing goes."""

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.record_batches import one_partition
from podpair.common.gateway_config.model import Config
from podpair.gateway.auth.resume import Issuer, ResumeTokens
from podpair.gateway.core.ledger import Ledger
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.protocol import CloseCode
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.records import Event, Kind, control_event, result_event
from podpair.gateway.core.wires import EventStreamWire, JsonWire, RawWire, Wire
from podpair.gateway.kafka.log_reader import ResultsLog
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions.connection import HIGH_WATER, BackpressureMonitor, Connection
from podpair.gateway.sessions.fanout import FanOut
from podpair.gateway.sessions.misplaced_records import MisplacedRecords
from podpair.gateway.sessions.resume import ResumeService
from podpair.gateway.sessions.session import Session

LIMIT = 10_000
_FRAME = 200  # bytes that an event may cost besides its value: its envelope, its frame, what an outbox counts for it


class Transport:
    """A socket whose client takes as much as the test says."""

    def __init__(self, secured: bool = False) -> None:
        self.secured = secured
        self.written = bytearray()
        self.taken = 0
        self.largest = 0  # bytes of one write

    def get_extra_info(self, name: str) -> object:
        return object() if self.secured and name == "sslcontext" else None

    def get_write_buffer_size(self) -> int:
        return len(self.written) - self.taken

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        self.written += data
        self.largest = max(self.largest, len(data))

    def take(self, count: int) -> None:
        self.taken = min(len(self.written), self.taken + count)


def made_record(offset: int, kind: str, size: int) -> Record:
    """A record of the session's home partition."""
    value = json.dumps("x" * size if kind != "result" else {"data": "x" * size}).encode()
    request_id = b"r%d" % (offset % 3 if kind == "partial" else offset)
    typed = [("ce_type", f"dev.podpair.{kind}".encode()), ("ce_id", request_id)]
    return offset, value, typed if kind != "push" else None


class Side:
    """A session with a connection, its fan-out and what brings it up to date; time stands still but for `clock`."""

    def __init__(self, wire: Wire, *, limit: int = LIMIT, secured: bool = False) -> None:
        self.now = 1.0
        self.transport = Transport(secured)
        self.backpressure = BackpressureMonitor(10.0, lambda: self.now)
        self.closed: list[int] = []
        config = Config.model_validate({"auth": {"disabled": True}})
        metrics = Metrics()
        self.session = Session("s", "user", 0, Ledger(1000))
        misplaced = MisplacedRecords("results", metrics, HomePartitions("e", 1))
        followers = cast("Any", SimpleNamespace(sessions={b"s": self.session}, user_logs={}, channels={}))
        self.fanout = FanOut(
            followers, 1 << 30, misplaced, lambda log: self.resume_service.on_lagging(log), metrics, lambda: self.now
        )
        self.fanout.open(0, 0)
        self.resume_service = ResumeService(
            config, Issuer("gw", ResumeTokens(config.sessions)),
            ResultsLog(HomePartitions("e", 1), TopicLimits(), cast("Any", None), cast("Any", None)), self.fanout,
            cast("Any", None), metrics,
        )  # fmt: skip
        self.connection = Connection(
            cast("Any", self.transport), wire, self.backpressure, limit, lambda code, _: self.closed.append(code)
        )
        self.session.connection = self.connection
        self.connection.welcome([])
        self.session.live = True

    def deliver(self, records: list[Record]) -> None:
        """Deliver one batch."""
        if records:
            self.fanout.deliver(0, one_partition([b"s"] * len(records), records))

    @property
    def held(self) -> int:
        outbox = self.connection._outbox
        return self.transport.get_write_buffer_size() + (outbox.size if outbox is not None else 0)

    async def turn(self) -> None:
        """What the loop and the backpressure would do meanwhile."""
        for _ in range(5):
            await asyncio.sleep(0)
        if self.backpressure._timer is not None:
            self.backpressure._timer.cancel()  # the clock is the test's
        self.backpressure._sweep()
        for _ in range(5):
            await asyncio.sleep(0)

    def offsets(self) -> list[int]:
        """The offsets of what was written, in order."""
        return [int(part.split(b'"')[0]) for part in bytes(self.transport.written).split(b'"position":"e.0.')[1:]]


sizes = st.one_of(
    st.integers(0, 40), st.integers(0, 3000), st.integers(LIMIT - 80, LIMIT + 80), st.integers(20_000, 40_000)
)
records = st.tuples(st.sampled_from(["push", "push", "result", "partial"]), sizes)
steps = st.lists(st.tuples(st.lists(records, max_size=12), st.integers(0, 60_000)), max_size=12)


@pytest.mark.parametrize("secured", [False, True])
@pytest.mark.parametrize("wire", [JsonWire(b"e.0."), EventStreamWire(b"e.0.")])
@settings(max_examples=settings().max_examples * 2 // 5)
@given(steps, st.sampled_from([1000, LIMIT, 200_000]))
def test_what_is_held_is_bounded_and_what_is_not_taken_comes_from_the_log(
    wire: Wire, secured: bool, asked: list[tuple[list[tuple[str, int]], int]], limit: int
) -> None:
    async def scenario() -> None:
        side = Side(wire, limit=limit, secured=secured)
        offset = largest = 0
        needed = []
        for batch, taken in asked:
            made = []
            for kind, size in batch:
                largest = max(largest, size)
                made.append(made_record(offset, kind, size))
                needed += [offset] if kind != "partial" else []
                offset += 1
            side.deliver(made)
            assert side.held <= limit + largest + _FRAME
            await side.turn()
            assert side.held <= limit + largest + _FRAME
            side.transport.take(taken)
            side.now += 5.0
            await side.turn()
            assert side.held <= limit + largest + _FRAME
        if side.closed:  # it took nothing for a while
            return
        for _ in range(3 * offset + 60):
            side.transport.take(10**9)
            await side.turn()
            if side.session.live and not side.held:
                break
        assert side.held == 0
        assert side.session.live
        offsets = side.offsets()
        assert offsets == sorted(set(offsets))
        assert [o for o in needed if o not in offsets] == []
        if secured:
            assert side.transport.largest <= HIGH_WATER + _FRAME

    asyncio.run(scenario())


def deliver(side: Side, offset: int, size: int, kind: str = "push") -> None:
    side.deliver([made_record(offset, kind, size)])


@pytest.mark.parametrize("size", [50, LIMIT - 100, LIMIT, 50_000, 500_000])
@pytest.mark.parametrize("wire", [JsonWire(b"e.0."), EventStreamWire(b"e.0."), RawWire()])
async def test_one_record_a_batch_to_a_client_that_takes_nothing(wire: Wire, size: int) -> None:
    side = Side(wire)
    for offset in range(2_000_000 // size if size > 50 else 2000):
        deliver(side, offset, size)
        await side.turn()
        assert side.held <= LIMIT + size + _FRAME
    assert not side.closed
    side.now += 9.0
    await side.turn()
    assert not side.closed
    side.now += 2.0
    await side.turn()
    assert side.closed == [CloseCode.SLOW]


@pytest.mark.parametrize("size", [LIMIT * 20, LIMIT + 70_000])
async def test_a_single_record_that_is_never_taken(size: int) -> None:
    """Nothing follows it that would look at the client."""
    side = Side(JsonWire(b"e.0."))
    deliver(side, 0, size)
    await side.turn()
    side.now += 11.0
    await side.turn()
    assert side.closed == [CloseCode.SLOW]


async def test_who_takes_a_little_now_and_then_is_not_closed() -> None:
    side = Side(JsonWire(b"e.0."))
    for offset in range(50):
        deliver(side, offset, 5000)
    for _ in range(100):
        side.now += 9.0
        side.transport.take(3000)
        await side.turn()
    assert not side.closed
    assert side.offsets() == list(range(50))


async def test_a_burst_of_few_large_records_is_not_written_at_once() -> None:
    side = Side(JsonWire(b"e.0."), limit=1 << 20)
    side.deliver([made_record(offset, "push", 1_000_000) for offset in range(16)])
    assert side.held <= (1 << 20) + 1_000_000 + _FRAME
    for _ in range(40):
        side.transport.take(10**9)
        await side.turn()
    assert side.offsets() == list(range(16))


def answers(count: int, size: int) -> list[Event]:
    return [result_event(f"d{number}", b'"data":"%b"' % (b"x" * size)) for number in range(count)]


@pytest.mark.parametrize("together", [True, False])
async def test_answers_that_no_log_holds_are_all_handed_out_where_they_are_too_much(together: bool) -> None:
    side = Side(JsonWire(b"e.0."))
    deliver(side, 0, 100_000)
    made = answers(10, 4000)
    batches: Sequence[list[Event]] = [made] if together else [[event] for event in made]
    unsent = []
    for batch in batches:
        if not side.session.send_all(batch):
            unsent += batch
    assert side.closed == [CloseCode.SLOW]
    assert [event.id for event in [*side.connection.undelivered(), *unsent]] == [event.id for event in made]


async def test_what_comes_before_the_welcome_is_bounded_and_not_lost() -> None:
    side = Side(JsonWire(b"e.0."))
    early = Connection(
        cast("Any", Transport()), JsonWire(b"e.0."), side.backpressure, LIMIT, lambda code, _: side.closed.append(code)
    )
    side.session.connection = early
    made = answers(10, 4000)
    unsent = [event for event in made if not side.session.send(event)]
    assert early.congested
    assert side.closed == [CloseCode.SLOW]
    early.welcome([control_event("welcome", b"{}")])
    assert [event.id for event in [*early.undelivered(), *unsent]] == [event.id for event in made]


@given(st.lists(st.tuples(st.sampled_from(["push", "partial", "result"]), st.integers(0, 3000)), max_size=80))
def test_unlogged_and_logged_events_share_one_bound(asked: list[tuple[str, int]]) -> None:
    async def scenario() -> None:
        side = Side(JsonWire(b"e.0."))
        sent, unsent = [], []
        for number, (kind, size) in enumerate(asked):
            if kind == "push":
                deliver(side, number, size)
                continue
            event = answers(1, size)[0]._replace(id=f"n{number}")
            if kind == "partial":
                event = event._replace(
                    kind=Kind.PARTIAL, payload=b'{"type":"partial","id":"p","seq":%d,"data":"x"}' % number
                )
            elif side.session.send(event):
                sent.append(event)
                continue
            else:
                unsent.append(event)
                continue
            side.session.send(event)
        assert side.held <= 2 * LIMIT + 3000 + _FRAME or side.closed
        assert side.held <= 2 * LIMIT + 2 * 3000 + 2 * _FRAME
        written = bytes(side.transport.written)
        left = [event.id for event in side.connection.undelivered()]
        gone = [event.id for event in sent if event.payload not in written and event.id not in left]
        assert gone == []

    asyncio.run(scenario())
