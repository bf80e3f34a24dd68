"""Models that are told apart by their rows: each is a graph that an exporter, or a user, writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.helper import make_node

F32, F16, I64, U8, I8, TEXT, BOOL = (
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8, TensorProto.STRING,
    TensorProto.BOOL,
)  # fmt: skip
RNG = np.random.default_rng(11)
Graph = tuple[list[onnx.NodeProto], dict[str, Any], dict[str, Any], dict[str, Any]]


def _weights(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def axes(*values: int) -> Any:
    return np.array(values, np.int64)


def softmax_over_rows() -> Graph:
    return [make_node("Softmax", ["x"], ["y"], axis=0)], {"x": (F32, ["n"])}, {"y": (F32, ["n"])}, {}


def softmax_over_rows_of_columns() -> Graph:
    return [make_node("Softmax", ["x"], ["y"], axis=0)], {"x": (F32, ["n", 4])}, {"y": (F32, ["n", 4])}, {}


def label_beside_the_mean() -> Graph:
    """Only labels: a mean over the batch that rarely changes one."""
    nodes = [
        make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        make_node("Sub", ["x", "mean"], ["centred"]),
        make_node("ArgMax", ["centred"], ["y"], axis=1, keepdims=0),
    ]
    return nodes, {"x": (F32, ["n", 4])}, {"y": (I64, ["n"])}, {}


def dynamic_quantisation() -> Graph:
    nodes = [
        make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        make_node("MatMulInteger", ["q", "w", "zero"], ["product"]),
        make_node("Cast", ["product"], ["cast"], to=F32),
        make_node("Mul", ["cast", "scale"], ["y"]),
    ]
    weights = {"w": RNG.integers(-127, 128, (8, 3)).astype(np.int8)}
    return nodes, {"x": (F32, ["n", 8])}, {"y": (F32, ["n", 3])}, weights


def quantisation_by_hand() -> Graph:
    """A scale over the whole tensor, of the operations that an exporter without DynamicQuantizeLinear has; labels only."""
    nodes = [
        make_node("Abs", ["x"], ["abs"]),
        make_node("ReduceMax", ["abs"], ["largest"], keepdims=0),
        make_node("Div", ["largest", "levels"], ["scale"]),
        make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        make_node("MatMulInteger", ["q", "w"], ["product"]),
        make_node("Cast", ["product"], ["cast"], to=F32),
        make_node("ArgMax", ["cast"], ["y"], axis=1, keepdims=0),
    ]
    constants = {
        "levels": np.array(127, np.float32), "zero": np.array(0, np.int8),
        "w": RNG.integers(-127, 128, (8, 3)).astype(np.int8),
    }  # fmt: skip
    return nodes, {"x": (F32, ["n", 8])}, {"y": (I64, ["n"])}, constants


def normalisation_in_training() -> Graph:
    """BatchNormalization that was exported in training mode, as its formula."""
    nodes = [
        make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        make_node("Sub", ["x", "mean"], ["centred"]),
        make_node("Mul", ["centred", "centred"], ["squares"]),
        make_node("ReduceMean", ["squares"], ["variance"], axes=[0], keepdims=1),
        make_node("Add", ["variance", "epsilon"], ["shifted"]),
        make_node("Sqrt", ["shifted"], ["deviation"]),
        make_node("Div", ["centred", "deviation"], ["y"]),
    ]
    return nodes, {"x": (F32, ["n", 4])}, {"y": (F32, ["n", 4])}, {"epsilon": np.array(1e-5, np.float32)}


def running_sum() -> Graph:
    return (
        [make_node("CumSum", ["x", "axis"], ["y"])],
        {"x": (F32, ["n", 4])},
        {"y": (F32, ["n", 4])},
        {"axis": axes(0)},
    )


def sorted_rows() -> Graph:
    nodes = [
        make_node("Shape", ["x"], ["shape"], start=0, end=1),
        make_node("TopK", ["x", "shape"], ["y", "i"], axis=0),
    ]
    return nodes, {"x": (F32, ["n", 4])}, {"y": (F32, ["n", 4])}, {}


def position_in_the_batch() -> Graph:
    nodes = [
        make_node("Shape", ["x"], ["shape"], start=0, end=1),
        make_node("Squeeze", ["shape"], ["count"]),
        make_node("Range", ["zero", "count", "one"], ["range"]),
        make_node("Cast", ["range"], ["cast"], to=F32),
        make_node("Unsqueeze", ["cast", "axes"], ["column"]),
        make_node("Add", ["x", "column"], ["y"]),
    ]
    constants = {"zero": np.array(0, np.int64), "one": np.array(1, np.int64), "axes": axes(1)}
    return nodes, {"x": (F32, ["n", 4])}, {"y": (F32, ["n", 4])}, constants


def share_of_the_batch() -> Graph:
    """Divided by the number of rows, as a loss is."""
    nodes = [
        make_node("Shape", ["x"], ["shape"], start=0, end=1),
        make_node("Cast", ["shape"], ["count"], to=F32),
        make_node("Div", ["x", "count"], ["y"]),
    ]
    return nodes, {"x": (F32, ["n", 4])}, {"y": (F32, ["n", 4])}, {}


def against_the_first_row() -> Graph:
    nodes = [
        make_node("Gather", ["x", "first"], ["head"], axis=0),
        make_node("Sub", ["x", "head"], ["y"]),
    ]
    return nodes, {"x": (F32, ["n", 4])}, {"y": (F32, ["n", 4])}, {"first": axes(0)}


def attention_over_rows() -> Graph:
    nodes = [
        make_node("Transpose", ["x"], ["t"]),
        make_node("MatMul", ["x", "t"], ["scores"]),
        make_node("Softmax", ["scores"], ["p"], axis=1),
        make_node("MatMul", ["p", "x"], ["y"]),
    ]
    return nodes, {"x": (F32, ["n", 4])}, {"y": (F32, ["n", 4])}, {}


def batch_folded_in() -> Graph:
    """A reshape that was traced with the rows inside: the rows come back, mixed."""
    nodes = [
        make_node("Reshape", ["x", "fold"], ["folded"]),
        make_node("Transpose", ["folded"], ["turned"]),
        make_node("Reshape", ["turned", "unfold"], ["y"]),
    ]
    constants = {"fold": axes(2, -1), "unfold": axes(-1, 4)}
    return nodes, {"x": (F32, ["n", 4])}, {"y": (F32, ["n", 4])}, constants


def recurrent_over_rows() -> Graph:
    """An LSTM that takes the batch for its time."""
    nodes = [
        make_node("Unsqueeze", ["x", "axes"], ["sequence"]),
        make_node("RNN", ["sequence", "w", "r"], ["all", "last"], hidden_size=3),
        make_node("Squeeze", ["all", "ones"], ["y"]),
    ]
    constants = {"axes": axes(1), "ones": axes(1, 2), "w": _weights(1, 3, 4), "r": _weights(1, 3, 3)}
    return nodes, {"x": (F32, ["n", 4])}, {"y": (F32, ["n", 3])}, constants


def noise() -> Graph:
    nodes = [make_node("RandomNormalLike", ["x"], ["noise"]), make_node("Add", ["x", "noise"], ["y"])]
    return nodes, {"x": (F32, ["n", 4])}, {"y": (F32, ["n", 4])}, {}


def clip() -> Graph:
    """CLIP's signature: texts and images, each side's similarities to all of the other."""
    nodes = [
        make_node("MatMul", ["text", "wt"], ["te"]),
        make_node("MatMul", ["image", "wi"], ["ie"]),
        make_node("Transpose", ["te"], ["tt"]),
        make_node("MatMul", ["ie", "tt"], ["per_image"]),
        make_node("Transpose", ["per_image"], ["per_text"]),
    ]
    inputs = {"text": (F32, ["text_batch", 4]), "image": (F32, ["image_batch", 6])}
    outputs = {"per_image": (F32, ["image_batch", "text_batch"]), "per_text": (F32, ["text_batch", "image_batch"])}
    return nodes, inputs, outputs, {"wt": _weights(4, 3), "wi": _weights(6, 3)}


def graph_net() -> Graph:
    nodes = [make_node("MatMul", ["adjacency", "x"], ["y"])]
    inputs = {"x": (F32, ["nodes", 4]), "adjacency": (F32, ["nodes", "nodes"])}
    return nodes, inputs, {"y": (F32, ["nodes", 4])}, {}


def pairs() -> Graph:
    nodes = [make_node("Transpose", ["x"], ["t"]), make_node("MatMul", ["x", "t"], ["y"])]
    return nodes, {"x": (F32, ["n", 4])}, {"y": (F32, [None, None])}, {}


def time_major() -> Graph:
    return (
        [make_node("Transpose", ["x"], ["y"], perm=[1, 0, 2])],
        {"x": (F32, ["batch", "time", 3])}, {"y": (F32, ["time", "batch", 3])}, {},
    )  # fmt: skip


def time_major_unnamed() -> Graph:
    return (
        [make_node("Transpose", ["x"], ["y"], perm=[1, 0, 2])],
        {"x": (F32, [None, None, 3])}, {"y": (F32, [None, None, 3])}, {},
    )  # fmt: skip


def unique() -> Graph:
    return [make_node("Unique", ["x"], ["y"], sorted=0)], {"x": (F32, ["n"])}, {"y": (F32, [None])}, {}


def detector() -> Graph:
    nodes = [make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["y"])]
    inputs = {"boxes": (F32, ["batch", "k", 4]), "scores": (F32, ["batch", 1, "k"])}
    constants = {"most": axes(3), "overlap": np.array([0.5], np.float32)}
    return nodes, inputs, {"y": (I64, ["found", 3])}, constants


def sound() -> Graph:
    """One-dimensional audio: 400 samples a frame, a number a frame."""
    nodes = [
        make_node("Unsqueeze", ["audio", "axes"], ["signal"]),
        make_node(
            "AveragePool", ["signal"], ["pooled"], kernel_shape=[400], strides=[160], ceil_mode=1, pads=[200, 200]
        ),
        make_node("Squeeze", ["pooled", "axes"], ["y"]),
    ]
    return nodes, {"audio": (F32, ["samples"])}, {"y": (F32, ["frames"])}, {"axes": axes(0, 1)}


def filtered_sound() -> Graph:
    """As many samples as before: nothing in the shapes tells that they aren't rows."""
    nodes = [
        make_node("Unsqueeze", ["audio", "axes"], ["signal"]),
        make_node("AveragePool", ["signal"], ["pooled"], kernel_shape=[3], pads=[1, 1]),
        make_node("Squeeze", ["pooled", "axes"], ["y"]),
    ]
    return nodes, {"audio": (F32, ["samples"])}, {"y": (F32, ["samples"])}, {"axes": axes(0, 1)}


