"""Who loads when: models are loaded one after the other, and one that waits for another lets the others go on.

So the order of the models doesn't matter: a class that calls its neighbour in `load`, or while it is warmed up, gets its answer
once the neighbour is there. Models that wait for each other in a circle would wait for ever: the last of them gets an error.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from podpair.inference.core.errors import UnavailableError


class LoadTurns:
    """The models that are still to be loaded at the start. All methods belong to the loop's thread."""

    def __init__(self, names: Iterable[str]) -> None:
        # Set once the model is served, or can't be.
        self._ended = {name: asyncio.Event() for name in names}
        self._turn = asyncio.Lock()
        # Who has the turn.
        self._holder: str | None = None
        # Model → those for which it waits.
        self._waits: defaultdict[str, list[str]] = defaultdict(list)

    def __contains__(self, name: str) -> bool:
        """Return whether the model is still to be loaded."""
        return name in self._ended

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Wait for the model's turn, and have it for the `with` block."""
        await self._turn.acquire()
        self._holder = name
        try:
            yield
        finally:
            self._give_up(name)

    def end(self, name: str) -> None:
        """Note that the model is served, or can't be: those that wait for it go on."""
        ended = self._ended.pop(name, None)
        if ended is not None:
            ended.set()

    async def wait(self, name: str, caller: str) -> None:
        """Wait until a model is loaded, or can't be. Raises UnavailableError if it waits for its caller, or is it."""
        ended = self._ended.get(name)
        if ended is None:
            return
        circle = self._circle(name, caller)
        if circle:
            raise UnavailableError(f"models that need each other to be loaded: {' → '.join([caller, *circle])}")
        self._waits[caller].append(name)
        self._give_up(caller)
        try:
            await ended.wait()
        finally:
            self._waits[caller].remove(name)

    def _give_up(self, name: str) -> None:
        """Let the next one have the turn, if this one has it."""
        if self._holder == name:
            self._holder = None
            self._turn.release()

    def _circle(self, name: str, caller: str) -> list[str]:
        """Return the way on which `name` waits for the caller; empty if it doesn't."""
        ways = [[name]]
        for way in ways:
            if way[-1] == caller:
                return way
            ways += [[*way, on] for on in self._waits.get(way[-1], ()) if on not in way]
        return []
