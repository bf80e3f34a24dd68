"""A child process for each key, as many as are allowed, and none longer than it is needed.

Invariant: what one key's process does costs the others nothing but their turn, and that is bounded: a key whose process failed
or was slow is a suspect, and suspects have half of the slots at most. A process that failed is started again after a wait that
doubles; until then its key's calls fail at once with what it failed with.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from podpair.operator.processes.process import ChildProcess, ProcessFailed

_log = logging.getLogger(__name__)
_WATCH_SECONDS = 1.0
_FORGET_SECONDS = 900.0  # after which nothing is known of a key that nobody asked for
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 300.0


class Limits(NamedTuple):
    """What the processes of a pool may cost."""

    processes: int = 6
    """How many there are at most at the same time."""
    memory_bytes: int = 128 << 20
    """Memory of one; beyond it is ended."""
    memory_bytes_each: int = 2 << 20
    """What it may have besides for each user of it."""
    threads: int = 256
    """Threads of one; beyond it is ended."""
    threads_each: int = 32
    """What it may have besides for each user of it."""
    idle_seconds: float = 60.0
    """One that was not asked for so long is ended."""
    start_seconds: float = 60.0
    """One that isn't ready after so long is ended."""
    call_seconds: float = 20.0
    """One that gives no answer for so long is ended."""
    slot_seconds: float = 20.0
    """A call that gets no slot for so long fails."""
    slow_seconds: float = 5.0
    """An answer that takes longer makes a key a suspect."""
    calls: int = 32
    """Calls of one key at the same time; further ones wait."""


@dataclass(eq=False)
class _Slot:
    """What is known of a key."""

    name: str
    calls: asyncio.Semaphore
    process: ChildProcess | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    """Calls that have it, or wait for it."""
    served: dict[Hashable, float] = field(default_factory=dict)
    """Who has asked lately, and when."""
    trusted: bool = False
    used: float = 0.0
    wait: float = 0.0
    """Seconds between the last failure and the next start; 0: it has not failed."""
    again: float = 0.0
    """When it may be started again."""
    failure: ProcessFailed | None = None


