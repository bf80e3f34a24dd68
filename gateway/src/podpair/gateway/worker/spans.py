"""Spans of queued requests, from their records to the records of their end."""

from collections.abc import Sequence
from typing import cast

from podpair.gateway.core.records import Request
from podpair.gateway.core.span import Span
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.tracing import Tracer
from podpair.gateway.worker.request import QueuedRequest


def begin_span(tracer: Tracer | None, request: QueuedRequest, parsed: Request) -> str:
    """Begin the span of a traced request. Returns the trace context to pass on."""
    if tracer is not None:
        about = {"podpair.session": parsed.session, "podpair.request": parsed.id, "podpair.model": parsed.model}
        request.span = tracer.begin("work", "consumer", parsed.trace, about)
    return parsed.trace if request.span is None else request.span.traceparent


def end_span(request: QueuedRequest, outcome: str, records: Sequence[Outgoing]) -> Sequence[Outgoing]:
    """End a request's span. Returns the records with its trace context, unless the request is not open any more."""
    span, request.span = cast("Span", request.span), None
    if request.open:
        trace = ("traceparent", span.traceparent.encode())
        records = [r._replace(headers=[*(h for h in r.headers if h[0] != trace[0]), trace]) for r in records]
        if outcome != "result":
            span.failed(outcome)
    span.end()
    return records
