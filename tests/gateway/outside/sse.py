"""What a client of server-sent events makes of an address: its events as JSON lines. Arguments: the client, the address.

Those that don't reconnect by themselves are begun again with the last id that they saw, which is all that they need.
"""

import asyncio
import json
import sys
from collections.abc import Iterator

import aiohttp
import httpx
import httpx_sse
import sseclient
from aiohttp_sse_client.client import EventSource

client, url = sys.argv[1:3]


def say(kind: str, data: str | None = None) -> None:
    sys.stdout.write(json.dumps({"type": kind, "data": json.loads(data) if data else None}) + "\n")
    sys.stdout.flush()


def events(response: httpx.Response) -> Iterator[tuple[str, str, str | None]]:
    if client == "httpx-sse":
        for one in httpx_sse.EventSource(response).iter_sse():
            yield one.event, one.data, one.id
    else:
        for event in sseclient.SSEClient(response.iter_bytes()).events():  # type: ignore[arg-type]
            yield event.event, event.data, event.id


def again_and_again() -> None:
    last = None
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            with httpx.stream("GET", url, headers=headers, timeout=None) as response:
                if response.status_code == 204:
                    return say("ended")
                for kind, data, event_id in events(response):
                    last = event_id or last
                    say(kind, data)
        except httpx.TransportError:
            pass


async def in_aiohttp() -> None:
    """It reconnects where a stream ends, not where it is cut."""
    last: str | None = None
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            async with EventSource(url, headers=headers, max_connect_retry=0) as source:
                async for event in source:
                    last = event.last_event_id or last
                    say(event.type, event.data)
                    if event.type == "close" and json.loads(event.data)["code"] == 4009:
                        return say("ended")
        except aiohttp.ClientError:
            pass


if client == "aiohttp-sse-client":
    asyncio.run(in_aiohttp())
else:
    again_and_again()
