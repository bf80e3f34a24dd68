"""Numbers, sizes and shapes that a model's server says are checked before anything is done with them."""

import math
from typing import Any

import msgspec
import pytest

from podpair.gateway.core.model_errors import Busy, Failed, ServiceUnavailable, TooLarge, Unavailable
from podpair.gateway.core.models import model_of
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.proxy_headers import client_headers, model_headers, proxy_target
from podpair.gateway.core.retry_after import parse_retry_after, parse_retry_date
from podpair.gateway.core.retry_policy import RetryPolicy
from podpair.gateway.core.shorthand import collapse
from podpair.gateway.core.sse import EventParser, EventTooLarge
from podpair.gateway.core.tensors import Columns, Output, count_of, unpack
from podpair.gateway.upstream.responses import error_of_status


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1.0), (b"1.5", 1.5), (" 2 ", 2.0), ("0", 0.05), ("29.9", 29.9), ("31", 30.0), ("9" * 25, 30.0),
        ("nan", None), ("inf", None), ("-1", None), ("1e3", None), ("1_0", None), ("", None), ("9" * 5000, None), (None, None),
        (b"\xff", None), ("0x10", None), ("Fri, 31 Dec 1999 23:59:59 GMT", None),
    ],
)  # fmt: skip
def test_when_to_come_again(text: str | bytes | None, seconds: float | None) -> None:
    assert parse_retry_after(text) == seconds


def test_when_to_come_again_as_a_date() -> None:
    now = 1_784_000_000.0
    dates = {
        b"Tue, 14 Jul 2026 03:33:30 GMT": 10.0,
        b"Tue, 14 Jul 2099 03:33:30 GMT": 30.0,
        b"Thu, 01 Jan 1970 00:00:00 GMT": 0.05,
    }
    assert {date: parse_retry_date(date, now) for date in dates} == dates
    assert parse_retry_date(b"soon", now) is None


def test_a_server_that_was_tired_of_an_idle_connection_says_nothing_about_the_request() -> None:
    told = {status: error_of_status(status, b'{"error":"no"}', {}) for status in (400, 408, 422)}
    assert isinstance(told.pop(408), Failed)
    assert all(isinstance(error, Fault) and error.code == Code.INVALID for error in told.values())


def test_a_model_that_is_busy_is_asked_again_for_a_bounded_time() -> None:
    for error in (Busy(0.05), ServiceUnavailable("full", 1.0), Busy(30.0)):
        attempts = RetryPolicy(max_attempts=3, backoff_seconds=0.2, max_crashes=3, busy_seconds=30)
        waits = []
        while (step := attempts.next(error, ready=True))[0] == "wait":
            waits.append(step[1])
        assert step == ("give_up", 0.0)
        assert sum(waits) == pytest.approx(30)
        assert len(waits) < 50
        assert attempts.failures == attempts.crashes == 0
        verdict = attempts.terminal_error(error)
        assert (verdict.code, f"busy {len(waits) + 1} times" in verdict.message) == (Code.UPSTREAM, True)


def test_a_model_that_is_not_ready_is_not_busy() -> None:
    attempts = RetryPolicy(max_attempts=1, backoff_seconds=0.2, max_crashes=1, busy_seconds=1)
    for _ in range(100):
        assert attempts.next(ServiceUnavailable("starting", 1.0), ready=False) == ("wait_ready", 0.0)
        assert attempts.next(Unavailable("refused", down=True), ready=False) == ("wait_ready", 0.0)
    assert attempts.tries == 0
    # One that is ready, and takes no request all the same, is asked a bounded number of times.
    assert attempts.next(Unavailable("it ends before it is asked"), ready=True) == ("give_up", 0.0)


def test_an_answer_that_is_too_large_is_not_asked_for_again() -> None:
    assert RetryPolicy(max_attempts=3, backoff_seconds=0.2, max_crashes=3).next(TooLarge(10)) == ("give_up", 0.0)


