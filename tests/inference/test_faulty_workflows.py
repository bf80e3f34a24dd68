"""What is wrong with workflows in a repository: all of it at once, each with its file and field."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from inference.workflow_folders import SEARCH, STEPS, run, write, write_model

pytestmark = pytest.mark.process

FAULTY: dict[str, tuple[Any, str | None, list[str]]] = {
    "no-stages": ({}, None, ["1/workflow.yaml: stages: field required"]),
    "not-yaml": ("stages: [", None, ["1/workflow.yaml: not YAML: while parsing a flow node expected the node content"]),
    "twice": (
        "stages:\n  a: {model: echo}\n  b: {model: echo}\n  a: {wait_for: c}\n",
        None,
        ["1/workflow.yaml: line 4: a is there twice, first in line 2"],
    ),
    "typo": (
        {"stages": {"a": {"model": "echo", "timeot": "5s"}}},
        None,
        ["1/workflow.yaml: stages.a.timeot: no such setting; did you mean timeout?"],
    ),
    "name": (
        {"stages": {"Search": {"model": "echo"}}},
        None,
        ["1/workflow.yaml: stages.Search: a stage's name has lower-case letters, digits and _, and begins with a letter"],
    ),
    "duration": (
        {"stages": {"a": {"model": "echo", "timeout": "5 seconds"}}},
        None,
        ["1/workflow.yaml: stages.a.timeout: no duration; write 500ms, 30s, 5m, 2h or 3d (it is '5 seconds')"],
    ),
    "kinds": (
        {"stages": {"a": {"model": "echo", "wait_for": "b"}, "b": {}}},
        None,
        [
            "1/workflow.yaml: stages.a: it has model and wait_for: choose one",
            "1/workflow.yaml: stages.b: it needs one of model, step, gateway, wait_for",
        ],
    ),
    "expression": (
        {"stages": {"a": {"model": "echo", "input": "len(request)"}}},
        None,
        ["1/workflow.yaml: stages.a.input: there is no function len in JMESPath"],
    ),
    "model": (
        {"stages": {"a": {"model": "ecoh"}}},
        None,
        ["1/workflow.yaml: stages.a.model: there is no model 'ecoh'; did you mean echo?"],
    ),
    "version": (
        {"stages": {"a": {"model": "echo", "version": 3}}},
        None,
        ["1/workflow.yaml: stages.a.version: model 'echo' has no version 3; there are: 1, 2"],
    ),
    "nested": (
        {"stages": {"a": {"model": "sound"}}},
        None,
        ["1/workflow.yaml: stages.a.model: 'sound' is a workflow; ask its gateway for it: `gateway: {topic: …, model: sound}`"],
    ),
    "circle": (
        {"stages": {"a": {"model": "echo", "input": "b"}, "b": {"model": "echo", "after": ["a"]}}},
        None,
        ["1/workflow.yaml: stages: each waits for the next, and none begins: "],
    ),
    "step": (
        {"stages": {"a": {"step": "serch"}}},
        STEPS,
        ["1/workflow.yaml: stages.a.step: steps.py has no function 'serch'; did you mean search?"],
    ),
    "no-steps": (
        {"stages": {"a": SEARCH}},
        None,
        ["1/steps.py: no such file, and stages of workflow.yaml are functions of it"],
    ),
    "syntax": ({"stages": {"a": SEARCH}}, "x = 1\ndef search(given)\n", ["1/steps.py:2: SyntaxError: expected ':'"]),
    "import": ({"stages": {"a": SEARCH}}, "x = 1\nimport nothing_such\n", ["1/steps.py:2: ModuleNotFoundError: No module"]),
    "dies": (
        {"stages": {"a": SEARCH}},
        "import os\nos._exit(3)\n",
        ["1/steps.py: while it was loaded its process exited with status 3"],
    ),
    # Faults of each kind in one, and all are told: the schema's, names', and those of steps.py.
    "all": (
        {
            "stages": {
                "a": {"model": "echo", "retry": {"attempts": 0}},
                "b": {"model": "ecoh", "input": "a", "after": ["c"], "compensate": {"step": "serch"}},
                "d": {"wait_for": "e", "input": "b"},
            },
            "output": "f.g",
        },
        STEPS,
        [
            "1/workflow.yaml: stages.a.retry.attempts: input should be greater than 0 (it is 0)",
            "1/workflow.yaml: stages.d: a stage that waits for a message has no input",
            "1/workflow.yaml: stages.b.after.0: there is no stage 'c'; there are: a, b, d",
            "1/workflow.yaml: stages.b.model: there is no model 'ecoh'; did you mean echo?",
            "1/workflow.yaml: stages.b.compensate.step: steps.py has no function 'serch'; did you mean search?",
            "1/workflow.yaml: output: there is no stage 'f'; there are: a, b, d, index, item, parameters, request",
        ],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What `validate` says of each of them, in one repository beside sound ones."""
    repository = tmp_path_factory.mktemp("faulty")
    write_model(repository / "echo", 1, 2)
    write(repository / "sound", {"stages": {"a": SEARCH, "b": {"model": "echo", "version": 2, "input": "a"}}})
    for name, (declaration, steps, _) in FAULTY.items():
        write(repository / name, declaration, steps)
    write(repository / "settings", {"stages": {"a": {"model": "echo"}}}, None)
    (repository / "settings/model.yaml").write_text(
        "batching: {max_items: 3}\nruntime: {instances: 2, max_streams: 2}\n"
    )
    write(repository / "unreadable", {"stages": {"a": {"model": "ecoh"}}}, None)
    (repository / "unreadable/model.yaml").write_text("batchin: {}\n")
    write(repository / "mixed", {"stages": {"a": {"model": "echo"}}}, None)
    write_model(repository / "mixed", 2)
    found = run("validate", repository)
    assert found.exit_code == 1
    assert (
        "sound/1  podpair_workflow  input BYTES[1] -> output BYTES[1]\n  stages: a (step), b (model)\n" in found.stdout
    )
    assert [line.split("/")[0] for line in found.stdout.splitlines()[::2]] == ["echo", "echo", "sound"]
    faults: dict[str, list[str]] = {}
    for line in found.stderr.splitlines()[1:]:
        name, _, fault = line.removeprefix(f"  - {repository}/").partition(
            "/" if "/1/" in line or "model.yaml" in line else ":"
        )
        faults.setdefault(name, []).append(fault.strip())
    return faults


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_declaration_and_all_that_is_wrong_with_it(validated: dict[str, list[str]], name: str) -> None:
    expected = FAULTY[name][2]
    assert len(validated[name]) == len(expected), validated[name]
    for fault, message in zip(validated[name], expected, strict=True):
        assert fault.startswith(message), validated[name]


