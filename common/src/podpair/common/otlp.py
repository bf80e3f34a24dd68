"""Spans, sent to an OpenTelemetry collector over OTLP.

Invariants: OpenTelemetry is imported when an exporter is made, not before. A collector that is away costs spans, never a
request.
"""

import random
from typing import Any

from podpair.common.trace_context import Parent

_DELAY = 1.0  # seconds until spans are sent
_TIMEOUT = 5.0  # seconds for the collector to accept them


class OtlpExporter:
    """Sends what its `tracer`, one of OpenTelemetry's, records: all of it, for whether is decided by `is_sampled` before.

    Args:
        endpoint: URL of the collector's /v1/traces.
        service: `service.name` of the spans; instance: their `service.instance.id`.
        library: who makes the spans.
    """

    def __init__(self, endpoint: str, *, service: str, instance: str, library: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        resource = Resource({"service.name": service, "service.instance.id": instance})
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, span_limits=SpanLimits()
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_DELAY * 1000))
        self.tracer: Any = self._provider.get_tracer(library)

    def close(self) -> None:
        """Send remaining spans, and stop; this blocks until they are sent, or given up."""
        self._provider.shutdown()


def is_sampled(parent: Parent | None, share: float) -> bool:
    """Return whether a span is recorded: as its trace is, or of a new trace so large a `share`, by chance."""
    return parent.sampled if parent is not None else random.random() < share  # noqa: S311


def context_below(parent: Parent | None) -> Any:
    """Return OpenTelemetry's context for a span below one of another process; without a parent, for a new trace."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if parent is None:
        return Context()
    remote = SpanContext(parent.trace, parent.span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(remote), Context())