@pytest.mark.parametrize("shape", [(-1,), (-1, -2), (2, -1), (1 << 40, 0), (1,) * 33])
def test_shapes_that_no_tensor_has(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a shape|an empty"):
        count_of(shape)


def test_shapes_that_tensors_have() -> None:
    assert [count_of(shape) for shape in ((), (3,), (2, 3), (0,), (4, 0), (1 << 40,))] == [1, 3, 6, 0, 0, 1 << 40]


@pytest.mark.parametrize(
    ("raw", "datatype", "count"),
    [
        (b"", "BYTES", 1 << 60),
        (b"1234", "FP32", 1 << 60),
        (b"1234", "FP32", 2),
        (b"1234", "COMPLEX", 1),
        (b"\xff\0\0\0", "BYTES", 1),
    ],
)
def test_bytes_that_are_not_so_many_elements(raw: bytes, datatype: str, count: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what it says is not the point
        unpack(raw, datatype, count)


@pytest.mark.parametrize("values", [["a,b", "c"], [[1, 2], [3]], [{"a": 1, "b": 2}, None], ["],[", "x"]])
@pytest.mark.parametrize("width", [None, 1])
def test_values_of_another_datatype_than_was_said_stay_in_their_rows(values: list[object], width: int | None) -> None:
    shape = (2,) if width is None else (2, width)
    columns = Columns([Output("y", "FP32", shape, values)])
    rows = [msgspec.json.decode(columns.row(index))["y"] for index in range(2)]
    assert rows == (values if width is None else [[value] for value in values])


def test_a_shape_that_would_fill_the_memory() -> None:
    with pytest.raises(Fault, match="an empty tensor"):
        collapse(b'[{"name":"y","datatype":"FP32","shape":[1099511627776,0],"data":[]}]', single=False)


def test_metadata() -> None:
    good = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],"outputs":[{"name":"y","datatype":"FP32","shape":[-1]}]}'
    says = b'{"max_batch_size":-3,"instance_group":[{"count":-5},{"count":1000000000000}]}'
    model = model_of("m", good, says)
    assert (model.max_rows, model.runs, model.batchable) == (None, 1024, True)
    assert model_of("m", good, b'{"instance_group":[{"count":-5}]}').runs == 1
    for shape in (b"-2", b"1" + b"0" * 30, b",".join([b"1"] * 33)):
        with pytest.raises(ValueError, match="shape"):
            model_of("m", good.replace(b"-1,2", shape), None)


def test_an_event_and_a_line_have_a_limit() -> None:
    for chunks in ([b"data: " + b"x" * 1001], [b"data: x\n" * 200], [b"x"] * 1001, [b"\r", *[b"x"] * 1001]):
        events = EventParser(1000)
        with pytest.raises(EventTooLarge):
            _feed(events, chunks)
    events = EventParser(1000)
    assert [found for _ in range(100) for found in events.feed(b"data: " + b"x" * 900 + b"\n\n")] == [b"x" * 900] * 100


def _feed(events: EventParser, chunks: list[bytes]) -> None:
    for chunk in chunks:
        events.feed(chunk)


def test_events_in_pieces_of_any_size() -> None:
    text = b"data: a\r\ndata: b\r\n\r\ndata: c\n\ndata:d\r\r: note\nevent: x\ndata\ndata: e\n\n"
    for size in range(1, len(text) + 1):
        events = EventParser(1000)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert [found for piece in pieces for found in events.feed(piece)] == [b"a\nb", b"c", b"d", b"e"], size


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("", "/p"), ("token=x", "/p"), ("a=1&token=x&b=2", "/p?a=1&b=2"), ("%74oken=x&Token=y&TOKEN", "/p"),
        ("resume=r&position=p", "/p"),
        ("tokens=1&my-token=2&a=token", "/p?tokens=1&my-token=2&a=token"), ("a=%20b&a=c&d", "/p?a=%20b&a=c&d"), ("a=\x7f", None),
        ("a= b", None), ("a=é", None), ("+token=x", "/p"),
    ],
)  # fmt: skip
def test_what_goes_on_of_a_query(query: str, kept: str | None) -> None:
    assert proxy_target("/p", query) == kept


@pytest.mark.parametrize(
    ("path", "passed"),
    [
        ("/v2/models/m/infer", True), ("/v2/models/a..b/infer", True), ("/v2/models/.../infer", True), ("/v2/models/m%2Fn", True),
        ("/v2/models/../x", False), ("/v2/models/%2e%2E/x", False), ("/v2/models/..%2fx/infer", False),
        ("/v2/models/a%2F.%2Fb/infer", False), ("/v2/models/a%5C..%5Cb/infer", False), ("/v2/models/..?a=/b", False),
        ("/v2?a=../b", True),
    ],
)  # fmt: skip
def test_no_path_with_a_dot_segment_goes_on(path: str, passed: bool) -> None:
    assert proxy_target(path, "") == (path if passed else None)


