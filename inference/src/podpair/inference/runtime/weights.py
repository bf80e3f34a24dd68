"""Weights of versions as an outer party sets them: a setting, and a file over it that may change while the container runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from podpair.inference.core.choosing import Weights
from podpair.inference.core.errors import FaultsError
from podpair.inference.core.faults import sentences
from podpair.inference.core.model_config import VersionWeights


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
        """All of them as they are now. Raises FaultsError."""
        self._text = self._content()
        return self._merged(self._text)

    def changed(self) -> Weights | None:
        """What they have become since they were last read; None: the same. Raises FaultsError, once for each change."""
        before, self._text = self._text, self._content()
        return None if self._text == before else self._merged(self._text)

    def _content(self) -> str:
        """The file's text; empty where there is none: weights may be taken away as they may be given."""
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
