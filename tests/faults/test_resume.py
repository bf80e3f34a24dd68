"""Clients that are cut again and again, and come back to any gateway, have every result once and in order."""

import asyncio
import json
import random
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Producer

from harness.checking import OrderChecker
from harness.pair import Gateway, token
from harness.waiting import soon

_CLIENTS, _CUTS, _RESULTS = 200, 10, 20_000


class BareClient:
    """Reads a session and resumes it, with no filter of its own: what the gateway sends twice is seen twice."""

    def __init__(
        self, name: str, gateways: list[Gateway], checker: OrderChecker, wanted: int, rng: random.Random
    ) -> None:
        self.name = name
        self._gateways = gateways
        self._checker = checker
        self._rng = rng
        self._wanted = wanted
        # After which of its events the wire is cut; 0 is before the welcome has been read.
        self._cuts = sorted(rng.randrange(wanted) for _ in range(_CUTS))
        self._place: dict[str, str] = {}
        self._seen = 0
        self.gaps: list[dict[str, Any]] = []
        self.gateways_used: set[str] = set()

    async def run(self, http: aiohttp.ClientSession) -> None:
        headers = {"Authorization": f"Bearer {token(self.name, sid=self.name)}"}
        while self._seen < self._wanted:
            gateway = self._rng.choice(self._gateways)
            async with http.ws_connect(gateway.ws, params=self._place, headers=headers) as socket:
                await self._read(socket)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while self._seen < self._wanted:
            if self._place and self._cuts and self._seen >= self._cuts[0]:
                self._cuts.pop(0)
                socket._response.connection.transport.abort()  # type: ignore[union-attr]
                return
            message = await socket.receive(timeout=20)
            assert message.type is aiohttp.WSMsgType.TEXT, message
            self._event(json.loads(message.data))

    def _event(self, event: dict[str, Any]) -> None:
        if event["type"] == "welcome":
            # The first welcome only: later its position says where the gateway begins to read for us.
            self._place = {"resume": event["resume"], "position": self._place.get("position", event["position"])}
            self.gateways_used.add(event["gateway"])
        elif event["type"] == "gap":
            self.gaps.append(event)
        elif event["type"] == "result":
            self._checker.saw(self.name, event["data"])
            self._place["position"] = event["position"]
            self._seen += 1


@pytest.mark.parametrize("tail_cache_bytes", [64 << 20, 100_000], ids=["from the tail", "from the log"])
async def test_every_result_once_and_in_order(
    start_pair: Any, names: dict[str, Any], producer: Producer, tail_cache_bytes: int
) -> None:
    # With next to nothing in memory, resumes have to read the log.
    gateways = [start_pair(results=names["results"] | {"tail_cache_bytes": tail_cache_bytes}) for _ in range(2)]
    each = _RESULTS // _CLIENTS
    rng = random.Random(7)
    clients = [f"c-{n}" for n in range(_CLIENTS)]
    checker = OrderChecker(dict.fromkeys(clients, each))
    bare = [BareClient(name, gateways, checker, each, random.Random(rng.random())) for name in clients]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(client.run(http)) for client in bare]
        await soon(lambda: all(client._place or task.done() for client, task in zip(bare, running, strict=True)))
        for number in range(each):
            for name in clients:
                headers = [("ce_type", b"dev.podpair.result"), ("ce_id", b"r%d" % number)]
                producer.produce(
                    names["results"]["topic"], key=f"{name}/{name}", value=b'{"data":%d}' % number, headers=headers
                )
            producer.poll(0)
            await asyncio.sleep(0.02)  # the results flow while the wires are cut
    assert checker.faults() == []
    assert [client.gaps for client in bare if client.gaps] == []
    assert sum(len(client.gateways_used) == 2 for client in bare) > _CLIENTS // 2
    if tail_cache_bytes < 1 << 20:
        assert sum(g.metric("resumes_total", source="history") for g in gateways) > 0
