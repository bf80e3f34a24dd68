"""The server's half of a WebSocket's opening handshake."""

import pytest

from podpair.gateway.core.handshake import InvalidHandshake, switching_protocols

# The example of RFC 6455, 1.3.
GOOD = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_the_answer_proves_that_the_key_was_read() -> None:
    head, _, end = switching_protocols(GOOD.items(), "podpair.v1").decode().partition("\r\n\r\n")
    status, *headers = head.split("\r\n")
    assert (status, end) == ("HTTP/1.1 101 Switching Protocols", "")
    assert dict(header.split(": ") for header in headers) == {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "Sec-WebSocket-Protocol": "podpair.v1",
    }
    assert b"Protocol:" not in switching_protocols(GOOD.items(), None)


@pytest.mark.parametrize(
    ("header", "value", "told"),
    [
        ("Connection", "keep-alive", "does not say `Upgrade`"),
        ("Sec-WebSocket-Version", "8", "is '8', this server speaks 13"),
        ("Sec-WebSocket-Key", "", "is not 16 bytes in base64"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZQ==", "is not 16 bytes in base64"),
        ("Sec-WebSocket-Key", "no base64 at all…", "is not 16 bytes in base64"),
    ],
)
def test_what_is_wrong_is_told(header: str, value: str, told: str) -> None:
    with pytest.raises(InvalidHandshake, match=told):
        switching_protocols((GOOD | {header: value}).items(), None)
