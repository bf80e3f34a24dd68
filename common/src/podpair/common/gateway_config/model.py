"""Every setting of the gateway, its default and what it means; docs and `podpair-gateway config schema` come from here."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from podpair.common.gateway_config.amqp import Amqp
from podpair.common.gateway_config.cache import Cache
from podpair.common.gateway_config.channels import Channels, Presence
from podpair.common.gateway_config.clients import Admission, Auth, Http, Limits, Operations, Sessions
from podpair.common.gateway_config.deliveries import Deliveries
from podpair.common.gateway_config.fields import Count, PositiveSeconds, Section, check_once, is_web_url
from podpair.common.gateway_config.kafka import Kafka, Requests, Results
from podpair.common.gateway_config.openai import OpenAI
from podpair.common.gateway_config.workflows import Workflows
from podpair.common.lists import Listed, Texts


class ModelTimeout(Section):
    """A time-out of one model, in place of the one that holds for all."""

    model: Annotated[str, Field(min_length=1)]
    """Its name."""
    timeout_seconds: PositiveSeconds
    """How long one call of it may take; of a stream, how long the next part may take."""


class Inference(Section):
    """The inference container, the other half of the pair."""

    url: str = "http://127.0.0.1:8081"
    """Where it answers V2: http://host:port or https:// (REST), grpc://host:port, grpcs:// or unix:/path (gRPC)."""
    ready_path: Annotated[str, Field(pattern="^/")] = "/v2/health/ready"
    """What answers 200 when it is ready, over REST: a server of OpenAI's protocol only may have another path."""
    chat_path: Annotated[str, Field(pattern="^/")] = "/v1/chat/completions"
    """Where it answers OpenAI's chat completions, over REST."""
    timeout_seconds: PositiveSeconds = 30
    """How long one call may take; of a stream, how long the next part may take."""
    models: Annotated[tuple[ModelTimeout, ...], Listed] = ()
    """Models with a time-out of their own, each at most once."""
    probe_seconds: PositiveSeconds = 0.5
    """How often its readiness is asked for."""
    max_response_bytes: Annotated[int, Field(ge=1024)] = 64 << 20
    """Largest answer that is taken, of a stream its largest event; one that is larger is an error."""

    def timeouts(self) -> dict[str, float]:
        """Return the time-outs of models that have their own, in seconds, by name."""
        return {one.model: one.timeout_seconds for one in self.models}

    def timeout_of(self, model: str | None) -> float:
        """Return how long a call of a model may take, in seconds."""
        return self.timeouts().get(model or "", self.timeout_seconds)

    @model_validator(mode="after")
    def _once(self) -> Self:
        check_once([one.model for one in self.models])
        return self

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value.startswith("unix:"):
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
            raise ValueError(f"{value!r} is neither http(s)://host:port, grpc(s)://host:port nor unix:/path")
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{value!r}: {error}") from None
        if parts.scheme.startswith("grpc") and (port is None or parts.path.strip("/")):
            raise ValueError(f"{value!r}: gRPC needs a port, and takes no path")
        return value.rstrip("/")


class Batching(Section):
    """Dynamic batching: requests for the same model and shape that arrive while a call is in flight go to it as one call."""

    enabled: bool = True
    """Let requests share calls, if the model takes rows of any number and a row's answer is the same alone and in company:
    as the server says (`rows` of podpair's container, `max_batch_size` above 1 in Triton's configuration), or as is found out."""
    exclude: Texts = ()
    """Models whose requests always go alone."""
    include: Texts = ()
    """Models whose requests share calls on your word, if the server does not say whether they may."""
    probe: bool = True
    """Find out whether requests may share calls, if neither the server nor `include` says: four requests' rows are sent
    again, alone and in one call, six calls more in all. Off: they go alone."""
    max_concurrent_calls: Count = 1
    """Calls that a model has at a time from requests that may share them; more if it says that it has more instances."""
    max_rows: Count = 1024
    """Rows of one call; fewer if the model says so."""
    max_bytes: Count = 4 << 20
    """Bytes of one call's tensors; a request that is larger goes alone."""


