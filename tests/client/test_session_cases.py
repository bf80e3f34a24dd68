"""One table of cases, session_cases.json, for the session state machines of both client libraries.

A step is one call: `receive` an event (`gives`: the events to deliver), `next` the frame that is sent, `submit`, `adopt` (with
`body`: it can be sent again), `cancel`, `ask_to_cancel` (`gives`: its end, if no gateway has to say it), `signal` (`refused`:
nobody takes it), `refresh`, `disconnect`, `refused` (whether to try again after a 401), and what is `open`, the `position`, where
the session `began`, and the `query` of the next connection. Times are milliseconds. The text of an error is each library's own.
"""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import podpair.gateway
from harness.machine import require
from harness.processes import output_of
from podpair.client.protocol import Request, SessionState

HERE = Path(__file__).parent
SCRIPT = HERE / "javascript" / "session_cases.mjs"
PROTOCOL = Path(podpair.gateway.__file__).parent / "console" / "podpair-protocol.js"
CASES: list[dict[str, Any]] = json.loads((HERE / "session_cases.json").read_text())

Steps = list[dict[str, Any]]


def expected(step: dict[str, Any]) -> Any:
    """Return what the step's call has to return."""
    verb, value = next(iter(step.items()))
    if verb == "receive":
        return step["gives"]
    if verb == "submit":
        return "raised" if step.get("raises") else None
    if verb == "ask_to_cancel":
        return step.get("gives", [])
    if verb == "signal":
        return not step.get("refused", False)
    return value if verb in ("next", "refused", "open", "position", "began", "query") else None


def textless(answer: Any) -> Any:
    """Leave out the texts of the errors that the library has made."""
    if isinstance(answer, list):
        return [textless(each) for each in answer]
    if isinstance(answer, dict) and answer.get("type") == "error":
        return {name: value for name, value in answer.items() if name != "message"}
    return answer


def take(state: SessionState, step: dict[str, Any]) -> Any:
    """Make the step's call. Returns what it returned."""
    verb, value = next(iter(step.items()))
    match verb:
        case "submit" | "adopt":
            try:
                _begin(state, step)
            except ValueError:
                return "raised"
            return None
        case "next":
            return state.next_frame(step["now"] / 1000)
        case "signal":
            return state.signal(value["id"], value["name"], value["data"])
        case "receive" | "ask_to_cancel":
            return getattr(state, verb)(value)
        case "cancel" | "refresh":
            getattr(state, verb)(value)
            return None
        case "disconnect":
            return state.disconnected()
        case "refused" | "query":
            return getattr(state, verb)()
        case "open":
            return list(state.open)
        case "position" | "began":
            return getattr(state, verb)
    raise ValueError(f"no such step: {verb}")


def _begin(state: SessionState, step: dict[str, Any]) -> None:
    if "adopt" in step:
        state.adopt(step["adopt"], step.get("body"))
        return
    value = step["submit"]
    deadline = None if value.get("deadline") is None else value["deadline"] / 1000
    state.submit(Request(value["id"], {"model": "m"}, deadline=deadline, resend=value.get("resend", True)))


def in_python(case: dict[str, Any]) -> list[Any]:
    state = SessionState(**case.get("from", {}))
    return [textless(take(state, step)) for step in case["steps"]]


def in_javascript(cases: list[dict[str, Any]], folder: Path) -> list[list[Any]]:
    (node,) = require("node")
    for file in (SCRIPT, PROTOCOL, HERE / "javascript" / "package.json"):
        shutil.copy(file, folder)
    said = output_of(node, SCRIPT.name, cwd=folder, stdin=json.dumps(cases))
    return [[textless(answer) for answer in case] for case in json.loads(said)]


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each case's steps gave in JavaScript."""
    given = in_javascript(CASES, tmp_path_factory.mktemp("cases"))
    return {case["name"]: answers for case, answers in zip(CASES, given, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_podpair_client(case: dict[str, Any]) -> None:
    assert in_python(case) == [expected(step) for step in case["steps"]]


@pytest.mark.process
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_podpair_js(case: dict[str, Any], javascript: dict[str, list[Any]]) -> None:
    assert javascript[case["name"]] == [expected(step) for step in case["steps"]]


def walk(rng: random.Random) -> dict[str, Any]:
    """Any steps, as a gateway and a user may make them; which of them belong together is left to chance."""
    steps: Steps = []
    positions = [f"e.0.{number}" for number in range(4)]

    def event(**members: Any) -> dict[str, Any]:
        if rng.random() < 0.5:
            members["position"] = rng.choice(positions)
        return {"receive": members}

    def any_id() -> str:
        return rng.choice("abcd")

    for _ in range(rng.randint(5, 40)):
        steps.append(
            rng.choice(
                [
                    lambda: {"submit": {"id": any_id(), "resend": rng.random() < 0.7}},
                    lambda: {"adopt": any_id(), "body": rng.choice([None, {"model": "m"}])},
                    lambda: {"cancel": any_id()},
                    lambda: {"ask_to_cancel": any_id()},
                    lambda: {"signal": {"id": any_id(), "name": rng.choice("xy"), "data": rng.randint(0, 9)}},
                    lambda: {"next": None, "now": 0},
                    lambda: {"next": None, "now": 0},
                    lambda: event(type="accepted", id=any_id(), route=rng.choice(["queue", "direct"])),
                    lambda: event(type="partial", id=any_id(), seq=rng.randint(0, 3), data="x"),
                    lambda: event(type="result", id=any_id(), data=1),
                    lambda: event(type="error", id=any_id(), code="upstream"),
                    lambda: event(type="push", data=1),
                    lambda: {"receive": {"type": "gap", "to": rng.choice([*positions, None]), "reason": "epoch"}},
                    lambda: {"disconnect": None},
                    lambda: {"refused": None},
                    lambda: {
                        "receive": {
                            "type": "welcome",
                            "session": rng.choice(["s", "s", "t"]),
                            "resumed": rng.random() < 0.7,
                            "resume": "token",
                            "position": rng.choice(positions),
                            "gateway": rng.choice("ab"),
                            "limits": rng.choice([{}, {"in_flight": 1}]),
                        }
                    },
                    lambda: {"refresh": "newer"},
                    lambda: {"query": None},
                ]
            )()
        )
    return {"steps": [*steps, {"open": None}, {"position": None}, {"began": None}, {"query": None}]}


@pytest.mark.process
def test_both_do_the_same_of_anything(tmp_path: Path) -> None:
    walks = [walk(random.Random(seed)) for seed in range(1000)]
    given = in_javascript(walks, tmp_path)
    for seed, (case, javascripts) in enumerate(zip(walks, given, strict=True)):
        assert javascripts == in_python(case), f"seed {seed}: {case['steps']}"
