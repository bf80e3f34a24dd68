"""The members of a `result`, as JSON without braces: what is added to them on their way to a client.

Invariant: `timing` is the last member, so that what is added needs no parser.
"""

_TIMING = b'"timing":{'


def result_with_queue_ms(members: bytes, queue_ms: float) -> bytes:
    """Encode a `result` as a JSON object, of its members and the milliseconds on the topic, which its timing gets."""
    head, name, timing = members.rpartition(_TIMING)
    return b'{%b%b"queue_ms":%.3f%b%b}' % (head, name, queue_ms, b"," if timing != b"}" else b"", timing)


def mark_cached(members: bytes, how: bytes) -> bytes:
    """Return the members of a `result` with a member `cache`: `hit`, without the times of a run, or `wait`."""
    head, name, timing = members.rpartition(_TIMING)
    return b'%b"cache":"%b",%b%b' % (head, how, name, b"}" if how == b"hit" else timing)
