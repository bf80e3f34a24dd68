"""`spec.gateway`: the half that holds connections, sessions and queues."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from podpair.operator.core.api.cache import Cache
from podpair.operator.core.api.channels import Channels, Presence
from podpair.operator.core.api.inference import PullPolicy, Variable
from podpair.operator.core.api.peers import Cidr
from podpair.operator.core.api.quantities import Quantities, Resources
from podpair.operator.core.api.rules import KeyedBy, Rule, Section
from podpair.operator.core.api.scalars import (
    ORIGIN,
    Count,
    Duration,
    DurationOrZero,
    Image,
    Quantity,
    SecretKey,
    SecretName,
    Text,
    Url,
    seconds,
    to_decimal,
)
from podpair.operator.core.api.workflows import Workflows

LEAVING_SECONDS = 5  # until every proxy in the cluster has heard that the pod is leaving
STOPPING_SECONDS = LEAVING_SECONDS + 10
"""What a pod needs to stop besides `drain` and `shutdownTimeout`: besides the above, the model ends after the gateway."""
_SMALLEST = "1Ki"
_Short = Annotated[str, Field(min_length=1, max_length=253)]


def _one_way(auth: "Auth") -> bool:
    ways = (auth.jwks_url is not None, auth.secret_ref is not None, auth.public_key_ref is not None, auth.disabled)
    return sum(ways) == 1


class Auth(Section):
    """How clients' tokens (JWT) are verified: exactly one of jwksUrl, secretRef, publicKeyRef; or disabled."""

    RULES: ClassVar = (
        Rule(
            "[has(self.jwksUrl), has(self.secretRef), has(self.publicKeyRef), self.disabled].filter(w, w).size() == 1",
            "exactly one of jwksUrl, secretRef, publicKeyRef must be set (or disabled: true, for development)",
            _one_way,
        ),
    )
    jwks_url: Url | None = None
    """Where the issuer publishes its keys (RFC 7517)."""
    secret_ref: SecretKey | None = None
    """A shared secret for HS256, 32 bytes at least."""
    public_key_ref: SecretKey | None = None
    """A public key in PEM: RSA, EC (P-256, P-384, P-521, secp256k1), Ed25519 or Ed448."""
    disabled: bool = False
    """Let everyone in. For development only."""
    issuer: Text | None = None
    """The `iss` that a token must have."""
    audience: Text | None = None
    """The `aud` that a token must have."""
    leeway: DurationOrZero = "10s"
    """Clock difference that `exp` and `nbf` are allowed."""
    required_claims: Annotated[tuple[Text, ...], Field(max_length=32)] = ("exp", "sub")
    """Claims that a token must have."""
    session_claim: Text | None = None
    """A claim that names the session, whose id is `<sub>/<claim>` then. Unset: a session is new unless it is resumed. Not the
    `sid` of an OIDC issuer, which is one for all pages of a login."""
    query_token: bool = False
    """Accept a token in `?token=` too. URLs end up in logs: leave it off if clients can send a header."""


class PublicTls(Section):
    """TLS at the pods' own port, so that nobody between clients and pods can read along."""

    certificate_ref: SecretName
    """A Secret with `tls.crt` and `tls.key`, as cert-manager makes it. A renewed certificate is loaded without a restart."""


class Sessions(Section):
    """How long sessions live, and how much may wait for one client."""

    RULES: ClassVar = (
        Rule(
            f"quantity(string(self.buffer)).compareTo(quantity('{_SMALLEST}')) >= 0",
            f"buffer must be {_SMALLEST} at least",
            lambda sessions: to_decimal(sessions.buffer) >= to_decimal(_SMALLEST),
        ),
    )
    max: Count = 20_000
    """Connections that one pod holds."""
    idle: DurationOrZero = "1h"
    """A connection without traffic for this long is closed; 0s: never."""
    heartbeat: Duration = "25s"
    """How often a WebSocket is pinged."""
    resume: Duration = "24h"
    """How long a resume token is good for. Only what `kafka.results.retention` still holds can be resumed."""
    buffer: Quantity = "1Mi"
    """Bytes that may wait for one slow client before its connection is closed."""


class Limits(Section):
    """Hard limits."""

    RULES: ClassVar = (
        Rule(
            f"quantity(string(self.message)).compareTo(quantity('{_SMALLEST}')) >= 0",
            f"message must be {_SMALLEST} at least",
            lambda limits: to_decimal(limits.message) >= to_decimal(_SMALLEST),
        ),
    )
    message: Quantity = "1Mi"
    """Largest frame or request body from a client."""
    in_flight: Count = 256
    """Open requests of one session."""
    max_direct_in_flight: Count = 64
    """Direct requests that one model has at a time; beyond it they go through Kafka."""
    max_queued_in_flight: Count = 64
    """Queued requests that one pod works on at a time."""
    max_attempts: Count = 3
    """How often a queued request is tried if the model fails."""


