"""Traces of requests, sent to an OpenTelemetry collector over OTLP: a span `infer` of each, and one of each stage below it.

Invariant: if tracing is off nothing of OpenTelemetry is loaded, and a request costs one check. A request is recorded if its
`traceparent` says so, else by sampling. Stages are noted as they pass, and become spans once the request has ended. A
collector that is away costs spans, never a request.
"""

import asyncio
import logging
import random
import socket
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from podpair.common.trace_context import Parent, parent_of
from podpair.inference.config.settings import TracingSettings
from podpair.inference.core.trace import Trace

log = logging.getLogger(__name__)

NOTHING: AbstractContextManager[None] = nullcontext()
"""A request that isn't recorded."""
_DELAY = 1.0  # seconds until spans are sent
_TIMEOUT = 5.0  # seconds for the collector to take them


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
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self._sample = settings.sample
        # Sampling is decided here, before anything is made; the SDK records what reaches it.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({"service.name": settings.service, "service.instance.id": socket.gethostname()}),
            shutdown_on_exit=False,
            span_limits=SpanLimits(),
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_DELAY * 1000))
        self._spans = self._provider.get_tracer("podpair.inference")

    def begin(self, traceparent: str | None, begun: float) -> "RecordedTrace | None":
        """Start the trace of a request that came at `begun`, on `time.monotonic()`; None if it isn't recorded."""
        parent = parent_of(traceparent) if traceparent else None
        if not parent.sampled if parent is not None else random.random() >= self._sample:  # noqa: S311
            return None
        return RecordedTrace(self._spans, parent, begun)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class RecordedTrace(Trace):
    """A `Trace` that becomes spans when it ends, which is once; as a context manager it ends with its block."""

    __slots__ = ("_about", "_begun", "_parent", "_spans", "_stages", "_unix")

    def __init__(self, spans: Any, parent: Parent | None, begun: float) -> None:
        self._spans = spans
        self._parent = parent
        self._begun = begun
        self._stages: list[tuple[str, float, float]] = []
        self._about: dict[str, str | int] = {}
        # Nanoseconds between the monotonic clock and Unix time.
        self._unix = time.time_ns() - time.monotonic_ns()

    def stage(self, name: str, begun: float, ended: float) -> None:
        self._stages.append((name, begun, ended))

    def annotate(self, **about: str | int) -> None:
        self._about |= {f"podpair.{name}": value for name, value in about.items()}

    def end(self, error: BaseException | None = None) -> None:
        """End the trace of a request that was answered, or has failed."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        ended = time.monotonic()
        above = _context(self._parent)
        span = self._spans.start_span(
            "infer", above, SpanKind.SERVER, self._about, start_time=self._nanoseconds(self._begun)
        )
        below = set_span_in_context(span, above)
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

    def _nanoseconds(self, moment: float) -> int:
        return int(moment * 1e9) + self._unix


def _context(parent: Parent | None) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if parent is None:
        return Context()
    remote = SpanContext(parent.trace, parent.span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(remote), Context())
