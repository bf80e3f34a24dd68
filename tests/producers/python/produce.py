"""Writes a record for each key (standard input, a line each): `produce.py BROKER TOPIC VARIANT`."""

import asyncio
import sys


async def with_aiokafka(broker: str, topic: str, keys: list[bytes]) -> None:
    from aiokafka import AIOKafkaProducer

    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        sent = [await producer.send(topic, b"{}", key=key) for key in keys]
        await asyncio.gather(*sent)


def with_kafka_python(broker: str, topic: str, keys: list[bytes]) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=broker)
    for future in [producer.send(topic, b"{}", key=key) for key in keys]:
        future.get(30)
    producer.close()


def main() -> None:
    broker, topic, variant = sys.argv[1:]
    keys = sys.stdin.buffer.read().split(b"\n")[:-1]
    if variant == "aiokafka":
        asyncio.run(with_aiokafka(broker, topic, keys))
    else:
        with_kafka_python(broker, topic, keys)


main()
