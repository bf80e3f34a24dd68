"""What the gateway asks of an upstream, whichever protocol it speaks: readiness, models, calls, and streams."""

from collections.abc import AsyncGenerator, Iterable
from typing import NamedTuple, Protocol

import aiohttp

from podpair.gateway.core.http_response import Response
from podpair.gateway.core.models import Model
from podpair.gateway.core.questions import Question
from podpair.gateway.core.tensors import Output


class Call(NamedTuple):
    """The rows of one or more requests as one call."""

    model: Model
    shapes: tuple[tuple[int, ...], ...]  # of each input
    raw: tuple[bytes, ...]  # each input's elements
    parameters: bytes  # JSON, empty where there are none
    deadline: float | None  # Unix seconds
    key: str  # chooses among the model's versions; empty: any
    id: str  # empty where the call holds several requests
    trace: str = ""  # traceparent, where one of them is traced


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


class Part(NamedTuple):
    """A part of a streamed answer: JSON, the value of the model's only output, or an object of all of them."""

    data: bytes
    model_version: str | None


class Upstream(Protocol):
    """One inference container. Each method raises Fault where the request is at fault, and Unavailable, Busy or Failed where
    the container is; cancelled, it tells the container that nobody waits.
    """

    url: str
    http: aiohttp.ClientSession | None  # for streams that are passed through as they are; None: it does not speak HTTP

    async def ready(self) -> bool:
        """Whether it says that it is ready, within two seconds."""
        ...

    async def metrics(self) -> str:
        """What it tells Prometheus, within a second; empty where it does not: V2 asks no server for metrics."""
        ...

    async def model(self, name: str) -> Model:
        """What it serves under that name."""
        ...

    async def forward(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None, timeout: float
    ) -> Response:
        """Pass a request on as it is, where it speaks HTTP; `target`: path and query, `timeout` in seconds."""
        ...

    async def call(self, call: Call) -> CallAnswer:
        """Ask for many rows."""
        ...

    async def ask(self, question: Question, inputs: bytes, timeout: float) -> Answer:
        """Ask one question as it is; `inputs` is V2's, `timeout` in seconds."""
        ...

    def stream(self, question: Question, model: Model) -> AsyncGenerator[Part, None]:
        """Ask one question, and get its answer in parts."""
        ...

    async def chat(self, question: Question, timeout: float) -> bytes:
        """Ask for a chat completion, and get it whole; `timeout` in seconds."""
        ...

    def chat_stream(self, question: Question) -> AsyncGenerator[bytes, None]:
        """Ask for a chat completion, and get the data of its events."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
