"""Traces of requests, sent to an OpenTelemetry collector over OTLP: from the client's frame to the model and back.

Invariant: if tracing is off nothing of OpenTelemetry is loaded, and a request costs one check; if it is on, a request that is
not sampled costs one more check. An unreachable collector costs spans, never a request.
"""

import asyncio
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from podpair.common.gateway_config.model import Tracing
from podpair.common.trace_context import parent_of, traceparent_of
from podpair.gateway.core.span import Span
from podpair.gateway.metrics import Metrics

CURRENT: ContextVar[str] = ContextVar("traceparent", default="")
"""The `traceparent` of the current call to the model; empty: it is not traced."""
_DELAY = 1.0  # seconds until spans are sent
_TIMEOUT = 5.0  # seconds for the collector to accept them

Kind = Literal["server", "client", "consumer"]


class _Recorded:
    """A span of the SDK."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Any) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = traceparent_of(context.trace_id, context.span_id)

    def failed(self, why: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR, why)

    def end(self) -> None:
        self._span.end()


class Tracer:
    """Starts spans. name: that of this gateway."""

    def __init__(self, config: Tracing, endpoint: str, name: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        from opentelemetry.trace import SpanKind

        self._sample = config.sample
        self._kinds = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "consumer": SpanKind.CONSUMER}
        # Sampling is decided here, before anything is created; the SDK records every span that it gets.
        resource = Resource({"service.name": config.service, "service.instance.id": name})
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, span_limits=SpanLimits()
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_DELAY * 1000))
        self._tracer = self._provider.get_tracer("podpair.gateway")

    def begin(self, name: str, kind: Kind, parent: str, about: Mapping[str, str], *, root: bool = False) -> Span | None:
        """Start a span below `parent` (a traceparent), or a new trace, if there is no parent and it may be a `root`.

        Return None if it is not sampled.
        """
        above = parent_of(parent) if parent else None
        if not above.sampled if above is not None else not (root and random.random() < self._sample):  # noqa: S311
            return None
        span = self._tracer.start_span(name, context=_context(above), kind=self._kinds[kind], attributes=dict(about))
        return _Recorded(span)

    @contextmanager
    def span(
        self, name: str, kind: Kind, parent: str, about: Mapping[str, str], *, root: bool = False
    ) -> Iterator[Span | None]:
        """Start a span as `begin` does; it ends with the block, as failed if the block raises."""
        span = self.begin(name, kind, parent, about, root=root)
        if span is None:
            yield None
            return
        try:
            yield span
        except BaseException as error:
            span.failed(type(error).__name__)
            raise
        finally:
            span.end()

    async def close(self) -> None:
        """Send remaining spans, and stop."""
        await asyncio.get_running_loop().run_in_executor(None, self._provider.shutdown)


def _context(above: Any) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if above is None:
        return Context()
    remote = SpanContext(above.trace, above.span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(remote), Context())


def make_tracer(config: Tracing, name: str) -> Tracer | None:
    """Return the configured tracer; None: tracing is off."""
    return Tracer(config, config.endpoint, name) if config.endpoint is not None else None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Where the gateway counts and traces what it does."""

    metrics: Metrics
    tracer: Tracer | None
