"""What the Python peers have in common: the model behind them, told by the environment, and nothing of podpair.

MODEL and SHAPE name the ONNX file and one row's shape; IMAGE=1: requests hold JPEG files, decoded and resized by OpenCV as its
tutorials do (linear, which doesn't average). ONNX Runtime computes with one thread a run: several runs side by side answer more
than one run of several threads.
"""

import os

import numpy as np
import onnxruntime as ort

SHAPE = [int(size) for size in os.environ["SHAPE"].split(",")]
IMAGE = bool(os.environ.get("IMAGE"))
# Rows in a batch, and runs side by side: what the workload is best served with.
BATCH = int(os.environ.get("BATCH", "64"))
WORKERS = int(os.environ.get("WORKERS", "1"))

if IMAGE:
    import cv2

    cv2.setNumThreads(1)

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


class Model:
    """The session, and what comes before it."""

    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def run(self, x):
        """Rows in, rows out."""
        return self.session.run(None, {"x": x})[0]


def row(data):
    """What a request holds, as one row: a file, or a row's floats."""
    if not IMAGE:
        return np.frombuffer(data, np.float32).reshape(SHAPE)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    small = cv2.resize(pixels, (SHAPE[2], SHAPE[1]), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(((small.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1))
