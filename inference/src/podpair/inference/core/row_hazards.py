"""What in a model's graph computes over the rows of a batch, so that a row's answer depends on the other rows.

Each value of the graph is followed from the inputs, whose first dimension is the rows: along which axis its rows lie, or
that it doesn't depend on the inputs, or that this isn't known (any more). Only what is certain is a hazard; what isn't
known is for the probe to find out (`core.row_probe`). So a graph without hazards proves nothing, and one with a hazard needs
no luck with random rows: an answer of labels may hide from them that a scale was taken over the batch.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from podpair.inference.core.onnx_graph import Constant, Graph, Node, OnnxModel

_MOST_LISTED = 3


class Value(NamedTuple):
    """What is known of a value."""

    # None: not known.
    rank: int | None
    # The axis of the rows; None: it doesn't depend on the inputs; -1: it does, and where its rows are isn't known.
    rows: int | None


_UNKNOWN = Value(None, -1)
_CONSTANT = Value(None, None)

# fmt: off
# Operations that leave each element in its place.
_SAME = {
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BiasGelu", "BitwiseNot", "Cast", "CastLike", "Ceil",
    "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "FastGelu", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "QuantizeLinear",
    "QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
}
_ELEMENTWISE = {
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
}
# Operations that process each row by itself, along axis 0.
_IMAGES = {
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "FusedConv", "GlobalAveragePool",
    "GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool",
    "QLinearConv", "SpaceToDepth",
}
# fmt: on
_SOFTMAXES = {"Softmax", "LogSoftmax", "Hardmax"}
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
# A scale or a zero point over the whole tensor, all rows together.
_DYNAMIC_SCALES = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
# The inputs that are a scale or a zero point: one that is computed from the inputs is one for all rows.
_SCALES_AT: Mapping[str, Sequence[int]] = {
    "QuantizeLinear": (1, 2), "MatMulInteger": (2,), "ConvInteger": (2,), "MatMulIntegerToFloat": (2, 4),
    "QLinearMatMul": (1, 2, 6, 7), "QLinearConv": (1, 2, 6, 7),
}  # fmt: skip
_ALL_ROWS = {"NonMaxSuppression": "selects among all rows", "Unique": "compares all rows"}
_RECURRENT = {"LSTM": 0, "GRU": 0, "RNN": 0}
# Their results depend on shapes alone, or on nothing.
_SHAPES = {"Shape", "Size", "Constant", "ConstantOfShape", "Range", "EyeLike"}


def row_hazards(model: OnnxModel, outputs: Collection[str] | None = None) -> list[str]:
    """Return what certainly computes over rows, a sentence for each kind, in the order of the graph; empty: nothing found.

    outputs: those that matter; default: all.
    """
    analysis = _Analysis(model.opset, _needed(model.graph, model.graph.outputs if outputs is None else outputs))
    analysis.follow(model.graph)
    for node in model.functions:
        analysis.analyse(node, [_UNKNOWN] * len(node.inputs))
    found = list(analysis.found)
    if len(found) > _MOST_LISTED:
        found[_MOST_LISTED:] = [f"and {len(found) - _MOST_LISTED} more"]
    return found


class _Analysis:
    def __init__(self, opset: int, needed: Collection[int]) -> None:
        self._opset = opset
        # Nodes of the main graph by their index.
        self._needed = needed
        # Sentence by sentence, each once.
        self.found: dict[str, None] = {}

    def follow(self, graph: Graph) -> None:
        """Analyse the main graph, whose inputs have their rows first."""
        values: dict[str, Value] = {name: Value(len(c.shape), None) for name, c in graph.constants.items()}
        values.update({name: Value(rank, -1 if rank is None else 0) for name, rank in graph.inputs.items()})
        constants = dict(graph.constants)
        for index, node in enumerate(graph.nodes):
            if index not in self._needed:
                continue
            given = [values.get(name, _CONSTANT) for name in node.inputs]
            values.update(zip(node.outputs, self.analyse(node, given, constants), strict=False))

    def analyse(
        self, node: Node, given: Sequence[Value], constants: "dict[str, Constant] | None" = None
    ) -> Iterator[Value]:
        """Analyse one node: note its hazards, and return what is known of its outputs."""
        constants = {} if constants is None else constants
        for graph in node.graphs:
            for inner in graph.nodes:
                # What a body computes is of the inputs, for all that is known.
                list(self.analyse(inner, [_UNKNOWN] * len(inner.inputs)))
        if node.op in _RANDOM:
            self._note(node, "draws at random")
            return iter(())
        moving = [value for value in given if value.rows is not None]
        if node.op == "Constant" and isinstance(value := node.attributes.get("value"), Constant):
            constants[node.outputs[0]] = value
            return iter([Value(len(value.shape), None)])
        if not moving or node.op in _SHAPES:
            return iter([_CONSTANT] * len(node.outputs))
        self._check_scales(node, given)
        if node.op in _ALL_ROWS:
            self._note(node, _ALL_ROWS[node.op])
        return iter(_results(node, given, constants, self._opset, self._note))

    def _check_scales(self, node: Node, given: Sequence[Value]) -> None:
        if node.op in _DYNAMIC_SCALES:
            self._note(node, "takes its scale over all rows")
        elif any(i < len(given) and given[i].rows is not None for i in _SCALES_AT.get(node.op, ())):
            self._note(node, "has a scale or zero point that is computed of all rows")
        elif node.op == "BatchNormalization" and node.integer("training_mode", 0):
            self._note(node, "normalises over all rows (training_mode)")

    def _note(self, node: Node, what: str) -> None:
        self.found.setdefault(f"{node.op} {what}", None)


def _needed(graph: Graph, outputs: Collection[str]) -> set[int]:
    """Return the nodes that the outputs depend on."""
    names, found = set(outputs), set()
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        if not names.isdisjoint(node.outputs):
            found.add(index)
            names.update(_inputs(node))
    return found


def _inputs(node: Node) -> Iterator[str]:
    """Yield a node's inputs, and the outer values that its bodies use."""
    yield from node.inputs
    for graph in node.graphs:
        yield from graph.outputs
        for inner in graph.nodes:
            yield from _inputs(inner)


