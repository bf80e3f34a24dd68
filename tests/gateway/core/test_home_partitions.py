"""A record keyed by session id is where the session's gateway reads, whoever wrote it."""

from collections.abc import Iterator

import pytest
from confluent_kafka import Message, Producer
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.partitions import home_partition, mint_session_id, murmur2
from podpair.gateway.kafka.embedded import EmbeddedKafka

# org.apache.kafka.common.utils.UtilsTest.testMurmur2, signed as Java has it.
JAVA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), JAVA_VECTORS.items())
def test_murmur2_is_that_of_kafkas_java_client(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF


@pytest.fixture
def embedded() -> Iterator[EmbeddedKafka]:
    broker = EmbeddedKafka()
    yield broker
    broker.close()


def test_librdkafka_puts_a_keyed_record_at_home(embedded: EmbeddedKafka) -> None:
    keys = [f"s-{n:016x}" for n in range(64)] + ["", "a", "ab", "abc", "abcd", "ü-ñ-漢", "x" * 128, "auth0|5f7c8"]
    placed: dict[str, int] = {}

    def delivered(error: object, message: Message) -> None:
        assert error is None
        placed[(message.key() or b"").decode()] = message.partition() or 0

    producer = Producer({"bootstrap.servers": embedded.bootstrap_servers, "partitioner": "murmur2_random"})
    partitions = len(producer.list_topics("results", timeout=10).topics["results"].partitions)
    for key in filter(None, keys):  # librdkafka takes an empty key for none
        producer.produce("results", key=key, value=b"", on_delivery=delivered)
    assert producer.flush(10) == 0
    assert placed == {key: home_partition(key, partitions) for key in keys if key}


@given(st.sets(st.integers(0, 15), min_size=1), st.integers(1, 16))
def test_a_minted_session_is_at_home_among_the_owned_partitions(owned: set[int], partitions: int) -> None:
    session = mint_session_id(owned, partitions)
    reachable = {p for p in owned if p < partitions}
    assert not reachable or home_partition(session, partitions) in reachable


@given(st.text(max_size=128), st.integers(1, 1000))
def test_every_session_has_a_home(session: str, partitions: int) -> None:
    assert 0 <= home_partition(session, partitions) < partitions


def test_minting_ends_where_no_id_can_be_had() -> None:
    assert mint_session_id({3}, 4, new_id=lambda: "always the same") == "always the same"
