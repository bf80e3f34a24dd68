"""`spec.inference`: the half that computes, and what is laid over the pod."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from podpair.operator.core.api.quantities import Quantities, Resources
from podpair.operator.core.api.rules import KeyedBy, Rule, Section
from podpair.operator.core.api.scalars import (
    OPERATIONS_PORT,
    PUBLIC_PORT,
    Count,
    Duration,
    Image,
    MountPath,
    Name,
    OneOf,
    Passed,
    Port,
    SecretName,
    UrlPath,
    as_integer,
)

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


class Version(Section):
    """One version of a model."""

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=63)]
    """Its name, as in the model repository's folder."""
    weight: Annotated[int, Field(ge=0, le=100)] = 100
    """Its share, in per cent, of the requests that name no version."""


def _weights(model: "Model") -> bool:
    return len(model.versions) == 0 or sum(v.weight for v in model.versions) == 100


class Model(Section):
    """A model that the inference container serves."""

    RULES: ClassVar = (
        Rule(
            "!has(self.versions) || size(self.versions) == 0 || self.versions.map(v, v.weight).sum() == 100",
            "the weights of a model's versions must add up to 100",
            _weights,
        ),
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=63)]
    """The name that clients ask for."""
    versions: Annotated[
        tuple[Version, ...],
        Field(max_length=16),
        KeyedBy("version"),
    ] = ()
    """Its versions, which only podpair-inference chooses from by weight; none: the container decides."""
    timeout: Duration | None = None
    """How long a call of it may take, a stream until its next part; unset: spec.inference.timeout."""


class InferenceResources(Resources):
    """What the inference container requests and may use at most, as in a pod."""

    DEFAULT: ClassVar = {"cpu": "500m", "memory": "512Mi"}
    requests: Quantities | None = None
    """Reserved for it by the scheduler; `scaling` by `cpu` is measured against it. Default: 500m of CPU and 512Mi of memory,
    but a resource in `limits` is requested in that amount."""


