"""Clients' messages to workflows, before a broker that is slow: nobody's take more memory than there is for them."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.protocol import decode
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.sessions.signals import SignalPublisher

CONFIG = Config.model_validate({"auth": {"secret": "s" * 40}, "limits": {"in_flight": 3}})


class Producer:
    """Acknowledges when it is told to."""

    def __init__(self) -> None:
        self.taken: list[Outgoing] = []
        self.acknowledge = asyncio.Event()

    async def send_until_acked(self, record: Outgoing) -> None:
        self.taken.append(record)
        await self.acknowledge.wait()


async def test_a_session_has_so_many_messages_under_way() -> None:
    producer = Producer()
    publisher = SignalPublisher(CONFIG, "test", cast("Any", producer), lambda: 4)

    async def send(session: str, count: int, partition: int | None) -> int:
        before = len(producer.taken)
        for number in range(count):
            message = decode(json.dumps({"type": "signal", "id": f"r-{number}", "name": "ok", "data": 1}))
            publisher.publish(cast("Any", SimpleNamespace(id=session, key=b"s")), cast("Any", message), partition)
        await asyncio.sleep(0.01)
        return len(producer.taken) - before

    assert await send("s", 5, None) == 3 * 4
    assert await send("s", 1, 2) == 0
    assert await send("other", 2, 2) == 2
    producer.acknowledge.set()
    await asyncio.sleep(0.01)
    assert await send("s", 3, 2) == 3
    await asyncio.sleep(0.01)
    assert not publisher._under_way
    await publisher.close(1.0)
