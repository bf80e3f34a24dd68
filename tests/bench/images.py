"""What decoding images costs, and what averaging is worth: one JSON line.

    .venv/bin/python tests/bench/images.py
    uv pip install simplejpeg pillow      # to measure these beside OpenCV; they are nothing that podpair needs

A photo (scikit-learn's china.jpg) as a JPEG of about 60 KB, 500×375, becomes 224×224. CPU times are the best of several rounds.
`accuracy` is the example model's on digits drawn by the strokes of examples/train_digits.py, 224×224 JPEGs, by `interpolation`.
`path` is a stack of convolutions behind the container's own stages, and the bare decoder and session in two threads, in turns.
"""

import asyncio
import importlib.util
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import sklearn
from onnx import TensorProto, helper, numpy_helper

from podpair.inference.core.model_config import ImageConfig
from podpair.inference.core.preprocess import PreProcess
from podpair.inference.core.tensors import TensorSpec
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.images import ImageDecoder
from podpair.inference.runtime.repository import ModelRepository

ROOT = Path(__file__).parents[2]
PHOTO = Path(sklearn.__file__).parent / "datasets/images/china.jpg"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES, ROUNDS, AT_ONCE = 300, 7, 16


def photo() -> bytes:
    small = cv2.resize(cv2.imread(str(PHOTO)), (500, 375), interpolation=cv2.INTER_AREA)
    files = (cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, q])[1].tobytes() for q in range(60, 100))
    return next(file for file in files if len(file) >= 60_000)


def decoder(shape: tuple[int, ...], **config: Any) -> ImageDecoder:
    step = ImageConfig.model_validate({"op": "image", "output": "x", **config})
    (spec,) = PreProcess([step], [TensorSpec("x", "FP32", shape)]).images
    assert spec
    return ImageDecoder(spec, "bench")


def cpu_ms(run: Callable[[], object]) -> float:
    """The best of five rounds."""
    run()
    best = 9e9
    for _ in range(5):
        begun = time.process_time()
        for _ in range(60):
            run()
        best = min(best, (time.process_time() - begun) / 60)
    return round(best * 1000, 3)


def costs(jpeg: bytes) -> dict[str, float]:
    encoded = np.frombuffer(jpeg, np.uint8)
    pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    found: dict[str, Callable[[], object]] = {
        "decode OpenCV": lambda: cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB),
        "resize OpenCV linear": lambda: cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_LINEAR),
        "resize OpenCV area": lambda: cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_AREA),
    }
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        found["decode simplejpeg"] = lambda: simplejpeg.decode_jpeg(jpeg, "RGB")
    if importlib.util.find_spec("PIL"):
        from PIL import Image

        found["decode Pillow"] = lambda: np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        found["resize Pillow bilinear"] = lambda: Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR)
    for interpolation in ("area", "linear"):
        ours = decoder((-1, 3, 224, 224), mean=MEAN, std=STD, interpolation=interpolation)
        room = ours.allocate(1)
        found[f"podpair, {interpolation}: file to tensor"] = lambda ours=ours, room=room: ours.decode(jpeg, room[0])
    return {name: cpu_ms(run) for name, run in found.items()}


