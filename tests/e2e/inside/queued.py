"""Write requests to the requests topic, as a service does, and wait for their results; prints how many came, as JSON."""

import json
import sys
import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition


def main(
    servers: str, topic: str, results: str, partitions: int, count: int, inputs: list[Any], seconds: float
) -> None:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "queued", "enable.auto.commit": False})
    places = []
    for number in range(partitions):
        _, end = consumer.get_watermark_offsets(TopicPartition(results, number), timeout=30)
        places.append(TopicPartition(results, number, end))
    consumer.assign(places)
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random"})
    for number in range(count):
        headers = {
            "ce_specversion": "1.0", "ce_type": "dev.podpair.request", "ce_source": "e2e", "ce_id": f"r-{number}",
            "ce_subject": f"service/s-{number}", "model": "digits",
        }  # fmt: skip
        producer.produce(topic, json.dumps({"inputs": inputs}), f"service/s-{number}", headers=headers)
    if producer.flush(30):
        raise SystemExit("the broker took not all of them")
    awaited, end = {f"r-{number}" for number in range(count)}, time.monotonic() + seconds
    while awaited and time.monotonic() < end:
        record = consumer.poll(1.0)
        if record is None or record.error() is not None:
            continue
        found = {name: value.decode() for name, value in record.headers() or [] if value is not None}
        if found.get("ce_type") == "dev.podpair.result":
            awaited.discard(found["ce_id"])
    print(json.dumps({"results": count - len(awaited)}))  # noqa: T201


main(**json.loads(sys.argv[1]))
