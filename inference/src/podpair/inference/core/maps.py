"""A model's outputs that are maps, one per row, as V2's tensors: a column of keys and a tensor of values.

scikit-learn's and LightGBM's exporters end a classifier with ZipMap: a sequence of maps, label → score. Its scores keep the
output's name, since that is what the same exporters call the tensor if they write no map (`zipmap: False`); the labels, in
the order of the scores, are a second output, `<output>_labels`.

Invariant: all rows have the same keys, so that a row's answer is the same alone and in company.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from podpair.inference.core.errors import ModelError
from podpair.inference.core.tensors import DATATYPES, Array, TensorSpec

# ONNX Runtime's name of the type: a map, or a sequence of them.
_TYPE = re.compile(r"(seq\()?map\((\w+),(tensor\(\w+\))\)\)?")
_KEYS = {"int64": "INT64", "string": "BYTES"}
LABELS = "_labels"


class MapColumns:
    """One output of the model that is a map, or a sequence of maps.

    type: as ONNX Runtime names it. datatypes: its names of tensors' types → V2's. Raises ValueError if it is neither.
    """

    def __init__(self, name: str, type: str, datatypes: Mapping[str, str]) -> None:  # noqa: A002 - ONNX's own name
        found = _TYPE.fullmatch(type)
        key = _KEYS.get(found[2]) if found else None
        value = datatypes.get(found[3]) if found else None
        if key is None or value is None:
            raise ValueError(f"{type} is neither a tensor nor a map of numbers or text")
        self.name = name
        self._key, self._value = key, value
        # Those of the first answer; None: there was none.
        self._keys: list[Any] | None = None

    @property
    def specs(self) -> tuple[TensorSpec, TensorSpec]:
        """The values, and their keys."""
        columns = -1 if self._keys is None else len(self._keys)
        return (
            TensorSpec(self.name, self._value, (-1, columns)),
            TensorSpec(self.name + LABELS, self._key, (-1, columns)),
        )

    def arrays(self, answer: Sequence[Mapping[Any, Any]] | Mapping[Any, Any]) -> tuple[Array, Array]:
        """Return the values and the keys, a row for each map. Raises ModelError if the maps' keys differ."""
        maps = [answer] if isinstance(answer, Mapping) else answer
        if self._keys is None and maps:
            self._keys = list(maps[0])
        keys = self._keys or []
        if any(list(found) != keys for found in maps):
            raise ModelError(f"the model answered {self.name!r} as maps with different keys")
        shape = (len(maps), len(keys))
        values = np.array([list(found.values()) for found in maps], DATATYPES[self._value]).reshape(shape)
        labels = np.empty(shape, DATATYPES[self._key])
        labels[:] = keys
        return values, labels
