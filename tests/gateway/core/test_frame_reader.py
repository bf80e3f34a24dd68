"""What a WebSocket client may send, and by which close code all else is refused (RFC 6455, 5 and 7.4)."""

import os
import struct

import pytest

from podpair.gateway.core.frame_reader import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameReader,
    close_code,
    unmask,
)

LIMIT = 100_000
MASK = b"\x01\x82\x03\xfe"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, bits: int = 0, masked: bool = True) -> bytes:
    size = len(payload)
    head = bytes([fin << 7 | bits | opcode])
    if size < 126:
        head += bytes([masked << 7 | size])
    elif size < 0x10000:
        head += bytes([masked << 7 | 126]) + struct.pack(">H", size)
    else:
        head += bytes([masked << 7 | 127]) + struct.pack(">Q", size)
    hidden = bytearray(payload)
    if masked:
        unmask(MASK, hidden)
        head += MASK
    return head + hidden


def read(*pieces: bytes, limit: int = LIMIT) -> list[tuple[int, str | bytes]]:
    reader, found = FrameReader(limit), []
    for piece in pieces:
        reader.feed(piece)
        while reader.more and (taken := reader.next()) is not None:
            found.append(taken)
    return found


TEXTS = ["", "a", "ä" * 62, "x" * 125, "x" * 126, "x" * 65535, "x" * 65536, "\U0001f600" * 20]


@pytest.mark.parametrize("text", TEXTS)
def test_a_message_however_it_is_cut(text: str) -> None:
    whole = frame(TEXT, text.encode())
    assert read(whole) == [(TEXT, text)]
    assert read(whole[:1], whole[1:3], whole[3:7], whole[7:]) == [(TEXT, text)]
    assert read(whole + whole, whole) == [(TEXT, text)] * 3
    if len(whole) < 1000:
        assert read(*(whole[i : i + 1] for i in range(len(whole)))) == [(TEXT, text)]
    # What is shorter than eight bytes, or has a length of eight, is not worth it.
    taken = FrameReader(LIMIT).whole_text(whole)
    assert taken == (text if 2 <= len(text.encode()) < 65536 else None)


# Whole, in part, and wrong: none of them is one whole text of a usual length.
OTHERS = [
    frame(TEXT, b"text")[:-1], frame(BINARY, b"text"), frame(TEXT, b"text", fin=False), frame(PING, b"text"),
    frame(TEXT, b"text", masked=False), frame(TEXT, b"text", bits=0x40), b"", frame(TEXT, b"text")[:3],
    frame(TEXT, b"x" * 200)[:4], frame(TEXT, b"x" * 200)[:9], frame(TEXT, b"x" * (LIMIT + 1)),
    # A length in more bytes than it needs: eight, of a frame as long as one of 127 bytes would be, and two.
    b"\x81\xff" + (119).to_bytes(8, "big") + MASK + b"x" * 119, b"\x81\xff" + (127).to_bytes(8, "big") + MASK + b"x" * 127,
    b"\x81\xfe\x00\x04" + MASK + b"text", b"\x81\xfe\x00\x7d" + MASK + b"x" * 125,
]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_the_short_ways_are_taken_by_nothing_but_whole_texts(other: bytes) -> None:
    assert FrameReader(LIMIT).whole_text(other) is None
    good = frame(TEXT, b"text")
    reader = FrameReader(LIMIT)
    reader.feed(good + good + other)
    assert list(reader.texts(10, 1000)) == ["text", "text"]
    alone = FrameReader(LIMIT)
    alone.feed(other)
    assert outcome(reader) == outcome(alone)


def outcome(reader: FrameReader) -> object:
    """What comes next: a frame, nothing yet, or an error."""
    try:
        return reader.next()
    except FrameError as error:
        return error.code, str(error)


