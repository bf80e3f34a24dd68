"""What an encoded image says about itself before anything of it is decoded: format, size, transparency, whether it is whole.

A few hundred bytes of a file can stand for gigabytes of pixels, so limits are checked here, from the header, first.

Sources: ITU-T T.81 (JPEG), the PNG specification (W3C), the WebP container specification (Google).
"""

import binascii
import struct
from dataclasses import dataclass

from podpair.inference.core.errors import InvalidRequestError

# A JPEG's scans each cost a pass over all coefficients; encoders make about ten.
MAX_SCANS = 100

_PNG = b"\x89PNG\r\n\x1a\n"
# The first bytes of each format in base64, and those of a data URL.
_BASE64 = (b"/9j/", b"iVBORw0KGgo", b"UklGR", b"data:image/")
# The first bytes of other formats, to name them in the error.
_OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"<svg": "an SVG",
    b"<": "HTML or XML",
    b"{": "JSON",
    b"\x93NUMPY": "a NumPy array",
}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Format, and size in pixels as it is stored: a JPEG's orientation may yet turn it."""

    format: str
    width: int
    height: int
    # Whether pixels may be transparent.
    alpha: bool


def unwrap(data: bytes) -> bytes:
    """Return the image itself if it is base64 text or a data URL, which is how JSON carries it; else as it is."""
    if not data.startswith(_BASE64):
        return data
    text = data.partition(b",")[2] if data.startswith(b"data:") else data
    try:
        return binascii.a2b_base64(text)
    except binascii.Error as error:
        raise InvalidRequestError(f"its base64 is broken: {error}") from None


def read_header(data: bytes, max_pixels: int) -> ImageHeader:
    """Parse the header of a JPEG, PNG or WebP. Raises InvalidRequestError: another format, truncated, or too many pixels."""
    if data.startswith(b"\xff\xd8\xff"):
        header = _jpeg(data)
    elif data.startswith(_PNG):
        header = _png(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        header = _webp(data)
    else:
        raise InvalidRequestError(f"it is {_what(data)}; send a JPEG, PNG or WebP")
    if not header.width or not header.height:
        raise InvalidRequestError(f"the {header.format} has no size ({header.width}×{header.height})")
    if header.width * header.height > max_pixels:
        raise InvalidRequestError(
            f"the {header.format} is {header.width}×{header.height} pixels, more than {max_pixels:,} (max_pixels)"
        )
    return header


def is_whole(data: bytes, format: str) -> bool:  # noqa: A002 - the field's own word
    """Return False if the file ends early, which tells a truncated file from a damaged one."""
    if format == "JPEG":
        return b"\xff\xd9" in data[max(data.rfind(b"\xff\xda"), 0) :]
    if format == "PNG":
        return b"IEND" in data[-64:]
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


def _what(data: bytes) -> str:
    if not data:
        return "empty"
    head = data[:64].lstrip()
    found = next((what for start, what in _OTHERS.items() if data.startswith(start) or head.startswith(start)), None)
    if found is None and data[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1"):
        found = f"{data[8:12].decode().upper()}"
    return found or f"no known image format (it begins with {data[:8].hex(' ')})"


def _jpeg(data: bytes) -> ImageHeader:
    offset, size = 2, len(data)
    while offset + 4 <= size:
        if data[offset] != 0xFF:
            raise InvalidRequestError("the JPEG is damaged: there is no marker where one must be")
        marker = data[offset + 1]
        if marker == 0xFF:  # padding
            offset += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            offset += 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if offset + 9 > size:
                break
            height, width = struct.unpack_from(">HH", data, offset + 5)
            if data.count(b"\xff\xda") > MAX_SCANS:
                raise InvalidRequestError(f"the JPEG has more than {MAX_SCANS} scans")
            return ImageHeader("JPEG", width, height, alpha=False)
        if marker in (0xD9, 0xDA):
            raise InvalidRequestError("the JPEG is damaged: its size doesn't come before its data")
        offset += 2 + max(2, int.from_bytes(data[offset + 2 : offset + 4], "big"))
    raise InvalidRequestError(_cut_off("JPEG", size))


def _png(data: bytes) -> ImageHeader:
    if len(data) < 33:
        raise InvalidRequestError(_cut_off("PNG", len(data)))
    if data[12:16] != b"IHDR":
        raise InvalidRequestError("the PNG is damaged: it doesn't begin with its header")
    width, height = struct.unpack_from(">II", data, 16)
    # Colour types 4 and 6 have an alpha channel; others may name transparent colours before the data.
    end = data.find(b"IDAT")
    return ImageHeader("PNG", width, height, alpha=data[25] in (4, 6) or b"tRNS" in data[: max(end, 0)])


def _webp(data: bytes) -> ImageHeader:
    if len(data) < 30:
        raise InvalidRequestError(_cut_off("WebP", len(data)))
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        return ImageHeader("WebP", width, height, alpha=bool(data[20] & 0x10))
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ImageHeader("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, alpha=bool(bits >> 28 & 1))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WebP", width & 0x3FFF, height & 0x3FFF, alpha=False)
    raise InvalidRequestError("the WebP is damaged: there is no image in it")


def _cut_off(format: str, size: int) -> str:  # noqa: A002 - the field's own word
    return f"the {format} is cut off after {size} bytes"
