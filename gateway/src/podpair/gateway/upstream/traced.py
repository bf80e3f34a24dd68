"""Calls to the model as spans of the requests that they are for.

A call that several requests share is a span below the first of them that is traced.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager

import aiohttp

from podpair.common.redaction import redact
from podpair.gateway.core.http_response import Response
from podpair.gateway.core.models import Model
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.tracing import CURRENT, Tracer
from podpair.gateway.upstream.calls import Answer, Call, CallAnswer, Chunk, Upstream


class TracedUpstream:
    """An upstream whose calls are recorded as spans, and carry their trace."""

    def __init__(self, upstream: Upstream, tracer: Tracer) -> None:
        self._upstream = upstream
        self._tracer = tracer
        self.url = upstream.url

    @property
    def http(self) -> aiohttp.ClientSession | None:
        return self._upstream.http

    @http.setter
    def http(self, value: aiohttp.ClientSession | None) -> None:
        self._upstream.http = value

    @contextmanager
    def _span(self, trace: str, model: str) -> Iterator[None]:
        about = {"podpair.model": model, "server.address": redact(self.url)}
        with self._tracer.span("call model", "client", trace, about) as span:
            if span is None:
                yield
                return
            before = CURRENT.get()
            CURRENT.set(span.traceparent)
            try:
                yield
            finally:
                CURRENT.set(before)

    async def ready(self) -> bool:
        return await self._upstream.ready()

    async def metrics(self) -> str:
        return await self._upstream.metrics()

    async def model(self, name: str) -> Model:
        return await self._upstream.model(name)

    async def forward(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None, timeout: float
    ) -> Response:
        return await self._upstream.forward(method, target, headers, body, timeout)

    async def call(self, call: Call) -> CallAnswer:
        with self._span(call.trace, call.model.name):
            return await self._upstream.call(call)

    async def infer(self, request: InferenceRequest, inputs: bytes, timeout: float) -> Answer:
        with self._span(request.trace, request.model):
            return await self._upstream.infer(request, inputs, timeout)

    async def stream(self, request: InferenceRequest, model: Model) -> AsyncGenerator[Chunk, None]:
        with self._span(request.trace, request.model):
            async with aclosing(self._upstream.stream(request, model)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def chat(self, request: InferenceRequest, timeout: float) -> bytes:
        with self._span(request.trace, request.model):
            return await self._upstream.chat(request, timeout)

    async def chat_stream(self, request: InferenceRequest) -> AsyncGenerator[bytes, None]:
        with self._span(request.trace, request.model):
            async with aclosing(self._upstream.chat_stream(request)) as events:
                async for event in events:
                    yield event

    async def close(self) -> None:
        await self._upstream.close()
