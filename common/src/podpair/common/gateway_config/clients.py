"""Settings of what clients meet: addresses, tokens, sessions, limits."""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from podpair.common.gateway_config.fields import Count, Port, PositiveSeconds, Seconds, Section, is_web_url
from podpair.common.lists import Listed, Texts
from podpair.common.origins import canonical_origin, is_origin

_SHORTEST_SECRET = 32  # bytes; RFC 7518, 3.2

# As the operator takes it for an Ingress (UrlPath): no part is empty, `.` or `..`, and no slash is hidden.
_PCHAR = r"(?:[-A-Za-z0-9_~!$&'()*+,;=:@.]|%(?:[013-9a-fA-F][0-9a-fA-F]|2[0-9a-eA-E]))"
_PATH = re.compile(rf"(?:/(?!\.{{1,2}}(?:/|$)){_PCHAR}+)*/?")


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

    trusted_proxies: Texts = ()
    """Proxies before the gateway whose X-Forwarded-Host, -Proto and -For (or Forwarded, RFC 7239) count, as addresses or networks
    such as 10.0.0.0/8; `*` is any peer. For proxies that don't pass Host on as it came, which `origins` is judged by."""
    base_path: str = ""
    """Path below which clients find this gateway, such as /digits, if a proxy leads only that here: everything is served there
    then, and at the root too (for probes, for clients inside the cluster, for proxies that take the prefix off)."""

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
        found = []
        for origin in value:
            known = "*" if origin == "*" else canonical_origin(origin) if is_origin(origin) else None
            if known is None:
                raise ValueError(
                    f"{origin!r} is not an origin: write scheme://host[:port], without a path or a slash behind it"
                )
            found.append(known)
        return tuple(found)

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            try:
                if proxy != "*":
                    ip_network(proxy, strict=False)
            except ValueError:
                raise ValueError(f"{proxy!r} is no address and no network such as 10.0.0.0/8 (or `*`)") from None
        return value

    @field_validator("base_path")
    @classmethod
    def _base_path(cls, value: str) -> str:
        if value and not _PATH.fullmatch(value):
            raise ValueError(
                f"{value!r} is not a path such as /digits: without //, /., /.. and %2F, other characters as %20"
            )
        return value.rstrip("/")


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
    """PEM file with a public key: RSA, EC (P-256, P-384, P-521, secp256k1), Ed25519 or Ed448 (docs/issuers.md)."""
    jwks_url: str | None = None
    """Where the issuer publishes its keys (RFC 7517); docs/issuers.md says which are used, and has those of common issuers."""
    jwks_cache_seconds: PositiveSeconds = 300
    """How long fetched keys are used before they are fetched again; for as long again they are used while a fetch runs."""
    jwks_stale_seconds: PositiveSeconds = 86_400
    """How long the last keys are used while the issuer gives none; then no token is taken, and the gateway isn't ready."""
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
        if self.jwks_url is not None and not is_web_url(self.jwks_url):
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
    idempotency_bytes: Annotated[int, Field(ge=0)] = 1 << 15
    """What is kept of each session's ended requests: who asks again with the same id is given the same. One half is for the
    ids of those that ended last (16 at least, 256 at most), the other for answers of direct requests, with their ids."""
    idempotency_ttl_seconds: Seconds = 120
    """How long they are kept after the connection closes."""
    slow_consumer_timeout_seconds: PositiveSeconds = 10
    """A client that leaves a full buffer untouched for so long is closed with 3008; it may resume."""

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if self.resume_secret is not None and self.resume_secret_file is not None:
            raise ValueError("resume_secret and resume_secret_file are set: choose one")
        _check_length("resume_secret", self.resume_secret)
        return self


class Limits(Section):
    """Hard limits."""

    sessions: Count = 20_000
    """Connections that this gateway holds."""
    connections: Count = 4096
    """Connections that are no sessions (calls over HTTP, heads and handshakes that aren't complete). For one more the longest
    idle one is closed; if none is idle it is refused with 503."""
    connects_per_second: Annotated[float, Field(gt=0)] | None = None
    """Connections that are let in a second; more are refused, with a time to come again. Those that are refused, for
    their tokens or otherwise, do not count. Unset: any."""
    connects_burst: Count = 1000
    """Connections that are let in at once after a pause, if `connects_per_second` is set."""
    message_bytes: Annotated[int, Field(ge=1024)] = 1 << 20
    """Largest frame or request body from a client."""
    invalid_frames: Count = 100
    """Frames of one connection in a minute that are no message of the protocol, or a refused token; one more closes it (1008)."""
    in_flight: Count = 256
    """Open requests of one session, whether or not its client is connected: queued ones count until their answers are there, or
    for `results.retention_seconds`."""
    max_direct_in_flight: Count = 64
    """Direct requests that the inference container has at a time; beyond it `auto` goes through Kafka."""


class AdmissionRule(Section):
    """Limits and permissions of tokens that have a claim. All rules that fit a token apply; counts are this gateway's."""

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
    routes: Annotated[tuple[Literal["auto", "direct", "queue"], ...], Listed] = ()
    """Routes that may be taken; empty: all. Where `auto` isn't among them, it becomes the first."""
    priority: Literal["low", "normal", "high"] | None = None
    """Whose requests go first where they wait for the model: direct ones by it, queued ones a step below. Of direct requests
    `low` leaves half of `limits.max_direct_in_flight` to others, `high` goes a quarter beyond it. The first rule that has one
    decides."""


class Admission(Section):
    """What users may ask for, besides `limits`, which holds for all."""

    rules: Annotated[tuple[AdmissionRule, ...], Listed] = ()
    """Limits and permissions by claim."""
    load_shedding: bool = True
    """Refuse at once, with `retry_after_ms`, a request whose deadline is shorter than the estimated response time."""
