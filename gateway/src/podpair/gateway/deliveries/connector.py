"""Connections to receivers: only to addresses that may be connected to.

Invariant: what is judged is the very address that the socket is connected to; a name that means another address the next time, or
an address that stands in a URL, gets past nothing.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from podpair.gateway.core.deliveries.addresses import AddressRefused, Network, why_refused

Lookup = Callable[..., list[Any]]
_LOOKUPS = 16  # names that are looked up at a time, each on a thread
_DNS_SECONDS = 30  # that an answer is used


class _Resolver(AbstractResolver):
    """Looks names up on threads of its own, so that a name server that hangs holds up nothing else."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_LOOKUPS, "deliveries-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host."""
        look = asyncio.get_running_loop().run_in_executor(
            self._threads, self._lookup, host, port, family, socket.SOCK_STREAM
        )
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=int(address[1]), family=found, proto=proto,
                flags=socket.AI_NUMERICHOST,
            )
            for found, _, proto, _, address in await look
            if found in (socket.AF_INET, socket.AF_INET6)
        ]  # fmt: skip

    async def close(self) -> None:
        """End the threads, without waiting for a name server."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def make_connector(
    allowed: Sequence[Network], per_host: int, lookup: Lookup = socket.getaddrinfo
) -> tuple[aiohttp.TCPConnector, AbstractResolver]:
    """Return a connector that refuses addresses (AddressRefused, within aiohttp's errors), and its resolver, to be closed
    after it.
    """

    def make_socket(info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """Make the socket that aiohttp connects to this address next, if it may."""
        family, kind, proto, _, address = info
        why = why_refused(str(address[0]), allowed)
        if why is not None:
            raise AddressRefused(f"the host's address may not be connected to: {why}")
        made = socket.socket(family, kind, proto)
        made.setblocking(False)
        return made

    resolver = _Resolver(lookup)
    connector = aiohttp.TCPConnector(
        limit=0, limit_per_host=per_host, resolver=resolver, ttl_dns_cache=_DNS_SECONDS, socket_factory=make_socket
    )
    return connector, resolver


def is_refused(error: BaseException) -> bool:
    """Return whether an error of aiohttp's comes from an address that may not be connected to."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        if isinstance(found, AddressRefused):
            return True
        seen.add(id(found))
        waiting += [found.__cause__, found.__context__, getattr(found, "os_error", None)]
    return False
