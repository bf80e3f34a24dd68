"""Encodes records that are pushes as text frames, a session's of a batch in one go.

Most of what a fan-out delivers is a push, and neither ends a request nor is merged or dropped: no event is made of it.
"""

from collections.abc import Iterable

import msgspec

from podpair.gateway.core.cloud_events import Headers, is_structured
from podpair.gateway.core.frames import is_utf8, text_frame_header
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.records import ANSWERS, TAKEOVER, event_of_record

_BEGIN, _POSITION = b'{"type":"push","data":', b',"position":"'
_SHORT = [text_frame_header(size) + _BEGIN for size in range(126)]

_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def push_frames(records: Iterable[Record], prefix: bytes) -> bytes | None:
    """Encode records, whose positions begin with `prefix`, as text frames; None if one of them isn't a push."""
    parts: list[bytes] = []
    place = _POSITION + prefix
    envelope = len(_BEGIN) + len(place)
    for offset, value, headers in records:
        if headers and not _is_push(headers):
            return None
        try:
            _check_json(value)  # type: ignore[arg-type] # None is no JSON either
        except (msgspec.DecodeError, RecursionError, TypeError):
            parts += _frame(offset, value, prefix)
            continue
        if value is None or not (value.isascii() or is_utf8(value)):
            parts += _frame(offset, value, prefix)
            continue
        end = b'%d"}' % offset
        size = envelope + len(value) + len(end)
        parts += (_SHORT[size] if size < 126 else text_frame_header(size) + _BEGIN, value, place, end)
    return b"".join(parts)


def _is_push(headers: Headers) -> bool:
    """Return whether a record with these headers is a push for certain, without looking at its value."""
    found = dict(headers)
    kind = found.get("ce_type")
    return kind not in ANSWERS and kind != TAKEOVER and not is_structured(found.get("content-type"))


def _frame(offset: int, value: bytes | None, prefix: bytes) -> tuple[bytes, bytes]:
    """Encode a push whose value is not JSON."""
    payload = event_of_record(value, None, offset, prefix).payload
    return text_frame_header(len(payload)), payload