def test_the_short_ways_are_not_taken_between_fragments_nor_by_two_at_once() -> None:
    good = frame(TEXT, b"text")
    assert FrameReader(LIMIT).whole_text(good * 2) is None
    assert FrameReader(LIMIT).whole_text(good + b"\x81") is None
    begun = FrameReader(LIMIT)
    begun.feed(frame(TEXT, b"te", fin=False))
    assert begun.next() == (CONTINUATION, b"")
    assert begun.whole_text(good) is None
    begun.feed(good)
    assert list(begun.texts(10, 1000)) == []


def test_so_many_texts_and_so_many_bytes_at_a_time_and_each_once() -> None:
    texts = [f"{n} " + "x" * (n % 300) for n in range(1000)]
    data = b"".join(frame(TEXT, text.encode()) for text in texts)
    reader, found = FrameReader(LIMIT), []
    for start in range(0, len(data), 997):
        reader.feed(data[start : start + 997])
        while some := list(reader.texts(3, 400)):
            assert len(some) == 1 or sum(map(len, some[:-1])) <= 400
            assert len(some) <= 3
            found += some
        assert not reader.more or reader.next() is None
    assert found == texts


def test_a_text_that_is_not_utf8_is_left_to_be_refused_behind_those_before_it() -> None:
    reader = FrameReader(LIMIT)
    reader.feed(frame(TEXT, b"good") + frame(TEXT, b"\xc3\x28\xff"))
    assert list(reader.texts(10, 1000)) == ["good"]
    assert outcome(reader) == (1007, "a text message is not UTF-8")


@pytest.mark.parametrize("fragments", [False, True])
def test_what_can_become_no_text_is_refused_before_the_rest_has_come(fragments: bool) -> None:
    """RFC 6455, 8.1: also where a character is cut by a read or a fragment, and wherever the mask stands then."""
    good = "a κόσμε é ".encode() * 7
    for bad in (b"\xf4\x90\x80\x80", b"\xed\xa0\x80", b"\xff"):
        reader = FrameReader(LIMIT)
        if fragments:
            reader.feed(frame(TEXT, good[:3], fin=False) + frame(CONTINUATION, good[3:], fin=False))
            assert [reader.next(), reader.next()] == [(CONTINUATION, b"")] * 2
        whole = frame(CONTINUATION if fragments else TEXT, good + bad + b"x" * 200)
        stop = len(whole) - 200 - len(bad)
        for at in range(stop):
            reader.feed(whole[at : at + 1])
            assert reader.next() is None
        reader.feed(whole[stop : stop + len(bad)])
        assert outcome(reader) == (1007, "a text message is not UTF-8")


def test_who_stops_in_the_middle_finds_the_rest_later() -> None:
    reader = FrameReader(LIMIT)
    reader.feed(b"".join(frame(TEXT, text.encode()) for text in ("first", "second", "third")))
    assert reader.texts(1, 1000) == ["first"]
    assert reader.more
    assert list(reader.texts(10, 1000)) == ["second", "third"]
    assert not reader.more


def test_a_message_in_fragments_with_control_frames_between() -> None:
    data = (
        frame(TEXT, "ä".encode()[:1], fin=False)
        + frame(PING, b"there?")
        + frame(CONTINUATION, "ä".encode()[1:], fin=False)
        + frame(PONG)
        + frame(CONTINUATION, b"", fin=False)
        + frame(CONTINUATION, b"!")
        + frame(BINARY, b"\x00\xff")
    )
    fragment = (CONTINUATION, b"")
    wanted = [fragment, (PING, b"there?"), fragment, (PONG, b""), fragment, (TEXT, "ä!"), (BINARY, b"\x00\xff")]
    assert read(data) == wanted
    assert read(*(data[i : i + 1] for i in range(len(data)))) == wanted


