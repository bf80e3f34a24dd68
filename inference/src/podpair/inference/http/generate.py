"""`generate` and `generate_stream`: one row in plain JSON, answered at once or as server-sent events."""

import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing

import msgspec

from podpair.inference.core.errors import InferenceError
from podpair.inference.core.generate import GenerateRequest, decode_generate, encode_generate
from podpair.inference.core.tensors import Array
from podpair.inference.http import infer_params
from podpair.inference.http.error_responses import ErrorResponses
from podpair.inference.http1.requests import Request, Response, header_lines, json_response
from podpair.inference.http1.routes import Route
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.served_model import ServedVersion
from podpair.inference.tracing import NOTHING, RecordedTrace, Tracing

_SSE = header_lines({"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"})


class GenerateApi:
    """The resources of the generate extension."""

    def __init__(self, catalog: Catalog, errors: ErrorResponses, max_body_bytes: int, tracing: Tracing) -> None:
        self._catalog = catalog
        self._errors = errors
        self._max_body_bytes = max_body_bytes
        self._tracing = tracing

    def routes(self) -> list[Route]:
        """Return its routes."""
        return [
            Route("POST", f"/v2/models/{{model}}{version}/{path}", handler)
            for version in ("", "/versions/{version}")
            for path, handler in (("generate", self.generate), ("generate_stream", self.generate_stream))
        ]

    async def generate(self, request: Request) -> Response:
        """Answer with the whole result; the texts of a model that only streams are joined."""
        with self._trace(request) as trace, self._catalog.using(*infer_params.target(request)) as served:
            asked = self._read(request, served, trace)
            deadline, priority = infer_params.deadline(request), infer_params.priority(request)
            arrays = await served.scheduler.submit(asked.arrays, deadline, asked.parameters, trace, priority)
            return json_response(_encode(served, asked, arrays))

    async def generate_stream(self, request: Request) -> None:
        """Send an event for each chunk; an error before the first is an HTTP status, a later one an event with `error`."""
        with self._trace(request) as trace, self._catalog.using(*infer_params.target(request)) as served:
            asked = self._read(request, served, trace)
            deadline, priority = infer_params.deadline(request), infer_params.priority(request)
            async with aclosing(served.stream(asked.arrays, asked.parameters, deadline, trace, priority)) as chunks:
                await self._send(request, served, asked, chunks)

    async def _send(
        self,
        request: Request,
        served: ServedVersion,
        asked: GenerateRequest,
        chunks: AsyncGenerator[list[Array], None],
    ) -> None:
        first = await anext(chunks, None)
        stream = request.start_stream(_SSE)
        try:
            if first is not None:
                await stream.write(_event(_encode(served, asked, first)))
                async for chunk in chunks:
                    await stream.write(_event(_encode(served, asked, chunk)))
        except InferenceError as error:
            self._errors.count(error, request)
            await stream.write(_event(msgspec.json.encode({"error": str(error), "status": error.status})))
        stream.end()

    def _trace(self, request: Request) -> "RecordedTrace | AbstractContextManager[None]":
        tracer = self._tracing.tracer
        if tracer is None:
            return NOTHING
        return tracer.begin(request.header(infer_params.TRACE), time.monotonic()) or NOTHING

    def _read(self, request: Request, served: ServedVersion, trace: RecordedTrace | None) -> GenerateRequest:
        asked = decode_generate(infer_params.body(request, self._max_body_bytes), served.signature)
        request.id = asked.id
        if trace is not None:
            trace.annotate(model=served.model, version=served.version, request=asked.id or "")
        return asked


def _encode(served: ServedVersion, asked: GenerateRequest, arrays: list[Array]) -> bytes:
    return encode_generate(served.model, served.version, asked, arrays, served.signature.has_rows)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
