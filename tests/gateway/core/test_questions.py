"""Which requests ask the same, and so may have one answer."""

from typing import Any

import pytest

from podpair.gateway.core.questions import Question, digest_of, scope_of, serving_of
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.result_members import mark_cached

BASE: dict[str, Any] = {"data": b"[1,2]", "key": "s1", "subject": "ann"}


def question_of(request: InferenceRequest, versions: tuple[str, ...], *, shared: bool) -> Question | None:
    digest, scope = digest_of(request), scope_of(request.subject, request.key, shared=shared)
    return None if digest is None or scope is None else Question(scope, digest, serving_of(versions, request.key))


def asked(versions: tuple[str, ...] = ("1",), *, shared: bool = False, **members: Any) -> Any:
    return question_of(InferenceRequest("r", "m", **{**BASE, **members}), versions, shared=shared)


def test_what_means_nothing_to_the_answer_is_no_difference() -> None:
    assert asked() == asked(data=b" [1,\n2 ]")
    assert asked() == question_of(
        InferenceRequest("another", "m", row=[1, 2], deadline=1e10, key="s2", subject="ann", trace="00-…"),
        ("1",),
        shared=False,
    )


@pytest.mark.parametrize(
    "other",
    [
        {"data": b"[1,3]"}, {"data": b"", "inputs": b"[1,2]"}, {"parameters": b'{"k":1}'}, {"subject": "bob"},
        {"versions": ("2",)}, {"versions": ("1", "2")}, {"versions": ()},
    ],
)  # fmt: skip
def test_what_may_change_the_answer_is_a_difference(other: dict[str, Any]) -> None:
    assert asked() != asked(**other)


def test_parts_do_not_run_into_each_other() -> None:
    assert asked(data=b"[1]", parameters=b'{"a":1}') != asked(data=b'[1]{"a":1}')


def test_of_several_versions_a_session_keeps_its_own() -> None:
    both = ("1", "2")
    assert asked(both, key="s1") != asked(both, key="s2")
    assert asked(both, key="s1") == asked(both, key="s1")


def test_shared_answers_are_everybodys() -> None:
    assert asked(shared=True) == asked(shared=True, subject="bob", key="s9")


def test_a_session_whose_subject_is_not_known_is_a_scope_of_its_own() -> None:
    assert asked(subject="", key="s1") != asked(subject="", key="s2")
    assert asked(subject="", key="ann") != asked(subject="ann", key="ann")
    assert asked(subject="", key="") is None


@pytest.mark.parametrize(
    "members",
    [
        {"parameters": b'{"sequence_id":7}'}, {"parameters": b'{"sequence_start":true}'},
        {"parameters": b"[1]"}, {"parameters": b'{"\xff":1}'}, {"data": b"[1"},
    ],
)  # fmt: skip
def test_what_depends_on_more_than_the_input_is_nobody_elses(members: dict[str, Any]) -> None:
    assert asked(**members) is None


def test_an_answer_says_that_it_was_kept() -> None:
    members = b'"data":[1],"model":"m","model_version":"1","timing":{"inference_ms":1.000}'
    assert mark_cached(members, b"hit") == b'"data":[1],"model":"m","model_version":"1","cache":"hit","timing":{}'
    assert mark_cached(members, b"wait").endswith(b',"cache":"wait","timing":{"inference_ms":1.000}')
