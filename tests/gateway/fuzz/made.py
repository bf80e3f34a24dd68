"""What hostile or broken clients and producers might send: nearly right messages, damaged ones, and noise.

`BUDGET` is how many frames, heads and records are made in all (PODPAIR_FUZZ; `make fuzz` makes 1,000,000).
"""

import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

BUDGET = int(os.environ.get("PODPAIR_FUZZ", "1500"))
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


def examples(share: float, each: int = 1) -> settings:
    """So many examples that `share` of the budget is made, where each example holds `each`."""
    return settings(
        max_examples=max(20, int(BUDGET * share) // each), deadline=None, database=None, suppress_health_check=SLOW,
        derandomize=BUDGET < 100_000,
    )  # fmt: skip


numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 1, 1 << 31, 1 << 63, 1 << 64, -(1 << 63), 10**400, 1e308])
)
texts = st.one_of(
    st.text(max_size=20), st.sampled_from(["", "\x00", "\ud800", "é" * 64, "x" * 200, '"', "\\", "../..", "%00"])
)
encoded = texts.map(lambda t: t.encode("utf-8", "replace"))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)
ids = st.one_of(st.sampled_from(["a", "b", "c", "r" * 128, "r" * 129, ""]), texts)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | scalars,
        "datatype": st.sampled_from(["FP32", "FP64", "INT8", "UINT64", "BOOL", "BYTES", "FP16", "BF16"]) | scalars,
        "shape": st.lists(st.integers(-2, 4) | numbers, max_size=4) | scalars,
        "data": st.lists(scalars, max_size=6) | values,
        "parameters": values,
    },
)
rows = st.lists(st.integers(-5, 5) | st.floats(-1, 1), max_size=3)
members: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["infer", "cancel", "refresh", "result", "welcome"]) | scalars,
    "id": ids,
    "model": st.sampled_from(["fake", "fake", "fake", "absent", "../v2", "a" * 256]) | texts,
    "data": rows | values | st.fixed_dictionaries({"messages": values}),
    "inputs": st.lists(tensors, max_size=3) | values,
    "parameters": st.dictionaries(texts, scalars, max_size=3) | values,
    "route": st.sampled_from(["auto", "direct", "queue"]) | scalars,
    "deadline_ms": st.integers(1, 2000) | numbers,
    "on_disconnect": st.sampled_from(["cancel", "detach"]) | scalars,
    "retry": st.booleans() | scalars,
    "stream": st.booleans() | scalars,
    "seen": st.integers(-1, 5) | numbers,
    "token": texts,
    "unknown": values,
}
good = st.builds(
    lambda request, data, more: {"type": "infer", "id": request, "model": "fake", "data": data, **more},
    st.integers(0, 99_999).map(str), rows,
    st.fixed_dictionaries({}, optional={n: members[n] for n in ("route", "stream", "on_disconnect", "retry", "deadline_ms")}),
)  # fmt: skip
messages = st.one_of(
    good, st.fixed_dictionaries({}, optional=members), st.builds(lambda r: {"type": "cancel", "id": r}, ids), values
)


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except ValueError:
        return b"1" * 5000  # a number of more digits than Python writes


@st.composite
def damaged(draw: st.DrawFn, intact: st.SearchStrategy[bytes]) -> bytes:
    """Cut, doubled, or with some bytes changed."""
    text = bytearray(draw(intact))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(text) - 1, 0)))
        match draw(st.sampled_from(["cut", "set", "insert", "double", "deep"])):
            case "cut":
                del text[at:]
            case "set" if text:
                text[at] = draw(st.integers(0, 255))
            case "insert":
                text[at:at] = draw(st.binary(max_size=4))
            case "double":
                text += text[:200]
            case "deep":
                text[at:at] = draw(st.sampled_from([b"[", b'{"a":'])) * draw(st.sampled_from([10, 600, 1500]))
    return bytes(text)


intact = st.builds(_json, messages)
payloads = st.one_of(intact, intact, intact, damaged(intact), st.binary(max_size=64))


