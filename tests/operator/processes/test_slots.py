"""As many processes as are allowed, whoever wants one; and those that misbehave don't take the others' places."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.waiting import soon
from podpair.operator.processes.pool import ProcessPool
from podpair.operator.processes.process import ProcessFailed

from .conftest import Clock

pytestmark = pytest.mark.process

Pools = Callable[..., ProcessPool]


async def test_more_keys_than_places_take_turns(pools: Pools, clock: Clock) -> None:
    pool = pools(processes=2)
    most = 0

    async def ask(key: int) -> int:
        nonlocal most
        found = await pool.call(key, str(key), "pid")
        most = max(most, len(pool.pids()))
        return int(found)

    pids = await asyncio.gather(*(ask(key) for key in range(6)))
    assert len(set(pids)) == 6
    assert most <= 2
    await soon(lambda: sum(Path(f"/proc/{pid}").exists() for pid in pids) <= 2)


async def test_those_that_misbehave_leave_half_of_the_places(pools: Pools) -> None:
    pool = pools(processes=4, call_seconds=600.0)
    good = [await pool.call(key, key, "pid") for key in ("good", "better")]
    bad = [asyncio.create_task(pool.call(key, str(key), "never")) for key in range(8)]
    await soon(lambda: len(pool.pids()) == 4)
    # None of the eight ever answers, and six of them have no place: the others are asked as if they weren't there.
    for _ in range(3):
        assert [await pool.call(key, key, "pid") for key in ("good", "better")] == good
    assert sum(name.isdigit() for name in pool.pids()) == 2
    await _end(*bad)


async def test_a_trusted_one_whose_process_was_ended_gets_a_place_among_suspects(pools: Pools, clock: Clock) -> None:
    pool = pools(processes=2, call_seconds=600.0, idle_seconds=5.0)
    assert await pool.call("good", "good", "pid")
    clock.now += 6.0
    await soon(lambda: not pool.pids())
    bad = [asyncio.create_task(pool.call(key, str(key), "never")) for key in range(4)]
    await soon(lambda: len(pool.pids()) == 1)
    assert await pool.call("good", "good", "pid")
    await _end(*bad)


async def test_a_slow_one_is_a_suspect_until_it_is_quick(pools: Pools, clock: Clock) -> None:
    pool = pools(processes=2, call_seconds=600.0)
    await pool.call("slow", "slow", "pid")
    slow = asyncio.create_task(pool.call("slow", "slow", "slow", 0.2))
    await asyncio.sleep(0)  # it is asked
    clock.now += 6.0
    await slow
    bad = asyncio.create_task(pool.call("bad", "bad", "never"))
    await soon(lambda: "bad" in pool.pids())
    assert "slow" not in pool.pids()  # it had the one place that suspects have
    await _end(bad)
    assert await pool.call("slow", "slow", "pid")
    bad = asyncio.create_task(pool.call("bad", "bad", "never"))
    await soon(lambda: "bad" in pool.pids())
    assert "slow" in pool.pids()
    await _end(bad)


async def test_who_finds_no_place_in_time_is_told_so_and_is_no_suspect_for_it(pools: Pools) -> None:
    pool = pools(processes=2, call_seconds=600.0, slot_seconds=0.2)
    bad = asyncio.create_task(pool.call("bad", "bad", "never"))
    await soon(lambda: "bad" in pool.pids())
    with pytest.raises(ProcessFailed, match="all 2 processes were busy with others"):
        await pool.call("late", "late", "pid")
    await _end(bad)
    assert await pool.call("late", "late", "pid")


async def test_one_that_nobody_asks_is_ended(pools: Pools, clock: Clock) -> None:
    pool = pools(idle_seconds=5.0)
    pid = await pool.call("a", "a", "pid")
    busy = asyncio.create_task(pool.call("b", "b", "never"))
    await soon(lambda: "b" in pool.pids())
    clock.now += 6.0
    await soon(lambda: set(pool.pids()) == {"b"})
    await soon(lambda: not Path(f"/proc/{pid}").exists())
    await _end(busy)


async def test_a_closed_pool_asks_nobody(pools: Pools) -> None:
    pool = pools()
    pid = await pool.call("a", "a", "pid")
    await pool.close()
    await soon(lambda: not Path(f"/proc/{pid}").exists())
    with pytest.raises(ProcessFailed, match="it was ended"):
        await pool.call("a", "a", "pid")


async def _end(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
