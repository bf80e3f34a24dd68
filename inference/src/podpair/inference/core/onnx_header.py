"""An ONNX file's header, read without loading the model: its IR version, its opsets, and what wrote it.

A model that is too new for the runtime is refused by it with one number or the other; to say both, and what to do, the file is
read here: only these fields, by their numbers, so that a file of gigabytes costs a few look-ups.

Source: `onnx.proto` (ModelProto: ir_version 1, producer_name 2, producer_version 3, opset_import 8; OperatorSetIdProto:
domain 1, version 2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from podpair.inference.core.protobuf import ProtobufError, fields

_IR, _PRODUCER, _PRODUCER_VERSION, _OPSET = 1, 2, 3, 8

# Domains whose operators ONNX Runtime brings along; those of any other need a library.
OWN_DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.training",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.experimental",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
        "org.pytorch.aten",
    }
)


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """The versions in an ONNX file."""

    ir_version: int = 0
    # Domain → version; ONNX's own is "".
    opsets: Mapping[str, int] = field(default_factory=dict)
    # `pytorch 2.9.0`
    producer: str = ""

    @property
    def opset(self) -> int | None:
        """The version of ONNX's own operators; None: the file doesn't say."""
        return self.opsets.get("")

    @property
    def foreign_domains(self) -> list[str]:
        """Domains of operators that are neither ONNX's nor ONNX Runtime's own."""
        return sorted(set(self.opsets) - OWN_DOMAINS)


def read_header(data: bytes | memoryview) -> OnnxHeader | None:
    """Parse the header of an encoded ModelProto; None if it isn't one."""
    view = memoryview(data)
    ir_version, producer, version = 0, "", ""
    opsets: dict[str, int] = {}
    try:
        for number, value in fields(view):
            if number == _IR and isinstance(value, int):
                ir_version = value
            elif number == _OPSET and isinstance(value, memoryview):
                found = dict(fields(value))
                domain = _text(found.get(1))
                opsets["" if domain == "ai.onnx" else domain] = _number(found.get(2))
            elif number == _PRODUCER:
                producer = _text(value)
            elif number == _PRODUCER_VERSION:
                version = _text(value)
    except ProtobufError:
        return None
    return OnnxHeader(ir_version, opsets, f"{producer} {version}".strip()) if ir_version else None


def _text(value: int | memoryview | None) -> str:
    return bytes(value).decode(errors="replace") if isinstance(value, memoryview) else ""


def _number(value: int | memoryview | None) -> int:
    return value if isinstance(value, int) else 0
