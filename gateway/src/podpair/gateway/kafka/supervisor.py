"""Watches the gateway's Kafka clients: one that is dead, or stuck in a call, is replaced.

librdkafka's clients bear nearly everything by themselves. What they don't bear (a fatal error, a call that does not come back)
would leave a gateway that looks well and does nothing. Each client is watched here under a name: whoever owns it says when it
has died, and within which time a call has to return; it is replaced after a wait that doubles with each death.

Invariant: while a client is dead `troubles` names it with the reason, readiness goes by that, and one log line tells; each
replacement is counted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError

from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_LOOK = 0.5  # seconds between looks at calls that are due
_SLACK = 10.0  # seconds beyond its own time-out that a call may take
_FIRST, _LONGEST = 0.5, 30.0  # seconds before a client is replaced, for the first time and at most
_WELL = 60.0  # seconds without a death after which the next counts as the first
_QUIET = 60.0  # seconds between two log lines that tell the same of one client

# What librdkafka does not recover from. `KafkaError.fatal()` doesn't tell: it is False for an error that a consumer hands over
# as a message.
_DEAD = {
    KafkaError._FATAL,
    KafkaError._FENCED,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.GROUP_ID_NOT_FOUND,
    KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError.UNRELEASED_INSTANCE_ID,
    KafkaError.UNSUPPORTED_ASSIGNOR,
}
# What stands behind a fatal error is told only in its text.
_CAUSES = {KafkaError(code).str(): code for code in _DEAD if code != KafkaError._FATAL}


def is_dead(error: KafkaError) -> bool:
    """Whether a client that told of this does nothing any more."""
    return bool(error.fatal()) or error.code() in _DEAD


def cause(error: KafkaError) -> int:
    """The code of what a client died of."""
    if error.code() != KafkaError._FATAL:
        return error.code()
    return next((code for text, code in _CAUSES.items() if text in error.str()), KafkaError._FATAL)


class Calls:
    """The calls that one thread has out, the innermost last: only that one is running."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: list[float] = []  # seconds on the monotonic clock

    @contextmanager
    def within(self, seconds: float, slack: float = _SLACK) -> Iterator[None]:
        """While a call is out that returns within so many seconds, or (inf) whenever it likes."""
        began = time.monotonic()
        self._due.append(began + seconds + slack)
        try:
            yield
        finally:
            self._due.pop()
            if self._due:
                self._due[-1] += time.monotonic() - began

    def overdue(self, now: float) -> bool:
        try:
            return self._due[-1] < now
        except IndexError:
            return False


class Client:
    """One client of the gateway, as its owner and the supervisor see it. Used on the loop's thread alone."""

    def __init__(self, name: str, replace: Callable[[], object], metrics: Metrics) -> None:
        self.name = name
        self.trouble: str | None = None  # why it does nothing
        self._replace = replace
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._calls = Calls()
        self._wait = _FIRST
        self._last_death = -_WELL
        self._told: dict[str, float] = {}  # reason → when it was logged last
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def calls(self) -> Calls:
        """What a thread of a client that was just made tells its calls with. Those of its predecessor don't count any more."""
        self._calls = Calls()
        return self._calls

    def died(self, error: KafkaError, *, longest: float = _LONGEST) -> None:
        """It told of an error that it does not recover from: it is replaced after a wait, `longest` at most."""
        self._end(KafkaError(cause(error)).name(), error.str(), longest)

    def look(self) -> None:
        """Replace it where a call is overdue."""
        if self._calls.overdue(time.monotonic()):
            self._end("stuck", "a call of the client library does not come back", _LONGEST)

    def stalled(self, text: str) -> None:
        """It lives, and does nothing: it is replaced after a wait."""
        self._end("stalled", text, _LONGEST)

    def held_up(self, reason: str, text: str) -> None:
        """It can't be replaced yet: try again, after a wait."""
        self._timer = None
        self._end(reason, text, _LONGEST)

    def failing(self, error: KafkaError) -> None:
        """It is dead; its owner replaces it by itself, when it needs it."""
        if not self._closed and self._timer is None:
            self._tell(KafkaError(cause(error)).name(), error.str(), time.monotonic())

    def _tell(self, reason: str, text: str, now: float) -> None:
        self.trouble = text
        self._metrics.client_restarts.labels(self.name, reason).inc()
        if now - self._told.get(reason, -_QUIET) >= _QUIET:
            self._told[reason] = now
            _log.error("the %s client of Kafka is dead and will be replaced: %s", self.name, text,
                       extra={"kafka_error": reason})  # fmt: skip

    def _end(self, reason: str, text: str, longest: float) -> None:
        if self._closed or self._timer is not None:
            return  # its replacement is on the way
        now = time.monotonic()
        self._calls = Calls()
        if now - self._last_death > _WELL + self._wait:
            self._wait = _FIRST
        wait = min(self._wait, longest)
        self._wait, self._last_death = min(_LONGEST, self._wait * 2), now
        self._tell(reason, text, now)
        self._timer = self._loop.call_later(wait, self._now)

    def _now(self) -> None:
        self._timer = None
        if not self._closed:
            try:
                self._replace()
            except Exception as error:
                self._end("replacing", str(error), _LONGEST)

    def works(self) -> None:
        """It does its work again."""
        if self.trouble is not None and self._timer is None:
            self.trouble = None
            _log.info("the %s client of Kafka works again", self.name)

    def close(self) -> None:
        """It is not wanted any more."""
        self._closed = True
        self.trouble = None
        if self._timer is not None:
            self._timer.cancel()


class Supervisor:
    """Looks after all of them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._clients: list[Client] = []
        self._task = asyncio.create_task(self._look())

    def watch(self, name: str, replace: Callable[[], object]) -> Client:
        """A client of that name; `replace` makes another in its place, on the loop's thread, and must not block."""
        client = Client(name, replace, self._metrics)
        self._clients.append(client)
        return client

    @property
    def troubles(self) -> dict[str, str]:
        """Which clients do nothing now, and why."""
        return {client.name: client.trouble for client in self._clients if client.trouble is not None}

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            for client in self._clients:
                client.look()

    async def close(self) -> None:
        """Watch no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
