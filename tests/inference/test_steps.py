"""Steps of workflows: functions in a `steps.py`, what they are given, what they say while they run, and how they end."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.waiting import soon
from podpair.inference.core.errors import InvalidRequestError, UnavailableError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.steps import PendingChunks
from podpair.inference.core.tensors import Array
from podpair.inference.runtime.loader import load_runtime
from podpair.inference.runtime.repository import ModelFolder
from podpair.inference.runtime.user_code import UserCodeError

pytestmark = pytest.mark.process

Load = Callable[..., Any]

CODE = """
import asyncio, functools, pathlib, threading
from math import sqrt
from podpair.inference import InvalidRequestError, UnavailableError

HERE = pathlib.Path(__file__).parent
both = threading.Barrier(2)


def plain(given):
    return {"given": given}

def with_context(given, context):
    return [context.key, context.attempt, context.checkpoint]

def keyword(given, *, context):
    return context.key

async def coroutine(given, c):
    await asyncio.sleep(0)
    return c.key

@functools.wraps(coroutine)
def hidden(*arguments, **named):
    return coroutine(*arguments, **named)

def talks(given, context):
    context.progress({"page": 1})
    context.save([1])
    context.progress("half")
    context.save({"page": 2})

def meets(given):
    both.wait(60)
    return "met"

def fails(given):
    return given["x"]

async def fails_later(given, context):
    context.progress(1)
    await asyncio.sleep(0)
    raise ValueError("no more")

def refuses(given):
    raise InvalidRequestError("a negative number")

async def is_away(given, context):
    context.progress(1)
    raise UnavailableError("the database is away")

def exits(given):
    raise SystemExit(3)

def stops(given):
    next(iter(()))

async def gives_up(given):
    raise asyncio.CancelledError

def returns(given):
    return {"set": {1}, "nan": float("nan"), "surrogate": "\\ud800", "object": object()}[given]

def deep(given):
    found = []
    for _ in range(100_000):
        found = [found]
    return found

def says_what_is_no_json(given, context):
    context.progress({1, 2})

def arrays(given):
    import numpy
    return {"all": numpy.arange(3), "one": numpy.float32(0.5), "text": "ü"}

async def waits(given, context):
    context.progress("begun")
    try:
        await asyncio.Event().wait()
    finally:
        (HERE / "ended").write_text("async")

def looks(given, context):
    context.progress("begun")
    try:
        while True:
            threading.Event().wait(0.01)
            try:
                context.progress("still")
            except Exception:
                pass
    finally:
        (HERE / "ended").write_text(str(context.cancelled))

def floods(given, context):
    for number in range(10_000):
        context.progress(number)
        context.save(number)
    (HERE / "flooded").touch()
    return "done"