def frame(opcode: int, payload: bytes, first: int = 0x80, *, masked: bool = True) -> bytes:
    """A WebSocket frame (RFC 6455, 5.2) whose mask is zero; `first` has FIN and the reserved bits."""
    size, mask = len(payload), 0x80 * masked
    if size < 126:
        head = bytes([first | opcode, mask | size])
    elif size < 1 << 16:
        head = bytes([first | opcode, mask | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first | opcode, mask | 127]) + size.to_bytes(8, "big")
    return head + bytes(4) * masked + payload


utf8 = payloads.map(lambda payload: payload.decode("utf-8", "replace").encode())
# What RFC 6455 lets a client send; of anything else the connection dies.
whole = st.one_of(
    st.builds(frame, st.just(1), utf8),
    st.builds(frame, st.just(1), utf8),
    st.builds(frame, st.just(2), payloads),
    st.builds(frame, st.sampled_from([9, 10]), payloads.map(lambda payload: payload[:125])),
)
broken = st.one_of(
    st.builds(
        frame, st.integers(0, 15), payloads, st.sampled_from([0, 0x80, 0x40, 0xC0, 0x10, 0xF0]), masked=st.booleans()
    ),
    damaged(whole),
    st.binary(min_size=1, max_size=64),
)
# What is no frame swallows those behind it, so it comes last on its connection.
frames = st.tuples(st.lists(whole, min_size=20, max_size=20), st.none() | st.none() | broken)

header_values = st.one_of(
    st.binary(max_size=30),
    st.integers(-5, 1 << 70).map(lambda n: str(n).encode()),
    encoded,
)
_TYPES = [
    f"dev.podpair.{kind}".encode() for kind in ("request", "partial", "result", "error", "push", "cancel", "what")
]
_HEADERS = ["ce_type", "ce_id", "ce_subject", "ce_time", "deadline", "model", "seq", "traceparent", "x"]
record_headers = st.lists(
    st.tuples(
        st.text(max_size=5) | st.sampled_from(_HEADERS),
        st.one_of(
            st.sampled_from(_TYPES),
            st.sampled_from([b"a", b"b", b"fake", b"2026-01-01T00:00:00Z", b"0", b"99999999999999999999"]),
            header_values, st.none(),
        ),
    ),
    max_size=8,
)  # fmt: skip
_SUBJECTS = [b"user/fuzzed", b"user/fuzzed", b"user/fuzzed", b"another"]
_TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_TIMES = [b"2026-01-01T00:00:00Z", b"2026-01-01", b"0001-01-01", b"9999-12-31T23:59:59-23:59", b"now"]
_DEADLINES = [b"0", b"-1", b"1", b"2000000000000", b"9" * 20, b"9" * 400, b"9" * 5000, b"1e3", b"nan", b"\xff"]
#: What a gateway or another service would have written, but for a member or two.
_right = st.fixed_dictionaries(
    {
        "ce_id": st.integers(0, 9_999).map(lambda n: b"q%d" % n) | ids.map(lambda i: i.encode("utf-8", "replace")),
        "ce_subject": st.sampled_from(_SUBJECTS),
        "ce_type": st.sampled_from([_TYPES[0]] * 4 + _TYPES),
        "model": st.sampled_from([b"fake", b"fake", b"fake", b"absent", b"../v2"]),
    },
    optional={
        "deadline": st.sampled_from(_DEADLINES),
        "ce_time": st.sampled_from(_TIMES),
        "seq": st.sampled_from([b"0", b"7", b"-1", b"9" * 20, b"x"]),
        "traceparent": st.sampled_from([_TRACE, _TRACE[:-1], b"00-0-0-0", b"\xff"]),
        "x": header_values,
    },
)


@st.composite
def nearly(draw: st.DrawFn) -> list[tuple[str, bytes | None]]:
    """Good headers, of which one is perhaps another, missing, twice, or null."""
    headers: list[tuple[str, bytes | None]] = list(draw(_right).items())
    at = draw(st.integers(0, len(headers) - 1))
    match draw(st.sampled_from(["as they are", "as they are", "as they are", "another", "missing", "twice", "null"])):
        case "another":
            headers[at] = headers[at][0], draw(header_values)
        case "missing":
            del headers[at]
        case "twice":
            headers.append(headers[at])
        case "null":
            headers[at] = headers[at][0], None
    return headers


