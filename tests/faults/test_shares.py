"""Each gateway reads the results of its own sessions' partitions, not all of them."""

import asyncio
import json
from typing import Any

import aiohttp
from confluent_kafka import Producer

from harness.pair import Gateway, token

_SESSIONS, _RECORDS = 60, 20


async def test_a_gateway_reads_its_share(two_pairs: list[Gateway], names: dict[str, Any], producer: Producer) -> None:
    topic = names["results"]["topic"]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        sockets = []
        for gateway in two_pairs:
            for number in range(_SESSIONS):
                headers = {"Authorization": f"Bearer {token(f'u-{number}')}"}
                socket = await http.ws_connect(gateway.ws, headers=headers)
                welcome = json.loads((await socket.receive(timeout=20)).data)
                sockets.append((socket, welcome["session"]))
        for number in range(_RECORDS):
            for _, session in sockets:
                producer.produce(topic, key=session, value=json.dumps(number))
        producer.flush(20)
        for socket, _ in sockets:
            got = [json.loads((await socket.receive(timeout=20)).data)["data"] for _ in range(_RECORDS)]
            assert got == list(range(_RECORDS))
        read = [await asyncio.to_thread(g.metric, "results_records_read_total") for g in two_pairs]
        homes = [await asyncio.to_thread(g.metric, "home_partitions") for g in two_pairs]
        delivered = [await asyncio.to_thread(g.metric, "results_records_delivered_total") for g in two_pairs]
        for socket, _ in sockets:
            await socket.close()
    # Minted ids have their homes among the gateway's own request partitions: half of eight, and only its own records.
    assert homes == [4, 4]
    assert read == delivered == [_SESSIONS * _RECORDS] * 2
