"""The nodes of an ONNX file, read without its weights and without the `onnx` package, which the container doesn't have.

Only what the analysis of rows needs is decoded: nodes with their attributes, the shapes of inputs and initialisers, the
elements of small constants. Weights are skipped, not read: a file of gigabytes that is mapped into memory costs no more
than its nodes.

Source of the format: onnx.proto (field numbers below).
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from podpair.inference.core.protobuf import ProtobufError, fields, varint

_INT32, _INT64 = 6, 7
# Elements of a constant that are kept: axes, permutations and shapes are short.
_FEW = 64
_MOST_WORDS = 256


class NotOnnxError(ValueError):
    """The bytes aren't an ONNX model."""


class Constant(NamedTuple):
    """A tensor of the file: its shape, and its elements if they are few integers."""

    shape: tuple[int, ...]
    integers: tuple[int, ...] | None


Attribute = "int | float | bytes | tuple[int, ...] | Constant | Graph"


@dataclass(slots=True)
class Node:
    """One operation."""

    op: str = ""
    domain: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: "dict[str, int | float | bytes | tuple[int, ...] | Constant | Graph]" = field(default_factory=dict)

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is an integer."""
        value = self.attributes.get(name)
        return value if isinstance(value, int) else default

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return an attribute that is a list of integers."""
        value = self.attributes.get(name)
        return value if isinstance(value, tuple) and not isinstance(value, Constant) else None

    @property
    def graphs(self) -> "list[Graph]":
        """The bodies of an If, a Loop or a Scan."""
        return [value for value in self.attributes.values() if isinstance(value, Graph)]


@dataclass(slots=True)
class Graph:
    """Nodes in the order in which they are computed."""

    nodes: list[Node] = field(default_factory=list)
    # Name → rank; None if the file doesn't say.
    inputs: dict[str, int | None] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)


@dataclass(slots=True)
class OnnxModel:
    """What a file says besides its weights."""

    graph: Graph = field(default_factory=Graph)
    # Nodes of the functions that the file defines for itself.
    functions: list[Node] = field(default_factory=list)
    # The version of the operators without a domain.
    opset: int = 0
    # Texts among the attributes: vocabularies, categories, class names.
    words: list[bytes] = field(default_factory=list)


def read_model(data: memoryview) -> OnnxModel:
    """Parse the bytes of a file. Raises NotOnnxError."""
    model = OnnxModel()
    try:
        for number, value in fields(data):
            if number == 7:
                model.graph = _graph(_view(value), model.words)
            elif number == 8:
                _read_opset(_view(value), model)
            elif number == 25:
                model.functions += [_node(_view(v), model.words) for n, v in fields(_view(value)) if n == 7]
    except (ProtobufError, IndexError, struct.error, UnicodeDecodeError, RecursionError) as error:
        raise NotOnnxError(str(error)) from None
    if not model.graph.nodes and not model.graph.outputs:
        raise NotOnnxError("there is no graph in it")
    return model


def _read_opset(data: memoryview, model: OnnxModel) -> None:
    found = dict(fields(data))
    domain = found.get(1, b"")
    if bytes(_view(domain)) in (b"", b"ai.onnx"):
        model.opset = _integer(found.get(2, 0))


def _graph(data: memoryview, words: list[bytes]) -> Graph:
    graph = Graph()
    for number, value in fields(data):
        if number == 1:
            graph.nodes.append(_node(_view(value), words))
        elif number == 5:
            name, constant = _tensor(_view(value))
            graph.constants[name] = constant
        elif number == 11:
            name, rank = _value_info(_view(value))
            graph.inputs[name] = rank
        elif number == 12:
            graph.outputs.append(_value_info(_view(value))[0])
    for name in graph.constants:  # before IR version 4 an initialiser is an input, too
        graph.inputs.pop(name, None)
    return graph


def _node(data: memoryview, words: list[bytes]) -> Node:
    node = Node()
    for number, value in fields(data):
        if number == 1:
            node.inputs.append(_text(value))
        elif number == 2:
            node.outputs.append(_text(value))
        elif number == 3:
            node.name = _text(value)
        elif number == 4:
            node.op = _text(value)
        elif number == 5:
            _read_attribute(_view(value), node, words)
        elif number == 7:
            node.domain = _text(value)
    return node


def _read_attribute(data: memoryview, node: Node, words: list[bytes]) -> None:
    name, integers, found = "", [], None
    for number, value in fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2 and isinstance(value, memoryview):
            (found,) = struct.unpack("<f", value)
        elif number == 3:
            found = _signed(_integer(value))
        elif number == 4:
            found = bytes(_view(value))
        elif number == 5:
            found = _tensor(_view(value))[1]
        elif number == 6:
            found = _graph(_view(value), words)
        elif number == 8:
            integers += [_signed(item) for item in _packed(value)]
        elif number == 9 and len(words) < _MOST_WORDS:
            words.append(bytes(_view(value)))
    node.attributes[name] = tuple(integers) if found is None else found


def _tensor(data: memoryview) -> tuple[str, Constant]:
    """Parse a TensorProto. Return its name, and what is kept of it."""
    shape: list[int] = []
    name, datatype, integers, raw = "", 0, None, None
    for number, value in fields(data):
        if number == 1:
            shape += [_signed(item) for item in _packed(value)]
        elif number == 2:
            datatype = _integer(value)
        elif number in (5, 7) and math.prod(shape) <= _FEW:
            integers = [*(integers or ()), *(_signed(item) for item in _packed(value))]
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = _view(value)
    if raw is not None and math.prod(shape) <= _FEW and datatype in (_INT32, _INT64):
        size = 8 if datatype == _INT64 else 4
        integers = list(struct.unpack(f"<{len(raw) // size}{'q' if size == 8 else 'i'}", raw))
    return name, Constant(tuple(shape), None if integers is None else tuple(integers))


def _value_info(data: memoryview) -> tuple[str, int | None]:
    """Parse a ValueInfoProto. Return its name, and its tensor's rank if that is declared."""
    name, rank = "", None
    for number, value in fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for kind, tensor in fields(_view(value)):
                if kind == 1:
                    shapes = [_view(v) for n, v in fields(_view(tensor)) if n == 2]
                    rank = sum(n == 1 for n, _ in fields(shapes[0])) if shapes else None
    return name, rank


def _packed(value: "int | memoryview") -> Iterator[int]:
    """Yield the elements of a repeated integer, packed or not."""
    if isinstance(value, int):
        yield value
        return
    offset = 0
    while offset < len(value):
        item, offset = varint(value, offset)
        yield item


def _view(value: "int | memoryview | bytes") -> memoryview:
    if isinstance(value, int):
        raise NotOnnxError("a number where a message belongs")
    return memoryview(value)


def _integer(value: "int | memoryview") -> int:
    if not isinstance(value, int):
        raise NotOnnxError("a message where a number belongs")
    return value


def _text(value: "int | memoryview") -> str:
    return str(_view(value), "utf-8")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
