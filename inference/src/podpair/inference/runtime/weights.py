"""Weights of versions set from outside: by a setting, and by a file that overrides it and may change while the container runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from podpair.common.faults import FaultsError
from podpair.common.sentences import sentences
from podpair.inference.core.model_config import VersionWeights
from podpair.inference.core.traffic_split import Weights


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: dict[str, VersionWeights]


class WeightsSource:
    """The setting `models.weights`, and `models.weights_file` over it, model by model."""

    def __init__(self, setting: Weights, file: Path | None = None) -> None:
        self._setting = setting
        self._file = file
        # What the file held when it was last read; None: it has not been.
        self._text: str | None = None

    def read(self) -> Weights:
        """Read the current weights. Raises FaultsError."""
        self._text = self._content()
        return self._merged(self._text)

    def poll(self) -> Weights | None:
        """Return the weights if they have changed since they were last read, else None. Raises FaultsError, once per change."""
        before, self._text = self._text, self._content()
        return None if self._text == before else self._merged(self._text)

    def _content(self) -> str:
        """Return the file's text; empty if there is no file: weights may be removed as they may be added."""
        if self._file is None:
            return ""
        try:
            return self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise FaultsError([f"{self._file} (models.weights_file): can't be read: {error}"]) from None

    def _merged(self, text: str) -> Mapping[str, Mapping[int, float]]:
        try:
            content: Any = yaml.safe_load(text) or {}
            return {**self._setting, **_Content.model_validate({"weights": content}).weights}
        except yaml.YAMLError as error:
            raise FaultsError([f"{self._file}: not YAML: {' '.join(str(error).split())}"]) from None
        except ValidationError as error:
            raise FaultsError(sentences(error, _Content, str(self._file))) from None
