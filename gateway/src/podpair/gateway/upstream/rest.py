"""V2 over REST (Open Inference Protocol, REST, version 2), with the binary tensor and generate extensions if it has them."""

import asyncio
from collections.abc import AsyncGenerator, Hashable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec

from podpair.common.gateway_config.model import Inference
from podpair.common.v2.non_finite import decode
from podpair.gateway.core.chat import chat_body
from podpair.gateway.core.frames import is_utf8
from podpair.gateway.core.generate import StreamFailed, chunk_of_event, generate_body
from podpair.gateway.core.http_response import Response
from podpair.gateway.core.lanes import MIDDLE, PRIORITY_NAMES
from podpair.gateway.core.model_errors import Failed, Late, TooLarge
from podpair.gateway.core.models import Model, model_of
from podpair.gateway.core.protocol import Fault
from podpair.gateway.core.record_times import unix_milliseconds
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.sse import EventParser, EventTooLarge
from podpair.gateway.core.tensors import Output, count_of, unpack
from podpair.gateway.tracing import CURRENT
from podpair.gateway.upstream.calls import Answer, Call, CallAnswer, Chunk
from podpair.gateway.upstream.http import HttpPool
from podpair.gateway.upstream.responses import (
    error_of_chunk,
    error_of_client,
    error_of_status,
    inference_ms,
    read,
    read_error,
)

_METRICS_SECONDS = 1.0
_METRICS_BYTES = 1 << 20
_BINARY = "binary_tensor_data"
_JSON = b"Content-Type: application/json\r\n"
_About = list[tuple[str, str]]  # headers
_RAW = b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n"
_MOST_PATHS, _MOST_HEADS = 1000, 256  # that are remembered, of a model …
_LONGEST_HEAD = 4096  # … and bytes of such a head: parameters and shapes are as large as clients make them


class _Response(msgspec.Struct):
    outputs: msgspec.Raw
    id: Any = None
    model_version: str | None = None


class _Sized(msgspec.Struct):
    binary_data_size: int | None = None


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _Sized | None = None
    data: list[Any] | None = None


class _Tensors(msgspec.Struct):
    outputs: list[_Tensor]
    id: Any = None
    model_version: str | None = None


class _Server(msgspec.Struct):
    extensions: list[str] = []


_response = msgspec.json.Decoder(_Response)
_tensors = msgspec.json.Decoder(_Tensors)
_encode = msgspec.json.Encoder().encode


class _Heads(NamedTuple):
    """The JSON before the tensors of calls to a model, by their layout."""

    model: Model
    known: dict[Hashable, bytes]