class AdmissionRule(Section):
    """What tokens with a claim may do. All rules that match a token apply; each pod counts by itself."""

    RULES: ClassVar = (
        Rule(
            "!has(self.burst) || has(self.requestsPerSecond)",
            "burst says how far requestsPerSecond may be passed for a moment: set that too",
            lambda rule: rule.burst is None or rule.requests_per_second is not None,
        ),
    )
    claim: _Short = "sub"
    """The claim by whose value tokens are counted together: `sub` is each user, `tenant` (say) all users of a tenant."""
    value: _Short | None = None
    """Only tokens whose claim is this, or is a list that holds it. Default: any value, each counted by itself."""
    sessions: Count | None = None
    """Sessions that are connected to one pod at a time."""
    requests_per_second: Count | None = None
    """Requests a second, at one pod."""
    burst: Count | None = None
    """Requests at once after a pause; default: those of one second."""
    in_flight: Count | None = None
    """Requests that are open at a time, over all sessions at one pod."""
    models: Annotated[tuple[_Short, ...], Field(max_length=64)] = ()
    """Models that may be asked, as patterns (`chat-*`); none: all."""
    routes: Annotated[tuple[Literal["auto", "direct", "queue"], ...], Field(max_length=3)] = ()
    """Routes that may be taken; none: all. If `auto` isn't among them, it means the first."""
    priority: Literal["low", "normal", "high"] | None = None
    """Whose requests go first where they wait for the model: direct ones by it, queued ones a step below. Of direct requests
    `low` leaves half of `limits.maxDirectInFlight` to others, `high` goes a quarter beyond it. The first rule with a priority
    decides."""


class Admission(Section):
    """What users may ask for, besides `limits`, which holds for all."""

    rules: Annotated[tuple[AdmissionRule, ...], Field(max_length=32)] = ()
    """Limits and permissions by claim."""
    load_shedding: bool = True
    """Refuse at once a request whose deadline is shorter than the estimated response time."""


class GatewayResources(Resources):
    """What the gateway requests and may use at most, as in a pod."""

    DEFAULT: ClassVar = {"cpu": "250m", "memory": "256Mi"}
    requests: Quantities | None = None
    """Reserved for it by the scheduler. Default: 250m of CPU and 256Mi of memory, but a resource in `limits` is requested in
    that amount."""


def _drained_in_time(gateway: "Gateway") -> bool:
    grace = gateway.termination_grace_period
    needs = seconds(gateway.drain) + seconds(gateway.shutdown_timeout) + STOPPING_SECONDS
    return grace is None or needs <= seconds(grace)


class Gateway(Section):
    """The half that holds connections, sessions and queues."""

    RULES: ClassVar = (
        Rule(
            "!has(self.terminationGracePeriod) || "
            f"duration(self.drain) + duration(self.shutdownTimeout) + duration('{STOPPING_SECONDS}s') <= "
            "duration(self.terminationGracePeriod)",
            f"drain ({{drain}}) and shutdownTimeout ({{shutdownTimeout}}) must end {STOPPING_SECONDS}s before"
            " terminationGracePeriod, so that the model can end, too: lower them, or leave terminationGracePeriod out"
            " (it follows them)",
            _drained_in_time,
        ),
    )
    image: Image | None = None
    """Its image; default: the one that belongs to the operator's version."""
    image_pull_policy: PullPolicy | None = None
    """When the image is pulled, as in a pod."""
    resources: GatewayResources = Field(default_factory=GatewayResources)
    """What the container requests and may use at most."""
    env: Annotated[
        tuple[Variable, ...],
        Field(max_length=128),
        KeyedBy("name"),
    ] = ()
    """Environment variables; PODPAIR_… ones override what this resource says. A value that the gateway would refuse is a fault of
    the resource; one that is known only in the pod (valueFrom, `$(NAME)`) is the gateway's to refuse."""
    sessions: Sessions = Field(default_factory=Sessions)
    """How long sessions live, and how much may wait for one client."""
    auth: Auth
    """How clients' tokens (JWT) are verified."""
    tls: PublicTls | None = None
    """TLS at the pods' own port; default: plain HTTP, for an Ingress or a Gateway that ends TLS. One in front of pods with
    TLS must be configured for it (an annotation of the Ingress, a BackendTLSPolicy)."""
    origins: Annotated[
        tuple[Annotated[str, Field(pattern=ORIGIN, max_length=512)], ...],
        Field(max_length=64),
    ] = ()
    """Origins whose pages may connect, such as https://app.example; `*` is any. None: only pages of the gateway itself."""
    trusted_proxies: Annotated[tuple[Cidr, ...], Field(max_length=64)] = ()
    """Networks of proxies whose X-Forwarded-Host, -Proto and -For (or Forwarded) count, such as 10.0.0.0/8: for an Ingress
    controller or a Gateway that doesn't pass Host on as it came, which `origins` is checked against."""
    limits: Limits = Field(default_factory=Limits)
    """Hard limits."""
    admission: Admission = Field(default_factory=Admission)
    """What users may ask for, by the claims of their tokens."""
    cache: Cache | None = None
    """Answers that are given again without asking the model; default: none."""
    channels: Channels | None = None
    """Channels that sessions may subscribe to; default: none."""
    presence: Presence | None = None
    """Know which sessions of a subject are connected, at whichever pods; default: not known."""
    workflows: Workflows | None = None
    """Run workflows that are declared beside the models; default: none."""
    drain: DurationOrZero = "30s"
    """When a pod stops, its clients are sent to other pods, spread over this time."""
    shutdown_timeout: Duration = "20s"
    """How long the work in hand may take to end when a pod stops, besides `drain`: raise it for long streams. It is a bound: a
    pod whose work has ended waits no longer. Queued requests that don't end in time are begun anew by another pod."""
    termination_grace_period: Duration | None = None
    """How long a pod may take to stop in all; default: drain, shutdownTimeout and 15 s."""
    console: bool = False
    """Serve the console, a page to try the model with, at `/` of the public port."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
