"""The container's configuration: a YAML file (`--config`), `PODPAIR_` variables over it, the command line over both.

The gateway reads the same environment: sections that aren't ours are left alone there, but not in the file. The environment
is read here, in a dozen lines: importing pydantic-settings takes as long as loading a model.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from podpair.common.faults import FaultsError
from podpair.common.sentences import sentences
from podpair.common.settings import read_mapping
from podpair.inference.core.model_config import VersionWeights

PREFIX = "podpair_"


class _Section(BaseModel):
    # Only what is used is built: a sixth of the start-up time.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ServerSettings(_Section):
    """Where the container listens; localhost, because only its gateway may ask it."""

    host: str = "127.0.0.1"
    # 0 takes any free port; the log's record "listening" names it.
    port: Annotated[int, Field(ge=0, le=65535)] = 8081
    # A Unix socket to listen at instead.
    socket: Path | None = None
    # A larger request is refused with 413.
    max_body_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    # Bytes of all large requests together that are read, wait or are answered; past it: 429, RESOURCE_EXHAUSTED.
    max_pending_bytes: Annotated[int, Field(gt=0)] = 1024 * 1024 * 1024
    # How long a stop waits for what is queued and runs.
    shutdown_seconds: Annotated[float, Field(ge=0)] = 20.0


class GrpcSettings(_Section):
    """gRPC, at the same host."""

    enabled: bool = True
    # Default: the one after server.port, 8082; any free one if that is 0. The log's record "gRPC is ready" names it.
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    # A Unix socket to listen at instead.
    socket: Path | None = None
    # core: on grpcio's core, if it is one that podpair knows; http2: on HTTP/2 of our own, on trial; aio: on grpc.aio.
    server: Literal["http2", "core", "aio"] = "core"
    # How answers are compressed for clients that can decompress them.
    compression: Literal["none", "gzip", "deflate"] = "none"


class ModelsSettings(_Section):
    """What is served."""

    # A folder of <model>/<version>/model.onnx or model.py; default: `models`, unless there are classes.
    repository: Path | None = None
    # Python classes outside of a repository, each `module:Class` or `name=module:Class`.
    classes: tuple[str, ...] = ()
    # Model → version → weight, as {"digits": {"3": 90, "2": 10}}: goes before `versions` in that model's model.yaml.
    weights: dict[str, VersionWeights] = {}
    # The same in a file, YAML or JSON, which goes before `weights` and is read again whenever it changes.
    weights_file: Path | None = None
    # Load models that are new in the repository or have changed, and unload those that were removed.
    watch: bool = False
    # Exit if one of the models can't be loaded at the start; default: the others are served, and the fault is in the log, the
    # index, its readiness and inference_model_ready.
    exit_on_error: bool = False
    # Libraries of custom operators that ONNX models may use, each a path or a module such as onnxruntime_extensions.
    custom_op_libraries: tuple[str, ...] = ()
    # Threads that decode images, for all models together; default: about 80 % of the cores.
    prepare_threads: Annotated[int, Field(gt=0)] | None = None
    # How often files are looked at for changes.
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] = 2.0

    @property
    def folder(self) -> Path | None:
        """The repository, if one is served."""
        return self.repository or (None if self.classes else Path("models"))


class LogSettings(_Section):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class TracingSettings(_Section):
    """OpenTelemetry traces of requests, below the spans of the gateway."""

    # Where a collector takes spans over OTLP/HTTP, such as http://collector:4318/v1/traces; default: no tracing.
    endpoint: Annotated[str, Field(pattern="^https?://")] | None = None
    # Share of requests that are traced, of those without a `traceparent`; with one, the caller has decided.
    sample: Annotated[float, Field(ge=0, le=1)] = 0.0
    # The name of this service (service.name).
    service: str = "podpair-inference"


class Settings(_Section):
    """The whole configuration."""

    server: ServerSettings = ServerSettings()
    grpc: GrpcSettings = GrpcSettings()
    models: ModelsSettings = ModelsSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()

    @property
    def grpc_port(self) -> int:
        """Where gRPC listens; 0: any free port."""
        if self.grpc.port is not None:
            return self.grpc.port
        return self.server.port + 1 if 0 < self.server.port < 65535 else 0


def load_settings(file: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """Load the configuration. overrides: section → setting → value, from the command line. Raises FaultsError with all faults."""
    content = read_mapping(file, "server: …") if file is not None else {}
    given: dict[str, Any] = dict(overrides or {})
    try:
        return Settings.model_validate(_merged(_merged(content, _environment()), given))
    except ValidationError as error:
        raise FaultsError(sentences(error, Settings, lambda where: _source(where, given, file))) from None


def _environment() -> dict[str, Any]:
    """Read our sections of `PODPAIR_SECTION__SETTING`; a list is JSON or comma-separated, a mapping or whole section is JSON."""
    found: dict[str, Any] = {}
    # Whole sections come first: a setting overrides its section.
    for variable, value in sorted(os.environ.items(), key=lambda item: "__" in item[0]):
        section, _, key = variable.lower().removeprefix(PREFIX).partition("__")
        if variable.lower().startswith(PREFIX) and section in Settings.model_fields:
            if not key:
                found[section] = _json(value)
            elif isinstance(settings := found.setdefault(section, {}), dict):
                settings[key] = _parts(value) if key in _LISTS else _json(value)
    return found


_LISTS = {name for name, field in ModelsSettings.model_fields.items() if get_origin(field.annotation) is tuple}


def _parts(value: str) -> Any:
    """Parse a variable that is a list, as JSON or comma-separated."""
    if value.lstrip().startswith(("[", "{")):
        return _json(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _json(value: str) -> Any:
    """Parse a variable as JSON if it is an object or a list; else return its text, which validation may refuse."""
    try:
        return json.loads(value) if value.lstrip().startswith(("[", "{")) else value
    except ValueError:
        return value


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` overridden by `over`, section by section."""
    merged = dict(base)
    for section, values in over.items():
        below = merged.get(section)
        merged[section] = {**below, **values} if isinstance(below, dict) and isinstance(values, Mapping) else values
    return merged


def _source(where: tuple[Any, ...], overrides: Mapping[str, Any], file: Path | None) -> str:
    """Return the source of a setting: the one with the highest precedence that has it."""
    section, key = str(where[0]), str(where[1]) if len(where) > 1 else ""
    if key in overrides.get(section, {}):
        return "command line"
    variable = f"PODPAIR_{section}__{key}".upper() if key else f"PODPAIR_{section}".upper()
    if variable in {name.upper() for name in os.environ}:
        return f"environment {variable}"
    return str(file) if file else "settings"
