"""Traces of requests, sent to an OpenTelemetry collector over OTLP: a span `infer` of each, and one of each stage below it.

Invariant: if tracing is off nothing of OpenTelemetry is loaded, and a request costs one check. A request is recorded if its
`traceparent` says so, else by sampling. Stages are noted as they pass, and become spans once the request has ended. A
collector that is away costs spans, never a request.
"""

import asyncio
import logging
import socket
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from podpair.common.otlp import OtlpExporter, context_below, is_sampled
from podpair.common.trace_context import Parent, parent_of, traceparent_of
from podpair.inference.config.settings import TracingSettings
from podpair.inference.core.trace import Trace

log = logging.getLogger(__name__)

NOTHING: AbstractContextManager[None] = nullcontext()
"""A request that isn't recorded."""


class Tracing:
    """`tracer` is None if tracing is off, and until what it needs is loaded, which takes longer than a start may."""

    def __init__(self, settings: TracingSettings) -> None:
        self._settings = settings
        self.tracer: Tracer | None = None

    async def start(self) -> None:
        """Start to record, if tracing is on."""
        if self._settings.endpoint is not None:
            self.tracer = await asyncio.to_thread(Tracer, self._settings, self._settings.endpoint)
            log.info("tracing is on", extra={"endpoint": self._settings.endpoint})

    async def close(self) -> None:
        """Send what is left, and end."""
        tracer, self.tracer = self.tracer, None
        if tracer is not None:
            await asyncio.to_thread(tracer.close)


class Tracer:
    """Begins traces. Made outside of the loop: it imports OpenTelemetry."""

    def __init__(self, settings: TracingSettings, endpoint: str) -> None:
        self._sample = settings.sample
        self._exporter = OtlpExporter(
            endpoint, service=settings.service, instance=socket.gethostname(), library="podpair.inference"
        )

    def begin(self, traceparent: str | None, begun: float) -> "RecordedTrace | None":
        """Start the trace of a request that came at `begun`, on `time.monotonic()`; None if it isn't recorded."""
        parent = parent_of(traceparent) if traceparent else None
        return RecordedTrace(self._exporter.tracer, parent, begun) if is_sampled(parent, self._sample) else None

    def close(self) -> None:
        """Send what is left."""
        self._exporter.close()


class RecordedTrace(Trace):
    """A `Trace` that becomes spans when it ends, which is once; as a context manager it ends with its block."""

    __slots__ = ("_about", "_above", "_begun", "_parent", "_span", "_spans", "_stages", "_unix")

    def __init__(self, spans: Any, parent: Parent | None, begun: float) -> None:
        self._spans = spans
        self._parent = parent
        self._begun = begun
        self._stages: list[tuple[str, float, float]] = []
        self._about: dict[str, str | int] = {}
        # The span and the context above it, once they are needed: mostly when it has ended.
        self._span: Any = None
        self._above: Any = None
        # Nanoseconds between the monotonic clock and Unix time.
        self._unix = time.time_ns() - time.monotonic_ns()

    def stage(self, name: str, begun: float, ended: float) -> None:
        self._stages.append((name, begun, ended))

    def annotate(self, **about: str | int) -> None:
        self._about |= {f"podpair.{name}": value for name, value in about.items()}

    def traceparent(self) -> str:
        context = self._started().get_span_context()
        return traceparent_of(context.trace_id, context.span_id)

    def end(self, error: BaseException | None = None) -> None:
        """End the trace of a request that was answered, or has failed."""
        from opentelemetry.trace import StatusCode, set_span_in_context

        ended = time.monotonic()
        span = self._started()
        span.set_attributes(self._about)
        below = set_span_in_context(span, self._above)
        for name, begun, over in self._stages:
            part = self._spans.start_span(name, below, start_time=self._nanoseconds(begun))
            part.end(self._nanoseconds(over))
        if error is not None:
            span.set_status(StatusCode.ERROR, str(error) or type(error).__name__)
        span.end(self._nanoseconds(ended))

    def __enter__(self) -> "RecordedTrace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def _started(self) -> Any:
        """Return the span, which is started if it isn't yet."""
        from opentelemetry.trace import SpanKind

        if self._span is None:
            self._above = context_below(self._parent)
            began = self._nanoseconds(self._begun)
            self._span = self._spans.start_span("infer", self._above, SpanKind.SERVER, start_time=began)
        return self._span

    def _nanoseconds(self, moment: float) -> int:
        return int(moment * 1e9) + self._unix
