"""Models of images: what becomes of the pixels, whatever the protocol, and what a bad image costs (itself alone)."""

import base64
import json
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from podpair.common.faults import FaultsError
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.model_config import ImageConfig, ModelConfig
from podpair.inference.core.preprocess import PreProcess
from podpair.inference.core.tensors import Array, TensorSpec
from podpair.inference.grpc.proto import open_inference_pb2, podpair_pb2
from podpair.inference.runtime.images import ImageDecoder

RANDOM = np.random.default_rng(7)


def png(rgb: Array) -> bytes:
    """Losslessly; with the channels of an RGB(A) or grey array."""
    order = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[rgb.shape[2] if rgb.ndim == 3 else 2]
    return cv2.imencode(".png", rgb if order is None else cv2.cvtColor(rgb, order))[1].tobytes()


def decode(data: bytes, shape: tuple[int, ...] = (-1, 3, 8, 8), datatype: str = "FP32", **config: Any) -> Array:
    """What the model gets."""
    step = ImageConfig.model_validate({"op": "image", "output": "x", **config})
    (spec,) = PreProcess([step], [TensorSpec("x", datatype, shape)]).images
    assert spec
    decoder = ImageDecoder(spec, "test")
    room = decoder.allocate(1)
    decoder.decode(data, room[0])
    return room[0]


def noise(height: int, width: int, channels: int = 3) -> Array:
    return RANDOM.integers(0, 256, (height, width, channels), np.uint8)


def test_an_image_of_the_right_size_is_its_pixels_in_the_layout_and_order_of_the_model() -> None:
    rgb = noise(8, 8)
    assert np.allclose(decode(png(rgb)), rgb.transpose(2, 0, 1) / 255, atol=1e-6)
    assert np.allclose(decode(png(rgb), channels="BGR"), rgb[:, :, ::-1].transpose(2, 0, 1) / 255, atol=1e-6)
    assert np.allclose(decode(png(rgb), (-1, 8, 8, 3)), rgb / 255, atol=1e-6)
    assert np.array_equal(decode(png(rgb), (-1, 8, 8, 3), "UINT8"), rgb)
    assert np.array_equal(decode(png(rgb), datatype="UINT8"), rgb.transpose(2, 0, 1))
    half = decode(png(rgb), datatype="FP16")
    assert half.dtype == np.float16
    assert np.allclose(half, rgb.transpose(2, 0, 1) / 255, atol=1e-3)
    grey = decode(png(rgb), (-1, 1, 8, 8))
    assert np.allclose(grey[0], rgb @ [0.299, 0.587, 0.114] / 255, atol=1 / 255)
    assert np.allclose(decode(png(rgb[:, :, 0])), rgb[:, :, 0] / 255, atol=1e-6)


