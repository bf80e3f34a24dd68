"""Numbers, sizes and shapes that a model's server says are checked before anything is done with them."""

import math

import msgspec
import pytest

from podpair.gateway.core.attempts import (
    Attempts,
    Busy,
    Failed,
    ServiceUnavailable,
    TooLarge,
    Unavailable,
    retry_after,
    until_date,
)
from podpair.gateway.core.models import model_of
from podpair.gateway.core.passing import target_of, to_client
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.shorthand import collapse
from podpair.gateway.core.sse import Events, EventTooLarge
from podpair.gateway.core.tensors import Columns, Output, count_of, unpack
from podpair.gateway.upstream.answers import error_of_status


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1.0), (b"1.5", 1.5), (" 2 ", 2.0), ("0", 0.05), ("29.9", 29.9), ("31", 30.0), ("9" * 25, 30.0),
        ("nan", None), ("inf", None), ("-1", None), ("1e3", None), ("1_0", None), ("", None), ("9" * 5000, None), (None, None),
        (b"\xff", None), ("0x10", None), ("Fri, 31 Dec 1999 23:59:59 GMT", None),
    ],
)  # fmt: skip
def test_when_to_come_again(text: str | bytes | None, seconds: float | None) -> None:
    assert retry_after(text) == seconds


def test_when_to_come_again_as_a_date() -> None:
    now = 1_784_000_000.0
    dates = {
        b"Tue, 14 Jul 2026 03:33:30 GMT": 10.0,
        b"Tue, 14 Jul 2099 03:33:30 GMT": 30.0,
        b"Thu, 01 Jan 1970 00:00:00 GMT": 0.05,
    }
    assert {date: until_date(date, now) for date in dates} == dates
    assert until_date(b"soon", now) is None


def test_a_server_that_was_tired_of_an_idle_connection_says_nothing_about_the_request() -> None:
    told = {status: error_of_status(status, b'{"error":"no"}', {}) for status in (400, 408, 422)}
    assert isinstance(told.pop(408), Failed)
    assert all(isinstance(error, Fault) and error.code == Code.INVALID for error in told.values())


def test_a_model_that_is_busy_is_asked_again_for_a_bounded_time() -> None:
    for error in (Busy(0.05), ServiceUnavailable("full", 1.0), Busy(30.0)):
        attempts = Attempts(limit=3, backoff=0.2, crashes=3, patience=30)
        waits = []
        while (step := attempts.after(error, ready=True))[0] == "wait":
            waits.append(step[1])
        assert step == ("give_up", 0.0)
        assert sum(waits) == pytest.approx(30)
        assert len(waits) < 50
        assert attempts.made == attempts.crashed == 0
        verdict = attempts.verdict(error)
        assert (verdict.code, f"busy {len(waits) + 1} times" in verdict.message) == (Code.UPSTREAM, True)


def test_a_model_that_is_not_ready_is_not_busy() -> None:
    attempts = Attempts(limit=1, backoff=0.2, crashes=1, patience=1)
    for _ in range(100):
        assert attempts.after(ServiceUnavailable("starting", 1.0), ready=False) == ("wait_ready", 0.0)
        assert attempts.after(Unavailable("refused", down=True), ready=False) == ("wait_ready", 0.0)
    assert attempts.tries == 0
    # One that is ready, and takes no request all the same, is asked a bounded number of times.
    assert attempts.after(Unavailable("it ends before it is asked"), ready=True) == ("give_up", 0.0)


def test_an_answer_that_is_too_large_is_not_asked_for_again() -> None:
    assert Attempts(limit=3, backoff=0.2, crashes=3).after(TooLarge(10)) == ("give_up", 0.0)


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
        events = Events(1000)
        with pytest.raises(EventTooLarge):
            _feed(events, chunks)
    events = Events(1000)
    assert [found for _ in range(100) for found in events.feed(b"data: " + b"x" * 900 + b"\n\n")] == [b"x" * 900] * 100


def _feed(events: Events, chunks: list[bytes]) -> None:
    for chunk in chunks:
        events.feed(chunk)


def test_events_in_pieces_of_any_size() -> None:
    text = b"data: a\r\ndata: b\r\n\r\ndata: c\n\ndata:d\r\r: note\nevent: x\ndata\ndata: e\n\n"
    for size in range(1, len(text) + 1):
        events = Events(1000)
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
    assert target_of("/p", query) == kept


def test_what_comes_back_of_the_headers() -> None:
    headers = {
        "Content-Type": "a/b",
        "Retry-After": "1.5",
        "podpair-inference-ms": "1.25",
        "Set-Cookie": "a",
        "Transfer-Encoding": "x",
    }
    assert to_client(headers) == {"Content-Type": "a/b", "Retry-After": "2", "podpair-inference-ms": "1.25"}
    assert to_client({"Content-Type": "\udcff", "Retry-After": "Tue, 14 Jul 2099 03:33:30 GMT"}) == {"Retry-After": "1"}
    for said in ("nan", "inf", "-1", "1e9", "9" * 99):
        assert to_client({"podpair-inference-ms": said}) == {}
    assert math.isfinite(float(to_client({"podpair-inference-ms": "0"})["podpair-inference-ms"]))