def _results(
    node: Node,
    given: Sequence[Value],
    constants: Mapping[str, Constant],
    opset: int,
    note: Callable[[Node, str], None],
) -> list[Value]:
    """Return what is known of a node's outputs, one value for all of them or one for each."""
    first = given[0] if given else _UNKNOWN
    op, known = node.op, first.rank is not None and first.rows is not None and first.rows >= 0
    if op in _ELEMENTWISE:
        return [_broadcast(given)]
    if op == "Gather" and first.rows is None:
        return [_gathered(node, given)]
    rest = all(value.rows is None for value in given[1:])
    if not known or not rest:
        return [_matmul(given)] if op == "MatMul" else [_UNKNOWN] * len(node.outputs)
    rank, rows = first
    assert rank is not None and rows is not None  # noqa: S101, PT018 - known
    if op in _SAME:
        return [first]
    axes = _axes_over(node, rank, constants, opset)
    if axes is not None:
        if rows in axes:
            note(node, f"computes over axis {rows}, which is the rows")
        return [_reduced(node, first, axes)] * len(node.outputs)
    if op in _RECURRENT:
        batch = 0 if node.integer("layout", 0) else 1
        if rows != batch:
            note(node, f"runs along axis {rows}, which is the rows")
            return [_UNKNOWN] * len(node.outputs)
        if batch == 0:
            return [_UNKNOWN] * len(node.outputs)
        return [Value(4, 2), Value(3, 1), Value(3, 1)][: len(node.outputs)]
    return [_moved(node, rank, rows, given, constants)] * len(node.outputs)


def _moved(node: Node, rank: int, rows: int, given: Sequence[Value], constants: Mapping[str, Constant]) -> Value:
    """Return where the rows are after an operation that leaves rows whole."""
    op = node.op
    if op in _IMAGES and rows == 0:
        return Value(rank, 0)
    if op == "Transpose":
        order = node.integers("perm") or tuple(reversed(range(rank)))
        return Value(rank, order.index(rows)) if rows in order else _UNKNOWN
    if op == "Flatten" and rows == 0 and node.integer("axis", 1) % (rank + 1):
        return Value(2, 0) if node.integer("axis", 1) % (rank + 1) == 1 else _UNKNOWN
    if op == "MatMul":
        return _matmul(given)
    if op == "Gemm" and rows == 0 and not node.integer("transA", 0):
        return Value(2, 0)
    if op == "Reshape":
        shape = _integers(node, 1, constants)
        return Value(len(shape), 0) if shape and rows == 0 and shape[0] == 0 else _UNKNOWN
    if op in ("Squeeze", "Unsqueeze"):
        return _squeezed(node, rank, rows, constants)
    return _UNKNOWN


