"""Declared pre-processing: which of the model's inputs are made of what clients send, and how they look then.

Only images so far. What is decided here needs no decoder: shapes, layouts and what can't go together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from podpair.inference.core.model_config import ImageConfig
from podpair.inference.core.tensors import TensorSpec

_CHANNELS = {"RGB": 3, "BGR": 3, "GRAY": 1}
_DATATYPES = ("FP32", "FP16", "UINT8")


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How an input of the model is made of encoded images; everything that the file left open is decided."""

    config: ImageConfig
    # The model's input; its first dimension is the images of a batch, or all of it is one.
    tensor: TensorSpec
    # (width, height)
    size: tuple[int, int]
    channels: Literal["RGB", "BGR", "GRAY"]
    layout: Literal["NCHW", "NHWC"]
    # A value is pixel * gain + bias, by channel.
    gain: tuple[float, ...]
    bias: tuple[float, ...]

    @property
    def depth(self) -> int:
        """How many channels."""
        return _CHANNELS[self.channels]

    def shape(self, images: int) -> tuple[int, ...]:
        """Return the shape of a tensor of so many images, before it gets the model's own shape."""
        width, height = self.size
        return (images, self.depth, height, width) if self.layout == "NCHW" else (images, height, width, self.depth)

    def model_shape(self, images: int) -> tuple[int, ...]:
        """Return the shape as the model takes it: flat, for example, or without a dimension for one channel."""
        shape = self.tensor.shape
        if shape[0] == -1:
            inner = self.shape(1)[1:] if -1 in shape[1:] else shape[1:]
            return (images, *inner)
        return shape


class PreProcess:
    """The served inputs, and how those of the model are made of them.

    steps: as declared. wanted: the model's own inputs. Raises ValueError naming the first fault.
    """

    def __init__(self, steps: Sequence[ImageConfig], wanted: Sequence[TensorSpec]) -> None:
        specs = {spec.name: spec for spec in wanted}
        # One for each input, in their order: how it is made of an image; None: it is sent as it is.
        self.images: list[ImageSpec | None] = [None] * len(wanted)
        served = list(wanted)
        for step in steps:
            if step.output not in specs:
                raise ValueError(f"preprocess.image: no input {step.output!r}; the model has {', '.join(specs)}")
            index = list(specs).index(step.output)
            if self.images[index] is not None:
                raise ValueError(f"preprocess.image: input {step.output!r} is made twice")
            image = self.images[index] = _image(step, specs[step.output])
            served[index] = TensorSpec(step.input, "BYTES", (_count(image),))
        names = [spec.name for spec in served]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"preprocess.image: there are two inputs {twice!r}; give one another name (input: …)")
        self.inputs = tuple(served)

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return any(self.images)


def _count(image: ImageSpec) -> int:
    """Return how many images the model's input takes; -1: any number."""
    shape = image.tensor.shape
    return -1 if shape[0] == -1 else math.prod(shape) // math.prod(image.shape(1))


def _image(step: ImageConfig, tensor: TensorSpec) -> ImageSpec:
    where = f"preprocess.image: input {tensor.name!r} is {tensor.datatype} {list(tensor.shape)}"
    if tensor.datatype not in _DATATYPES or not tensor.shape:
        raise ValueError(f"{where}; an image becomes {', '.join(_DATATYPES)}")
    layout = step.layout or _layout(tensor.shape)
    height, width = step.size or _size(tensor.shape, layout, where)
    channels = step.channels or ("GRAY" if _is_gray(tensor.shape, layout, height * width) else "RGB")
    depth = _CHANNELS[channels]
    gain, bias = _line(step, depth, where)
    if tensor.datatype == "UINT8" and {"scale", "mean", "std"} & step.model_fields_set:
        raise ValueError(f"{where}: it takes pixels as they are, without scale, mean and std")
    image = ImageSpec(step, tensor, (width, height), channels, layout, gain, bias)
    _check_shape(image, where)
    return image


def _layout(shape: tuple[int, ...]) -> Literal["NCHW", "NHWC"]:
    """Guess the layout from where the size is 1 or 3; without a channel dimension both layouts are the same."""
    return "NHWC" if len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3) else "NCHW"


def _size(shape: tuple[int, ...], layout: str, where: str) -> tuple[int, int]:
    inner = shape[-3:-1] if layout == "NHWC" else shape[-2:]
    if len(shape) < 3 or len(inner) < 2 or min(inner) < 1:
        raise ValueError(f"{where}: say which size an image gets (size: [height, width])")
    return inner[0], inner[1]


def _is_gray(shape: tuple[int, ...], layout: str, pixels: int) -> bool:
    if len(shape) == 4:
        return shape[1 if layout == "NCHW" else 3] == 1
    return math.prod(size for size in shape[1:] if size > 0) == pixels


def _line(step: ImageConfig, depth: int, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (pixel * scale - mean) / std as a gain and a bias for each channel."""
    for name, values in (("mean", step.mean), ("std", step.std)):
        if len(values) not in (1, depth):
            raise ValueError(f"{where}: {name} has {len(values)} values for {depth} channels")
    means, stds = (values * depth if len(values) == 1 else values for values in (step.mean, step.std))
    gain = tuple(step.scale / std for std in stds)
    return gain, tuple(-mean / std for mean, std in zip(means, stds, strict=True))


def _check_shape(image: ImageSpec, where: str) -> None:
    """Raise ValueError unless images fit into the tensor: its own dimensions, or their elements in other ones."""
    shape, one = image.tensor.shape, image.shape(1)
    elements = math.prod(one)
    if shape[0] == -1:
        inner = shape[1:]
        same_rank = len(inner) == 3 and all(size in (-1, mine) for size, mine in zip(inner, one[1:], strict=True))
        if not (same_rank or (len(inner) != 3 and math.prod(inner) == elements)):
            raise ValueError(f"{where}, an image would be {list(one[1:])} ({image.layout})")
    elif min(shape) < 1 or math.prod(shape) % elements or (len(shape) == 4 and shape[1:] != one[1:]):
        raise ValueError(f"{where}, an image would be {list(one[1:])} ({image.layout})")
