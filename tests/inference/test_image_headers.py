"""What an encoded image says about itself, and the way from its size to the model's: numbers only, nothing is decoded."""

import base64
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.geometry import Plan, multiple, plan, reduction
from podpair.inference.core.images import ImageHeader, is_whole, read_header, unwrap

PIXELS = np.random.default_rng(1).integers(0, 256, (31, 47, 4), np.uint8)


def encoded(kind: str, *options: int, channels: int = 3) -> bytes:
    return cv2.imencode(kind, PIXELS[:, :, :channels], options)[1].tobytes()


FILES = {
    "jpeg": encoded(".jpg"),
    "progressive jpeg": encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "grey jpeg": encoded(".jpg", channels=1),
    "png": encoded(".png"),
    "png with alpha": encoded(".png", channels=4),
    "lossy webp": encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 80),
    "lossless webp": encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    "webp with alpha": encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 101, channels=4),
}


@pytest.mark.parametrize("name", FILES)
def test_format_size_and_transparency_are_read_from_the_header(name: str) -> None:
    header = read_header(FILES[name], 10_000)
    kind = next(k for k in ("JPEG", "PNG", "WebP") if k.lower() in name)
    assert header == ImageHeader(kind, 47, 31, alpha="alpha" in name)
    assert is_whole(FILES[name], kind)
    assert not is_whole(FILES[name][:-20], kind)


@pytest.mark.parametrize("name", FILES)
def test_an_image_with_too_many_pixels_is_refused_by_its_header_alone(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"47×31 pixels, more than 1,456 \(max_pixels\)"):
        read_header(FILES[name], 47 * 31 - 1)


def test_a_few_bytes_that_stand_for_gigabytes_are_refused() -> None:
    bomb = bytearray(FILES["png"])
    struct.pack_into(">II", bomb, 16, 60_000, 60_000)
    with pytest.raises(InvalidRequestError, match="60000×60000"):
        read_header(bytes(bomb), 32_000_000)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    file = FILES["progressive jpeg"]
    with pytest.raises(InvalidRequestError, match="more than 100 scans"):
        read_header(file[:-2] + b"\xff\xda\0\0" * 101 + file[-2:], 10_000)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "it is empty"),
        (b"GIF89a.....", "it is a GIF"),
        (b"BM1234", "it is a BMP"),
        (b"  <html>", "it is HTML or XML"),
        (b"%PDF-1.7", "it is a PDF"),
        (b"\0\0\0\x20ftypavif", "it is AVIF"),
        (b"hello", r"no known image format \(it begins with 68 65 6c 6c 6f\)"),
        (FILES["jpeg"][:20], "the JPEG is cut off after 20 bytes"),
        (FILES["png"][:20], "the PNG is cut off after 20 bytes"),
        (FILES["lossy webp"][:20], "the WebP is cut off after 20 bytes"),
        (b"\xff\xd8\xff\xdb\0\2xx\0\0", "no marker where one must be"),
        (b"\xff\xd8\xff\xda\0\2\0\0", "its size doesn't come before its data"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(data: bytes, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        read_header(data, 10_000)


@given(st.sampled_from(sorted(FILES)), st.integers(0, 3000), st.binary(max_size=40), st.integers(0, 200))
def test_whatever_comes_is_a_header_or_a_refusal(name: str, end: int, junk: bytes, at: int) -> None:
    data = bytearray(FILES[name][:end])
    data[at : at + len(junk)] = junk
    for content in (bytes(data), junk):
        try:
            header = read_header(unwrap(content), 10_000)
        except InvalidRequestError:
            continue
        assert 0 < header.width * header.height <= 10_000


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("prefix", [b"", b"data:image/png;base64,"])
def test_json_holds_an_image_as_base64_or_a_data_url(name: str, prefix: bytes) -> None:
    assert unwrap(prefix + base64.b64encode(FILES[name])) == FILES[name]
    assert unwrap(FILES[name]) == FILES[name]
    with pytest.raises(InvalidRequestError, match="its base64 is broken"):
        unwrap(prefix + base64.b64encode(FILES[name])[:13])


sizes = st.integers(1, 5000)
targets = st.tuples(st.integers(1, 600), st.integers(1, 600))
rules = st.sampled_from(["stretch", "crop", "pad"])


@given(sizes, sizes, targets, rules, st.floats(0.1, 1))
def test_the_part_lies_within_the_image_and_its_result_within_the_model_s(
    width: int, height: int, size: tuple[int, int], rule: str, crop: float
) -> None:
    step = plan(width, height, size, rule, crop)  # type: ignore[arg-type]
    assert step.left >= 0
    assert step.top >= 0
    assert 1 <= step.width <= width - step.left
    assert 1 <= step.height <= height - step.top
    for have, at, want in zip(step.size, step.offset, size, strict=True):
        assert have >= 1
        assert 0 <= at <= want - have
    if rule != "pad":
        assert (step.size, step.offset) == (size, (0, 0))
    if rule != "crop":
        assert (step.width, step.height) == (width, height)


@given(sizes, sizes, targets, rules)
def test_a_reduced_jpeg_is_never_smaller_than_what_is_made_of_it(
    width: int, height: int, size: tuple[int, int], rule: str
) -> None:
    by = reduction(width, height, size, rule)  # type: ignore[arg-type]
    assert by in (1, 2, 4, 8)
    if by > 1:
        # libjpeg rounds up; upright or turned.
        for image in ((-(-width // by), -(-height // by)), (-(-height // by), -(-width // by))):
            step = plan(*image, size, rule)  # type: ignore[arg-type]
            assert step.width >= step.size[0]
            assert step.height >= step.size[1]


def test_rules_by_example() -> None:
    assert plan(500, 375, (224, 224), "stretch") == Plan(0, 0, 500, 375, (224, 224), (0, 0))
    assert plan(500, 375, (224, 224), "crop") == Plan(62, 0, 375, 375, (224, 224), (0, 0))
    assert plan(500, 400, (224, 224), "crop", 0.875) == Plan(75, 25, 350, 350, (224, 224), (0, 0))
    assert plan(500, 250, (224, 224), "pad") == Plan(0, 0, 500, 250, (224, 112), (0, 56))
    assert [reduction(w, w, (224, 224), "stretch") for w in (200, 447, 448, 900, 5000)] == [1, 1, 2, 4, 8]
    assert [multiple((w, w), (224, 224)) for w in (100, 224, 300, 400, 620, 1000)] == [1, 1, 1, 2, 2, 4]
