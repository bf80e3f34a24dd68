"""Declarations of workflows: their faults, all at once and each with its field, and what expressions take."""

from typing import Any

import pytest
from pydantic import ValidationError

from podpair.common.sentences import sentences
from podpair.common.workflows.declaration import Workflow
from podpair.common.workflows.expressions import ExpressionError, evaluate, names_in
from podpair.common.workflows.faults import Neighbours, sound_part, workflow_faults

SEARCH = {"step": "search", "input": "{text: request.question}"}


def faults(stages: dict[str, Any], **members: Any) -> list[str]:
    try:
        workflow = Workflow.model_validate({"stages": stages, **members})
    except ValidationError as error:
        return sentences(error, Workflow, "w")
    neighbours = Neighbours({"writer": (1,), "ranker": (1, 2)}, {"other"})
    return workflow_faults(workflow, neighbours=neighbours, steps={"search": "", "forget": "", "help": "is a class"})


def test_a_sound_declaration() -> None:
    stages = {
        "search": SEARCH | {"timeout": "10s", "retry": {"attempts": 5, "backoff": "500ms"}},
        "rank": {
            "model": "ranker",
            "for_each": "search.hits",
            "input": "[item.text, to_string(index)]",
            "max_parallel": 2,
        },
        "approve": {"wait_for": "approve", "after": ["rank"]},
        "store": {
            "gateway": {"topic": "other.requests", "model": "store"},
            "input": "{hits: rank, by: approve.name}",
            "compensate": {"step": "forget", "input": "{stored: output, hits: rank}"},
        },
    }
    assert faults(stages, output="{stored: store, first: rank[0]}", timeout="2d") == []
    workflow = Workflow.model_validate({"stages": stages})
    assert workflow.needs() == {
        "search": frozenset(),
        "rank": {"search"},
        "approve": {"rank"},
        "store": {"rank", "approve"},
    }
    assert workflow.stages["search"].timeout == 10
    assert workflow.stages["search"].retry.backoff == 0.5
    assert workflow.stages["approve"].timeout == 86_400
    assert workflow.result == "store"


