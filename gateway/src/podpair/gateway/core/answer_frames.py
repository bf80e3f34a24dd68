"""Encodes records that are results of queued requests as text frames, without an event for each.

Most of what sessions with queued requests get is a result whose headers a gateway has written. Anything else (an error, a part,
a value that is not what its type says) takes the way of events (`records.event_of_record`), which says the same of a result.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from podpair.gateway.core.frames import is_utf8, text_frame_header
from podpair.gateway.core.record_batch import Record
from podpair.gateway.core.records import RESULT

_NAMES = ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_subject", "ce_time", "content-type")
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode


class AnswerFrame(NamedTuple):
    """The frame of a result."""

    id: str  # of its request
    offset: int  # of its record
    data: bytes


def answer_frames(records: Iterable[Record], prefix: bytes) -> list[AnswerFrame] | None:
    """Encode records, whose positions begin with `prefix`; None if one of them isn't a result, as gateways write it."""
    new, encode = tuple.__new__, _encode
    found: list[AnswerFrame] = []
    for offset, value, headers in records:
        named = dict(headers or ())
        if tuple(named) != _NAMES or value is None:
            return None
        _, raw_id, kind, _, _, _, content_type = named.values()
        if not raw_id or kind != RESULT or content_type != b"application/json":
            return None
        if not (value.startswith(b'{"') and value.endswith(b"}")):
            return None
        try:
            _check_json(value)
            request_id = raw_id.decode()
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None
        if not (value.isascii() or is_utf8(value)):
            return None
        payload = b'%b,"type":"result","id":%b,"position":"%b%d"}' % (value[:-1], encode(request_id), prefix, offset)
        found.append(new(AnswerFrame, (request_id, offset, text_frame_header(len(payload)) + payload)))
    return found
