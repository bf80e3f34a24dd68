"""Kafka clients, one per address and credentials, cached: librdkafka reconnects by itself.

Invariant: nothing here blocks the loop or waits longer than its timeout; an unreachable broker delays nothing else, since
a result is a future that librdkafka's own thread completes.
"""

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from podpair.operator.core.broker_access import BrokerAccess
from podpair.operator.kafka.errors import broker_error, client_invalid, is_fatal, specificity

REQUEST_TIMEOUT = 8.0  # seconds for one request
_LOOKING = 0.1  # seconds between two polls of the connection's errors while a result is awaited
_IDLE = 900.0  # seconds after which an unused client is closed

_K = TypeVar("_K", bound=Hashable)
# librdkafka logs each lost connection of each client; what matters is in the condition.
librdkafka_log = logging.getLogger("podpair.operator.kafka.librdkafka")
librdkafka_log.setLevel(logging.CRITICAL)


class Client:
    """One AdminClient. Its calls return futures; `ask` awaits them. Raises BrokerError if its properties are refused."""

    def __init__(self, access: BrokerAccess) -> None:
        self.servers = access.servers
        self._asking = 0
        self._said: KafkaError | None = None  # the connection's most specific error
        properties: dict[str, Any] = {**dict(access.properties), "error_cb": self._on_error, "logger": librdkafka_log}
        try:
            self.admin = AdminClient(properties)
        except KafkaException as error:
            raise client_invalid(error) from None

    def close(self) -> None:
        """Disconnect from the broker. Blocks until librdkafka's threads have ended."""
        del self.admin

    def _on_error(self, error: KafkaError) -> None:
        if self._said is None or specificity(error) >= specificity(self._said):
            self._said = error

    async def ask(
        self, futures: Mapping[_K, "concurrent.futures.Future[Any]"], doing: str
    ) -> dict[_K, Any | KafkaError]:
        """Await the futures and return their results, or the error in place of each, by the futures' keys.

        Raises BrokerError if the broker can't be reached or refuses the credentials: then there are no results.
        """
        if not self._asking:
            while self.admin.poll(0):  # earlier errors of the connection are outdated
                pass
            self._said = None
        self._asking += 1
        try:
            await self._await(futures)
        finally:
            self._asking -= 1
        answers = {key: _answer(future) for key, future in futures.items()}
        for answer in answers.values():
            if isinstance(answer, KafkaError) and answer.code() in _NO_ANSWER:
                raise broker_error(answer, self.servers, doing, self._said)
        return answers

    async def _await(self, futures: Mapping[_K, "concurrent.futures.Future[Any]"]) -> None:
        waiting = {asyncio.wrap_future(future) for future in futures.values()}
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=_LOOKING)
            for one in done:
                one.exception()  # the exception is read from the wrapped future
            self.admin.poll(0)
            if waiting and self._said is not None and is_fatal(self._said):
                for one in waiting:
                    one.add_done_callback(asyncio.Future.exception)
                raise broker_error(self._said, self.servers)


_NO_ANSWER = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._ALL_BROKERS_DOWN}


def _answer(future: "concurrent.futures.Future[Any]") -> Any | KafkaError:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KafkaException):
        return error.args[0]
    raise error


class _Closing(Protocol):
    def close(self) -> None: ...


_V = TypeVar("_V", bound=_Closing)


class ClientCache(Generic[_K, _V]):
    """Caches a client per key while it is used."""

    def __init__(self) -> None:
        self._kept: dict[_K, tuple[_V, float]] = {}

    def get(self, key: _K, make: Callable[[], _V]) -> _V:
        """Return the client for `key`, made by `make` if need be; raises what `make` raises. Idle clients are closed."""
        now = time.monotonic()
        found = self._kept[key][0] if key in self._kept else make()
        self._kept[key] = (found, now)
        idle = [other for other, (_, asked) in self._kept.items() if now - asked > _IDLE]
        if idle:
            asyncio.get_running_loop().run_in_executor(None, _close, [self._kept.pop(other)[0] for other in idle])
        return found

    async def close(self) -> None:
        """Close all clients."""
        kept, self._kept = self._kept, {}
        await asyncio.to_thread(_close, [one for one, _ in kept.values()])


def _close(kept: list[_V]) -> None:
    for one in kept:
        one.close()
