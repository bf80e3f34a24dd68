"""Which pages may connect."""

import pytest

from podpair.gateway.core.origins import Reached, origin_allowed

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
        ("https://gw.example", "gw.example:443", (), True),  # a default port may be said
        ("http://gw.example:80", "gw.example", (), True),
        ("https://gw.example", "gw.example:80", (), False),
        ("https://gw.example:8443", "gw.example", (), False),  # as nginx's $host has it
        ("https://gw.example", "gw.example:8443", (), False),
        ("https://gw.example.evil.example", "gw.example", (), False),
        ("https://evil.example", "gw.example", (), False),
        ("https://evil.example/gw.example", "gw.example", (), False),
        ("https://evil.example@gw.example", "gw.example", (), False),
        ("https://gw.example/", "gw.example", (), False),
        ("https://gw.example", "evil@gw.example", (), False),
        ("https://gw.example", "gw.example/x", (), False),
        ("https://gw.example", "", (), False),
        ("https://evil.example", "gw.example", ("*",), True),
        ("https://app.example", "gw.example", LIST, True),
        ("https://APP.example", "gw.example", LIST, True),
        ("https://app.example:443", "gw.example", LIST, True),
        ("http://app.example", "gw.example", LIST, False),
        ("https://app.example:444", "gw.example", LIST, False),
        ("https://sub.app.example", "gw.example", LIST, False),
        ("http://localhost:3000", "gw.example", LIST, True),
        ("null", "gw.example", LIST, False),  # a sandboxed frame, a file
        ("null", "", (), False),
        ("null", "null", (), False),
        ("", "", (), False),
        ("", "gw.example", (), False),
        ("http://[::1", "gw.example", (), False),
        ("http://gw.example:x", "gw.example", (), False),
        ("gw.example", "gw.example", (), False),
    ],
)
def test_origins(origin: str | None, host: str, allowed: tuple[str, ...], let_in: bool) -> None:
    assert origin_allowed(origin, Reached(host), allowed) is let_in


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "let_in"),
    [
        ("https://gw.example", "gw.example", "https", True),
        ("https://gw.example", "gw.example", "http", False),
        ("http://gw.example", "gw.example", "https", False),
        ("https://gw.example:8443", "gw.example:8443", "https", True),
        ("http://gw.example:443", "gw.example", "https", False),
    ],
)
def test_where_the_scheme_is_known_it_counts(origin: str, host: str, scheme: str, let_in: bool) -> None:
    assert origin_allowed(origin, Reached(host, scheme), ()) is let_in
