"""Requests that a partition of workflows keeps until they are to begin."""

import time
from typing import Any, cast

import pytest

from gateway.worker.workflow_world import World
from harness.waiting import soon
from podpair.gateway.core.workflows.records import Scheduled, decode_instance
from podpair.gateway.workflows.schedule import Keeping
from podpair.gateway.workflows.state_log import LogBroken, LogRefused

KEY = b"^s/r"


def request(delay: float = 0.1, name: str = "r", **members: Any) -> Scheduled:
    return Scheduled(name, "s", time.time() + delay, b'{"data":[1]}', {"ce_id": name, "ce_subject": "s"}, **members)


def keep(world: World, kept: Scheduled) -> Keeping:
    keeping = Keeping(kept, world.hooks)
    world.partition.keep(keeping)
    return keeping


async def test_its_record_is_written_again_when_its_time_has_come() -> None:
    world = World()
    kept = request(0.3, key=b"s")
    keep(world, kept)
    await soon(lambda: world.begun == 1)
    assert KEY in world.log.found
    assert not world.log.written
    await soon(lambda: world.log.written)
    assert time.time() >= kept.not_before
    (record,) = world.log.written
    assert (record.topic, record.partition, record.key) == ("podpair.requests", -1, b"s")
    assert record.value == b'{"data":[1]}'
    assert dict(record.headers) == {"ce_id": b"r", "ce_subject": b"s"}
    marker = decode_instance(world.log.found[KEY])
    assert isinstance(marker, Scheduled)
    assert marker.handed_over is not None
    # Its own record may be read once more: it is not kept again.
    keep(world, kept)
    await soon(lambda: world.begun == 2)
    assert len(world.log.written) == 1
    await world.partition.close()


@pytest.mark.parametrize("written", [True, False])
async def test_it_is_handed_over_once_if_it_is_not_known_whether_it_was(written: bool) -> None:
    world = World()
    world.log.failures = [(cast("Exception", None), True), (LogBroken("who knows"), written), (LogRefused("no"), False)]
    keep(world, request())
    await soon(lambda: world.log.opened == 2)
    await soon(lambda: not world.log.failures or written)
    await soon(lambda: len(world.log.written) == 1 and not world.partition.trouble)
    await world.partition.close()


async def test_another_gateway_goes_on_with_what_is_kept() -> None:
    first = World()
    keep(first, request(3600))
    keep(first, request(0.5, "soon"))
    await soon(lambda: first.begun == 2)
    await first.partition.close()
    second = World(first.log)
    await soon(lambda: second.log.written)
    assert dict(second.log.written[0].headers)["ce_id"] == b"soon"
    assert len(second.partition.schedule) == 1
    await second.partition.close()


async def test_one_that_is_cancelled_before_its_time_ends_and_is_forgotten() -> None:
    world = World()
    done: list[bool] = []
    keep(world, request(3600))
    world.partition.cancel("s/r", lambda: done.append(True))
    await soon(lambda: done)
    assert world.log.told == ["error"]
    assert b"cancelled" in (world.log.written[0].value or b"")
    assert not world.log.found
    world.partition.cancel("s/r", lambda: done.append(True))
    await soon(lambda: len(done) == 2)
    assert world.log.told == ["error"]
    await world.partition.close()


@pytest.mark.parametrize("ended_here", [True, False])
async def test_a_cancellation_that_came_before_it_was_handed_over_is_written_behind_it(ended_here: bool) -> None:
    world = World()
    done: list[bool] = []
    keep(world, request())
    await soon(lambda: world.log.told == ["letter"])  # its record
    for _ in range(2):
        world.partition.cancel("s/r", lambda: done.append(True), ended_here=ended_here)
    await soon(lambda: len(done) == 2)
    assert world.log.told == ["letter"] + ["cancel"] * (not ended_here)
    await world.partition.close()


async def test_what_can_not_be_kept_is_refused() -> None:
    world = World()
    keep(world, request(3600))
    keep(world, request(1800))  # the first one counts
    keep(world, Scheduled("large", "s", time.time() + 9, b"x" * 9000))
    for number in range(10):
        keep(world, request(60, f"n-{number}"))
    await soon(lambda: len(world.refused) == 2)
    messages = [fault.message for fault in world.refused]
    assert [word in message for word, message in zip(("bytes", "max_instances"), messages, strict=True)] == [
        True,
        True,
    ], messages
    assert world.begun == 11
    await world.partition.close()


async def test_one_that_is_dropped_before_its_turn_is_left_to_whoever_reads_it_next() -> None:
    world = World()
    keep(world, request(3600)).cancel()
    keep(world, request(3600, "other"))
    await soon(lambda: world.begun == 1)
    assert list(world.log.found) == [b"^s/other"]
    await world.partition.close()
