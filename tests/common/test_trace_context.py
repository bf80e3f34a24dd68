"""`traceparent`, as W3C has it."""

import pytest

from podpair.common.trace_context import Parent, parent_of, traceparent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_a_parent_is_read(flags: str, sampled: bool) -> None:
    assert parent_of(f"00-{TRACE}-{SPAN}-{flags}") == Parent(int(TRACE, 16), int(SPAN, 16), sampled)


def test_what_is_written_reads_back() -> None:
    assert traceparent_of(int(TRACE, 16), int(SPAN, 16)) == f"00-{TRACE}-{SPAN}-01"
    assert traceparent_of(1, 2) == f"00-{'0' * 31}1-{'0' * 15}2-01"


@pytest.mark.parametrize(
    "text",
    ["", "noise", f"00-{TRACE}-{SPAN}", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
     f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-01\n"],
)  # fmt: skip
def test_what_is_no_parent_says_nothing(text: str) -> None:
    assert parent_of(text) is None


def test_a_later_version_may_have_more() -> None:
    assert parent_of(f"01-{TRACE}-{SPAN}-01-more") == Parent(int(TRACE, 16), int(SPAN, 16), sampled=True)
