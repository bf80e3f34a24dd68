"""Every way to ask wrongly has its status and a message that says what is wrong; the server answers the next one."""

import json
import math
import struct
import sys
from typing import Any

import pytest

sys.set_int_max_str_digits(10_000)  # to write what the server must not read


def x(shape: Any = (1, 2), data: Any = (1, 2), datatype: Any = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": list(shape), "data": list(data), **more}


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def binary(raw: bytes, size: Any = None, shape: Any = (1, 2), length: int = 0) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size or len(raw)}}
    header = body(tensor)
    return header + raw, {"Inference-Header-Content-Length": str(len(header) + length)}


NAN = struct.pack("<2f", 1, math.nan)
MIXED = {"name": "count", "datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]}
TEXT = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}
FLAG = {"name": "flag", "datatype": "BOOL", "shape": [2], "data": [True, False]}
P = "/v2/models/plus/infer"

CASES: list[tuple[str, str, bytes, dict[str, str], int, str]] = [
    ("not JSON", P, b"{", {}, 400, "not JSON"),
    ("nothing", P, b"", {}, 400, "not JSON"),
    ("not UTF-8", P, b'{"id": "\xff"}', {}, 400, "not JSON"),
    ("nested too deep", P, b'{"parameters": {"a": ' + b"[" * 100_000, {}, 400, "not JSON"),
    ("data nested too deep", P, b'{"inputs": [{"name": "x", "data": ' + b"[" * 100_000, {}, 400, "not JSON"),
    ("a list", P, b"[]", {}, 400, "not a V2 inference request"),
    ("no inputs member", P, b"{}", {}, 400, "missing required field `inputs`"),
    ("no inputs", P, body(), {}, 400, "input 'x' is missing"),
    ("id not a string", P, body(x(), id=5), {}, 400, "Expected `str | null`"),
    ("no shape", P, b'{"inputs": [{"name": "x", "datatype": "FP32"}]}', {}, 400, "`shape`"),
    ("negative size", P, body(x((-1, 2))), {}, 400, ">= 0"),
    ("wrong rank", P, body(x((2,))), {}, 400, "shape [2], the model takes [-1, -1]"),
    ("huge shape", P, body(x((10**9, 10**9))), {}, 400, "holds 2 elements"),
    ("too few elements", P, body(x((2, 2))), {}, 400, "holds 2 elements, shape [2, 2] needs 4"),
    ("size of thousands of digits", P, body(x(parameters={"binary_data_size": 10**4999})), {}, 400, ""),
    ("shape of thousands of digits", P, body(x((10**4999, 2))), {}, 400, ""),
    ("number of thousands of digits", P, body({**MIXED, "data": [10**4999, 2, 3, 4]}), {}, 400, ""),
    *(
        (f"{name} of {digits} digits", P, body(x(parameters=parameters), outputs=outputs), {}, 400, "")
        for digits in (20, 400, 4300, 5000)
        for name, parameters, outputs in (
            ("a binary size", {"binary_data_size": 10 ** (digits - 1)}, []),
            ("classes", {}, [{"name": "y", "parameters": {"classification": 10 ** (digits - 1)}}]),
        )
    ),
    ("classes are true", P, body(x(), outputs=[{"name": "y", "parameters": {"classification": True}}]), {}, 400, ""),
    (
        "classes are a fraction",
        P,
        body(x(), outputs=[{"name": "y", "parameters": {"classification": 1.0}}]),
        {},
        400,
        "",
    ),
    ("wrong datatype", P, body(x(datatype="FP64")), {}, 400, "datatype FP64, the model takes FP32"),
    ("no such datatype", P, body(x(datatype="FLOAT")), {}, 400, "no datatype 'FLOAT'"),
    ("text for numbers", P, body(x(data=("1", "2"))), {}, 400, "not a list of FP32"),
    ("null, which is NaN", P, body(x(data=(1, None))), {}, 400, "NaN or infinity"),
    (
        "null for an integer",
        "/v2/models/mixed/infer",
        body({**MIXED, "data": [1, 2, 3, None]}),
        {},
        400,
        "not a list of INT64",
    ),
    (
        "NaN in JSON",
        P,
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [NaN]}]}',
        {},
        400,
        "NaN or infinity",
    ),
    ("too large for the type", P, body(x(data=(1e39, 1))), {}, 400, "NaN or infinity"),
    ("no data", P, b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]}', {}, 400, "neither data nor"),
    ("an unknown input", P, body({**x(), "name": "z"}), {}, 400, "no input 'z'; the model takes x"),
    ("an input twice", P, body(x(), x()), {}, 400, "twice"),
    ("an unknown output", P, body(x(), outputs=[{"name": "z"}]), {}, 400, "no output 'z'; the model gives y"),
    ("a missing input", "/v2/models/mixed/infer", body(MIXED, FLAG), {}, 400, "input 'text' is missing"),
    ("rows differ", "/v2/models/mixed/infer", body(MIXED, FLAG, TEXT), {}, 400, "different numbers of rows"),
    ("NaN in binary", P, *binary(NAN), 400, "NaN or infinity"),
    ("binary too short", P, *binary(b"\0" * 4), 400, "4 bytes of binary data"),
    ("size past the end", P, *binary(b"\0" * 8, 80), 400, "binary_data_size 80, 8 bytes are left"),
    ("size not a number", P, *binary(b"\0" * 8, "8"), 400, "binary_data_size '8'"),
    ("size negative", P, *binary(b"\0" * 8, -8), 400, "binary_data_size -8"),
    ("bytes left over", P, *binary(b"\0" * 12, 8), 400, "4 bytes of binary data belong to no input"),
    ("data and binary", P, body(x(parameters={"binary_data_size": 8})), {}, 400, "both data and binary_data_size"),
    ("header longer than body", P, *binary(b"\0" * 8, length=100), 400, "Inference-Header-Content-Length is"),
    ("header no number", P, body(x()), {"Inference-Header-Content-Length": "-1"}, 400, "number of bytes"),
    ("header of 4,300 digits", P, body(x()), {"Inference-Header-Content-Length": "1" * 4300}, 400, "number of bytes"),
    ("deadline of 4,300 digits", P, body(x()), {"podpair-deadline": "1" * 4300}, 400, "Unix milliseconds"),
    ("deadline no number", P, body(x()), {"podpair-deadline": "soon"}, 400, "Unix milliseconds"),
    ("deadline not finite", P, body(x()), {"podpair-deadline": "nan"}, 400, "Unix milliseconds"),
    ("deadline passed", P, body(x()), {"podpair-deadline": "1000"}, 504, "deadline had passed"),
    (
        "index out of range",
        "/v2/models/lookup/infer",
        body({**x((1, 1), (99,), "INT64"), "name": "i"}),
        {},
        400,
        "refuses",
    ),
    ("unknown model", "/v2/models/none/infer", body(x()), {}, 404, "no model 'none'; there are digits"),
    ("unknown version", "/v2/models/plus/versions/7/infer", body(x()), {}, 404, "no version '7'; there are 1, 2"),
    ("unknown path", "/v1/predict", body(x()), {}, 404, "no POST /v1/predict"),
    ("too many bytes", P, b" " * 1_000_001, {}, 413, "1000000"),
    ("too many rows", P, body(x((5000, 1), [0] * 5000)), {}, 413, "5000 rows in one request"),
    ("not gzip", P, body(x()), {"Content-Encoding": "gzip"}, 400, ""),
]


@pytest.mark.parametrize(
    ("path", "data", "headers", "status", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_bad_input(served: Any, path: str, data: bytes, headers: dict[str, str], status: int, message: str) -> None:
    answer = served.post(path, data, headers)
    assert (answer.status, list(answer.json)) == (status, ["error"])
    assert message in answer.json["error"]
    assert served.post(P, body(x())).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/" + "9" * 4400 + "/versions/" + "9" * 4400,
        "/v2/models/none",
        "/v2/models/none/ready",
        "/v2/models/plus/versions/3",
        "/v2/nothing",
    ],
)
def test_what_is_not_there_is_404(served: Any, path: str) -> None:
    answer = served.get(path)
    assert answer.status == 404
    assert answer.json["error"]
