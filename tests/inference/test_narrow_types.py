"""Types that V2 has no name for: FP8 by its bits, integers of 4 and 2 bits a byte each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.v2 import WAYS, RefusedError, infer
from podpair.inference.core.narrow import pack, unpack


@pytest.mark.parametrize(
    ("bits", "signed", "low", "high"), [(4, False, 0, 15), (4, True, -8, 7), (2, False, 0, 3), (2, True, -2, 1)]
)
@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (4,), (3, 5), (2, 1, 8)])
def test_every_number_comes_back(bits: int, signed: bool, low: int, high: int, shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(1)
    array = draw.integers(low, high, shape, endpoint=True).astype(np.int8 if signed else np.uint8)
    packed = pack(array, bits, signed)
    assert packed.size == -(-array.size * bits // 8)
    found = unpack(packed.tobytes(), bits, signed, shape)
    assert (found.dtype, found.shape, found.tolist()) == (array.dtype, shape, array.tolist())


@pytest.mark.parametrize(
    ("bits", "signed", "value"), [(4, False, 16), (4, True, 8), (4, True, -9), (2, True, 2), (2, False, 4)]
)
def test_a_number_that_needs_more_bits_is_refused(bits: int, signed: bool, value: int) -> None:
    with pytest.raises(ValueError, match="INT"):
        pack(np.array([0, value], np.int8 if signed else np.uint8), bits, signed)


@pytest.mark.parametrize("way", WAYS)
def test_they_are_served_as_bytes(
    tmp_path: Path, save_model: Callable[..., None], start: Callable[..., Any], way: str
) -> None:
    f32, i4, f8 = TensorProto.FLOAT, TensorProto.INT4, TensorProto.FLOAT8E4M3FN
    cast = helper.make_node("Cast", ["x"], ["y"], to=f32)
    narrow = helper.make_node("Cast", ["x"], ["y"], to=i4)
    save_model(tmp_path / "wide/1", [cast], {"x": (i4, ["n", 3])}, {"y": (f32, ["n", 3])}, opset=21, ir_version=10)
    save_model(tmp_path / "narrow/1", [narrow], {"x": (f32, ["n", 3])}, {"y": (i4, ["n", 3])}, opset=21, ir_version=10)
    save_model(tmp_path / "eight/1", [cast], {"x": (f8, ["n", 2])}, {"y": (f32, ["n", 2])}, opset=21, ir_version=10)
    server = start(tmp_path)
    numbers = np.array([[-8, 0, 7], [1, 2, 3], [-1, -2, -3]], np.int8)
    assert infer(server, "wide", {"x": numbers}, way)["y"].tolist() == numbers.tolist()
    assert infer(server, "narrow", {"x": numbers.astype(np.float32)}, way)["y"].tolist() == numbers.tolist()
    # 0x38 is 1, 0xC0 is -2.
    assert infer(server, "eight", {"x": np.array([[0x38, 0xC0]], np.uint8)}, way)["y"].tolist() == [[1, -2]]
    with pytest.raises(RefusedError, match="an INT4 is a number from -8 to 7"):
        infer(server, "wide", {"x": np.array([[0, 0, 8]], np.int8)}, way)
    assert server.get("/v2/models/wide").json["inputs"][0]["datatype"] == "INT8"