FAULTY: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no stages": ({}, {}, "stages: dictionary should have at least 1 item"),
    "no kind": ({"a": {"timeout": 1}}, {}, "stages.a: it needs one of model, step, gateway, wait_for"),
    "two kinds": ({"a": {"model": "writer", "step": "search"}}, {}, "stages.a: it has model and step: choose one"),
    "an unknown field": ({"a": SEARCH | {"timeot": 1}}, {}, "stages.a.timeot: no such setting; did you mean timeout?"),
    "an unknown model": ({"a": {"model": "writr"}}, {}, "stages.a.model: there is no model 'writr'; did you mean writer?"),
    "an unknown step": ({"a": {"step": "serch"}}, {}, "stages.a.step: steps.py has no function 'serch'"),
    "an unknown version": (
        {"a": {"model": "ranker", "version": 3}},
        {},
        "stages.a.version: model 'ranker' has no version 3; there are: 1, 2",
    ),
    "a workflow as a model": ({"a": {"model": "other"}}, {}, "stages.a.model: 'other' is a workflow; ask its gateway"),
    "no function": ({"a": {"step": "help"}}, {}, "stages.a.step: help is a class"),
    "an unknown stage": ({"a": SEARCH | {"input": "serch.hits"}}, {}, "stages.a.input: there is no stage 'serch'"),
    "an unknown stage in after": ({"a": SEARCH | {"after": ["b"]}}, {}, "stages.a.after.0: there is no stage 'b'"),
    "an unknown stage in output": ({"a": SEARCH}, {"output": "b.c"}, "output: there is no stage 'b'"),
    "no expression": ({"a": SEARCH | {"input": "request."}}, {}, "stages.a.input: no JMESPath expression"),
    "an unknown function": ({"a": SEARCH | {"input": "len(request)"}}, {}, "there is no function len in JMESPath"),
    "a circle": (
        {"a": SEARCH | {"input": "b"}, "b": SEARCH | {"input": "c"}, "c": SEARCH | {"after": ["a"]}},
        {},
        "stages: each waits for the next, and none begins: ",
    ),
    "one that waits for itself": ({"a": SEARCH | {"input": "a"}}, {}, "none begins: a -> a"),
    "no duration": ({"a": SEARCH | {"timeout": "10 seconds"}}, {}, "stages.a.timeout: no duration; write 500ms"),
    "no time at all": ({"a": SEARCH | {"timeout": 0}}, {}, "stages.a.timeout: input should be greater than 0"),
    "item without for_each": ({"a": SEARCH | {"input": "item"}}, {}, "stages.a.input: item is known within a for_each"),
    "item in for_each": ({"a": SEARCH | {"for_each": "item.b"}}, {}, "stages.a.for_each: item is known within"),
    "max_parallel alone": ({"a": SEARCH | {"max_parallel": 2}}, {}, "stages.a: max_parallel is for for_each"),
    "a message with input": ({"a": {"wait_for": "b", "input": "request"}}, {}, "stages.a: a stage that waits for a message"),
    "a version of a step": ({"a": SEARCH | {"version": 2}}, {}, "stages.a: version is for model"),
    "a reserved name": ({"item": SEARCH}, {}, "expressions have another meaning for 'item'"),
    "a name with capitals": ({"Search": SEARCH}, {}, "a stage's name has lower-case letters"),
    "no topic": ({"a": {"gateway": {"topic": "a b", "model": "m"}}}, {}, "stages.a.gateway.topic: string should match"),
    "compensation with a fault": (
        {"a": SEARCH | {"compensate": {"step": "forgt", "input": "outputs"}}},
        {},
        "stages.a.compensate.step: steps.py has no function 'forgt'; did you mean forget?",
    ),
    "another format": ({"a": SEARCH}, {"format": 2}, "format: input should be 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_declaration(name: str) -> None:
    stages, members, message = FAULTY[name]
    found = faults(stages, **members)
    assert any(message in fault for fault in found), found


def test_all_faults_at_once() -> None:
    found = faults({"a": SEARCH | {"input": "x", "after": ["y"]}, "b": {"model": "z"}}, output="w")
    assert len(found) == 4, found


def test_what_is_sound_of_a_declaration_is_judged_beside_what_is_not() -> None:
    content = {"stages": {"a": SEARCH | {"input": "b", "after": ["c"]}, "b": {}, "B": SEARCH}, "output": "d"}
    with pytest.raises(ValidationError) as caught:
        Workflow.model_validate(content)
    workflow, unread = sound_part(content, [fault["loc"] for fault in caught.value.errors()])
    assert (list(workflow.stages) if workflow else None, unread) == (["a"], ["b", "B"])
    assert workflow is not None
    found = workflow_faults(workflow, unread=unread)
    assert [fault.split(";")[0] for fault in found] == [
        "stages.a.after.0: there is no stage 'c'",
        "output: there is no stage 'd'",
    ]


def test_a_declaration_of_which_nothing_can_be_read() -> None:
    assert sound_part({"stages": []}, [("stages",)]) == (None, [])
    assert sound_part({"stages": {"a": 1}}, [("stages", "a")]) == (None, ["a"])


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("request", {"request"}),
        ("a.b.c[0].d", {"a"}),
        ("[a.x, b[?c == 'd'].e]", {"a", "b"}),
        ("{x: a, y: {z: b.c}}", {"a", "b"}),
        ("sort_by(a.items, &score)[:3].text", {"a"}),
        ("a | b", {"a"}),
        ("@ | b", {"b"}),
        ("@.a.b", {"a"}),
        ("a[].b[].c", {"a"}),
        ("map(&name, a[*])", {"a"}),
        ("a.*.b", {"a"}),
        ("a && !b || c", {"a", "b", "c"}),
        ("a[?b > `3`]", {"a"}),
        ("`[1, 2]`", set()),
        ("'text'", set()),
        ("@", set()),
        ('"quoted name".x', {"quoted name"}),
        ("length(a) > `2`", {"a"}),
    ],
)
def test_the_names_that_an_expression_takes(expression: str, names: set[str]) -> None:
    assert names_in(expression) == names


def test_what_evaluates() -> None:
    scope = {"a": {"hits": [{"t": "x", "s": 2}, {"t": "y", "s": 1}]}, "request": {"n": 1}}
    assert evaluate("sort_by(a.hits, &s)[].t", scope) == ["y", "x"]
    assert evaluate("a.missing", scope) is None
    with pytest.raises(ExpressionError, match=r"sort_by\(request, &s\)"):
        evaluate("sort_by(request, &s)", scope)
