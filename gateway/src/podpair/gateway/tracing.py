"""Traces of requests, sent to an OpenTelemetry collector over OTLP: from the client's frame to the model and back.

Invariant: if tracing is off nothing of OpenTelemetry is loaded, and a request costs one check; if it is on, a request that is
not sampled costs one more check. An unreachable collector costs spans, never a request.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from podpair.common.gateway_config.model import Tracing
from podpair.common.otlp import OtlpExporter, context_below, is_sampled
from podpair.common.trace_context import parent_of, traceparent_of
from podpair.gateway.core.span import Span
from podpair.gateway.metrics import Metrics

CURRENT: ContextVar[str] = ContextVar("traceparent", default="")
"""The `traceparent` of the current call to the model; empty: it is not traced."""

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
        from opentelemetry.trace import SpanKind

        self._exporter = OtlpExporter(endpoint, service=config.service, instance=name, library="podpair.gateway")
        self._sample = config.sample
        self._kinds = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "consumer": SpanKind.CONSUMER}

    def begin(self, name: str, kind: Kind, parent: str, about: Mapping[str, str], *, root: bool = False) -> Span | None:
        """Start a span below `parent` (a traceparent), or a new trace, if there is no parent and it may be a `root`.

        Return None if it is not sampled.
        """
        above = parent_of(parent) if parent else None
        if not is_sampled(above, self._sample if root else 0.0):
            return None
        span = self._exporter.tracer.start_span(
            name, context=context_below(above), kind=self._kinds[kind], attributes=dict(about)
        )
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
        await asyncio.get_running_loop().run_in_executor(None, self._exporter.close)


def make_tracer(config: Tracing, name: str) -> Tracer | None:
    """Return the configured tracer; None: tracing is off."""
    return Tracer(config, config.endpoint, name) if config.endpoint is not None else None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Where the gateway counts and traces what it does."""

    metrics: Metrics
    tracer: Tracer | None
