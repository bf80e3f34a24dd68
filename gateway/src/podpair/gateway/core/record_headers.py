"""Headers of the records that gateways write: CloudEvents in binary mode (`records` has the topics' types).

A record's own are its ids; what it has in common with others, of its topic or of its millisecond, is made once.
"""

from functools import lru_cache

from podpair.gateway.core.lanes import Priority
from podpair.gateway.core.record_times import rfc_3339, unix_milliseconds
from podpair.gateway.core.records import CANCEL, NOT_BEFORE, QUEUED_AT, REQUEST, SIGNAL, TAKEOVER

Header = tuple[str, bytes]

_SPECVERSION = ("ce_specversion", b"1.0")
_CONTENT_TYPE = ("content-type", b"application/json")


def request_headers(
    *, request_id: str, session: str, model: str, source: str, now: float, deadline: float | None,
    priority: Priority = "normal", not_before: float | None = None,
) -> list[Header]:  # fmt: skip
    """Build the headers of a request record. `now`, `deadline` and `not_before` are Unix seconds."""
    ce_time, queued_at = _times(int(now * 1000 + 0.01))
    headers = [
        _SPECVERSION, ("ce_id", request_id.encode()), _REQUEST, _header("ce_source", source),
        ("ce_subject", session.encode()), ce_time, _CONTENT_TYPE, _header("model", model), queued_at,
    ]  # fmt: skip
    if deadline is not None:
        headers.append(("deadline", b"%d" % unix_milliseconds(deadline)))
    if priority != "normal":
        headers.append(("priority", priority.encode()))
    if not_before is not None:
        headers.append((NOT_BEFORE, b"%d" % unix_milliseconds(not_before)))
    return headers


def cancel_headers(*, request_id: str, session: str, source: str, now: float) -> list[Header]:
    """Build the headers of a record that cancels a queued request; it has no value."""
    return answer_headers(CANCEL, request_id=request_id, session=session.encode(), source=source, now=now)


def signal_headers(*, request_id: str, session: str, name: str, source: str, now: float) -> list[Header]:
    """Build the headers of a record that passes a client's message on to a workflow."""
    headers = answer_headers(SIGNAL, request_id=request_id, session=session.encode(), source=source, now=now)
    return [*headers, ("name", name.encode())]


def takeover_headers(*, connection: str, session: str, source: str, now: float) -> list[Header]:
    """Build the headers of a record that announces a connection taking over the session; it has no value."""
    return answer_headers(TAKEOVER, request_id=connection, session=session.encode(), source=source, now=now)


def answer_headers(
    ce_type: bytes, *, request_id: str, session: bytes, source: str, now: float, seq: int | None = None
) -> list[Header]:
    """Build the headers of a result, error, push or partial record; `session` is its key, `seq` the chunk's number."""
    headers = [
        _SPECVERSION, ("ce_id", request_id.encode()), ("ce_type", ce_type), _header("ce_source", source),
        ("ce_subject", session), _times(int(now * 1000 + 0.01))[0], _CONTENT_TYPE,
    ]  # fmt: skip
    if seq is not None:
        headers.append(("seq", b"%d" % seq))
    return headers


_REQUEST = ("ce_type", REQUEST)


@lru_cache(64)
def _header(name: str, text: str) -> Header:
    """Encode a header that many records have."""
    return name, text.encode()


@lru_cache(4)
def _times(milliseconds: int) -> tuple[Header, Header]:
    """Encode the times of records that are written in this Unix millisecond."""
    return ("ce_time", rfc_3339(milliseconds)), (QUEUED_AT, b"%d" % milliseconds)
