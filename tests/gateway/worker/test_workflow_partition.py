"""A partition of workflows whose log fails: nothing is done that isn't written, and it goes on when that is mended."""

import asyncio
from typing import Any, cast

import msgspec
import pytest

from gateway.worker.workflow_world import World
from harness.waiting import soon
from podpair.gateway.core.workflows.records import Begun, Ended, Unit
from podpair.gateway.workflows.limits import Limits
from podpair.gateway.workflows.state_log import LogBroken, LogFenced, LogRefused
from podpair.gateway.workflows.turns import Beginning


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_write_with_an_unknown_outcome(at: int, written: bool) -> None:
    world = World()
    world.log.failures = [(cast("Exception", None), True)] * at
    world.log.failures.append((LogBroken("who knows"), written))
    world.begin()
    await soon(lambda: world.partition.trouble, timeout=20)
    assert world.begun == (at > 0), "only what is known to be written counts"
    await world.ended()
    await soon(lambda: world.partition.trouble is None, timeout=20)
    assert (world.begun, world.log.opened) == (1, 2)
    assert world.log.told.count("result") == 1
    assert set(world.calls.made) == {"a", "b"}
    await world.partition.close()


async def test_a_write_that_is_refused_is_repeated_as_it_is() -> None:
    world = World()
    world.log.failures = [(LogRefused("not now"), False)]
    world.begin()
    await soon(lambda: world.partition.trouble == "partition 3: not now", timeout=20)
    assert (world.begun, world.calls.made) == (0, [])
    await world.ended()
    assert (world.partition.trouble, world.log.opened, world.calls.made) == (None, 1, ["a", "b"])
    await world.partition.close()


async def test_whoever_is_fenced_does_nothing_more() -> None:
    world = World()
    world.log.failures = [(cast("Exception", None), True), (LogFenced("another one"), False)]
    world.begin()
    await soon(lambda: world.partition.trouble, timeout=20)
    assert "another gateway has taken its log" in str(world.partition.trouble)
    assert (world.log.told, world.calls.made, world.log.opened) == (["partial"], ["a"], 1)
    await world.partition.close()


async def test_a_state_that_cannot_be_read_harms_no_other() -> None:
    world = World()
    world.log.found = {b"s/old": b"{", b"s/x/a": b"{}", b"alone": b"1"}
    world.begin()
    await world.ended()
    assert world.log.found.keys() >= {b"s/old", b"s/r"}
    await world.partition.close()


@pytest.mark.parametrize("declaration", ["{}", '{"stages":{"a":{"step":"%s"}}}' % ("x" * 20_000)])
async def test_what_cannot_begin_is_refused(declaration: str) -> None:
    world = World()
    world.begin("faulty", declaration)
    await soon(lambda: world.refused, timeout=20)
    assert world.refused[0].message.startswith("the workflow can't begin: ")
    world.begin()
    await world.ended()
    assert (world.begun, len(world.refused)) == (1, 1)
    await world.partition.close()


@pytest.mark.parametrize("value", [b'{"data":%b}' % (b"[" * 3_000 + b"]" * 3_000), b'{"data":1,"parameters":[]}'])
async def test_a_request_that_cannot_be_read_stops_no_other(value: bytes) -> None:
    world = World()
    begun = Begun("deep", "s", "flow", msgspec.Raw(b'{"stages":{"a":{"step":"a"}}}'), 0.0, value=msgspec.Raw(value))
    world.partition.begin(Beginning(begun, world.hooks), "s/deep")
    world.begin()
    await world.ended()
    assert (world.begun, len(world.refused), world.log.opened) == (1, 1, 1)
    await world.partition.close()


async def test_records_that_cannot_be_made_end_their_workflow_only() -> None:
    world = World()
    writer = world.partition._tools.writer
    made = writer.records

    def records(instance: Any, step: Any, partition: int) -> Any:
        if instance.key == "s/faulty" and step.fault is None:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return made(instance, step, partition)

    writer.records = records  # type: ignore[method-assign]
    world.begin("faulty")
    world.begin()
    await world.ended()
    assert (world.log.told.count("error"), world.log.opened, world.begun) == (1, 1, 2)
    await world.partition.close()