def accuracy() -> dict[str, float]:
    sys.path = [*sys.path, str(ROOT / "examples")]
    import train_digits as train

    inks: list[Any] = []
    to_pixels = train.to_pixels
    train.to_pixels = lambda ink: (inks.append(ink), to_pixels(ink))[1]
    _, labels = train.drawn(1000, np.random.default_rng(train.SEED + 1))
    files = []
    for ink in inks:
        # Cropped to the drawing and centred, as the model has learnt it: dark ink on white paper.
        rows, columns = np.nonzero(ink.max(axis=1) > 0.2)[0], np.nonzero(ink.max(axis=0) > 0.2)[0]
        crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
        side = max(crop.shape)
        square = np.zeros((side, side), np.float32)
        top, left = (side - crop.shape[0]) // 2, (side - crop.shape[1]) // 2
        square[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        paper = 255 - np.clip(cv2.resize(square, (224, 224)) * 255, 0, 255).astype(np.uint8)
        files.append(cv2.imencode(".jpg", paper)[1].tobytes())
    session = onnxruntime.InferenceSession(ROOT / "examples/models/digits/1/model.onnx")
    found = {}
    for interpolation in ("area", "linear", "cubic", "nearest"):
        ours = decoder((-1, 64), size=[8, 8], mean=[1], std=[-1], interpolation=interpolation)
        room = ours.allocate(len(files))
        for file, place in zip(files, room, strict=True):
            ours.decode(file, place)
        logits = session.run(None, {"pixels": room.reshape(-1, 64)})[0]
        found[interpolation] = round(float((logits.argmax(axis=1) == labels).mean()), 3)
    return found


def network(folder: Path) -> Path:
    """Convolutions of about 300 million multiply-adds for one image of 3×224×224."""
    random = np.random.default_rng(1)
    nodes, weights, last, depth = [], [], "pixels", 3
    for i, (width, stride) in enumerate(
        [(16, 2), (32, 2), (64, 2), (64, 1), (128, 1), (128, 1), (128, 2), (128, 2), (256, 2)]
    ):
        weight = (random.standard_normal((width, depth, 3, 3)) * 0.05).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], strides=[stride] * 2, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last, depth = f"r{i}", width
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["scores"]))
    shape, out = ["n", 3, 224, 224], ["n", depth]
    graph = helper.make_graph(
        nodes, "cnn",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, out)],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "cnn/1").mkdir(parents=True)
    (folder / "cnn/1/model.onnx").write_bytes(model.SerializeToString())
    config = {
        "preprocess": [{"op": "image", "output": "pixels", "mean": MEAN, "std": STD}],
        "batching": {"max_items": 1},
        "runtime": {"instances": 2, "intra_op_threads": 1},
        "warmup": {"rows": [1]},
    }
    (folder / "cnn/model.yaml").write_text(json.dumps(config))
    return folder / "cnn/1/model.onnx"


def bare(jpeg: bytes, file: Path) -> Callable[[], float]:
    """Images a second of the decoder and the session in two threads, with nothing between."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options)
    ours = decoder((-1, 3, 224, 224), mean=MEAN, std=STD)

    def work() -> None:
        room = ours.allocate(1)
        for _ in range(IMAGES // 2):
            ours.decode(jpeg, room[0])
            session.run(None, {"pixels": room})

    def run() -> float:
        threads = [threading.Thread(target=work) for _ in range(2)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return IMAGES / (time.perf_counter() - begun)

    return run


async def path(jpeg: bytes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        raw = bare(jpeg, network(Path(folder)))
        catalog = Catalog(ModelRepository(Path(folder)), Metrics())
        await catalog.start()
        served = catalog.version("cnn", None)
        image = np.array([jpeg], object)

        async def ask(left: list[int]) -> None:
            while left:
                left.pop()
                await served.scheduler.submit([image])

        async def stages() -> float:
            left = list(range(IMAGES))
            begun = time.perf_counter()
            await asyncio.gather(*(ask(left) for _ in range(AT_ONCE)))
            return IMAGES / (time.perf_counter() - begun)

        await stages()
        raw()
        pairs = [(raw(), await stages()) for _ in range(ROUNDS)]
        await catalog.stop(5)
    return {
        "bare images/s": round(statistics.median(a for a, _ in pairs)),
        "stages images/s": round(statistics.median(b for _, b in pairs)),
        "ratio": round(statistics.median(b / a for a, b in pairs), 3),
        "ratios": [round(b / a, 3) for a, b in pairs],
    }


if __name__ == "__main__":
    cv2.setNumThreads(1)
    file = photo()
    print(
        json.dumps(
            {"jpeg bytes": len(file), "cpu ms": costs(file), "accuracy": accuracy(), "path": asyncio.run(path(file))}
        )
    )
