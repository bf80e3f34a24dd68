"""The V2 protocol's metadata documents."""

import importlib.metadata
from typing import Any

from podpair.inference.core.tensors import TensorSpec
from podpair.inference.runtime.catalog import ServedModel, ServedVersion


def server() -> dict[str, Any]:
    """`GET /v2`."""
    return {
        "name": "podpair-inference",
        "version": importlib.metadata.version("podpair-inference"),
        "extensions": ["binary_tensor_data", "generate"],
    }


def model(model: ServedModel, served: ServedVersion) -> dict[str, Any]:
    """`GET /v2/models/{model}`: tensors as they are served, after post-processing; every version of the model."""
    return {
        "name": model.name,
        "versions": list(model.versions),
        "platform": served.runtime.platform,
        "inputs": [_tensor(spec.tensor) for spec in served.signature.inputs],
        "outputs": [_tensor(spec) for spec in served.signature.outputs],
        "parameters": {"description": model.config.description, "version": served.version},
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