async def test_timers_of_ended_ones_take_no_memory() -> None:
    world = World()
    world.partition._limits = Limits(5_000, 60.0, 10_000, 10_000)
    for number in range(3_000):
        declaration = msgspec.Raw(b'{"stages":{"a":{"step":"a"}}}')
        begun = Begun(f"r{number}", "s", "flow", declaration, 0.0, deadline=4e9 + number)
        world.partition.begin(Beginning(begun, world.hooks), f"s/r{number}")
    await soon(lambda: world.log.told.count("result") == 3_000, timeout=20)
    await soon(lambda: not world.partition._machines, timeout=20)
    world.begin()
    timers = world.partition._timers
    assert (len(timers._newest), len(timers._heap) <= 3_000) == (0, True)
    for number in range(3_000):
        begun = Begun(f"q{number}", "s", "flow", declaration, 0.0, deadline=4e9 + number)
        world.partition.begin(Beginning(begun, world.hooks), f"s/q{number}")
    await soon(lambda: world.log.told.count("result") == 6_001, timeout=20)
    assert len(world.partition._timers._heap) <= 4_000
    await world.partition.close()


async def test_an_ended_one_begins_no_second_time() -> None:
    world = World()
    world.begin()
    await world.ended()
    world.begin()
    await soon(lambda: world.begun == 2, timeout=20)
    await asyncio.sleep(0)
    assert (world.calls.made, world.log.told.count("result")) == (["a", "b"], 1)
    await world.partition.close()


async def test_what_a_former_attempt_is_answered_counts_no_more() -> None:
    world, taken = World(), asyncio.Event()
    world.calls.hang = True
    world.begin(declaration='{"stages":{"a":{"step":"a","retry":{"backoff":0.01}}}}')
    await soon(lambda: world.calls.made == ["a"])
    world.partition.call_failed("s/r", Unit("a"), 1, "no answer", retry=True)
    await soon(lambda: world.calls.made == ["a", "a"])
    assert world.calls.withdrawn == [("a", 1)]
    world.partition.reply("s/r", Unit("a"), 1, ("cancelled: by its client", False), taken.set)
    await asyncio.wait_for(taken.wait(), 10)
    assert "error" not in world.log.told
    world.partition.reply("s/r", Unit("a"), 2, b"5", taken.set)
    await world.ended()
    assert world.calls.withdrawn == [("a", 1)]
    await world.partition.close()


@pytest.mark.parametrize("kept", [True, False])
async def test_another_request_with_the_id_of_an_ended_one_is_answered(kept: bool) -> None:
    world = World()
    world.begin()
    await world.ended()
    await soon(lambda: not world.partition._machines)
    if not kept:
        world.partition._answers.discard(("s/r", 7))
    world.begin(offset=7)  # its own record, which is read again
    world.begin(offset=8)
    await soon(lambda: world.begun == 2 and (world.answered or world.refused))
    if kept:
        assert (world.refused, msgspec.json.decode(world.answered[0])["data"]) == ([], 1)
    else:
        assert "has ended (result, " in world.refused[0].message
        assert world.refused[0].code == "invalid"
    assert world.log.told.count("result") == 1
    await world.partition.close()


async def test_a_failed_one_runs_again_once_its_dead_letter_is_replayed() -> None:
    world = World()
    world.calls.hang = True
    world.begin(declaration='{"stages":{"a":{"step":"a","retry":{"attempts":1}}}}')
    await soon(lambda: world.calls.made == ["a"])
    world.partition.call_failed("s/r", Unit("a"), 1, "broken", retry=True)
    await soon(lambda: "error" in world.log.told and not world.partition._machines)
    world.calls.hang = False
    world.begin(offset=20, replays="1")
    await world.ended()
    world.begin(offset=20, replays="1")  # its record, which is read again
    await soon(lambda: world.begun == 3)
    assert (world.refused, world.calls.made, world.log.told.count("result")) == ([], ["a", "a", "b"], 1)
    assert msgspec.json.decode(world.log.found[b"s/r"])["offset"] == 20
    await world.partition.close()


async def test_an_answer_of_an_earlier_one_with_the_id_is_not_given() -> None:
    """Its marker was removed, another one has ended elsewhere since, and the partition has come back."""
    world = World()
    world.begin()
    await world.ended()
    await soon(lambda: not world.partition._machines)
    world.partition._ended["s/r"] = Ended(1e9, "upstream", 20)
    world.begin(offset=30)
    await soon(lambda: world.answered or world.refused)
    assert (world.answered, "has ended (upstream, " in world.refused[0].message) == ([], True)
    await world.partition.close()
