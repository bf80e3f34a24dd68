"""What the parts of an answer are as a whole."""

import json

import pytest

from podpair.gateway.core.chunks import ChunkAssembler, join_chunks


def whole(parts: list[object], names: list[str], limit: int = 1000) -> object:
    found = ChunkAssembler(limit)
    for part in parts:
        found.add(json.dumps(part).encode())
    assert found.count == len(parts)
    data = found.data(names)
    return None if data is None else json.loads(data)


@pytest.mark.parametrize(
    ("parts", "names", "expected"),
    [
        (["Hel", 'lo "', "ü\n"], ["text"], {"text": 'Hello "ü\n'}),
        ([{"text": "a", "why": "x"}, {"text": "b", "why": "y"}], ["text", "why"], {"text": "ab", "why": "xy"}),
        ([0.1, 0.9], ["progress"], {"progress": 0.9}),
        ([{"done": 1}, {"done": 2}], ["a", "b"], {"done": 2}),
        (["text", 5], ["mixed"], {"mixed": 5}),
        ([], ["text"], {"text": None}),
    ],
)
def test_texts_are_joined_and_of_anything_else_the_last_stands(
    parts: list[object], names: list[str], expected: object
) -> None:
    assert whole(parts, names) == expected


def test_a_whole_that_is_too_large_is_not_kept() -> None:
    assert whole(["x" * 60, "y" * 60], ["text"], limit=100) is None


def test_objects_are_joined_member_by_member_or_not_at_all() -> None:
    joined = join_chunks([b'{"a":"x","b":[1]}', b'{"a":"y","b":[2]}'])
    assert json.loads(joined or b"") == {"a": "xy", "b": [1, 2]}
    assert join_chunks([b'{"a":"x"}', b'{"b":"y"}']) is None
    assert join_chunks([b'"x"', b"1"]) is None