_attributes = st.dictionaries(st.sampled_from(["specversion", "id", "source", "type", "subject", "model", "time", "deadline",
    "datacontenttype", "data", "data_base64", "X"]), st.sampled_from(["1.0", "a", "fake", "dev.podpair.request", "user/fuzzed",
    "", 1, 1.5, True, None, [], {}, "text/plain", "application/json", "YQ==", "Y", "\ud800"]))  # fmt: skip
_FORMS = [
    b"application/cloudevents+json",
    b"application/cloudevents+json; charset=UTF-8",
    b"Application/CloudEvents-Batch+JSON",
]
_good_event = {"specversion": "1.0", "id": "q1", "source": "s", "type": "dev.podpair.request", "subject": "user/fuzzed"}
#: CloudEvents in structured mode, or nearly.
structured = st.tuples(
    st.one_of(
        _attributes.map(lambda event: _json({**_good_event, **event})), payloads, st.none(),
        damaged(_attributes.map(lambda event: _json({**_good_event, "model": "fake", **event}))),
    ),
    st.tuples(st.just("content-type"), st.sampled_from(_FORMS)).map(lambda header: [header]),
)  # fmt: skip
bodies = st.one_of(
    st.lists(st.floats(-1, 1), min_size=2, max_size=2).map(lambda row: _json({"data": row})),
    st.builds(lambda row, more: _json({"data": row, **more}), rows, st.fixed_dictionaries({}, optional=members)),
)
records = st.one_of(
    st.tuples(st.none() | payloads, record_headers),
    st.tuples(bodies | payloads, nearly()),
    structured,
    st.tuples(bodies, nearly()),
)

_PATHS = [
    "/v1/ws", "/v1/events", "/v1/infer", "/v2", "/v2/models/fake", "/v2/models/fake/infer", "/v2/models/%00/infer",
    "/v1/chat/completions", "/readyz", "/metrics", "/podpair.js", "/..%2f..%2fetc/passwd", "/", "*",
]  # fmt: skip
_NAMES = [
    "Authorization", "Sec-WebSocket-Protocol", "Sec-WebSocket-Version", "Sec-WebSocket-Key", "Upgrade", "Connection",
    "Last-Event-ID", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Origin", "Expect",
    "Inference-Header-Content-Length", "podpair-deadline", "podpair-key", "Accept-Encoding", "Cookie", "Host",
]  # fmt: skip
_VALUES = [
    "websocket", "Upgrade", "keep-alive", "13", "dGhlIHNhbXBsZSBub25jZQ==", "podpair.v1", "podpair.v1.raw, bearer.x", "chunked",
    "gzip",
    "100-continue", "Bearer ", "Bearer a.b.c", "Basic eA==", "0", "5", "-1", "99999999999", "application/json", "null", "https://evil",
]  # fmt: skip
line_values = st.one_of(st.sampled_from(_VALUES), texts).map(lambda t: t.encode("utf-8", "replace"))
queries = st.lists(
    st.tuples(st.sampled_from(["resume", "position", "token", "x"]), encoded),
    max_size=3,
)


@st.composite
def heads(draw: st.DrawFn, bearer: str) -> bytes:
    """An HTTP request, perhaps with a good token."""
    path = draw(st.sampled_from(_PATHS)).encode()
    query = b"&".join(name.encode() + b"=" + value.replace(b" ", b"%20") for name, value in draw(queries))
    method = draw(st.sampled_from([b"GET", b"GET", b"POST", b"POST", b"OPTIONS", b"HEAD", b"PUT", b"\x00"]))
    lines = [method + b" " + path + (b"?" + query if query else b"") + b" HTTP/1.1", b"Host: x", b"Connection: close"]
    if draw(st.booleans()):
        lines.append(b"Authorization: Bearer " + bearer.encode())
    lines += [
        name.encode() + b": " + value
        for name, value in draw(st.lists(st.tuples(st.sampled_from(_NAMES), line_values), max_size=5))
    ]
    body = draw(payloads) if method == b"POST" else b""
    if body and draw(st.booleans()):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
