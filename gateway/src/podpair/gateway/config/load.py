"""Loads the configuration, and reports every fault at once, each with its source and what would be valid."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from podpair.common.faults import FaultsError
from podpair.common.field_names import closest, names_at
from podpair.common.gateway_config.model import Config
from podpair.common.lists import decode
from podpair.common.settings import read_mapping

PREFIX = "PODPAIR_"
_SEPARATOR = "__"


class _Environment(BaseSettings, Config):
    """Config, filled from the environment over what the file says."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=_SEPARATOR,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return _Variables(settings_cls), init_settings


class _Variables(EnvSettingsSource):
    """The environment. A variable for a list, a mapping or a section may be JSON; if it is none, its setting says so."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        # What is said of a part of a mapping comes over what is said of the whole, whichever the environment has first.
        self.env_vars = dict(sorted(self.env_vars.items(), key=lambda item: item[0].count(_SEPARATOR)))

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Return the decoded value, or the text itself: then the setting's own error says what it needs."""
        try:
            return decode(value)
        except ValueError:
            return value


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Load the configuration from defaults, then the YAML file at `path`, then the environment, then `overrides` (nested).

    Raises FaultsError with all faults.
    """
    values = _read(path) if path is not None else {}
    faults = _unknown_in_environment()
    known_overrides = overrides or {}
    try:
        settings = _Environment(**values)
        merged = _merge(settings.model_dump(exclude_unset=True), known_overrides)
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise FaultsError(faults + [_describe(item, path, values) for item in error.errors()]) from None
    if faults:
        raise FaultsError(faults)
    return config


def _read(path: Path) -> dict[str, Any]:
    # A section whose every line is commented out is null, and says nothing.
    return {str(name): value for name, value in read_mapping(path, "kafka: …").items() if value is not None}


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(value, Mapping) and isinstance(below, dict) else value
    return merged


def _unknown_in_environment() -> list[str]:
    """Return variables that look like settings and are none.

    Only names with `__` count: Kubernetes itself sets PODPAIR_…_SERVICE_HOST in a pod beside a service of that name.
    """
    sections = {name.upper() for name, field in Config.model_fields.items() if _section(field.annotation)}
    faults = []
    known = [name.lower() for name in sections]
    for name in sorted(os.environ):
        section, separator, _ = name.removeprefix(PREFIX).partition(_SEPARATOR)
        if name.startswith(PREFIX) and separator and section not in sections:
            section = section.lower()
            faults.append(f"{name} (environment): there is no section {section!r}{_suggest(section, known)}")
    return faults


def _section(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _describe(error: Any, path: Path | None, values: dict[str, Any]) -> str:
    location: tuple[Any, ...] = error["loc"]
    name = ".".join(str(part) for part in location)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"there is no such setting{_suggest(str(location[-1]), names_at(Config, location[:-1]))}"
    elif error["type"] in ("model_type", "dict_type"):
        message = f"settings by name are needed here{_why_none(error['input'])}"
    source = _source(location, path, values)
    return f"{name}{source}: {message}" if name else f"configuration: {message}"


def _why_none(value: Any) -> str:
    """Return what is wrong with a text that should be a mapping."""
    try:
        return ', as {"name": "value"}' if isinstance(value, str) and isinstance(decode(value), str) else ""
    except ValueError as error:
        return f": {error}"


def _source(location: tuple[Any, ...], path: Path | None, values: dict[str, Any]) -> str:
    for length in range(len(location), 0, -1):  # of the setting itself, or of the list or section that it is in
        variable = PREFIX + _SEPARATOR.join(str(part).upper() for part in location[:length])
        if variable in os.environ:
            return f" ({variable})"
    below: Any = values
    for part in location:
        if not isinstance(below, dict) or part not in below:
            return ""
        below = below[part]
    return f" ({path})" if location else ""


def _suggest(name: str, known: Iterable[str]) -> str:
    meant = closest(name, known)
    return f"; did you mean {meant!r}?" if meant else ""
