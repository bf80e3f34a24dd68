"""The server of OpenAI's API behind the gateway: calls are passed on to it as they are.

Invariant: no credential of a client reaches it (`core.proxy_headers`), and what it answers is passed on whole or as events; of a
stream that is cut the client gets whole events, then an error.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.model_errors import Failed
from podpair.gateway.core.proxy_headers import client_headers, model_headers, proxy_target
from podpair.gateway.http.infer import headers_to_model
from podpair.gateway.openai.core.chunk_stream import ChunkStream
from podpair.gateway.openai.core.errors import ApiError, complete_error, invalid, request_id
from podpair.gateway.openai.guard import Caller, converted, start_stream
from podpair.gateway.upstream.responses import error_of_client, read

_ERROR_BYTES = 1 << 16
_DOTS = frozenset({".", ".."})
_SAFE = "/:@!$&'()*+,;=~"
_CUT = "the model's server ended the stream before it was complete"


class OpenAIServer:
    """One server. url: without /v1; None: there is none."""

    def __init__(self, config: Config, url: str | None) -> None:
        self.url = url
        self._config = config
        self._limit = config.inference.max_response_bytes
        self._http: aiohttp.ClientSession | None = None

    async def forward(
        self, request: web.Request, caller: Caller, body: bytes | None, model: str, *, stream: bool = False
    ) -> web.StreamResponse:
        """Pass a request on, and its answer back. Raises ApiError, Failed or Unavailable."""
        path = request.path.removeprefix(self._config.http.base_path)
        if not _DOTS.isdisjoint(path.split("/")):  # what they lead to is no call of this API
            raise ApiError(404, f"The model {model[:100]!r} does not exist.", code="model_not_found", param="model")
        path = quote(path, safe=_SAFE)  # a name may have what would end the path
        target = proxy_target(path, request.rel_url.raw_query_string)
        if target is None:
            raise invalid("the query has characters that have to be percent-encoded")
        headers = headers_to_model(request, caller.identity, caller.grant)
        async with self.call(request.method, target, headers, body, model) as answer:
            passed = CIMultiDict(client_headers(answer.headers.items(), streamed=stream))
            passed.setdefault("x-request-id", request_id())
            if answer.status >= 400:
                found = await answer.content.read(_ERROR_BYTES)
                passed.popall("Content-Type", None)
                whole = complete_error(answer.status, found)
                return web.Response(status=answer.status, body=whole, headers=passed, content_type="application/json")
            if stream and answer.content_type == "text/event-stream":
                return await self._pass_events(request, answer, passed)
            return web.Response(status=answer.status, body=await read(answer, self._limit), headers=passed)

    @asynccontextmanager
    async def call(
        self, method: str, target: str, headers: CIMultiDict[str], body: bytes | None, model: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make one call, and have its response until the block ends. Raises ApiError, Failed or Unavailable."""
        if self.url is None:
            raise ApiError(404, "there is no server of OpenAI's API here (openai.url)", code="model_not_found")
        # The limit is for each part: a long answer is not a slow one.
        timeout = aiohttp.ClientTimeout(total=None, sock_read=self._config.inference.timeout_of(model))
        try:
            async with self._session().request(
                method, self.url + target, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                if answer.status < 200 or 300 <= answer.status < 400:
                    raise Failed(f"the model's server answers with status {answer.status}, which is not followed")
                yield answer
        except TimeoutError as error:
            if isinstance(error, aiohttp.ClientError):
                raise ApiError(504, "the model's server did not answer in time") from None
            raise  # the deadline
        except (aiohttp.ClientError, OSError, ValueError) as error:
            found = error_of_client(self.url, error)
            # Only the inference container's own trouble is held against its readiness.
            raise found if self.url == self._config.inference.url else converted(found) from None

    async def _pass_events(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        response = await start_stream(request, headers)
        events = ChunkStream()
        async for piece in _pieces(answer):
            if whole := events.feed(piece):
                await response.write(whole)
        if not events.complete:
            raise ApiError(502, _CUT)
        await response.write_eof()
        return response

    async def models(self, request: web.Request) -> list[msgspec.Raw]:
        """Return the entries of its list of models; none if it has no such list, or is away."""
        if self.url is None:
            return []
        headers = CIMultiDict(model_headers(request.headers.items()))
        try:
            async with self.call("GET", "/v1/models", headers, None, "") as answer:
                body = await read(answer, self._limit) if answer.status == 200 else b"{}"
            return msgspec.json.decode(body, type=_Models).data
        except (msgspec.DecodeError, Failed):
            return []

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            # Each call has a connection of its own: what is found on an idle one would be taken for the next answer.
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._http

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()


class _Models(msgspec.Struct):
    data: list[msgspec.Raw] = []


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Stream a body as it comes. Raises ApiError if it is cut."""
    try:
        async for piece in answer.content.iter_any():
            yield piece
    except aiohttp.ClientError:
        raise ApiError(502, _CUT) from None


def model_entry(name: str) -> bytes:
    """Encode the entry of a model that is called by V2."""
    return msgspec.json.encode({"id": name, "object": "model", "created": _STARTED, "owned_by": "podpair"})


_STARTED = int(time.time())
