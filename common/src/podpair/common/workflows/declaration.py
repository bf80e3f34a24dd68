"""The schema of a `workflow.yaml`: stages, what each waits for, and what becomes of its faults.

A stage begins once every stage has ended whose output one of its expressions takes, or that `after` names. Those that wait for
each other nowhere run at the same time.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from podpair.common.workflows.durations import Duration
from podpair.common.workflows.expressions import RESERVED, Expression, names_in

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TOPIC = r"^[A-Za-z0-9._-]{1,249}$"
KINDS = ("model", "step", "gateway", "wait_for")
"""The fields of a stage that say what it is: it has one of them."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _name(given: str) -> str:
    if not _NAME.fullmatch(given):
        raise ValueError("a stage's name has lower-case letters, digits and _, and begins with a letter")
    if given in RESERVED or given == "output":
        raise ValueError(f"expressions have another meaning for {given!r}; choose another name")
    return given


StageName = Annotated[str, AfterValidator(_name)]
Attempts = Annotated[int, Field(gt=0, le=1000)]


class Retry(_Section):
    """How often a stage is tried, and how long it waits in between. What the request itself is to blame for isn't retried."""

    attempts: Attempts = 3
    """How often in all."""
    backoff: Duration = 1.0
    """Wait before the second attempt; it doubles with each."""
    max_backoff: Duration = 60.0
    """The longest wait."""


class Gateway(_Section):
    """Another InferenceGateway, which is asked through its topic of requests."""

    topic: Annotated[str, Field(pattern=_TOPIC)]
    """Its topic of requests, on the same brokers."""
    model: Annotated[str, Field(min_length=1)]
    """The model or workflow there."""


class Call(_Section):
    """What a stage, or its compensation, calls: one of `model`, `step` and `gateway`."""

    model: Annotated[str, Field(min_length=1)] | None = None
    """A model of the same repository."""
    version: Annotated[int, Field(gt=0)] | None = None
    """Of the model; unset: as it is chosen for any request."""
    step: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """A function of `steps.py`, in the folder of the `workflow.yaml`."""
    gateway: Gateway | None = None
    """Another InferenceGateway."""
    input: Expression = "request"
    """What it is given: a row of the model, the argument of the step, the `data` of a request to the gateway."""
    stream: bool = False
    """Ask the model for its answer in parts, which the client is sent as the stage's progress."""
    timeout: Duration = 60.0
    """How long one attempt may take."""
    retry: Retry = Retry()

    def kinds(self) -> list[str]:
        """Return which of the fields that say what it is are set."""
        return [name for name in KINDS if getattr(self, name, None) is not None]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        kinds = self.kinds()
        allowed = [name for name in KINDS if name in type(self).model_fields]
        if len(kinds) != 1:
            raise ValueError(
                f"it needs one of {', '.join(allowed)}" if not kinds else f"it has {' and '.join(kinds)}: choose one"
            )
        if self.version is not None and self.model is None:
            raise ValueError("version is for model")
        if self.stream and self.model is None:
            raise ValueError("stream is for model; a step tells its progress by its context, a gateway as it likes")
        return self


class Compensation(Call):
    """What undoes a finished stage when its workflow fails or is cancelled. `output` in its expression is the stage's."""


class Stage(Call):
    """A stage of a workflow."""

    wait_for: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")] | None = None
    """Wait for a client's message of this name; its data is the stage's output. `timeout` is how long; by default 24 hours."""
    after: tuple[str, ...] = ()
    """Stages that have to end before, beside those whose output its expressions take."""
    when: Expression | None = None
    """Run it only if this is true (JMESPath's truth: not null, false, empty); otherwise its output is null."""
    for_each: Expression | None = None
    """A list: the stage is run once for each `item` of it (`index` counts from 0), and its output is the list of outputs."""
    max_parallel: Annotated[int, Field(gt=0, le=1000)] = 8
    """How many items of a `for_each` are run at the same time."""
    on_error: Literal["fail", "continue"] = "fail"
    """`continue`: where all attempts fail, or nobody sends the message, its output is null and the workflow goes on."""
    compensate: Compensation | None = None

    @model_validator(mode="before")
    @classmethod
    def _patience(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("wait_for") is not None and "timeout" not in given:
            return {**given, "timeout": 86_400.0}
        return given

    @model_validator(mode="after")
    def _waits_only(self) -> Self:
        if self.wait_for is not None:
            unfit = sorted({"input", "retry", "for_each", "compensate"} & self.model_fields_set)
            if unfit:
                raise ValueError(f"a stage that waits for a message has no {unfit[0]}")
        if "max_parallel" in self.model_fields_set and self.for_each is None:
            raise ValueError("max_parallel is for for_each")
        return self

    def expressions(self) -> dict[str, str]:
        """Return the expressions that are evaluated before it runs, by their fields."""
        found = {"when": self.when, "for_each": self.for_each, "input": None if self.wait_for else self.input}
        return {name: expression for name, expression in found.items() if expression is not None}

    def needs(self) -> frozenset[str]:
        """Return the names of the stages that have to end before it."""
        named = frozenset().union(*(names_in(expression) for expression in self.expressions().values()))
        return (named - RESERVED) | set(self.after)


class Workflow(_Section):
    """A `workflow.yaml`."""

    format: Literal[1] = 1
    """The version of this schema."""
    description: str = ""
    timeout: Duration | None = None
    """How long the whole may take, waiting included; past it the workflow fails, and is compensated. Unset: any time."""
    stages: Annotated[dict[StageName, Stage], Field(min_length=1, max_length=100)]
    output: Expression | None = None
    """The `data` of the result. Unset: the output of the stage declared last."""

    @property
    def result(self) -> str:
        """The expression of the result's `data`."""
        return self.output if self.output is not None else next(reversed(self.stages))

    def steps(self) -> frozenset[str]:
        """Return the names of the functions that it calls."""
        calls = [call for stage in self.stages.values() for call in (stage, stage.compensate) if call is not None]
        return frozenset(call.step for call in calls if call.step is not None)

    def needs(self) -> dict[str, frozenset[str]]:
        """Return for each stage the stages that have to end before it."""
        return {name: stage.needs() for name, stage in self.stages.items()}
