"""The bytes on the wire: frames as RFC 6455 has them, events as the HTML standard has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.frames import close_frame, http_chunk, is_utf8, raw_frames, server_sent_event, text_frames


def unframe(data: bytes) -> list[tuple[int, bytes]]:
    """(opcode, payload) of each frame, read as RFC 6455, 5.2 says."""
    frames = []
    while data:
        assert data[0] & 0xF0 == 0x80, "final, no reserved bits"
        length, at = data[1], 2
        if length == 126:
            length, at = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, at = int.from_bytes(data[2:10], "big"), 10
        assert length < 126 if at == 2 else length > (125 if at == 4 else 65535), "the shortest form"
        frames.append((data[0] & 0x0F, data[at : at + length]))
        data = data[at + length :]
    return frames


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 1 << 20])
def test_the_header_says_the_length(length: int) -> None:
    assert unframe(text_frames([b"x" * length])) == [(1, b"x" * length)]


@given(st.lists(st.binary(max_size=300)))
def test_many_frames_in_one_piece(payloads: list[bytes]) -> None:
    assert unframe(text_frames(payloads)) == [(1, payload) for payload in payloads]
    assert unframe(raw_frames(payloads)) == [(1 if is_utf8(p) else 2, p) for p in payloads]


@pytest.mark.parametrize("length", [2, 126, 65536])
def test_a_raw_value_that_is_no_text_is_a_binary_frame(length: int) -> None:
    assert unframe(raw_frames([b"\xff" * length, "é".encode(), b""])) == [
        (2, b"\xff" * length), (1, "é".encode()), (1, b""),
    ]  # fmt: skip


def read_event(text: str) -> dict[str, str]:
    """One event, read as the HTML standard says (9.2.6)."""
    found: dict[str, list[str]] = {}
    assert text.endswith("\n\n")
    for line in text[:-2].split("\n"):
        name, _, value = line.partition(":")
        found.setdefault(name, []).append(value.removeprefix(" "))
    return {name: "\n".join(values) for name, values in found.items()}


@pytest.mark.parametrize(
    "payload", ['{"a":1}', '{\n"a":\r\n1,\r"b":2}', '{"a":1}\n', '"  \\n "', '"data: x\\n\\nevent: y"']
)
def test_an_event_survives_its_line_ends(payload: str) -> None:
    event = read_event(server_sent_event("push", payload.encode(), "e.1.2").decode())
    assert event == {
        "id": "e.1.2", "event": "push", "data": payload.replace("\r\n", "\n").replace("\r", "\n"),
    }  # fmt: skip


def test_an_event_without_a_position_has_no_id() -> None:
    assert "id" not in read_event(server_sent_event("accepted", b"{}", None).decode())


@pytest.mark.parametrize(("data", "chunk"), [(b"x", b"1\r\nx\r\n"), (b"x" * 255, b"ff\r\n" + b"x" * 255 + b"\r\n")])
def test_a_chunk(data: bytes, chunk: bytes) -> None:
    assert http_chunk(data) == chunk


@pytest.mark.parametrize(("reason", "told"), [("too large", b"too large"), ("", b""), ("x" * 500, b"x" * 123)])
def test_a_close_frame(reason: str, told: bytes) -> None:
    assert unframe(close_frame(1009, reason)) == [(8, (1009).to_bytes(2, "big") + told)]
