"""Every setting of the gateway, its default and what it means; docs and `podpair-gateway config schema` come from here."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

from podpair.gateway.config.kafka_properties import property_name

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://")) and bool(urlsplit(url).hostname)


Texts = Annotated[tuple[str, ...], BeforeValidator(_split)]  # in one text, as the environment has it, with commas
_SHORTEST_SECRET = 32  # bytes; RFC 7518, 3.2

_SERVER = re.compile(
    r"((PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\])(:\d{1,5})?", re.I
)


def _named(values: dict[object, object]) -> dict[str, object]:
    """By librdkafka's names. Raises ValueError for a property that is podpair's own, and for one that is there twice."""
    named: dict[str, object] = {}
    for key, value in values.items():
        name = property_name(key)
        if name in named:
            raise ValueError(f"{name} is set twice: {key} is another name of it")
        named[name] = value
    return named


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _check_length(name: str, secret: SecretStr | None) -> None:
    if secret is not None and len(secret.get_secret_value().encode()) < _SHORTEST_SECRET:
        raise ValueError(f"{name} is shorter than {_SHORTEST_SECRET} bytes, which HS256 needs (RFC 7518, 3.2)")


class Http(Section):
    """The public address."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a pod."""
    port: Port = 8080
    """Port to listen on; 0 takes a free one."""
    origins: Texts = ()
    """Origins whose pages may connect, such as https://app.example; `*` is any. Empty: only pages that the gateway itself
    serves. Clients that send no Origin (not browsers) are always let in."""

    certificate_file: Path | None = None
    """PEM file with the certificate and its chain: the port then speaks TLS. A change of the files is taken within seconds."""
    key_file: Path | None = None
    """PEM file with the certificate's key, without a passphrase."""

    tls_handshake_seconds: PositiveSeconds = 10
    """How long a client may take for the TLS handshake."""
    head_seconds: PositiveSeconds = 30
    """How long a client may take to send a request's head: from when it connects, then from the head's first byte."""
    stall_seconds: PositiveSeconds = 60
    """A client that in so long sends less of a body, or takes less of an answer, than 512 bytes a second is cut off."""
    keep_alive_seconds: PositiveSeconds = 630
    """How long a connection may wait for its next request; longer than load balancers keep theirs (up to 600 s)."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together: set both, or neither")
        return self

    @field_validator("origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and ("://" not in origin or origin.rstrip("/").count("/") != 2):
                raise ValueError(f"{origin!r} is not an origin: write scheme://host[:port], without a path")
        return tuple(origin.rstrip("/").lower() for origin in value)


class Operations(Section):
    """The operators' port: /metrics, /healthz, and /readyz with its reasons. Plain HTTP, no tokens: for inside the cluster."""

    enabled: bool = True
    """Serve it. Without it there are no metrics, and only the log says why a gateway isn't ready."""
    host: str | None = None
    """Address to listen on. Unset: `http.host`."""
    port: Port = 8083
    """Port to listen on; 0 takes a free one."""


