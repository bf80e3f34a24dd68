"""Asks a server what it reads, by tritonclient: `triton_asking.py HTTP_ADDRESS GRPC_ADDRESS`. Runs in its own environment.

Standard input: pickled (way, model, inputs by name, names of the outputs); standard output: pickled (answers by name, why there
are none). Ways: "binary" and "json" over REST, "grpc".
"""

import pickle
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Answer = tuple[dict[str, Any] | None, str]


class Asker:
    """The clients of one server."""

    def __init__(self, http: str, grpc: str) -> None:
        self._http = triton_http.InferenceServerClient(http, connection_timeout=600, network_timeout=600)
        self._grpc = triton_grpc.InferenceServerClient(grpc)

    def ask(self, way: str, model: str, inputs: dict[str, np.ndarray], outputs: list[str]) -> Answer:
        """The answers by name, or why there are none."""
        module, client = (triton_grpc, self._grpc) if way == "grpc" else (triton_http, self._http)
        binary = {} if way == "grpc" else {"binary_data": way == "binary"}
        try:
            tensors = []
            for name, array in inputs.items():
                tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
                tensor.set_data_from_numpy(array, **binary)
                tensors.append(tensor)
            asked = [module.InferRequestedOutput(name, **binary) for name in outputs]
            result = client.infer(model, tensors, outputs=asked)
        except InferenceServerException as error:
            return None, str(error)
        return {name: result.as_numpy(name) for name in outputs}, ""


def main() -> None:
    asker = Asker(*sys.argv[1:])
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(asker.ask(*request), answers)
        answers.flush()


if __name__ == "__main__":
    main()
