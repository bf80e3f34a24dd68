"""`generate` and `generate_stream`: one row in plain JSON, answered at once or as server-sent events."""

import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing

import msgspec

from podpair.inference.core.errors import InferenceError
from podpair.inference.core.generate import GenerateRequest, decode_generate, encode_generate, join_parts
from podpair.inference.core.tensors import Array
from podpair.inference.http import reading
from podpair.inference.http.failures import Failures
from podpair.inference.http.requests import Request, Response, json_response, lines
from podpair.inference.http.routing import Route
from podpair.inference.runtime.catalog import Catalog, ServedVersion
from podpair.inference.tracing import NOTHING, Recorded, Tracing

_SSE = lines({"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"})


class GenerateApi:
    """The generate extension's resources."""

    def __init__(self, catalog: Catalog, failures: Failures, max_body_bytes: int, tracing: Tracing) -> None:
        self._catalog = catalog
        self._failures = failures
        self._max_body_bytes = max_body_bytes
        self._tracing = tracing

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("POST", f"/v2/models/{{model}}{version}/{path}", handler)
            for version in ("", "/versions/{version}")
            for path, handler in (("generate", self.generate), ("generate_stream", self.generate_stream))
        ]

    async def generate(self, request: Request) -> Response:
        """The whole answer; that of a model which only streams is its texts one behind the other."""
        with self._trace(request) as trace, self._catalog.using(*reading.target(request)) as served:
            asked = self._read(request, served, trace)
            deadline = reading.deadline(request)
            if served.runtime.predicts:
                arrays = await served.scheduler.submit(asked.arrays, deadline, asked.parameters, trace)
            else:
                async with aclosing(served.parts(asked.arrays, asked.parameters, deadline, trace)) as parts:
                    arrays = join_parts([part async for part in parts], served.signature.outputs)
            return json_response(_encode(served, asked, arrays))

    async def generate_stream(self, request: Request) -> None:
        """An event for each part; a failure before the first is an HTTP status, a later one an event with `error`."""
        with self._trace(request) as trace, self._catalog.using(*reading.target(request)) as served:
            asked = self._read(request, served, trace)
            deadline = reading.deadline(request)
            async with aclosing(served.parts(asked.arrays, asked.parameters, deadline, trace)) as parts:
                await self._send(request, served, asked, parts)

    async def _send(
        self,
        request: Request,
        served: ServedVersion,
        asked: GenerateRequest,
        parts: AsyncGenerator[list[Array], None],
    ) -> None:
        first = await anext(parts, None)
        stream = request.begin(_SSE)
        try:
            if first is not None:
                await stream.write(_event(_encode(served, asked, first)))
                async for part in parts:
                    await stream.write(_event(_encode(served, asked, part)))
        except InferenceError as error:
            self._failures.count(error, request)
            await stream.write(_event(msgspec.json.encode({"error": str(error)})))
        stream.end()

    def _trace(self, request: Request) -> "Recorded | AbstractContextManager[None]":
        tracer = self._tracing.tracer
        if tracer is None:
            return NOTHING
        return tracer.begin(request.header(reading.TRACE), time.monotonic()) or NOTHING

    def _read(self, request: Request, served: ServedVersion, trace: Recorded | None) -> GenerateRequest:
        asked = decode_generate(reading.body(request, self._max_body_bytes), served.signature)
        request.id = asked.id
        if trace is not None:
            trace.tell(model=served.model, version=served.version, request=asked.id or "")
        return asked


def _encode(served: ServedVersion, asked: GenerateRequest, arrays: list[Array]) -> bytes:
    return encode_generate(served.model, served.version, asked, arrays, served.signature.has_rows)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
