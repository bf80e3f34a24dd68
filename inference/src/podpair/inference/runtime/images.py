"""Decodes images into a model's tensor, with OpenCV, which reads and resizes all three formats and releases the GIL.

For JPEG alone simplejpeg is 7 % quicker, and does no more than that (docs/benchmarks.md). OpenCV is imported only if a model
declares images.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from podpair.common.faults import FaultsError
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.geometry import Plan, multiple, plan, reduction
from podpair.inference.core.images import ImageHeader, is_whole, read_header, unwrap
from podpair.inference.core.preprocess import ImageSpec
from podpair.inference.core.tensors import DATATYPES, Array

Pixels = Any


def import_opencv(source: str) -> Any:
    """Import the library. Raises FaultsError if it isn't installed; source: the file that needs it."""
    try:
        import cv2
    except ImportError as error:
        raise FaultsError(
            [f"{source}: preprocess.image needs OpenCV ({error}): install podpair-inference[images]"]
        ) from None
    # The threads are ours; faults of an image are reported to its sender.
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


class ImageDecoder:
    """Makes one input of a model of encoded images. Called from several threads at once."""

    def __init__(self, spec: ImageSpec, source: str) -> None:
        cv = self._cv = import_opencv(source)
        self.spec = spec
        config = spec.config
        self._interpolation = {
            "area": cv.INTER_LINEAR,
            "linear": cv.INTER_LINEAR,
            "cubic": cv.INTER_CUBIC,
            "nearest": cv.INTER_NEAREST,
        }[config.interpolation]
        self._gray = spec.channels == "GRAY"
        # Colours are declared as RGB.
        self._fill, self._background = (self._in_order(c) for c in (config.fill, config.background))
        # A table of 256 values for each channel: what a pixel becomes.
        steps = np.arange(256, dtype=np.float32)
        self._tables = [
            (steps * np.float32(gain) + np.float32(bias)).astype(np.float32)
            for gain, bias in zip(spec.gain, spec.bias, strict=True)
        ]
        self._table = np.stack(self._tables, axis=-1).reshape(1, 256, spec.depth)
        self._write: Callable[[Pixels, Array], None] = {
            "UINT8": self._write_pixels,
            "FP32": self._write_floats,
            "FP16": self._write_halves,
        }[spec.tensor.datatype]

    def allocate(self, images: int) -> Array:
        """Return an uninitialised tensor for so many images."""
        return np.empty(self.spec.shape(images), DATATYPES[self.spec.tensor.datatype])

    def decode(self, data: bytes, out: Array) -> None:
        """Write one image to its place in `allocate`. Raises InvalidRequestError for what is no image, cut off or too large."""
        spec, config = self.spec, self.spec.config
        data = unwrap(data)
        header = read_header(data, config.max_pixels)
        pixels = self._pixels(data, header)
        height, width = pixels.shape[:2]
        step = plan(width, height, spec.size, config.resize, config.crop)
        self._write(self._placed(self._resized(pixels, step), step), out)

    def _pixels(self, data: bytes, header: ImageHeader) -> Pixels:
        """Decode an image, upright, in the channels that the model takes."""
        cv, spec, config = self._cv, self.spec, self.spec.config
        encoded = np.frombuffer(data, np.uint8)
        if header.alpha:
            return self._opaque(self._decoded(encoded, cv.IMREAD_UNCHANGED, data, header))
        reduced = 1
        if header.format == "JPEG" and config.interpolation == "area":
            reduced = reduction(header.width, header.height, spec.size, config.resize, config.crop)
        colour, flags = {
            1: (cv.IMREAD_COLOR, cv.IMREAD_GRAYSCALE),
            2: (cv.IMREAD_REDUCED_COLOR_2, cv.IMREAD_REDUCED_GRAYSCALE_2),
            4: (cv.IMREAD_REDUCED_COLOR_4, cv.IMREAD_REDUCED_GRAYSCALE_4),
            8: (cv.IMREAD_REDUCED_COLOR_8, cv.IMREAD_REDUCED_GRAYSCALE_8),
        }[reduced]
        if self._gray:
            return self._decoded(encoded, flags, data, header)
        if spec.channels == "BGR":
            return self._decoded(encoded, colour, data, header)
        if reduced == 1:
            return self._decoded(encoded, cv.IMREAD_COLOR_RGB, data, header)
        return cv.cvtColor(self._decoded(encoded, colour, data, header), cv.COLOR_BGR2RGB)

    def _decoded(self, encoded: Array, flags: int, data: bytes, header: ImageHeader) -> Pixels:
        try:
            pixels = self._cv.imdecode(encoded, flags)
        except self._cv.error as error:
            raise InvalidRequestError(f"the {header.format} can't be decoded: {error.err}") from None
        if pixels is None:
            what = "is damaged" if is_whole(data, header.format) else f"is cut off after {len(data)} bytes"
            raise InvalidRequestError(f"the {header.format} {what}")
        return pixels

    def _opaque(self, pixels: Pixels) -> Pixels:
        """Compose what may be transparent with its background; 16-bit pixels become 8-bit ones."""
        cv = self._cv
        if pixels.dtype == np.uint16:
            pixels = cv.convertScaleAbs(pixels, alpha=1 / 257)
        if pixels.ndim == 2 or pixels.shape[2] == 1:
            pixels = cv.cvtColor(pixels, cv.COLOR_GRAY2BGR)
        if pixels.shape[2] == 4:
            weight = pixels[:, :, 3:].astype(np.float32) / 255
            behind = np.array(self.spec.config.background[::-1], np.float32)
            pixels = np.rint(pixels[:, :, :3] * weight + behind * (1 - weight)).astype(np.uint8)
        if self._gray:
            return cv.cvtColor(pixels, cv.COLOR_BGR2GRAY)
        return pixels if self.spec.channels == "BGR" else cv.cvtColor(pixels, cv.COLOR_BGR2RGB)

    def _resized(self, pixels: Pixels, step: Plan) -> Pixels:
        cv = self._cv
        part = pixels[step.top : step.top + step.height, step.left : step.left + step.width]
        times = 1
        if self.spec.config.interpolation == "area":
            times = multiple((step.width, step.height), step.size)
        wide, high = step.size[0] * times, step.size[1] * times
        if (step.width, step.height) != (wide, high):
            part = cv.resize(part, (wide, high), interpolation=self._interpolation)
        while times > 1:
            times //= 2
            part = cv.resize(part, (step.size[0] * times, step.size[1] * times), interpolation=cv.INTER_AREA)
        return part

    def _placed(self, pixels: Pixels, step: Plan) -> Pixels:
        """Centre it in an image of the model's size, if it is smaller."""
        wide, high = self.spec.size
        if step.size == (wide, high):
            return pixels
        left, top = step.offset
        right, bottom = wide - left - step.size[0], high - top - step.size[1]
        border = self._cv.BORDER_CONSTANT
        return self._cv.copyMakeBorder(pixels, top, bottom, left, right, border, value=self._fill)

    def _write_floats(self, pixels: Pixels, out: Array) -> None:
        cv = self._cv
        if self.spec.layout == "NHWC":
            out[:] = cv.LUT(pixels, self._table).reshape(out.shape)
            return
        for channel, table, plane in zip(cv.split(pixels), self._tables, out, strict=True):
            cv.LUT(channel, table, dst=plane)

    def _write_halves(self, pixels: Pixels, out: Array) -> None:
        floats = np.empty(out.shape, np.float32)
        self._write_floats(pixels, floats)
        out[:] = floats

    def _write_pixels(self, pixels: Pixels, out: Array) -> None:
        if self.spec.layout == "NHWC":
            out[:] = pixels.reshape(out.shape)
            return
        for channel, plane in zip(self._cv.split(pixels), out, strict=True):
            plane[:] = channel

    def _in_order(self, colour: tuple[int, int, int]) -> tuple[int, ...]:
        if self._gray:
            red, green, blue = colour
            return (round(0.299 * red + 0.587 * green + 0.114 * blue),)
        return colour if self.spec.channels == "RGB" else colour[::-1]