class RestUpstream:
    """One inference container that answers V2 over HTTP/1.1."""

    def __init__(self, config: Inference) -> None:
        self.url = config.url
        self._timeout, self._timeouts = config.timeout_seconds, config.timeouts()
        self._ready_path, self._chat_path = config.ready_path, config.chat_path
        self._limit = config.max_response_bytes
        self._pool = HttpPool(config.url, self._limit)
        self._binary: bool | None = None  # whether it has the binary extension; None: not asked yet
        self._paths: dict[str, str] = {}  # of models' calls
        self._heads: dict[str, _Heads] = {}  # by model
        # For all that is not a call: metadata, readiness, streams. Each has a connection of its own: what aiohttp finds on an
        # idle one, it takes for the next answer. No cookie of one caller's goes out with another's request.
        self.http = aiohttp.ClientSession(
            base_url=config.url,
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def ready(self) -> bool:
        try:
            async with self.http.get(
                self._ready_path, timeout=aiohttp.ClientTimeout(total=2), allow_redirects=False
            ) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            self._binary = None  # another server may stand there now
            return False

    async def metrics(self) -> str:
        timeout = aiohttp.ClientTimeout(total=_METRICS_SECONDS)
        try:
            async with self.http.get(
                "/metrics", timeout=timeout, headers={"Accept-Encoding": "identity"}, allow_redirects=False
            ) as response:
                body = await read(response, _METRICS_BYTES) if response.status == 200 else b""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, Failed):
            return ""
        return body.decode(errors="replace")

    async def model(self, name: str) -> Model:
        path = f"/v2/models/{quote(name, safe='')}"
        metadata = await self._get(path)
        try:
            config = await self._get(path + "/config")
        except (Fault, Failed):
            config = None  # an extension that not every server has
        if self._binary is None:
            self._binary = await self._has_binary()
        try:
            return model_of(name, metadata, config)
        except ValueError as error:
            raise Failed(f"its metadata of {name} is not V2's: {error}") from None

    async def _has_binary(self) -> bool:
        try:
            return _BINARY in msgspec.json.decode(await self._get("/v2"), type=_Server).extensions
        except (Fault, Failed, ValueError):
            return False

    async def _get(self, path: str) -> bytes:
        try:
            async with self.http.get(
                path, timeout=aiohttp.ClientTimeout(total=self._timeout), allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await read_error(response)
                return await read(response, self._limit)
        except TimeoutError:
            raise Late(f"no answer in {self._timeout:.3g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise error_of_client(self.url, error) from None

    async def forward(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None, timeout: float
    ) -> Response:
        """Pass a request on as it is. Raises Unavailable, Failed or TimeoutError; a redirect is Failed, too."""
        found = await self._pool.request(method, target, headers, body, timeout)
        if 300 <= found.status < 400:
            raise error_of_status(found.status, b"", found.headers)
        return found

    async def call(self, call: Call) -> CallAnswer:
        if self._binary:
            head = self._head(call)
            fields, body = _RAW % len(head), (head, *call.raw)
        else:
            fields, body = _JSON, (_head(call, binary=False),)
        name = call.model.name
        timeout = call.timeout or self._timeouts.get(name, self._timeout)
        about = _about(call.deadline, call.key, call.lane)
        found = await self._posted(self._path(name), body, fields, about, timeout)
        try:
            answer, outputs = _read_outputs(found)
        except (ValueError, TypeError, RecursionError) as error:
            raise Failed(f"its answer is not V2: {error}") from None
        _check_id(answer.id, call.id)
        return CallAnswer(outputs, answer.model_version, inference_ms(found.headers))

    def _head(self, call: Call) -> bytes:
        """Return the JSON before the tensors of a call; it is the same for all of a layout but for the id, and so made once."""
        heads = self._heads.get(call.model.name)
        if heads is None or heads.model is not call.model or len(heads.known) >= _MOST_HEADS:
            heads = self._heads[call.model.name] = _Heads(call.model, {})
            if len(self._heads) > _MOST_PATHS:
                self._heads.clear()
        form = (call.shapes, call.parameters, *map(len, call.raw))
        head = heads.known.get(form)
        if head is None:
            head = _head(call, binary=True)
            if len(head) <= _LONGEST_HEAD:
                heads.known[form] = head
        return b'{"id":%b,%b' % (_encode(call.id), head[1:]) if call.id else head

    async def infer(self, request: InferenceRequest, inputs: bytes, timeout: float) -> Answer:
        parameters = b',"parameters":' + request.parameters if request.parameters else b""
        body = b'{"id":%b,"inputs":%b%b}' % (_encode(request.id), inputs, parameters)
        path = f"{_path(request)}/infer" if request.version else self._path(request.model)
        found = await self._posted(path, (body,), _JSON, _of(request), timeout)
        try:
            response: _Response = decode(_response, found.body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Failed(f"its answer is not V2: {error}") from None
        _check_id(response.id, request.id)
        outputs = bytes(response.outputs)
        if not is_utf8(outputs):  # which msgspec does not look at here
            raise Failed("its answer is not V2: it is not UTF-8")
        return Answer(outputs, response.model_version, inference_ms(found.headers))

    def _path(self, model: str) -> str:
        path = self._paths.get(model)
        if path is None:
            if len(self._paths) >= _MOST_PATHS:
                self._paths.clear()
            path = self._paths[model] = f"/v2/models/{quote(model, safe='')}/infer"
        return path

    async def _posted(self, path: str, body: Sequence[bytes], fields: bytes, about: _About, timeout: float) -> Response:
        if about:
            fields += b"".join([f"{name}: {value}\r\n".encode() for name, value in about])
        try:
            found = await self._pool.post(path, fields, body, timeout)
        except TimeoutError:
            raise Late(f"no answer in {timeout:.3g} s") from None
        if found.status != 200:
            raise error_of_status(found.status, found.body, found.headers)
        return found

    async def stream(self, request: InferenceRequest, model: Model) -> AsyncGenerator[Chunk, None]:
        path = f"{_path(request)}/generate_stream"
        async with aclosing(self._events(path, generate_body(request, model), request)) as events:
            async for event in events:
                try:
                    chunk = Chunk(*chunk_of_event(event))
                except StreamFailed as error:
                    raise error_of_chunk(error.status, str(error)) from None
                except msgspec.DecodeError as error:
                    raise Failed(f"its stream is not V2's: {error}") from None
                yield chunk

    async def chat(self, request: InferenceRequest, timeout: float) -> bytes:
        body = chat_body(request)
        found = await self._posted(self._chat_path, (body,), _JSON, _of(request), timeout)
        return found.body

    def chat_stream(self, request: InferenceRequest) -> AsyncGenerator[bytes, None]:
        return self._events(self._chat_path, chat_body(request), request)

    async def _events(self, path: str, body: bytes, request: InferenceRequest) -> AsyncGenerator[bytes, None]:
        """Yield the data of each event that answers a POST. Raises what a call raises, also after events."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        headers.update(_of(request))
        # The time limit is for each part: a long answer is not a slow one.
        patience = request.timeout or self._timeouts.get(request.model, self._timeout)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=patience)
        try:
            async with self.http.post(
                path, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await read_error(response)
                events = EventParser(self._limit)
                async for chunk in response.content.iter_any():
                    for event in events.feed(chunk):
                        yield event
        except TimeoutError:
            raise Late(f"no further part in {patience:.3g} s") from None
        except EventTooLarge:
            raise TooLarge(self._limit) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise error_of_client(self.url, error) from None

    async def close(self) -> None:
        self._pool.close()
        await self.http.close()
        await asyncio.sleep(0)


def _head(call: Call, *, binary: bool) -> bytes:
    """Encode the JSON of a call: all of it, with its id, or the part before its tensors, without."""
    inputs = []
    for (name, datatype, _), shape, raw in zip(call.model.inputs, call.shapes, call.raw, strict=True):
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            tensor["parameters"] = {"binary_data_size": len(raw)}
        else:
            tensor["data"] = unpack(raw, datatype, count_of(shape))
        inputs.append(tensor)
    body: dict[str, Any] = {"id": call.id, "inputs": inputs} if call.id and not binary else {"inputs": inputs}
    parameters: dict[str, Any] = msgspec.json.decode(call.parameters) if call.parameters else {}
    if binary:
        parameters["binary_data_output"] = True
    if parameters:
        body["parameters"] = parameters
    return _encode(body)


def _path(request: InferenceRequest) -> str:
    version = f"/versions/{quote(request.version, safe='')}" if request.version else ""
    return f"/v2/models/{quote(request.model, safe='')}{version}"


def _of(request: InferenceRequest) -> _About:
    return _about(request.deadline, request.key, request.lane)


def _about(deadline: float | None, key: str, lane: int) -> _About:
    """Return the headers that podpair's own container reads besides V2; others ignore them."""
    headers = []
    if deadline is not None:
        headers.append(("podpair-deadline", str(unix_milliseconds(deadline))))
    if key:
        headers.append(("podpair-key", quote(key, safe="")))
    if lane != MIDDLE:
        headers.append(("podpair-priority", PRIORITY_NAMES[lane]))
    if trace := CURRENT.get():
        headers.append(("traceparent", trace))
    return headers


def _read_outputs(found: Response) -> tuple[_Tensors, list[Output]]:
    """Decode the outputs of a call's response. Raises ValueError or TypeError."""
    body = found.body
    length = found.headers.get(b"inference-header-content-length")
    end = len(body)
    if length is not None:
        if not (length.isdigit() and len(length) < 19 and int(length) <= end):
            raise ValueError(f"Inference-Header-Content-Length is {length[:20]!r} of {end} bytes")
        end = int(length)
    answer: _Tensors = decode(_tensors, body[:end])
    outputs = []
    for tensor in answer.outputs:
        size = tensor.parameters.binary_data_size if tensor.parameters is not None else None
        count = count_of(tensor.shape)
        if size is not None:
            if not 0 <= size <= len(body) - end:
                raise ValueError(f"output {tensor.name!r} has {size} bytes of {len(body) - end}")
            values = unpack(body[end : end + size], tensor.datatype, count)
            end += size
        else:
            values = tensor.data or []
            while values and isinstance(values[0], list):
                values = [item for chunk in values for item in chunk]
        if len(values) != count:
            raise ValueError(f"output {tensor.name!r} has {len(values)} elements for shape {list(tensor.shape)}")
        outputs.append(Output(tensor.name, tensor.datatype, tensor.shape, values))
    return answer, outputs


def _check_id(found: Any, asked: str) -> None:
    """Check that an answer has the id of its request, if that has one (V2). Raises Failed."""
    if asked and found and str(found) != asked:
        raise Failed(f"its answer is another request's: it has the id {str(found)[:128]!r}")
