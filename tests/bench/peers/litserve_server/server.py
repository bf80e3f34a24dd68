"""LitServe with an ONNX model: `server.py --port N`. It reads JSON: `{"x": [floats]}`, or
`{"x": base64}` of a row's floats or a file.
"""

import argparse
import base64
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import litserve
import numpy as np
from onnx_model import BATCH, SHAPE, WORKERS, Model, row


class Served(litserve.LitAPI):
    """Batches where they pay, else one row a run."""

    def setup(self, device):
        self.model = Model()

    def decode_request(self, request):
        x = request["x"]
        return row(base64.b64decode(x)) if isinstance(x, str) else np.array(x, np.float32).reshape(SHAPE)

    def predict(self, x):
        return self.model.run(x if BATCH > 1 else x[None])

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"y": output.ravel().tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    api = Served(max_batch_size=BATCH, batch_timeout=0.002 if BATCH > 1 else 0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=parser.parse_args().port, log_level="error", generate_client_file=False)