class Variable(Section):
    """An environment variable."""

    RULES: ClassVar = (
        Rule(
            "!has(self.valueFrom) || !has(self.value) || self.value == ''",
            "value and valueFrom are both set: choose one",
            lambda variable: variable.value_from is None or not variable.value,
        ),
    )
    name: Annotated[str, Field(pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$", max_length=253)]
    """Its name."""
    value: Annotated[str, Field(max_length=32_768)] | None = None
    """Its value."""
    value_from: OneOf | None = None
    """Where its value comes from, as in a pod: secretKeyRef, configMapKeyRef, fieldRef."""


class HttpGet(Section):
    """A request of the kubelet's, at the pod's address: the server must listen on it, and not on localhost only."""

    path: UrlPath | None = None
    """Default: the protocol's, /v2/health/ready (startup) or /v2/health/live (liveness)."""
    port: Port | None = None
    """Default: inference.port."""


class Probe(Section):
    """How the kubelet asks the container: by a command inside, since podpair-inference listens on localhost only, or over
    HTTP."""

    RULES: ClassVar = (
        Rule(
            "!has(self.command) || !has(self.httpGet)",
            "command and httpGet are both set: choose one",
            lambda probe: probe.command is None or probe.http_get is None,
        ),
    )
    command: Annotated[tuple[str, ...], Field(min_length=1, max_length=32)] | None = None
    """Command whose success is the answer. Default for podpair's server: Python asks the protocol's health endpoint."""
    http_get: HttpGet | None = None
    """Request whose success is the answer, as in a pod. Default for other servers."""
    period: Duration = "10s"
    """How often it is run."""
    timeout: Duration = "5s"
    """How long it may take."""
    failure_threshold: Count = 3
    """Failures in a row that count."""


class StartupProbe(Probe):
    """Whether the model is ready for the first time; the gateway starts after it."""

    period: Duration = "2s"
    """How often it is run."""
    failure_threshold: Count = 150
    """Failures in a row after which the container is restarted: with the period, how long a model may load (5 minutes)."""


class Probes(Section):
    """Startup and liveness of the inference container; its readiness is part of the gateway's."""

    startup: StartupProbe = Field(default_factory=StartupProbe)
    """Whether the model is ready for the first time; the gateway starts after it."""
    liveness: Probe = Field(default_factory=Probe)
    """Whether the process still answers; if not, it is restarted."""


class Volume(Section):
    """A volume of the inference container."""

    RULES: ClassVar = (
        Rule(
            "!self.name.startsWith('podpair-') && !self.mountPath.startsWith('/etc/podpair-models')",
            "names that begin with podpair-, and /etc/podpair-models, are podpair's own: choose others",
            lambda volume: (
                not volume.name.startswith("podpair-") and not volume.mount_path.startswith("/etc/podpair-models")
            ),
        ),
    )
    name: Name
    """Its name in the pod."""
    mount_path: MountPath
    """Where it is mounted."""
    read_only: bool = True
    """Whether it can only be read."""
    source: OneOf
    """Its source, as in a pod: {persistentVolumeClaim: {claimName: models}}, {emptyDir: {}}, …"""


# Names of images that are known to be other servers'.
_OTHERS = (
    "(^|/)(tritonserver|mlserver|openvino/model_server|torchserve|torchserve-kfs|"
    "(sklearn|xgb|lgb|pmml|paddle|huggingface|custom)server)([-:@][^/]*)?$"
)


def is_podpair_in_cel(inference: str) -> str:
    """Return `Inference.is_podpair` as an expression of CEL."""
    return f"(has({inference}.server) ? {inference}.server == 'podpair' : !{inference}.image.matches('{_OTHERS}'))"


def _grace(spec: dict[str, Any]) -> dict[str, Any]:
    """Validate the one field of a pod's spec that a rule of the resource reads."""
    spec = {name: value for name, value in spec.items() if name != _GRACE or value is not None}
    grace = spec.get(_GRACE, 0)
    if isinstance(grace, bool) or not isinstance(number := as_integer(grace), int) or number > _LONGEST_GRACE:
        raise PydanticCustomError("grace", "{name} is not a whole number, or is too large", {"name": _GRACE})
    return spec


_LONGEST_GRACE = 2**31 - 1
_GRACE = "terminationGracePeriodSeconds"
_PodSpec = Annotated[
    dict[str, Any],
    AfterValidator(_grace),
    WithJsonSchema(
        {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "properties": {
                _GRACE: {
                    "type": "integer",
                    "maximum": _LONGEST_GRACE,
                    "description": "How long a pod may take to stop; default: gateway.terminationGracePeriod, else drain,"
                    " shutdownTimeout and 15 s, and never less.",
                }
            },
        }
    ),
]


class PodTemplate(Section):
    """Laid over the template of the pods: lists are merged by name, null removes. The containers are `inference`, in
    initContainers, and `gateway`, in containers."""

    metadata: Passed | None = None
    """Labels and annotations."""
    spec: _PodSpec | None = None
    """The pod's spec, as in a Deployment: nodeSelector, tolerations, affinity, …"""


class Inference(Section):
    """The half that computes: a container that answers the Open Inference Protocol V2 on localhost."""

    RULES: ClassVar = (
        Rule(
            "self.port != self.grpcPort",
            "port and grpcPort are the same ({port}): give each protocol a port",
            lambda inference: inference.port != inference.grpc_port,
        ),
        Rule(
            f"!([self.port, self.grpcPort].exists(p, p in {[PUBLIC_PORT, OPERATIONS_PORT]}))",
            f"port ({{port}}) and grpcPort ({{grpcPort}}) must not be {PUBLIC_PORT} or {OPERATIONS_PORT}, which are the"
            " gateway's in the same pod: choose others",
            lambda inference: not {inference.port, inference.grpc_port} & {PUBLIC_PORT, OPERATIONS_PORT},
        ),
        Rule(
            "!has(self.volumes) || self.volumes.all(v, self.volumes.exists_one(w, w.mountPath == v.mountPath))",
            "volumes: two are mounted at one place",
            lambda inference: len({one.mount_path for one in inference.volumes}) == len(inference.volumes),
        ),
        Rule(
            f"{is_podpair_in_cel('self')} || !has(self.models) || "
            "!self.models.exists(m, has(m.versions) && size(m.versions) > 0)",
            "models[].versions: only podpair-inference keeps weights, and the server is another: leave versions out, for that"
            " server decides which version answers (Triton: version_policy); or set server: podpair if the image is built"
            " on podpair-inference",
            lambda inference: inference.is_podpair or not any(model.versions for model in inference.models),
        ),
        Rule(
            f"!has(self.metricsPort) || !(self.metricsPort in [self.port, self.grpcPort, {PUBLIC_PORT}, {OPERATIONS_PORT}])",
            f"metricsPort must be a port of its own, not port, grpcPort, {PUBLIC_PORT} or {OPERATIONS_PORT}: Prometheus is let in"
            " there, and nobody to the model",
            lambda inference: (
                inference.metrics_port not in (inference.port, inference.grpc_port, PUBLIC_PORT, OPERATIONS_PORT)
            ),
        ),
    )

    image: Image
    """Its image. Any that answers V2 over REST will do: podpair-inference, Triton, MLServer, KServe's runtimes."""
    image_pull_policy: PullPolicy | None = None
    """When the image is pulled, as in a pod."""
    server: Literal["podpair", "other"] | None = None
    """Whose server it is. `podpair`: podpair-inference, or an image built on it. `other`: any other that answers V2; the kubelet
    then asks it over HTTP, and it decides itself which version of a model answers. Default: `other` for images named
    tritonserver, mlserver, torchserve, openvino/model_server or as KServe's runtimes, else `podpair`."""
    image_pull_secrets: Annotated[tuple[SecretName, ...], Field(max_length=16)] = ()
    """Secrets with which the pod's images are pulled."""
    command: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    """The image's entry point, replaced."""
    args: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    """The image's arguments, replaced."""
    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """The user, as a number, that it runs as: for images that would run as root, which no pod of podpair may (Triton's has 1000
    for that). Default: the image's."""
    protocol: Literal["rest", "grpc"] = "rest"
    """What the gateway speaks to it: the Open Inference Protocol V2 over REST, or over gRPC."""
    port: Port = 8081
    """The port at which it listens for REST, on 127.0.0.1 (another server: on the pod's address, too); the probes ask there,
    unless they say otherwise."""
    grpc_port: Port = 8082
    """The port at which it listens for gRPC, on 127.0.0.1."""
    metrics_port: Port | None = None
    """Where it serves metrics of its own for Prometheus, at /metrics: the PodMonitor names it, and the NetworkPolicy lets in whom
    `network.networkPolicy.operationsFrom` names. It must listen on the pod's address there. Default: none. What autoscaling
    and the gateway's metrics need of the model doesn't depend on it."""
    models: Annotated[
        tuple[Model, ...],
        Field(max_length=64),
        KeyedBy("name"),
    ] = ()
    """The models that it serves; the first one is the console's."""
    resources: InferenceResources = Field(default_factory=InferenceResources)
    """What the container requests and may use at most."""
    env: Annotated[
        tuple[Variable, ...],
        Field(max_length=128),
        KeyedBy("name"),
    ] = ()
    """Environment variables."""
    probes: Probes = Field(default_factory=Probes)
    """How the kubelet asks it whether it has started, and whether it lives."""
    volumes: Annotated[
        tuple[Volume, ...],
        Field(max_length=32),
        KeyedBy("name"),
    ] = ()
    """Volumes, such as a model repository."""
    timeout: Duration = "30s"
    """How long one call of the gateway may take."""
    pod_template: PodTemplate = Field(default_factory=PodTemplate)
    """Laid over the template of the pods, for all that has no field of its own."""

    @property
    def is_podpair(self) -> bool:
        """Whether its server is podpair-inference."""
        return re.search(_OTHERS, self.image) is None if self.server is None else self.server == "podpair"
