"""Chunks of a streamed answer: joins several into one, and assembles all into the whole.

Texts are joined, and lists, and objects of such member by member; of anything else (progress) the newest wins.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from podpair.gateway.core.records import Event, Kind

_encode = msgspec.json.Encoder().encode
_objects = msgspec.json.Decoder(dict[str, Raw])


def join_chunks(chunks: Sequence[bytes]) -> bytes | None:
    """Join chunks (JSON) into one; return None if something would be lost."""
    if len(chunks) == 1:
        return chunks[0]
    if all(chunk.startswith(b'"') for chunk in chunks):
        return b'"%b"' % b"".join([chunk[1:-1] for chunk in chunks])
    if all(chunk.startswith(b"[") for chunk in chunks):
        inner = (chunk[1:-1].strip() for chunk in chunks)
        return b"[%b]" % b",".join([chunk for chunk in inner if chunk])
    if all(chunk.startswith(b"{") for chunk in chunks):
        objects = [_objects.decode(chunk) for chunk in chunks]
        if any(each.keys() != objects[0].keys() for each in objects):
            return None
        members = {name: join_chunks([bytes(each[name]) for each in objects]) for name in objects[0]}
        if None not in members.values():
            return _encode({name: Raw(value or b"") for name, value in members.items()})
    return None


def merge(run: list[Event]) -> list[Event]:
    """Merge adjacent partials of one request: `seq` is that of the last, and `from`, if they were joined, that of the first."""
    if len(run) == 1:
        return run
    bodies: list[dict[str, Raw]] = [_objects.decode(event.payload) for event in run]
    joined = join_chunks([bytes(body.get("data", b"null")) for body in bodies])
    first, last = bodies[0], bodies[-1]
    if joined is not None:
        last["data"] = Raw(joined)
        last["from"] = first.get("from", first.get("seq", Raw(b"0")))
        if "position" in last:
            last["position"] = last.pop("position")  # it stands last in each event
    return [run[-1]._replace(payload=_encode(last))]


def merge_adjacent(events: Sequence[Event]) -> list[Event]:
    """Merge adjacent partials of one request."""
    kept: list[Event] = []
    run: list[Event] = []
    for event in events:
        if run and (event.kind is not Kind.PARTIAL or event.id != run[0].id):
            kept += merge(run)
            run = []
        if event.kind is Kind.PARTIAL:
            run.append(event)
        else:
            kept.append(event)
    return kept + merge(run) if run else kept


def partial_event(request_id: str, first: int, last: int, data: bytes) -> Event:
    """Build a `partial` event that did not come through Kafka: one chunk, or several joined."""
    since = b"" if first == last else b'"from":%d,' % first
    payload = b'{"type":"partial","id":%b,%b"seq":%d,"data":%b}' % (_encode(request_id), since, last, data)
    return Event(Kind.PARTIAL, "partial", request_id, payload, -1)


class ChunkAssembler:
    """Assembles a streamed answer, as long as it is not larger than `limit` bytes."""

    __slots__ = ("_limit", "_members", "_size", "_texts", "count", "last")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._texts: list[bytes] | None = []  # as long as all are texts
        self._members: dict[str, list[bytes]] | None = {}  # as long as all are objects of texts
        self.count = 0
        self.last = b"null"

    def add(self, data: bytes) -> None:
        """Add a chunk."""
        self.count += 1
        self.last = data
        self._size += len(data)
        if self._size > self._limit:
            self._texts = self._members = None
        if self._texts is not None:
            if data.startswith(b'"'):
                self._texts.append(data[1:-1])
            else:
                self._texts = None
        if self._members is not None:
            self._add_members(data)

    def _add_members(self, data: bytes) -> None:
        found: dict[str, Raw] = _objects.decode(data) if data.startswith(b"{") else {}
        if not found or not all(bytes(value).startswith(b'"') for value in found.values()):
            self._members = None
        elif self._members is not None:
            for name, value in found.items():
                self._members.setdefault(name, []).append(bytes(value)[1:-1])

    def data(self, names: Sequence[str]) -> bytes | None:
        """Return the `data` of the result, an object of output name → value; None if it is too large to be kept.

        For non-text chunks, the last one wins.
        """
        if self._size > self._limit:
            return None
        only = names[0] if len(names) == 1 else None
        if self._texts and only is not None:
            return _encode({only: Raw(b'"%b"' % b"".join(self._texts))})
        if self._members:
            return _encode({name: Raw(b'"%b"' % b"".join(texts)) for name, texts in self._members.items()})
        value: Any = Raw(self.last)
        return _encode({only: value}) if only is not None else self.last
