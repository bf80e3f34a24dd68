"""MLServer with an ONNX model: `server.py --port N --grpc-port M`; V2 over REST (JSON) and gRPC (raw tensors)."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
# Its workers are processes of their own, which have to find this module.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
from onnx_model import BATCH, IMAGE, WORKERS, Model, row


class Served(MLModel):
    """The model `m`."""

    async def load(self):
        self.model = Model()
        return True

    async def predict(self, payload):
        given = payload.inputs[0]
        x = row(given.data[0])[None] if IMAGE else NumpyCodec.decode_input(given).astype(np.float32, copy=False)
        return InferenceResponse(model_name="m", outputs=[NumpyCodec.encode_output("y", self.model.run(x))])


async def serve(port, grpc_port, metrics_port):
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        http_port=port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        grpc_max_message_length=64 << 20,
        # Processes beside the first where several rows are to be computed at once.
        parallel_workers=WORKERS if WORKERS > 1 else 0,
        logging_settings={"version": 1, "root": {"level": "ERROR"}},
    )
    batching = {"max_batch_size": BATCH, "max_batch_time": 0.002} if BATCH > 1 else {}
    from server import Served as Importable

    model = ModelSettings(name="m", implementation=Importable, **batching)
    server = MLServer(settings)
    await server.start([model])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--metrics-port", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.grpc_port, options.metrics_port))
