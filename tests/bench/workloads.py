"""What servers are asked to compute: a tiny MLP, a CNN of some 310 million multiply-adds, and JPEG files before that CNN.

A workload has the request's body in each protocol. `batch` and `workers` are what suits it on a CPU, and what peers are told:
the MLP in batches by one worker; the CNN, which batches slow down, one row a run and a run for each core.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.cnn import SHAPE, write_cnn
from bench.mlp import WIDTH, write_mlp
from podpair.inference.grpc.proto import open_inference_pb2 as pb

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class Workload:
    """A model with podpair's name `m`, and a request to it."""

    name: str
    title: str
    repository: Path
    shape: tuple[int, ...]
    batch: int
    workers: int
    # A row's floats, or a file.
    payload: bytes
    image: bool = False

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.repository / "m/1/model.onnx"

    @property
    def numbers(self) -> list[float]:
        """The row, for JSON."""
        return [round(float(value), 4) for value in np.frombuffer(self.payload, np.float32)]

    @property
    def environment(self) -> Mapping[str, str]:
        """What `peers/onnx_model.py` reads."""
        known = {"MODEL": str(self.model), "SHAPE": ",".join(map(str, self.shape))}
        return known | {"BATCH": str(self.batch), "WORKERS": str(self.workers)} | ({"IMAGE": "1"} if self.image else {})

    def _tensor(self) -> tuple[dict[str, Any], bytes]:
        """V2's head of the input, and the raw input: an element of BYTES has its length before it."""
        if self.image:
            return {"name": "image", "datatype": "BYTES", "shape": [1]}, len(self.payload).to_bytes(
                4, "little"
            ) + self.payload
        return {"name": "x", "datatype": "FP32", "shape": [1, *self.shape]}, self.payload

    def v2_json(self) -> bytes:
        """V2's request in JSON."""
        return json.dumps({"inputs": [self._tensor()[0] | {"data": self.numbers}]}).encode()

    def v2_raw(self) -> tuple[bytes, Mapping[str, str]]:
        """V2's request with raw tensors in and out, and its headers."""
        tensor, raw = self._tensor()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        return head + raw, {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }

    def v2_grpc(self) -> bytes:
        """A ModelInferRequest."""
        tensor, raw = self._tensor()
        request = pb.ModelInferRequest(model_name="m", raw_input_contents=[raw])
        request.inputs.add(**tensor)
        return bytes(request.SerializeToString())


def small(folder: Path) -> Workload:
    """The MLP, everything at its default."""
    write_mlp(folder)
    (folder / "mlp").rename(folder / "m")
    (folder / "m/model.yaml").unlink()
    row = np.random.default_rng(1).random(WIDTH).astype(np.float32).round(4)
    return Workload("small", "A tiny model", folder, (WIDTH,), 64, 1, row.tobytes())


def cnn(folder: Path) -> Workload:
    """The CNN on tensors, everything at its default."""
    write_cnn(folder)
    (folder / "cnn").rename(folder / "m")
    row = np.random.default_rng(1).random(SHAPE).astype(np.float32)
    return Workload("cnn", "A convolutional model", folder, SHAPE, 1, _cores(), row.tobytes())


def jpeg(folder: Path) -> Workload:
    """The CNN on files: 500×375 pixels in some 60 KB."""
    from bench.images import photo

    write_cnn(folder)
    (folder / "cnn").rename(folder / "m")
    step = {"op": "image", "output": "x", "mean": MEAN, "std": STD}
    (folder / "m/model.yaml").write_text(json.dumps({"preprocess": [step]}))
    return Workload("jpeg", "JPEG files", folder, SHAPE, 1, _cores(), photo(), image=True)


WORKLOADS: dict[str, Callable[[Path], Workload]] = {"small": small, "cnn": cnn, "jpeg": jpeg}


def _cores() -> int:
    return len(os.sched_getaffinity(0))
