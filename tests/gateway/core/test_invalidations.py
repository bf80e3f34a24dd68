"""What a record of the invalidation topic removes: what it says, or everything if that can't be read."""

import pytest

from podpair.gateway.core.answer_cache import AnswerCaches, CacheCounts, CachePolicy, Flight, ModelCache
from podpair.gateway.core.invalidations import (
    Invalidation,
    InvalidInvalidation,
    decode_invalidation,
    encode_invalidation,
)
from podpair.gateway.core.questions import Question

NOW = 1000.0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b'{"model":"m"}', Invalidation("m")),
        (b'{"model":"m","subject":"ann"}', Invalidation("m", "ann")),
        (b'{"model":"*"}', Invalidation()),
        (b'{"model":"*","subject":"ann"}', Invalidation(None, "ann")),
    ],
)
def test_what_it_says(value: bytes, said: Invalidation) -> None:
    assert decode_invalidation(value, None) == said
    assert decode_invalidation(encode_invalidation(said), None) == said


def test_a_cloud_event_in_structured_mode() -> None:
    event = b'{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"application/json","data":{"model":"m"}}'
    headers = [("content-type", b"application/cloudevents+json")]
    assert decode_invalidation(event, headers) == Invalidation("m")


@pytest.mark.parametrize(
    "value",
    [None, b"", b"null", b"{}", b"[]", b'{"model":1}', b'{"model":"m","subjekt":"ann"}', b'{"model":"m","subject":""}',
     b'{"model":"\xff"}', b"[" * 100_000],
)  # fmt: skip
def test_what_can_not_be_understood(value: bytes | None) -> None:
    with pytest.raises(InvalidInvalidation):
        decode_invalidation(value, None)


def cache_of(model: str, *, shared: bool) -> ModelCache:
    counts = CacheCounts(*[lambda: None] * 4, removed=lambda why, count: None)
    return ModelCache(CachePolicy(model, shared, 60.0, 1 << 20), counts)


ANN, BOB, SESSION = (Question(scope, b"d", b"1") for scope in (b"uann", b"ubob", b"ss1"))
SHARED = Question(b"", b"d", b"1")


def filled() -> tuple[AnswerCaches, ModelCache, ModelCache]:
    own, shared = cache_of("own", shared=False), cache_of("shared", shared=True)
    for question in (ANN, BOB, SESSION):
        own.store(question, b"answer", 6, NOW)
    shared.store(SHARED, b"answer", 6, NOW)
    return AnswerCaches({"own": own, "shared": shared}), own, shared


def kept(own: ModelCache, shared: ModelCache) -> list[Question]:
    found = [question for question in (ANN, BOB, SESSION) if own.get(question, NOW) is not None]
    return found + [SHARED] * (shared.get(SHARED, NOW) is not None)


@pytest.mark.parametrize(
    ("model", "subject", "left"),
    [
        (None, None, []),
        ("own", None, [SHARED]),
        ("shared", None, [ANN, BOB, SESSION]),
        # Whose a session is that another service has queued for is not known; a shared answer is everybody's.
        ("own", "ann", [BOB, SHARED]),
        (None, "ann", [BOB]),
        ("another", None, [ANN, BOB, SESSION, SHARED]),
    ],
)
def test_what_is_removed(model: str | None, subject: str | None, left: list[Question]) -> None:
    caches, own, shared = filled()
    caches.invalidate(model, subject)
    assert kept(own, shared) == left


def test_calls_in_flight_are_not_kept_and_nobody_waits_for_them_any_more() -> None:
    own = cache_of("own", shared=False)
    of_ann, of_bob = Flight(ANN), Flight(BOB)
    own.begin(of_ann)
    own.begin(of_bob)
    AnswerCaches({"own": own}).invalidate("own", "ann")
    assert (own.flight(ANN), own.flight(BOB)) == (None, of_bob)
    assert (own.end(of_ann), own.end(of_bob)) == (False, True)


def test_nothing_is_current_before_it_is_known_to_be() -> None:
    caches = AnswerCaches({}, until=NOW)
    assert (caches.is_current(NOW - 0.1), caches.is_current(NOW)) == (True, False)
