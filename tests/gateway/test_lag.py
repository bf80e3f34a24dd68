"""The gateway's own lag metric: requests that are not finished, of the partitions that are its own, and of no other."""

from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway
from harness.waiting import until
from podpair.gateway.collectors import Readings
from podpair.gateway.core.offsets import Committed
from podpair.gateway.core.record_headers import request_headers
from podpair.gateway.worker.partition import PartitionState

WIDTH, REQUESTS = 6, 40


def lag(gateway: Gateway) -> dict[int, int]:
    families = text_string_to_metric_families(gateway.get("/metrics")[1])
    samples = [s for f in families for s in f.samples if s.name == "podpair_gateway_requests_lag"]
    return {int(sample.labels["partition"]): int(sample.value) for sample in samples}


def write(broker: Broker, topic: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
    for number in range(count):
        headers = request_headers(
            request_id=f"r{number}", session=f"s{number}", model="fake", source="test", now=0.0, deadline=None
        )
        producer.produce(topic, b'{"data":[1,2]}', partition=number % WIDTH, headers=headers)
    assert producer.flush(30) == 0


def test_what_nobody_works_on_and_what_is_in_hand_is_lag_and_moves_with_its_partition(
    broker: Broker, names: dict[str, Any], model: FakeModel, real_gateway: Callable[..., Gateway]
) -> None:
    topic, few = names["requests"]["topic"], {"requests": {"partitions": WIDTH, "in_flight": 2}}
    behind = {
        "inference": {"url": model.url, "probe_seconds": 0.1, "timeout_seconds": 600},
        "results": {"partitions": WIDTH},
    }
    first = real_gateway(**behind, **few)
    until(lambda: set(lag(first)) == set(range(WIDTH)), lambda: lag(first))
    assert sum(lag(first).values()) == 0
    model.open.clear()  # two are in hand, the others wait
    write(broker, topic, REQUESTS)
    until(lambda: sum(lag(first).values()) == REQUESTS, lambda: lag(first))
    assert max(lag(first).values()) == 7
    # Where the model is not there, its partitions are paused: the lag is told all the same.
    model.ready = False
    until(lambda: first.metric("requests_paused") == 1)
    write(broker, topic, WIDTH)
    until(lambda: sum(lag(first).values()) == REQUESTS + WIDTH, lambda: lag(first))
    second = real_gateway(ready=False, **behind, **few)

    def shared() -> bool:
        one, other = lag(first), lag(second)
        whole = sum((one | other).values()) == REQUESTS + WIDTH
        return bool(one and other and whole) and not one.keys() & other.keys() and len(one | other) == WIDTH

    until(shared, lambda: (lag(first), lag(second)))
    model.ready = True
    model.open.set()
    until(lambda: sum((lag(first) | lag(second)).values()) == 0, lambda: (lag(first), lag(second)))
    assert uncommitted(broker, names) == 0
    second.stop()
    until(lambda: set(lag(first)) == set(range(WIDTH)), lambda: lag(first))


def uncommitted(broker: Broker, names: dict[str, Any]) -> int:
    """As Kafka's own tools say it."""
    topic, group = names["requests"]["topic"], names["requests"]["group"]
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": group, "log_level": 0})
    try:
        places = [TopicPartition(topic, partition) for partition in range(WIDTH)]
        until(lambda: all(place.offset >= 0 for place in consumer.committed(places, 20)))
        ends = {p.partition: (consumer.get_watermark_offsets(p, 20) or (0, 0))[1] for p in places}
        until(lambda: all(p.offset == ends[p.partition] for p in consumer.committed(places, 20)))
        return sum(ends[place.partition] - place.offset for place in consumer.committed(places, 20))
    finally:
        consumer.close()


def test_what_an_earlier_owner_has_finished_is_none() -> None:
    work = PartitionState(0, Committed(10, frozenset({12, 13})), "")
    work.end = 20
    assert work.lag == 8
    for offset in (10, 11, 12):
        work.offsets.start(offset)
        work.last = offset
    assert work.lag == 8
    work.offsets.finish(11)
    assert work.lag == 7
    work.offsets.finish(10)
    assert work.lag == 6


def test_an_end_that_is_older_than_what_was_read_counts_for_nothing() -> None:
    work = PartitionState(0, Committed(10), "")
    work.end = 10
    work.offsets.start(10)
    work.last = 10
    assert work.lag == 1


def test_very_many_partitions_have_a_bounded_number_of_samples() -> None:
    readings = Readings("lag", "text", "partition")
    readings.source = lambda: dict.fromkeys(range(1000), 2)
    (family,) = readings.collect()
    assert len(family.samples) == 257
    assert family.samples[-1].labels == {"partition": "other"}
    assert sum(sample.value for sample in family.samples) == 2000