def test_what_comes_back_of_the_headers() -> None:
    headers = {
        "Content-Type": "a/b",
        "Retry-After": "1.5",
        "podpair-inference-ms": "1.25",
        "Set-Cookie": "a",
        "Transfer-Encoding": "x",
    }
    assert back(headers) == {"Content-Type": "a/b", "Retry-After": "2", "podpair-inference-ms": "1.25"}
    assert back({"Content-Type": "\udcff", "Retry-After": "Tue, 14 Jul 2099 03:33:30 GMT"}) == {"Retry-After": "1"}
    for said in ("nan", "inf", "-1", "1e9", "9" * 99):
        assert back({"podpair-inference-ms": said, "retry-after-ms": said}) == {}
    assert math.isfinite(float(back({"podpair-inference-ms": "0"})["podpair-inference-ms"]))
    assert back({"retry-after-ms": "86400000"}) == {"retry-after-ms": "30000"}
    assert back({"retry-after-ms": "12.5"}) == {"retry-after-ms": "12.5"}


def back(headers: dict[str, str], **how: bool) -> dict[str, str]:
    return dict(client_headers(headers.items(), **how))


@pytest.mark.parametrize(
    "name",
    ["x-request-id", "OpenAI-Processing-Ms", "x-should-retry", "x-ratelimit-remaining-tokens", "ETag", "Cache-Control", "Vary",
     "Content-Encoding", "Content-Language", "Link", "Inference-Header-Content-Length", "endpoint-load-metrics"],
)  # fmt: skip
def test_what_the_model_says_comes_back(name: str) -> None:
    assert back({name: "it"}) == {name: "it"}


@pytest.mark.parametrize(
    "name",
    ["Set-Cookie", "Connection", "keep-alive", "Trailer", "Upgrade", "Server", "Date", "Location", "WWW-Authenticate", "Alt-Svc",
     "Access-Control-Allow-Origin", "Strict-Transport-Security", "Clear-Site-Data", "Refresh", "content-length"],
)  # fmt: skip
def test_what_speaks_for_the_gateway_does_not(name: str) -> None:
    assert back({name: "it", "X": "y"}) == {"X": "y"}


def test_what_the_connection_names_is_about_the_connection() -> None:
    headers = {"Connection": "close, X-Hop", "x-hop": "1", "X-End": "2"}
    assert back(headers) == dict(model_headers(headers.items())) == {"X-End": "2"}


@pytest.mark.parametrize("value", ["a\x00b", "a\nb", "a\rb: c", "\udc80", "\x7f"])
def test_a_header_that_is_no_text_goes_nowhere(value: str) -> None:
    assert back({"X": value}) == dict(model_headers([("X", value)])) == {}


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ([], [("Cache-Control", "no-store, no-transform"), ("X-Accel-Buffering", "no")]),
        ([("cache-control", "private"), ("x-accel-buffering", "yes")],
         [("cache-control", "private"), ("x-accel-buffering", "yes"), ("Cache-Control", "no-transform")]),
        ([("Cache-Control", "a, No-Transform")], [("Cache-Control", "a, No-Transform"), ("X-Accel-Buffering", "no")]),
    ],
)  # fmt: skip
def test_proxies_are_asked_not_to_hold_back_what_comes_in_parts(own: Any, told: Any) -> None:
    assert client_headers(own, streamed=True) == told
    assert client_headers(own) == own


def test_what_goes_on_of_the_headers() -> None:
    given = [
        ("OpenAI-Organization", "org"), ("Idempotency-Key", "k"), ("X-Client-Request-Id", "i"), ("x-stainless-lang", "py"),
        ("Accept-Encoding", "gzip"), ("Content-Type", "a/b"), ("X-Twice", "1"), ("X-Twice", "2"), ("baggage", "a=b"),
        ("X-Name", "zoë"),
    ]  # fmt: skip
    ours = [
        "Authorization", "Cookie", "Proxy-Authorization", "Host", "Content-Length", "Transfer-Encoding", "Expect", "TE", "Origin",
        "Referer", "Last-Event-ID", "Sec-WebSocket-Protocol", "X-Forwarded-For", "Forwarded", "Content-Encoding", "Connection",
    ]  # fmt: skip
    assert model_headers([*given, *((name, "x") for name in ours)]) == given
