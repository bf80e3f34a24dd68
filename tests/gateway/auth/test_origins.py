"""Which pages may connect."""

import pytest

from podpair.gateway.auth.origins import origin_allowed

LIST = ("https://app.example", "http://localhost:3000")


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "let_in"),
    [
        (None, "gw.example", (), True),  # not a browser
        (None, "gw.example", LIST, True),
        ("https://gw.example", "gw.example", (), True),  # the gateway's own page
        ("http://127.0.0.1:8080", "127.0.0.1:8080", (), True),
        ("http://[::1]:8080", "[::1]:8080", (), True),
        ("HTTPS://GW.example", "gw.EXAMPLE", (), True),
        ("https://gw.example:8443", "gw.example", (), False),
        ("https://gw.example.evil.example", "gw.example", (), False),
        ("https://evil.example", "gw.example", (), False),
        ("https://evil.example/gw.example", "gw.example", (), False),
        ("https://evil.example", "gw.example", ("*",), True),
        ("https://app.example", "gw.example", LIST, True),
        ("https://APP.example", "gw.example", LIST, True),
        ("http://app.example", "gw.example", LIST, False),
        ("https://app.example:444", "gw.example", LIST, False),
        ("https://sub.app.example", "gw.example", LIST, False),
        ("http://localhost:3000", "gw.example", LIST, True),
        ("null", "gw.example", LIST, False),  # a sandboxed frame, a file
        ("null", "", (), False),
        ("", "", (), False),
        ("", "gw.example", (), False),
        ("http://[::1", "gw.example", (), False),
        ("gw.example", "gw.example", (), False),
    ],
)
def test_origins(origin: str | None, host: str, allowed: tuple[str, ...], let_in: bool) -> None:
    assert origin_allowed(origin, host, allowed) is let_in