class Auth(Section):
    """How tokens (JWT) are verified: exactly one of secret, secret_file, public_key_file, jwks_url; or disabled."""

    disabled: bool = False
    """Let everyone in, as the subject `anonymous`. For development only."""
    secret: SecretStr | None = None
    """Shared secret for HS256."""
    secret_file: Path | None = None
    """File that holds the shared secret."""
    public_key_file: Path | None = None
    """PEM file with an RSA (RS256), EC P-256 (ES256) or Ed25519 (EdDSA) public key."""
    jwks_url: str | None = None
    """Where the issuer publishes its keys (RFC 7517)."""
    jwks_cache_seconds: PositiveSeconds = 300
    """How long fetched keys are used before they are fetched again; for as long again they are used meanwhile."""
    issuer: str | None = None
    """The `iss` that a token must have."""
    audience: str | None = None
    """The `aud` that a token must have."""
    leeway_seconds: Seconds = 10
    """Clock difference that `exp` and `nbf` are allowed."""
    required_claims: Texts = ("exp", "sub")
    """Claims that a token must have."""
    session_claim: Annotated[str, Field(min_length=1)] | None = None
    """A claim that names the session: 1 to 128 of A-Z a-z 0-9 . _ : @ -. The session's id is `<sub>/<claim>` then. Unset: a
    session is new unless it is resumed. Not the `sid` of an OIDC issuer, which is one for all pages of a login."""
    query_token: bool = False
    """Take a token from `?token=` too. URLs end up in logs: leave it off where a header can be sent."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [n for n in ("secret", "secret_file", "public_key_file", "jwks_url") if getattr(self, n) is not None]
        if self.disabled and ways:
            raise ValueError(f"disabled is true, but {ways[0]} is set too: choose one")
        if not self.disabled and not ways:
            raise ValueError(
                "no way to verify tokens: set one of secret, secret_file, public_key_file, jwks_url"
                " (or disabled: true, for development)"
            )
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are set: choose one")
        _check_length("secret", self.secret)
        if self.jwks_url is not None and not _is_web(self.jwks_url):
            raise ValueError(f"jwks_url {self.jwks_url!r} is not an http(s) URL")
        return self


class Sessions(Section):
    """How long sessions live, and how much may wait for one client."""

    idle_seconds: Seconds = 3600
    """Close a connection on which nothing has gone either way for so long; 0 is never."""
    heartbeat_seconds: PositiveSeconds = 25
    """How often a WebSocket is pinged; no answer in half of it ends the connection."""
    resume_secret: SecretStr | None = None
    """Signs resume tokens; the same on every gateway. Unset: made at start, and only this process takes its tokens back."""
    resume_secret_file: Path | None = None
    """File that holds the resume secret."""
    resume_seconds: PositiveSeconds = 86_400
    """How long a resume token is good for."""
    expiry_jitter_seconds: Seconds = 5
    """Connections whose token ended are closed spread over so long."""
    drain_seconds: Seconds = 30
    """At SIGTERM clients are sent to other gateways spread over at most so long; few clients leave sooner."""
    buffer_bytes: Count = 1 << 20
    """What may wait in memory for one client; what is more waits in Kafka's log until the client has taken it."""
    remembered_bytes: Annotated[int, Field(ge=0)] = 1 << 15
    """What is kept of each session's ended requests: who asks again with the same id is given the same. One half is for the
    ids of those that ended last (16 at least, 256 at most), the other for answers of direct requests, with their ids."""
    remembered_seconds: Seconds = 120
    """How long that outlasts the connection."""
    slow_seconds: PositiveSeconds = 10
    """A client that leaves a full buffer untouched for so long is closed with 3008; it may resume."""

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if self.resume_secret is not None and self.resume_secret_file is not None:
            raise ValueError("resume_secret and resume_secret_file are set: choose one")
        _check_length("resume_secret", self.resume_secret)
        return self


class Limits(Section):
    """What is too much."""

    sessions: Count = 20_000
    """Connections that this gateway holds."""
    connections: Count = 4096
    """Connections that are no sessions (calls over HTTP, heads and handshakes that aren't complete). For one more the longest
    idle one is closed; where none is idle it is refused with 503."""
    connects_per_second: Annotated[float, Field(gt=0)] | None = None
    """Connections that are let in a second; more are told when to come again. Those that are refused, for their tokens or
    otherwise, do not count. Unset: any."""
    connects_burst: Count = 1000
    """Connections that are let in at once after a pause, where `connects_per_second` is set."""
    message_bytes: Annotated[int, Field(ge=1024)] = 1 << 20
    """Largest frame or request body from a client."""
    invalid_frames: Count = 100
    """Frames of one connection in a minute that are no message of the protocol, or a refused token; one more closes it (1008)."""
    in_flight: Count = 256
    """Open requests of one session, whether or not its client is connected: queued ones count until their answers are there, or
    for `results.retention_seconds`."""
    direct: Count = 64
    """Direct requests that the inference container has at a time; beyond it `auto` goes through Kafka."""


class AdmissionRule(Section):
    """What tokens may do that have a claim. All rules that fit a token apply; what is counted, is counted at this gateway."""

    claim: Annotated[str, Field(min_length=1)] = "sub"
    """The claim by whose value tokens are counted together: `sub` is each user, `tenant` (say) all users of a tenant."""
    value: str | None = None
    """Only tokens whose claim is this, or is a list that holds it. Unset: any value, each counted by itself."""
    sessions: Count | None = None
    """Sessions that are connected at a time."""
    requests_per_second: Annotated[float, Field(gt=0)] | None = None
    """Requests a second."""
    burst: Count | None = None
    """Requests at once after a pause; unset: those of one second."""
    in_flight: Count | None = None
    """Requests that are open at a time, over all sessions."""
    models: Texts = ()
    """Models that may be asked, as patterns (`chat-*`); empty: all."""
    routes: tuple[Literal["auto", "direct", "queue"], ...] = ()
    """Routes that may be taken; empty: all. Where `auto` isn't among them, it becomes the first."""
    priority: Literal["low", "normal", "high"] | None = None
    """Of direct requests: `low` leaves half of `limits.direct` to others, `high` goes a quarter beyond it. The first rule that
    has one decides."""