class ProcessPool:
    """Runs the async functions of one module, in a process for each key. Used on one event loop; `close` it."""

    def __init__(
        self,
        module: str,
        limits: Limits | None = None,
        *,
        log: tuple[str, str] | None = None,
        on_change: Callable[[int], object] = lambda count: None,
        on_failure: Callable[[str], object] = lambda how: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`module`: where the functions are; `on_change` is called with the number of processes, `on_failure` with a word."""
        self._module = module
        self._limits = limits or Limits()
        self._log = log
        self._on_change, self._on_failure = on_change, on_failure
        self._clock = clock
        self._slots: dict[Hashable, _Slot] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    def pids(self) -> dict[str, int]:
        """Process ids, by the names of keys."""
        return {slot.name: slot.process.pid for slot in self._slots.values() if slot.process is not None}

    async def call(self, key: Hashable, name: str, function: str, *args: Any, user: Hashable = None) -> Any:
        """Call `function` of the module in the process of `key` and return its result as JSON has it.

        `name` is what logs call the key, `user` who asks: a process may be larger if many do.
        Raises CallFailed with what the function raised, ProcessFailed if there was no answer.
        """
        if self._closed:
            raise ProcessFailed("closed", "it was ended")
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="processes")
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _Slot(name, asyncio.Semaphore(self._limits.calls))
        self._check_back_off(slot)
        slot.users += 1
        slot.served[user] = self._clock()
        try:
            async with slot.calls:
                return await self._call(slot, function, args)
        finally:
            slot.users -= 1
            slot.used = self._clock()
            self._wake()

    async def close(self) -> None:
        """End all processes."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        for slot in self._slots.values():
            self._end(slot)
        if self._ending:
            await asyncio.wait(self._ending)

    async def _call(self, slot: _Slot, function: str, args: tuple[Any, ...]) -> Any:
        try:
            process = await self._ready(slot)
            begun = self._clock()
            answer = await process.call(f"{self._module}:{function}", args, self._limits.call_seconds)
        except ProcessFailed as failure:
            self._failed(slot, failure)
            raise
        slot.trusted = self._clock() - begun <= self._limits.slow_seconds
        slot.wait, slot.failure = 0.0, None
        return answer

    def _check_back_off(self, slot: _Slot) -> None:
        if slot.failure is not None and self._clock() < slot.again:
            # A new exception each time, for each is raised somewhere else.
            raise ProcessFailed(slot.failure.how, str(slot.failure))

    async def _ready(self, slot: _Slot) -> ChildProcess:
        """Return the process, started if need be."""
        async with slot.starting:
            self._check_back_off(slot)  # it may have failed while this call waited
            if slot.process is None or not slot.process.alive:
                if slot.process is not None:
                    self._end(slot)
                await self._room(slot)
                process = slot.process = ChildProcess(self._module, self._log)
                self._on_change(self._count())
                await process.start(self._limits.start_seconds)
            return slot.process

    async def _room(self, slot: _Slot) -> None:
        """Wait until one more process may be started. First come, first served, but suspects have half of the slots at most."""
        end = asyncio.get_running_loop().time() + self._limits.slot_seconds
        while not self._make_room(slot):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout_at(end):
                    await waiter
            except TimeoutError:
                raise ProcessFailed("busy", f"all {self._limits.processes} processes were busy with others") from None
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def _make_room(self, slot: _Slot) -> bool:
        there = [one for one in self._slots.values() if one.process is not None]
        suspects = [one for one in there if not one.trusted]
        if slot.trusted or len(suspects) < max(1, self._limits.processes // 2):
            if len(there) < self._limits.processes:
                return True
            candidates = there
        else:
            candidates = suspects
        # Of those that nobody uses now the ones that may be missed least.
        idle = sorted((one for one in candidates if not one.users), key=lambda one: (one.trusted, one.used))
        if not idle:
            return False
        self._end(idle[0])
        return True

    def _failed(self, slot: _Slot, failure: ProcessFailed) -> None:
        if failure.how == "busy" or self._closed:
            return
        if slot.process is not None:
            self._end(slot)
        elif slot.again > self._clock():
            return  # another call of this key has seen it already
        slot.trusted, slot.failure = False, failure
        slot.wait = min(max(slot.wait * 2, _FIRST_WAIT), _LONGEST_WAIT)
        slot.again = self._clock() + slot.wait
        self._on_failure(failure.how)
        _log.warning("the process for %s failed: %s; it is started again in %.0f s", slot.name, failure, slot.wait)

    def _end(self, slot: _Slot) -> None:
        process, slot.process = slot.process, None
        if process is not None:
            task = asyncio.create_task(process.close(), name=f"end of {process.pid}")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self._on_change(self._count())
            self._wake()

    def _count(self) -> int:
        return sum(slot.process is not None for slot in self._slots.values())

    def _wake(self) -> None:
        """Whoever waits for room looks again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = self._clock()
            for key, slot in list(self._slots.items()):
                if slot.process is not None:
                    self._check(slot, slot.process, now)
                elif not slot.users and now - max(slot.used, slot.again) > _FORGET_SECONDS:
                    del self._slots[key]

    def _check(self, slot: _Slot, process: ChildProcess, now: float) -> None:
        slot.served = {user: when for user, when in slot.served.items() if now - when <= _FORGET_SECONDS}
        usage, limits, users = process.usage() if process.alive else None, self._limits, len(slot.served)
        memory = limits.memory_bytes + users * limits.memory_bytes_each
        threads = limits.threads + users * limits.threads_each
        if usage is not None and usage[0] > memory:
            process.kill(ProcessFailed("memory", f"it took more memory than it may, {limits.memory_bytes >> 20} MiB"))
        elif usage is not None and usage[1] > threads:
            process.kill(ProcessFailed("threads", f"it made more threads than it may, {limits.threads}"))
        if not slot.users and not process.alive:
            self._failed(slot, process.failure)
        elif not slot.users and now - slot.used > self._limits.idle_seconds:
            self._end(slot)