def total() -> Graph:
    return [make_node("ReduceSum", ["x"], ["y"], keepdims=0)], {"x": (F32, ["n", 4])}, {"y": (F32, [])}, {}


def perceptron() -> Graph:
    nodes = [
        make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        make_node("Relu", ["h"], ["a"]),
        make_node("MatMul", ["a", "w2"], ["z"]),
        make_node("Softmax", ["z"], ["y"], axis=1),
        make_node("ArgMax", ["z"], ["label"], axis=1, keepdims=0),
    ]
    constants = {"w1": _weights(8, 16), "b1": _weights(16), "w2": _weights(16, 3)}
    return nodes, {"x": (F32, ["n", 8])}, {"y": (F32, ["n", 3]), "label": (I64, ["n"])}, constants


def convolution() -> Graph:
    nodes = [
        make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        make_node("BatchNormalization", ["c", "one", "zero", "zero", "one"], ["b"]),
        make_node("GlobalAveragePool", ["b"], ["p"]),
        make_node("Flatten", ["p"], ["y"]),
    ]
    constants = {"w": _weights(4, 3, 3, 3), "one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}
    return nodes, {"x": (F32, [None, 3, "h", "w"])}, {"y": (F32, [None, 4])}, constants


def embeddings() -> Graph:
    """Tokens and their mask, a mean over those that count; a small vocabulary."""
    nodes = [
        make_node("Gather", ["table", "tokens"], ["e"]),
        make_node("Cast", ["mask"], ["m"], to=F32),
        make_node("Unsqueeze", ["m", "axes"], ["column"]),
        make_node("Mul", ["e", "column"], ["kept"]),
        make_node("ReduceSum", ["kept", "one"], ["y"], keepdims=0),
    ]
    inputs = {"tokens": (I64, ["batch", "sequence"]), "mask": (I64, ["batch", "sequence"])}
    constants = {"table": _weights(5, 6), "axes": axes(2), "one": axes(1)}
    return nodes, inputs, {"y": (F32, ["batch", 6])}, constants


def static_quantisation() -> Graph:
    nodes = [
        make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        make_node("MatMulInteger", ["q", "w", "zero"], ["product"]),
        make_node("Cast", ["product"], ["y"], to=F32),
    ]
    constants = {
        "scale": np.array(0.1, np.float32), "zero": np.array(128, np.uint8),
        "w": RNG.integers(-127, 128, (8, 3)).astype(np.int8),
    }  # fmt: skip
    return nodes, {"x": (F32, ["n", 8])}, {"y": (F32, ["n", 3])}, constants


def recurrent() -> Graph:
    """Batch first outside, time first inside, and a maximum over the time, whose axis is 0 there."""
    nodes = [
        make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        make_node("RNN", ["t", "w", "r"], ["all", "last"], hidden_size=3),
        make_node("Squeeze", ["all", "one"], ["states"]),
        make_node("ReduceMax", ["states"], ["y"], axes=[0], keepdims=0),
    ]
    constants = {"w": _weights(1, 3, 4), "r": _weights(1, 3, 3), "one": axes(1)}
    return nodes, {"x": (F32, ["batch", "time", 4])}, {"y": (F32, ["batch", 3])}, constants


def columns() -> Graph:
    """A scikit-learn pipeline's columns: inputs with dimensions of no name, or of names of their own."""
    nodes = [make_node("Concat", ["age", "income"], ["x"], axis=1), make_node("MatMul", ["x", "w"], ["y"])]
    inputs = {"age": (F32, [None, 1]), "income": (F32, ["N", 1])}
    return nodes, inputs, {"y": (F32, [None, 2])}, {"w": _weights(2, 2)}


def words() -> Graph:
    """Labels of text, of a vocabulary that nobody guesses."""
    nodes = [
        make_node(
            "LabelEncoder", ["text"], ["y"], domain="ai.onnx.ml",
            keys_strings=["Ozymandias", "Xanadu", "Kubla"], values_floats=[1.0, 2.0, 3.0], default_float=0.0,
        )
    ]  # fmt: skip
    return nodes, {"text": (TEXT, ["n"])}, {"y": (F32, ["n"])}, {}


def halves() -> Graph:
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    return nodes, {"x": (F16, ["n", 8])}, {"y": (F16, ["n", 3])}, {"w": _weights(8, 3).astype(np.float16)}


def logarithm() -> Graph:
    return [make_node("Log", ["x"], ["y"])], {"x": (F32, ["n"])}, {"y": (F32, ["n"])}, {}


LOGARITHM = "inputs: [{name: x, datatype: FP32, shape: [-1], allow_nan: true}]"

# What each is, by itself.
INDEPENDENT: list[Callable[[], Graph]] = [
    perceptron, convolution, embeddings, static_quantisation, recurrent, columns, words, halves,
]  # fmt: skip
DEPENDENT: list[Callable[[], Graph]] = [
    softmax_over_rows_of_columns, label_beside_the_mean, dynamic_quantisation, quantisation_by_hand, normalisation_in_training,
    running_sum, sorted_rows, position_in_the_batch, share_of_the_batch, against_the_first_row, attention_over_rows,
    batch_folded_in, recurrent_over_rows, noise,
]  # fmt: skip
WITHOUT: list[Callable[[], Graph]] = [
    softmax_over_rows, clip, graph_net, pairs, time_major, time_major_unnamed, unique, detector, sound, filtered_sound, total,
]  # fmt: skip


def save(repository: Path, make: Callable[[], Graph], config: str = "", name: str | None = None) -> Path:
    """Write a model into a repository; its folder."""
    nodes, inputs, outputs, constants = make()
    graph = helper.make_graph(
        nodes,
        make.__name__,
        [helper.make_tensor_value_info(key, *spec) for key, spec in inputs.items()],
        [helper.make_tensor_value_info(key, *spec) for key, spec in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    folder = repository / (name or make.__name__)
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.onnx").write_bytes(model.SerializeToString())
    if config:
        (folder / "model.yaml").write_text(config)
    return folder