def test_values_are_normalised_as_declared() -> None:
    rgb = noise(8, 8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (rgb / 255 - mean) / std
    assert np.allclose(decode(png(rgb), mean=mean, std=std), expected.transpose(2, 0, 1), atol=1e-5)
    assert np.allclose(decode(png(rgb), (-1, 8, 8, 3), mean=mean, std=std), expected, atol=1e-5)
    assert np.allclose(decode(png(rgb), scale=1), rgb.transpose(2, 0, 1), atol=1e-4)
    # One value for all channels; a negative std inverts.
    assert np.allclose(decode(png(rgb), mean=[1], std=[-1]), 1 - rgb.transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("times", [2, 4, 8])
def test_area_is_the_mean_of_what_becomes_one_pixel(times: int) -> None:
    rgb = noise(8 * times, 8 * times)
    means = rgb.reshape(8, times, 8, times, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    # Each halving rounds.
    assert np.abs(decode(png(rgb), scale=1) - means).max() <= times.bit_length() - 1


@pytest.mark.parametrize("size", [(37, 53), (100, 80), (640, 427)])
def test_area_leaves_no_pattern_of_what_is_too_fine_while_sampling_does(size: tuple[int, int]) -> None:
    """Stripes one pixel wide: their mean is grey, and what differs from it was never in the image."""
    stripes = np.zeros((*size, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(decode(png(stripes), scale=1) - 127.5).max() < 45
    assert np.abs(decode(png(stripes), scale=1, interpolation="nearest") - 127.5).max() > 100


def test_resize_rules_place_what_they_keep() -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :20], wide[:, 60:] = (255, 0, 0), (0, 0, 255)
    cropped = decode(png(wide), resize="crop", scale=1)
    assert cropped.max() == 0
    padded = decode(png(wide), resize="pad", scale=1, fill=[1, 2, 3])
    assert np.array_equal(padded[:, :2], np.broadcast_to(np.array([1, 2, 3]).reshape(3, 1, 1), (3, 2, 8)))
    assert np.array_equal(padded[:, 6:], padded[:, :2])
    assert np.array_equal(padded[:, 3, 0], [255, 0, 0])
    assert np.array_equal(padded[:, 3, 7], [0, 0, 255])
    stretched = decode(png(wide), scale=1)
    assert np.array_equal(stretched[:, :, 0], np.broadcast_to([[255], [0], [0]], (3, 8)))
    half = decode(png(wide), resize="crop", crop=0.5, scale=1)
    assert half.shape == (3, 8, 8)


def test_transparent_pixels_show_the_background() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[2:4, 2:4] = (0, 0, 0, 255)
    ink = decode(png(rgba), (-1, 1, 8, 8), scale=1)[0]
    assert ink[2, 2] == 0
    assert ink[0, 0] == 255
    red = decode(png(rgba), scale=1, background=[255, 0, 0])
    assert np.array_equal(red[:, 0, 0], [255, 0, 0])
    assert np.array_equal(decode(png(rgba), scale=1, background=[255, 0, 0], channels="BGR")[:, 0, 0], [0, 0, 255])
    webp = cv2.imencode(".webp", rgba, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    assert np.array_equal(decode(webp, (-1, 1, 8, 8), scale=1)[0], ink)


def test_sixteen_bits_and_palettes_become_eight_bits_a_channel() -> None:
    grey = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    assert np.abs(decode(png(grey), (-1, 1, 8, 8), scale=1)[0] - grey / 257).max() <= 1


def test_a_photo_is_turned_upright_and_a_reduced_one_is_the_same_picture() -> None:
    high = np.zeros((640, 480, 3), np.uint8)
    high[:320] = (200, 100, 50)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(high, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    # Orientation 6: what was stored is to be turned to the right.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    upright, right = decode(jpeg, scale=1), decode(turned, scale=1)
    assert np.allclose(upright[:, 1, 1], (200, 100, 50), atol=4)
    assert np.allclose(upright[:, 6, 6], 0, atol=4)
    assert np.allclose(right[:, 1, 6], (200, 100, 50), atol=4)
    assert np.allclose(right[:, 1, 1], 0, atol=4)
    for channels in ("BGR", "GRAY"):
        shape = (-1, 1, 8, 8) if channels == "GRAY" else (-1, 3, 8, 8)
        small, whole = (decode(jpeg, shape, scale=1, channels=channels, interpolation=i) for i in ("area", "linear"))
        assert np.allclose(small[:, ::7], whole[:, ::7], atol=6)


def test_a_flat_input_and_one_without_channels_get_the_same_pixels() -> None:
    rgb = noise(8, 8)
    config = {"op": "image", "output": "x", "size": [8, 8]}
    for shape, inner in (((-1, 64), (64,)), ((-1, 8, 8), (8, 8))):
        (spec,) = PreProcess([ImageConfig.model_validate(config)], [TensorSpec("x", "FP32", shape)]).images
        assert spec
        assert (spec.channels, spec.model_shape(3)) == ("GRAY", (3, *inner))
    assert decode(png(rgb), (-1, 64), size=[8, 8]).shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("shape", "datatype", "config", "complaint"),
    [
        ((-1, 3, 8, 8), "FP32", {"output": "y"}, "no input 'y'; the model has x"),
        ((-1, 3, 8, 8), "INT64", {}, "an image becomes FP32, FP16, UINT8"),
        ((-1, 3, -1, -1), "FP32", {}, "say which size"),
        ((-1, 64), "FP32", {}, "say which size"),
        ((-1, 64), "FP32", {"size": [7, 9]}, r"an image would be \[3, 7, 9\] \(NCHW\)"),
        ((-1, 3, 8, 8), "FP32", {"size": [9, 9]}, r"an image would be \[3, 9, 9\] \(NCHW\)"),
        ((-1, 3, 8, 8), "FP32", {"layout": "NHWC"}, r"an image would be \[3, 8, 3\] \(NHWC\)"),
        ((-1, 3, 8, 8), "FP32", {"channels": "GRAY"}, r"an image would be \[1, 8, 8\]"),
        ((1, 3, 8, 8), "FP32", {"channels": "GRAY"}, r"an image would be \[1, 8, 8\]"),
        ((-1, 3, 8, 8), "FP32", {"mean": [0.5, 0.5]}, "mean has 2 values for 3 channels"),
        ((-1, 3, 8, 8), "UINT8", {"mean": [0.5]}, "it takes pixels as they are"),
        ((-1, 3, 8, 8), "FP32", {"std": [0]}, "0 can't be divided by"),
        ((-1, 3, 8, 8), "FP32", {"crop": 0.5}, "crop is for resize: crop"),
    ],
)
def test_declarations_that_cannot_be(shape: tuple[int, ...], datatype: str, config: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PreProcess(
            [ImageConfig.model_validate({"op": "image", "output": "x", **config})], [TensorSpec("x", datatype, shape)]
        )


def test_two_images_need_two_names_and_one_input_is_made_once() -> None:
    specs = [TensorSpec(name, "FP32", (-1, 3, 8, 8)) for name in "ab"]
    steps = [ImageConfig(op="image", output=name) for name in "ab"]
    with pytest.raises(ValueError, match="there are two inputs 'image'"):
        PreProcess(steps, specs)
    with pytest.raises(ValueError, match="'a' is made twice"):
        PreProcess([steps[0], steps[0]], specs)
    named = PreProcess([ImageConfig(op="image", input=f"image_{name}", output=name) for name in "ab"], specs)
    assert [spec.name for spec in named.inputs] == ["image_a", "image_b"]


def test_fewer_images_wait_than_rows_of_numbers_unless_the_file_says_so() -> None:
    step = {"op": "image", "output": "x"}
    assert ModelConfig.model_validate({}).batching.queue_size == 4096
    assert ModelConfig.model_validate({"preprocess": [step], "batching": {"max_items": 2}}).batching.queue_size == 256
    assert ModelConfig.model_validate({"preprocess": [step], "batching": {"queue_size": 9}}).batching.queue_size == 9


def test_without_opencv_the_model_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    (spec,) = PreProcess([ImageConfig(op="image", output="x")], [TensorSpec("x", "FP32", (-1, 3, 8, 8))]).images
    assert spec
    complaint = r"m/model.yaml: preprocess.image needs OpenCV .* podpair-inference\[images\]"
    with pytest.raises(FaultsError, match=complaint):
        ImageDecoder(spec, "m/model.yaml")


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp"])
def test_a_file_that_is_cut_off_is_told_from_one_that_is_damaged(kind: str) -> None:
    data = cv2.imencode(kind, noise(64, 64))[1].tobytes()
    for cut in (len(data) // 2, len(data) - 100):
        with pytest.raises(InvalidRequestError, match=f"is cut off after {cut} bytes"):
            decode(data[:cut])
    with pytest.raises(InvalidRequestError, match="is damaged"):
        decode(data[:40] + b"\0" * (len(data) - 100) + data[-60:])


MODELS = """
class Sizes:
    def predict(self, batch):
        return [float(image.mean()) for image in batch]

    def stream(self, request):
        for channel in request:
            yield float(channel.mean())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any]) -> Iterator[Any]:
    """`same` answers what it gets, `single` takes one image at a time, `sizes` is a class."""
    repository = tmp_path_factory.mktemp("images")
    nodes = [helper.make_node("Identity", ["pixels"], ["seen"])]
    for name, rows in (("same", "n"), ("single", 1)):
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        shape = [rows, 3, 8, 8]
        graph = helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("seen", TensorProto.FLOAT, shape)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        step = {"op": "image", "output": "pixels", "max_pixels": 100_000}
        (folder.parent / "model.yaml").write_text(json.dumps({"preprocess": [step]}))
    (repository / "sizes/1").mkdir(parents=True)
    (repository / "sizes/1/model.py").write_text(MODELS)
    config = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 4, 4]}],
        "outputs": [{"name": "mean", "datatype": "FP32", "shape": [-1]}],
        "preprocess": [{"op": "image", "output": "x", "scale": 1}],
    }
    (repository / "sizes/model.yaml").write_text(json.dumps(config))
    with serve(repository) as server:
        yield server


def ask(server: Any, images: list[bytes], model: str = "same") -> Any:
    """Raw BYTES, raw answer."""
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(images)],
        "parameters": {"binary_data_size": len(raw)},
    }
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return server.post(f"/v2/models/{model}/infer", header + raw, {"Inference-Header-Content-Length": str(len(header))})


def seen(reply: Any, shape: tuple[int, ...]) -> Array:
    assert reply.status == 200, reply.body
    return np.frombuffer(reply.body[int(reply.headers["Inference-Header-Content-Length"]) :], "<f4").reshape(shape)


def test_clients_are_told_that_an_image_is_wanted(server: Any) -> None:
    assert server.get("/v2/models/same").json["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert server.get("/v2/models/single").json["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [1]}]


def test_images_come_as_bytes_as_base64_over_rest_grpc_and_as_a_payload(server: Any) -> None:
    rgbs = [noise(8, 8) for _ in range(3)]
    files = [png(rgb) for rgb in rgbs]
    expected = np.stack([rgb.transpose(2, 0, 1) / 255 for rgb in rgbs])
    assert np.allclose(seen(ask(server, files), (3, 3, 8, 8)), expected, atol=1e-6)
    assert np.allclose(seen(ask(server, files[:1], "single"), (1, 3, 8, 8)), expected[:1], atol=1e-6)
    texts = [base64.b64encode(file).decode() for file in files]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "data": texts}
    answer = server.post("/v2/models/same/infer", {"inputs": [tensor]}).json["outputs"][0]
    assert np.allclose(np.reshape(answer["data"], (3, 3, 8, 8)), expected, atol=1e-6)
    generated = server.post("/v2/models/same/generate", {"image": f"data:image/png;base64,{texts[1]}"}).json
    assert np.allclose(generated["seen"], expected[1], atol=1e-6)
    with grpc.insecure_channel(server.record("gRPC is ready")["address"]) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            open_inference_pb2.ModelInferRequest.SerializeToString,
            open_inference_pb2.ModelInferResponse.FromString,
        )
        request = open_inference_pb2.ModelInferRequest(model_name="same")
        request.inputs.add(name="image", datatype="BYTES", shape=[3])
        request.raw_input_contents.append(b"".join(struct.pack("<I", len(file)) + file for file in files))
        raw = infer(request, timeout=30).raw_output_contents[0]
        assert np.allclose(np.frombuffer(raw, "<f4").reshape(3, 3, 8, 8), expected, atol=1e-6)
        predict = channel.unary_unary(
            "/podpair.v1.Inference/Predict",
            podpair_pb2.PredictRequest.SerializeToString,
            podpair_pb2.PredictResponse.FromString,
        )
        scores = predict(podpair_pb2.PredictRequest(payload=files[2], model_id="same"), timeout=30).scores
        assert np.allclose(np.reshape(scores, (3, 8, 8)), expected[2], atol=1e-6)


def test_a_class_gets_arrays_and_may_stream(server: Any) -> None:
    rgb = noise(4, 4)
    text = base64.b64encode(png(rgb)).decode()
    answer = server.post("/v2/models/sizes/generate", {"image": text}).json
    assert answer["mean"] == pytest.approx(rgb.mean(), abs=0.01)
    parts = server.post("/v2/models/sizes/generate_stream", {"image": text}).body.decode()
    means = [json.loads(line[6:])["mean"] for line in parts.splitlines() if line]
    assert means == pytest.approx(rgb.mean(axis=(0, 1)).tolist(), abs=0.01)
    assert "it is a GIF" in server.post("/v2/models/sizes/generate_stream", {"image": "GIF89a"}).json["error"]


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        ([b"hello"], "input 'image': it is no known image format"),
        ([b""], "input 'image': it is empty"),
        ([png(noise(8, 8)), b"GIF89a"], "input 'image', image 2: it is a GIF; send a JPEG, PNG or WebP"),
        ([png(noise(400, 300))], "400 pixels, more than 100,000 (max_pixels)"),
        ([png(noise(64, 64))[:-300]], "the PNG is cut off after"),
    ],
)
def test_what_is_no_image_is_400_and_says_why(server: Any, images: list[bytes], complaint: str) -> None:
    reply = ask(server, images)
    assert reply.status == 400
    assert complaint in reply.json["error"]


def test_a_bad_image_fails_its_own_request_and_no_other(server: Any) -> None:
    """Many at once, every fifth of them bad: each gets its own answer."""
    rgbs = [noise(8, 8) for _ in range(60)]
    files = [png(rgb) if i % 5 else png(rgb)[: 60 + i] for i, rgb in enumerate(rgbs)]
    together = threading.Barrier(12)

    def one(i: int) -> Any:
        if i < 12:
            together.wait(20)
        return ask(server, [files[i]])

    with ThreadPoolExecutor(12) as threads:
        replies = list(threads.map(one, range(60)))
    for i, (rgb, reply) in enumerate(zip(rgbs, replies, strict=True)):
        if i % 5:
            assert np.allclose(seen(reply, (3, 8, 8)), rgb.transpose(2, 0, 1) / 255, atol=1e-6)
        else:
            assert (reply.status, "cut off" in reply.json["error"]) == (400, True)


def test_what_the_stage_took_is_told(server: Any) -> None:
    before = server.get("/v2/models/same/stats").json["model_stats"][0]["inference_stats"]
    assert ask(server, [png(noise(8, 8))] * 3).status == 200
    after = server.get("/v2/models/same/stats").json["model_stats"][0]["inference_stats"]
    assert after["compute_input"]["ns"] > before["compute_input"]["ns"]
    metrics = server.get("/metrics").body.decode()
    assert 'inference_stage_duration_seconds_count{model="same",stage="preprocess"}' in metrics
    assert 'inference_stage_queue_depth{model="same",stage="preprocess"} 0.0' in metrics
