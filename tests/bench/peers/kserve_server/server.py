"""KServe's Python server with an ONNX model: `server.py --port N --grpc-port M`; V2 over REST (JSON or raw tensors) and gRPC."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import asyncio
from concurrent.futures import ThreadPoolExecutor

import kserve
import numpy as np
from kserve import InferOutput, InferResponse
from onnx_model import IMAGE, WORKERS, Model, row


class Served(kserve.Model):
    """The model `m`."""

    def __init__(self):
        super().__init__("m")
        self.threads = ThreadPoolExecutor(WORKERS)

    def load(self):
        self.model = Model()
        self.ready = True
        return self.ready

    def compute(self, request):
        given = request.inputs[0]
        x = row(bytes(given.as_numpy().ravel()[0]))[None] if IMAGE else given.as_numpy().astype(np.float32, copy=False)
        found = self.model.run(x)
        output = InferOutput("y", list(found.shape), "FP32")
        output.set_data_from_numpy(found, binary_data=request.from_grpc or given.parameters is not None)
        return InferResponse(request.id or "", "m", [output])

    async def predict(self, payload, headers=None, response_headers=None):
        if WORKERS > 1:
            return await asyncio.get_running_loop().run_in_executor(self.threads, self.compute, payload)
        return self.compute(payload)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    options = parser.parse_args()
    model = Served()
    model.load()
    kserve.ModelServer(
        http_port=options.port,
        grpc_port=options.grpc_port,
        enable_latency_logging=False,
    ).start([model])
