"""The V2 protocol's documents, which REST gives as JSON and gRPC as messages of the same names."""

import importlib.metadata
from functools import cache
from typing import Any

import msgspec

from podpair.inference.core.tensors import TensorSpec
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.runtime.protocol import Declaring
from podpair.inference.runtime.served_model import ServedModel, ServedVersion

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "generate",
    "model_configuration",
    "model_repository",
    "statistics",
]


@cache
def server() -> dict[str, Any]:
    """Return the document of `GET /v2`."""
    version = importlib.metadata.version("podpair-inference")
    return {"name": "podpair-inference", "version": version, "extensions": EXTENSIONS}


def metadata(model: ServedModel, served: ServedVersion) -> dict[str, Any]:
    """Return that of `GET /v2/models/{model}`: tensors as they are served, after post-processing; every version of the model."""
    return {
        "name": model.name,
        "versions": list(model.versions),
        "platform": served.runtime.platform,
        "inputs": [_tensor(spec.tensor) for spec in served.signature.inputs],
        "outputs": [_tensor(spec) for spec in served.signature.outputs],
    }


def more_metadata(model: ServedModel, served: ServedVersion) -> dict[str, Any]:
    """Return what only REST's metadata has, for gRPC's message has no fields for it: parameters, and a workflow's declaration."""
    parameters = {"description": model.config.description, "version": served.version, **_rows(model, served)}
    found: dict[str, Any] = {"parameters": parameters}
    return found | {"workflow": served.runtime.declaration} if isinstance(served.runtime, Declaring) else found


def configuration(model: ServedModel, served: ServedVersion) -> dict[str, Any]:
    """Return that of `GET /v2/models/{model}/config`, in Triton's terms: how requests are batched, tensors without their rows."""
    batching, rows = model.config.batching, int(served.signature.has_rows)
    delay = {"max_queue_delay_microseconds": int(batching.max_delay_ms * 1000)}
    return {
        "name": model.name,
        "platform": served.runtime.platform,
        "max_batch_size": served.scheduler.max_items if rows else 0,
        "input": [_configured(spec.tensor, rows) for spec in served.signature.inputs],
        "output": [_configured(spec, rows) for spec in served.signature.outputs],
        # What is never batched has none, as Triton says it.
        **({"dynamic_batching": delay} if served.signature.batchable else {}),
        "model_transaction_policy": {"decoupled": served.streams is not None},
        "parameters": {
            name: {"string_value": value} for name, value in (_rows(model, served) | _workflow(served)).items()
        },
    }


def statistics(catalog: Catalog, name: str | None, version: str | None) -> dict[str, Any]:
    """Return that of `GET /v2/models/{model}/stats`: of one version, of all of a model, or of all. Raises NotFoundError."""
    if name and version:
        found = [catalog.version(name, version)]
    else:
        models = [catalog.model(name)] if name else catalog.models
        found = [served for model in models for served in model.versions.values()]
    return {"model_stats": [served.scheduler.statistics.document(served.model, served.version) for served in found]}


def _rows(model: ServedModel, served: ServedVersion) -> dict[str, str]:
    """Return whether requests share runs, and why, for clients that join requests themselves, as the gateway does.

    What a request gets that names no version may come of any that has a weight: the most careful of them speaks for all.
    """
    deciding = served
    if model.weights.get(served.version):
        others = [model.versions[version] for version, weight in model.weights.items() if weight]
        deciding = next((other for other in (served, *others) if not other.signature.batchable), served)
    decision = deciding.signature.decision
    reason = decision.reason if deciding is served else f"version {deciding.version}: {decision.reason}"
    return {"rows": decision.rows.value, "rows_by": decision.by, "rows_reason": reason}


def _workflow(served: ServedVersion) -> dict[str, str]:
    """Return the declaration of a workflow and its version, for who asks over gRPC."""
    if not isinstance(served.runtime, Declaring):
        return {}
    return {"version": served.version, "workflow": msgspec.json.encode(served.runtime.declaration).decode()}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _configured(spec: TensorSpec, rows: int) -> dict[str, Any]:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    tensor = {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape[rows:])}
    return tensor | {"optional": True} if spec.optional else tensor
