"""What a `model.yaml` may say. Everything has a default: without one, the model's own metadata is enough."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from podpair.inference.core.tensors import DATATYPES

Positive = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorConfig(_Section):
    """A tensor as the model's author promises it; checked against the model's own metadata when that is loaded."""

    name: str
    datatype: str
    # -1 is any size; the first dimension is the rows.
    shape: tuple[Annotated[int, Field(ge=-1)], ...]

    @field_validator("datatype")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in DATATYPES:
            raise ValueError(f"no V2 datatype; use one of {', '.join(DATATYPES)}")
        return value


class InputConfig(TensorConfig):
    """An input tensor."""

    # Whether NaN and infinities are values; otherwise a request with one is refused.
    allow_nan: bool = False
    # Whether a Python class gets BYTES as `str`; false: as `bytes`, an image say.
    text: bool = True


class BatchingConfig(_Section):
    """How requests are gathered into batches."""

    # Rows in one run of the model; 1 turns batching off.
    max_items: Positive = 64
    # How long a request may wait for company while another batch runs; never while the runtime is idle.
    max_delay_ms: Annotated[float, Field(ge=0, le=10_000)] = 2.0
    # Rows that may wait; past it requests are refused with 429.
    queue_size: Positive = 4096


class RuntimeConfig(_Section):
    """How the model is run."""

    # Threads inside one run; default: about 80 % of the cores, divided by `instances`.
    intra_op_threads: Positive | None = None
    # Batches that run at the same time on the one shared session.
    instances: Positive = 1
    # A run that is shorter than this is made in the loop, without the way to a thread and back; 0: never.
    inline_below_ms: Annotated[float, Field(ge=0, le=10)] = 0.2
    # ONNX Runtime execution providers in the order in which they are tried.
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    # Streams of a Python class that may be open at the same time; past it they are refused with 429.
    max_streams: Positive = 64


class WarmupConfig(_Section):
    """Runs of zeros before the model is ready."""

    # The batch sizes to run; default: one row, and for ONNX a full batch.
    rows: tuple[Positive, ...] | None = None


class SoftmaxConfig(_Section):
    """Probabilities of logits, over the last dimension."""

    op: Literal["softmax"]
    input: str
    output: str


class ArgmaxConfig(_Section):
    """The index (INT64), or the label (BYTES), of the largest value over the last dimension."""

    op: Literal["argmax"]
    input: str
    output: str
    labels: tuple[str, ...] | None = None
    # One label a line; a path relative to the model's folder.
    labels_file: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ArgmaxConfig":
        if self.labels is not None and self.labels_file is not None:
            raise ValueError("give labels or labels_file, not both")
        return self


Step = Annotated[SoftmaxConfig | ArgmaxConfig, Field(discriminator="op")]


# A version's share, in proportion to those of the others.
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ShareConfig(_Section):
    """A version that answers requests which name none."""

    version: Positive
    weight: Weight


def _some_weight(weights: Mapping[int, float]) -> Mapping[int, float]:
    if not any(weights.values()):
        raise ValueError("one of the versions needs a weight above 0")
    return weights


# Version → weight.
VersionWeights = Annotated[Mapping[Positive, Weight], AfterValidator(_some_weight)]


class ModelConfig(_Section):
    """A `model.yaml`."""

    description: str = ""
    # The class in `model.py`, where more than one has a `predict` or `stream`.
    class_: str | None = Field(default=None, alias="class")
    # Which versions answer requests that name none; default: the highest alone. All can be asked for by number.
    versions: tuple[ShareConfig, ...] = ()
    # The model's inputs; those that aren't named here are taken from its metadata.
    inputs: tuple[InputConfig, ...] = ()
    # The outputs after post-processing that are served; default: all that no post-processing step has consumed.
    outputs: tuple[TensorConfig, ...] = ()
    batching: BatchingConfig = BatchingConfig()
    warmup: WarmupConfig = WarmupConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    postprocess: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _some_weight(self) -> "ModelConfig":
        if self.versions and not any(share.weight for share in self.versions):
            raise ValueError("versions: one of them needs a weight above 0")
        return self
