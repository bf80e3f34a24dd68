"""A collector of traces: an OTLP/HTTP receiver on this machine, for whatever sends spans."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from harness.serving import serving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE[::-1]}-{SPAN}-00"


def traceparent(span: Span) -> str:
    """What is told to whatever is below this span."""
    return f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"


def about(span: Span) -> dict[str, str]:
    """A span's attributes as text; `podpair.` is left out."""
    return {item.key.removeprefix("podpair."): _text(item.value) for item in span.attributes}


def _text(value: AnyValue) -> str:
    return str(getattr(value, value.WhichOneof("value") or "string_value"))


class Collector:
    """`spans` are all that it has been sent, each with the name of its service."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self.url = ""
        self._news = asyncio.Condition()

    async def take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        message = ExportTraceServiceRequest.FromString(await request.read())
        for resource in message.resource_spans:
            told = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(told["service.name"], span) for span in scope.spans]
        async with self._news:
            self._news.notify_all()
        return web.Response(body=b"", content_type="application/x-protobuf")

    async def span(self, name: str, service: str = "traced", **attributes: str) -> Span:
        """The span with this name and these attributes, once it is there."""
        async with asyncio.timeout(60), self._news:
            while True:
                for where, span in self.spans:
                    if (where, span.name) == (service, name) and attributes.items() <= about(span).items():
                        return span
                await self._news.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the spans that have come fulfil a condition."""
        async with asyncio.timeout(60), self._news:
            await self._news.wait_for(condition)

    def below(self, span: Span) -> dict[str, Span]:
        """The spans that have this one as parent and have come so far, by name."""
        return {found.name: found for _, found in self.spans if found.parent_span_id == span.span_id}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector, for as long as the `with` lasts."""
    collector = Collector()
    async with serving(web.post("/v1/traces", collector.take)) as url:
        collector.url = f"{url}/v1/traces"
        yield collector
