"""The ONNX model in MODEL, for one row at a time."""

import os

import numpy as np
import onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


def predict(row: list[float]) -> list[float]:
    """The answer to a row."""
    return session.run(None, {"x": np.array([row], np.float32)})[0][0].tolist()
