"""Connections to RabbitMQ: made, kept, and made again.

aio-pika's robust connection isn't used: it consumes again by itself as soon as a channel is back, while work of the channel
before still runs, so that a request would run twice at a time. Here whoever has a connection hears that it has ended, clears
up, and gets another one.

Invariant: nothing of an address but host and port reaches a log, a check or an exception.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from pamqp import decode

from podpair.common.gateway_config.amqp import Amqp, broker_url_fault
from podpair.common.redaction import redact
from podpair.gateway.metrics import Metrics
from podpair.gateway.tasks import cancel_task

_log = logging.getLogger(__name__)
_CONNECT = 10.0  # seconds for a connection to be made
_TIMESTAMP = 8  # bytes
_CLOSE = 3.0  # seconds for it to be closed in good order
_FIRST, _LONGEST = 0.1, 2.0  # seconds between two attempts; they double

BROKEN = (*CONNECTION_EXCEPTIONS, asyncio.CancelledError, TimeoutError)
"""What calls of aio-pika raise if their connection or channel has ended. A CancelledError may be one's own: see `own_cancel`."""


class BrokerUnusable(Exception):
    """RabbitMQ can't be reached, or has not what is needed; the message says what."""


def quiet_client() -> None:
    """Leave out what aio-pika logs itself: an error with a traceback for each attempt, where one line says that it's away.

    But for the two lines on an alarm of the broker, which nothing else hears of.
    """
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    own = logging.getLogger("aiormq.connection")
    own.setLevel(logging.WARNING)
    if not own.filters:
        own.addFilter(lambda record: "blocked" in str(record.msg))


def tolerate_timestamps() -> None:
    """Have the client read a timestamp beyond the year 9999 as none, such as one in nanoseconds.

    It would end the connection, and the message come again with the next one.
    """
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = _timestamp


def _timestamp(value: bytes) -> tuple[int, datetime | None]:
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        if len(value) < _TIMESTAMP:
            raise
        return _TIMESTAMP, None


def own_cancel() -> bool:
    """Return whether the current task is being cancelled: a future of aio-pika that is cancelled raises the same exception."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def read_secrets(config: Amqp) -> tuple[str, ssl.SSLContext | None]:
    """Read the URL, and what a TLS connection needs. Raises BrokerUnusable."""
    try:
        url = config.url if config.url_file is None else config.url_file.read_text().strip()
        if (fault := broker_url_fault(url)) is not None:
            raise BrokerUnusable(f"{config.url_file}: {fault}")
        if not url.startswith("amqps:"):
            return url, None
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.certificate_file is not None:
            context.load_cert_chain(config.certificate_file, config.key_file)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise BrokerUnusable(f"a file of section amqp can't be read: {error}") from None
    return url, context


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"


async def connect(config: Amqp, name: str) -> AbstractConnection:
    """Connect; RabbitMQ lists the connection by `name`. Raises BrokerUnusable."""
    url, context = await asyncio.get_running_loop().run_in_executor(None, read_secrets, config)
    try:
        properties = {"connection_name": name}
        return await aio_pika.connect(
            url, ssl_context=context, timeout=_CONNECT, client_properties=cast("Any", properties)
        )
    except TimeoutError:
        raise BrokerUnusable(f"{_place(url)}: no answer within {_CONNECT:.0f} s") from None
    except CONNECTION_EXCEPTIONS as error:
        raise BrokerUnusable(f"{_place(url)}: {describe(error)}") from None


def call_at_end(
    connection: AbstractConnection, channels: Iterable[AbstractChannel], ended: Callable[[], object]
) -> None:
    """Have `ended` called when the connection or one of its channels has ended, for whatever reason.

    `connection.closed()` isn't enough: aio-pika's plain connection sets it only when it is closed from this side.
    """

    def callback(*_: object) -> None:
        ended()

    connection.close_callbacks.add(callback)
    for channel in channels:
        channel.close_callbacks.add(callback)


def describe(error: BaseException) -> str:
    """Return what an exception of aio-pika's says, in a line without secrets."""
    text = " ".join(str(part) for part in error.args) or repr(error)
    return redact(" ".join(f"{type(error).__name__}: {text}".split()))[:300]


class ConnectionKeeper:
    """Has a connection used by `serve`, again and again.

    Args:
        config: Where RabbitMQ is.
        name: What the connection is for.
        serve: Uses a connection until that has ended, and calls its second argument once all is well. It returns or raises;
            what it raises is the trouble.
        metrics: Count the connections.
    """

    def __init__(
        self,
        config: Amqp,
        name: str,
        serve: Callable[[AbstractConnection, Callable[[], None]], Awaitable[None]],
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._name = name
        self._serve = serve
        self._metrics = metrics
        self.trouble: str | None = "not connected yet"
        self._logged: str | None = None
        self._delay = _FIRST
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                await self._use()
                self._failed("the connection has ended")
            except BROKEN as error:
                if own_cancel():
                    raise
                self._failed(describe(error))
            except BrokerUnusable as error:
                self._failed(str(error))
            except Exception as error:
                _log.exception("the connection %s to RabbitMQ", self._name)
                self._failed(f"internal error: {type(error).__name__}")
            await asyncio.sleep(self._delay)
            self._delay = min(self._delay * 2, _LONGEST)

    async def _use(self) -> None:
        connection = await connect(self._config, f"podpair-gateway {self._name}")
        try:
            await self._serve(connection, self._established)
        finally:
            try:
                async with asyncio.timeout(_CLOSE):
                    await connection.close()
            except BROKEN:
                if own_cancel():
                    raise

    def _established(self) -> None:
        self.trouble, self._delay = None, _FIRST
        self._metrics.amqp_connections.labels(self._name).inc()
        if self._logged is not None:
            _log.info("RabbitMQ can be used again (%s)", self._name)
            self._logged = None

    def _failed(self, why: str) -> None:
        self.trouble = why
        if why != self._logged:
            _log.warning("RabbitMQ can't be used (%s): %s", self._name, why)
            self._logged = why

    async def close(self) -> None:
        """Leave RabbitMQ."""
        await cancel_task(self._task)
