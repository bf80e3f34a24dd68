"""CloudEvents in Kafka's structured mode, read as what they would be in binary mode, which is the one that podpair writes.

An SDK writes an event in either mode: its attributes as headers `ce_…` and its data as the value, or all of it as one JSON
object, marked by `content-type: application/cloudevents+json` (CloudEvents 1.0.2: Kafka binding, 3.2 and 3.3; JSON format).
Extension attributes become `ce_…` headers in both, also those that podpair itself writes as headers of their own (`extension`).

Invariant: what an event says does not depend on its mode.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence

import msgspec

from podpair.gateway.core.frames import is_utf8

Headers = Sequence[tuple[str, bytes | None]]

CONTENT_TYPE = "content-type"
PREFIX = "ce_"
_MARK = b"application/cloudevents"
_FORMAT = b"application/cloudevents+json"
_DATA = ("data", "data_base64")
_NAME = re.compile("[a-z0-9_]+")  # SDKs take longer names, and some the underscore, which the specification does not
_JSON_TYPE = re.compile(r"[^/]+/(?:[^/;+\s]+\+)?json\s*(?:;.*)?", re.ASCII | re.IGNORECASE | re.DOTALL)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class InvalidCloudEvent(ValueError):
    """A record that claims to be an event in structured mode, and can't be read."""


def is_structured(content_type: bytes | None) -> bool:
    """Return whether a record with this content type has the whole event as its value (Kafka binding, 3)."""
    return content_type is not None and content_type[: len(_MARK)].lower() == _MARK


def extension(found: Mapping[str, bytes | None], name: str) -> bytes | None:
    """Return podpair's own header `name`, or else the extension attribute of that name, as SDKs write it."""
    value = found.get(name)
    return value if value is not None else found.get(PREFIX + name)


def in_binary_mode(value: bytes | None, headers: Headers | None) -> tuple[bytes | None, Headers | None]:
    """Convert a record's value and headers to binary mode. Raises InvalidCloudEvent."""
    if headers is None or not is_structured(content_type := dict(headers).get(CONTENT_TYPE)):
        return value, headers
    form = (content_type or b"").split(b";")[0].strip().lower()
    if form != _FORMAT:
        raise InvalidCloudEvent(
            f"its content-type is {form.decode(errors='replace')[:100]!r}: of the structured mode application/cloudevents+json"
            " is taken, one event a record"
        )
    members = _read(value)
    attributes = [
        (_header(name), _attribute(name, raw))
        for name, raw in members.items()
        if name not in _DATA and bytes(raw) != b"null"
    ]
    beside = [
        (name, text) for name, text in headers if name != CONTENT_TYPE and not name.startswith(PREFIX)
    ]  # of the record: what a producer adds to all that it writes
    kind = dict(attributes).get(CONTENT_TYPE, b"application/json")
    return _data(members, kind), [*attributes, *beside]


def in_binary_mode_if_any(value: bytes | None, headers: Headers | None) -> tuple[bytes | None, Headers | None]:
    """Convert a record to binary mode; return one that can't be read unchanged."""
    try:
        return in_binary_mode(value, headers)
    except InvalidCloudEvent:
        return value, headers


def _read(value: bytes | None) -> dict[str, msgspec.Raw]:
    try:
        members = _members.decode(value or b"")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidCloudEvent(f"its value is not the JSON object of an event: {error}") from None
    if not is_utf8(value or b""):
        raise InvalidCloudEvent("its value is not UTF-8")
    for name in ("specversion", "id", "source", "type"):
        if name not in members:
            raise InvalidCloudEvent(f"the attribute {name} is missing")
    if (version := _attribute("specversion", members["specversion"])) != b"1.0":
        raise InvalidCloudEvent(f"specversion {version.decode()[:20]!r} is not 1.0")
    return members


def _header(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise InvalidCloudEvent(f"{name[:100]!r} is no name of an attribute")
    return CONTENT_TYPE if name == "datacontenttype" else PREFIX + name


def _attribute(name: str, raw: msgspec.Raw) -> bytes:
    """Encode an attribute as text, as a header has it (CloudEvents, type system)."""
    text = bytes(raw)
    if text[:1] in b"{[":
        raise InvalidCloudEvent(f"the attribute {name} is neither a text nor a number nor true or false")
    return msgspec.json.decode(raw, type=str).encode() if text[:1] == b'"' else text


def _data(members: dict[str, msgspec.Raw], content_type: bytes) -> bytes | None:
    data, encoded = members.get("data"), members.get("data_base64")
    if data is not None and encoded is not None:
        raise InvalidCloudEvent("it has data and data_base64")
    if encoded is not None:
        try:
            return base64.b64decode(msgspec.json.decode(encoded, type=str), validate=True)
        except (msgspec.DecodeError, binascii.Error, ValueError):
            raise InvalidCloudEvent("data_base64 is not base64") from None
    if data is None:
        return None
    if bytes(data)[:1] == b'"' and not _JSON_TYPE.fullmatch(content_type.decode(errors="replace")):
        return msgspec.json.decode(data, type=str).encode()
    return bytes(data)
