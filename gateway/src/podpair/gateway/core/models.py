"""What the gateway knows of a model from its V2 metadata: its tensors, and whether requests may share a call; of a workflow, its
declaration.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from podpair.gateway.core.model_errors import Failed
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.shorthand import InputSpec
from podpair.gateway.core.tensors import DATATYPES, MOST_DIMENSIONS, TensorSpec

if TYPE_CHECKING:
    from podpair.common.workflows.declaration import Workflow

WORKFLOW = "podpair_workflow"
"""The platform of workflows."""
_MOST_RUNS = 1024  # calls at a time, whatever a server says of its instances
_LARGEST = 1 << 31  # of a dimension


class Model(NamedTuple):
    """A model as its server describes it."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool  # every tensor has rows, of any number, as its first dimension
    max_rows: int | None  # in one call; None: the server does not say
    runs: int  # how many calls it works on at a time, as far as it says
    versions: tuple[str, ...]
    decoupled: bool  # it answers in parts
    # Whether a row's answer is the same alone and in company, so that requests may share a call: as the server says, by
    # podpair's `rows` or Triton's `max_batch_size`; None: it does not say.
    shares: bool | None
    # Its declaration, if it is a workflow, and the version that this is.
    workflow: "Workflow | None" = None
    workflow_version: str = ""

    def lists(self, version: str | None) -> bool:
        """Return whether the version of an answer is in the model's description, as far as its server names versions."""
        return not version or not self.versions or version in self.versions

    def only_input(self) -> InputSpec:
        """Return the input that shorthand is for. Raises Fault(invalid) if there is not exactly one."""
        if len(self.inputs) != 1:
            message = f"model {self.name} has {len(self.inputs)} inputs: send `inputs`, not `data`"
            raise Fault(Code.INVALID, message)
        return InputSpec(*self.inputs[0])


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]


class _Metadata(msgspec.Struct):
    inputs: list[_Tensor] = []
    outputs: list[_Tensor] = []
    versions: list[str] | None = None
    parameters: Any = None
    platform: Any = None
    workflow: msgspec.Raw = msgspec.Raw(b"")


class _Group(msgspec.Struct):
    count: int = 1


class _Policy(msgspec.Struct):
    decoupled: bool = False


class _Config(msgspec.Struct):
    max_batch_size: int | None = None
    instance_group: list[_Group] = []
    model_transaction_policy: _Policy | None = None
    sequence_batching: Any = None
    parameters: Any = None


def model_of(name: str, metadata: bytes, config: bytes | None) -> Model:
    """Parse the documents of `/v2/models/{name}` and, if the server has it, `…/config` (Triton's extension).

    Raises ValueError if the metadata is not V2's, and Failed if it is that of a workflow whose declaration can't be read.
    A config that can't be read is as good as none.
    """
    try:
        found = msgspec.json.decode(metadata, type=_Metadata)
    except RecursionError:
        raise ValueError("nested too deep") from None
    try:
        says = msgspec.json.decode(config, type=_Config) if config else _Config()
    except (msgspec.DecodeError, RecursionError):
        says = _Config()
    inputs, outputs = (
        tuple(TensorSpec(t.name, t.datatype, t.shape) for t in ts) for ts in (found.inputs, found.outputs)
    )
    tensors = (*inputs, *outputs)
    for tensor in tensors:
        if len(tensor.shape) > MOST_DIMENSIONS or not all(-1 <= size <= _LARGEST for size in tensor.shape):
            raise ValueError(f"the shape of tensor {tensor.name[:100]!r} is none")
    rows = bool(inputs) and bool(outputs) and all(t.shape[:1] == (-1,) and t.datatype in DATATYPES for t in tensors)
    # A server that says 0 has no rows there: its first dimension is something else. Sequences are one client's each.
    batchable = rows and says.max_batch_size != 0 and says.sequence_batching is None
    given = _parameter("rows", says.parameters, found.parameters)
    shares = batchable and _shares(given, says.max_batch_size)
    policy = says.model_transaction_policy
    rows_of_a_call = says.max_batch_size if (says.max_batch_size or 0) > 0 else None
    runs = sum(max(group.count, 0) for group in says.instance_group)
    return Model(
        name, inputs, outputs, batchable, rows_of_a_call, min(max(runs, 1), _MOST_RUNS),
        tuple(found.versions or ()), policy is not None and policy.decoupled, shares,
        *(_workflow(name, found, says) if found.platform == WORKFLOW else ()),
    )  # fmt: skip


def _shares(rows: str | None, max_batch_size: int | None) -> bool | None:
    """Return what a server says about requests in one call. podpair's container says whether it has established it; in Triton's
    configuration `max_batch_size` above 1 means that the model takes rows of several requests at once.
    """
    if rows is not None:
        return rows == "independent"
    return None if max_batch_size is None or max_batch_size < 0 else max_batch_size > 1


def _workflow(name: str, found: _Metadata, says: _Config) -> "tuple[Workflow, str]":
    """Return a workflow's declaration and its version, from the metadata (REST) or the configuration (gRPC). Raises Failed."""
    # Only who has workflows pays for these.
    from pydantic import ValidationError

    from podpair.common.sentences import sentences
    from podpair.common.workflows.declaration import Workflow

    declared = bytes(found.workflow) or _parameter("workflow", says.parameters)
    version = _parameter("version", found.parameters, says.parameters)
    if not declared or not version:
        raise Failed(f"its workflow {name} comes without its {'version' if declared else 'declaration'}")
    try:
        return Workflow.model_validate_json(declared), version
    except ValidationError as error:
        faults = "; ".join(sentences(error, Workflow, name))
        raise Failed(f"its workflow can't be read, perhaps because it is newer than this gateway: {faults}") from None


def _parameter(name: str, *several: Any) -> str | None:
    """Return a parameter of podpair's container from the first that has it; a configuration's has Triton's form."""
    for parameters in several:
        found = parameters.get(name) if isinstance(parameters, dict) else None
        if isinstance(found, dict):
            found = found.get("string_value")
        if isinstance(found, str):
            return found
    return None
