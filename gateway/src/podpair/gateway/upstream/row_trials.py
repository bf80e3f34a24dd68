"""Finds out whether requests to a model may share calls, where its server does not say: by asking again what was asked.

Synthetic rows would be a guess, and may cost or do something at a server that nobody here knows; rows that clients have sent are
right by what they are, and a V2 server has to bear them twice anyway (a call that fails is asked again). Until a trial has passed
every request goes alone.
"""

import asyncio
import logging
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from podpair.gateway.core.attempts import Busy, Failed, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.packing import Packed
from podpair.gateway.core.protocol import Fault
from podpair.gateway.core.questions import Question
from podpair.gateway.core.row_evidence import answered_alike, shows_something
from podpair.gateway.core.tensors import Output
from podpair.gateway.tasks import Tasks
from podpair.gateway.upstream.calls import Call, Upstream

_log = logging.getLogger(__name__)
_REQUESTS = 4  # that are asked again
_MOST_FORMS = 16  # kinds of requests that are collected side by side
_MOST_TRIALS = 3  # that show nothing
_PAUSE = 30.0  # seconds, after one that the server did not answer, or that showed nothing


class _Sample(NamedTuple):
    """A request as rows."""

    packed: Packed
    question: Question


@dataclass(slots=True)
class _Trial:
    """What is known of one model."""

    about: Hashable  # its tensors and versions: others are another model
    samples: dict[Hashable, list[_Sample]] = field(default_factory=dict)  # by what may share a call
    running: bool = False
    after: float = 0.0  # on the loop's clock: not before
    fruitless: int = 0
    passed: bool | None = None


class RowTrials:
    """Trials of models by name. `most_bytes`: of a call."""

    def __init__(self, upstream: Upstream, most_bytes: int) -> None:
        self._upstream = upstream
        self._most_bytes = most_bytes
        self._trials: dict[str, _Trial] = {}
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()

    def passed(self, model: Model) -> bool | None:
        """Whether its requests may share calls; None: that is not known yet."""
        return self._of(model).passed

    def forget(self) -> None:
        """Other models may stand there now."""
        self._trials.clear()

    def sample(self, model: Model, packed: Packed, question: Question) -> None:
        """Take note of a request, which goes alone; the fourth different one of its kind begins a trial."""
        trial = self._of(model)
        key = packed.form.key
        if trial.running or trial.passed is not None or packed.size * _REQUESTS > self._most_bytes:
            return
        if self._loop.time() < trial.after:
            return
        if key not in trial.samples and len(trial.samples) >= _MOST_FORMS:
            trial.samples.clear()
        samples = trial.samples.setdefault(key, [])
        if all(packed.raw != other.packed.raw for other in samples):
            samples.append(_Sample(packed, question))
        if len(samples) >= _REQUESTS:
            trial.running = True
            self._tasks.begin(self._try(model, trial, samples))

    def _of(self, model: Model) -> _Trial:
        about = (model.inputs, model.outputs, model.versions)
        trial = self._trials.get(model.name)
        if trial is None or trial.about != about:
            trial = self._trials[model.name] = _Trial(about)
        return trial

    async def _try(self, model: Model, trial: _Trial, samples: list[_Sample]) -> None:
        passed: bool | None = None
        try:
            passed = await self._answered_alike(model, samples)
            trial.fruitless += passed is None
        except (Busy, Failed, Unavailable, Fault) as error:
            _log.debug("model %s could not be tried: %s", model.name, error)
        except Exception:
            _log.exception("trying model %s", model.name)
            passed = False
        finally:
            trial.running = False
            trial.samples.clear()
        if passed is None and trial.fruitless < _MOST_TRIALS:
            trial.after = self._loop.time() + _PAUSE
            return
        trial.passed = passed is True
        if trial.passed:
            _log.info("model %s answers rows alone as together: its requests share calls", model.name)
            return
        _log.warning(
            "the requests to model %s go alone: %s; if they may share calls all the same, name it in coalescing.together",
            model.name,
            "its answers show nothing" if passed is None else "it answers a row in company otherwise than alone",
        )

    async def _answered_alike(self, model: Model, samples: list[_Sample]) -> bool | None:
        """Whether they are, alone and together, in two orders; None: these rows show nothing."""
        alone = [await self._ask(model, [sample]) for sample in samples]
        if not shows_something(alone):
            return None
        for step in (1, -1):
            together = await self._ask(model, samples[::step])
            if not answered_alike(alone[::step], together, [sample.packed.form.rows for sample in samples[::step]]):
                return False
        return True

    async def _ask(self, model: Model, samples: list[_Sample]) -> list[Output]:
        packs = [sample.packed for sample in samples]
        rows = sum(packed.form.rows for packed in packs)
        shapes = tuple((rows, *tail) for tail in packs[0].form.tails)
        raw = tuple(b"".join(parts) for parts in zip(*(packed.raw for packed in packs), strict=True))
        question = samples[0].question
        key = question.key if len(model.versions) > 1 else ""
        return (await self._upstream.call(Call(model, shapes, raw, question.parameters, None, key, ""))).outputs

    async def close(self) -> None:
        """Give up what is in flight."""
        await self._tasks.cancel()
