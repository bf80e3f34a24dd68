"""Origins are written in one way."""

import pytest

from podpair.common.origins import canonical_origin


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("HTTPS://App.Example:443", "https://app.example"),
        ("http://[2001:DB8::1]:80", "http://[2001:db8::1]"),
        ("http://h:0", "http://h:0"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("https://h:", None),
        ("https://h?", None),
        ("https://h#", None),
        ("https://h:99999", None),
        ("https://a b", None),
        ("https://", None),
        ("*", None),
    ],
)
def test_an_origin_is_written_in_one_way(text: str, canonical: str | None) -> None:
    assert canonical_origin(text) == canonical
