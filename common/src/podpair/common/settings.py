"""Reads settings from a YAML file that is a mapping."""

from pathlib import Path
from typing import Any

import yaml

from podpair.common.faults import FaultsError


def read_mapping(path: Path, example: str) -> dict[Any, Any]:
    """Return what a YAML file holds, nothing if it is empty; `example` is a line of such a file. Raises FaultsError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FaultsError([f"{path}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise FaultsError([f"{path}: not UTF-8"]) from None
    except yaml.YAMLError as error:
        raise FaultsError([f"{path}: not YAML: {' '.join(str(error).split())}"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise FaultsError([f"{path}: a mapping is needed at the top (`{example}`), not a {type(values).__name__}"])
    return values