class Console(Section):
    """The page at `/` of the public port, to try a model with. What pages import (podpair.js) is served without it, too."""

    enabled: bool = False
    """Serve the console."""
    model: str = "digits"
    """The model that it asks."""
    mint_tokens: bool = False
    """Give the console development tokens. Only with auth.secret and a loopback address."""
    demo_url: str | None = None
    """Where the demo's supervisor takes orders (kill the model)."""


class Tracing(Section):
    """OpenTelemetry traces: from a client's request over Kafka to the model and back."""

    endpoint: str | None = None
    """Where a collector takes spans over OTLP/HTTP, such as http://collector:4318/v1/traces. Unset: no tracing."""
    sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of requests that are traced, of those without a `traceparent`; with one, whoever began the trace has decided."""
    service: str = "podpair-gateway"
    """The name of this service (service.name)."""

    @field_validator("endpoint")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not is_web_url(value):
            raise ValueError(f"{value!r} is not an http(s) URL")
        return value


class Log(Section):
    """Log records go to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written."""
    format: Literal["json", "text"] = "json"
    """One JSON object a line, or text for people."""


class Config(Section):
    """The gateway's configuration."""

    http: Http = Field(default_factory=Http)
    operations: Operations = Field(default_factory=Operations)
    # Built when it is read, not when the class is made: without a way to verify tokens it is a fault.
    auth: Auth = Field(default_factory=dict, validate_default=True)
    sessions: Sessions = Field(default_factory=Sessions)
    limits: Limits = Field(default_factory=Limits)
    admission: Admission = Field(default_factory=Admission)
    kafka: Kafka = Field(default_factory=Kafka)
    amqp: Amqp = Field(default_factory=Amqp)
    requests: Requests = Field(default_factory=Requests)
    results: Results = Field(default_factory=Results)
    inference: Inference = Field(default_factory=Inference)
    batching: Batching = Field(default_factory=Batching)
    cache: Cache = Field(default_factory=Cache)
    deliveries: Deliveries = Field(default_factory=Deliveries)
    channels: Channels = Field(default_factory=Channels)
    presence: Presence = Field(default_factory=Presence)
    workflows: Workflows = Field(default_factory=Workflows)
    openai: OpenAI = Field(default_factory=OpenAI)
    console: Console = Field(default_factory=Console)
    log: Log = Field(default_factory=Log)
    tracing: Tracing = Field(default_factory=Tracing)
    shutdown_seconds: PositiveSeconds = 20
    """How long work in hand may take to end after SIGTERM, besides sessions.drain_seconds."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.console.mint_tokens and not self.console.enabled:
            raise ValueError("console.mint_tokens is for the console: set console.enabled too")
        if self.console.mint_tokens and (
            self.auth.secret is None or self.http.host not in ("127.0.0.1", "localhost", "::1")
        ):
            raise ValueError("console.mint_tokens needs auth.secret and a loopback http.host: it lets anyone in")
        if self.operations.enabled and self._share_an_address():
            raise ValueError(
                f"operations.port and http.port are both {self.http.port}: choose another (operations.enabled: false: none)"
            )
        if self.requests.topic == self.results.topic:
            raise ValueError("requests.topic and results.topic are the same")
        others = (self.requests.topic, self.results.topic, self.requests.dead_letter_topic)
        if self.cache.topic is not None and self.cache.topic in others:
            raise ValueError(
                "cache.topic is that of requests, results or dead letters: invalidations need one of their own"
            )
        if self.workflows_topic is not None and self.workflows_topic in (*others, self.cache.topic):
            raise ValueError("workflows.topic is another one's: their state needs a topic of its own")
        if self.requests.exactly_once and self.kafka.embedded:
            raise ValueError("requests.exactly_once needs a real broker: the embedded one keeps no transactions")
        return self

    @model_validator(mode="after")
    def _queued(self) -> Self:
        if self.workflows.enabled and self.requests.source == "amqp":
            raise ValueError("workflows.enabled needs the requests topic: requests.source is amqp, not kafka or both")
        return self

    @property
    def workflows_topic(self) -> str | None:
        """The topic with the state of workflows; None: there are none."""
        return (self.workflows.topic or f"{self.requests.topic}.workflows") if self.workflows.enabled else None

    def _share_an_address(self) -> bool:
        same_host = self.operations.host in (None, self.http.host)
        return same_host and self.operations.port == self.http.port != 0