def test_fragments_are_put_together_at_their_size_not_its_square() -> None:
    """A megabyte, a byte at a time: were it copied with each, this would take minutes."""
    size = 1 << 20
    first, middle, last = frame(TEXT, b"x", fin=False), frame(CONTINUATION, b"x", fin=False), frame(CONTINUATION, b"x")
    reader = FrameReader(size)
    reader.feed(first)
    assert reader.next() == (CONTINUATION, b"")
    for _ in range((size - 2) // 1022):
        reader.feed(middle * 1022)
        while reader.more:
            assert reader.next() == (CONTINUATION, b"")
    reader.feed(middle * ((size - 2) % 1022) + last)
    while reader.more:
        taken = reader.next()
    assert taken == (TEXT, "x" * size)


WRONG: dict[str, tuple[bytes, int]] = {
    "not masked": (frame(TEXT, b"hello", masked=False), 1002),
    "not masked, empty": (frame(TEXT, masked=False), 1002),
    "a ping that is not masked": (frame(PING, masked=False), 1002),
    "a close that is not masked": (frame(CLOSE, masked=False), 1002),
    "reserved bit 1": (frame(TEXT, b"x", bits=0x40), 1002),
    "reserved bit 2": (frame(TEXT, b"x", bits=0x20), 1002),
    "reserved bit 3": (frame(PING, b"x", bits=0x10), 1002),
    **{f"opcode {n}": (frame(n), 1002) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "a pong of 126 bytes": (frame(PONG, b"x" * 126), 1002),
    "a close of 126 bytes": (frame(CLOSE, b"x" * 126), 1002),
    "a fragmented ping": (frame(PING, fin=False), 1002),
    "a fragmented close": (frame(CLOSE, fin=False), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a continuation of nothing that goes on": (frame(CONTINUATION, b"x", fin=False), 1002),
    "a continuation of what has ended": (frame(TEXT, b"x") + frame(CONTINUATION, b"x"), 1002),
    "a text within a text": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "a text within an empty fragment": (frame(TEXT, fin=False) + frame(TEXT, b"y"), 1002),
    "a fragment within a fragment": (frame(BINARY, b"x", fin=False) + frame(TEXT, b"y", fin=False), 1002),
    "a short length in two bytes": (b"\x81\xfe\x00\x05" + MASK + b"hello", 1002),
    "a short length in eight bytes": (b"\x81\xff" + struct.pack(">Q", 200) + MASK + b"x" * 200, 1002),
    "a length with its highest bit": (b"\x81\xff" + struct.pack(">Q", 1 << 63 | 5) + MASK, 1002),
    "not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "half a character": (frame(TEXT, "ä".encode()[:1]), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "half a character at the end of fragments": (
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, "ä".encode()[:1]),
        1007,
    ),
    "too large": (frame(TEXT, b"x" * (LIMIT + 1)), 1009),
    "too large, says its head": (b"\x81\xff" + struct.pack(">Q", LIMIT + 1) + MASK, 1009),
    "too large together": (frame(TEXT, b"x" * LIMIT, fin=False) + frame(CONTINUATION, b"x"), 1009),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_and_how(name: str) -> None:
    data, code = WRONG[name]
    for pieces in ((data,), (data[:1], data[1:2], data[2:])):
        with pytest.raises(FrameError) as refused:
            read(*pieces)
        assert refused.value.code == code
    assert read(frame(TEXT, b"x" * LIMIT)) == [(TEXT, "x" * LIMIT)]


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014, 3000, 3999, 4000, 4999]
)
def test_a_close_code(code: int) -> None:
    assert close_code(struct.pack(">H", code)) == code
    assert close_code(struct.pack(">H", code) + b"weg") == code


def test_a_close_without_a_code() -> None:
    assert close_code(b"") is None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_close_code_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(FrameError) as refused:
        close_code(struct.pack(">H", code))
    assert refused.value.code == 1002


@pytest.mark.parametrize(("payload", "code"), [(b"\x03", 1002), (b"\x03\xe8\xff", 1007)])
def test_a_close_that_is_none(payload: bytes, code: int) -> None:
    with pytest.raises(FrameError) as refused:
        close_code(payload)
    assert refused.value.code == code


def test_masks() -> None:
    from aiohttp._websocket.helpers import websocket_mask

    for size in (0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 4096, 4099):
        mask, payload = os.urandom(4), os.urandom(size)
        ours, theirs = bytearray(payload), bytearray(payload)
        unmask(mask, ours)
        websocket_mask(mask, theirs)
        assert ours == theirs
