"""An answer is what its framing says, however it comes in pieces; what can't be told for sure is none."""

import pytest

from podpair.gateway.core.http_response import (
    BadResponse,
    Response,
    ResponseReader,
    ResponseTooLarge,
    whole_response,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def read(
    data: bytes, *cuts: int, limit: int = 1000, bodiless: bool = False, end: bool = False
) -> tuple[Response, bool]:
    """The answer, and whether its connection is used again; it comes in pieces cut there."""
    reader = ResponseReader(limit, bodiless=bodiless)
    for start, stop in zip((0, *cuts), (*cuts, len(data)), strict=True):
        reader.feed(data[start:stop])
    found = reader.end() if end else reader.response
    assert found is not None, "it is not whole"
    return found, reader.reusable


RIGHT: dict[str, tuple[bytes, int, bytes, bool]] = {
    "a length": (OK + b"Content-Length: 4\r\n\r\nbody", 200, b"body", True),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
    "no reason": (b"HTTP/1.1 503\r\nContent-Length: 1\r\n\r\nx", 503, b"x", True),
    "chunks": (CHUNKED + b"2\r\nbo\r\n02;a=b;c=\"d\"\r\ndy\r\n0\r\n\r\n", 200, b"body", True),
    "a trailer": (CHUNKED + b"4\r\nbody\r\n0\r\nDigest: x\r\nOther: y\r\n\r\n", 200, b"body", True),
    "the same length twice": (OK + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody", 200, b"body", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "304 with the length of another": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 304, b"", True),
    "it closes": (OK + b"Connection: x, Close\r\nContent-Length: 4\r\n\r\nbody", 200, b"body", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", 200, b"body", False),
    "HTTP/1.0 kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody", 200, b"body", True),
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nbody", 200, b"body", True),
    "100, 102 and 103": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + OK + b"Content-Length: 4\r\n\r\nbody", 200, b"body", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_ones_at_once_and_in_any_two_pieces_and_byte_by_byte(name: str) -> None:
    data, status, body, reusable = RIGHT[name]
    for cuts in [(), *((at,) for at in range(1, len(data))), tuple(range(1, len(data)))]:
        found, again = read(data, *cuts)
        assert (found.status, found.body, again) == (status, body, reusable), cuts


# Of one piece, of a known length, and nothing else: these are read at once.
USUAL = {"a length", "no body"}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_read_at_once_is_the_same(name: str) -> None:
    data = RIGHT[name][0]
    assert whole_response(data, 1000) == (read(data)[0] if name in USUAL else None)
    assert whole_response(data + b"x", 1000) is None
    assert whole_response(data[:-1], 1000) is None


def test_what_is_not_read_at_once() -> None:
    length = b"Content-Length: 4\r\n"
    for head in (
        b"", b"Content-Length: 04\r\n", b"Content-Length: +4\r\n", b"Content-Length: 4, 4\r\n", length + b"Connection: x\r\n",
        length + b"X: y\r\nX: z\r\n", length + b"Transfer-Encoding: chunked\r\n",
    ):  # fmt: skip
        assert whole_response(OK + head + b"\r\nbody", 1000) is None, head
    assert whole_response(OK + length + b"\r\nbody", 3) is None
    assert whole_response(OK + length + b"\r\nbody", 4) == Response(200, {b"content-length": b"4"}, b"body")
    for wrong in (b"X : y\r\n", b" X: y\r\n", b"X: y\nZ: w\r\n", b"X\r\n"):
        with pytest.raises(BadResponse):
            whole_response(OK + length + wrong + b"\r\nbody", 1000)


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_whole_before_its_last_byte(name: str) -> None:
    data = RIGHT[name][0]
    for at in range(len(data)):
        reader = ResponseReader(1000)
        assert reader.feed(data[:at]) is None
        assert reader.end() is None


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("behind", [b"x", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_byte_behind_it_is_nobodys(name: str, behind: bytes) -> None:
    data, status, body, _ = RIGHT[name]
    for cuts in ((), (len(data),), (len(data) - 1,)):
        found, again = read(data + behind, *cuts)
        assert (found.status, found.body, again) == (status, body, False)


def test_an_interim_answer_leaves_nothing_in_the_one_that_follows() -> None:
    found, _ = read(b"HTTP/1.1 103 Early Hints\r\nRetry-After: 5\r\n\r\n" + OK + b"X: y\r\nContent-Length: 0\r\n\r\n")
    assert found.headers == {b"x": b"y", b"content-length": b"0"}


def test_a_body_that_ends_with_the_connection() -> None:
    assert read(OK + b"X: y\r\n\r\nbody", end=True) == (Response(200, {b"x": b"y"}, b"body"), False)
    assert read(OK + b"\r\n", end=True)[0].body == b""


def test_an_answer_to_head_has_no_body() -> None:
    data = OK + b"Content-Length: 4\r\n\r\n"
    assert read(data, bodiless=True) == (Response(200, {b"content-length": b"4"}, b""), True)
    assert read(CHUNKED, bodiless=True)[1]
    assert read(data + b"body", bodiless=True)[1] is False


WRONG: dict[str, bytes] = {
    "noise": b"\x16\x03\x01\x02\x00",
    "another protocol": b"220 mail.example ESMTP\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "a line end before it": b"\r\n" + OK,
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "lines without CR": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "a folded line": OK + b"X: y\r\n  z\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "no colon": OK + b"Content-Length\r\n\r\n",
    "a NUL": OK + b"X: \x00\r\nContent-Length: 0\r\n\r\n",
    "a CR in a value": OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "100, then 101": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
    "100, then noise": b"HTTP/1.1 100 Continue\r\n\r\nnoise",
    "two lengths": OK + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
    "two lengths in one": OK + b"Content-Length: 4, 5\r\n\r\nbody",
    "a negative length": OK + b"Content-Length: -1\r\n\r\n",
    "a signed length": OK + b"Content-Length: +4\r\n\r\nbody",
    "a length with an underscore": OK + b"Content-Length: 1_0\r\n\r\n",
    "a length in hex": OK + b"Content-Length: 0x4\r\n\r\nbody",
    "an empty length": OK + b"Content-Length:\r\n\r\n",
    "a length of a thousand digits": OK + b"Content-Length: " + b"9" * 1000 + b"\r\n\r\n",
    "a length and chunks": OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "a coding that nobody asked for": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunks in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a chunk without a size": CHUNKED + b"\r\nbody\r\n",
    "a chunk of a negative size": CHUNKED + b"-4\r\nbody\r\n",
    "a chunk in 0x": CHUNKED + b"0x4\r\nbody\r\n",
    "a chunk of a size of many digits": CHUNKED + b"0" * 16 + b"4\r\nbody\r\n",
    "a chunk that is longer": CHUNKED + b"4\r\nbodyx\r\n",
    "a chunk whose line has no CR": CHUNKED + b"4\nbody\r\n",
    "a chunk that ends with LF": CHUNKED + b"4\r\nbody\n",
    "a trailer that is none": CHUNKED + b"4\r\nbody\r\n0\r\nnone\r\n\r\n",
    "an endless head": OK + b"X: " + b"y" * 70_000,
    "endless interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
    "endless extensions": CHUNKED + (b"1;" + b"x" * 1000 + b"\r\ny\r\n") * 80,
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_at_once_and_byte_by_byte(name: str) -> None:
    data = WRONG[name]
    for step in (len(data), 1 if len(data) < 2000 else 997):
        reader = ResponseReader(1000)
        with pytest.raises(BadResponse):
            feed(reader, data, step)
        assert reader.end() is None


def feed(reader: ResponseReader, data: bytes, step: int) -> None:
    """All of it, in pieces; none of them ends an answer."""
    for at in range(0, len(data), step):
        assert reader.feed(data[at : at + step]) is None


@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 1001\r\n\r\n",
        CHUNKED + b"3e9\r\n",
        CHUNKED + b"1f4\r\n" + b"x" * 500 + b"\r\n1f5\r\n",
        CHUNKED + b"fffffffffffffff\r\n",
        OK + b"\r\n" + b"x" * 1001,
    ],
)
def test_a_body_that_is_larger_than_is_taken_is_refused_before_it_is_read(data: bytes) -> None:
    with pytest.raises(ResponseTooLarge):
        ResponseReader(1000).feed(data)


def test_a_body_as_large_as_is_taken() -> None:
    assert read(OK + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)[0].body == b"x" * 1000
    assert read(CHUNKED + b"1f4\r\n" + b"x" * 500 + b"\r\n1f4\r\n" + b"y" * 500 + b"\r\n0\r\n\r\n")[0].body[-1:] == b"y"
