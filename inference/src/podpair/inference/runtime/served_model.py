"""A model that is served: its versions, who uses them, and how they are retired."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from podpair.inference.core.batching import NORMAL
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array
from podpair.inference.core.trace import Trace
from podpair.inference.core.traffic_split import TrafficSplit
from podpair.inference.core.v2 import RequestDecoder
from podpair.inference.metrics import ModelMetrics
from podpair.inference.runtime.preprocess_stage import PreprocessStage
from podpair.inference.runtime.protocol import Runtime
from podpair.inference.runtime.request_queue import RequestQueue
from podpair.inference.runtime.streams import Streams


@dataclass(slots=True, eq=False)
class ServedVersion:
    """One version of a model, ready to answer."""

    model: str
    version: str
    runtime: Runtime
    signature: Signature
    # Decodes requests to it.
    decode: RequestDecoder
    scheduler: RequestQueue
    metrics: ModelMetrics
    # If the model can stream.
    streams: Streams | None
    # The stage before the scheduler, if the model takes images.
    preprocess: PreprocessStage | None = None
    # Why it can't answer for the time being: its process has ended and is being restarted.
    down: str | None = None
    # Why its class says that it isn't ready, and the task that asks it.
    unready: str | None = None
    poll: "asyncio.Task[None] | None" = None
    # Requests that hold it.
    users: int = 0
    # Set while no request holds it.
    unused: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def why_not_ready(self) -> str | None:
        """Why it accepts no requests for the time being; None if it does."""
        return self.unready if self.down is None else f"{self.down}; it is being restarted"

    async def stream(
        self,
        arrays: Sequence[Array],
        parameters: Mapping[str, Any],
        deadline: float | None,
        trace: Trace | None = None,
        priority: int = NORMAL,
    ) -> AsyncGenerator[list[Array], None]:
        """Yield the chunks of the answer to one row; the whole answer as the only chunk if the model doesn't stream."""
        if self.streams is None:
            yield await self.scheduler.submit(arrays, deadline, parameters, trace, priority)
            return
        if self.preprocess is not None:
            arrays = await self.preprocess.preprocess(arrays, deadline, trace)
        async with aclosing(self.streams.stream(arrays, parameters, deadline, trace, priority)) as chunks:
            async for chunk in chunks:
                yield chunk


@dataclass(slots=True)
class ServedModel:
    """A model and its versions, ascending."""

    name: str
    config: ModelConfig
    # Version → weight, of those that answer requests which name none.
    weights: dict[str, float]
    split: TrafficSplit
    versions: dict[str, ServedVersion]

    async def retire(self, seconds: float) -> None:
        """Wait up to `seconds` until no request holds any version; then end the rest, and close the runtimes."""
        await asyncio.gather(*(_retire(version, seconds) for version in self.versions.values()))


async def _retire(served: ServedVersion, seconds: float) -> None:
    end = time.monotonic() + seconds
    if served.poll is not None:
        served.poll.cancel()
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(served.unused.wait(), seconds)
        await served.scheduler.drain(max(0.0, end - time.monotonic()))
    finally:
        await asyncio.to_thread(served.runtime.close)
