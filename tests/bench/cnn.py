"""A convolutional model of some 310 million multiply-adds: 3×224×224 floats (602,112 bytes) in, 10 numbers out."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (3, 224, 224)
CLASSES = 10
# Channels in and out, stride; all 3×3.
_LAYERS = ((3, 16, 2), (16, 32, 2), (32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2))


def write_cnn(repository: Path) -> Path:
    """Write `cnn/1/model.onnx` with random weights (always the same) and no model.yaml; returns the model's file."""
    draw = np.random.default_rng(11)
    nodes, weights, source = [], {}, "x"
    for i, (before, after, stride) in enumerate(_LAYERS):
        weights[f"w{i}"] = draw.normal(0, (2 / (9 * before)) ** 0.5, (after, before, 3, 3))
        pads, strides = [1, 1, 1, 1], [stride, stride]
        nodes.append(helper.make_node("Conv", [source, f"w{i}"], [f"c{i}"], pads=pads, strides=strides))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        source = f"r{i}"
    weights["last"] = draw.normal(0, 0.1, (_LAYERS[-1][1], CLASSES))
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "last"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path = repository / "cnn/1/model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(model.SerializeToString())
    return path
