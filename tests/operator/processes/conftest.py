"""Pools of processes for the tests of this folder."""

from collections.abc import AsyncIterator, Callable

import pytest

from harness.processes import ROOT
from podpair.operator.processes.pool import Limits, ProcessPool


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pools(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., ProcessPool]]:
    """`pools(processes=2)` is a pool with these limits, on the standing clock."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    made: list[ProcessPool] = []

    def make(**limits: float) -> ProcessPool:
        made.append(ProcessPool("harness.child_functions", Limits(**limits), clock=clock))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pool in made:
        await pool.close()