def _broadcast(given: Sequence[Value]) -> Value:
    """Return the result of broadcasting: the axis of the rows counts from the end, where shapes are aligned."""
    ranks = [value.rank for value in given]
    if any(rank is None for rank in ranks) or any(value.rows == -1 for value in given):
        return _UNKNOWN
    rank = max(rank for rank in ranks if rank is not None)
    places = {value.rows + rank - value.rank for value in given if value.rows is not None and value.rank is not None}
    return Value(rank, places.pop()) if len(places) == 1 else _UNKNOWN


def _gathered(node: Node, given: Sequence[Value]) -> Value:
    """Return what is known of rows looked up in a table: embeddings."""
    table, indices = given[0], given[-1]
    if table.rank is None or indices.rank is None or indices.rows in (None, -1):
        return _UNKNOWN
    assert indices.rows is not None  # noqa: S101 - looked at above
    axis = node.integer("axis", 0) % table.rank
    return Value(table.rank - 1 + indices.rank, axis + indices.rows)


def _matmul(given: Sequence[Value]) -> Value:
    """Return what is known of a product: rows that neither matrix contracts stay; those of both must be a batch dimension."""
    if len(given) != 2:
        return _UNKNOWN
    left, right = given
    if left.rank is None or right.rank is None or left.rows in (None, -1) or right.rows == -1:
        return _UNKNOWN
    rank, rows = left
    assert rank is not None and rows is not None  # noqa: S101, PT018 - looked at above
    if right.rows is None:
        return left if right.rank == 2 and rows < rank - 1 else _UNKNOWN
    return left if left == right and rows < rank - 2 else _UNKNOWN


def _axes_over(node: Node, rank: int, constants: Mapping[str, Constant], opset: int) -> set[int] | None:
    """Return the axes over which an operation computes; None if it is of another kind, or they aren't known."""
    op = node.op
    if op in _SOFTMAXES:
        if opset < 13:  # all from this axis on are one
            return set(range(node.integer("axis", 1) % rank, rank))
        return {node.integer("axis", -1) % rank}
    if op in ("ArgMax", "ArgMin"):
        return {node.integer("axis", 0) % rank}
    if op in ("LpNormalization", "TopK"):
        return {node.integer("axis", -1) % rank}
    if op in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"):
        return set(range(node.integer("axis", -1) % rank, rank))
    if op == "MeanVarianceNormalization":
        return {axis % rank for axis in node.integers("axes") or (0, 2, 3)}
    if op == "CumSum":
        axis = _integers(node, 1, constants)
        return {axis[0] % rank} if axis else None
    return _reduced_axes(node, rank, constants) if op.startswith("Reduce") else None


def _reduced_axes(node: Node, rank: int, constants: Mapping[str, Constant]) -> set[int] | None:
    axes = node.integers("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1]:
        axes = _integers(node, 1, constants)
        if axes is None:
            return None
    if not axes:
        return set() if node.integer("noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in axes}


def _reduced(node: Node, value: Value, axes: set[int]) -> Value:
    rank, rows = value
    assert rank is not None and rows is not None  # noqa: S101, PT018 - of values that are known
    if rows in axes:
        return _UNKNOWN
    if not node.op.startswith(("Reduce", "Arg")) or node.integer("keepdims", 1):
        return value
    return Value(rank - len(axes), rows - sum(axis < rows for axis in axes))


def _squeezed(node: Node, rank: int, rows: int, constants: Mapping[str, Constant]) -> Value:
    axes = node.integers("axes") or _integers(node, 1, constants)
    if not axes:
        return _UNKNOWN
    if node.op == "Squeeze":
        gone = {axis % rank for axis in axes}
        return _UNKNOWN if rows in gone else Value(rank - len(gone), rows - sum(axis < rows for axis in gone))
    total = rank + len(axes)
    new = {axis % total for axis in axes}
    return Value(total, [axis for axis in range(total) if axis not in new][rows])


def _integers(node: Node, index: int, constants: Mapping[str, Constant]) -> tuple[int, ...] | None:
    """Return the elements of an input that is a constant."""
    found = constants.get(node.inputs[index]) if index < len(node.inputs) else None
    return None if found is None else found.integers
