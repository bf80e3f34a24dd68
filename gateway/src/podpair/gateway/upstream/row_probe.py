"""Probes whether requests to a model may share calls, if its server does not say: by repeating requests that were sent.

Synthetic rows would be a guess, and may cost or do something at a server that nobody here knows; rows that clients have sent are
right by what they are, and a V2 server has to accept them twice anyway (a call that fails is retried). Until a probe has passed
every request goes alone.
"""

import asyncio
import logging
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Fault
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.row_codec import EncodedRows
from podpair.gateway.core.row_comparison import is_conclusive, rows_match
from podpair.gateway.core.tensors import Output
from podpair.gateway.tasks import Tasks
from podpair.gateway.upstream.calls import Call, Upstream

_log = logging.getLogger(__name__)
_REQUESTS = 4  # that are repeated
_MAX_LAYOUTS = 16  # kinds of requests that are collected side by side
_MAX_INCONCLUSIVE = 3  # that show nothing
_PAUSE = 30.0  # seconds, after one that the server did not answer, or that showed nothing


class _Sample(NamedTuple):
    """A request as rows."""

    encoded: EncodedRows
    request: InferenceRequest


@dataclass(slots=True)
class _ProbeState:
    """The state of the probe of one model."""

    about: Hashable  # its tensors and versions: others are another model
    samples: dict[Hashable, list[_Sample]] = field(default_factory=dict)  # by what may share a call
    running: bool = False
    after: float = 0.0  # on the loop's clock: not before
    inconclusive: int = 0
    passed: bool | None = None


class RowProbe:
    """Probes of models, by name. `max_bytes`: of a call."""

    def __init__(self, upstream: Upstream, max_bytes: int) -> None:
        self._upstream = upstream
        self._max_bytes = max_bytes
        self._states: dict[str, _ProbeState] = {}
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()

    def passed(self, model: Model) -> bool | None:
        """Return whether the model's requests may share calls; None if that is not known yet."""
        return self._of(model).passed

    def reset(self) -> None:
        """Forget all results, because other models may be there now."""
        self._states.clear()

    def sample(self, model: Model, encoded: EncodedRows, request: InferenceRequest) -> None:
        """Take note of a request, which goes alone; the fourth different one of its kind starts a probe."""
        state = self._of(model)
        key = encoded.layout.key
        if state.running or state.passed is not None or encoded.size * _REQUESTS > self._max_bytes:
            return
        if self._loop.time() < state.after:
            return
        if key not in state.samples and len(state.samples) >= _MAX_LAYOUTS:
            state.samples.clear()
        samples = state.samples.setdefault(key, [])
        if all(encoded.raw != other.encoded.raw for other in samples):
            samples.append(_Sample(encoded, request))
        if len(samples) >= _REQUESTS:
            state.running = True
            self._tasks.spawn(self._run(model, state, samples))

    def _of(self, model: Model) -> _ProbeState:
        about = (model.inputs, model.outputs, model.versions)
        state = self._states.get(model.name)
        if state is None or state.about != about:
            state = self._states[model.name] = _ProbeState(about)
        return state

    async def _run(self, model: Model, state: _ProbeState, samples: list[_Sample]) -> None:
        passed: bool | None = None
        try:
            passed = await self._rows_match(model, samples)
            state.inconclusive += passed is None
        except (Busy, Failed, Unavailable, Fault) as error:
            _log.debug("model %s could not be probed: %s", model.name, error)
        except Exception:
            _log.exception("probing model %s", model.name)
            passed = False
        finally:
            state.running = False
            state.samples.clear()
        if passed is None and state.inconclusive < _MAX_INCONCLUSIVE:
            state.after = self._loop.time() + _PAUSE
            return
        state.passed = passed is True
        if state.passed:
            _log.info("model %s answers rows alone as together: its requests share calls", model.name)
            return
        _log.warning(
            "the requests to model %s go alone: %s; if they may share calls all the same, name it in batching.include",
            model.name,
            "its answers show nothing" if passed is None else "it answers a row in company otherwise than alone",
        )

    async def _rows_match(self, model: Model, samples: list[_Sample]) -> bool | None:
        """Return whether the answers are the same alone and together, in two orders; None if these rows show nothing."""
        alone = [await self._infer(model, [sample]) for sample in samples]
        if not is_conclusive(alone):
            return None
        for step in (1, -1):
            together = await self._infer(model, samples[::step])
            if not rows_match(alone[::step], together, [sample.encoded.layout.rows for sample in samples[::step]]):
                return False
        return True

    async def _infer(self, model: Model, samples: list[_Sample]) -> list[Output]:
        batch = [sample.encoded for sample in samples]
        rows = sum(encoded.layout.rows for encoded in batch)
        shapes = tuple((rows, *tail) for tail in batch[0].layout.tails)
        raw = tuple(b"".join(parts) for parts in zip(*(encoded.raw for encoded in batch), strict=True))
        request = samples[0].request
        key = request.key if len(model.versions) > 1 else ""
        return (await self._upstream.call(Call(model, shapes, raw, request.parameters, None, key, ""))).outputs

    async def close(self) -> None:
        """Give up what is in flight."""
        await self._tasks.cancel()
