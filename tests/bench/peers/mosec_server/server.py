"""mosec with an ONNX model, as its documentation has it: `server.py --port N`; RAW=1: bytes instead of JSON."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from mosec import Server, Worker
from onnx_model import BATCH, SHAPE, WORKERS, Model, row


class Served(Worker):
    """JSON: a list of floats in, a list out."""

    def __init__(self):
        self.model = Model()

    def forward(self, data):
        x = np.array(data, np.float32).reshape(len(data), *SHAPE)
        return self.model.run(x).tolist()


class RawServed(Served):
    """Bytes of floats (or of a file) in, bytes out."""

    def deserialize(self, data):
        return row(data)

    def serialize(self, data):
        return data.tobytes()

    def forward(self, data):
        if isinstance(data, np.ndarray):  # a batch size of 1: no list
            return self.model.run(data[None])[0]
        x = data[0][None] if len(data) == 1 else np.stack(data)
        return list(self.model.run(x))


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        RawServed if os.environ.get("RAW") else Served,
        num=WORKERS,
        max_batch_size=BATCH,
        max_wait_time=2 if BATCH > 1 else 0,
    )
    server.run()
