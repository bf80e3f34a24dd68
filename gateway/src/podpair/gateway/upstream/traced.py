"""Calls to the model as spans of the requests that they are for.

A call that several requests share is a span below the first of them that is traced.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager

import aiohttp

from podpair.gateway.core.http_response import Response
from podpair.gateway.core.masking import masked
from podpair.gateway.core.models import Model
from podpair.gateway.core.questions import Question
from podpair.gateway.tracing import CURRENT, Tracer
from podpair.gateway.upstream.calls import Answer, Call, CallAnswer, Part, Upstream


class TracedUpstream:
    """An upstream whose calls are recorded, and told the trace that they belong to."""

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
        about = {"podpair.model": model, "server.address": masked(self.url)}
        with self._tracer.spanning("call model", "client", trace, about) as span:
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

    async def ask(self, question: Question, inputs: bytes, timeout: float) -> Answer:
        with self._span(question.trace, question.model):
            return await self._upstream.ask(question, inputs, timeout)

    async def stream(self, question: Question, model: Model) -> AsyncGenerator[Part, None]:
        with self._span(question.trace, question.model):
            async with aclosing(self._upstream.stream(question, model)) as parts:
                async for part in parts:
                    yield part

    async def chat(self, question: Question, timeout: float) -> bytes:
        with self._span(question.trace, question.model):
            return await self._upstream.chat(question, timeout)

    async def chat_stream(self, question: Question) -> AsyncGenerator[bytes, None]:
        with self._span(question.trace, question.model):
            async with aclosing(self._upstream.chat_stream(question)) as events:
                async for event in events:
                    yield event

    async def close(self) -> None:
        await self._upstream.close()