def test_settings_that_are_for_models(validated: dict[str, list[str]]) -> None:
    assert validated["settings"] == [
        "model.yaml: batching: it is for models; a workflow has no such setting",
        "model.yaml: runtime.instances: it is for models; a workflow has no such setting",
    ]
    assert validated["mixed"] == ["version 1 is a workflow and 2 is none: give one of them a name of its own"]
    assert [fault.split(";")[0] for fault in validated["unreadable"]] == [
        "model.yaml: batchin: no such setting",
        "1/workflow.yaml: stages.a.model: there is no model 'ecoh'",
    ]


def test_one_workflow_is_validated_by_what_stands_beside_it(tmp_path: Path) -> None:
    write_model(tmp_path / "echo")
    write(tmp_path / "flow", {"stages": {"a": {"model": "echo"}}}, None)
    assert run("validate", tmp_path / "flow").exit_code == 0
    shutil.rmtree(tmp_path / "echo")
    assert "stages.a.model: there is no model 'echo'; there are: none" in run("validate", tmp_path / "flow").stderr


def test_a_workflow_is_not_tuned(tmp_path: Path) -> None:
    write(tmp_path / "flow", {"stages": {"a": {"wait_for": "b"}}}, None)
    found = run("tune", tmp_path / "flow")
    assert (found.exit_code, "tune the models that its stages name" in found.stderr) == (1, True)
