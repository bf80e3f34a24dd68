"""The interface of an upstream, whichever protocol it speaks: readiness, models, calls, and streams."""

from collections.abc import AsyncGenerator, Iterable
from typing import NamedTuple, Protocol

import aiohttp

from podpair.gateway.core.http_response import Response
from podpair.gateway.core.lanes import MIDDLE
from podpair.gateway.core.models import Model
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.tensors import Output


class Call(NamedTuple):
    """The rows of one or more requests as one call."""

    model: Model
    shapes: tuple[tuple[int, ...], ...]  # of each input
    raw: tuple[bytes, ...]  # each input's elements
    parameters: bytes  # JSON, empty if there are none
    deadline: float | None  # Unix seconds
    key: str  # chooses among the model's versions; empty: any
    id: str  # empty if the call holds several requests
    trace: str = ""  # traceparent, if one of them is traced
    lane: int = MIDDLE  # of all of them
    timeout: float = 0.0  # of each of them, in seconds; 0: as the model's settings say


class CallAnswer(NamedTuple):
    """The outputs of a call."""

    outputs: list[Output]
    model_version: str | None
    inference_ms: float | None


class Answer(NamedTuple):
    """The answer to a request that went alone: V2's `outputs` in JSON."""

    outputs: bytes
    model_version: str | None
    inference_ms: float | None


class Chunk(NamedTuple):
    """A chunk of a streamed answer: JSON, the value of the model's only output, or an object of all of them."""

    data: bytes
    model_version: str | None


class Upstream(Protocol):
    """One inference container. Each method raises Fault if the request is at fault, and Unavailable, Busy or Failed if
    the container is; when cancelled, it tells the container that nobody waits.
    """

    url: str
    http: aiohttp.ClientSession | None  # for streams that are passed through as they are; None: it does not speak HTTP

    async def ready(self) -> bool:
        """Return whether the container says that it is ready, within two seconds."""
        ...

    async def metrics(self) -> str:
        """Return the container's Prometheus metrics, within a second; empty if it has none: V2 requires no server to have any."""
        ...

    async def model(self, name: str) -> Model:
        """Return the model that the container serves under that name."""
        ...

    async def forward(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None, timeout: float
    ) -> Response:
        """Pass a request on as it is, if it speaks HTTP; `target`: path and query, `timeout` in seconds."""
        ...

    async def call(self, call: Call) -> CallAnswer:
        """Infer a batch of rows."""
        ...

    async def infer(self, request: InferenceRequest, inputs: bytes, timeout: float) -> Answer:
        """Infer one request unchanged; `inputs` is V2's, `timeout` in seconds."""
        ...

    def stream(self, request: InferenceRequest, model: Model) -> AsyncGenerator[Chunk, None]:
        """Infer one request, and stream its answer."""
        ...

    async def chat(self, request: InferenceRequest, timeout: float) -> bytes:
        """Request a chat completion, and return it whole; `timeout` in seconds."""
        ...

    def chat_stream(self, request: InferenceRequest) -> AsyncGenerator[bytes, None]:
        """Request a chat completion, and stream the data of its events."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
