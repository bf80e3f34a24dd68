"""The example model, as committed: what it promises about accuracy, size and its answers."""

import base64
import importlib.util
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = EXAMPLES / "models/digits/1/model.onnx"


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """The script that made it."""
    spec = importlib.util.spec_from_file_location("train_digits", EXAMPLES / "train_digits.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def classify(served: Any, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that the server gives."""
    tensor = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape)}
    tensor["parameters"] = {"binary_data_size": pixels.nbytes}
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}]
    header = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    answer = served.post("/v2/models/digits/infer", header + pixels.tobytes(), headers)
    end = int(answer.headers["Inference-Header-Content-Length"])
    labels = json.loads(answer.body[:end])["outputs"][1]["data"]
    return np.array(labels, int), np.frombuffer(answer.body[end:], "<f4").reshape(-1, 10)


def test_97_percent_of_the_held_out_digits_are_recognised(served: Any, training: ModuleType) -> None:
    _, pixels, _, truth = training.split()
    labels, probabilities = classify(served, np.ascontiguousarray(pixels, "<f4"))
    assert (labels == truth).mean() >= 0.97
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), labels)


def test_95_percent_of_drawn_digits_are_recognised(served: Any, training: ModuleType) -> None:
    pixels, truth = training.drawn(400, np.random.default_rng(2026))
    labels, _ = classify(served, np.ascontiguousarray(pixels, "<f4"))
    assert (labels == truth).mean() >= 0.95


def test_a_drawing_in_any_corner_and_of_any_size_becomes_the_same_pixels(training: ModuleType) -> None:
    stroke = np.ones((120, 24))
    large, small = np.zeros((280, 280)), np.zeros((280, 280))
    large[20:140, 30:54] = stroke
    small[200:260, 250:262] = stroke[::2, ::2]
    np.testing.assert_allclose(training.to_pixels(large), training.to_pixels(small), atol=0.05)
    assert training.to_pixels(np.zeros((280, 280))).sum() == 0


def test_it_is_small_and_holds_no_denormal_weights() -> None:
    import onnx

    assert MODEL.stat().st_size < 200_000
    for tensor in onnx.load(MODEL).graph.initializer:
        weights = onnx.numpy_helper.to_array(tensor)
        assert not ((weights != 0) & (np.abs(weights) < 1e-30)).any()


def test_the_example_request_is_answered(served: Any) -> None:
    request = json.loads((EXAMPLES / "digits/request.json").read_text())
    document = served.post("/v2/models/digits/infer", request).json
    assert document["id"] == request["id"]
    assert document["outputs"][1]["data"] == ["1"]


def test_digits_in_image_files_are_recognised(
    training: ModuleType, serve: Callable[..., AbstractContextManager[Any]]
) -> None:
    """The example of images: one as its description says to ask, then the held-out digits as PNGs of several sizes."""
    _, pixels, _, truth = training.split()

    def png(row: np.ndarray, times: int) -> str:
        ink = np.kron(row.reshape(8, 8), np.ones((times, times)))
        return base64.b64encode(cv2.imencode(".png", np.round(255 * (1 - ink)).astype(np.uint8))[1]).decode()

    images = [png(row, 4 + i % 20) for i, row in enumerate(pixels[:240])]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": images}
    with serve(EXAMPLES / "images") as server:
        seven = base64.b64encode((EXAMPLES / "images/seven.png").read_bytes()).decode()
        answer = server.post("/v2/models/digits_png/generate", {"image": seven}).json
        answers = server.post("/v2/models/digits_png/infer", {"inputs": [tensor]}).json
    assert answer["label"] == "7"
    labels = next(output["data"] for output in answers["outputs"] if output["name"] == "label")
    assert (np.array(labels, int) == truth[: len(images)]).mean() >= 0.97