class Admission(Section):
    """What users may ask for, besides `limits`, which holds for all."""

    rules: tuple[AdmissionRule, ...] = ()
    """Limits and permissions by claim."""
    shed: bool = True
    """Refuse at once, with `retry_after_ms`, a request whose deadline is shorter than answers take just now."""


class Kafka(Section):
    """The broker."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """host:port, several with commas."""
    embedded: bool = False
    """Run a broker inside this process (librdkafka's mock cluster): for a laptop, its data ends with the process."""
    client: dict[str, str | int | float | bool] = Field(default_factory=dict, repr=False)  # holds passwords
    """Any librdkafka property, for every client, but those that have a setting of their own here, or that podpair's guarantees
    stand on: they are refused by name; from the environment PODPAIR_KAFKA__CLIENT__SASL_USERNAME is sasl.username."""
    client_files: dict[str, Path] = Field(default_factory=dict)
    """librdkafka properties whose values stand in files, such as sasl.password, so that no file or environment holds the secret
    itself; from the environment PODPAIR_KAFKA__CLIENT_FILES__SASL_PASSWORD=/run/secrets/password."""
    create_topics: bool = True
    """Create topics that are missing; otherwise a missing one is an error."""
    await_topics: bool = False
    """With create_topics false: wait for topics that are missing, for another, such as the operator, creates them."""
    probe_seconds: PositiveSeconds = 2
    """How often the broker is asked whether it is there, which readiness depends on."""
    required_for_readiness: bool = True
    """Not ready while no broker answers, or a client of it is dead. `false`: a pod that still answers /v2 and chat stays in its
    Service; /readyz tells it all the same."""
    producer_buffer_bytes: Annotated[int, Field(ge=1 << 20)] = 64 << 20
    """Memory for records that no broker has acknowledged yet; a request that finds it full is refused as overloaded at once."""

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers(cls, value: str) -> str:
        for server in value.split(","):
            if not _SERVER.fullmatch(server.strip()):
                raise ValueError(f"{server.strip()!r} is not host:port")
        return value

    @model_validator(mode="after")
    def _once(self) -> Self:
        if both := sorted(self.client.keys() & self.client_files.keys()):
            raise ValueError(f"{' and '.join(both)}: in client and in client_files: choose one")
        return self

    @field_validator("client_files", mode="before")
    @classmethod
    def _file_names(cls, value: object) -> object:
        return _named(value) if isinstance(value, dict) else value

    @field_validator("client", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        named = _named(value)
        for name, setting in named.items():
            if not isinstance(setting, str | int | float):
                raise ValueError(f"{name} must be a text, a number or a boolean")
        return named


class Requests(Section):
    """The requests topic, and this gateway's part in working on it."""

    topic: TopicName = "podpair.requests"
    """Topic that queued requests are written to."""
    group: Annotated[str, Field(min_length=1)] = "podpair"
    """Consumer group of all gateways of one model."""
    instance: str | None = None
    """Static membership (group.instance.id): a name that this pod keeps over restarts, such as a StatefulSet's pod name."""
    protocol: Literal["classic", "consumer"] = "classic"
    """How the group shares its partitions out: `classic`, by its members, on any broker; `consumer` (KIP-848), by the broker,
    from Kafka 4.0 on: nobody waits for anybody else. A fleet can be changed over one gateway after the other: while the group is
    of the other kind a gateway joins it as such, and once all want `consumer` they change together (docs/design.md)."""
    session_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 45
    """After so long without a sign of life the group takes this member's partitions away. With protocol `consumer` the broker's
    group.consumer.session.timeout.ms says how long."""
    partitions: Count = 8
    """Partitions of the topic if it is created here; no more gateways than that get work."""
    replication: Count | None = None
    """Copies of each partition if it is created here; unset is the broker's default."""
    in_flight: Count = 64
    """Queued requests that are worked on at a time."""
    attempts: Count = 3
    """How often a request that the model fails is tried."""
    backoff_seconds: PositiveSeconds = 0.2
    """Wait before the second attempt; it doubles with each."""
    busy_seconds: PositiveSeconds = 30
    """How long a request is asked again that the model refuses as busy (429, 503; gRPC RESOURCE_EXHAUSTED, UNAVAILABLE) while
    its health says that it is ready; then it is given up. Waiting for a model that is not ready doesn't count."""
    crashes: Count = 3
    """How often the model may die while it has a request, before that request is given up; such a death is no attempt."""
    exactly_once: bool = False
    """Write answers and commit their requests in one Kafka transaction: no crash leaves a second answer on the topic. Costs
    a few milliseconds a request, and needs a broker with transactions (not the embedded one)."""
    transaction_timeout_seconds: Annotated[float, Field(ge=1)] = 10
    """After so long the broker ends the transaction that a gateway has left open by dying; until then readers wait at it."""
    ordering: Literal["none", "session"] = "none"
    """`session`: the queued requests of a session are worked on one after the other, in order; `none`: they spread over the
    fleet. The same on every gateway."""
    remembered_bytes: Annotated[int, Field(ge=0)] = 1 << 24
    """Answers of queued requests that are kept: a request that is read a second time is given the same."""
    dead_letters: bool = True
    """Keep requests that no attempt could answer on the topic `<requests.topic>.dlq` (`podpair-gateway replay`)."""
    dead_letter_retention_seconds: PositiveSeconds = 604_800
    """How long they are kept, if that topic is created here."""

    @property
    def dead_letter_topic(self) -> str | None:
        """The topic for dead letters; None: they are only logged."""
        return f"{self.topic}.dlq" if self.dead_letters else None


class Results(Section):
    """The results topic: the log that sessions are fed from and resume by."""

    topic: TopicName = "podpair.results"
    """Topic that results and pushes are written to."""
    partitions: Count = 8
    """Partitions of the topic if it is created here. Growing it later moves sessions' homes."""
    replication: Count | None = None
    """Copies of each partition if it is created here; unset is the broker's default."""
    retention_seconds: PositiveSeconds = 3600
    """How long results can be resumed, if the topic is created here."""
    tail_bytes: Count = 64 << 20
    """Memory for the newest records of all partitions read here; a reconnect that finds its place in it asks no broker."""
    linger_seconds: Seconds = 30
    """How long a partition is still read after its last session left."""


class Inference(Section):
    """The other half of the pair."""

    url: str = "http://127.0.0.1:8081"
    """Where it answers V2: http://host:port or https:// (REST), grpc://host:port, grpcs:// or unix:/path (gRPC)."""
    ready_path: Annotated[str, Field(pattern="^/")] = "/v2/health/ready"
    """What answers 200 where it is ready, over REST: a server of OpenAI's protocol only may have another path."""
    chat_path: Annotated[str, Field(pattern="^/")] = "/v1/chat/completions"
    """Where it answers OpenAI's chat completions, over REST."""
    timeout_seconds: PositiveSeconds = 30
    """How long one call may take; of a stream, how long the next part may take."""
    probe_seconds: PositiveSeconds = 0.5
    """How often its readiness is asked for."""
    max_response_bytes: Annotated[int, Field(ge=1024)] = 64 << 20
    """Largest answer that is taken, of a stream its largest event; one that is larger is an error."""

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


class Coalescing(Section):
    """Requests for the same model and shape that arrive while a call is in flight go to it together, as one call."""

    enabled: bool = True
    """Let requests share calls, where the model takes rows of any number and a row's answer is the same alone and in company:
    as the server says (`rows` of podpair's container, `max_batch_size` above 1 in Triton's configuration), or as is found out."""
    alone: Texts = ()
    """Models whose requests always go alone."""
    together: Texts = ()
    """Models whose requests share calls on your word, where the server does not say whether they may."""
    probe: bool = True
    """Find out whether requests may share calls, where neither the server nor `together` says: four requests' rows are asked
    again, alone and in one call, six calls more in all. Off: they go alone."""
    calls: Count = 1
    """Calls that a model has at a time from requests that may share them; more where it says that it has more instances."""
    rows: Count = 1024
    """Rows of one call; fewer where the model says so."""
    bytes: Count = 4 << 20
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
        if value is not None and not _is_web(value):
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
    requests: Requests = Field(default_factory=Requests)
    results: Results = Field(default_factory=Results)
    inference: Inference = Field(default_factory=Inference)
    coalescing: Coalescing = Field(default_factory=Coalescing)
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
        if self.requests.exactly_once and self.kafka.embedded:
            raise ValueError("requests.exactly_once needs a real broker: the embedded one keeps no transactions")
        return self

    def _share_an_address(self) -> bool:
        same_host = self.operations.host in (None, self.http.host)
        return same_host and self.operations.port == self.http.port != 0
