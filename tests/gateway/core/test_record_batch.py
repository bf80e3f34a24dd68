"""Records that were read together are, by partition and key, those that were read, in their order."""

from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.push_frames import push_frames
from podpair.gateway.core.record_batch import PartitionRecords, Record, RecordBatch, value_size
from podpair.gateway.core.wires import EventStreamWire, JsonWire, RawWire, Wire

_KEYS = st.sampled_from([None, b"a", b"b", b"c"])
read = st.lists(st.tuples(st.integers(0, 2), _KEYS, st.sampled_from([None, b"", b"{}", b"x" * 300])), max_size=30)

_HEADERS = st.one_of(
    st.none(),
    st.just([]),
    st.sampled_from(["push", "partial", "result", "error", "takeover", "else"]).map(
        lambda kind: [("ce_id", b"r"), ("ce_type", f"dev.podpair.{kind}".encode())]
    ),
    st.sampled_from([b"application/json", b"application/cloudevents+json", b"text/plain", None]).map(
        lambda value: [("content-type", value)]
    ),
    st.lists(st.tuples(st.sampled_from(["ce_id", "ce_type", "x"]), st.one_of(st.none(), st.binary())), max_size=3),
)
_VALUES = st.one_of(
    st.none(),
    st.binary(max_size=20),
    st.sampled_from([b"{}", b'{"n":1}', b"[" * 5000, b"1,2", b"1]", '"é"'.encode(), b'"\xff"', b'"%b"' % (b"x" * 100)]),
    st.integers(80, 140).map(lambda size: b'"%b"' % (b"x" * size)),
    st.just(b'"%b"' % (b"x" * 70_000)),
)


def of_partition(batch: RecordBatch, partition: int) -> list[tuple[bytes | None, Record]]:
    """All records of a partition with their keys, by offset."""
    found = batch.partitions.get(partition)
    groups = found.groups if found is not None else {}
    return sorted(((key, one) for key, group in groups.items() for one in group), key=lambda pair: pair[1][0])


@given(st.lists(read, max_size=4), st.integers(0, 40))
def test_a_batch_is_what_was_added(chunks: list[list[tuple[int, bytes | None, bytes | None]]], since: int) -> None:
    batch = RecordBatch()
    ends = [0, 10, 20]
    added: list[list[tuple[bytes | None, Record]]] = [[], [], []]
    for chunk in chunks:
        records: list[Record] = []
        for partition, key, value in chunk:
            records.append((ends[partition], value, None))
            added[partition].append((key, records[-1]))
            ends[partition] += 2
        sizes = [value_size(record) for record in records]
        batch.add([partition for partition, _, _ in chunk], [key for _, key, _ in chunk], records, sizes)
    for partition, expected in enumerate(added):
        assert of_partition(batch, partition) == expected
        if expected:
            found = batch.partitions[partition]
            assert (found.start, found.end) == (expected[0][1][0], expected[-1][1][0] + 1)
            assert (found.count, found.size) == (len(expected), sum(value_size(record) for _, record in expected))
            _check_since(found, since, [pair for pair in expected if pair[1][0] >= since])


def _check_since(found: PartitionRecords, since: int, expected: list[tuple[bytes | None, Record]]) -> None:
    left = found.since(since)
    assert (left is None) == (not expected)
    if left is not None:
        assert (left.end, left.count) == (found.end, len(expected))
        assert left.size == sum(value_size(record) for _, record in expected)
        assert sorted(record[0] for group in left.groups.values() for record in group) == [r[0] for _, r in expected]


@given(st.lists(st.tuples(_VALUES, _HEADERS), min_size=1, max_size=4), st.integers(0, 10**12))
def test_pushes_are_encoded_as_their_events_are(members: list[tuple[bytes | None, list[tuple[str, bytes | None]] | None]],
                                                start: int) -> None:  # fmt: skip
    records: list[Record] = [(start + n, value, headers) for n, (value, headers) in enumerate(members)]
    wires: list[Wire] = [JsonWire(b"e.0."), EventStreamWire(b"e.0."), RawWire()]
    for wire in wires:
        events = [wire.event(value, headers, offset) for offset, value, headers in records]
        if any(event.name != "push" for event in events):
            assert wire.pushes(records) is None
        else:
            assert wire.pushes(records) in (None, wire.encode(events))


def test_what_has_no_headers_or_those_of_a_push_is_encoded_without_events() -> None:
    records: list[Record] = [(7, b"{}", None), (9, b"[1]", [("ce_type", b"dev.podpair.push"), ("ce_id", b"x")])]
    assert push_frames(records, b"e.0.") is not None
