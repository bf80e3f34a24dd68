"""From an image's size to the model's: which part of it, in which steps, and where it is put. Numbers only.

Reducing by sampling alone (bilinear, four neighbours a pixel) skips what is between its samples: fine patterns change, and a
model that was trained on averaged images is wrong more often. `area` averages instead, cheaply: a JPEG is decoded at 1/2, 1/4
or 1/8, which leaves out work; then bilinear brings it to the nearest power of two times the size that is wanted, in steps
that skip nothing, and 2×2 means halve it until it is there.
"""

import math
from dataclasses import dataclass
from typing import Literal

ResizeRule = Literal["stretch", "crop", "pad"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a decoded image becomes the model's; sizes are (width, height) in pixels."""

    # The part of the image that is used.
    left: int
    top: int
    width: int
    height: int
    # What that part becomes, and where it is put in the model's image.
    size: tuple[int, int]
    offset: tuple[int, int]


def plan(width: int, height: int, size: tuple[int, int], rule: ResizeRule, crop: float = 1.0) -> Plan:
    """Plan the steps for an image of width × height.

    stretch: all of it, its proportions are lost. crop: the largest part of its middle that has the proportions of `size`,
    of which a middle part of `crop` (0..1) is taken. pad: all of it, as large as fits, in the middle.
    """
    wide, high = size
    if rule == "crop":
        scale = min(width / wide, height / high) * crop
        part_width, part_height = _within(wide * scale, width), _within(high * scale, height)
        return Plan((width - part_width) // 2, (height - part_height) // 2, part_width, part_height, size, (0, 0))
    if rule == "pad":
        scale = min(wide / width, high / height)
        fitted = _within(width * scale, wide), _within(height * scale, high)
        return Plan(0, 0, width, height, fitted, ((wide - fitted[0]) // 2, (high - fitted[1]) // 2))
    return Plan(0, 0, width, height, size, (0, 0))


def reduction(width: int, height: int, size: tuple[int, int], rule: ResizeRule, crop: float = 1.0) -> int:
    """Return by how much a JPEG may be reduced while it is decoded, 1, 2, 4 or 8: no part may get smaller than its target.

    Its orientation isn't known yet: whatever it is, the result is large enough.
    """
    found = 8
    for image in ((width, height), (height, width)):
        step = plan(*image, size, rule, crop)
        factor = min(step.width / step.size[0], step.height / step.size[1])
        found = min(found, 1 << math.floor(math.log2(factor))) if factor >= 1 else 1
    return found


def multiple(part: tuple[int, int], size: tuple[int, int]) -> int:
    """Return the multiple of `size` to sample the part at before it is halved: the nearest power of two, at least 1."""
    factor = math.sqrt(part[0] / size[0] * part[1] / size[1])
    return 1 << max(0, round(math.log2(factor)))


def _within(value: float, limit: int) -> int:
    return min(limit, max(1, round(value)))