"""
NAMES = [
    "plain", "with_context", "keyword", "coroutine", "hidden", "talks", "meets", "fails", "fails_later", "refuses", "is_away",
    "exits", "stops", "gives_up", "returns", "deep", "says_what_is_no_json", "arrays", "waits", "looks", "floods", "sqrt",
]  # fmt: skip


def texts(value: str) -> Array:
    array = np.empty(1, object)
    array[0] = value.encode()
    return array


def stream(runtime: Any, step: str, value: Any = None, **parameters: Any) -> AsyncGenerator[list[Array], None]:
    parameters = {"step": step, "key": "s/r/stage", "attempt": 1} | parameters
    found: AsyncGenerator[list[Array], None] = runtime.stream([texts(json.dumps(value))], parameters)
    return found


def said(chunk: list[Array]) -> Any:
    (array,) = chunk
    assert array.shape == (1,)
    return json.loads(array[0])


async def call(runtime: Any, step: str, value: Any = None, **parameters: Any) -> list[Any]:
    async with aclosing(stream(runtime, step, value, **parameters)) as chunks:
        return [said(chunk) async for chunk in chunks]


async def output(runtime: Any, step: str, value: Any = None, **parameters: Any) -> Any:
    (chunk,) = await call(runtime, step, value, **parameters)
    return chunk["output"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flow")


@pytest.fixture(scope="module")
def steps(folder: Path, process: bool) -> Iterator[Any]:
    """The runtime of a workflow with these steps, in a process of their own or in this one."""
    (folder / "steps.py").write_text(CODE)
    (folder / "workflow.yaml").write_text(json.dumps({"stages": {name: {"step": name} for name in NAMES}}))
    config = ModelConfig.model_validate({"runtime": {"process": process}})
    runtime = load_runtime(ModelFolder("flow", folder, config, {1: folder / "workflow.yaml"}), 1)
    yield runtime
    runtime.close()


async def test_what_a_step_is_given_and_returns(steps: Any) -> None:
    assert await output(steps, "plain", {"a": [1, "ü", None]}) == {"given": {"a": [1, "ü", None]}}
    assert await output(steps, "with_context") == ["s/r/stage", 1, None]
    given = {"key": "s/r/stage/7", "attempt": 3, "checkpoint": '{"page": 2}'}
    assert await output(steps, "with_context", **given) == ["s/r/stage/7", 3, {"page": 2}]
    assert await output(steps, "keyword") == "s/r/stage"
    assert await output(steps, "coroutine") == "s/r/stage"
    assert await output(steps, "hidden") == "s/r/stage"
    assert await output(steps, "sqrt", 16) == 4.0
    assert await output(steps, "plain", 1 << 70) == {"given": 1 << 70}
    assert await output(steps, "arrays") == {"all": [0, 1, 2], "one": 0.5, "text": "ü"}


async def test_a_step_tells_its_progress_and_saves_checkpoints(steps: Any) -> None:
    chunks = await call(steps, "talks")
    assert [chunk for chunk in chunks if "progress" in chunk] == [{"progress": {"page": 1}}, {"progress": "half"}]
    # An earlier one counts for nothing once there is a later one.
    assert [chunk for chunk in chunks if "checkpoint" in chunk][-1] == {"checkpoint": {"page": 2}}
    assert chunks[-1] == {"output": None}


async def test_steps_run_side_by_side(steps: Any) -> None:
    assert await asyncio.gather(output(steps, "meets"), output(steps, "meets")) == ["met", "met"]


NO_JSON = "returns returned what is no JSON:"


def line(text: str) -> int:
    return CODE[: CODE.index(text)].count("\n") + 1


@pytest.mark.parametrize(
    ("step", "value", "error", "message"),
    [
        ("fails", {}, UserCodeError, f"KeyError: 'x' (steps.py:{line('given[')}, in fails)"),
        ("fails_later", 0, UserCodeError, f"ValueError: no more (steps.py:{line('raise ValueError')}, in fails_later)"),
        ("sqrt", -1, UserCodeError, "ValueError: "),
        ("exits", 0, UserCodeError, f"SystemExit: 3 (steps.py:{line('raise SystemExit')}, in exits)"),
        ("stops", 0, UserCodeError, f"StopIteration (steps.py:{line('next(iter')}, in stops)"),
        ("gives_up", 0, UserCodeError, f"gives_up was cancelled, by itself (steps.py:{line('async def gives_up')})"),
        ("refuses", 0, InvalidRequestError, "a negative number"),
        ("is_away", 0, UnavailableError, "the database is away"),
        ("returns", "set", UserCodeError, f"{NO_JSON} it has a value of type set (steps.py:{line('def returns')})"),
        ("returns", "nan", UserCodeError, f"{NO_JSON} Out of range float values"),
        ("returns", "surrogate", UserCodeError, f"{NO_JSON} 'utf-8' codec can't encode"),
        ("returns", "object", UserCodeError, f"{NO_JSON} it has a value of type object"),
        ("deep", 0, UserCodeError, "deep returned what is no JSON: it is nested too deep"),
        ("says_what_is_no_json", 0, UserCodeError, f"TypeError: it has a value of type set (steps.py:{line('progress({1')}, "),
        ("nothing", 0, InvalidRequestError, "workflow flow has no step 'nothing'; there are: arrays, coroutine, "),
        ([1], 0, InvalidRequestError, "workflow flow has no step [1]; there are: "),
        (None, 0, InvalidRequestError, "flow is a workflow, which a gateway runs: ask the gateway for it"),
    ],
)  # fmt: skip
async def test_how_a_step_fails(steps: Any, step: Any, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        await call(steps, step, value)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("parameters", [{"key": 1}, {"attempt": "1"}, {"checkpoint": 1}, {"checkpoint": "{"}])
async def test_parameters_that_no_gateway_sends(steps: Any, parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=r"a step's parameters|a step is given JSON; its checkpoint is none"):
        await call(steps, "plain", **parameters)
    with pytest.raises(InvalidRequestError, match="its input is none"):
        async with aclosing(steps.stream([texts("{")], {"step": "plain"})) as chunks:
            await anext(chunks)


@pytest.mark.parametrize(("step", "ended"), [("waits", "async"), ("looks", "True")])
async def test_a_step_that_nobody_waits_for_any_more_is_cancelled(
    steps: Any, folder: Path, step: str, ended: str
) -> None:
    file = folder / "ended"
    file.unlink(missing_ok=True)
    chunks = stream(steps, step)
    assert said(await anext(chunks)) == {"progress": "begun"}
    await chunks.aclose()
    await soon(lambda: file.exists() and file.read_text() == ended, f"{step} was not cancelled")


async def test_a_slow_reader_holds_no_step_up_and_gets_the_newest(steps: Any, folder: Path) -> None:
    file = folder / "flooded"
    file.unlink(missing_ok=True)
    async with aclosing(stream(steps, "floods")) as chunks:
        found = [said(await anext(chunks))]
        await soon(file.exists, "the step waits for its reader")
        found += [said(chunk) async for chunk in chunks]
    progress = [chunk["progress"] for chunk in found if "progress" in chunk]
    saved = [chunk["checkpoint"] for chunk in found if "checkpoint" in chunk]
    assert (progress[-1], saved[-1], found[-1]) == (9999, 9999, {"output": "done"})
    assert len(found) < 10_000
    assert progress == sorted(progress)
    assert saved == sorted(saved)


UNFIT = """
import contextlib

