"""Opens a WebSocket to one of several gateways, and says in the protocol's terms why that failed."""

import asyncio
import contextlib
import inspect
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from os import dup
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec

from podpair.client.errors import Invalid, Overloaded, PodpairError, Unreachable, error_from
from podpair.client.events import Event

SUBPROTOCOL = "podpair.v1"
Token = str | Callable[[], str | Awaitable[str]] | None
"""A JWT, a function that returns one (called before each connection and each refresh), or None for none."""

#: How HTTP says what podpair has a code for, where a body doesn't (a proxy in between has its own pages).
_CODE_OF_STATUS = {400: "invalid", 401: "unauthorized", 403: "forbidden", 429: "overloaded", 503: "overloaded"}


def _plain(value: Any) -> Any:
    """Arrays and their scalars as JSON has them, without this package needing to know numpy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
encode = _encoder.encode
decode: Callable[[bytes | str], Any] = msgspec.json.Decoder().decode


def encode_frame(frame: Any, limit: float | None) -> bytes:
    """Encode a frame as JSON. Raises Invalid if it is not JSON, or larger than `limit` bytes."""
    try:
        data = encode(frame)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise Invalid(f"the request is not JSON: {error}") from error
    if limit is not None and len(data) > limit:
        raise Invalid(f"the request has {len(data)} bytes as JSON, this gateway takes {limit:g} (limits.message_bytes)")
    return data


async def current(token: Token) -> str | None:
    """Return the token as it is now: the function's, if it is one."""
    if not callable(token):
        return token
    answer = token()
    return await answer if inspect.isawaitable(answer) else answer


def socket_url(url: str) -> str:
    """Return the WebSocket's address for what people write: http or ws, with or without /v1/ws, below a path or not."""
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path if parts.path.endswith("/ws") else f"{parts.path.removesuffix('/')}/v1/ws"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


@dataclass(slots=True)
class Gateways:
    """The addresses of the fleet: one is tried until it fails, then the next."""

    urls: Sequence[str]
    _index: int = 0

    def __post_init__(self) -> None:
        if not self.urls:
            raise ValueError("no gateway's address was given")
        self.urls = [socket_url(url) for url in self.urls]

    @property
    def url(self) -> str:
        """The one to try now."""
        return self.urls[self._index % len(self.urls)]

    def skip(self) -> None:
        """Go on to the next address: this one failed, or is leaving."""
        self._index += 1


async def open_socket(
    http: aiohttp.ClientSession, url: str, token: Token, query: dict[str, str], *, heartbeat: float, timeout: float
) -> tuple[aiohttp.ClientWebSocketResponse, Event]:
    """Open a WebSocket and read its first welcome. Raises the typed error that the gateway answered with, or Unreachable."""
    jwt = await current(token)
    headers = {"Authorization": f"Bearer {jwt}"} if jwt else {}
    try:
        async with asyncio.timeout(timeout):
            try:
                ws = await http.ws_connect(
                    url, params=query, headers=headers, protocols=(SUBPROTOCOL,), heartbeat=heartbeat, max_msg_size=0
                )
            except aiohttp.WSServerHandshakeError as refusal:
                raise await _why_refused(http, url, headers, query, refusal) from None
            return ws, await _first_frame(ws, url)
    except TimeoutError:
        raise Unreachable(f"{url} didn't answer within {timeout:g} s") from None
    except aiohttp.ClientError as error:
        raise Unreachable(f"{url}: {error}") from error


async def _first_frame(ws: aiohttp.ClientWebSocketResponse, url: str) -> Event:
    try:
        message = await ws.receive()
        event = decode(message.data) if message.type is aiohttp.WSMsgType.TEXT else None
    except BaseException:
        cut(ws)  # close() alone would wait for the other side's goodbye
        await ws.close()
        raise
    if not isinstance(event, dict) or event.get("type") != "welcome":
        await ws.close()
        raise Unreachable(f"{url} sent no welcome (close code {ws.close_code})")
    return event


async def _why_refused(
    http: aiohttp.ClientSession,
    url: str,
    headers: dict[str, str],
    query: dict[str, str],
    refusal: aiohttp.WSServerHandshakeError,
) -> PodpairError:
    """Find the error behind a refused upgrade: the same GET without `Upgrade` runs the same checks and has a body."""
    async with http.get(url.replace("ws", "http", 1), params=query, headers=headers) as answer:
        status, hint = answer.status, answer.headers.get("Retry-After")
        body: Any = None
        with contextlib.suppress(msgspec.DecodeError):
            body = decode(await answer.read())
    if status == 426:
        hint = "does a proxy before it pass upgrades on?"
        return Unreachable(
            f"the upgrade at {url} ended with HTTP {refusal.status}, though the gateway accepts it: {hint}"
        )
    known = body.get("error") if isinstance(body, dict) else None
    if not isinstance(known, dict):
        code = _CODE_OF_STATUS.get(status, "unreachable")
        known = {"code": code, "message": f"{url} answered with HTTP {status}"}
    error = error_from(known)
    if isinstance(error, Overloaded) and error.retry_after is None and hint is not None:
        with contextlib.suppress(ValueError):  # the other form of Retry-After is a date, which no gateway sends
            error.retry_after = float(hint)
    return error


def cut(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Break the connection as a network would, without a closing handshake."""
    sock = ws.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return
    # A duplicate, for uvloop's socket has no shutdown of its own. Not connected any more is what was wanted.
    with contextlib.suppress(OSError), socket.socket(fileno=dup(sock.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
