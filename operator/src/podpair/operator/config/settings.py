"""The operator's settings: one model, read from the environment (`PODPAIR_OPERATOR_`, `__` between levels).

Everything is checked before anything runs, and all faults are reported at once. The chart podpair-operator writes these names.
"""

import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from podpair.common.faults import FaultsError
from podpair.common.lists import Listed
from podpair.operator.core.policy import Policy

PREFIX = "PODPAIR_OPERATOR_"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


FieldPath = Annotated[str, Field(pattern=r"^(metadata|spec)(\.[^.\[\]\s]+)+$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Port = Annotated[int, Field(ge=0, le=65_535)]
_DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]


class Http(_Section):
    """Where /healthz, /readyz and /metrics are served."""

    host: str = "0.0.0.0"
    """Address to listen on."""
    port: Port = 8080
    """Port; 0 is any free one."""


class MetricsApi(_Section):
    """The external metrics API (external.metrics.k8s.io) that autoscalers read."""

    enabled: Literal["auto", "always", "never"] = "auto"
    """auto: unless somebody else, such as KEDA or an adapter, serves that API already."""
    host: str = "0.0.0.0"
    """Address to listen on."""
    port: Port = 6443
    """Port; 0 is any free one."""
    service: _DnsName = "podpair-operator-metrics-api"
    """The Service in front of it, in the operator's namespace: what the APIService and the certificate name."""
    secret: _DnsName = "podpair-operator-metrics-api"  # noqa: S105 - the name of a Secret
    """The Secret that keeps its certificate, in the operator's namespace."""
    owner: str | None = None
    """A ClusterRole of the installation that owns the APIService, its Secret and a Lease that the operator makes: they go with
    it, and none is made while it isn't there."""
    client_ca: Path | None = None
    """File with the authority (PEM) of the API server's client certificate; default: what the cluster publishes."""


class Brokers(_Section):
    """The processes that ask Kafka brokers: one per address and credentials, so that a broker can crash only its own."""

    processes: Annotated[int, Field(ge=2, le=256)] = 6
    """Most processes at the same time; more brokers take turns."""
    process_memory_bytes: Annotated[int, Field(ge=64 << 20)] = 128 << 20
    """Memory of one; one that takes more is ended."""
    idle_seconds: Annotated[float, Field(ge=1)] = 60
    """One that was not asked for so long is ended."""
    allow_readable_credentials: bool = False
    """Let resources show passwords (SASL PLAIN, OAUTHBEARER) to brokers without TLS, or whose certificate isn't checked."""
    secrets: Annotated[tuple[str, ...], Listed] = ()
    """Secrets with brokers' credentials that need no label, as NAMESPACE/NAME with commas; `*` stands for anything."""


class PodTemplates(_Section):
    """What resources may set of their pods."""

    forbidden: Annotated[tuple[FieldPath, ...], Listed] = ()
    """Fields of a pod template that no resource may set, with commas: `spec.volumes.hostPath,spec.hostNetwork`. Lists are passed
    through, and `*` stands for any field."""


class Lease(_Section):
    """The Lease that decides which of several operators writes."""

    name: _DnsName = "podpair-operator"
    """Its name, in the operator's namespace."""
    duration_seconds: Annotated[float, Field(ge=1, le=3600)] = 15
    """After so long without a renewal another operator takes over."""


class Log(_Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity."""
    format: Literal["json", "text"] = "json"
    """One JSON object a line, or text for people."""


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        enable_decoding=False,  # a variable is a text, never JSON
        # Not `forbid`: Kubernetes adds PODPAIR_OPERATOR_SERVICE_HOST and its like if there is such a Service.
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    namespaces: Annotated[tuple[_DnsName, ...], Listed] = ()
    """Namespaces whose resources are kept, with commas; none: those of the whole cluster."""
    namespace: Annotated[str, Field(default_factory=lambda: _own_namespace())]
    """The operator's own namespace."""
    identity: Annotated[str, Field(default_factory=socket.gethostname, min_length=1)]
    """Who this operator is, among others: the pod's name."""
    gateway_image: Annotated[str, Field(min_length=1)]
    """The gateway's image if a resource names none."""
    http: Http = Field(default_factory=Http)
    """Health and metrics."""
    metrics_api: MetricsApi = Field(default_factory=MetricsApi)
    """The external metrics API."""
    brokers: Brokers = Field(default_factory=Brokers)
    """How Kafka brokers are asked, and what they may be shown."""
    pod_templates: PodTemplates = Field(default_factory=PodTemplates)
    """What resources may set of their pods."""
    lease: Lease = Field(default_factory=Lease)
    """Which of several operators writes."""
    resync_seconds: Annotated[float, Field(ge=1)] = 600
    """Every resource is reconciled this often, even if no change was seen."""
    watch_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """How long one watch request lasts; a watch that is silent for three times that long is dead (/healthz)."""
    kafka_seconds: Annotated[float, Field(ge=1)] = 15
    """How often a broker is asked for topics and lag."""
    scrape_seconds: Annotated[float, Field(ge=1)] = 15
    """How often the gateways are asked for their sessions."""
    workers: Annotated[int, Field(ge=1, le=256)] = 4
    """Resources that are reconciled at a time."""
    log: Log = Field(default_factory=Log)
    """What is logged."""

    @property
    def policy(self) -> Policy:
        """What resources may not do."""
        return Policy(self.brokers.allow_readable_credentials, self.brokers.secrets, self.pod_templates.forbidden)


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        return "default"


def load() -> Settings:
    """Read the settings from the environment. Raises FaultsError with all faults."""
    try:
        return Settings()  # type: ignore[call-arg]  # the environment fills it
    except ValidationError as error:
        raise FaultsError([_message(one) for one in error.errors()]) from None


def _message(error: Any) -> str:
    name = PREFIX + "__".join(str(part) for part in error["loc"] if isinstance(part, str)).upper()
    if error["type"] == "missing":
        return f"{name} is not set: {(Settings.model_fields[error['loc'][0]].description or '').lower()}"
    if error["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    value = os.environ.get(name)
    return f"{name}: {error['msg'].removeprefix('Input ')}{'' if value is None else f', and is {value!r}'}"
