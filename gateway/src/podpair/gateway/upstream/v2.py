"""A client of V2 over REST, as far as the gateway needs it (Open Inference Protocol, REST, version 2)."""

import asyncio
import json
from typing import Any, NamedTuple

import aiohttp
import msgspec

from podpair.gateway.config.model import Inference
from podpair.gateway.core.attempts import Busy, Failed, Unavailable
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.shorthand import InputSpec

_METRICS_SECONDS = 1.0
_METRICS_BYTES = 1 << 20


class Answer(NamedTuple):
    """A V2 response, its `outputs` (JSON) unread."""

    outputs: bytes
    model_version: str | None
    inference_ms: float | None


class _Response(msgspec.Struct):
    outputs: msgspec.Raw
    model_version: str | None = None


class _Error(msgspec.Struct):
    error: str = ""


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]


class _Metadata(msgspec.Struct):
    inputs: list[_Input] = []


_response = msgspec.json.Decoder(_Response)


class V2Client:
    """One pool of connections to one inference container."""

    def __init__(self, config: Inference) -> None:
        self.url = config.url
        self._timeout = config.timeout_seconds
        self.http = aiohttp.ClientSession(
            base_url=config.url,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )

    async def ready(self) -> bool:
        """Whether GET /v2/health/ready says so, within two seconds."""
        try:
            async with self.http.get("/v2/health/ready", timeout=aiohttp.ClientTimeout(total=2)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def metrics(self) -> str:
        """What GET /metrics says, within a second; empty where nothing there does: V2 asks no server for metrics."""
        timeout = aiohttp.ClientTimeout(total=_METRICS_SECONDS)
        body = bytearray()
        try:
            async with self.http.get("/metrics", timeout=timeout, headers={"Accept-Encoding": "identity"}) as response:
                if response.status != 200:
                    return ""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > _METRICS_BYTES:
                        return ""
        except (aiohttp.ClientError, TimeoutError, OSError):
            return ""
        return body.decode(errors="replace")

    async def only_input(self, model: str) -> InputSpec:
        """The model's input, from its metadata. Raises Fault where there is no such model, or not exactly one input."""
        _, body, _ = await self._call("GET", f"/v2/models/{model}", None, {}, self._timeout)
        inputs = msgspec.json.decode(body, type=_Metadata).inputs
        if len(inputs) != 1:
            raise Fault(Code.INVALID, f"model {model} has {len(inputs)} inputs: send `inputs`, not `data`")
        return InputSpec(inputs[0].name, inputs[0].datatype, inputs[0].shape)

    async def infer(self, model: str, body: bytes, *, deadline: float | None, timeout: float | None) -> Answer:
        """POST one V2 request in JSON. `deadline` is in Unix seconds, `timeout`, what is left until it, in seconds.

        Raises Fault where the request is at fault, Unavailable, Busy or Failed where the container is.
        """
        headers = {"Content-Type": "application/json"}
        if deadline is not None:
            headers["podpair-deadline"] = str(int(deadline * 1000))
        path = f"/v2/models/{model}/infer"
        try:
            async with asyncio.timeout(timeout):
                _, answer, found = await self._call("POST", path, body, headers, self._timeout)
        except TimeoutError:
            raise Fault(Code.DEADLINE_EXCEEDED, "the deadline passed while the model was at work") from None
        try:
            response = _response.decode(answer)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Failed(f"its answer is not V2: {error}") from None
        spent = found.get("podpair-inference-ms")
        return Answer(bytes(response.outputs), response.model_version, float(spent) if spent else None)

    async def _call(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout: float
    ) -> tuple[int, bytes, Any]:
        try:
            async with asyncio.timeout(timeout):
                async with self.http.request(method, path, data=body, headers=headers) as response:
                    answer = await response.read()
                    if response.status == 200:
                        return response.status, answer, response.headers
                    raise _fault(response.status, answer, response.headers)
        except TimeoutError:
            raise Failed(f"no answer in {timeout:.3g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # Whoever could not connect has not given it anything to die of.
            midway = not isinstance(error, aiohttp.ClientConnectorError)
            raise Unavailable(f"{self.url}: {str(error) or type(error).__name__}", midway=midway) from None

    async def close(self) -> None:
        """Close the connections."""
        await self.http.close()


def _fault(status: int, body: bytes, headers: Any) -> Exception:
    try:
        message = msgspec.json.decode(body, type=_Error).error
    except msgspec.DecodeError:
        message = json.dumps(body[:200].decode(errors="replace"))
    message = message or f"status {status}"
    retry_after = _seconds(headers.get("Retry-After"))
    match status:
        case 404:
            return Fault(Code.NOT_FOUND, message)
        case 429:
            return Busy(retry_after)
        case 503:
            return Unavailable(message)
        case 504:
            return Fault(Code.DEADLINE_EXCEEDED, message)
        case _ if 400 <= status < 500:
            return Fault(Code.INVALID, message)
        case _:
            return Failed(message)


def _seconds(retry_after: str | None) -> float:
    try:
        return max(float(retry_after or 0), 0.05)
    except ValueError:
        return 1.0
