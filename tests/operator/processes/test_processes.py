"""What a process does ends its own calls, with why, and nobody else's."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.processes import ROOT, Child
from harness.waiting import soon, until
from podpair.operator.core.credentials import Credentials
from podpair.operator.processes.pool import ProcessPool
from podpair.operator.processes.process import CallFailed, ProcessFailed

from .conftest import Clock

pytestmark = pytest.mark.process

Pools = Callable[..., ProcessPool]


async def test_a_key_keeps_its_process_and_shares_it_with_nobody(pools: Pools) -> None:
    pool = pools()
    first, again, other = await pool.call("a", "a", "pid"), await pool.call("a", "a", "pid"), None
    other = await pool.call("b", "b", "pid")
    assert first == again != other
    assert os.getpid() not in (first, other)
    assert pool.pids() == {"a": first, "b": other}


async def test_arguments_go_there_whole_and_answers_and_errors_come_back(pools: Pools) -> None:
    pool = pools()
    assert await pool.call("a", "a", "echo", 1, "two", None, Credentials("ada", "secret")) == [
        1, "two", None, {"username": "ada", "password": "secret", "ca_pem": None, "certificate_pem": None, "key_pem": None},
    ]  # fmt: skip
    with pytest.raises(CallFailed, match="no such luck"):
        await pool.call("a", "a", "fail", "no such luck")
    answers = await asyncio.gather(*(pool.call("a", "a", "echo", number) for number in range(50)))
    assert answers == [[number] for number in range(50)]


ENDS: dict[str, tuple[tuple[Any, ...], str]] = {
    "aborts": (("abort",), "it was ended by SIGABRT"),
    "exits": (("leave", 3), "it exited with status 3"),
    "gives no answer": (("never",), "it gave no answer within 2 s"),
    "holds its loop": (("stuck",), "it gave no answer within 2 s"),
    "sends an endless length": (("nonsense", "length"), "it sent what is no answer"),
    "sends no JSON": (("nonsense", "text"), "it sent what is no answer"),
    "sends another shape": (("nonsense", "shape"), "it sent what is no answer"),
    "takes all memory": (("grow", 300 << 20), "it took more memory than it may, 128 MiB"),
    "makes threads": (("threads", 300), "it made more threads than it may, 200"),
}


@pytest.mark.parametrize("how", ENDS)
async def test_a_process_that_fails_is_told_and_ended_and_started_again_later(
    pools: Pools, clock: Clock, how: str
) -> None:
    call, told = ENDS[how]
    late = "no answer within" in told
    pool = pools(call_seconds=2.0 if late else 60.0, threads=200)
    other = await pool.call("other", "other", "pid")
    before = await pool.call("bad", "bad", "pid")
    with pytest.raises(ProcessFailed, match=told):
        await pool.call("bad", "bad", *call)
    await soon(lambda: not Path(f"/proc/{before}").exists())
    # Until its wait is over it fails at once, with the same words.
    with pytest.raises(ProcessFailed, match=told):
        await pool.call("bad", "bad", "pid")
    assert await pool.call("other", "other", "pid") == other
    clock.now += 1.0
    assert await pool.call("bad", "bad", "pid") not in (before, other)


async def test_a_process_that_many_use_may_be_larger(pools: Pools) -> None:
    pool = pools(threads=10, threads_each=20)
    pid = await pool.call("a", "a", "pid")
    for user in range(10):
        assert await pool.call("a", "a", "pid", user=user) == pid
    many = asyncio.create_task(pool.call("a", "a", "threads", 100))
    for _ in range(3):  # as many looks at it
        await asyncio.sleep(1.0)
        assert await pool.call("a", "a", "pid") == pid
    with pytest.raises(ProcessFailed, match="more threads than it may"):
        await pool.call("a", "a", "threads", 200)
    with pytest.raises(ProcessFailed):
        await many


async def test_one_that_is_killed_by_somebody_is_missed_before_it_is_asked_again(pools: Pools, clock: Clock) -> None:
    pool = pools()
    victim = await pool.call("a", "a", "pid")
    waiting = asyncio.create_task(pool.call("a", "a", "never"))
    await pool.call("a", "a", "pid")
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(ProcessFailed, match="it was ended by SIGKILL"):
        await waiting
    clock.now += 1.0
    assert await pool.call("a", "a", "pid") != victim


async def test_the_wait_doubles_with_each_failure_and_ends_with_a_success(pools: Pools, clock: Clock) -> None:
    pool = pools()
    for wait in (1.0, 2.0, 4.0, 8.0):
        with pytest.raises(ProcessFailed):
            await pool.call("a", "a", "leave", 1)
        clock.now += wait - 0.1
        with pytest.raises(ProcessFailed):
            await pool.call("a", "a", "pid")
        assert pool.pids() == {}
        clock.now += 0.1
    assert await pool.call("a", "a", "pid")
    with pytest.raises(ProcessFailed):
        await pool.call("a", "a", "leave", 1)
    clock.now += 1.0
    assert await pool.call("a", "a", "pid")


async def test_what_is_too_long_is_an_error_and_ends_nothing(pools: Pools) -> None:
    pool = pools()
    before = await pool.call("a", "a", "pid")
    with pytest.raises(CallFailed, match="the answer can't be sent"):
        await pool.call("a", "a", "long", 9 << 20)
    with pytest.raises(CallFailed, match="it can't be asked"):
        await pool.call("a", "a", "echo", "x" * (9 << 20))
    assert await pool.call("a", "a", "pid") == before


async def test_secrets_are_in_no_argument_and_no_environment_and_no_core_file(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEBODYS_TOKEN", "hunter2")
    pool = pools()
    await pool.call("a", "a", "echo", Credentials("ada", "hunter2"))
    folder = Path(f"/proc/{pool.pids()['a']}")
    for file in ("cmdline", "environ"):
        found = (folder / file).read_bytes()
        assert b"PATH" in found or b"podpair" in found
        assert b"hunter2" not in found
    (core,) = [line for line in (folder / "limits").read_text().splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]


_PARENT = """
import asyncio, json, sys
from podpair.operator.processes.pool import ProcessPool

async def main():
    pool = ProcessPool("harness.child_functions")
    pids = [await pool.call(key, key, "pid") for key in ("idle", "stuck")]
    asyncio.create_task(pool.call("stuck", "stuck", "stuck"))
    await asyncio.sleep(0)
    sys.stderr.write(json.dumps({"message": "started", "pids": pids}) + "\\n")
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_processes_end_with_the_operator_also_where_it_is_killed() -> None:
    parent = Child(sys.executable, "-c", _PARENT, env={"PYTHONPATH": str(ROOT / "tests")})
    pids = parent.wait_for_message("started")["pids"]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    parent.kill()
    until(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    """Whether there is such a process; one that nobody has waited for does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
