"""How long the API server asks to wait: its header, or its Status, whatever stands in them."""

import pytest

from podpair.operator.kube.client import retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0), (5, 5.0), (" 30 ", 30.0), ("0", 0.0), ("99999", 3600.0), ("9" * 400, 3600.0), ("9" * 5000, 3600.0),
        (None, None), ("", None), ("-1", None), ("+1", None), ("1_0", None), ("1.5", None), ("1e3", None), ("nan", None),
        ("\u0665", None), ("\u00b2", None), ("Sat, 28 Nov 2026 11:00:00 GMT", None), ({}, None),
    ],
)  # fmt: skip
def test_a_wait_is_a_number_of_seconds_an_hour_at_most(value: object, seconds: float | None) -> None:
    assert retry_after(value) == seconds
