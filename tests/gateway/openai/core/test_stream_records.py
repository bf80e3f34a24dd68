"""What a stream's records add up to, whatever was written twice, late or from outside."""

import msgspec
import pytest

from podpair.gateway.openai.core.stream_ids import StreamId, new_name
from podpair.gateway.openai.core.stream_records import Begin, Events, Note, StreamRecord, StreamState, encode_record


def folded(*records: StreamRecord) -> StreamState:
    state = StreamState()
    for record in records:
        state.add(encode_record(record))
    return state


def events(first: int, *names: str, last: bool = False) -> Events:
    return Events(first, [msgspec.Raw(msgspec.json.encode(name)) for name in names], last)


def texts(state: StreamState) -> list[str]:
    return [msgspec.json.decode(event) for event in state.events]


def test_an_event_that_was_written_twice_counts_once() -> None:
    state = folded(
        Begin("user"), events(0, "a", "b"), events(1, "b", "c"), events(0, "a", "b"), events(3, "d", last=True)
    )
    assert texts(state) == ["a", "b", "c", "d"]
    assert state.ending is not None
    assert state.ending.how == "whole"


def test_an_event_that_others_miss_before_does_not_count() -> None:
    assert texts(folded(Begin("user"), events(0, "a"), events(2, "c"))) == ["a"]


@pytest.mark.parametrize("what", ["cancelled", "lost"])
def test_the_first_end_counts(what: str) -> None:
    note = Note(what)  # type: ignore[arg-type]
    state = folded(Begin("user"), events(0, "a"), note, events(1, "b", last=True))
    assert (texts(state), state.ending and state.ending.how) == (["a"], what)
    state = folded(Begin("user"), events(0, "a", last=True), note)
    assert state.ending is not None
    assert state.ending.how == "whole"


def test_the_first_owner_counts() -> None:
    state = folded(Begin("user"), Begin("another"))
    assert state.begin is not None
    assert state.begin.subject == "user"


def test_what_is_deleted_ends_and_stays_so() -> None:
    state = folded(Begin("user"), Note("deleted"), events(0, "a", last=True))
    assert (state.deleted, texts(state)) == (True, [])


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff", b'{"kind": "other"}', b'{"kind":"events","first":-1}'])
def test_other_records_are_passed_over(value: bytes | None) -> None:
    state = folded(Begin("user"))
    state.add(value)
    assert (state.events, state.ending) == ([], None)


def test_an_id_says_where_it_is() -> None:
    stream = StreamId("resp", 31, 123_456_789, new_name())
    assert StreamId.parse(str(stream), "resp") == stream
    assert StreamId.parse(str(stream), "chat") is None
    for text in ("", "resp_", str(stream)[:-1], str(stream) + "0", str(stream).upper(), "resp_" + "g" * 50):
        assert StreamId.parse(text, "resp") is None
