"""Watches the gateway's Kafka clients: one that is dead, or stuck in a call, is replaced.

librdkafka's clients recover from nearly everything by themselves. After a fatal error, or a call that does not return, the
gateway would look healthy and do nothing. Each client is watched here under a name: its owner reports when it has died, and
within which time a call has to return; it is replaced after a wait that doubles with each death.

Invariant: while a client is dead `troubles` names it with the reason, readiness depends on that, and one line is logged; each
replacement is counted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError

from podpair.gateway.metrics import Metrics
from podpair.gateway.tasks import cancel_task

_log = logging.getLogger(__name__)
_LOOK = 0.5  # seconds between checks for overdue calls
_SLACK = 10.0  # seconds beyond its own timeout that a call may take
_FIRST, _LONGEST = 0.5, 30.0  # seconds before a client is replaced, for the first time and at most
_WELL = 60.0  # seconds without a death after which the next counts as the first
_QUIET = 60.0  # seconds between two log lines about one client with the same reason

# Errors that librdkafka does not recover from. `KafkaError.fatal()` is not enough: it is False for an error that a consumer
# returns as a message.
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
# The cause of a fatal error is only in its text.
_CAUSES = {KafkaError(code).str(): code for code in _DEAD if code != KafkaError._FATAL}


def is_dead(error: KafkaError) -> bool:
    """Return whether a client is dead after this error."""
    return bool(error.fatal()) or error.code() in _DEAD


def cause(error: KafkaError) -> int:
    """Return the code of the error that a client died of."""
    if error.code() != KafkaError._FATAL:
        return error.code()
    return next((code for text, code in _CAUSES.items() if text in error.str()), KafkaError._FATAL)


class CallDeadlines:
    """Deadlines of the nested calls of one thread; only the innermost, the last, is running."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: list[float] = []  # seconds on the monotonic clock

    @contextmanager
    def within(self, seconds: float, slack: float = _SLACK) -> Iterator[None]:
        """Enter a call that has to return within so many seconds; inf: without a deadline."""
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


class SupervisedClient:
    """One Kafka client, shared by its owner and the supervisor. Used on the loop's thread alone."""

    def __init__(self, name: str, replace: Callable[[], object], metrics: Metrics) -> None:
        self.name = name
        self.trouble: str | None = None  # why it is dead
        self._replace = replace
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._calls = CallDeadlines()
        self._wait = _FIRST
        self._last_death = -_WELL
        self._logged_at: dict[str, float] = {}  # reason → when it was logged last
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def calls(self) -> CallDeadlines:
        """Return the call deadlines for the thread of a new client. Those of its predecessor no longer count."""
        self._calls = CallDeadlines()
        return self._calls

    def died(self, error: KafkaError, *, longest: float = _LONGEST) -> None:
        """Replace a client that reported a fatal error, after a wait of at most `longest` seconds."""
        self._end(KafkaError(cause(error)).name(), error.str(), longest)

    def check(self) -> None:
        """Replace the client if a call is overdue."""
        if self._calls.overdue(time.monotonic()):
            self._end("stuck", "a call of the client library does not return", _LONGEST)

    def stalled(self, text: str) -> None:
        """Replace a client that lives and does nothing, after a wait."""
        self._end("stalled", text, _LONGEST)

    def retry_later(self, reason: str, text: str) -> None:
        """Try again, after a wait, to replace a client that could not be replaced."""
        self._timer = None
        self._end(reason, text, _LONGEST)

    def failing(self, error: KafkaError) -> None:
        """Report a dead client that its owner itself replaces."""
        if not self._closed and self._timer is None:
            self._report(KafkaError(cause(error)).name(), error.str(), time.monotonic())

    def _report(self, reason: str, text: str, now: float) -> None:
        self.trouble = text
        self._metrics.client_restarts.labels(self.name, reason).inc()
        if now - self._logged_at.get(reason, -_QUIET) >= _QUIET:
            self._logged_at[reason] = now
            _log.error("the %s client of Kafka is dead and will be replaced: %s", self.name, text,
                       extra={"kafka_error": reason})  # fmt: skip

    def _end(self, reason: str, text: str, longest: float) -> None:
        if self._closed or self._timer is not None:
            return  # its replacement is on the way
        now = time.monotonic()
        self._calls = CallDeadlines()
        if now - self._last_death > _WELL + self._wait:
            self._wait = _FIRST
        wait = min(self._wait, longest)
        self._wait, self._last_death = min(_LONGEST, self._wait * 2), now
        self._report(reason, text, now)
        self._timer = self._loop.call_later(wait, self._now)

    def _now(self) -> None:
        self._timer = None
        if not self._closed:
            try:
                self._replace()
            except Exception as error:
                self._end("replacing", str(error), _LONGEST)

    def works(self) -> None:
        """Report that the client works again."""
        if self.trouble is not None and self._timer is None:
            self.trouble = None
            _log.info("the %s client of Kafka works again", self.name)

    def close(self) -> None:
        """Stop watching the client."""
        self._closed = True
        self.trouble = None
        if self._timer is not None:
            self._timer.cancel()


class Supervisor:
    """Watches all clients."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._clients: list[SupervisedClient] = []
        self._task = asyncio.create_task(self._check_all())

    def watch(self, name: str, replace: Callable[[], object]) -> SupervisedClient:
        """Watch a client of that name. replace: creates its successor, on the loop's thread, without blocking."""
        client = SupervisedClient(name, replace, self._metrics)
        self._clients.append(client)
        return client

    @property
    def troubles(self) -> dict[str, str]:
        """The dead clients, with the reasons."""
        return {client.name: client.trouble for client in self._clients if client.trouble is not None}

    async def _check_all(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            for client in self._clients:
                client.check()

    async def close(self) -> None:
        """Stop watching."""
        await cancel_task(self._task)
