"""Who is told when the log is cut under its reader: all whose home it is, also those who came while the broker was asked."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from podpair.gateway.core.ledger import Ledger
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.positions import Position
from podpair.gateway.core.records import Event
from podpair.gateway.core.tails import PartitionTail
from podpair.gateway.core.wires import JsonWire
from podpair.gateway.kafka.log_reader import ResultsLog
from podpair.gateway.sessions import resume
from podpair.gateway.sessions.resume import ResumeService
from podpair.gateway.sessions.session import Session


class Told:
    """A connection that notes what it is given."""

    def __init__(self, *, welcomed: bool = True) -> None:
        self.welcomed = welcomed
        self.events: list[bytes] = []
        self.wire = JsonWire()

    def send_unlogged(self, events: list[Event]) -> bool:
        self.events += [event.payload for event in events]
        return True


class CutReader:
    """Its log holds the offsets 20 ≤ o < 20 once `asked` is answered."""

    def __init__(self) -> None:
        self.asked: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self.moved: list[tuple[int, int]] = []

    async def watermarks(self, partition: int) -> tuple[int, int]:
        return await self.asked

    def move(self, partition: int, offset: int) -> None:
        self.moved.append((partition, offset))


def session(name: str, connection: Told | None, home: int = 0) -> Session:
    made = Session(name, "user", home, Ledger(8))
    made.connection = cast("Any", connection)
    made.seen, made.live = 9, True
    return made


def service_on(reader: Any) -> ResumeService:
    """With the tail of one partition, that ends at 10."""
    fanout = SimpleNamespace(tails={0: PartitionTail(10, 1 << 20)})
    parts: dict[str, Any] = dict.fromkeys(("config", "issuer", "requests_topic"), None)
    metrics = SimpleNamespace(gaps=SimpleNamespace(labels=lambda reason: SimpleNamespace(inc=lambda: None)))
    return ResumeService(
        **parts,
        log=ResultsLog(HomePartitions("e", 2), cast("Any", None), cast("Any", reader), cast("Any", None)),
        fanout=cast("Any", fanout),
        metrics=cast("Any", metrics),
    )


@pytest.mark.timeout(30)
async def test_who_comes_while_the_broker_is_asked_is_told_of_the_cut_too() -> None:
    reader = CutReader()
    service = service_on(reader)
    there, late, elsewhere, early = Told(), Told(), Told(), Told(welcomed=False)
    sessions = {b"there": session("there", there), b"elsewhere": session("elsewhere", elsewhere, home=1)}
    cutting = asyncio.create_task(service.on_log_truncated(0, sessions.values()))
    await asyncio.sleep(0)
    sessions[b"late"] = session("late", late)
    sessions[b"early"] = session("early", early)
    sessions[b"left"] = session("left", None)
    reader.asked.set_result((20, 20))
    await cutting
    assert reader.moved == [(0, 20)]
    gap = b'{"type":"gap","from":"e.0.9","to":"e.0.19","reason":"retention"}'
    assert [there.events, late.events] == [[gap], [gap]]
    assert elsewhere.events == early.events == [], "of another home; and who is welcomed to what there is now"
    assert [sessions[key].seen for key in (b"there", b"late", b"early")] == [19, 19, 9]
    assert sessions[b"there"].given_from == 19, "what was cut does not count as received"


class Reader:
    """The brokers say these ends of the log, one after the other; the last one for good."""

    def __init__(self, *ends: int) -> None:
        self.left = list(ends)
        self.moved: list[tuple[int, int]] = []

    async def reads(self, _: str) -> None:
        return None

    async def watermarks(self, _: int) -> tuple[int, int]:
        return 0, self.left.pop(0) if len(self.left) > 1 else self.left[0]

    def move(self, partition: int, offset: int) -> None:
        self.moved.append((partition, offset))


@pytest.mark.parametrize(
    ("ends", "start", "reason"), [((12, 12, 20), 18, None), ((12,), 12, "ahead"), ((18,), 18, None)]
)
async def test_a_leader_that_is_none_any_more_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, ends: tuple[int, ...], start: int, reason: str | None
) -> None:
    """A client has seen more than the log has, by the word of a broker that was suspended; or really, after an election."""
    monkeypatch.setattr(resume, "_DOUBTS", (0.0,) * 4)
    reader = Reader(*ends)
    plan = await service_on(reader).plan(session("back", None), Position("e", 0, 17))
    assert (plan.start, plan.gap and plan.gap.reason) == (start, reason)


async def test_a_position_that_nobody_can_have_seen_is_not_waited_for() -> None:
    reader = Reader(12, 10**15)
    plan = await service_on(reader).plan(session("back", None), Position("e", 0, 10**12))
    assert (plan.start, plan.gap and plan.gap.reason, len(reader.left)) == (12, "ahead", 1)


async def test_a_log_that_was_not_cut_is_read_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "_DOUBTS", (0.0,) * 4)
    reader, there = Reader(7, 11), Told()
    await service_on(reader).on_log_truncated(0, [session("there", there)])
    assert (reader.moved, there.events) == ([(0, 10)], [])