class Step: ...
def generator(given):
    yield given
async def async_generator(given):
    yield given
def nothing(): ...
def too_much(a, b, c): ...
def needs(a, *, other): ...
def first_is_context(context): ...
def defaults(a, b=1, c=2): ...
def anything(*arguments): ...
def _private(a): ...
"""


def test_functions_that_can_be_no_steps(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(UNFIT)
    names = [
        "Step",
        "generator",
        "async_generator",
        "nothing",
        "too_much",
        "needs",
        "first_is_context",
        "defaults",
        "anything",
    ]
    (tmp_path / "workflow.yaml").write_text(
        json.dumps({"stages": {name.lower().strip("_"): {"step": name} for name in [*names, "_private"]}})
    )
    with pytest.raises(Exception, match="too_much") as raised:
        load_runtime(ModelFolder("flow", tmp_path, ModelConfig(), {1: tmp_path / "workflow.yaml"}), 1)
    where = f"{tmp_path}/workflow.yaml: stages."
    assert str(raised.value).splitlines() == [
        f"{where}step.step: Step is a class; a step is a function",
        f"{where}generator.step: generator yields (steps.py:5); a step returns its output, and tells its progress by "
        "`context.progress`",
        f"{where}async_generator.step: async_generator yields (steps.py:7); a step returns its output, and tells its progress by "
        "`context.progress`",
        f"{where}nothing.step: nothing takes () (steps.py:9); a step takes its input, and a context if it likes",
        f"{where}too_much.step: too_much takes (a, b, c) (steps.py:10); a step takes its input, and a context if it likes",
        f"{where}needs.step: needs takes (a, *, other) (steps.py:11); a step takes its input, and a context if it likes",
        f"{where}private.step: steps.py has no function '_private'; there are: anything, defaults, first_is_context",
    ]  # fmt: skip


KINDS = st.sampled_from(["progress", "checkpoint"])


@given(st.lists(st.tuples(KINDS, st.integers(0, 3_000_000)), max_size=400))
def test_what_waits_to_be_read_is_bounded_and_its_last_is_never_lost(put: list[tuple[str, int]]) -> None:
    pending = PendingChunks()
    sent = [(kind, f"{number}:" + "x" * size) for number, (kind, size) in enumerate(put)]
    for kind, text in sent:
        pending.put(kind, text)
    taken = pending.take()
    assert pending.take() == []
    of = {text: kind for kind, text in sent}
    # In order, and of each kind the last.
    assert taken == [text for _, text in sent if text in set(taken)]
    for kind in {kind for kind, _ in sent}:
        assert [text for known, text in sent if known == kind][-1] in taken or kind == "progress"
    if sent:
        assert taken[-1] == sent[-1][1]
    assert [of[text] for text in taken].count("checkpoint") <= 1
    assert len(taken) <= 257
    assert sum(map(len, taken[:-1])) <= (4 << 20) + 3_000_010
