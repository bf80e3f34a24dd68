"""BentoML with an ONNX model: `server.py --port N`. `/json` takes `{"x": [floats]}`; `/raw` bytes, as a file's."""

import argparse
import os
import sys
from pathlib import Path
from typing import Annotated

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
# Its workers are processes of their own.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
os.environ["BENTOML_DO_NOT_TRACK"] = "True"

import bentoml
import numpy as np
from bentoml.validators import ContentType
from onnx_model import BATCH, SHAPE, WORKERS, Model, row


@bentoml.service(workers=WORKERS, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Served:
    """Small models in batches, others one row a run."""

    def __init__(self):
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=max(2, BATCH), max_latency_ms=1000)
    def json(self, x: np.ndarray) -> np.ndarray:
        return self.model.run(x.astype(np.float32).reshape(-1, *SHAPE))

    @bentoml.api
    def raw(self, data: Annotated[Path, ContentType("application/octet-stream")], /) -> list[float]:
        return self.model.run(row(data.read_bytes())[None])[0].tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = str(parser.parse_args().port)
    bento = str(Path(sys.executable).with_name("bentoml"))
    os.execv(
        bento, [bento, "serve", "server:Served", "--host", "127.0.0.1", "--port", port, "--working-dir", str(HERE)]
    )
