"""Loads the configuration, and reports every fault at once, each with its source and what would be valid."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.environment import layered, merged, reason, unknown_variables, variable_for
from podpair.common.gateway_config.model import Config
from podpair.common.settings import read_mapping


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Load the configuration from defaults, then the YAML file at `path`, then the environment, then `overrides` (nested).

    Raises FaultsError with all faults.
    """
    values = _read(path) if path is not None else {}
    faults = [f"{name} (environment): {why}" for name, why in unknown_variables(os.environ)]
    try:
        config = Config.model_validate(merged(layered(values, os.environ), overrides or {}))
    except ValidationError as error:
        raise FaultsError(faults + [_describe(item, path, values) for item in error.errors()]) from None
    if faults:
        raise FaultsError(faults)
    return config


def _read(path: Path) -> dict[str, Any]:
    # A section whose every line is commented out is null, and says nothing.
    return {str(name): value for name, value in read_mapping(path, "kafka: …").items() if value is not None}


def _describe(error: Any, path: Path | None, values: dict[str, Any]) -> str:
    location: tuple[Any, ...] = error["loc"]
    name = ".".join(str(part) for part in location)
    return f"{name}{_source(location, path, values)}: {reason(error)}" if name else f"configuration: {reason(error)}"


def _source(location: tuple[Any, ...], path: Path | None, values: dict[str, Any]) -> str:
    if (variable := variable_for(location, os.environ)) is not None:
        return f" ({variable})"
    below: Any = values
    for part in location:
        if not isinstance(below, dict) or part not in below:
            return ""
        below = below[part]
    return f" ({path})" if location else ""
