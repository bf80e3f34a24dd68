"""The tiny model that the benches ask: 64 floats in, 10 probabilities out, next to no work in it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HIDDEN, CLASSES = 64, 32, 10


def write_mlp(repository: Path, *, max_items: int = 1024) -> Path:
    """Write `mlp/1/model.onnx` with random weights (always the same), and its model.yaml; returns the repository."""
    draw = np.random.default_rng(7)
    weights = {
        "w1": draw.normal(0, 0.3, (WIDTH, HIDDEN)),
        "b1": draw.normal(0, 0.1, HIDDEN),
        "w2": draw.normal(0, 0.3, (HIDDEN, CLASSES)),
        "b2": draw.normal(0, 0.1, CLASSES),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
            helper.make_node("Softmax", ["z"], ["y"]),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    folder = repository / "mlp" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (repository / "mlp" / "model.yaml").write_text(
        f"batching: {{max_items: {max_items}, max_delay_ms: 1, queue_size: 65536}}\nruntime: {{intra_op_threads: 1}}\n"
    )
    return repository
