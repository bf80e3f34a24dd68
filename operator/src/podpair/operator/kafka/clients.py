"""Clients of brokers, one for each way to one, shared and kept: librdkafka connects again by itself.

Invariant: nothing here blocks the loop or waits longer than it was told; a broker that is away keeps nobody else waiting, since
an answer is a future that librdkafka's own thread fulfils.
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
from podpair.operator.kafka.failures import client_invalid, hopeless, telling, trouble

PATIENCE = 8.0  # seconds for one question
_LOOKING = 0.1  # seconds between two looks at what the connection says while an answer is awaited
_IDLE = 900.0  # seconds after which a client that nobody asked is let go

_K = TypeVar("_K", bound=Hashable)
# librdkafka reports each lost connection of each client; what matters of it is in the condition.
librdkafka_log = logging.getLogger("podpair.operator.kafka.librdkafka")
librdkafka_log.setLevel(logging.CRITICAL)


class Client:
    """One AdminClient. Its calls answer futures; `ask` awaits them. Raises BrokerTrouble where its properties are refused."""

    def __init__(self, access: BrokerAccess) -> None:
        self.servers = access.servers
        self._asking = 0
        self._said: KafkaError | None = None  # what the connection said that tells most
        properties: dict[str, Any] = {**dict(access.properties), "error_cb": self._on_error, "logger": librdkafka_log}
        try:
            self.admin = AdminClient(properties)
        except KafkaException as error:
            raise client_invalid(error) from None

    def close(self) -> None:
        """Let go of the broker. Blocks until librdkafka's threads have ended."""
        del self.admin

    def _on_error(self, error: KafkaError) -> None:
        if self._said is None or telling(error) >= telling(self._said):
            self._said = error

    async def ask(
        self, futures: Mapping[_K, "concurrent.futures.Future[Any]"], doing: str
    ) -> dict[_K, Any | KafkaError]:
        """The answers, or the error in place of each, by the futures' keys.

        Raises BrokerTrouble where the broker isn't reached or doesn't know us: then there are no answers.
        """
        if not self._asking:
            while self.admin.poll(0):  # what the connection said before is not what is the matter now
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
                raise trouble(answer, self.servers, doing, self._said)
        return answers

    async def _await(self, futures: Mapping[_K, "concurrent.futures.Future[Any]"]) -> None:
        waiting = {asyncio.wrap_future(future) for future in futures.values()}
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=_LOOKING)
            for one in done:
                one.exception()  # it is looked at in the future that it wraps
            self.admin.poll(0)
            if waiting and self._said is not None and hopeless(self._said):
                for one in waiting:
                    one.add_done_callback(asyncio.Future.exception)
                raise trouble(self._said, self.servers)


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


class Kept(Generic[_K, _V]):
    """What is made once for each key and kept while it is asked for."""

    def __init__(self) -> None:
        self._kept: dict[_K, tuple[_V, float]] = {}

    def get(self, key: _K, make: Callable[[], _V]) -> _V:
        """The one for `key`; raises what `make` does. What nobody has asked for in a while is let go."""
        now = time.monotonic()
        found = self._kept[key][0] if key in self._kept else make()
        self._kept[key] = (found, now)
        idle = [other for other, (_, asked) in self._kept.items() if now - asked > _IDLE]
        if idle:
            asyncio.get_running_loop().run_in_executor(None, _close, [self._kept.pop(other)[0] for other in idle])
        return found

    async def close(self) -> None:
        """Let all go."""
        kept, self._kept = self._kept, {}
        await asyncio.to_thread(_close, [one for one, _ in kept.values()])


def _close(kept: list[_V]) -> None:
    for one in kept:
        one.close()
