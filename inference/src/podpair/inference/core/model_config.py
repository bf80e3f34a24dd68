"""The schema of a `model.yaml`. Everything has a default: without one, the model's own metadata is enough."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from podpair.inference.core.geometry import ResizeRule
from podpair.inference.core.row_decision import RowsSetting
from podpair.inference.core.tensors import DATATYPES

Positive = Annotated[int, Field(gt=0)]


def _listed(given: Any) -> Any:
    """Wrap one number for all channels, which may be written without brackets."""
    return (given,) if isinstance(given, int | float) else given


Channels = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
    Field(min_length=1, max_length=3),
    BeforeValidator(_listed),
]
Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]

# The default of batching.queue_size for a model of images.
IMAGES_WAITING = 256


class _Section(BaseModel):
    # Only what is used is built: a sixth of the start-up time.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


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

    # Rows in one run of the model; 1 turns batching off. Default: as many as make a row cheaper, which is found out while
    # it is loaded and while it runs, and at most 64.
    max_items: Positive | None = None
    # Batches of these sizes if there are enough rows; the rest runs with the next batch.
    preferred: tuple[Positive, ...] = ()
    # How long a request may wait for company while another batch runs; never while the runtime is idle.
    max_delay_ms: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    # Rows that may wait; past it requests are refused with 429.
    queue_size: Positive = 4096


class ProviderConfig(_Section):
    """An execution provider with options, as ONNX Runtime names them."""

    name: str
    options: dict[str, str | int | float | bool] = {}


class RuntimeConfig(_Section):
    """How the model is run."""

    # Threads inside one run; default: about 80 % of the cores, divided by `instances`; 1 if neither is given.
    intra_op_threads: Positive | None = None
    # Batches that run at the same time on the one shared session; default: as many as there are threads to compute, one
    # for a Python class.
    instances: Positive | None = None
    # Threads for branches of the graph that can run side by side.
    inter_op_threads: Positive = 1
    # The cores on which the model computes; default: any.
    cpus: tuple[Annotated[int, Field(ge=0)], ...] = ()
    # A run that is shorter than this is made in the loop, without the way to a thread and back; 0: never.
    inline_below_ms: Annotated[float, Field(ge=0, le=10)] = 0.2
    # ONNX Runtime's execution providers in the order in which they are tried: CUDA, TensorRT, OpenVINO, CPU, …, or one
    # with its options.
    providers: tuple[str | ProviderConfig, ...] = ("CPU",)
    # How far ONNX Runtime rewrites the graph when it loads it: lower it if a model's answers must be those of its own nodes.
    graph_optimization_level: Literal["disabled", "basic", "extended", "layout", "all"] = "all"
    # Bind inputs and outputs before a run: fewer copies if the provider has memory of its own.
    io_binding: bool = False
    # Streams of a Python class that may be open at the same time; past it they wait for a second, and are refused with 429 then.
    max_streams: Positive = 64
    # Whether a Python class has a process of its own: what it does there (hold the GIL, crash, never return) affects nothing
    # else. false: threads of the server's.
    process: bool = True
    # How long a run in a process of its own may take, and a stream until its next chunk, in seconds; past it the process is
    # killed and restarted.
    timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300.0
    # How long loading a class in a process of its own may take, in seconds; default: any time.
    load_timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    # How often a Python class that has a method `ready` is asked whether it is, and how long it may take to answer, in seconds.
    ready_poll_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    ready_timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0

    @model_validator(mode="after")
    def _only_a_process_can_be_ended(self) -> "RuntimeConfig":
        given = sorted({"timeout_seconds", "load_timeout_seconds"} & self.model_fields_set)
        if not self.process and given:
            raise ValueError(f"{given[0]} needs process: true; what runs in the server's own can't be ended")
        return self


class WarmupConfig(_Section):
    """Runs of zeros before the model is ready. A model that can't process them is served all the same, with a warning."""

    # The batch sizes to run; default: one row, and for ONNX 2, 4, … as long as larger ones pay.
    rows: tuple[Positive, ...] | None = None
    # What the other dimensions of any size are, in turn until the model takes them; default: 1, 32, 256, 512.
    sizes: tuple[Positive, ...] = ()


class ImageConfig(_Section):
    """An encoded image (JPEG, PNG, WebP) that becomes an input tensor of the model."""

    op: Literal["image"]
    # What clients send it as: BYTES.
    input: str = "image"
    # The model's input.
    output: str
    # Height and width; default: those of the model's input.
    size: tuple[Positive, Positive] | None = None
    # Default: that of the model's input.
    layout: Literal["NCHW", "NHWC"] | None = None
    # Default: GRAY if the model's input has one channel.
    channels: Literal["RGB", "BGR", "GRAY"] | None = None
    # A value is (pixel * scale - mean) / std, by channel or one for all.
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1 / 255
    mean: Channels = (0.0,)
    std: Channels = (1.0,)
    # See core.geometry.
    resize: ResizeRule = "stretch"
    # The middle part of the largest crop that is taken; 0.875: what is often called "resize 256, crop 224".
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    # area averages; the others sample, and skip what is between the samples.
    interpolation: Literal["area", "linear", "cubic", "nearest"] = "area"
    # The pixels around an image that was padded, and behind one that is transparent; 0..255 for each of RGB.
    fill: Colour = (0, 0, 0)
    background: Colour = (255, 255, 255)
    # A larger image is refused before it is decoded.
    max_pixels: Positive = 32_000_000

    @model_validator(mode="after")
    def _useful(self) -> "ImageConfig":
        if 0 in self.std:
            raise ValueError("std: 0 can't be divided by")
        if self.crop != 1 and self.resize != "crop":
            raise ValueError("crop is for resize: crop")
        return self


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
    # The class in `model.py`, if more than one has a `predict` or `stream`.
    class_: str | None = Field(default=None, alias="class")
    # Which versions answer requests that name none; default: the highest alone. All can be asked for by number.
    versions: tuple[ShareConfig, ...] = ()
    # The model's inputs; those that aren't named here are taken from its metadata.
    inputs: tuple[InputConfig, ...] = ()
    # The outputs after post-processing that are served; default: all that no post-processing step has consumed.
    outputs: tuple[TensorConfig, ...] = ()
    # What the first dimension of all tensors is. independent: rows, each answered as it would be alone, so that requests share
    # runs; dependent: rows, but each request runs alone; none: shapes are the model's own, and each request runs alone.
    # auto: decided by the shapes, the graph and a probe (core.row_decision).
    rows: RowsSetting = "auto"
    batching: BatchingConfig = BatchingConfig()
    warmup: WarmupConfig = WarmupConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    preprocess: tuple[ImageConfig, ...] = ()
    postprocess: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _some_weight(self) -> "ModelConfig":
        if self.versions and not any(share.weight for share in self.versions):
            raise ValueError("versions: one of them needs a weight above 0")
        return self

    @model_validator(mode="before")
    @classmethod
    def _images_are_large(cls, given: Any) -> Any:
        """Limit the queue of images, which wait decoded, unless the file sets it."""
        if not isinstance(given, dict) or not given.get("preprocess"):
            return given
        batching = given.get("batching") or {}
        if not isinstance(batching, dict):
            return given
        return {**given, "batching": {"queue_size": IMAGES_WAITING, **batching}}
