"""onnx's backend suite: models that nobody here made, each with inputs of its own. Nothing is downloaded.

Node cases are made by onnx when they are asked for; the others (`simple`, `pytorch-converted`, `pytorch-operator`, `light`) lie
in its package.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test import loader
from onnx.backend.test.case.node import collect_testcases

ALL = os.environ.get("PODPAIR_TEST_MODELS") == "all"
DATA = Path(loader.DATA_DIR)
_FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")
# Weights of all sizes up to 570 MB, which ONNX Runtime computes when it loads them.
LIGHT = "light"
# What draws lots: an answer has nothing to be compared with.
LOTS = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})


@dataclass(frozen=True, slots=True)
class Case:
    """One model of the suite.

    inputs: by name, as far as they are tensors; what is a sequence or left out is None.
    """

    kind: str
    name: str
    model: onnx.ModelProto = field(repr=False)
    inputs: dict[str, Any] = field(repr=False)

    @property
    def operators(self) -> str:
        """Those of its graph, in order."""
        return "".join(node.op_type for node in self.model.graph.node)

    @property
    def draws_lots(self) -> bool:
        """Whether its answer differs from run to run, dropout in training among them."""
        graph = self.model.graph
        return any(node.op_type in LOTS or (node.op_type == "Dropout" and len(node.input) > 2) for node in graph.node)


def cases(*, every: bool = ALL) -> list[Case]:
    """One case of each sequence of operators, or every one; the large ones of `light` only then."""
    found: list[Case] = []
    seen: set[str] = set()
    for case in _read():
        if every or (case.kind != LIGHT and case.operators not in seen):
            seen.add(case.operators)
            found.append(case)
    return found


def with_rows(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with rows of any number, where it has dimensions to make them of."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    for value in (*changed.graph.input, *changed.graph.output):
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.shape.dim:
            return None
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    for value in changed.graph.output:
        for dimension in value.type.tensor_type.shape.dim[1:]:
            dimension.Clear()
    return changed


@cache
def _read() -> tuple[Case, ...]:
    return (*_node(), *_from_folders(), *_light())


def _node() -> Iterator[Case]:
    for case in collect_testcases(None):  # type: ignore[arg-type]
        if case.model is not None and case.data_sets:
            names = [value.name for value in case.model.graph.input]
            yield Case("node", case.name, case.model, dict(zip(names, map(_array, case.data_sets[0][0]), strict=False)))


def _from_folders() -> Iterator[Case]:
    for kind in _FOLDERS:
        for folder in sorted((DATA / kind).glob("*/")):
            model = onnx.load(folder / "model.onnx")
            inputs: dict[str, Any] = {}
            for i, value in enumerate(_inputs(model)):
                file = folder / f"test_data_set_0/input_{i}.pb"
                tensor = onnx.TensorProto()
                if value.type.HasField("tensor_type") and file.exists():
                    tensor.ParseFromString(file.read_bytes())
                    inputs[value.name] = _array(tensor)
                else:
                    inputs[value.name] = None
            yield Case(kind, folder.name, model, inputs)


def _light() -> Iterator[Case]:
    draw = np.random.default_rng(1)
    for file in sorted((DATA / LIGHT).glob("*.onnx")):
        model = onnx.load(file)
        shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in _inputs(model)}
        inputs = {name: draw.random(shape, np.float32) for name, shape in shapes.items()}
        yield Case(LIGHT, file.stem, model, inputs)


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Those that have to be given: an old model's weights are inputs, too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    if isinstance(value, list | dict) or value is None:
        return None
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "US" else array
