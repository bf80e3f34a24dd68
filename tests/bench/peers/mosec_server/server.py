"""mosec with an ONNX model, as its documentation has it: `server.py --port N`, the model in MODEL, tensors raw or in JSON."""

import os

import numpy as np
import onnxruntime as ort
from mosec import Server, Worker

SHAPE = [int(size) for size in os.environ["SHAPE"].split(",")]


class Model(Worker):
    """JSON: a list of floats in, a list out."""

    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def forward(self, data):
        x = np.array(data, np.float32).reshape(len(data), *SHAPE)
        return self.session.run(None, {"x": x})[0].tolist()


class RawModel(Model):
    """Bytes of floats in, bytes out."""

    def deserialize(self, data):
        return np.frombuffer(data, np.float32).reshape(SHAPE)

    def serialize(self, data):
        return data.tobytes()

    def forward(self, data):
        if isinstance(data, np.ndarray):  # a batch size of 1: no list
            return self.session.run(None, {"x": data[None]})[0][0]
        x = data[0][None] if len(data) == 1 else np.stack(data)
        return list(self.session.run(None, {"x": x})[0])


if __name__ == "__main__":
    server = Server()
    batch = int(os.environ.get("BATCH", "64"))
    server.append_worker(
        RawModel if os.environ.get("RAW") else Model,
        num=int(os.environ.get("WORKERS", "1")),
        max_batch_size=batch,
        max_wait_time=2 if batch > 1 else 0,
    )
    server.run()
